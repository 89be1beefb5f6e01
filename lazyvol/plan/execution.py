"""Where tasks run, and how many at once: client, limits of a caller, threads, BLAS threads.

A caller sets limits on memory and on concurrent tasks for its context alone. Every thread has a
separate context, so two computations of one process may have different budgets. Threads that run
parts of a computation run in its context.

Tasks run in parallel, so the libraries inside a task get one thread. This is the only place where
thread counts are set. Libraries that start threads:

- BLAS (numpy, scipy) starts one thread per core in each task: ``single_blas_thread`` limits it.
- Reading zarr: ``lazyvol.io.zarr.chunks`` decodes chunks in the calling thread, without zarr, event
  loop or pool. Measured with 2 reading threads on 2 cores: CPU time 1.9-2.0 of wall time, with one
  reading thread 1.0. Through zarr with the zarrs pipeline one reading thread took 1.7 cores,
  for any ``threading.max_workers``: its limit is fixed when an array is opened and bounds the
  codecs of a call, not the calls; and ``zarr.config`` is global to the process and not safe to
  change from several threads. So nothing here touches it.
- Blosc starts threads only in the main thread, where no task runs.
- numba kernels never use ``parallel=True``.
- ``scipy.fft`` uses one worker by default.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import count
from threading import Lock, local
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import dask
from dask import threaded
from dask.system import CPU_COUNT
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")

# the client ---------------------------------------------------------------------------------------


def computing_client() -> "Client | None":
    """Return the client on which dask computes now; None for this process, and in its tasks.

    As in dask, ``dask.config.set(scheduler=…)`` has precedence, then the client whose ``with``
    block or ``as_current`` is entered, then the client that was opened last.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    from lazyvol.plan.on_cluster import in_task

    scheduler = dask.config.get("scheduler", None)
    if scheduler in (None, "dask.distributed", "distributed"):
        scheduler = _default_client()
    usable = isinstance(scheduler, Client) and not scheduler.asynchronous and not in_task()
    return scheduler if usable else None


def _default_client() -> "Client | None":
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def resilient_scheduler(
    on_progress: Callable[[int, int], None] | None = None,
) -> Callable[..., Any] | None:
    """Return a scheduler for ``compute`` that outlives workers of any client; None for threads.

    ``on_progress`` is called with the number of finished blocks and that of all blocks while it
    waits; an exception that it raises ends the run, and cancels tasks that have not begun.
    """
    client = computing_client()
    if client is None:
        return None
    from lazyvol.plan.on_cluster import compute

    return partial(compute, client, on_progress=on_progress)


# limits of a caller -------------------------------------------------------------------------------


class Limits(NamedTuple):
    """Bytes of memory, and tasks that run at once; None where the caller asks for no limit."""

    memory: int | None = None
    workers: int | None = None
    #: number of the context among those with a limit of tasks
    place: int | None = None


NO_LIMITS = Limits()
_limits: ContextVar[Limits] = ContextVar("lazyvol_limits", default=NO_LIMITS)


def current_limits() -> Limits:
    """Return the limits of the calling context."""
    return _limits.get()


def local_threads() -> int | None:
    """Return the number of threads that run the caller's tasks; None for one per core."""
    return _limits.get().workers or _dask_threads.own()


@contextmanager
def limits_set(memory: int | None, workers: int | None) -> Iterator[None]:
    """Context with other limits, which replace those of the enclosing context."""
    outer = _limits.get()
    place = outer.place if workers is None else _dask_threads.enter(workers, outer.place)
    token = _limits.set(Limits(memory, workers, place))
    try:
        yield
    finally:
        _limits.reset(token)
        if workers is not None:
            _dask_threads.leave(place, outer)


class _DaskThreads:
    """The number of threads of dask's ``compute``, which is one setting for the whole process.

    While contexts of several threads request different numbers, the smallest is set, so that no
    plan runs more tasks at once than it has memory for.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._places = count()
        self._asked: dict[int | None, int] = {}
        self._own: int | None = None

    def own(self) -> int | None:
        """Return the number that the user has set in dask's configuration."""
        value = self._own if self._asked else dask.config.get("num_workers", None)
        return int(value) if value else None

    def enter(self, workers: int, outer: int | None) -> int:
        """Request threads in place of the enclosing context's request; return the key."""
        with self._lock:
            if not self._asked:
                self._own = dask.config.get("num_workers", None)
            self._asked.pop(outer, None)
            place = next(self._places)
            self._asked[place] = workers
            self._apply()
            return place

    def leave(self, place: int | None, outer: Limits) -> None:
        """Withdraw a request; restore that of the enclosing context, if there is one."""
        with self._lock:
            self._asked.pop(place, None)
            if outer.place is not None and outer.workers is not None:
                self._asked[outer.place] = outer.workers
            self._apply()

    def _apply(self) -> None:
        number = min(self._asked.values()) if self._asked else self._own
        if number is None:
            dask.config.config.pop("num_workers", None)
        else:
            dask.config.set({"num_workers": number})


_dask_threads = _DaskThreads()

# threads of this machine --------------------------------------------------------------------------


def local_scheduler() -> str:
    """Return dask's scheduler for data in this process's memory: threads, or one thread if the
    user asked for that. (A cluster would have to receive all of the data.)"""
    scheduler = dask.config.get("scheduler", None)
    synchronous = scheduler in ("sync", "synchronous", "single-threaded")
    return "synchronous" if synchronous else "threads"


#: thread pools of this process by size, kept between calls: starting two threads takes 0.4 ms
_pools: dict[int, ThreadPoolExecutor] = {}
_thread = local()


def each_in_threads(function: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Call ``function`` with every item, on this machine's threads.

    A call from one of these threads runs in that thread alone: all others may be waiting for it.
    """
    threads = local_threads() or CPU_COUNT
    in_pool = hasattr(_thread, "in_pool")
    if in_pool or local_scheduler() == "synchronous" or min(threads, len(items)) < 2:
        for item in items:
            function(item)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools.setdefault(threads, ThreadPoolExecutor(threads, initializer=_mark_thread))
    contexts = [copy_context() for _ in items]  # with the limits of the caller
    list(pool.map(lambda context, item: context.run(function, item), contexts, items))


def _mark_thread() -> None:
    _thread.in_pool = True


def _forget_threads() -> None:
    """Reset locks and thread pools in a forked process, which inherits no threads.

    Dask would wait forever for threads that its pool still counts.
    """
    _limit.__init__()  # type: ignore[misc]
    _pools.clear()
    threaded.default_pool = None
    threaded.pools.clear()
    threaded.pools_lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)

# one BLAS thread per task -------------------------------------------------------------------------


class _BlasLimit:
    """The limit of all tasks of the process: the first task sets it, the last one lifts it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.tasks = 0
        self.modules = 0
        self.controller: ThreadpoolController | None = None
        self.limits: Any = None

    def enter(self) -> None:
        with self.lock:
            self.tasks += 1
            if self.tasks > 1:
                return
            # finding the libraries takes 1-4 ms, setting their limits 0.06 ms
            if self.controller is None or self.modules != len(sys.modules):
                self.controller, self.modules = ThreadpoolController(), len(sys.modules)
            self.limits = self.controller.limit(limits=1, user_api="blas")
            self._allow_other_threads()

    def leave(self) -> None:
        with self.lock:
            self.tasks -= 1
            if not self.tasks:
                self.limits.restore_original_limits()
                self._allow_other_threads()

    def _allow_other_threads(self) -> None:
        """Let another thread lift the limit.

        From threadpoolctl 3.8 on only the thread that set the limit of OpenBLAS may change it;
        other threads are ignored silently, so the last task would leave the limit at 1.
        """
        for library in self.controller.lib_controllers if self.controller else ():
            release = getattr(library, "clear_controlling_thread", None)
            if release is not None:
                release()


_limit = _BlasLimit()


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Context in which BLAS uses the calling thread alone.

    The limit is that of the whole process. Many threads may be inside at once, nested or not: the
    first sets the limit, the last one lifts it. A limit that another thread holds through
    threadpoolctl itself is left alone.

    Examples
    --------
    >>> import numpy as np
    >>> with single_blas_thread():
    ...     product = np.eye(3) @ np.ones((3, 2))
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()

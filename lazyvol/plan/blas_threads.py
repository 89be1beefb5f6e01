"""One thread for the libraries inside a task, because tasks themselves run in parallel.

This is the only place where thread counts are set. Libraries with threads of their own:

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
from contextvars import copy_context
from threading import Lock, local
from typing import Any, TypeVar

import dask
from dask import threaded
from dask.system import CPU_COUNT
from threadpoolctl import ThreadpoolController

from lazyvol.plan.limits import local_threads


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

Item = TypeVar("Item")


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

"""Threads of the libraries inside a task: one, because tasks themselves run side by side.

This is the one place where thread counts are set. Who brings threads, and what is done:

- BLAS (numpy, scipy) starts one thread per core in each task: `one_thread_each` limits it.
- Reading zarr: chunks are decoded in the calling thread by ``lazyvol.io.zarr.chunks``, no zarr, no
  event loop, no pool. Measured with 2 reading threads on 2 cores: CPU time 1.9-2.0 of wall time,
  with one reading thread 1.0. Through zarr with the zarrs pipeline one reading thread took 1.7
  cores, whatever ``threading.max_workers`` said: its limit is fixed when an array is opened and
  bounds the codecs of a call, not the calls; and ``zarr.config`` is global to the process and not
  safe to change from several threads. So nothing here touches it.
- Blosc starts threads only in the main thread, where no task runs beside it.
- numba kernels never use ``parallel=True``.
- ``scipy.fft`` uses one worker unless asked.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock, local
from typing import Any, TypeVar

import dask
from dask import threaded
from dask.system import CPU_COUNT
from threadpoolctl import ThreadpoolController


class _Shared:
    """Limits in force for all tasks of the process: the first one in sets them."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.inside = 0
        self.modules = 0
        self.controller: ThreadpoolController | None = None
        self.limits: Any = None

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside > 1:
                return
            # looking for libraries takes 1-4 ms, setting their limits 0.06 ms
            if self.controller is None or self.modules != len(sys.modules):
                self.controller, self.modules = ThreadpoolController(), len(sys.modules)
            self.limits = self.controller.limit(limits=1, user_api="blas")
            self._release()

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.limits.restore_original_limits()
                self._release()

    def _release(self) -> None:
        """Let another thread lift the limit.

        From threadpoolctl 3.8 on only the thread that set the limit of OpenBLAS may change it,
        others do nothing without a word: the last task out would leave it at 1.
        """
        for library in self.controller.lib_controllers if self.controller else ():
            release = getattr(library, "clear_controlling_thread", None)
            if release is not None:
                release()


_shared = _Shared()

Item = TypeVar("Item")


def local_scheduler() -> str:
    """Dask's scheduler for what is in this process's memory: threads, or none where one thread was
    asked for (a cluster would be sent all of the data)."""
    asked = dask.config.get("scheduler", None)
    return "synchronous" if asked in ("sync", "synchronous", "single-threaded") else "threads"


#: threads of this process by their number, kept between calls: starting two takes 0.4 ms
_pools: dict[int, ThreadPoolExecutor] = {}
_inside = local()


def each_here(
    function: Callable[[Item], None], items: Sequence[Item], *, several: bool = True
) -> None:
    """Call ``function`` with every item, on this machine's threads where they are ``several``.

    A thread of these that comes here again goes on alone: the others may all be waiting for it.
    """
    threads = int(dask.config.get("num_workers", None) or CPU_COUNT)
    alone = hasattr(_inside, "busy") or local_scheduler() == "synchronous"
    if alone or not several or min(threads, len(items)) < 2:
        for item in items:
            function(item)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools.setdefault(threads, ThreadPoolExecutor(threads, initializer=_enter))
    list(pool.map(function, items))


def _enter() -> None:
    _inside.busy = True


def _forget_threads() -> None:
    """Start anew in a forked process: it has the locks and pools of its parent, not the threads.

    Dask would wait for ever for threads that its pool still counts.
    """
    _shared.__init__()  # type: ignore[misc]
    _pools.clear()
    threaded.default_pool = None
    threaded.pools.clear()
    threaded.pools_lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Context in which BLAS uses the calling thread alone.

    The limit is the whole process's. Many threads may be inside at once and nest it: the first
    sets the limit, the last one lifts it. A limit that another thread holds through threadpoolctl
    itself stays as it is.

    Examples
    --------
    >>> import numpy as np
    >>> with one_thread_each():
    ...     product = np.eye(3) @ np.ones((3, 2))
    """
    _shared.enter()
    try:
        yield
    finally:
        _shared.leave()

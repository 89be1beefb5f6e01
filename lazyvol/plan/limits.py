"""Limits on memory and on concurrent tasks, which a caller sets for its context alone.

Every thread has a separate context, so two computations of one process may have different budgets.
Threads that run parts of a computation run in its context.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from threading import Lock
from typing import NamedTuple

import dask


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

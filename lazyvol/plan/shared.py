"""Values that many tasks share: pickled once, and unpickled once per process.

A scheduler receives every task as a separate pickle. To pickle a recipe takes 0.5 ms, to load it
0.2 ms: more than the scheduler's own work per task.
"""

from collections import OrderedDict
from threading import Lock
from typing import Any, Generic, TypeVar

T = TypeVar("T")
#: values that a process keeps, and the bytes of the largest that it keeps
KEPT, LARGEST = 8, 1 << 20


class Shared(Generic[T]):
    """A value for the arguments of many tasks; it must not change."""

    __slots__ = ("_pickled", "value")

    def __init__(self, value: T, pickled: bytes | None = None) -> None:
        self.value, self._pickled = value, pickled

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pickled is None:
            from distributed.protocol.pickle import dumps  # includes functions of a notebook

            self._pickled = dumps(self.value)
        return _loaded, (self._pickled,)


_recent: OrderedDict[bytes, Shared[Any]] = OrderedDict()
_lock = Lock()


def _loaded(pickled: bytes) -> Shared[Any]:
    """Return the value of a pickle; tasks of a process share it while it is kept."""
    with _lock:
        shared = _recent.get(pickled)
        if shared is not None:
            _recent.move_to_end(pickled)
            return shared
    from distributed.protocol.pickle import loads

    shared = Shared(loads(pickled), pickled)
    if len(pickled) <= LARGEST:
        with _lock:
            _recent[pickled] = shared
            while len(_recent) > KEPT:
                _recent.popitem(last=False)
    return shared

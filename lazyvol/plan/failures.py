"""Failures: transient errors are retried; parts that cannot be computed are listed at the end."""

import errno
import random
import time
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from lazyvol.errors import IncompleteError, SourceChangedError, StoreError
from lazyvol.plan.regions import Region

Result = TypeVar("Result")

#: mean seconds before each further try; a server that restarts is back within 10 s
PAUSES = (0.1, 0.4, 1.6, 6.4)
#: transient errors of the operating system
TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "EREMOTEIO", "ECONNRESET",
        "ECONNREFUSED", "ECONNABORTED", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH",
        "EPIPE", "ENOTCONN",
    )
    if hasattr(errno, name)
)  # fmt: skip


def retried(action: Callable[[], Result]) -> Result:
    """Return the result of an idempotent action; repeat it after a transient error."""
    for pause in PAUSES:
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))
    return action()


def is_transient(error: BaseException | None) -> bool:
    """Return True if an error, or one that caused it, is transient; causes may form a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            return True
        if isinstance(error, TimeoutError | ConnectionError) or _is_of_object_store(error):
            return True
        error = error.__cause__
    return False


def _is_of_object_store(error: BaseException) -> bool:
    """Return True for errors of a server or of its connection; refusals have other classes."""
    kind = type(error)
    return kind.__module__.startswith("obstore") and kind.__name__ == "GenericError"


# parts of a result that cannot be computed --------------------------------------------------------

#: errors that would stop every other task too: nothing can be written, or the input has changed
FATAL = (StoreError, SourceChangedError)
#: number of failures that end a run, and number that the message lists
MOST, LISTED = 100, 5


class Failures:
    """The failed parts of a run of this process; a copy in another process is None.

    Tasks in another process raise their errors, because they cannot reach this object.
    """

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._lock = Lock()
        self._failed: list[tuple[str, Exception]] = []

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _nothing, ()

    def record(self, file: str, region: Region, error: Exception) -> None:
        """Record a failed part; raise if the run should end now."""
        if isinstance(error, FATAL):
            raise error
        with self._lock:
            self._failed.append((f"{file} ({_span(region)})", error))
            if len(self._failed) < MOST:
                return
        self.require_none()

    def require_none(self) -> None:
        """Raise IncompleteError if parts failed, or their own error if no part is stored."""
        failed = list(self._failed)
        if not failed:
            return
        if len(failed) >= self._parts:
            raise failed[0][1]
        shown = "; ".join(f"{part}: {type(e).__name__}: {_line(e)}" for part, e in failed[:LISTED])
        more = f"; and {len(failed) - LISTED} more" if len(failed) > LISTED else ""
        stopped = ", the run ended early" if len(failed) >= MOST else ""
        raise IncompleteError(
            f"save: all {self._parts:,} parts of a result must be computed, got {len(failed):,} "
            f"failures{stopped}: {shown}{more}; all others that were computed are kept: remove the "
            "cause, and save again (a .zarr continues by resume=True)",
            tuple(failed),
        ) from failed[0][1]


def _nothing() -> None:
    return None


def _span(region: Region) -> str:
    return ", ".join(f"{s.start}:{s.stop}" for s in region)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

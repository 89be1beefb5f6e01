"""Parts of a result that could not be computed: listed at the end, when all others are stored."""

from collections.abc import Callable
from threading import Lock

from lazyvol.errors import IncompleteError, SourceChangedError, StoreError
from lazyvol.plan.regions import Region

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

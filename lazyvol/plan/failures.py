"""Parts of a result that could not be computed: listed at the end, when all others are stored."""

from collections.abc import Callable
from threading import Lock

from lazyvol.errors import IncompleteError, SourceChangedError, StoreError
from lazyvol.plan.regions import Region

#: errors that would stop every other task too: nothing can be written, or the input is another one
FATAL = (StoreError, SourceChangedError)
#: failures after which a run ends, and those that its message lists
MOST, LISTED = 100, 5


class Failures:
    """The failed parts of a run of this process; a copy in another process is None.

    Tasks there raise their errors, as they cannot note them here.
    """

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._lock = Lock()
        self._found: list[tuple[str, Exception]] = []

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _nothing, ()

    def note(self, file: str, region: Region, error: Exception) -> None:
        """Note a failed part; raise if the run should end now."""
        if isinstance(error, FATAL):
            raise error
        with self._lock:
            self._found.append((f"{file} ({_span(region)})", error))
            if len(self._found) < MOST:
                return
        self.require_none()

    def require_none(self) -> None:
        """Raise IncompleteError if parts failed, or their own error if no part is stored."""
        found = list(self._found)
        if not found:
            return
        if len(found) >= self._parts:
            raise found[0][1]
        shown = "; ".join(f"{part}: {type(e).__name__}: {_line(e)}" for part, e in found[:LISTED])
        more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
        stopped = ", the run ended early" if len(found) >= MOST else ""
        raise IncompleteError(
            f"save: all {self._parts:,} parts of a result must be computed, got {len(found):,} "
            f"failures{stopped}: {shown}{more}; all others that were computed are kept: remove the "
            "cause, and save again (a .zarr continues by resume=True)",
            tuple(found),
        ) from found[0][1]


def _nothing() -> None:
    return None


def _span(region: Region) -> str:
    return ", ".join(f"{s.start}:{s.stop}" for s in region)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

"""The record of a run: wall time of its stages, peak memory, versions of packages."""

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    from lazyvol import __version__

    packages = ("numpy", "scipy", "numba", "dask", "xarray", "zarr")
    ours = {"lazyvol": __version__, "python": platform.python_version()}
    return ours | {p: _version(p) for p in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def peak_bytes() -> int:
    """Return the peak resident memory of this process; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class StageTimes:
    """Wall time of named stages, and in total."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block of statements to a stage."""
        start = time.monotonic()
        yield
        self._stages[name] = time.monotonic() - start

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage, and in total."""
        return {**self._stages, "total": time.monotonic() - self._start}

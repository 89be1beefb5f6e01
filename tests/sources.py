"""Sources that record the regions that are read, and kernels that several tests share."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from lazyvol.plan import regions
from lazyvol.plan.regions import Region

#: the regions read from every counting source, by token: tasks hold copies of a source
READS: dict[str, list[Region]] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class CountingSource:
    """A source in memory that records every region read from it."""

    values: np.ndarray
    chunks: tuple[int, ...]
    token: str
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.values.shape)
        object.__setattr__(self, "dtype", self.values.dtype)
        READS.setdefault(self.token, [])

    def read(self, region: Region, out: np.ndarray | None = None) -> np.ndarray:
        with _LOCK:
            READS[self.token].append(region)
        if out is None:
            return self.values[region].copy()
        out[...] = self.values[region]
        return out

    def stored_bytes(self, region: Region) -> int:
        return regions.touched(region, self.chunks) * self.dtype.itemsize

    def peak_bytes(self, region: Region) -> int:
        return regions.size(region) * self.dtype.itemsize


@dataclass(frozen=True)
class OnesSource:
    """A source of ones of any size, one stored chunk per volume; it holds no data."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any] = np.dtype(np.float32)

    @property
    def chunks(self) -> tuple[int, ...]:
        return (1, *self.shape[1:])

    @property
    def token(self) -> str:
        return f"ones-{self.shape}"

    def read(self, region: Region, out: np.ndarray | None = None) -> np.ndarray:
        return np.ones(regions.lengths(region), self.dtype)

    def stored_bytes(self, region: Region) -> int:
        return regions.touched(region, self.chunks) * self.dtype.itemsize

    def peak_bytes(self, region: Region) -> int:
        return regions.size(region) * self.dtype.itemsize


def elements_read(token: str) -> int:
    """Return the number of elements read from a counting source."""
    return sum(regions.size(r) for r in READS[token])


def box_mean(block: np.ndarray, *, depth: tuple[int, ...]) -> np.ndarray:
    """Return the mean of each neighbourhood of ``2 depth + 1`` in the interior of a grown block."""
    smooth = block.astype(np.float64)
    for axis, d in enumerate(depth):
        smooth = ndi.uniform_filter1d(smooth, 2 * d + 1, axis, mode="nearest") if d else smooth
    return smooth[tuple(slice(d, n - d) for d, n in zip(depth, block.shape, strict=True))]

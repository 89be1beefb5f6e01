"""Sources that count what is read of them, and kernels the tests share."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from lazyvol.plan import regions
from lazyvol.plan.regions import Region

#: what every counting source was asked for, by token: a source is copied with its tasks
READS: dict[str, list[Region]] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Counting:
    """A source in memory that notes every region read of it."""

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
class Virtual:
    """A source of ones of any size, one stored chunk to a volume; it holds nothing."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any] = np.dtype(np.float32)

    @property
    def chunks(self) -> tuple[int, ...]:
        return (1, *self.shape[1:])

    @property
    def token(self) -> str:
        return f"virtual-{self.shape}"

    def read(self, region: Region, out: np.ndarray | None = None) -> np.ndarray:
        return np.ones(regions.lengths(region), self.dtype)

    def stored_bytes(self, region: Region) -> int:
        return regions.touched(region, self.chunks) * self.dtype.itemsize

    def peak_bytes(self, region: Region) -> int:
        return regions.size(region) * self.dtype.itemsize


def elements_read(token: str) -> int:
    return sum(regions.size(r) for r in READS[token])


def box_mean(block: np.ndarray, *, depth: tuple[int, ...]) -> np.ndarray:
    """Mean of each neighbourhood of ``2 depth + 1``, on the interior of a grown block."""
    found = block.astype(np.float64)
    for axis, d in enumerate(depth):
        found = ndi.uniform_filter1d(found, 2 * d + 1, axis, mode="nearest") if d else found
    return found[tuple(slice(d, n - d) for d, n in zip(depth, block.shape, strict=True))]

"""Gaussian random fields by position: white noise on a coarse grid, smoothed by a Gaussian.

A field is ``sum over j of w(x - j h) white(j)``. The Gaussian is evaluated at the voxels, so the
grid of the white noise can be as coarse as the Gaussian allows. With a spacing ``h`` of up to sigma
/ 1.3 the correlation of two voxels is the requested Gaussian within 3e-6, wherever they are
(Poisson summation: the error falls as exp(-(pi sigma / h)^2)), and a voxel costs 14 to 26 products
per axis at any correlation length. Short Gaussians, for which ``h`` is 1, use the root of the
sampled spectrum as weights, right within 2e-5 at any length.

Weights have a sum of squares of 1, so every voxel has an expected variance of 1. White noise
continues beyond the array: borders have the statistics of the interior.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.synthetic import philox

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
Triple = tuple[float, float, float]
Start = tuple[int, int, int]

#: lowest sigma in steps of the white noise, and half-width of a Gaussian in sigmas
SIGMA_PER_STEP, TRUNCATE = 1.3, 4.5
#: largest step of the white noise: the table of weights has a row for each voxel in it
MAX_STEP = 4096
#: taps on each side of the root of a spectrum, and the smallest one kept
ROOT_TAPS, MIN_TAP = 12, 1e-6
#: counter of the random numbers at position 0: counters are not negative, positions can be
ORIGIN = 2**30
#: voxels of smoothed planes that a tile keeps: 2 MB of float32, within the second-level cache
RING_VOXELS = 2**19


@dataclass(frozen=True)
class Taps:
    """Weights of one axis: row ``i % step`` has those of voxel i, for the white noise from
    ``i // step - before`` on."""

    step: int
    before: int
    weights: Array

    @property
    def count(self) -> int:
        """Number of weights of a voxel."""
        return int(self.weights.shape[1])

    def noise_span(self, low: int, high: int) -> slice:
        """Return the range of the white noise that voxels ``low`` to ``high`` depend on."""
        first = low // self.step - self.before
        return slice(first, (high - 1) // self.step - self.before + self.count)


@lru_cache(maxsize=64)
def taps(sigma: float, root: bool = True) -> Taps:
    """Return the weights of a Gaussian of ``sigma`` voxels.

    With ``root`` short ones are those whose correlation is exact, otherwise sampled Gaussians.
    """
    step = min(MAX_STEP, max(1, int(sigma / SIGMA_PER_STEP)))
    if step == 1:
        weights = _spectrum_root(sigma) if root else _sampled_gaussian(sigma)
        return Taps(1, len(weights) // 2, weights[None])
    before = int(np.ceil(TRUNCATE * sigma / step))
    offsets = np.arange(step)[:, None] - np.arange(-before, before + 2) * step
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return Taps(step, before, weights / np.linalg.norm(weights, axis=1, keepdims=True))


def _sampled_gaussian(sigma: float) -> Array:
    """Return a sampled Gaussian with a sum of squares of 1."""
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    return np.asarray(weights / np.linalg.norm(weights))


def _spectrum_root(sigma: float) -> Array:
    """Return symmetric weights with the autocorrelation exp(-(r / sigma)^2 / 4)."""
    lags = np.minimum(np.arange(512), 512 - np.arange(512))
    correlation = np.exp(-0.25 * (lags / max(sigma, 1e-9)) ** 2)
    spectrum = np.sqrt(np.maximum(np.fft.fft(correlation).real, 0.0))
    weights = np.fft.ifft(spectrum).real[: ROOT_TAPS + 1]
    radius = int(np.flatnonzero(np.abs(weights) > MIN_TAP)[-1])
    weights = np.concatenate([weights[radius:0:-1], weights[: radius + 1]])
    return np.asarray(weights / np.linalg.norm(weights))


@compiled
def _smooth_rows(out: Array, noise: Array, weights: Array, first: int) -> None:
    """Smooth noise (row, noise position) along its rows into (row, voxel); voxel 0 is number
    ``first``."""
    step, count = weights.shape
    n = out.shape[1]
    sums = np.empty(n)
    for r in range(out.shape[0]):
        if step == 1:
            sums[:] = 0.0
            for t in range(count):
                for i in range(n):
                    sums[i] += weights[0, t] * noise[r, i + t]
        else:
            for i in range(n):
                at, phase = (first + i) // step - first // step, (first + i) % step
                total = 0.0
                for t in range(count):
                    total += weights[phase, t] * noise[r, at + t]
                sums[i] = total
        for i in range(n):
            out[r, i] = sums[i]


@compiled
def _smooth_columns(out: Array, noise: Array, weights: Array, first: int) -> None:
    """Smooth noise (noise position, column) along its columns into (voxel, column)."""
    step, count = weights.shape
    sums = np.empty(out.shape[1])
    for i in range(out.shape[0]):
        at, phase = (first + i) // step - first // step, (first + i) % step
        sums[:] = 0.0
        for t in range(count):
            w = weights[phase, t]
            for j in range(sums.size):
                sums[j] += w * noise[at + t, j]
        for j in range(sums.size):
            out[i, j] = sums[j]


@compiled
def _smooth_planes(ring: Array, weights: Array, first: int, out: Array, scale: float) -> None:
    """Add weighted planes of a ring buffer, from plane ``first`` on, into one plane."""
    count = weights.size
    sums = np.empty(out.shape[1])
    for r in range(out.shape[0]):
        sums[:] = 0.0
        for t in range(count):
            w, plane = weights[t], (first + t) % count
            for j in range(sums.size):
                sums[j] += w * ring[plane, r, j]
        for j in range(sums.size):
            out[r, j] = sums[j] * scale


@dataclass(frozen=True)
class Field:
    """A random field of variance 1: the sigmas of its Gaussian in voxels along z, y, x, and the
    random numbers of its white noise, normal or uniform about 0."""

    sigmas: Triple
    seed: int
    stream: int
    normal: bool = True
    root: bool = True

    def taps(self) -> tuple[Taps, Taps, Taps]:
        """Return the weights along z, y, x."""
        z, y, x = (taps(s, self.root) for s in self.sigmas)
        return z, y, x

    def tile_rows(self, width: int) -> int:
        """Return the number of rows of ``width`` voxels in a tile."""
        return max(1, RING_VOXELS // (self.taps()[0].count * max(1, width)))

    def fill(self, out: Array, volume: int, start: Start, scale: float) -> None:
        """Write the region of a volume, given by its number, that begins at ``start``."""
        step = self.tile_rows(out.shape[2])
        for low in range(0, out.shape[1], step):
            tile = out[:, low : low + step]
            corner = (start[0], start[1] + low, start[2])
            writers = self.plane_writers(volume, corner, tile.shape, out.dtype)
            for plane, write in zip(tile, writers, strict=True):
                write(plane, scale)

    def plane_writers(
        self, volume: int, start: Start, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Iterator[Callable[[Array, float], None]]:
        """Yield for each plane of a tile a function that writes it, times a factor, to (y, x).

        Each must be called before the next is taken: planes of white noise are in a ring buffer.
        """
        z, y, x = self.taps()
        spans = [t.noise_span(s, s + n) for t, s, n in zip((z, y, x), start, shape, strict=True)]
        ring = np.empty((z.count, *shape[1:]), dtype)
        rows = np.empty((spans[1].stop - spans[1].start, shape[2]), dtype)
        ready = spans[0].start
        for index in range(start[0], start[0] + shape[0]):
            first = index // z.step - z.before
            for plane in range(ready, first + z.count):
                noise = self._white_plane(volume, plane, spans[1], spans[2], dtype)
                _smooth_rows(rows, noise, x.weights, start[2])
                _smooth_columns(ring[plane % z.count], rows, y.weights, start[1])
            ready = first + z.count
            yield partial(_smooth_planes, ring, z.weights[index % z.step], first % z.count)

    def _white_plane(self, volume: int, z: int, y: slice, x: slice, dtype: np.dtype[Any]) -> Array:
        """Return one plane of white noise of variance 1, at positions that may be negative."""
        zyx = (slice(z + ORIGIN, z + 1 + ORIGIN), *(
            slice(s.start + ORIGIN, s.stop + ORIGIN) for s in (y, x)
        ))  # fmt: skip
        noise = philox.numbers(
            (slice(volume, volume + 1), *zyx), shape=(volume + 1, 1, 1, 1), seed=self.seed,
            stream=self.stream, normal=self.normal, dtype=dtype,
        )[0, 0]  # fmt: skip
        if not self.normal:
            noise -= noise.dtype.type(0.5)
            noise *= noise.dtype.type(12**0.5)
        return np.asarray(noise)


def field_region(
    region: Region, *, shape: tuple[int, ...], field: Field, scale: float, dtype: np.dtype[Any]
) -> Array:
    """Return one region of a stack of random fields of standard deviation ``scale``.

    The last three axes are z, y, x (or the last of them); those before count volumes.
    """
    lengths = tuple(s.stop - s.start for s in region)
    out = np.empty(lengths, np.promote_types(dtype, np.float32))
    if not out.size:
        return out.astype(dtype)
    zyx = (slice(0, 1),) * (3 - len(region)) + tuple(region[-3:])
    view = out.reshape(-1, *(s.stop - s.start for s in zyx))
    start = (zyx[0].start, zyx[1].start, zyx[2].start)
    for n, volume in enumerate(philox.volume_numbers(region[:-3], shape[:-3]).tolist()):
        field.fill(view[n], volume, start, scale)
    return out.astype(dtype, copy=False)

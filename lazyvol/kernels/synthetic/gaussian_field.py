"""Smooth random fields from position alone: white noise on a coarse grid, seen through a Gaussian.

A field is ``sum over j of w(x - j h) white(j)``: the Gaussian is evaluated where the voxels are, so
the grid of the white noise may be as coarse as the Gaussian is smooth. With a spacing ``h`` of up
to the deviation / 1.3 the correlation of two voxels is the Gaussian that was asked for within 3e-6
wherever they lie (Poisson's summation: the error falls as exp(-(pi deviation / h)^2)), and a voxel
costs 14 to 26 products per axis however long the correlation is. Short Gaussians, for which ``h``
is 1, have as weights the root of the sampled spectrum, right within 2e-5 for any length.

Weights are scaled to a sum of squares of 1, so every voxel has variance 1 in expectation. White
noise goes on beyond the array, so its borders are like its middle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.synthetic import philox

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
Triple = tuple[float, float, float]
Corner = tuple[int, int, int]

#: least deviation of a Gaussian in steps of its white noise, and deviations it reaches each way
FINE, REACH = 1.3, 4.5
#: coarsest spacing of white noise: a table of weights has a row for each voxel in it
COARSEST = 4096
#: taps each way of the root of a spectrum, and the smallest that is kept
LONGEST, LEAST = 12, 1e-6
#: where position 0 lies among the counters of the random numbers, which know no negative ones
ORIGIN = 2**30
#: voxels of the smoothed planes that one tile keeps: 2 MB of float32, in the second-level cache
RING = 2**19


@dataclass(frozen=True)
class Taps:
    """Weights of one axis: of voxel i, in row ``i % step``, for white noise from
    ``i // step - before`` on."""

    step: int
    before: int
    weights: Array

    @property
    def count(self) -> int:
        return int(self.weights.shape[1])

    def needed(self, low: int, high: int) -> slice:
        """Places of the white noise behind voxels from ``low`` to ``high``."""
        first = low // self.step - self.before
        return slice(first, (high - 1) // self.step - self.before + self.count)


@lru_cache(maxsize=64)
def taps(deviation: float, root: bool = True) -> Taps:
    """Weights of a Gaussian of a deviation in voxels; with ``root`` short ones are exact."""
    step = min(COARSEST, max(1, int(deviation / FINE)))
    if step == 1:
        weights = _root(deviation) if root else _gaussian(deviation)
        return Taps(1, len(weights) // 2, weights[None])
    before = int(np.ceil(REACH * deviation / step))
    places = np.arange(step)[:, None] - np.arange(-before, before + 2) * step
    weights = np.exp(-0.5 * (places / deviation) ** 2)
    return Taps(step, before, weights / np.linalg.norm(weights, axis=1, keepdims=True))


def _gaussian(deviation: float) -> Array:
    reach = int(REACH * deviation + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(deviation, 1e-9)) ** 2)
    return np.asarray(weights / np.linalg.norm(weights))


def _root(deviation: float) -> Array:
    """Symmetric weights whose correlation with themselves is exp(-(r / deviation)^2 / 4)."""
    lags = np.minimum(np.arange(512), 512 - np.arange(512))
    correlation = np.exp(-0.25 * (lags / max(deviation, 1e-9)) ** 2)
    spectrum = np.sqrt(np.maximum(np.fft.fft(correlation).real, 0.0))
    weights = np.fft.ifft(spectrum).real[: LONGEST + 1]
    reach = int(np.flatnonzero(np.abs(weights) > LEAST)[-1])
    weights = np.concatenate([weights[reach:0:-1], weights[: reach + 1]])
    return np.asarray(weights / np.linalg.norm(weights))


@compiled
def _along(out: Array, lines: Array, weights: Array, first: int) -> None:
    """Smooth (row, place) along its rows into (row, voxel); voxel 0 is number ``first``."""
    step, count = weights.shape
    n = out.shape[1]
    sums = np.empty(n)
    for r in range(out.shape[0]):
        if step == 1:
            sums[:] = 0.0
            for t in range(count):
                for i in range(n):
                    sums[i] += weights[0, t] * lines[r, i + t]
        else:
            for i in range(n):
                at, phase = (first + i) // step - first // step, (first + i) % step
                total = 0.0
                for t in range(count):
                    total += weights[phase, t] * lines[r, at + t]
                sums[i] = total
        for i in range(n):
            out[r, i] = sums[i]


@compiled
def _down(out: Array, lines: Array, weights: Array, first: int) -> None:
    """Smooth (place, column) down its columns into (voxel, column)."""
    step, count = weights.shape
    sums = np.empty(out.shape[1])
    for i in range(out.shape[0]):
        at, phase = (first + i) // step - first // step, (first + i) % step
        sums[:] = 0.0
        for t in range(count):
            w = weights[phase, t]
            for j in range(sums.size):
                sums[j] += w * lines[at + t, j]
        for j in range(sums.size):
            out[i, j] = sums[j]


@compiled
def _through(ring: Array, weights: Array, first: int, out: Array, scale: float) -> None:
    """Smooth planes of a ring, the first of them number ``first``, into one plane."""
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
    """A random field: deviations of its Gaussian in voxels along z, y, x, and its numbers.

    Of normal white noise, or of uniform (between two bounds); in both cases of variance 1.
    """

    deviations: Triple
    seed: int
    stream: int
    normal: bool = True
    root: bool = True

    def axes(self) -> tuple[Taps, Taps, Taps]:
        """Weights along z, y, x."""
        z, y, x = (taps(d, self.root) for d in self.deviations)
        return z, y, x

    def rows(self, width: int) -> int:
        """Rows of ``width`` voxels to a tile."""
        return max(1, RING // (self.axes()[0].count * max(1, width)))

    def fill(self, out: Array, lead: int, start: Corner, scale: float) -> None:
        """Put the part of volume ``lead`` that begins at ``start`` into ``out``, (z, y, x)."""
        step = self.rows(out.shape[2])
        for low in range(0, out.shape[1], step):
            tile = out[:, low : low + step]
            corner = (start[0], start[1] + low, start[2])
            planes = self.planes(lead, corner, tile.shape, out.dtype)
            for plane, see in zip(tile, planes, strict=True):
                see(plane, scale)

    def planes(
        self, lead: int, start: Corner, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Iterator[Callable[[Array, float], None]]:
        """For each plane of a tile what puts it, times a factor, into an array (y, x).

        It must be called before the next one is asked for: planes of white noise come and go in
        a ring, those that a voxel needs are in it.
        """
        z, y, x = self.axes()
        spans = [t.needed(s, s + n) for t, s, n in zip((z, y, x), start, shape, strict=True)]
        ring = np.empty((z.count, *shape[1:]), dtype)
        mid = np.empty((spans[1].stop - spans[1].start, shape[2]), dtype)
        made = spans[0].start
        for index in range(start[0], start[0] + shape[0]):
            first = index // z.step - z.before
            for place in range(made, first + z.count):
                white = self._white(lead, place, spans[1], spans[2], dtype)
                _along(mid, white, x.weights, start[2])
                _down(ring[place % z.count], mid, y.weights, start[1])
            made = first + z.count
            yield partial(_through, ring, z.weights[index % z.step], first % z.count)

    def _white(self, lead: int, z: int, y: slice, x: slice, dtype: np.dtype[Any]) -> Array:
        places = (slice(lead, lead + 1), slice(z, z + 1), y, x)
        region = (places[0], *(slice(s.start + ORIGIN, s.stop + ORIGIN) for s in places[1:]))
        found = philox.numbers(
            region, shape=(lead + 1, 1, 1, 1), seed=self.seed, stream=self.stream,
            normal=self.normal, dtype=dtype,
        )[0, 0]  # fmt: skip
        if not self.normal:
            found -= found.dtype.type(0.5)
            found *= found.dtype.type(12**0.5)
        return np.asarray(found)


def values(
    region: Region, *, shape: tuple[int, ...], field: Field, scale: float, dtype: np.dtype[Any]
) -> Array:
    """One region of a stack of random fields of deviation ``scale``.

    The last three axes are z, y, x (or the last of them); those before count volumes.
    """
    lengths = tuple(s.stop - s.start for s in region)
    out = np.empty(lengths, np.promote_types(dtype, np.float32))
    if not out.size:
        return out.astype(dtype)
    space = (slice(0, 1),) * (3 - len(region)) + tuple(region[-3:])
    view = out.reshape(-1, *(s.stop - s.start for s in space))
    start = (space[0].start, space[1].start, space[2].start)
    for n, lead in enumerate(leads(region[:-3], shape[:-3])):
        field.fill(view[n], lead, start, scale)
    return out.astype(dtype, copy=False)


def leads(region: Region, shape: tuple[int, ...]) -> list[int]:
    """C-order number of every volume of a region of the leading axes."""
    steps = [prod(shape[a + 1 :]) for a in range(len(shape))]
    ranges = (range(s.start * n, s.stop * n, n) for s, n in zip(region, steps, strict=True))
    return [sum(index) for index in product(*ranges)]

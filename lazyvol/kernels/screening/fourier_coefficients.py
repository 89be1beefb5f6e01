"""Spectra of volumes up to a frequency, as rows of real numbers, and volumes out of them.

Frequencies f and -f of a real volume say the same: one of each pair is kept, its real and its
imaginary part side by side in two halves of a row. Rows are scaled so that their inner products
are those of the volumes without their means, and independent voxels give independent numbers of
the same variance. The origin of space is voxel ``n // 2``. A box is faded out at its faces:
its noise does not continue on the opposite face, and a step there would spread the strongest
frequencies over the weakest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor, pi, prod, sqrt
from typing import Any

import numpy as np
import scipy.fft

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

SPACE = (-3, -2, -1)
#: part of each side of a box over which it is faded out, at either end
FADED = 1 / 16
#: variation over mean value that is no more than the rounding of float32
ROUNDING = 1e-6


@dataclass(frozen=True)
class Band:
    """Frequencies of a box from 0 (left out) to ``limit``, in cycles per unit of length."""

    shape: tuple[int, ...]
    step: tuple[float, ...]
    limit: float

    @cached_property
    def lengths(self) -> Array:
        """Physical length of the box along each axis."""
        return np.array([n * abs(d) for n, d in zip(self.shape, self.step, strict=True)])

    @property
    def planar(self) -> bool:
        """Whether the box is of one slice, an image: nothing depends on z then."""
        return self.shape[0] == 1

    @property
    def shortest(self) -> float:
        """Physical length of the shortest side, of an image along y and x."""
        return float(self.lengths[self.planar :].min())

    @cached_property
    def reach(self) -> tuple[int, ...]:
        """Highest frequency along each axis, in cycles per box; Nyquist's own is left out."""
        inside = zip(self.shape, self.lengths, strict=True)
        return tuple(min((n - 1) // 2, floor(self.limit * size + 1e-9)) for n, size in inside)

    @cached_property
    def cube(self) -> tuple[int, ...]:
        """Shape of the smallest box that has these frequencies."""
        return tuple(2 * h + 1 for h in self.reach)

    @cached_property
    def index(self) -> Array:
        """(frequency, axis) in cycles per box: one of each pair f, -f within the sphere."""
        axes = [np.arange(-h, h + 1) for h in self.reach]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        first = np.zeros(len(grid), np.int64)
        for column in grid.T[::-1]:
            first = np.where(first == 0, np.sign(column), first)
        radius = np.sqrt(((grid / self.lengths) ** 2).sum(1))
        kept: Array = grid[(first > 0) & (radius <= self.limit * (1 + 1e-9))]
        return kept

    @cached_property
    def frequency(self) -> Array:
        """(frequency, axis) in cycles per unit of length; a negative step turns its axis."""
        found: Array = self.index / self.lengths * np.sign(self.step)
        return found

    @cached_property
    def shell(self) -> Array:
        """Number of the shell of each frequency, as wide as the coarsest frequency step."""
        radius = np.sqrt((self.frequency**2).sum(1))
        return np.asarray(np.rint(radius * self.shortest).astype(np.int64))

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return 2 * len(self.index)

    @cached_property
    def fades(self) -> tuple[Array, ...]:
        """Weight of each voxel along each axis."""
        return tuple(_fade(n) for n in self.shape)

    @cached_property
    def left(self) -> float:
        """Part of the power of noise that is left after fading."""
        return float(prod((fade**2).mean() for fade in self.fades))

    @cached_property
    def window(self) -> Array:
        """Weight of each place of the cube, 1 in the middle."""
        z, y, x = (_fade(m) for m in self.cube)
        return np.asarray(z[:, None, None] * y[:, None] * x)

    @cached_property
    def radius(self) -> Array:
        """Distance of each place of the cube from its middle, in units of length."""
        axes = zip(self.cube, self.lengths, strict=True)
        z, y, x = ((np.arange(m) - m // 2) * (size / m) for m, size in axes)
        return np.asarray(np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2))


def _fade(n: int) -> Array:
    """1 inside, a quarter of a sine wave, squared, at the ends."""
    inwards = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    found: Array = np.sin(pi / 2 * np.minimum(1.0, inwards / max(0.5, FADED * n))) ** 2
    return found


def band_of(shape: Sequence[int], step: Sequence[float], most: int) -> Band:
    """Band of a box up to its lowest Nyquist frequency, or to about ``most`` numbers a row.

    The frequencies of an image, a box of one slice, fill a disc and no ball.
    """
    wide = step[shape[0] == 1 :]
    nyquist = min(1 / (2 * abs(d)) for d in wide)
    volume = prod(n * abs(d) for n, d in zip(shape[-len(wide) :], wide, strict=True))
    ball = len(wide) == len(SPACE)
    within = (3 * most / (4 * pi * volume)) ** (1 / 3) if ball else sqrt(most / (pi * volume))
    return Band(tuple(shape), tuple(map(float, step)), min(nyquist, within))


def start(shape: tuple[int, ...], *, band: Band) -> State:
    """Empty state of volumes: half of the cube of their frequencies, and their sums."""
    z, y, x = band.cube
    return {"waves": np.zeros((*shape, z, y, x // 2 + 1), np.complex64), "total": np.zeros(shape)}


def update(state: State, axes: Sequence[int], block: Array, *places: Array, band: Band) -> None:
    """Take in a block; ``places`` say where it lies along each of the axes.

    Three short matrix products with the waves that are kept: a block need not be whole.
    """
    kept = [a for a in range(block.ndim) if a not in axes]
    rows = block.transpose(*kept, *axes).reshape(-1, *(block.shape[a] for a in axes))
    waves = [
        _waves(place.reshape(-1).astype(np.int64), fade, reach)
        for place, fade, reach in zip(places, band.fades, band.reach, strict=True)
    ]
    columns = np.ascontiguousarray(waves[2][:, band.reach[2] :]).view(np.float32)
    waves_out = state["waves"].reshape(-1, *state["waves"].shape[-3:])
    for n, volume in enumerate(rows):  # one at a time: what is in between stays in the cache
        found = (volume.astype(np.float32) @ columns).view(np.complex64)
        found = np.matmul(waves[1].T, found)
        waves_out[n] += np.tensordot(waves[0], found, (0, 0))
    state["total"] += rows.sum((1, 2, 3), np.float64).reshape(state["total"].shape)


def _waves(place: Array, fade: Array, reach: int) -> Array:
    """(voxel, frequency) of exp(-2 pi i h (place - n // 2) / n), faded."""
    n = len(fade)
    turns = np.outer(place - n // 2, np.arange(-reach, reach + 1)) % n
    return (np.exp(-2j * pi * turns / n) * fade[place, None]).astype(np.complex64)


def combine(a: State, b: State) -> State:
    """Spectra of two parts of the same boxes, added."""
    return {name: a[name] + b[name] for name in a}


def finish(state: State, *, band: Band, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Rows of numbers and mean values of the volumes; the faded mean is taken out of the rows."""
    at = band.index + np.array(band.reach)
    at[:, 2] -= band.reach[2]  # of each pair the one with x >= 0 was kept
    flat = _flat(band)
    mean = state["waves"][..., band.reach[0], band.reach[1], 0].real / flat[tuple(band.reach)].real
    values = state["waves"][..., at[:, 0], at[:, 1], at[:, 2]]
    values -= mean[..., None] * flat[tuple((band.index + np.array(band.reach)).T)]
    values *= np.float32(np.sqrt(2 / prod(band.shape)))
    power = np.square(np.abs(values)).sum(-1)
    values[power <= band.size * np.square(ROUNDING * mean)] = 0  # all voxels are the same
    return {"rows": reals(values).astype(dtype), "mean": state["total"] / prod(band.shape)}


def _flat(band: Band) -> Array:
    """Waves of a box of ones, on the whole cube."""
    z, y, x = (
        _waves(np.arange(len(fade)), fade, reach).astype(np.complex128).sum(0)
        for fade, reach in zip(band.fades, band.reach, strict=True)
    )
    return np.asarray((z[:, None, None] * y[:, None] * x).astype(np.complex64))


def complexes(rows: Array) -> Array:
    """Rows as complex numbers, one per frequency."""
    half = rows.shape[-1] // 2
    return np.asarray(rows[..., :half] + 1j * rows[..., half:])


def reals(values: Array) -> Array:
    """Complex numbers, one per frequency, as rows."""
    return np.concatenate([values.real, values.imag], axis=-1)


def volumes(rows: Array, band: Band) -> Array:
    """Real volumes on the cube of the band, of mean 0, centred on the middle voxel.

    Values are those of the band-limited box at coarser positions.
    """
    full = np.zeros((*rows.shape[:-1], *band.cube), np.complex128)
    values = complexes(rows) / np.sqrt(2 / prod(band.shape))
    full[(..., *(band.index % band.cube).T)] = values
    full[(..., *(-band.index % band.cube).T)] = values.conj()
    found = scipy.fft.ifftn(full, axes=SPACE, workers=1).real
    return np.fft.fftshift(found * (prod(band.cube) / prod(band.shape)), axes=SPACE)


def rows_of(volumes: Array, band: Band) -> Array:
    """Rows of volumes on the cube of the band: the inverse of ``volumes``."""
    full = scipy.fft.fftn(np.fft.ifftshift(volumes, axes=SPACE), axes=SPACE, workers=1)
    scale = np.sqrt(2 / prod(band.shape)) * prod(band.shape) / prod(band.cube)
    return reals(full[(..., *(band.index % band.cube).T)] * scale)

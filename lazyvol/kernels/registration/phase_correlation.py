"""Shift of a particle against a reference: the peak of their cross-correlation.

First on the voxels, then around the peak in parts of a voxel by the matrix form of the discrete
Fourier transform (Guizar-Sicairos et al., Optics Letters 33, 156, 2008).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import particle_volumes
from lazyvol.kernels.geometry.translation import centred, exponent

Array = np.ndarray[Any, np.dtype[Any]]
State = Mapping[str, Array]


@dataclass(frozen=True)
class Search:
    """Where a peak is looked for: ``step`` is the size of a voxel along three axes.

    ``others`` is the number of particles in an average out of which each is taken before it is
    held against it, or 0.
    """

    step: tuple[float, ...]
    upsample: int = 1
    limit: float = inf
    whiten: bool = False
    others: int = 0


def spectra(block: Array, *, axes: Sequence[int], single: bool) -> Array:
    """Half spectra of every volume of a block without its mean, in the place of the full ones."""
    dtype = np.dtype(np.complex64 if single else np.complex128)
    out = np.zeros(block.shape, dtype)
    source, target = particle_volumes(block, axes), particle_volumes(out, axes)
    for index in np.ndindex(source.shape[:-3]):
        half, power = spectrum(source[index], single)
        np.multiply(half, _power_of_two(power, dtype), out=target[index][..., : half.shape[-1]])
    return out


def spectrum(volume: Array, single: bool) -> tuple[Array, int]:
    """Half spectrum of a volume about its mean over a power of two, and the exponent of that power.

    An offset would use up the digits. The power brings the largest value near 1, since products
    of float32 spectra of values of 1e14 and more would overflow.
    """
    values = centred(volume)
    power = max(-LARGEST, min(exponent(values), LARGEST))
    values *= 2.0**-power
    values = values.astype(np.float32 if single else np.float64, copy=False)
    return np.asarray(scipy.fft.rfftn(values, workers=1, overwrite_x=True)), power


#: largest power of two that float64 holds beside its inverse, with room for sums
LARGEST = 1000
#: the power of float32
LARGEST_SINGLE = 120
DOUBLE = np.dtype(np.complex128)


def _power_of_two(power: int, dtype: np.dtype[Any]) -> Array:
    """The factor 2**power as a real number of the precision of a complex dtype."""
    most = LARGEST_SINGLE if dtype == np.complex64 else LARGEST
    return np.array(2.0 ** max(-most, min(power, most)), f"f{dtype.itemsize // 2}")


def find(
    state: State, _: Sequence[int], block: Array, references: Array,
    *, axes: Sequence[int], search: Search,
) -> None:  # fmt: skip
    """Shift of every particle of a block into ``state["shift"]``, in the unit of ``step``."""
    shifts, source = state["shift"], particle_volumes(block, axes)
    half = source.shape[-1] // 2 + 1
    scaled, powers = _near_one(particle_volumes(references, axes)[..., :half])
    scaled = np.broadcast_to(scaled, (*source.shape[:-1], half))
    powers = np.broadcast_to(powers, source.shape[:-3])
    for index in np.ndindex(source.shape[:-3]):
        values, power = spectrum(source[index], references.dtype == np.complex64)
        others = 0.0
        if search.others:
            others = float(_power_of_two(power - int(powers[index]), DOUBLE)) / search.others
        shift = _shift(values, scaled[index], others, source.shape[-3:], search)
        shifts[index] = (shift * search.step)[3 - len(axes) :]


def _near_one(references: Array) -> tuple[Array, Array]:
    """Half spectra of references over powers of two that bring them near 1, and the exponents."""
    scaled = np.empty_like(references)
    powers = np.zeros(references.shape[:-3], int)
    for index in np.ndindex(powers.shape):
        reference = np.ascontiguousarray(references[index])
        powers[index] = exponent(reference.view(reference.real.dtype))
        scaled[index] = reference * _power_of_two(-int(powers[index]), reference.dtype)
    return scaled, powers


def _shift(
    values: Array, reference: Array, others: float, shape: Sequence[int], search: Search
) -> Array:
    """Voxels by which a particle has to move to lie on the reference.

    ``others`` is the particle's part of the reference, which is taken out of it.
    """
    cross = np.conj(values)
    cross *= reference
    if others:
        power = values.real**2 + values.imag**2
        cross -= power * np.array(others, power.dtype)
    size = np.abs(cross)
    most = size.max()
    if not most > 0:
        return np.full(3, np.nan)
    if search.whiten:
        # amplitudes under 100 roundings of the largest are nothing but these
        cross /= np.maximum(size, most * (100 * np.finfo(size.dtype).eps) ** 2)
    del size
    coarse = _coarse(scipy.fft.irfftn(cross, shape, workers=1), search)
    return coarse if search.upsample == 1 else _fine(cross, coarse, shape, search)


def near(shape: Sequence[int], reach: Sequence[int]) -> list[Array]:
    """Whole shifts along each axis, up to ``reach`` to both sides or as far as they differ."""
    found = []
    for n, r in zip(shape, reach, strict=True):
        at = np.arange(-((n - 1) // 2), n // 2 + 1)
        found.append(at[np.abs(at) <= r])
    return found


def distances(places: Sequence[Array], step: Sequence[float] | Array) -> Array:
    """Distance from no shift of every combination of shifts along the axes."""
    z, y, x = ((p * s) ** 2 for p, s in zip(places, step, strict=True))
    return np.asarray(np.sqrt(z[:, None, None] + y[:, None] + x))


#: part of a length by which rounding may bring a shift over the limit
ROUNDING = 1 + 1e-9


def highest(values: Array, places: Sequence[Array], search: Search) -> Array:
    """The combination of shifts within the limit where ``values`` are highest."""
    if search.limit < inf:
        within = distances(places, search.step) <= search.limit * ROUNDING
        values = np.where(within, values, -inf)
    peak = np.unravel_index(int(np.argmax(values)), values.shape)
    return np.array([p[i] for p, i in zip(places, peak, strict=True)], np.float64)


def _coarse(correlation: Array, search: Search) -> Array:
    shape = correlation.shape
    if search.limit == inf:
        peak = np.unravel_index(int(np.argmax(correlation)), shape)
        return np.array([p - n * (p > n // 2) for p, n in zip(peak, shape, strict=True)], float)
    reach = [
        int(min(n, search.limit * ROUNDING / abs(s)))
        for n, s in zip(shape, search.step, strict=True)
    ]
    places = near(shape, reach)
    return highest(correlation[np.ix_(*places)], places, search)


def _fine(cross: Array, coarse: Array, shape: Sequence[int], search: Search) -> Array:
    """The peak among parts of a voxel around the coarse one."""
    width = ceil(1.5 * search.upsample)
    parts = (np.arange(width) - width // 2) / search.upsample
    places = [c + (parts if n > 1 else parts[:1] * 0) for c, n in zip(coarse, shape, strict=True)]
    return highest(correlation_at(cross, places, shape), places, search)


def correlation_at(cross: Array, places: Sequence[Array], shape: Sequence[int]) -> Array:
    """Correlation at any combination of shifts, from a half spectrum: its other half is the same
    again, conjugated."""
    half = cross.shape[-1]
    weight = np.full(half, 2.0)
    weight[0] = 1.0
    if shape[-1] % 2 == 0:
        weight[-1] = 1.0
    frequencies = (np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2]))
    waves = [np.exp(2j * np.pi * np.outer(f, p)) for f, p in zip(frequencies, places, strict=True)]
    waves[2] *= weight[:, None]
    out = np.zeros([len(p) for p in places])
    _add_waves(out, np.ascontiguousarray(cross), *waves)
    return out


@compiled
def _add_waves(out: Array, cross: Array, wz: Array, wy: Array, wx: Array) -> None:
    """Sum over frequencies, axis by axis. Loops, for BLAS would start threads in every task."""
    row = np.empty(out.shape[2], np.complex128)
    plane = np.empty(out.shape[1:], np.complex128)
    for z in range(cross.shape[0]):
        plane[:] = 0
        for y in range(cross.shape[1]):
            row[:] = 0
            for x in range(cross.shape[2]):
                c = np.complex128(cross[z, y, x])
                for j in range(row.size):
                    row[j] += c * wx[x, j]
            for b in range(plane.shape[0]):
                for j in range(row.size):
                    plane[b, j] += wy[y, b] * row[j]
        for a in range(out.shape[0]):
            w = wz[z, a]
            for b in range(plane.shape[0]):
                for j in range(row.size):
                    out[a, b, j] += (w * plane[b, j]).real


def start(shape: tuple[int, ...], *, n: int) -> dict[str, Array]:
    """Shifts along ``n`` axes for particles of ``shape``."""
    return {"shift": np.zeros((*shape, n))}


def combine(s: dict[str, Array], t: dict[str, Array]) -> dict[str, Array]:
    """Shifts of particles of which each was found once: the others are 0."""
    s["shift"] += t["shift"]
    return s


def finish(state: State) -> dict[str, Array]:
    return dict(state)

"""Shift of a particle against a reference: the peak of their cross-correlation.

The peak is located on the voxels, then refined in fractions of a voxel by the matrix form of the
discrete Fourier transform (Guizar-Sicairos et al., Optics Letters 33, 156, 2008).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.errors import RangeError
from lazyvol.kernels.arrays import particle_volumes
from lazyvol.kernels.magnitude import exponent

Array = np.ndarray[Any, np.dtype[Any]]
State = Mapping[str, Array]

DOUBLE = np.dtype(np.complex128)
#: largest power of two that float64 holds with its inverse after sums over a volume
MAX_EXPONENT = 980
#: largest power of two that float64 holds together with its inverse
MAX_NORMAL = 1000
#: as MAX_EXPONENT, of float32
MAX_EXPONENT_SINGLE = 105
#: subvoxel shifts per voxel that are tried at once, along each axis
AT_ONCE = 32
#: relative rounding by which a shift may exceed the limit
ROUNDING = 1 + 1e-9


@dataclass(frozen=True)
class ShiftSearch:
    """Options of a search for shifts.

    ``step`` is the voxel size along three axes and ``limit`` the longest shift in its unit; shifts
    are resolved to ``1 / upsample`` of a voxel. ``whiten`` divides by the amplitudes. Each
    particle is subtracted from the reference if that is the average of ``n_averaged`` particles
    (else 0).
    """

    step: tuple[float, ...]
    upsample: int = 1
    limit: float = inf
    whiten: bool = False
    n_averaged: int = 0


def centred(volume: Array) -> Array:
    """Subtract the mean; float64.

    The first value is subtracted before summation, so that a constant gives exactly 0.
    """
    values = np.array(volume, np.float64)
    if values.size:
        values -= values.flat[0]
        values -= values.mean()
    return values


def half_spectra(block: Array, *, axes: Sequence[int], single: bool) -> Array:
    """Return the half spectrum of every mean-free volume, in an array of the block's shape."""
    dtype = np.dtype(np.complex64 if single else np.complex128)
    out = np.zeros(block.shape, dtype)
    source, target = particle_volumes(block, axes), particle_volumes(out, axes)
    for index in np.ndindex(source.shape[:-3]):
        half, power = scaled_spectrum(source[index], single)
        _require_exponent(power, MAX_EXPONENT_SINGLE if single else MAX_EXPONENT)
        np.multiply(half, _power_of_two(power, dtype), out=target[index][..., : half.shape[-1]])
    return out


def _require_exponent(power: int, largest: int) -> None:
    """Raise RangeError for a reference whose spectrum is outside the range of its float type."""
    if abs(power) > largest:
        raise RangeError(
            f"shifts: reference must vary by 0 or between {2.0**-largest:.0e} and "
            f"{2.0**largest:.0e}, so that its float type holds the spectrum, got about "
            f"{2.0**power:.0e}; divide stack and reference by that"
        )


def scaled_spectrum(volume: Array, single: bool) -> tuple[Array, int]:
    """Return the half spectrum of a mean-free volume divided by 2**power, and the power.

    An offset would cost digits. The scaling brings the largest value near 1: products of float32
    spectra overflow for values of 1e14 and more.
    """
    values = centred(volume)
    power = max(-MAX_NORMAL, min(exponent(values), MAX_NORMAL))
    values *= 2.0**-power
    values = values.astype(np.float32 if single else np.float64, copy=False)
    return np.asarray(scipy.fft.rfftn(values, workers=1, overwrite_x=True)), power


def _power_of_two(power: int, dtype: np.dtype[Any]) -> Array:
    """Return 2**power as a real number of the precision of a complex dtype."""
    largest = MAX_EXPONENT_SINGLE if dtype == np.complex64 else MAX_EXPONENT
    return np.array(2.0 ** max(-largest, min(power, largest)), f"f{dtype.itemsize // 2}")


def find_shifts(
    state: State, _: Sequence[int], block: Array, references: Array,
    *, axes: Sequence[int], search: ShiftSearch,
) -> None:  # fmt: skip
    """Write the shift of every particle of a block into ``state["shift"]``, in the unit of
    ``search.step``; ``references`` are half spectra."""
    shifts, source = state["shift"], particle_volumes(block, axes)
    half = source.shape[-1] // 2 + 1
    scaled, powers = _scale_near_one(particle_volumes(references, axes)[..., :half])
    scaled = np.broadcast_to(scaled, (*source.shape[:-1], half))
    powers = np.broadcast_to(powers, source.shape[:-3])
    for index in np.ndindex(source.shape[:-3]):
        spectrum, power = scaled_spectrum(source[index], references.dtype == np.complex64)
        own_part = 0.0
        if search.n_averaged:
            relative = float(_power_of_two(power - int(powers[index]), DOUBLE))
            own_part = relative / search.n_averaged
        shift = _find_shift(spectrum, scaled[index], own_part, source.shape[-3:], search)
        shifts[index] = (shift * search.step)[3 - len(axes) :]


def _scale_near_one(references: Array) -> tuple[Array, Array]:
    """Divide half spectra by powers of two that bring them near 1; return also the exponents."""
    scaled = np.empty_like(references)
    powers = np.zeros(references.shape[:-3], int)
    for index in np.ndindex(powers.shape):
        reference = np.ascontiguousarray(references[index])
        powers[index] = exponent(reference.view(reference.real.dtype))
        scaled[index] = reference * _power_of_two(-int(powers[index]), reference.dtype)
    return scaled, powers


def _find_shift(
    spectrum: Array, reference: Array, own_part: float, shape: Sequence[int], search: ShiftSearch
) -> Array:
    """Return the shift in voxels that aligns a particle to the reference.

    ``own_part`` times the particle is subtracted from the reference first.
    """
    cross = np.conj(spectrum)
    cross *= reference
    if own_part:
        power = spectrum.real**2 + spectrum.imag**2
        cross -= power * np.array(own_part, power.dtype)
    amplitude = np.abs(cross)
    largest = amplitude.max()
    if not largest > 0:
        return np.full(3, np.nan)
    if search.whiten:
        # amplitudes below 100 roundings of the largest are rounding errors
        cross /= np.maximum(amplitude, largest * (100 * np.finfo(amplitude.dtype).eps) ** 2)
    del amplitude
    coarse = _voxel_peak(scipy.fft.irfftn(cross, shape, workers=1), search)
    return coarse if search.upsample == 1 else _subvoxel_peak(cross, coarse, shape, search)


def shift_ranges(shape: Sequence[int], reach: Sequence[int]) -> list[Array]:
    """Return the distinct whole shifts along each axis of a periodic box, of up to ``reach``."""
    ranges = []
    for n, r in zip(shape, reach, strict=True):
        shifts = np.arange(-((n - 1) // 2), n // 2 + 1)
        ranges.append(shifts[np.abs(shifts) <= r])
    return ranges


def shift_lengths(shifts: Sequence[Array], step: Sequence[float] | Array) -> Array:
    """Return the length of every combination of shifts along three axes."""
    z, y, x = ((p * s) ** 2 for p, s in zip(shifts, step, strict=True))
    return np.asarray(np.sqrt(z[:, None, None] + y[:, None] + x))


def peak_shift(values: Array, shifts: Sequence[Array], search: ShiftSearch) -> Array:
    """Return the combination of ``shifts`` within the limit at which ``values`` are highest."""
    if search.limit < inf:
        within = shift_lengths(shifts, search.step) <= search.limit * ROUNDING
        values = np.where(within, values, -inf)
    peak = np.unravel_index(int(np.argmax(values)), values.shape)
    return np.array([p[i] for p, i in zip(shifts, peak, strict=True)], np.float64)


def _voxel_peak(correlation: Array, search: ShiftSearch) -> Array:
    """Return the whole shift of the highest value of a circular correlation."""
    shape = correlation.shape
    if search.limit == inf:
        peak = np.unravel_index(int(np.argmax(correlation)), shape)
        return np.array([p - n * (p > n // 2) for p, n in zip(peak, shape, strict=True)], float)
    reach = [
        int(min(n, search.limit * ROUNDING / abs(s)))
        for n, s in zip(shape, search.step, strict=True)
    ]
    shifts = shift_ranges(shape, reach)
    return peak_shift(correlation[np.ix_(*shifts)], shifts, search)


def _subvoxel_peak(cross: Array, coarse: Array, shape: Sequence[int], search: ShiftSearch) -> Array:
    """Return the shift of the highest correlation on a grid of subvoxel shifts around a peak.

    Of a fine grid every n-th shift is tried first, then those around the highest: all 1,500^3 of
    steps of 1/1000 would take 27 GB.
    """
    steps = search.upsample
    stride = ceil(steps / AT_ONCE)
    width = ceil(1.5 * steps / stride)
    offsets, centre = (np.arange(width) - width // 2) * stride, np.zeros(3)
    while True:
        shifts = [
            c + (m + (offsets if n > 1 else offsets[:1] * 0)) / steps
            for c, m, n in zip(coarse, centre, shape, strict=True)
        ]
        peak = peak_shift(upsampled_correlation(cross, shifts, shape), shifts, search)
        if stride == 1:
            return peak
        centre = np.rint((peak - coarse) * steps)
        offsets, stride = np.arange(-stride, stride + 1), 1


def upsampled_correlation(cross: Array, shifts: Sequence[Array], shape: Sequence[int]) -> Array:
    """Evaluate the correlation at any combination of shifts from its half spectrum."""
    half = cross.shape[-1]
    weight = np.full(half, 2.0)  # of the conjugate frequencies as well
    weight[0] = 1.0
    if shape[-1] % 2 == 0:
        weight[-1] = 1.0
    frequencies = (np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2]))
    waves = [np.exp(2j * np.pi * np.outer(f, p)) for f, p in zip(frequencies, shifts, strict=True)]
    waves[2] *= weight[:, None]
    # one plane at a time: the complex128 copy of a complex64 spectrum would take twice its memory
    planes = np.stack([waves[1].T @ (plane @ waves[2]) for plane in cross])
    values = waves[0].T @ planes.reshape(len(planes), -1)
    return np.asarray(values.real.reshape([len(p) for p in shifts]))


def start(shape: tuple[int, ...], *, n: int) -> dict[str, Array]:
    """Return zero shifts along ``n`` axes for particles of ``shape``."""
    return {"shift": np.zeros((*shape, n))}


def combine(s: dict[str, Array], t: dict[str, Array]) -> dict[str, Array]:
    """Add the shifts of two states: each particle's shift is non-zero in one of them."""
    s["shift"] += t["shift"]
    return s


def finish(state: State) -> dict[str, Array]:
    """Return the shifts."""
    return dict(state)

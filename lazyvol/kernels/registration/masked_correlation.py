"""Shift of a particle against a reference when both have masks.

The normalized cross-correlation at each shift over the voxels in both masks (Padfield, IEEE
Transactions on Image Processing 21, 2706, 2012): six correlations by Fourier transforms of
volumes padded by the longest shift.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels.arrays import particle_volumes
from lazyvol.kernels.geometry.affine import as_transform_float
from lazyvol.kernels.magnitude import exponent
from lazyvol.kernels.registration.phase_correlation import (
    ShiftSearch,
    State,
    centred,
    shift_lengths,
)

Array = np.ndarray[Any, np.dtype[Any]]
#: transforms of a mask, of the mean-free values in it, and of their squares
Spectra = tuple[Array, Array, Array]


def find_shifts(
    state: State, _: Sequence[int], block: Array, references: Array, mask: Array,
    reference_mask: Array, *, axes: Sequence[int], search: ShiftSearch, overlap: float,
) -> None:  # fmt: skip
    """Write the shift of every particle of a block into ``state["shift"]``, in the unit of
    ``search.step``.

    Shifts need an overlap of the masks of at least ``overlap`` times the largest one.
    """
    shifts, source = state["shift"], particle_volumes(block, axes)
    shape = source.shape[-3:]
    reach = longest_shifts(shape, search)
    padded = padded_shape(shape, reach)
    operands = [
        np.broadcast_to(particle_volumes(b, axes), source.shape)
        for b in (references, mask, reference_mask)
    ]
    dtype = np.result_type(as_transform_float(block[:0]), as_transform_float(references[:0]))
    cached: tuple[Any, Spectra] | None = None
    for index in np.ndindex(source.shape[:-3]):
        reference, particle_flags, reference_flags = (o[index] for o in operands)
        key = (
            reference.__array_interface__["data"], reference_flags.__array_interface__["data"],
        )  # fmt: skip
        if cached is None or cached[0] != key:
            cached = key, _spectra(reference, reference_flags, padded, dtype)
        particle = _spectra(source[index], particle_flags, padded, dtype)
        shift = _find_shift(particle, cached[1], padded, reach, search, overlap)
        shifts[index] = (shift * search.step)[3 - len(axes) :]


def longest_shifts(shape: Sequence[int], search: ShiftSearch) -> tuple[int, ...]:
    """Return the longest shift along each axis in voxels."""
    if search.limit == inf:
        return tuple(n - 1 for n in shape)
    limits = (search.limit / abs(s) + 1e-9 for s in search.step)
    return tuple(min(n - 1, int(r)) for n, r in zip(shape, limits, strict=True))


def padded_shape(shape: Sequence[int], reach: Sequence[int]) -> tuple[int, ...]:
    """Return the lengths of a box in which a volume fits at every shift."""
    return tuple(
        scipy.fft.next_fast_len(n + r, real=True) for n, r in zip(shape, reach, strict=True)
    )


def _spectra(volume: Array, flags: Array, padded: Sequence[int], dtype: np.dtype[Any]) -> Spectra:
    """Transform a mask, the mean-free values in it, and their squares.

    Values are brought near 1 by a power of two, which leaves coefficients unchanged: float32
    squares of squares of 1e9 overflow.
    """
    inside = np.asarray(flags, bool)
    selected = centred(np.asarray(volume)[inside])
    values = np.zeros(volume.shape)
    values[inside] = np.ldexp(selected, -exponent(selected))
    ones, first, second = (
        scipy.fft.rfftn(v.astype(dtype), padded, workers=1)
        for v in (np.array(flags, np.float64), values, values * values)
    )
    return ones, first, second


def _find_shift(
    particle: Spectra,
    reference: Spectra,
    padded: Sequence[int],
    reach: Sequence[int],
    search: ShiftSearch,
    overlap: float,
) -> Array:
    """Return the shift in voxels of the highest coefficient; NaN if none is defined."""
    shifts = [np.arange(-r, r + 1) for r in reach]
    window = np.ix_(*shifts)

    def correlate(a: Array, b: Array) -> Array:
        """Sum a(i) b(i + shift) over the voxels i."""
        return np.asarray(scipy.fft.irfftn(np.conj(a) * b, padded, workers=1)[window])

    values, count = _coefficients(particle, reference, correlate)
    least = max(overlap * count.max(initial=0.0), 0.5)
    values[(count < least) | (shift_lengths(shifts, search.step) > search.limit)] = -inf
    peak = np.unravel_index(int(np.argmax(values)), values.shape)
    if not np.isfinite(values[peak]):
        return np.full(3, np.nan)
    shift = np.array([p[i] for p, i in zip(shifts, peak, strict=True)], np.float64)
    return shift if search.upsample == 1 else shift + _parabola_top(values, peak, search.upsample)


def _coefficients(
    particle: Spectra, reference: Spectra, correlate: Callable[[Array, Array], Array]
) -> tuple[Array, Array]:
    """Return the correlation coefficient at every shift (-inf if undefined) and its number of
    voxels."""
    ones, first, second = particle
    count = np.rint(correlate(ones, reference[0]))
    n = np.maximum(count, 1.0)
    particle_sum, reference_sum = correlate(first, reference[0]), correlate(ones, reference[1])
    product = correlate(first, reference[1]) - particle_sum * reference_sum / n
    spread = np.maximum(correlate(second, reference[0]) - particle_sum * particle_sum / n, 0.0)
    spread *= np.maximum(correlate(ones, reference[2]) - reference_sum * reference_sum / n, 0.0)
    np.sqrt(spread, out=spread)
    defined = spread > 1e3 * np.finfo(spread.dtype).eps * spread.max(initial=0.0)
    return np.divide(product, spread, out=np.full_like(spread, -inf), where=defined), count


def _parabola_top(values: Array, peak: Sequence[Any], upsample: int) -> Array:
    """Return the offset from a peak to the top of the parabola through it and its neighbours,
    along each axis, rounded to ``1 / upsample`` of a voxel."""
    offset = np.zeros(3)
    for axis, at in enumerate(peak):
        line = values[tuple(slice(None) if a == axis else p for a, p in enumerate(peak))]
        if 0 < at < len(line) - 1 and np.isfinite(line[at - 1 : at + 2]).all():
            low, top, high = line[at - 1 : at + 2]
            curvature = low - 2 * top + high
            offset[axis] = 0.5 * (low - high) / curvature if curvature < 0 else 0.0
    return np.asarray(np.rint(offset * upsample) / upsample)

"""Shift of a particle against a reference where some voxels of both do not count.

Normalised cross-correlation over the voxels that both have at each shift (Padfield, IEEE
Transactions on Image Processing 21, 2706, 2012): six correlations by Fourier transforms of
volumes that are padded by the longest shift.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels.arrays import particle_volumes
from lazyvol.kernels.geometry.translation import centred, exponent, working
from lazyvol.kernels.registration.phase_correlation import Search, State, distances

Array = np.ndarray[Any, np.dtype[Any]]
Spectra = tuple[Array, Array, Array]


def find(
    state: State, _: Sequence[int], block: Array, references: Array, mask: Array,
    reference_mask: Array, *, axes: Sequence[int], search: Search, overlap: float,
) -> None:  # fmt: skip
    """Shift of every particle of a block into ``state["shift"]``, in the unit of ``step``.

    ``overlap`` is the least part of the largest overlap of both masks that a shift may have.
    """
    found, source = state["shift"], particle_volumes(block, axes)
    shape = source.shape[-3:]
    reach = reaches(shape, search)
    padded = padding(shape, reach)
    others = [
        np.broadcast_to(particle_volumes(b, axes), source.shape)
        for b in (references, mask, reference_mask)
    ]
    dtype = np.result_type(working(block[:0]), working(references[:0]))
    against: tuple[Any, Spectra] | None = None
    for index in np.ndindex(source.shape[:-3]):
        reference, flags, allowed = (o[index] for o in others)
        key = reference.__array_interface__["data"], allowed.__array_interface__["data"]
        if against is None or against[0] != key:
            against = key, _spectra(reference, allowed, padded, dtype)
        own = _spectra(source[index], flags, padded, dtype)
        shift = _shift(own, against[1], padded, reach, search, overlap)
        found[index] = (shift * search.step)[3 - len(axes) :]


def reaches(shape: Sequence[int], search: Search) -> tuple[int, ...]:
    """The longest shift in voxels along each axis."""
    if search.limit == inf:
        return tuple(n - 1 for n in shape)
    found = (search.limit / abs(s) + 1e-9 for s in search.step)
    return tuple(min(n - 1, int(r)) for n, r in zip(shape, found, strict=True))


def padding(shape: Sequence[int], reach: Sequence[int]) -> tuple[int, ...]:
    """Lengths that hold a volume at every shift."""
    return tuple(
        scipy.fft.next_fast_len(n + r, real=True) for n, r in zip(shape, reach, strict=True)
    )


def _spectra(volume: Array, flags: Array, padded: Sequence[int], dtype: np.dtype[Any]) -> Spectra:
    """Spectra of the voxels that count, of their values about their mean, and of the squares.

    Values are brought near 1 by a power of two: coefficients do not depend on it, and squares of
    float32 squares of 1e9 overflow.
    """
    counted = np.array(flags, np.float64)
    own = centred(np.asarray(volume)[np.asarray(flags, bool)])
    values = np.zeros(volume.shape)
    values[np.asarray(flags, bool)] = np.ldexp(own, -exponent(own))
    ones, first, second = (
        scipy.fft.rfftn(v.astype(dtype), padded, workers=1)
        for v in (counted, values, values * values)
    )
    return ones, first, second


def _shift(
    own: Spectra,
    against: Spectra,
    padded: Sequence[int],
    reach: Sequence[int],
    search: Search,
    overlap: float,
) -> Array:
    places = [np.arange(-r, r + 1) for r in reach]
    window = np.ix_(*places)

    def correlated(a: Array, b: Array) -> Array:
        """Sum over voxels i of a(i) b(i + shift)."""
        return np.asarray(scipy.fft.irfftn(np.conj(a) * b, padded, workers=1)[window])

    values, count = _coefficient(own, against, correlated)
    least = overlap * count.max(initial=0.0)
    values[(count < max(least, 0.5)) | (distances(places, search.step) > search.limit)] = -inf
    peak = np.unravel_index(int(np.argmax(values)), values.shape)
    if not np.isfinite(values[peak]):
        return np.full(3, np.nan)
    found = np.array([p[i] for p, i in zip(places, peak, strict=True)], np.float64)
    return found if search.upsample == 1 else found + _part(values, peak, search.upsample)


def _coefficient(
    own: Spectra, against: Spectra, correlated: Callable[[Array, Array], Array]
) -> tuple[Array, Array]:
    """Correlation coefficient at every shift, -inf where there is none, and voxels it is of."""
    ones, first, second = own
    count = np.rint(correlated(ones, against[0]))
    n = np.maximum(count, 1.0)
    here, there = correlated(first, against[0]), correlated(ones, against[1])
    product = correlated(first, against[1]) - here * there / n
    spread = np.maximum(correlated(second, against[0]) - here * here / n, 0.0)
    spread *= np.maximum(correlated(ones, against[2]) - there * there / n, 0.0)
    np.sqrt(spread, out=spread)
    some = spread > 1e3 * np.finfo(spread.dtype).eps * spread.max(initial=0.0)
    return np.divide(product, spread, out=np.full_like(spread, -inf), where=some), count


def _part(values: Array, peak: Sequence[Any], upsample: int) -> Array:
    """Part of a voxel from a peak to the top of a parabola through it and its neighbours."""
    found = np.zeros(3)
    for axis, at in enumerate(peak):
        line = values[tuple(slice(None) if a == axis else p for a, p in enumerate(peak))]
        if 0 < at < len(line) - 1 and np.isfinite(line[at - 1 : at + 2]).all():
            low, top, high = line[at - 1 : at + 2]
            bend = low - 2 * top + high
            found[axis] = 0.5 * (low - high) / bend if bend < 0 else 0.0
    return np.asarray(np.rint(found * upsample) / upsample)

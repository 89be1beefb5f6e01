"""Equalize values by the distribution of their particle or stack; map values to grey levels.

Values that do not count (NaN, excluded values, voxels outside a mask) remain unchanged.
"""

from collections.abc import Iterator, Sequence
from math import erfc, factorial, pi, sqrt
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import numba_compatible, read_only
from lazyvol.kernels.magnitude import require_exact
from lazyvol.kernels.reductions import histogram

Array = np.ndarray[Any, np.dtype[Any]]
Limits = tuple[float, float]

#: the normal distribution function is tabulated up to REACH deviations (beyond, it is 0 or 1 to
#: 1e-16) at STEPS points per deviation, as a Taylor series of degree ORDER: exact to 2e-16, 140
#: million values a second against 90 with erfc of the C library
REACH, STEPS, ORDER = 8.25, 32, 7
#: largest number of bins per unit: for values below 2**-1022 it would overflow
MOST_PER_UNIT = 1e300


def _normal_table() -> Array:
    """Return Taylor coefficients of the normal distribution function at every tabulated point."""
    z = np.arange(int(2 * REACH * STEPS) + 1) / STEPS - REACH
    coefficients = np.empty((z.size, ORDER + 1))
    coefficients[:, 0] = [0.5 * erfc(-v / sqrt(2.0)) for v in z]
    density = np.exp(-z * z / 2) / sqrt(2 * pi)
    previous, hermite = np.zeros(z.size), np.ones(z.size)
    for n in range(1, ORDER + 1):  # the n-th derivative is He(n - 1) of -z times the density
        coefficients[:, n] = hermite * density / factorial(n)
        previous, hermite = hermite, -z * hermite - (n - 1) * previous
    return coefficients


NORMAL = _normal_table()


def counted(block: Array, mask: Array | None = None, *, exclude: Sequence[float]) -> Array:
    """Return True for each value that is not NaN, not excluded and in the mask."""
    flags = ~np.isnan(block) if block.dtype.kind == "f" else np.ones(block.shape, bool)
    for value in exclude:
        flags &= block != value
    if mask is not None:
        flags &= mask
    return flags


def display(block: Array, low: Array, high: Array) -> Array:
    """Return grey levels: 0 up to ``low``, 255 from ``high``, linear in between; NaN is 0."""
    require_exact("display", block)
    out = np.empty(block.shape, np.uint8)
    for place, lowest in _each_element(low):
        values = _flattened(block[place])
        levels = np.empty(values.size, np.uint8)
        _grey_levels(levels, values, float(lowest), float(high[place].item()))
        out[place] = levels.reshape(out[place].shape)
    return out


def gaussian_stretch(
    block: Array, mean: Array, std: Array, mask: Array | None = None, *, n: float,
    exclude: Sequence[float], limits: Limits, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return the normal distribution function of each value, scaled to ``limits``."""
    stretched = np.empty(block.shape, np.promote_types(dtype, np.float32))
    for place, centre in _each_element(mean):
        values = _flattened(block[place])
        shares = np.empty(values.size, stretched.dtype)
        width = n * float(std[place].item())
        _normal_shares(shares, values, float(centre), width, *limits, NORMAL)
        stretched[place] = shares.reshape(stretched[place].shape)
    return _with_uncounted(stretched, block, mask, exclude, dtype)


def equalize(
    block: Array, counts: Array, edges: Array, mask: Array | None = None, *,
    exclude: Sequence[float], limits: Limits, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Equalize values (..., bin, edge), the last two of length 1, by one histogram."""
    values, flags = block[..., 0, 0], None if mask is None else mask[..., 0, 0]
    equalized = _cumulative_share(values, counts.ravel(), edges.ravel(), limits, dtype)
    return _with_uncounted(equalized, values, flags, exclude, dtype)


def equalize_particles(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], bins: int,
    extent: Limits | None, exclude: Sequence[float], limits: Limits, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Equalize every particle by its own histogram, within ``extent`` or its own range."""
    out = np.empty(block.shape, dtype)
    lengths = [1 if a in axes else n for a, n in enumerate(block.shape)]
    for place, _ in _each_element(np.empty(lengths, bool)):
        values, flags = block[place], _broadcast_part(mask, place)
        valid = counted(values, flags, exclude=exclude)
        bounds = _extent(values, valid) if extent is None else extent
        state = histogram.start((), bins=bins)
        whole, edges = tuple(range(values.ndim)), histogram.bin_edges(*bounds, bins)
        histogram.update(state, whole, values, valid, masked=True, edges=edges)
        equalized = _cumulative_share(values, state["counts"], edges, limits, dtype)
        out[place] = _with_uncounted(equalized, values, flags, exclude, dtype)
    return out


def _broadcast_part(mask: Array | None, place: tuple[slice, ...]) -> Array | None:
    """Return the part of a mask that broadcasts to ``place`` in the block."""
    if mask is None:
        return None
    return mask[tuple(slice(None) if n == 1 else s for s, n in zip(place, mask.shape, strict=True))]


def _extent(values: Array, valid: Array) -> Limits:
    """Return the smallest and the largest finite value among those that count."""
    state = histogram.start_extent(())
    histogram.update_extent(state, tuple(range(values.ndim)), values, valid)
    extent = histogram.finish_extent(state, bins=1)
    return float(extent["low"]), float(extent["high"])


def _each_element(table: Array) -> Iterator[tuple[tuple[slice, ...], Any]]:
    """Yield each element of a table, with its place in an array that the table broadcasts to."""
    for index in np.ndindex(table.shape):
        place = tuple(
            slice(None) if n == 1 else slice(i, i + 1)
            for i, n in zip(index, table.shape, strict=True)
        )
        yield place, table[index]


def _flattened(values: Array) -> Array:
    """Return contiguous values along one axis, in a dtype that numba has."""
    return read_only(np.ascontiguousarray(numba_compatible(values)).reshape(-1))


def _cumulative_share(
    values: Array, counts: Array, edges: Array, limits: Limits, dtype: np.dtype[Any]
) -> Array:
    """Interpolate between points (centre of a bin, share of the counts up to this bin)."""
    total = counts.sum()
    if total == 0:
        return values.astype(np.promote_types(dtype, np.float32))
    low, high = limits
    shares = np.cumsum(counts) / total
    heights = low * (1.0 - shares) + high * shares
    out = np.empty(values.shape, np.promote_types(dtype, np.float32))
    _interpolate(out.reshape(-1), _flattened(values), (edges[1:] + edges[:-1]) / 2, heights)
    return out


def _with_uncounted(
    result: Array, block: Array, mask: Array | None, exclude: Sequence[float], dtype: np.dtype[Any]
) -> Array:
    """Return ``result`` with the values of the block where they do not count (NaN is in both)."""
    if mask is not None or exclude:
        np.copyto(result, block, where=~counted(block, mask, exclude=exclude), casting="unsafe")
    return result.astype(dtype, copy=False)


@compiled
def _grey_levels(out, values, low, high):  # type: ignore[no-untyped-def]
    width = high - low
    for i in range(out.size):
        v = np.float64(values[i])
        if v >= high:
            out[i] = 255 if v > low else 0
        elif v > low:
            out[i] = np.uint8(np.rint((v - low) / width * 255.0))
        else:
            out[i] = 0


@compiled
def _normal_shares(out, values, mean, width, low, high, table):  # type: ignore[no-untyped-def]
    """Evaluate the normal distribution function by the Taylor series of the nearest point."""
    last = table.shape[0] - 1
    for i in range(out.size):
        deviation = np.float64(values[i]) - mean
        z = deviation / width if width != 0.0 else deviation
        if not (abs(z) < REACH):
            share = 1.0 if z > 0.0 else 0.0 if z < 0.0 else z
        else:
            row = min(int((z + REACH) * STEPS + 0.5), last)
            d = z - (row / STEPS - REACH)
            share = table[row, ORDER]
            for term in range(ORDER - 1, -1, -1):
                share = share * d + table[row, term]
        out[i] = low * (1.0 - share) + high * share


@compiled
def _interpolate(out, values, centres, heights):  # type: ignore[no-untyped-def]
    """Interpolate as ``numpy.interp``; points are about evenly spaced, so located by division."""
    last = centres.size - 1
    first = centres[0]
    span = centres[last] - first
    per_unit = min(last / span, MOST_PER_UNIT) if span > 0.0 else 0.0
    for i in range(out.size):
        v = np.float64(values[i])
        if v >= centres[last]:
            out[i] = heights[last]
        elif v != v:
            out[i] = v
        elif v > first:
            place = (v - first) * per_unit
            j = int(place) if place < last - 1 else last - 1
            while v < centres[j]:
                j -= 1
            while v >= centres[j + 1]:
                j += 1
            share = (v - centres[j]) / (centres[j + 1] - centres[j])
            out[i] = share * (heights[j + 1] - heights[j]) + heights[j]
        else:
            out[i] = heights[0]

"""Grey levels through the curve of their own distribution, and scaled for a picture.

What is not counted (NaN, excluded values, voxels outside a mask) is handed on as it is.
"""

from collections.abc import Iterator, Sequence
from math import erfc, factorial, pi, sqrt
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import numba_compatible, read_only
from lazyvol.kernels.reductions import histogram

Array = np.ndarray[Any, np.dtype[Any]]
Ends = tuple[float, float]

#: the normal distribution is tabulated to this many deviations, beyond which it is 0 or 1 to
#: 1e-16, so many times per deviation, with as many terms of its series: together right to 2e-16.
#: (140 million a second; with erfc of the C library 90)
REACH, STEPS, ORDER = 8.25, 32, 7


def _normal_table() -> Array:
    """Coefficients of the normal distribution's Taylor series about every tabulated point."""
    z = np.arange(int(2 * REACH * STEPS) + 1) / STEPS - REACH
    found = np.empty((z.size, ORDER + 1))
    found[:, 0] = [0.5 * erfc(-v / sqrt(2.0)) for v in z]
    density = np.exp(-z * z / 2) / sqrt(2 * pi)
    before, hermite = np.zeros(z.size), np.ones(z.size)
    for n in range(1, ORDER + 1):  # the n-th derivative is He(n - 1) of -z times the density
        found[:, n] = hermite * density / factorial(n)
        before, hermite = hermite, -z * hermite - (n - 1) * before
    return found


NORMAL = _normal_table()


def counted(block: Array, mask: Array | None = None, *, exclude: Sequence[float]) -> Array:
    """Whether each value is a number, is not excluded, and lies in the mask."""
    found = ~np.isnan(block) if block.dtype.kind == "f" else np.ones(block.shape, bool)
    for value in exclude:
        found &= block != value
    if mask is not None:
        found &= mask
    return found


def display(block: Array, low: Array, high: Array) -> Array:
    """``low`` and less as 0, ``high`` and more as 255, straight between them; NaN as 0."""
    out = np.empty(block.shape, np.uint8)
    for place, found in _where_one(low):
        values = _flat(block[place])
        shown = np.empty(values.size, np.uint8)
        _shown(shown, values, float(found), float(high[place].item()))
        out[place] = shown.reshape(out[place].shape)
    return out


def gaussian(
    block: Array, mean: Array, std: Array, mask: Array | None = None, *, n: float,
    exclude: Sequence[float], ends: Ends, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """The normal distribution's share below each value, from ``ends[0]`` to ``ends[1]``."""
    made = np.empty(block.shape, np.promote_types(dtype, np.float32))
    for place, found in _where_one(mean):
        values = _flat(block[place])
        shares = np.empty(values.size, made.dtype)
        _shares(shares, values, float(found), n * float(std[place].item()), *ends, NORMAL)
        made[place] = shares.reshape(made[place].shape)
    return _handed_on(made, block, mask, exclude, dtype)


def equalised(
    block: Array, counts: Array, edges: Array, mask: Array | None = None, *,
    exclude: Sequence[float], ends: Ends, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Values (..., bin, edge) of length 1 through the cumulated ``counts`` between ``edges``."""
    values, flags = block[..., 0, 0], None if mask is None else mask[..., 0, 0]
    made = _through(values, counts.ravel(), edges.ravel(), ends, dtype)
    return _handed_on(made, values, flags, exclude, dtype)


def equalised_particles(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], bins: int,
    extent: Ends | None, exclude: Sequence[float], ends: Ends, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Every particle (``axes``) through its own distribution, within ``extent`` or its range."""
    out = np.empty(block.shape, dtype)
    lengths = [1 if a in axes else n for a, n in enumerate(block.shape)]
    for place, _ in _where_one(np.empty(lengths, bool)):
        values, flags = block[place], _part(mask, place)
        valid = counted(values, flags, exclude=exclude)
        limits = _extent(values, valid) if extent is None else extent
        state = histogram.start((), bins=bins)
        whole = tuple(range(values.ndim))
        histogram.update(state, whole, values, valid, masked=True, ends=limits)
        made = _through(values, state["counts"], histogram.edges_of(*limits, bins), ends, dtype)
        out[place] = _handed_on(made, values, flags, exclude, dtype)
    return out


def _part(mask: Array | None, place: tuple[slice, ...]) -> Array | None:
    """The part of a mask at a place in the block that it broadcasts to."""
    if mask is None:
        return None
    return mask[tuple(slice(None) if n == 1 else s for s, n in zip(place, mask.shape, strict=True))]


def _extent(values: Array, valid: Array) -> Ends:
    """Least and greatest finite value among those that count."""
    state = histogram.start_ends(())
    histogram.update_ends(state, tuple(range(values.ndim)), values, valid)
    found = histogram.finish_ends(state, bins=1)
    return float(found["low"]), float(found["high"])


def _where_one(facts: Array) -> Iterator[tuple[tuple[slice, ...], Any]]:
    """Each element of an array, and its place in an array that it broadcasts to."""
    for index in np.ndindex(facts.shape):
        place = tuple(
            slice(None) if n == 1 else slice(i, i + 1)
            for i, n in zip(index, facts.shape, strict=True)
        )
        yield place, facts[index]


def _flat(values: Array) -> Array:
    """Values in a row, in a dtype that compiled code knows."""
    return read_only(np.ascontiguousarray(numba_compatible(values)).reshape(-1))


def _through(values: Array, counts: Array, edges: Array, ends: Ends, dtype: np.dtype[Any]) -> Array:
    """Values on the line through (bin's centre, share up to and with that bin)."""
    total = counts.sum()
    if total == 0:
        return values.astype(np.promote_types(dtype, np.float32))
    low, high = ends
    shares = np.cumsum(counts) / total
    heights = low * (1.0 - shares) + high * shares
    out = np.empty(values.shape, np.promote_types(dtype, np.float32))
    _on_line(out.reshape(-1), _flat(values), (edges[1:] + edges[:-1]) / 2, heights)
    return out


def _handed_on(
    made: Array, block: Array, mask: Array | None, exclude: Sequence[float], dtype: np.dtype[Any]
) -> Array:
    """``made`` where it counts, the block elsewhere; NaN is in both."""
    if mask is not None or exclude:
        np.copyto(made, block, where=~counted(block, mask, exclude=exclude), casting="unsafe")
    return made.astype(dtype, copy=False)


@compiled
def _shown(out, values, low, high):  # type: ignore[no-untyped-def]
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
def _shares(out, values, mean, width, low, high, table):  # type: ignore[no-untyped-def]
    """The normal distribution by Taylor series about the nearest row of its ``table``."""
    last = table.shape[0] - 1
    for i in range(out.size):
        away = np.float64(values[i]) - mean
        z = away / width if width != 0.0 else away
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
def _on_line(out, values, centres, heights):  # type: ignore[no-untyped-def]
    """``numpy.interp`` between points of about equal distances, found by division."""
    last = centres.size - 1
    first = centres[0]
    each = last / (centres[last] - first) if last > 0 else 0.0
    for i in range(out.size):
        v = np.float64(values[i])
        if v >= centres[last]:
            out[i] = heights[last]
        elif v != v:
            out[i] = v
        elif v > first:
            j = min(int((v - first) * each), last - 1)
            while v < centres[j]:
                j -= 1
            while v >= centres[j + 1]:
                j += 1
            slope = (heights[j + 1] - heights[j]) / (centres[j + 1] - centres[j])
            out[i] = slope * (v - centres[j]) + heights[j]
        else:
            out[i] = heights[0]

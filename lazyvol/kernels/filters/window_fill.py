"""Share of nonzero elements in every window, at a cost that does not depend on its size.

Counts are integers, so elements that leave the window cancel exactly. All three axes are summed in
one pass, with a plane of counts along the first and a row of counts along the second, both small
enough for the caches. With ``sliding_window.mean`` of flags, which takes 1.6 to 3.7 times as long
(6.9 ns per voxel against 2.9 for 9^3), ``density.local`` would be 6.6 times as fast as scipy; it is
8 times as fast.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import numba_compatible, read_only

Array = np.ndarray[Any, np.dtype[Any]]

#: most axes that a window may have
MAX_AXES = 3


def fill_same(block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return ``fill_valid`` of a block whose halo is ``size // 2`` on both sides."""
    needed = tuple(slice(0, n - (s % 2 == 0)) for n, s in zip(block.shape, sizes, strict=True))
    return fill_valid(block[needed], sizes=sizes, dtype=dtype)


def fill_valid(block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return the share of nonzero elements (NaN is one) in every window of ``sizes`` in the block.

    At most three of ``sizes`` are above 1; the result is shorter by ``size - 1`` along each axis.
    """
    axes = _window_axes(sizes)
    order = [a for a in range(block.ndim) if a not in axes] + axes
    ordered = numba_compatible(block).transpose(order)
    kept = [block.shape[a] - sizes[a] + 1 for a in order]
    lead, missing = block.ndim - len(axes), (1,) * (MAX_AXES - len(axes))
    values = np.ascontiguousarray(ordered).reshape(
        prod(ordered.shape[:lead]), *missing, *ordered.shape[lead:]
    )
    wide = np.promote_types(dtype, np.float32)  # numba has no float16
    out = np.empty((prod(kept[:lead]), *missing, *kept[lead:]), wide)
    if out.size:
        window = (*missing, *(sizes[a] for a in axes))
        _slide(read_only(values), window, float(prod(sizes)), out)
    shares = out.reshape(kept).transpose(np.argsort(order))
    return shares.astype(dtype, copy=False)


def _window_axes(sizes: Sequence[int]) -> list[int]:
    """Return the axes of the window and the last others, up to three, so that few are moved."""
    axes = [a for a, n in enumerate(sizes) if n > 1]
    others = [a for a in reversed(range(len(sizes))) if a not in axes]
    return sorted(axes + others[: MAX_AXES - len(axes)])


@compiled
def _slide(values, window, count, out):  # type: ignore[no-untyped-def]
    """Slide a window (z, y, x) along the last three axes of four."""
    depth, height, width = window
    rows, columns = values.shape[2], values.shape[3]
    plane_counts = np.empty((rows, columns), np.int32)
    row_counts, totals = np.empty(columns, np.int32), np.empty(out.shape[3], np.int32)
    plus, minus = np.int32(1), np.int32(-1)
    for lead in range(values.shape[0]):
        plane_counts[:] = 0
        for z in range(values.shape[1]):
            for y in range(rows):
                _count_nonzero(plane_counts[y], values[lead, z, y], plus)
            if z < depth - 1:
                continue
            row_counts[:] = 0
            for y in range(rows):
                _add_counts(row_counts, plane_counts[y], plus)
                if y < height - 1:
                    continue
                _sum_neighbours(row_counts, width, totals)
                _divide(totals, count, out[lead, z - depth + 1, y - height + 1])
                _add_counts(row_counts, plane_counts[y - height + 1], minus)
            for y in range(rows):
                _count_nonzero(plane_counts[y], values[lead, z - depth + 1, y], minus)


@compiled
def _count_nonzero(counts, values, sign):  # type: ignore[no-untyped-def]
    zero = np.int32(0)
    for x in range(counts.size):
        counts[x] += sign if values[x] != 0 else zero


@compiled
def _add_counts(counts, others, sign):  # type: ignore[no-untyped-def]
    for x in range(counts.size):
        counts[x] += sign * others[x]


@compiled
def _sum_neighbours(row, width, totals):  # type: ignore[no-untyped-def]
    """Sum ``width`` neighbours from each element on."""
    total = np.int32(0)
    for x in range(width):
        total += row[x]
    totals[0] = total
    for x in range(1, totals.size):
        total += row[x + width - 1] - row[x - 1]
        totals[x] = total


@compiled
def _divide(totals, count, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = totals[x] / count

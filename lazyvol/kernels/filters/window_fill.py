"""How full every window of a block is, at a cost that does not depend on the window's size.

Counts are whole numbers, so that what enters a window and what leaves it cancel without error,
and NaN (which is not 0) stays where it is. The three axes are taken in one walk: a plane of
counts along the first, a row of them along the second, both small enough for the caches: 2 to 4
times as fast as means of flags (``running.means``), which take each axis by itself.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import numba_compatible, read_only

Array = np.ndarray[Any, np.dtype[Any]]

#: axes that a window may have
MOST = 3


def same(block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """``fractions`` of a block whose halo is ``size // 2`` on both sides."""
    needed = tuple(slice(0, n - (s % 2 == 0)) for n, s in zip(block.shape, sizes, strict=True))
    return fractions(block[needed], sizes=sizes, dtype=dtype)


def fractions(block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Share of the elements that are not 0 in every window of ``sizes`` within the block.

    At most three of ``sizes`` are above 1; the result is shorter by ``size - 1`` along each axis.
    """
    order, window = _last_three(sizes)
    turned = numba_compatible(block).transpose(order)
    shape = [n - w + 1 for n, w in zip(block.shape, sizes, strict=True)]
    kept = [shape[a] for a in order]
    lead = prod(kept[: len(kept) - len(window)])
    blank = (1,) * (MOST - len(window))
    values = read_only(np.ascontiguousarray(turned)).reshape(
        (lead, *blank, *turned.shape[len(kept) - len(window) :])
    )
    wide = np.promote_types(dtype, np.float32)  # compiled code has no float16
    out = np.empty((lead, *blank, *kept[len(kept) - len(window) :]), wide)
    if out.size:
        _slide(read_only(values), (*blank, *window), float(prod(sizes)), out)
    found = out.reshape(kept).transpose(np.argsort(order))
    return found.astype(dtype, copy=False)


def _last_three(sizes: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """An order of the axes that brings those of the window to the end, and its sizes there."""
    taken = [a for a, n in enumerate(sizes) if n > 1]
    last = len(sizes) - 1
    while len(taken) < min(MOST, len(sizes)) and last >= 0:  # as few axes are moved as can be
        taken = sorted({*taken, last})
        last -= 1
    order = [a for a in range(len(sizes)) if a not in taken] + taken
    return order, tuple(sizes[a] for a in taken)


@compiled
def _slide(values, window, count, out):  # type: ignore[no-untyped-def]
    """Windows (z, y, x) along the last three axes of four."""
    depth, height, width = window
    rows, columns = values.shape[2], values.shape[3]
    plane = np.empty((rows, columns), np.int32)
    row, found = np.empty(columns, np.int32), np.empty(out.shape[3], np.int32)
    for lead in range(values.shape[0]):
        plane[:] = 0
        for z in range(values.shape[1]):
            for y in range(rows):
                _enter(plane[y], values[lead, z, y])
            if z < depth - 1:
                continue
            row[:] = 0
            for y in range(rows):
                _add(row, plane[y])
                if y < height - 1:
                    continue
                _along(row, width, found)
                _divided(found, count, out[lead, z - depth + 1, y - height + 1])
                _subtract(row, plane[y - height + 1])
            for y in range(rows):
                _leave(plane[y], values[lead, z - depth + 1, y])


@compiled
def _enter(counts, values):  # type: ignore[no-untyped-def]
    one, zero = np.int32(1), np.int32(0)
    for x in range(counts.size):
        counts[x] += one if values[x] != 0 else zero


@compiled
def _leave(counts, values):  # type: ignore[no-untyped-def]
    one, zero = np.int32(1), np.int32(0)
    for x in range(counts.size):
        counts[x] -= one if values[x] != 0 else zero


@compiled
def _add(counts, others):  # type: ignore[no-untyped-def]
    for x in range(counts.size):
        counts[x] += others[x]


@compiled
def _subtract(counts, others):  # type: ignore[no-untyped-def]
    for x in range(counts.size):
        counts[x] -= others[x]


@compiled
def _along(row, width, found):  # type: ignore[no-untyped-def]
    """Sums of ``width`` neighbours."""
    total = np.int32(0)
    for x in range(width):
        total += row[x]
    found[0] = total
    for x in range(1, found.size):
        total += row[x + width - 1] - row[x - 1]
        found[x] = total


@compiled
def _divided(found, count, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = found[x] / count

"""Blocks of an array reduced to one number each: the share that is not 0, and the mean.

Rows that end up in the same row of the result are taken four at a time, each its own stretch of
memory, so that the loop stores once for four loads: 32 of 39 GB/s that two threads can read
(float32, blocks of 4^3); row after row into a buffer it was 20.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from math import prod
from operator import add
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from lazyvol.kernels.compiled import compiled
from lazyvol.kernels.counting import frozen, plain

Array = np.ndarray[Any, np.dtype[Any]]

#: elements of one stretch: longer ones would not stay in the first caches beside their sums
RUN = 2**14


def fractions(block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Share of the elements in each block of ``sizes`` that are not 0 (NaN is not)."""
    return _reduced(block, sizes, dtype, np.dtype(np.int32))


def means(block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Mean of the elements in each block of ``sizes``, summed in float64."""
    return _reduced(block, sizes, dtype, np.dtype(np.float64))


def _reduced(
    block: Array, sizes: Sequence[int], dtype: np.dtype[Any], sums: np.dtype[Any]
) -> Array:
    """Every block of ``sizes``; those at the end of an axis may be shorter."""
    values = _readable(block)
    wide = np.promote_types(dtype, np.float32)  # compiled code has no float16
    shape = tuple(-(-n // f) for n, f in zip(block.shape, sizes, strict=True))
    out = np.empty(shape, wide)
    if out.size:
        for combo in product(*map(_spans, block.shape, sizes)):
            target, source, piece = zip(*combo, strict=True)
            out[target] = _of_one_size(values[source], piece, wide, sums)
    return out.astype(dtype, copy=False)


def _spans(length: int, size: int) -> list[tuple[slice, slice, int]]:
    """Stretches of an axis cut into blocks of one size: in the result, in the array, the size."""
    full, rest = divmod(length, size)
    found = [(slice(0, full), slice(0, full * size), size)] if full else []
    return found + [(slice(full, full + 1), slice(full * size, length), rest)] * (rest > 0)


def _readable(block: Array) -> Array:
    """The same values in native byte order and a dtype that compiled code knows."""
    native = block.astype(block.dtype.newbyteorder("="), copy=False)
    return plain(native)


def _of_one_size(
    values: Array, sizes: Sequence[int], dtype: np.dtype[Any], sums: np.dtype[Any]
) -> Array:
    """Blocks that all have ``sizes``, which divide the shape."""
    last = max((a for a, f in enumerate(sizes) if f > 1), default=values.ndim - 1)
    values = _in_rows(values, last)
    shape, item = values.shape, values.itemsize
    steps = [s // item for s in values.strides]
    width = prod(shape[last + 1 :])
    row, before = shape[last] * width, last - 1
    # rows that follow each other in memory are one stretch
    together = last > 0 and steps[before] == row and sizes[before] * row <= RUN
    rows = sizes[before] if together else 1
    inner = [1 if together and a == before else f for a, f in enumerate(sizes[:last])]
    starts = [range(0, n, f) for n, f in zip(shape, sizes[:last], strict=False)]
    firsts = _offsets(starts, steps[:last])
    # the first axis fastest: four stretches at once are then in four pages of memory
    others = _offsets([range(f) for f in reversed(inner)], steps[:last][::-1])
    span = 1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    flat = frozen(as_strided(values, (span,), (item,)))
    out = np.empty((firsts.size, row // sizes[last]), dtype)
    run = np.empty((2, rows * row), sums)
    blank = frozen(np.zeros(rows * row, values.dtype))
    _fill(
        flat, blank, firsts, others, rows, row, sizes[last], width, float(prod(sizes)),
        sums.kind == "i", run[0], run[1], out,
    )  # fmt: skip
    return out.reshape([n // f for n, f in zip(shape, sizes, strict=True)])


def _in_rows(values: Array, last: int) -> Array:
    """``values``, copied where axes from ``last`` on are not contiguous or one runs backwards."""
    item, steps = values.itemsize, values.strides
    tail = np.empty(values.shape[last:], np.int8).strides
    together = all(
        s == t * item or n == 1
        for s, t, n in zip(steps[last:], tail, values.shape[last:], strict=True)
    )
    forward = all(s >= 0 and s % item == 0 for s in steps)
    return values if together and forward else np.ascontiguousarray(values)


def _offsets(places: Sequence[range], steps: Sequence[int]) -> Array:
    """Offsets into memory of all combinations of places along some axes, in C order."""
    axes = [np.array(p, np.int64) * s for p, s in zip(places, steps, strict=True)]
    return np.asarray(reduce(add, np.ix_(*axes), np.zeros((), np.int64))).ravel()


@compiled
def _fill(flat, blank, firsts, others, rows, row, size, width, count, counted, sums, half, out):  # type: ignore[no-untyped-def]
    """Every row of ``out`` out of stretches of ``rows`` rows at ``firsts`` + ``others``."""
    run, n = rows * row, others.size
    for i in range(firsts.size):
        for j in range(0, n, 4):
            a = firsts[i] + others[j]
            b = firsts[i] + others[min(j + 1, n - 1)]
            c = firsts[i] + others[min(j + 2, n - 1)]
            d = firsts[i] + others[min(j + 3, n - 1)]
            first = flat[a : a + run]
            second = flat[b : b + run] if j + 1 < n else blank
            third = flat[c : c + run] if j + 2 < n else blank
            fourth = flat[d : d + run] if j + 3 < n else blank
            if counted:
                _count(sums, first, second, third, fourth, j == 0)
            else:
                _sum(sums, first, second, third, fourth, j == 0)
        for r in range(1, rows):
            _add(sums[:row], sums[r * row : (r + 1) * row])
        _across(sums[:row], half, size, width, count, out[i])


@compiled
def _not_zero(value):  # type: ignore[no-untyped-def]
    return np.int32(1) if value != 0 else np.int32(0)


@compiled
def _count(sums, a, b, c, d, afresh):  # type: ignore[no-untyped-def]
    if afresh:
        for x in range(sums.size):
            sums[x] = (_not_zero(a[x]) + _not_zero(b[x])) + (_not_zero(c[x]) + _not_zero(d[x]))
    else:
        for x in range(sums.size):
            sums[x] += (_not_zero(a[x]) + _not_zero(b[x])) + (_not_zero(c[x]) + _not_zero(d[x]))


@compiled
def _sum(sums, a, b, c, d, afresh):  # type: ignore[no-untyped-def]
    f = np.float64
    if afresh:
        for x in range(sums.size):
            sums[x] = (f(a[x]) + f(b[x])) + (f(c[x]) + f(d[x]))
    else:
        for x in range(sums.size):
            sums[x] += (f(a[x]) + f(b[x])) + (f(c[x]) + f(d[x]))


@compiled
def _add(sums, others):  # type: ignore[no-untyped-def]
    for x in range(sums.size):
        sums[x] += others[x]


@compiled
def _across(sums, half, size, width, count, out):  # type: ignore[no-untyped-def]
    """Add ``size`` neighbours of a row, ``width`` elements apart, and divide by ``count``."""
    n = sums.size
    while width == 1 and size % 2 == 0:
        n //= 2
        for x in range(n):
            half[x] = sums[2 * x] + sums[2 * x + 1]
        sums[:n] = half[:n]
        size //= 2
    while width == 1 and size % 3 == 0:
        n //= 3
        for x in range(n):
            half[x] = sums[3 * x] + sums[3 * x + 1] + sums[3 * x + 2]
        sums[:n] = half[:n]
        size //= 3
    if size == 1:
        for x in range(n):
            out[x] = sums[x] / count
        return
    for x in range(n // (size * width)):
        for c in range(width):
            total = sums[x * size * width + c]
            for q in range(1, size):
                total += sums[(x * size + q) * width + c]
            out[x * width + c] = total / count

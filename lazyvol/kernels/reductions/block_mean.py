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

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import numba_compatible, read_only

Array = np.ndarray[Any, np.dtype[Any]]

#: elements of one stretch: longer ones would not stay in the first caches beside their sums
RUN = 2**14
#: unsigned indices need no look at their sign, which would keep loops out of vector registers;
#: views instead of indices take 8.3 ms where these take 5.1
UNSIGNED = np.uint64


def fractions(
    block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Share of the elements in each block of ``sizes`` that are not 0 (NaN is not).

    ``out`` is contiguous memory of the result's shape and dtype to make it in.
    """
    return _reduced(block, sizes, dtype, np.dtype(np.int32), out)


def means(
    block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Mean of the elements in each block of ``sizes``, summed in float64; ``out`` as for shares."""
    return _reduced(block, sizes, dtype, np.dtype(np.float64), out)


def _reduced(
    block: Array,
    sizes: Sequence[int],
    dtype: np.dtype[Any],
    sums: np.dtype[Any],
    out: Array | None,
) -> Array:
    """Every block of ``sizes``; those at the end of an axis may be shorter."""
    values = numba_compatible(block)
    wide = np.promote_types(dtype, np.float32)  # compiled code has no float16
    shape = tuple(-(-n // f) for n, f in zip(block.shape, sizes, strict=True))
    made = np.empty(shape, wide) if out is None or out.dtype != wide else out
    if made.size:
        for combo in product(*map(_spans, block.shape, sizes)):
            target, source, piece = zip(*combo, strict=True)
            place = made[target]
            if place.flags.c_contiguous:
                _of_one_size(values[source], piece, sums, place)
            else:
                place[...] = _of_one_size(values[source], piece, sums, np.empty(place.shape, wide))
    return made.astype(dtype, copy=False)


def _spans(length: int, size: int) -> list[tuple[slice, slice, int]]:
    """Stretches of an axis cut into blocks of one size: in the result, in the array, the size."""
    full, rest = divmod(length, size)
    found = [(slice(0, full), slice(0, full * size), size)] if full else []
    return found + [(slice(full, full + 1), slice(full * size, length), rest)] * (rest > 0)


def _of_one_size(values: Array, sizes: Sequence[int], sums: np.dtype[Any], out: Array) -> Array:
    """Blocks that all have ``sizes``, which divide the shape, in contiguous ``out``."""
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
    flat = read_only(as_strided(values, (span,), (item,)))
    run = np.empty((2, rows * row), sums)
    _fill(
        flat, firsts, others, rows, row, sizes[last], width, float(prod(sizes)),
        sums.kind == "i", run[0], run[1], out.reshape(firsts.size, row // sizes[last]),
    )  # fmt: skip
    return out


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
def _fill(flat, firsts, others, rows, row, size, width, count, counted, sums, half, out):  # type: ignore[no-untyped-def]
    """Every row of ``out`` out of stretches of ``rows`` rows at ``firsts`` + ``others``."""
    run, n = UNSIGNED(rows * row), others.size
    for i in range(firsts.size):
        for j in range(0, n, 4):
            a = UNSIGNED(firsts[i] + others[j])
            if n - j < 4:
                for o in range(j, n):
                    a = UNSIGNED(firsts[i] + others[o])
                    if counted:
                        _count_one(sums, flat, a, run, o > 0)
                    else:
                        _sum_one(sums, flat, a, run, o > 0)
                continue
            b = UNSIGNED(firsts[i] + others[j + 1])
            c = UNSIGNED(firsts[i] + others[j + 2])
            d = UNSIGNED(firsts[i] + others[j + 3])
            if counted:
                _count(sums, flat, a, b, c, d, run, j > 0)
            else:
                _sum(sums, flat, a, b, c, d, run, j > 0)
        for r in range(1, rows):
            _add(sums, UNSIGNED(r * row), UNSIGNED(row))
        _across(sums, half, row, size, width, count, out, UNSIGNED(i))


@compiled
def _not_zero(value):  # type: ignore[no-untyped-def]
    return np.int32(1) if value != 0 else np.int32(0)


@compiled
def _count(sums, x, a, b, c, d, run, more):  # type: ignore[no-untyped-def]
    """What is not 0 in four stretches of ``run``, ``more`` of it or the first of it."""
    for j in range(run):
        four = (_not_zero(x[a + j]) + _not_zero(x[b + j])) + (
            _not_zero(x[c + j]) + _not_zero(x[d + j])
        )
        sums[j] = sums[j] + four if more else four


@compiled
def _count_one(sums, x, a, run, more):  # type: ignore[no-untyped-def]
    for j in range(run):
        one = _not_zero(x[a + j])
        sums[j] = sums[j] + one if more else one


@compiled
def _sum(sums, x, a, b, c, d, run, more):  # type: ignore[no-untyped-def]
    """The same for sums."""
    f = np.float64
    for j in range(run):
        four = (f(x[a + j]) + f(x[b + j])) + (f(x[c + j]) + f(x[d + j]))
        sums[j] = sums[j] + four if more else four


@compiled
def _sum_one(sums, x, a, run, more):  # type: ignore[no-untyped-def]
    for j in range(run):
        one = np.float64(x[a + j])
        sums[j] = sums[j] + one if more else one


@compiled
def _add(sums, at, row):  # type: ignore[no-untyped-def]
    for j in range(row):
        sums[j] += sums[at + j]


@compiled
def _across(sums, half, row, size, width, count, out, i):  # type: ignore[no-untyped-def]
    """Add ``size`` neighbours of a row, ``width`` elements apart, and divide by ``count``."""
    n, two, three = UNSIGNED(row), UNSIGNED(2), UNSIGNED(3)
    one = UNSIGNED(1)
    while width == 1 and size % 2 == 0:
        n //= two
        for x in range(n):
            half[x] = sums[two * x] + sums[two * x + one]
        for x in range(n):
            sums[x] = half[x]
        size //= 2
    while width == 1 and size % 3 == 0:
        n //= three
        for x in range(n):
            half[x] = sums[three * x] + sums[three * x + one] + sums[three * x + two]
        for x in range(n):
            sums[x] = half[x]
        size //= 3
    if size == 1:
        for x in range(n):
            out[i, x] = sums[x] / count
        return
    wide, long = UNSIGNED(width), UNSIGNED(size)
    for x in range(n // (long * wide)):
        for c in range(wide):
            total = sums[x * long * wide + c]
            for q in range(one, long):
                total += sums[(x * long + q) * wide + c]
            out[i, x * wide + c] = total / count

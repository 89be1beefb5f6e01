"""Sum, least and greatest value of every window, at a cost that hardly grows with its size.

A window of 2 n (+ 1) values is joined of two of n (and a value): a window of any size takes about
log2(size) steps along an axis, all of them on few rows that stay in the cache. Nothing is ever
taken out of a sum again, so rounding does not add up along an axis, NaN and infinities reach as
far as their windows, and every value is the same bits in any block.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import allocate_output, kernel_float

Array = np.ndarray[Any, np.dtype[Any]]

SUM, LEAST, GREATEST = 0, 1, 2
#: values that are worked on together; with the steps' two buffers, of float64, 384 KiB
TILE = 2**14
#: values side by side above which a tile is a part of them, all along the axis
NARROW = 64


def means(
    block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Mean of every window of ``sizes`` within the block; sums are in float64."""
    between = np.promote_types(kernel_float(block.dtype), kernel_float(dtype))
    return _windows(block, sizes, SUM, between, np.dtype(dtype), out)


def minimum(block: Array, *, sizes: Sequence[int], out: Array | None = None) -> Array:
    """Least value of every window of ``sizes`` within the block; NaN where it has one."""
    return _windows(block, sizes, LEAST, _ordered(block.dtype), block.dtype, out)


def maximum(block: Array, *, sizes: Sequence[int], out: Array | None = None) -> Array:
    """Greatest value of every window of ``sizes`` within the block; NaN where it has one."""
    return _windows(block, sizes, GREATEST, _ordered(block.dtype), block.dtype, out)


def _ordered(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type in the same order that compiled code reads."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return kernel_float(dtype) if dtype.kind == "f" else dtype.newbyteorder("=")


def _windows(
    block: Array, sizes: Sequence[int], what: int, between: np.dtype[Any], dtype: np.dtype[Any],
    out: Array | None,
) -> Array:  # fmt: skip
    """Windows of every volume after the other, along one axis after the other and in place."""
    kept = tuple(max(0, n - s + 1) for n, s in zip(block.shape, sizes, strict=True))
    out = allocate_output(out, kept, dtype)
    slid = [a for a, s in enumerate(sizes) if s > 1]
    first = min(slid, default=block.ndim)
    if out.size:
        inner = tuple(slice(0, n) for n in kept[first:])
        for index in np.ndindex(block.shape[:first]):
            volume = np.array(block[index], between, order="C")
            for axis, scale in zip(slid, _scales([sizes[a] for a in slid], what), strict=True):
                _slide(volume, axis - first, sizes[axis], what, *scale)
            out[index] = volume[inner]
    return out


def _scales(sizes: Sequence[int], what: int) -> list[tuple[float, float]]:
    """Factor and divisor of the sums of each axis: one division makes means of them.

    Factors are powers of two: nothing is rounded, and sums of large values do not overflow.
    """
    if what != SUM:
        return [(0.0, 1.0)] * len(sizes)
    factors = [0.5 ** (n - 1).bit_length() for n in sizes]
    last = prod(sizes) * prod(factors[:-1])
    return [*((f, 1.0) for f in factors[:-1]), *([(1.0, last)] if sizes else [])]


def _slide(volume: Array, axis: int, size: int, what: int, factor: float, divisor: float) -> None:
    """Windows along one axis of a contiguous volume, in the place of their first values."""
    n, step = volume.shape[axis], prod(volume.shape[axis + 1 :])
    work = np.dtype(np.float64) if what == SUM else volume.dtype
    options = (volume.reshape(-1), n, step, size, what, factor, divisor)
    if step > NARROW:
        width = min(step, max(NARROW, TILE // n))
        _columns(*options, *np.empty((3, n * width), work), width)
    else:
        count = min(volume.size // (n * step), max(1, TILE // (n * step)))
        _rows(*options, *np.empty((3, count * n * step), work))


@compiled
def _columns(
    x: Array, rows: int, step: int, size: int, what: int, factor: float, divisor: float,
    first: Array, one: Array, two: Array, width: int,
) -> None:  # fmt: skip
    """Volumes of ``rows`` rows of ``step`` values side by side: ``width`` columns at a time."""
    for start in range(0, x.size, rows * step):
        for column in range(start, start + step, width):
            w = min(width, start + step - column)
            for row in range(rows):
                p, q = np.uint64(row * w), np.uint64(column + row * step)
                for i in range(np.uint64(w)):
                    first[p + i] = x[q + i]
            found = _joined(first, one, two, rows * w, w, size, what)
            for row in range(rows - size + 1):
                _put(x, column + row * step, found, row * w, w, factor, divisor)


@compiled
def _rows(
    x: Array, rows: int, step: int, size: int, what: int, factor: float, divisor: float,
    first: Array, one: Array, two: Array,
) -> None:  # fmt: skip
    """The same, whole volumes at a time; what is found across two of them is of no use."""
    for start in range(0, x.size, first.size):
        n = min(first.size, x.size - start)
        p = np.uint64(start)
        for i in range(np.uint64(n)):
            first[i] = x[p + i]
        found = _joined(first, one, two, n, step, size, what)
        _put(x, start, found, 0, n - (size - 1) * step, factor, divisor)


@compiled
def _put(out: Array, to: int, found: Array, at: int, n: int, factor: float, divisor: float) -> None:
    """Sums into means; ``factor`` 0 leaves values as they are."""
    p, q = np.uint64(to), np.uint64(at)
    if factor == 0:
        for i in range(np.uint64(n)):
            out[p + i] = found[q + i]
    elif divisor == 1:
        for i in range(np.uint64(n)):
            out[p + i] = found[q + i] * factor
    else:
        for i in range(np.uint64(n)):
            out[p + i] = found[q + i] / divisor


@compiled
def _joined(first: Array, one: Array, two: Array, n: int, step: int, size: int, what: int) -> Array:
    """Windows of ``size`` values ``step`` apart: their first values' places in what is returned.

    The bits of ``size`` from the highest on say when a value is added to twice a window.
    """
    bit = 1
    while 2 * bit <= size:
        bit *= 2
    source, target, spare, have = first, one, two, 1
    while bit > 1:
        bit //= 2
        odd = 1 if (size & bit) != 0 else 0
        n -= step * (have + odd)
        if what == SUM:
            _add(target, source, first, n, step * have, odd)
        elif what == LEAST:
            _lesser(target, source, first, n, step * have, odd)
        else:
            _greater(target, source, first, n, step * have, odd)
        have = 2 * have + odd
        source, target, spare = target, spare, target
    return source


@compiled
def _add(out: Array, half: Array, first: Array, n: int, apart: int, odd: int) -> None:
    """Two halves ``apart`` from each other, and the value after them where there is an odd one."""
    p, q = np.uint64(apart), np.uint64(2 * apart)
    if odd:
        for i in range(np.uint64(max(0, n))):
            out[i] = half[i] + half[p + i] + first[q + i]
    else:
        for i in range(np.uint64(max(0, n))):
            out[i] = half[i] + half[p + i]


@compiled
def _lesser(out: Array, half: Array, first: Array, n: int, apart: int, odd: int) -> None:
    p, q = np.uint64(apart), np.uint64(2 * apart)
    for i in range(np.uint64(max(0, n))):
        a, b = half[i], half[p + i]
        out[i] = a if a < b or a != a else b
    if odd:
        for i in range(np.uint64(max(0, n))):
            a, b = out[i], first[q + i]
            out[i] = a if a < b or a != a else b


@compiled
def _greater(out: Array, half: Array, first: Array, n: int, apart: int, odd: int) -> None:
    p, q = np.uint64(apart), np.uint64(2 * apart)
    for i in range(np.uint64(max(0, n))):
        a, b = half[i], half[p + i]
        out[i] = a if a > b or a != a else b
    if odd:
        for i in range(np.uint64(max(0, n))):
            a, b = out[i], first[q + i]
            out[i] = a if a > b or a != a else b

"""Mean, minimum and maximum of every window, at a cost that hardly grows with its size.

A window of 2 n (+ 1) values is joined from two windows of n values (and one value): any size takes
about log2(size) steps along an axis, on few rows that stay in the cache. Nothing is subtracted from
a sum, so rounding does not accumulate along an axis, NaN and infinities affect only windows that
contain them, and values are bitwise equal for any division into blocks.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import allocate_output, kernel_float

Array = np.ndarray[Any, np.dtype[Any]]

SUM, MINIMUM, MAXIMUM = 0, 1, 2
#: values that are processed together; with the two buffers, of float64, 384 KiB
TILE = 2**14
#: values after an axis above which a tile is a part of them, and the whole axis
NARROW = 64


def mean(
    block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Return the mean of every window of ``sizes`` within the block; sums are in float64."""
    between = np.promote_types(kernel_float(block.dtype), kernel_float(dtype))
    return _slide_axes(block, sizes, SUM, between, np.dtype(dtype), out)


def minimum(block: Array, *, sizes: Sequence[int], out: Array | None = None) -> Array:
    """Return the minimum of every window of ``sizes`` within the block; NaN where it has one."""
    return _slide_axes(block, sizes, MINIMUM, _comparable(block.dtype), block.dtype, out)


def maximum(block: Array, *, sizes: Sequence[int], out: Array | None = None) -> Array:
    """Return the maximum of every window of ``sizes`` within the block; NaN where it has one."""
    return _slide_axes(block, sizes, MAXIMUM, _comparable(block.dtype), block.dtype, out)


def _comparable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype that numba supports and that orders values equally."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return kernel_float(dtype) if dtype.kind == "f" else dtype.newbyteorder("=")


def _slide_axes(
    block: Array, sizes: Sequence[int], operation: int, between: np.dtype[Any],
    dtype: np.dtype[Any], out: Array | None,
) -> Array:  # fmt: skip
    """Slide the window along one axis after the other, volume by volume and in place."""
    kept = tuple(max(0, n - s + 1) for n, s in zip(block.shape, sizes, strict=True))
    out = allocate_output(out, kept, dtype)
    axes = [a for a, s in enumerate(sizes) if s > 1]
    first = min(axes, default=block.ndim)
    scales = _scales([sizes[a] for a in axes], operation)
    if out.size:
        inner = tuple(slice(0, n) for n in kept[first:])
        for index in np.ndindex(block.shape[:first]):
            volume = np.array(block[index], between, order="C")
            for axis, scale in zip(axes, scales, strict=True):
                _slide(volume, axis - first, sizes[axis], operation, *scale)
            out[index] = volume[inner]
    return out


def _scales(sizes: Sequence[int], operation: int) -> list[tuple[float, float]]:
    """Return (factor, divisor) of the sums of each axis: only the last one divides.

    Factors are powers of two: nothing is rounded, and sums of large values do not overflow.
    """
    if operation != SUM:
        return [(0.0, 1.0)] * len(sizes)
    factors = [0.5 ** (n - 1).bit_length() for n in sizes]
    divisor = prod(sizes) * prod(factors[:-1])
    return [*((f, 1.0) for f in factors[:-1]), *([(1.0, divisor)] if sizes else [])]


def _slide(
    volume: Array, axis: int, size: int, operation: int, factor: float, divisor: float
) -> None:
    """Replace the first value of each window along an axis of a contiguous volume."""
    n, step = volume.shape[axis], prod(volume.shape[axis + 1 :])
    work = np.dtype(np.float64) if operation == SUM else volume.dtype
    options = (volume.reshape(-1), n, step, size, operation, factor, divisor)
    if step > NARROW:
        width = min(step, max(NARROW, TILE // n))
        _slide_columns(*options, *np.empty((3, n * width), work), width)
    else:
        count = min(volume.size // (n * step), max(1, TILE // (n * step)))
        _slide_volumes(*options, *np.empty((3, count * n * step), work))


@compiled
def _slide_columns(
    x: Array, rows: int, step: int, size: int, operation: int, factor: float, divisor: float,
    values: Array, buffer: Array, other: Array, width: int,
) -> None:  # fmt: skip
    """Slide down volumes of ``rows`` rows of ``step`` values, ``width`` columns at a time."""
    for start in range(0, x.size, rows * step):
        for column in range(start, start + step, width):
            w = min(width, start + step - column)
            for row in range(rows):
                p, q = np.uint64(row * w), np.uint64(column + row * step)
                for i in range(np.uint64(w)):
                    values[p + i] = x[q + i]
            joined = _join(values, buffer, other, rows * w, w, size, operation)
            for row in range(rows - size + 1):
                _store(x, column + row * step, joined, row * w, w, factor, divisor)


@compiled
def _slide_volumes(
    x: Array, rows: int, step: int, size: int, operation: int, factor: float, divisor: float,
    values: Array, buffer: Array, other: Array,
) -> None:  # fmt: skip
    """Slide along several whole volumes at once; windows across two of them are not used."""
    for start in range(0, x.size, values.size):
        n = min(values.size, x.size - start)
        p = np.uint64(start)
        for i in range(np.uint64(n)):
            values[i] = x[p + i]
        joined = _join(values, buffer, other, n, step, size, operation)
        _store(x, start, joined, 0, n - (size - 1) * step, factor, divisor)


@compiled
def _store(
    out: Array, to: int, joined: Array, start: int, n: int, factor: float, divisor: float
) -> None:
    """Store joined values, scaled to means; ``factor`` 0 leaves them unchanged."""
    p, q = np.uint64(to), np.uint64(start)
    if factor == 0:
        for i in range(np.uint64(n)):
            out[p + i] = joined[q + i]
    elif divisor == 1:
        for i in range(np.uint64(n)):
            out[p + i] = joined[q + i] * factor
    else:
        for i in range(np.uint64(n)):
            out[p + i] = joined[q + i] / divisor


@compiled
def _join(
    values: Array, buffer: Array, other: Array, n: int, step: int, size: int, operation: int
) -> Array:
    """Return windows of ``size`` values, ``step`` apart, at the position of their first value.

    The bits of ``size``, from the highest on, decide whether a value is added to two joined
    windows.
    """
    bit = 1
    while 2 * bit <= size:
        bit *= 2
    source, target, spare, length = values, buffer, other, 1
    while bit > 1:
        bit //= 2
        odd = 1 if (size & bit) != 0 else 0
        n -= step * (length + odd)
        if operation == SUM:
            _add(target, source, values, n, step * length, odd)
        elif operation == MINIMUM:
            _lesser(target, source, values, n, step * length, odd)
        else:
            _greater(target, source, values, n, step * length, odd)
        length = 2 * length + odd
        source, target, spare = target, spare, target
    return source


@compiled
def _add(out: Array, half: Array, values: Array, n: int, distance: int, odd: int) -> None:
    """Add two windows ``distance`` apart, and the value after them if ``odd``."""
    p, q = np.uint64(distance), np.uint64(2 * distance)
    if odd:
        for i in range(np.uint64(max(0, n))):
            out[i] = half[i] + half[p + i] + values[q + i]
    else:
        for i in range(np.uint64(max(0, n))):
            out[i] = half[i] + half[p + i]


@compiled
def _lesser(out: Array, half: Array, values: Array, n: int, distance: int, odd: int) -> None:
    p, q = np.uint64(distance), np.uint64(2 * distance)
    for i in range(np.uint64(max(0, n))):
        a, b = half[i], half[p + i]
        out[i] = a if a < b or a != a else b
    if odd:
        for i in range(np.uint64(max(0, n))):
            a, b = out[i], values[q + i]
            out[i] = a if a < b or a != a else b


@compiled
def _greater(out: Array, half: Array, values: Array, n: int, distance: int, odd: int) -> None:
    p, q = np.uint64(distance), np.uint64(2 * distance)
    for i in range(np.uint64(max(0, n))):
        a, b = half[i], half[p + i]
        out[i] = a if a > b or a != a else b
    if odd:
        for i in range(np.uint64(max(0, n))):
            a, b = out[i], values[q + i]
            out[i] = a if a > b or a != a else b

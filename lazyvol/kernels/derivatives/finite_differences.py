"""Derivatives by differences of neighbours, as ``numpy.gradient``, and what is made of them.

The first derivative is central, one-sided at the two ends of an axis; the second is the first one
taken twice. Blocks are (z, y, x), flat, with a halo that ends at the border of the array, so that
an end of the block within reach is one of the array. Derivatives along an axis without a spacing
(``inverse`` is 0) are 0.
Voxels become float64 as they are read; row after row is finished while it is in the fastest cache.

Rows are offsets into flat arrays, unsigned in loops: 1.5 ns per voxel for the six elements of the
Hessian. Views of rows took 4.5 (each is counted), indices of three axes 9 (each may be negative,
which keeps loops out of vector lanes).
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.derivatives.eigenvalues import STRIDE, WIDTH
from lazyvol.kernels.derivatives.outputs import emit

Array = np.ndarray[Any, np.dtype[Any]]

#: rows of a buffer: six for results, then voxels and their derivatives along z and y
VOXELS, ALONG_Z, ALONG_Y = 6 * STRIDE, 7 * STRIDE, 8 * STRIDE
ROWS = 9


@compiled
def first(
    f: Array, lengths: Array, start: Array, shape: Array, inverse: Array, rows: Array, what: int,
    axes: int, out: Array, steps: Array, apart: int,
) -> None:  # fmt: skip
    """What is made of the gradient of voxels ``start`` to ``start + shape`` of a block.

    ``lengths`` are those of the block, ``inverse`` 1 / spacing along z, y, x. Derivatives go to
    ``rows`` of the buffer. ``out`` is flat: planes and rows ``steps``, components ``apart``.
    """
    s, nothing, to = np.empty(ROWS * STRIDE), np.empty(0), rows * STRIDE
    for z in range(start[0], start[0] + shape[0]):
        for y in range(start[1], start[1] + shape[1]):
            row = (z - start[0]) * steps[0] + (y - start[1]) * steps[1]
            for x in range(0, shape[2], WIDTH):
                n = min(WIDTH, shape[2] - x)
                _gradient_row(f, lengths, z, y, start[2] + x, n, inverse, to, s)
                emit(s, n, what, axes, True, nothing, out, row + x, apart)


@compiled
def second(
    f: Array, lengths: Array, start: Array, shape: Array, inverse: Array, rows: Array, what: int,
    axes: int, fine: bool, p: Array, out: Array, steps: Array, apart: int,
) -> None:  # fmt: skip
    """What is made of the Hessian of voxels ``start`` to ``start + shape`` of a block."""
    s, to = np.empty(ROWS * STRIDE), rows * STRIDE
    for z in range(start[0], start[0] + shape[0]):
        for y in range(start[1], start[1] + shape[1]):
            row = (z - start[0]) * steps[0] + (y - start[1]) * steps[1]
            for x in range(0, shape[2], WIDTH):
                n = min(WIDTH, shape[2] - x)
                _hessian_row(f, lengths, z, y, start[2] + x, n, inverse, to, s)
                emit(s, n, what, axes, fine, p, out, row + x, apart)


@compiled
def _gradient_row(
    f: Array, lengths: Array, z: int, y: int, x: int, n: int, inverse: Array, to: Array, s: Array
) -> None:
    """First derivatives along z, y, x of ``n`` voxels from ``x``."""
    ny, nx = lengths[1], lengths[2]
    za, zb, zw = _step(z, lengths[0], inverse[0])
    ya, yb, yw = _step(y, ny, inverse[1])
    low, high, own = max(0, x - 1), min(nx, x + n + 1), z * ny + y
    _difference(f, (za * ny + y) * nx + x, (zb * ny + y) * nx + x, zw, n, s, to[0])
    _difference(f, (z * ny + ya) * nx + x, (z * ny + yb) * nx + x, yw, n, s, to[1])
    _copy(f, own * nx + low, high - low, s, VOXELS)
    _slopes(s, VOXELS, high - low, x - low, n, inverse[2], to[2])


@compiled
def _hessian_row(
    f: Array, lengths: Array, z: int, y: int, x: int, n: int, inverse: Array, to: Array, s: Array
) -> None:
    """Elements zz, zy, zx, yy, yx, xx of ``n`` voxels from ``x``."""
    nz, ny, nx = lengths[0], lengths[1], lengths[2]
    low = max(0, x - 2)
    wide, begin = min(nx, x + n + 2) - low, x - low
    za, zb, zw = _step(z, nz, inverse[0])
    ya, yb, yw = _step(y, ny, inverse[1])
    _copy(f, (z * ny + y) * nx + low, wide, s, VOXELS)
    _difference(f, (za * ny + y) * nx + low, (zb * ny + y) * nx + low, zw, wide, s, ALONG_Z)
    _difference(f, (z * ny + ya) * nx + low, (z * ny + yb) * nx + low, yw, wide, s, ALONG_Y)
    a, b, u = _step(za, nz, inverse[0])
    c, d, v = _step(zb, nz, inverse[0])
    _four(f, (a * ny + y) * nx + x, (b * ny + y) * nx + x, u * zw,
          (c * ny + y) * nx + x, (d * ny + y) * nx + x, v * zw, n, s, to[0])  # fmt: skip
    _four(f, (za * ny + ya) * nx + x, (za * ny + yb) * nx + x, yw * zw,
          (zb * ny + ya) * nx + x, (zb * ny + yb) * nx + x, yw * zw, n, s, to[1])  # fmt: skip
    _slopes(s, ALONG_Z, wide, begin, n, inverse[2], to[2])
    a, b, u = _step(ya, ny, inverse[1])
    c, d, v = _step(yb, ny, inverse[1])
    _four(f, (z * ny + a) * nx + x, (z * ny + b) * nx + x, u * yw,
          (z * ny + c) * nx + x, (z * ny + d) * nx + x, v * yw, n, s, to[3])  # fmt: skip
    _slopes(s, ALONG_Y, wide, begin, n, inverse[2], to[4])
    _slopes_of_slopes(s, VOXELS, wide, begin, n, inverse[2], to[5])


@compiled
def _step(i: int, n: int, inverse: float) -> tuple[int, int, float]:
    """Neighbours whose difference is taken at ``i``, and its weight."""
    a, b = max(i - 1, 0), min(i + 1, n - 1)
    return a, b, (inverse * 0.5 if b - a == 2 else (inverse if b > a else 0.0))


@compiled
def _copy(f: Array, row: int, n: int, s: Array, to: int) -> None:
    row_, to_ = np.uint64(row), np.uint64(to)
    for i in range(n):
        k = np.uint64(i)
        s[to_ + k] = f[row_ + k]


@compiled
def _zeros(n: int, s: Array, to: int) -> None:
    for i in range(n):
        s[to + i] = 0.0


@compiled
def _difference(f: Array, low: int, high: int, weight: float, n: int, s: Array, to: int) -> None:
    if weight == 0.0:
        _zeros(n, s, to)
        return
    low_, high_, to_ = np.uint64(low), np.uint64(high), np.uint64(to)
    for i in range(n):
        k = np.uint64(i)
        s[to_ + k] = weight * (np.float64(f[high_ + k]) - np.float64(f[low_ + k]))


@compiled
def _four(
    f: Array, a: int, b: int, u: float, c: int, d: int, v: float, n: int, s: Array, to: int
) -> None:
    """The difference of rows d and c less that of b and a, with their weights."""
    if u == 0.0 and v == 0.0:
        _zeros(n, s, to)
        return
    a_, b_, c_, d_ = np.uint64(a), np.uint64(b), np.uint64(c), np.uint64(d)
    to_ = np.uint64(to)
    for i in range(n):
        k = np.uint64(i)
        ahead = np.float64(f[d_ + k]) - np.float64(f[c_ + k])
        behind = np.float64(f[b_ + k]) - np.float64(f[a_ + k])
        s[to_ + k] = v * ahead - u * behind


@compiled
def _slopes(s: Array, row: int, wide: int, begin: int, n: int, inverse: float, to: int) -> None:
    """First derivative along a row of ``wide`` values, of ``n`` of them from ``begin``."""
    if inverse == 0.0:
        _zeros(n, s, to)
        return
    first, last, end = max(begin, 1), min(begin + n, wide - 1), begin + n
    if last > first:
        low, high = np.uint64(row + first - 1), np.uint64(row + first + 1)
        to_, weight = np.uint64(to + first - begin), 0.5 * inverse
        for i in range(last - first):
            k = np.uint64(i)
            s[to_ + k] = weight * (s[high + k] - s[low + k])
    for i in range(begin, min(first, end)):
        s[to + i - begin] = _slope(s, row, wide, i, inverse)
    for i in range(max(first, last), end):
        s[to + i - begin] = _slope(s, row, wide, i, inverse)


@compiled
def _slopes_of_slopes(
    s: Array, row: int, wide: int, begin: int, n: int, inverse: float, to: int
) -> None:
    """Second derivative along a row."""
    if inverse == 0.0:
        _zeros(n, s, to)
        return
    first, last, end = max(begin, 2), min(begin + n, wide - 2), begin + n
    if last > first:
        low, mid, high = (
            np.uint64(row + first - 2), np.uint64(row + first), np.uint64(row + first + 2)
        )  # fmt: skip
        to_, weight = np.uint64(to + first - begin), 0.25 * inverse * inverse
        for i in range(last - first):
            k = np.uint64(i)
            s[to_ + k] = weight * ((s[high + k] - s[mid + k]) - (s[mid + k] - s[low + k]))
    for i in range(begin, min(first, end)):
        s[to + i - begin] = _slope_of_slopes(s, row, wide, i, inverse)
    for i in range(max(first, last), end):
        s[to + i - begin] = _slope_of_slopes(s, row, wide, i, inverse)


@compiled
def _slope(s: Array, row: int, wide: int, i: int, inverse: float) -> Any:
    a, b, weight = _step(i, wide, inverse)
    return weight * (s[row + b] - s[row + a])


@compiled
def _slope_of_slopes(s: Array, row: int, wide: int, i: int, inverse: float) -> Any:
    a, b, weight = _step(i, wide, inverse)
    return weight * (_slope(s, row, wide, b, inverse) - _slope(s, row, wide, a, inverse))

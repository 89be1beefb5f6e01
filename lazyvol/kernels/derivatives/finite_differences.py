"""Derivatives by finite differences, as ``numpy.gradient``, and results computed from them.

First derivatives are central, one-sided at both ends of an axis; second derivatives are first
derivatives of first derivatives. Derivatives along an axis without a spacing (``inverse`` is 0) are
0. Voxels become float64 as they are read, and each row is finished while it is in the first cache.

Rows are offsets into flat arrays, unsigned in loops: 1.5 ns per voxel for the six elements of the
Hessian. Views of rows took 4.5 (reference counts), indices along three axes 9 (each may be
negative, which prevents vectorization).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled, inlined
from lazyvol.kernels.arrays import contiguous_floats
from lazyvol.kernels.derivatives.eigenvalues import STRIDE, WIDTH
from lazyvol.kernels.derivatives.outputs import (
    ROUNDING,
    DerivativeTask,
    VolumeFrame,
    compute_volumes,
    flat_view,
    write_result,
    zero_rounding,
)

Array = np.ndarray[Any, np.dtype[Any]]
Halo = Sequence[tuple[int, int]]

#: rows of a buffer: six for derivatives, then the voxels and their derivatives along z and y
VOXELS, ALONG_Z, ALONG_Y = 6 * STRIDE, 7 * STRIDE, 8 * STRIDE
ROWS = 9


def of_block(block: Array, halo: Halo, *, task: DerivativeTask, out: Array | None = None) -> Array:
    """Return the task's result for a block whose halo ends at the border of the array.

    The halo is one voxel for each order of the derivatives.
    """
    inner = [n - lo - hi for n, (lo, hi) in zip(block.shape, halo, strict=True)]
    frame = VolumeFrame.of(inner, task.axes)
    start = np.array(frame.per_axis([halo[a][0] for a in task.axes], 0))
    inverse = np.array(frame.per_axis([1 / h for h in task.spacing], 0.0))
    rows, options = frame.rows(task.order), task.numbers
    # the weights of a second difference add up to 1 over the squared spacing
    rounding = ROUNDING * float((inverse**2).sum())

    def compute(volume: Array, out: Array) -> None:
        fields = (contiguous_floats(volume).reshape(-1), np.array(volume.shape), start)
        result = (np.array(out.shape[:3]), inverse, rows, task.output, len(task.axes))
        if task.order == 1:
            _gradient_results(*fields, *result, *flat_view(out))
        else:
            _hessian_results(*fields, *result, task.is_double, options, *flat_view(out))
            zero_rounding(out, volume, task, rounding)

    return compute_volumes(block, inner, task, compute, out)


@compiled
def _gradient_results(
    f: Array, lengths: Array, start: Array, shape: Array, inverse: Array, rows: Array, output: int,
    axes: int, out: Array, steps: Array, component_step: int,
) -> None:  # fmt: skip
    """Write a result of the gradient of voxels ``start`` to ``start + shape`` of a flat block.

    ``lengths`` are those of the block, ``inverse`` 1 / spacing along z, y, x, ``rows`` the buffer
    rows of the derivatives. ``out`` is flat: ``steps`` of planes and rows, ``component_step``.
    """
    s, to = np.empty(ROWS * STRIDE), rows * STRIDE
    for z in range(start[0], start[0] + shape[0]):
        for y in range(start[1], start[1] + shape[1]):
            row = (z - start[0]) * steps[0] + (y - start[1]) * steps[1]
            for x in range(0, shape[2], WIDTH):
                n = min(WIDTH, shape[2] - x)
                _gradient_row(f, lengths, z, y, start[2] + x, n, inverse, to, s)
                write_result(s, n, output, axes, True, None, out, row + x, component_step)


@compiled
def _hessian_results(
    f: Array, lengths: Array, start: Array, shape: Array, inverse: Array, rows: Array, output: int,
    axes: int, is_double: bool, options: Array | None, out: Array, steps: Array,
    component_step: int,
) -> None:  # fmt: skip
    """Write a result of the Hessian of voxels ``start`` to ``start + shape`` of a flat block."""
    s, to = np.empty(ROWS * STRIDE), rows * STRIDE
    for z in range(start[0], start[0] + shape[0]):
        for y in range(start[1], start[1] + shape[1]):
            row = (z - start[0]) * steps[0] + (y - start[1]) * steps[1]
            for x in range(0, shape[2], WIDTH):
                n = min(WIDTH, shape[2] - x)
                _hessian_row(f, lengths, z, y, start[2] + x, n, inverse, to, s)
                write_result(s, n, output, axes, is_double, options, out, row + x, component_step)


@inlined
def _gradient_row(
    f: Array, lengths: Array, z: int, y: int, x: int, n: int, inverse: Array, to: Array, s: Array
) -> None:
    """Compute first derivatives along z, y, x of ``n`` voxels from ``x``."""
    ny, nx = lengths[1], lengths[2]
    za, zb, zw = _neighbours(z, lengths[0], inverse[0])
    ya, yb, yw = _neighbours(y, ny, inverse[1])
    low, high, row = max(0, x - 1), min(nx, x + n + 1), z * ny + y
    _difference(f, (za * ny + y) * nx + x, (zb * ny + y) * nx + x, zw, n, s, to[0])
    _difference(f, (z * ny + ya) * nx + x, (z * ny + yb) * nx + x, yw, n, s, to[1])
    _copy_row(f, row * nx + low, high - low, s, VOXELS)
    _differentiate_row(s, VOXELS, high - low, x - low, n, inverse[2], to[2])


@inlined
def _hessian_row(
    f: Array, lengths: Array, z: int, y: int, x: int, n: int, inverse: Array, to: Array, s: Array
) -> None:
    """Compute the elements zz, zy, zx, yy, yx, xx of ``n`` voxels from ``x``."""
    nz, ny, nx = lengths[0], lengths[1], lengths[2]
    low = max(0, x - 2)
    width, begin = min(nx, x + n + 2) - low, x - low
    za, zb, zw = _neighbours(z, nz, inverse[0])
    ya, yb, yw = _neighbours(y, ny, inverse[1])
    _copy_row(f, (z * ny + y) * nx + low, width, s, VOXELS)
    _difference(f, (za * ny + y) * nx + low, (zb * ny + y) * nx + low, zw, width, s, ALONG_Z)
    _difference(f, (z * ny + ya) * nx + low, (z * ny + yb) * nx + low, yw, width, s, ALONG_Y)
    a, b, u = _neighbours(za, nz, inverse[0])
    c, d, v = _neighbours(zb, nz, inverse[0])
    _difference_of_differences(
        f, (a * ny + y) * nx + x, (b * ny + y) * nx + x, u * zw,
        (c * ny + y) * nx + x, (d * ny + y) * nx + x, v * zw, n, s, to[0],
    )  # fmt: skip
    _difference_of_differences(
        f, (za * ny + ya) * nx + x, (za * ny + yb) * nx + x, yw * zw,
        (zb * ny + ya) * nx + x, (zb * ny + yb) * nx + x, yw * zw, n, s, to[1],
    )  # fmt: skip
    _differentiate_row(s, ALONG_Z, width, begin, n, inverse[2], to[2])
    a, b, u = _neighbours(ya, ny, inverse[1])
    c, d, v = _neighbours(yb, ny, inverse[1])
    _difference_of_differences(
        f, (z * ny + a) * nx + x, (z * ny + b) * nx + x, u * yw,
        (z * ny + c) * nx + x, (z * ny + d) * nx + x, v * yw, n, s, to[3],
    )  # fmt: skip
    _differentiate_row(s, ALONG_Y, width, begin, n, inverse[2], to[4])
    _differentiate_row_twice(s, VOXELS, width, begin, n, inverse[2], to[5])


@compiled
def _neighbours(i: int, n: int, inverse: float) -> tuple[int, int, float]:
    """Return the two voxels whose difference is the derivative at ``i``, and its weight."""
    a, b = max(i - 1, 0), min(i + 1, n - 1)
    return a, b, (inverse * 0.5 if b - a == 2 else (inverse if b > a else 0.0))


@compiled
def _copy_row(f: Array, row: int, n: int, s: Array, to: int) -> None:
    row_, to_ = np.uint64(row), np.uint64(to)
    for i in range(n):
        k = np.uint64(i)
        s[to_ + k] = f[row_ + k]


@compiled
def _zero_row(n: int, s: Array, to: int) -> None:
    for i in range(n):
        s[to + i] = 0.0


@compiled
def _difference(f: Array, low: int, high: int, weight: float, n: int, s: Array, to: int) -> None:
    """Compute the weighted difference of two rows."""
    if weight == 0.0:
        _zero_row(n, s, to)
        return
    low_, high_, to_ = np.uint64(low), np.uint64(high), np.uint64(to)
    for i in range(n):
        k = np.uint64(i)
        s[to_ + k] = weight * (np.float64(f[high_ + k]) - np.float64(f[low_ + k]))


@compiled
def _difference_of_differences(
    f: Array, a: int, b: int, u: float, c: int, d: int, v: float, n: int, s: Array, to: int
) -> None:
    """Compute v (row d - row c) - u (row b - row a)."""
    if u == 0.0 and v == 0.0:
        _zero_row(n, s, to)
        return
    a_, b_, c_, d_ = np.uint64(a), np.uint64(b), np.uint64(c), np.uint64(d)
    to_ = np.uint64(to)
    for i in range(n):
        k = np.uint64(i)
        ahead = np.float64(f[d_ + k]) - np.float64(f[c_ + k])
        behind = np.float64(f[b_ + k]) - np.float64(f[a_ + k])
        s[to_ + k] = v * ahead - u * behind


@compiled
def _differentiate_row(
    s: Array, row: int, width: int, begin: int, n: int, inverse: float, to: int
) -> None:
    """Compute the first derivative of ``n`` values from ``begin`` along a row of ``width``."""
    if inverse == 0.0:
        _zero_row(n, s, to)
        return
    first, last, end = max(begin, 1), min(begin + n, width - 1), begin + n
    if last > first:
        low, high = np.uint64(row + first - 1), np.uint64(row + first + 1)
        to_, weight = np.uint64(to + first - begin), 0.5 * inverse
        for i in range(last - first):
            k = np.uint64(i)
            s[to_ + k] = weight * (s[high + k] - s[low + k])
    for i in range(begin, min(first, end)):
        s[to + i - begin] = _derivative_at(s, row, width, i, inverse)
    for i in range(max(first, last), end):
        s[to + i - begin] = _derivative_at(s, row, width, i, inverse)


@compiled
def _differentiate_row_twice(
    s: Array, row: int, width: int, begin: int, n: int, inverse: float, to: int
) -> None:
    """Compute the second derivative of ``n`` values from ``begin`` along a row of ``width``."""
    if inverse == 0.0:
        _zero_row(n, s, to)
        return
    first, last, end = max(begin, 2), min(begin + n, width - 2), begin + n
    if last > first:
        low, mid, high = (
            np.uint64(row + first - 2), np.uint64(row + first), np.uint64(row + first + 2)
        )  # fmt: skip
        to_, weight = np.uint64(to + first - begin), 0.25 * inverse * inverse
        for i in range(last - first):
            k = np.uint64(i)
            s[to_ + k] = weight * ((s[high + k] - s[mid + k]) - (s[mid + k] - s[low + k]))
    for i in range(begin, min(first, end)):
        s[to + i - begin] = _second_derivative_at(s, row, width, i, inverse)
    for i in range(max(first, last), end):
        s[to + i - begin] = _second_derivative_at(s, row, width, i, inverse)


@inlined
def _derivative_at(s: Array, row: int, width: int, i: int, inverse: float) -> Any:
    a, b, weight = _neighbours(i, width, inverse)
    return weight * (s[row + b] - s[row + a])


@inlined
def _second_derivative_at(s: Array, row: int, width: int, i: int, inverse: float) -> Any:
    a, b, weight = _neighbours(i, width, inverse)
    high, low = _derivative_at(s, row, width, b, inverse), _derivative_at(s, row, width, a, inverse)
    return weight * (high - low)

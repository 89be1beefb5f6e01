"""Weighted sums along the axes of a block, where every axis has its own weights.

All of them correlate: ``out[i] = sum_t weights[t] * block[i + t]``, for the voxels whose whole
neighbourhood lies in the block (the valid part: an axis gets ``len(weights) - 1`` shorter).
Arithmetic is in the type of the weights: float64 weights make float64 sums of float32 voxels.

Any axis of a C-contiguous block is a correlation of its flat values with steps between the taps,
so the sums of ``taps`` serve them all.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import fsum, prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled_products
from lazyvol.kernels.arrays import DOUBLE, allocate_output, contiguous_floats, kernel_float
from lazyvol.kernels.filters import sweeping
from lazyvol.kernels.filters.taps import RUN, weighted

Array = np.ndarray[Any, np.dtype[Any]]
#: weights of every axis of a block; None leaves an axis as it is
Weights = Sequence[Array | None]

#: bytes of a strip of rows and of what its sums read: half of the second cache
STRIP = 2**19
#: values after the last weighted axis (channels) up to which they are swept with it
INTERLEAVED = 8


def gaussian_weights(sigma: float, truncate: float = 4.0, order: int = 0, least: int = 0) -> Array:
    """Weights of a Gaussian, or of its first or second derivative, ``sigma`` in voxels.

    They reach ``int(truncate * sigma + 0.5)`` voxels to each side, or ``least`` if that is more.
    Means are weighted as in ``scipy.ndimage.gaussian_filter1d``. Derivatives are the sampled
    Gaussian times the polynomial that gives the sum its moments: 0 of a constant, the slope of a
    ramp, the curvature of a parabola. scipy's weights miss these by what they cut off, at 4
    deviations by up to 1e-3 (order 1) and 8e-3 (order 2) of the largest, at 8 by 3e-12.
    """
    radius = max(least, int(truncate * sigma + 0.5))
    at = np.arange(-radius, radius + 1, dtype=np.float64)
    found = np.exp(-0.5 / (sigma * sigma) * at**2)
    found /= found.sum()
    if order == 1:
        found *= at / (at**2 @ found)
    elif order == 2:
        second, fourth = at**2 @ found, at**4 @ found
        found *= 2.0 * (at**2 - second) / (fourth - second**2)
        found[radius] -= fsum(found)
    return np.asarray(found, np.float64)


def along(block: Array, weights: Array, axis: int, *, dtype: np.dtype[Any] | None = None) -> Array:
    """Correlation along one axis: the valid part, in ``dtype`` (floats keep theirs)."""
    dtype = _result(block.dtype, dtype)
    axis %= block.ndim
    lengths = _valid(block.shape, {axis: weights})
    out = np.empty(lengths, kernel_float(dtype))
    if out.size:
        lead, step = prod(lengths[:axis]), prod(lengths[axis + 1 :])
        rows = contiguous_floats(block).reshape(lead, block.shape[axis] * step)
        _along(out.reshape(lead, -1), rows, _native(weights), _steps(weights, step), step)
    return out.astype(dtype, copy=False)


def separable(
    block: Array,
    weights: Weights,
    *,
    dtype: np.dtype[Any] | None = None,
    out: Array | None = None,
) -> Array:
    """Correlation along every axis that has weights: the valid part, in ``dtype``.

    Two or three neighbouring axes are swept together, in strips of rows that stay in the cache:
    with 17 taps along each axis of 144^3 float32, 3.6 ns per voxel against 5.8 one result at a
    time, which longer weights take, and twice that in three passes (37 with scipy.ndimage; all
    on one thread of a busy machine). float32 weights would be 2.0 ulp off where float64 is 0.25.
    """
    dtype = _result(block.dtype, dtype)
    taps = {a: _native(w) for a, w in enumerate(weights) if w is not None}
    if swept(block.shape, list(taps)):
        return _swept(block, taps, dtype, out)
    between = np.promote_types(kernel_float(block.dtype), kernel_float(dtype))
    for axis, w in taps.items():
        block = along(block, w, axis, dtype=between)
    return block.astype(dtype, copy=False)


def swept(shape: Sequence[int], axes: Sequence[int]) -> bool:
    """Whether axes of a block are summed in one sweep, without a block between the passes."""
    together = all(b == a + 1 for a, b in pairwise(axes))
    after = prod(shape[axes[-1] + 1 :]) if axes else 1
    return together and (len(axes) == 2 or (len(axes) == 3 and after <= INTERLEAVED))


def _result(own: np.dtype[Any], dtype: np.dtype[Any] | None) -> np.dtype[Any]:
    if dtype is not None:
        return np.dtype(dtype)
    return own if own.kind == "f" else DOUBLE


def _native(weights: Array) -> Array:
    return np.ascontiguousarray(weights, weights.dtype.newbyteorder("="))


def _steps(weights: Array, step: int) -> Array:
    """Where the taps of an axis lie in flat values."""
    return np.arange(len(weights), dtype=np.uint64) * np.uint64(step)


def _valid(shape: Sequence[int], taps: dict[int, Array]) -> tuple[int, ...]:
    """Lengths of the valid part."""
    lost = {a: len(w) - 1 for a, w in taps.items()}
    return tuple(max(0, n - lost.get(a, 0)) for a, n in enumerate(shape))


def _swept(block: Array, taps: dict[int, Array], dtype: np.dtype[Any], out: Array | None) -> Array:
    """Two or three neighbouring axes, every volume over them in one sweep."""
    out = allocate_output(out, _valid(block.shape, taps), kernel_float(dtype))
    if out.size:
        first = min(taps)
        given, step = _three(list(taps.values()), prod(out.shape[max(taps) + 1 :]))
        sweep = sweeping.sweep if sweeping.fits(given, step) else _sweep
        volumes = block.reshape(-1, *block.shape[first:])
        places = out.reshape(-1, *out.shape[first:])
        for volume, place in zip(volumes, places, strict=True):
            cut, into = (_cut(a.shape, len(taps), step) for a in (volume, place))
            sweep(place.reshape(into), contiguous_floats(volume).reshape(cut), given, step)
    return out.astype(dtype, copy=False)


def _three(taps: list[Array], after: int) -> tuple[list[Array], int]:
    """Weights of three axes for those of two or three, and the step along the last of them."""
    unit = np.ones(1, taps[0].dtype)
    if len(taps) == 3:
        return taps, after
    return ([*taps, unit] if after > 1 else [unit, *taps]), 1


def _cut(shape: Sequence[int], weighted: int, step: int) -> tuple[int, int, int]:
    """Lengths of the three axes of a volume; interleaved values are part of the last."""
    after = prod(shape[weighted:])
    if weighted == 3:
        return shape[0], shape[1], shape[2] * step
    return (shape[0], shape[1], after) if after > 1 else (1, shape[0], shape[1])


def _sweep(out: Array, x: Array, taps: Sequence[Array], step: int) -> None:
    """One volume, a strip of rows at a time, plane after plane."""
    wz, wy, wx = taps
    columns = x.shape[2]
    row = columns * (2 * wz.itemsize + len(wz) * x.itemsize)
    rows = min(out.shape[1], max(STRIP // row - len(wy) + 1, len(wy), 8))
    one, two = np.empty((2, (rows + len(wy) - 1) * columns), wz.dtype)
    offsets = (_steps(wz, x.shape[1] * columns), _steps(wy, columns), _steps(wx, step))
    _strips(out, x, wz, wy, wx, *offsets, one, two, rows)


@compiled_products
def _strips(
    out: Array, x: Array, wz: Array, wy: Array, wx: Array, oz: Array, oy: Array, ox: Array,
    one: Array, two: Array, rows: int,
) -> None:  # fmt: skip
    """Sums over planes, over rows and within rows, of ``rows`` rows at a time."""
    columns = x.shape[2]
    plane = x.shape[1] * columns
    flat = x.reshape(-1)
    waste = columns - out.shape[2]
    for first in range(0, out.shape[1], rows):
        lanes = min(rows, out.shape[1] - first) * columns
        for z in range(out.shape[0]):
            at = z * plane + first * columns
            weighted(one, flat, at, lanes + (wy.size - 1) * columns, oz, wz)
            weighted(two, one, 0, lanes, oy, wy)
            weighted(one, two, 0, lanes - waste, ox, wx)
            for y in range(lanes // columns):
                row = out[z, first + y]
                for i in range(row.size):
                    row[i] = one[y * columns + i]


@compiled_products
def _along(out: Array, x: Array, weights: Array, offsets: Array, step: int) -> None:
    """Rows of flat values; where taps lie far apart, the same few columns all the way."""
    sums = np.empty(RUN, weights.dtype)
    stride = step if step > RUN else out.shape[1]
    for o in range(out.shape[0]):
        source, target = x[o], out[o]
        for column in range(0, stride, RUN):
            n = min(RUN, stride - column)
            for at in range(column, out.shape[1], stride):
                weighted(sums, source, at, n, offsets, weights)
                for i in range(n):
                    target[at + i] = sums[i]

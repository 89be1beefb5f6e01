"""Structure tensors: Gaussian means of the products of a gradient's components."""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import contiguous_floats
from lazyvol.kernels.derivatives.outputs import (
    DerivativeTask,
    VolumeFrame,
    compute_volumes,
    tiles,
    write_fields,
)
from lazyvol.kernels.filters.separable import gaussian_weights, separable
from lazyvol.kernels.filters.wide_windows import correlate_axis_by_axis
from lazyvol.kernels.geometry.splines import BoundaryMode

Array = np.ndarray[Any, np.dtype[Any]]
Halo = Sequence[tuple[int, int]]

#: modes of ``numpy.pad`` that continue products; those beyond a constant border become 0
PAD_MODES = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge", "constant": "edge"}
#: bytes of six fields of means: thicker tiles than those of derivatives, as the products of each
#: tile and its halo are computed anew
TILE = 2**23


def of_block(
    block: Array, halo: Halo, *, task: DerivativeTask, sigma: Sequence[float], truncate: float,
    mode: str,
) -> Array:  # fmt: skip
    """Return the task's result for a block of gradients, whose last axis is that of components.

    The halo ends at the border of the array, beyond which products are continued by ``mode``; along
    the components it gives the elements of the result to leave out.
    """
    weights = [gaussian_weights(s, truncate) for s in sigma]
    inner = list(block.shape[:-1])
    for axis in task.axes:
        inner[axis] -= sum(halo[axis])
    frame = VolumeFrame.of(inner, task.axes)
    sources = [
        _source_indices(inner[a], halo[a], len(w) // 2, mode)
        for a, w in zip(task.axes, weights, strict=True)
    ]
    volume_sources, volume_weights = frame.per_axis(sources, None), frame.per_axis(weights, None)
    lost = frame.per_axis([len(w) - 1 for w in weights], 0)

    def compute(volume: Array, out: Array) -> None:
        gradient = [contiguous_floats(volume[..., n]) for n in range(volume.shape[-1])]
        for place in tiles(out.shape[:3], lost, TILE):
            indices = [
                np.arange(p.start, p.stop) if s is None else s[p.start : p.stop + n]
                for s, p, n in zip(volume_sources, place, lost, strict=True)
            ]
            write_fields(_mean_products(gradient, indices, volume_weights), task, out[place])

    result = compute_volumes(block, inner, task, compute)
    low, high = halo[-1]
    return result[(*(slice(None),) * len(inner), slice(low, block.shape[-1] - high))]


def of_whole_volumes(
    block: Array,
    *,
    task: DerivativeTask,
    sigma: Sequence[float],
    truncate: float,
    mode: BoundaryMode,
) -> Array:
    """Return the task's result for gradients of whole axes, of which one is padded at a time."""
    inner = block.shape[:-1]
    frame = VolumeFrame.of(inner, task.axes)
    weights = frame.per_axis([gaussian_weights(s, truncate) for s in sigma], None)

    def compute(volume: Array, out: Array) -> None:
        gradient = [np.asarray(volume[..., n], np.float64) for n in range(volume.shape[-1])]
        fields = [
            None if a < 0 else correlate_axis_by_axis(gradient[a] * gradient[b], weights, mode, 0.0)
            for a, b in _component_pairs(len(gradient))
        ]
        write_fields([None if f is None else f.reshape(-1) for f in fields], task, out)

    return compute_volumes(block, inner, task, compute)


def _source_indices(length: int, halo: tuple[int, int], radius: int, mode: str) -> Array:
    """Return the indices in a block that means of ``length`` voxels read; -1 for zeros."""
    missing = (radius - halo[0], radius - halo[1])
    inside = np.arange(length + sum(halo))
    indices = np.pad(inside, missing, PAD_MODES[mode])  # type: ignore[call-overload]
    if mode == "constant":
        indices[: missing[0]] = -1
        indices[len(indices) - missing[1] :] = -1
    return np.asarray(indices)


def _mean_products(
    gradient: Sequence[Array], indices: Sequence[Array], weights: Sequence[Array | None]
) -> list[Array | None]:
    """Return Gaussian means of products of components of a tile, flat; None along absent axes."""
    lengths = np.array(gradient[0].shape)
    products = np.empty([len(i) for i in indices])
    fields: list[Array | None] = []
    for a, b in _component_pairs(len(gradient)):
        if a < 0:
            fields.append(None)
            continue
        first, second = gradient[a].reshape(-1), gradient[b].reshape(-1)
        _multiply(first, second, lengths, *indices, products.reshape(-1))
        fields.append(separable(products, weights, dtype=np.dtype(np.float64)).reshape(-1))
    return fields


def _component_pairs(n: int) -> list[tuple[int, int]]:
    """Return the pairs of ``n`` components per buffer row; those of absent axes are negative."""
    return list(combinations_with_replacement(range(n - 3, n), 2))


@compiled
def _multiply(f: Array, g: Array, lengths: Array, z: Array, y: Array, x: Array, out: Array) -> None:
    """Multiply the voxels of ``f`` and ``g`` at indices ``z``, ``y``, ``x``; 0 where one is -1.

    Both are flat, of ``lengths`` along z, y, x. Indices along x repeat at the ends alone, so rows
    are multiplied without a copy: 1 ns per voxel, 4 with numpy.
    """
    first, last = _longest_run(x)
    for i in range(z.size):
        for j in range(y.size):
            row, to = (z[i] * lengths[1] + y[j]) * lengths[2], (i * y.size + j) * x.size
            if z[i] < 0 or y[j] < 0:
                out[to : to + x.size] = 0.0
                continue
            for k in range(x.size):
                if k < first or k >= last:
                    at = row + x[k]
                    out[to + k] = np.float64(f[at]) * g[at] if x[k] >= 0 else 0.0
            if last > first:
                _multiply_run(f, g, row + x[first], last - first, out, to + first)


@compiled
def _multiply_run(f: Array, g: Array, start: int, n: int, out: Array, to: int) -> None:
    start_, to_ = np.uint64(start), np.uint64(to)
    for i in range(n):
        k = np.uint64(i)
        out[to_ + k] = np.float64(f[start_ + k]) * np.float64(g[start_ + k])


@compiled
def _longest_run(x: Array) -> tuple[int, int]:
    """Return the ends of the longest part of indices that increase by 1."""
    first, last, start = 0, 0, 0
    for i in range(1, x.size + 1):
        if i == x.size or x[i] != x[i - 1] + 1 or x[i - 1] < 0:
            if i - start > last - first and x[start] >= 0:
                first, last = start, i
            start = i
    return first, last

"""Levels of lower resolution: which axes each one halves, and its values from those of a shard.

A task writes its shard of every level: the shards of level 0 end at multiples of the coarsest
factor, so that each input voxel is read once. A voxel of a level is the mean of all voxels of
level 0 that it covers (fewer at the end of an axis), or, for labels, one near its centre.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvol.plan.recipes.base import Array
from lazyvol.stack import SPATIAL

Factors = tuple[int, ...]

#: the coarsest level has at most this many voxels along every axis, or MAX_LEVELS are made
COARSEST = 64
MAX_LEVELS = 5
#: an axis is halved if its voxels are shorter than this times the shortest
AS_FINE = 1.5
#: bytes of level 0 that are summed at once
SLAB = 2 << 20


def level_factors(
    dims: Sequence[str], shape: Sequence[int], voxel_size: Mapping[str, float]
) -> list[Factors]:
    """Return for each level the voxels of level 0 along each axis that one of its voxels covers.

    Only axes that are as fine as the finest are halved, so that voxels become cubes.

    Examples
    --------
    >>> level_factors(("z", "y", "x"), (40, 500, 500), {"z": 4.0, "y": 1.0, "x": 1.0})
    [(1, 2, 2), (1, 4, 4), (2, 8, 8)]
    """
    sizes = {a: abs(voxel_size.get(d, 1.0)) for a, d in enumerate(dims) if d in SPATIAL}
    factors = [1] * len(dims)
    levels: list[Factors] = []
    while len(levels) < MAX_LEVELS:
        long = {a: n for a in sizes if (n := -(-shape[a] // factors[a])) > 1}
        if max(long.values(), default=0) <= COARSEST:
            break
        finest = min(sizes[a] * factors[a] for a in long)
        for axis in long:
            if sizes[axis] * factors[axis] < AS_FINE * finest:
                factors[axis] *= 2
        levels.append(tuple(factors))
    return levels


def is_labels(dtype: npt.DTypeLike) -> bool:
    """Return True for dtypes that hold masks and labels, whose mean means nothing."""
    return np.dtype(dtype).kind == "b" or np.dtype(dtype) in (np.uint32, np.int32, np.int64)


def level_values(block: Array, levels: Sequence[Factors]) -> list[Array]:
    """Return the values of all levels for a block that starts at a multiple of every factor."""
    shapes = [tuple(-(-n // f) for n, f in zip(block.shape, fs, strict=True)) for fs in levels]
    results = [np.empty(shape, block.dtype) for shape in shapes]
    if is_labels(block.dtype):
        for result, factors in zip(results, levels, strict=True):
            spans = zip(block.shape, factors, strict=True)
            centres = (np.minimum(np.arange((f - 1) // 2, n + f, f), n - 1) for n, f in spans)
            index = [c[:m] for c, m in zip(centres, result.shape, strict=True)]
            result[...] = block[np.ix_(*index)]
        return results
    row = prod(block.shape[1:]) * block.dtype.itemsize
    step = levels[-1][0] * max(1, SLAB // max(1, row * levels[-1][0]))
    for start in range(0, block.shape[0], step):
        means = _means(block[start : start + step], levels)
        for result, factors, mean in zip(results, levels, means, strict=True):
            first = start // factors[0]
            result[first : first + mean.shape[0]] = mean
    return results


def _means(values: Array, levels: Sequence[Factors]) -> Iterator[Array]:
    """Yield the means of each level, summed in float64 and rounded once."""
    sums, before = values, (1,) * values.ndim
    for factors in levels:
        for axis in range(values.ndim):
            if factors[axis] != before[axis]:
                sums = _pair_sums(sums, axis)
        before = factors
        count = np.ones((1,) * values.ndim)
        for axis, (n, f) in enumerate(zip(values.shape, factors, strict=True)):
            covered = np.minimum(f, n - np.arange(sums.shape[axis]) * f)
            count = count * covered.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        means = sums / count
        yield np.rint(means) if values.dtype.kind in "iu" else means


def _pair_sums(values: Array, axis: int) -> Array:
    """Return the sums of neighbours along an axis; the last value may stand alone."""
    index: list[Any] = [slice(None)] * values.ndim
    index[axis] = slice(0, None, 2)
    sums: Array = values[tuple(index)].astype(np.float64)
    index[axis] = slice(1, None, 2)
    odd = values[tuple(index)]
    index[axis] = slice(0, odd.shape[axis])
    sums[tuple(index)] += odd
    return sums


def level_grid(
    shape: Sequence[int], chunks: Sequence[int], shards: Sequence[int], factors: Factors
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return shape, chunks and shards of a level with as many shards as level 0 along each axis."""
    axes = [_axis_grid(*axis) for axis in zip(shape, chunks, shards, factors, strict=True)]
    lengths, level_chunks, level_shards = zip(*axes, strict=True)
    return lengths, level_chunks, level_shards


def _axis_grid(length: int, chunk: int, shard: int, factor: int) -> tuple[int, int, int]:
    if factor == 1:
        return length, chunk, shard
    shorter = -(-length // factor)
    if shard >= length:
        count = -(-shorter // chunk)
        return shorter, -(-shorter // count), -(-shorter // count) * count
    reduced = shard // factor
    divisors = (d for d in range(min(chunk, reduced), 0, -1) if reduced % d == 0)
    return shorter, next(divisors), reduced

"""Connected components: of whole volumes, and of blocks that are joined across their borders.

Within a block components are those of ``scipy.ndimage.label``. Two of them in different blocks
are one where voxels beside a common border touch; a component's number is its place in the order
of first voxels, so that blocks give the numbers of the whole volume.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
Index = tuple[int, ...]


def neighbours(ndim: int, connectivity: int) -> Array:
    """A voxel and those that touch it by a face (1), an edge too (2), a corner too (3)."""
    return np.asarray(ndi.generate_binary_structure(ndim, connectivity))


def volumes(block: Array, *, touching: Array, dtype: np.dtype[Any]) -> Array:
    """Components of every volume in a block, whose last axes are those of a volume."""
    out = np.empty(block.shape, dtype)
    for index in np.ndindex(block.shape[: block.ndim - touching.ndim]):
        ndi.label(np.ascontiguousarray(block[index]), touching, output=out[index])
    return out


@dataclass(frozen=True)
class Seen:
    """What the others need to know of a block.

    ``first`` holds where in the volume the first voxel of each component lies. ``faces`` holds,
    for each axis, the components in the first and in the last plane of the block across it.
    """

    first: Array
    faces: tuple[tuple[Array, Array], ...]


def look(block: Array, region: Region, shape: tuple[int, ...], *, touching: Array) -> Seen:
    """Components of the block of one volume at ``region`` of ``shape``."""
    own = block.reshape(block.shape[-touching.ndim :])
    labels, n = _components(own, touching)
    steps = np.array([prod(shape[a + 1 :]) for a in range(own.ndim)], np.int64)
    start = sum(s.start * int(step) for s, step in zip(region, steps, strict=True))
    first = _first(labels.ravel(), n, np.array(own.shape, np.int64), steps, start)
    faces = tuple((labels.take(0, axis), labels.take(-1, axis)) for axis in range(labels.ndim))
    return Seen(first, faces)


def _components(volume: Array, touching: Array) -> tuple[Array, int]:
    """Components of a volume in int32, and how many."""
    labels = np.empty(volume.shape, np.int32)
    return labels, int(ndi.label(np.ascontiguousarray(volume), touching, output=labels))


@compiled
def _first(labels, n, lengths, steps, start):  # type: ignore[no-untyped-def]
    """Where each number of a block appears first, as a place in the volume."""
    found = np.full(n, -1, np.int64)
    for i in range(labels.size):
        at = labels[i] - 1
        if at >= 0 and found[at] < 0:
            place, rest = start, i
            for axis in range(lengths.size - 1, -1, -1):
                place += rest % lengths[axis] * steps[axis]
                rest //= lengths[axis]
            found[at] = place
    return found


def numbered(block: Array, table: Array, *, touching: Array, dtype: np.dtype[Any]) -> Array:
    """Components of a block of one volume by their numbers in the volume."""
    labels, _ = _components(block.reshape(block.shape[-touching.ndim :]), touching)
    return np.take(table, labels).reshape(block.shape)


def join(
    seen: Mapping[Index, Seen],
    grid: Sequence[Sequence[int]],
    *,
    touching: Array,
    dtype: np.dtype[Any],
) -> dict[Index, Array]:
    """For each block the numbers of its components in the volume, after a 0 for none."""
    order = sorted(seen)
    counts = [len(seen[index].first) for index in order]
    offsets = dict(zip(order, np.concatenate([[0], np.cumsum(counts)]), strict=False))
    above = np.arange(sum(counts), dtype=np.int64)
    for axis in range(touching.ndim):
        for cut in range(len(grid[axis]) - 1):
            _unite_across(above, seen, offsets, grid, axis, cut, touching)
    first = np.concatenate([seen[index].first for index in order]) if order else above
    numbers = _numbers(above, first).astype(dtype)
    zero = np.zeros(1, dtype)
    return {
        index: np.concatenate([zero, numbers[offsets[index] : offsets[index] + n]])
        for index, n in zip(order, counts, strict=True)
    }


def _unite_across(
    above: Array,
    seen: Mapping[Index, Seen],
    offsets: Mapping[Index, int],
    grid: Sequence[Sequence[int]],
    axis: int,
    cut: int,
    touching: Array,
) -> None:
    """Unite what touches across one plane through the whole volume."""
    before = _plane(seen, offsets, grid, axis, cut, 1)
    after = _plane(seen, offsets, grid, axis, cut + 1, 0)
    for shift in np.argwhere(touching.take(2, axis)) - 1:
        moves = list(zip(shift.tolist(), before.shape, strict=True))
        here = tuple(slice(max(0, -s), min(n, n - s)) for s, n in moves)
        there = tuple(slice(max(0, s), min(n, n + s)) for s, n in moves)
        _unite(above, before[here].ravel(), after[there].ravel())


def _plane(
    seen: Mapping[Index, Seen],
    offsets: Mapping[Index, int],
    grid: Sequence[Sequence[int]],
    axis: int,
    layer: int,
    side: int,
) -> Array:
    """Faces of one layer of blocks put together: components of the volume, -1 for none."""
    rest = [a for a in range(len(grid)) if a != axis]
    out = np.empty([sum(grid[a]) for a in rest], np.int64)
    for index, place in _places(grid, axis, layer):
        face = seen[index].faces[axis][side].astype(np.int64)
        out[place] = np.where(face > 0, face - 1 + offsets[index], -1)
    return out


def _places(grid: Sequence[Sequence[int]], axis: int, layer: int) -> Iterator[tuple[Index, Region]]:
    """Blocks of one layer, and where their faces lie in its plane."""
    ends = [np.concatenate([[0], np.cumsum(chunks)]) for chunks in grid]
    shape = tuple(1 if a == axis else len(chunks) for a, chunks in enumerate(grid))
    for found in np.ndindex(shape):
        place = tuple(
            slice(int(ends[a][i]), int(ends[a][i + 1])) for a, i in enumerate(found) if a != axis
        )
        yield tuple(layer if a == axis else i for a, i in enumerate(found)), place


@compiled
def _root(above, i):  # type: ignore[no-untyped-def]
    """The component that stands for ``i``; the way there gets shorter."""
    while above[i] != i:
        above[i] = above[above[i]]
        i = above[i]
    return i


@compiled
def _unite(above, a, b):  # type: ignore[no-untyped-def]
    """Unite pairs of components; the smaller one stands for both."""
    for k in range(a.size):
        if a[k] >= 0 and b[k] >= 0:
            i, j = _root(above, a[k]), _root(above, b[k])
            if i < j:
                above[j] = i
            elif j < i:
                above[i] = j


def _numbers(above: Array, first: Array) -> Array:
    """Number of each part of a component, from 1 in the order of first voxels."""
    roots = _roots(above)
    least = first.copy()
    np.minimum.at(least, roots, first)
    own = np.flatnonzero(roots == np.arange(len(roots)))
    ranks = np.zeros(len(roots), np.int64)
    ranks[own[np.argsort(least[own], kind="stable")]] = np.arange(1, len(own) + 1)
    return ranks[roots]


@compiled
def _roots(above):  # type: ignore[no-untyped-def]
    found = np.empty_like(above)
    for i in range(above.size):
        found[i] = _root(above, i)
    return found

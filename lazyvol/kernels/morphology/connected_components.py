"""Connected components of whole volumes, and of volumes in blocks.

Components of a block are those of ``scipy.ndimage.label``. Components of different blocks are
united where voxels touch across a common face. They are numbered in the order of their first
voxels, so that blocks give the numbers of the whole volume.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
Index = tuple[int, ...]
Grid = Sequence[Sequence[int]]


def neighbourhood(ndim: int, connectivity: int) -> Array:
    """Return a voxel and those that share a face (1), also an edge (2), also a corner (3)."""
    return np.asarray(ndi.generate_binary_structure(ndim, connectivity))


def label_volumes(block: Array, *, structure: Array, dtype: np.dtype[Any]) -> Array:
    """Label the components of every volume in a block, whose last axes are those of a volume."""
    labels = np.empty(block.shape, dtype)
    for index in np.ndindex(block.shape[: block.ndim - structure.ndim]):
        ndi.label(np.ascontiguousarray(block[index]), structure, output=labels[index])
    return labels


@dataclass(frozen=True)
class BlockSummary:
    """The data of a block's components that merging across blocks needs.

    ``first`` is the flat index in the volume of each component's first voxel. ``faces`` are, for
    each axis, the labels in the first and in the last plane of the block.
    """

    first: Array
    faces: tuple[tuple[Array, Array], ...]


def summarize_block(
    block: Array, region: Region, shape: tuple[int, ...], *, structure: Array
) -> BlockSummary:
    """Label the block at ``region`` of a volume of ``shape``; return its summary."""
    return summarize_labels(*label_block(block, structure), region, shape)


def summarize_labels(labels: Array, n: int, region: Region, shape: tuple[int, ...]) -> BlockSummary:
    """Return the summary of ``n`` labels of the block at ``region`` of a volume of ``shape``."""
    indices = np.unravel_index(_first_indices(labels.ravel(), n), labels.shape)
    place = tuple(i + s.start for i, s in zip(indices, region, strict=True))
    first = np.ravel_multi_index(place, shape).astype(np.int64)
    faces = tuple((labels.take(0, axis), labels.take(-1, axis)) for axis in range(labels.ndim))
    return BlockSummary(first, faces)


def label_block(block: Array, structure: Array) -> tuple[Array, int]:
    """Label a block of one volume; return int32 labels and the number of components."""
    volume = np.ascontiguousarray(block.reshape(block.shape[-structure.ndim :]))
    labels = np.empty(volume.shape, np.int32)
    return labels, int(ndi.label(volume, structure, output=labels))


@compiled
def _first_indices(labels, n):  # type: ignore[no-untyped-def]
    """Return the index at which each of ``n`` labels, numbered as they appear, appears first."""
    first = np.empty(n, np.int64)
    count = 0
    for i in range(labels.size):
        if labels[i] > count:
            first[count] = i
            count += 1
    return first


def relabel_block(block: Array, numbers: Array, *, structure: Array) -> Array:
    """Label a block of one volume by the ``numbers`` of its components in the volume."""
    labels, _ = label_block(block, structure)
    return np.take(numbers, labels).reshape(block.shape)


def merge_components(
    summaries: Mapping[Index, BlockSummary], grid: Grid, *, structure: Array, dtype: np.dtype[Any]
) -> dict[Index, Array]:
    """Return the numbers in the volume of each block's components, after a 0 for background."""
    order = sorted(summaries)
    counts = [len(summaries[index].first) for index in order]
    offsets = dict(zip(order, np.concatenate([[0], np.cumsum(counts)]), strict=False))
    parents = np.arange(sum(counts), dtype=np.int64)
    for axis in range(structure.ndim):
        for layer in range(len(grid[axis]) - 1):
            before = _face_labels(summaries, offsets, grid, axis, layer, side=1)
            after = _face_labels(summaries, offsets, grid, axis, layer + 1, side=0)
            _unite_faces(parents, before, after, structure.take(2, axis))
    first = np.concatenate([summaries[index].first for index in order]) if order else parents
    numbers = _component_numbers(parents, first).astype(dtype)
    background = np.zeros(1, dtype)
    return {
        index: np.concatenate([background, numbers[offsets[index] : offsets[index] + n]])
        for index, n in zip(order, counts, strict=True)
    }


def _unite_faces(parents: Array, before: Array, after: Array, structure: Array) -> None:
    """Unite components that touch across a plane, from the labels of its two sides."""
    for shift in np.argwhere(structure) - 1:
        moves = list(zip(shift.tolist(), before.shape, strict=True))
        before_part = tuple(slice(max(0, -s), min(n, n - s)) for s, n in moves)
        after_part = tuple(slice(max(0, s), min(n, n + s)) for s, n in moves)
        _unite(parents, before[before_part].ravel(), after[after_part].ravel())


def _face_labels(
    summaries: Mapping[Index, BlockSummary], offsets: Mapping[Index, int], grid: Grid, axis: int,
    layer: int, *, side: int,
) -> Array:  # fmt: skip
    """Return the faces of a layer of blocks as one plane: components of the volume, -1 for none."""
    plane = np.empty([sum(chunks) for a, chunks in enumerate(grid) if a != axis], np.int64)
    for index, place in _blocks_of_layer(grid, axis, layer):
        face = summaries[index].faces[axis][side].astype(np.int64)
        plane[place] = np.where(face > 0, face - 1 + offsets[index], -1)
    return plane


def _blocks_of_layer(grid: Grid, axis: int, layer: int) -> Iterator[tuple[Index, Region]]:
    """Yield the index of each block of a layer and the place of its face in the plane."""
    edges = [np.concatenate([[0], np.cumsum(chunks)]) for chunks in grid]
    shape = tuple(1 if a == axis else len(chunks) for a, chunks in enumerate(grid))
    for index in np.ndindex(shape):
        place = tuple(
            slice(int(edges[a][i]), int(edges[a][i + 1])) for a, i in enumerate(index) if a != axis
        )
        yield tuple(layer if a == axis else i for a, i in enumerate(index)), place


@compiled
def _find_root(parents, i):  # type: ignore[no-untyped-def]
    """Return the root of component ``i``; shorten the path to it."""
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@compiled
def _unite(parents, a, b):  # type: ignore[no-untyped-def]
    """Unite pairs of components; the smaller root becomes the parent."""
    for k in range(a.size):
        if a[k] >= 0 and b[k] >= 0:
            i, j = _find_root(parents, a[k]), _find_root(parents, b[k])
            if i < j:
                parents[j] = i
            elif j < i:
                parents[i] = j


def _component_numbers(parents: Array, first: Array) -> Array:
    """Number united components from 1 in the order of their first voxels."""
    roots = _find_roots(parents)
    first_of_root = first.copy()
    np.minimum.at(first_of_root, roots, first)
    is_root = np.flatnonzero(roots == np.arange(len(roots)))
    numbers = np.zeros(len(roots), np.int64)
    order = np.argsort(first_of_root[is_root], kind="stable")
    numbers[is_root[order]] = np.arange(1, len(is_root) + 1)
    return numbers[roots]


@compiled
def _find_roots(parents):  # type: ignore[no-untyped-def]
    roots = np.empty_like(parents)
    for i in range(parents.size):
        roots[i] = _find_root(parents, i)
    return roots

"""Layers that dask builds from indexing and rechunking, read as recipes.

Their tasks take parts of blocks and join them. Each task is followed on positions instead of
values: a block is described, along every axis of the parent, by the positions of its elements. If
all blocks fit together they are a selection of the parent, and any of its regions can be read.
"""

import operator
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from dask._task_spec import Alias, DataNode, List, Task, TaskRef
from dask.array import _shuffle, chunk
from dask.array import core as dask_core

from lazyvol.plan import regions
from lazyvol.plan.graph.elementwise import ParsedArray
from lazyvol.plan.recipes.base import Array, leaves
from lazyvol.plan.recipes.leaves import is_in_memory
from lazyvol.plan.recipes.views import AxisOrder, Pick, Selected, transposed
from lazyvol.plan.regions import Grid

#: a rechunked array is read as a recipe if each stored chunk is read at most this many times as
#: often as before; above it dask rechunks, which keeps the blocks it has read
REREADS = 2.0

GETITEM = (operator.getitem, chunk.getitem)


class Axis(NamedTuple):
    """One axis of a block: the parent's axis (None for a new one), and the positions along it."""

    parent: int | None
    positions: Array


class PositionBlock(NamedTuple):
    """A block as positions: its axes, and the single position along each dropped axis."""

    axes: tuple[Axis, ...]
    dropped: tuple[tuple[int, int], ...] = ()


class _UnknownLayerError(Exception):
    """The layer is neither an index nor a rechunking."""


def read_selection(
    name: str, layer: Mapping[Any, Any], parent_name: str, parent: ParsedArray
) -> ParsedArray | None:
    """Return the recipe of a layer that selects from a parent or rechunks it; else None."""
    try:
        return _LayerReader(name, layer, parent_name, parent).read()
    except (_UnknownLayerError, IndexError, KeyError, TypeError, ValueError):
        return None


class _LayerReader:
    def __init__(
        self, name: str, layer: Mapping[Any, Any], parent_name: str, parent: ParsedArray
    ) -> None:
        self.name, self.layer, self.parent_name, self.parent = name, layer, parent_name, parent
        self.blocks: dict[Any, PositionBlock] = {}
        # equal stretches are one object, so that most comparisons of blocks are by identity
        self.stretches: dict[Any, Array] = {}
        self.referenced: list[Any] = []  # keeps the objects alive whose ids are keys
        self.parent_positions = [
            [np.arange(s.start, s.stop) for s in regions.chunk_slices(chunks)]
            for chunks in parent.grid
        ]

    def read(self) -> ParsedArray:
        blocks = {
            key[1:]: self._block(key)
            for key in self.layer
            if isinstance(key, tuple) and key[0] == self.name
        }
        if not blocks:
            raise _UnknownLayerError
        first = next(iter(blocks.values()))
        ndim = len(first.axes)
        counts = [1 + max(index[a] for index in blocks) for a in range(ndim)]
        if len(blocks) != prod(counts):
            raise _UnknownLayerError
        columns = [
            [_block_along(blocks, ndim, a, n).axes[a] for n in range(counts[a])]
            for a in range(ndim)
        ]
        for index, block in blocks.items():
            if block.dropped != first.dropped or any(
                not _equal(axis, columns[a][index[a]]) for a, axis in enumerate(block.axes)
            ):
                raise _UnknownLayerError
        return self._selection(columns, first.dropped)

    def _selection(
        self, columns: Sequence[Sequence[Axis]], dropped: Sequence[tuple[int, int]]
    ) -> ParsedArray:
        """Return the recipe for the blocks along each axis."""
        parent, grid = self.parent.recipe, _grid(columns)
        picks: list[Pick | None] = [None] * parent.ndim
        for axis, position in dropped:
            picks[axis] = position
        order = tuple(axes[0].parent for axes in columns)
        for axes in columns:
            if axes[0].parent is not None:
                picks[axes[0].parent] = _pick(np.concatenate([a.positions for a in axes]))
        kept = [a for a in order if a is not None]
        if any(p is None for p in picks) or kept != sorted(kept):
            raise _UnknownLayerError
        selection = tuple(p for p in picks if p is not None)
        if selection == tuple(range(n) for n in parent.shape):
            self._require_few_reads(grid, order)
        else:
            parent = Selected((parent,), selection)
        numbers = {a: n for n, a in enumerate(kept)}
        recipe = transposed(parent, [None if a is None else numbers[a] for a in order])
        return ParsedArray(recipe, grid, self.parent.has_recipe)

    def _require_few_reads(self, grid: Grid, order: AxisOrder) -> None:
        """Raise if the blocks of a rechunked array would read stored chunks too often."""
        parent = self.parent.recipe
        chunk = parent.preferred_chunk
        before = _reads_per_chunk(self.parent.grid, chunk, parent.shape)
        after = _reads_per_chunk(_parent_grid(grid, order), chunk, parent.shape)
        if after > REREADS * before and not all(is_in_memory(leaf) for leaf in leaves(parent)):
            raise _UnknownLayerError

    # tasks ----------------------------------------------------------------------------------

    def _block(self, key: Any) -> PositionBlock:
        if key in self.blocks:
            return self.blocks[key]
        if key in self.layer:
            block = self._task_result(self.layer[key])
        elif isinstance(key, tuple) and key[0] == self.parent_name:
            axes = (Axis(a, self.parent_positions[a][n]) for a, n in enumerate(key[1:]))
            block = PositionBlock(tuple(axes))
        else:
            raise _UnknownLayerError
        self.blocks[key] = block
        return block

    def _task_result(self, task: Any) -> PositionBlock:
        if isinstance(task, Alias):
            return self._block(task.target)
        if type(task) is not Task or task.kwargs:
            raise _UnknownLayerError
        if task.func in GETITEM:
            return self._indexed(self._argument(task.args[0]), self._value(task.args[1]))
        if task.func is _shuffle._getitem:
            return self._indexed(self._argument(task.args[0]), self._value(task.args[1])[1])
        if task.func is dask_core.concatenate_shaped:
            blocks = [self._argument(a) for a in _list(task.args[0])]
            return self._joined(blocks, task.args[1])
        if task.func is _shuffle.concatenate_arrays:
            blocks = [self._argument(a) for a in _list(task.args[0])]
            return self._shuffled(blocks, self._value(task.args[1])[1], task.args[2])
        raise _UnknownLayerError

    def _argument(self, item: Any) -> PositionBlock:
        if isinstance(item, TaskRef | Alias):
            return self._block(item.key if isinstance(item, TaskRef) else item.target)
        if isinstance(item, Task):
            return self._task_result(item)
        raise _UnknownLayerError

    def _value(self, item: Any) -> Any:
        if isinstance(item, TaskRef):
            item = self.layer[item.key]
        return item.value if isinstance(item, DataNode) else item

    # operations on blocks -------------------------------------------------------------------

    def _indexed(self, block: PositionBlock, index: Any) -> PositionBlock:
        """Index a block as numpy would."""
        index = index if isinstance(index, tuple) else (index,)
        lists = sum(isinstance(i, list | np.ndarray) for i in index)
        if lists > 1 or (lists and any(isinstance(i, int | np.integer) for i in index)):
            raise _UnknownLayerError
        axes: list[Axis] = []
        dropped = list(block.dropped)
        old_axes = iter(block.axes)
        for i in index:
            if i is None:
                axes.append(Axis(None, self._new_axis()))
                continue
            axis = next(old_axes)
            if isinstance(i, int | np.integer):
                if axis.parent is not None:
                    dropped.append((axis.parent, int(axis.positions[i])))
            else:
                axes.append(Axis(axis.parent, self._stretch(axis.positions, i)))
        return PositionBlock((*axes, *old_axes), tuple(sorted(dropped)))

    def _new_axis(self) -> Array:
        return self.stretches.setdefault("new axis", np.zeros(1, np.int64))

    def _stretch(self, positions: Array, index: Any) -> Array:
        if isinstance(index, slice):
            key = (id(positions), index.start, index.stop, index.step)
            if key not in self.stretches:
                self.stretches[key] = positions[index]
                self.referenced.append(positions)
            return self.stretches[key]
        selected: Array = positions[np.asarray(index)]
        return selected

    def _joined(self, blocks: Sequence[PositionBlock], shape: Sequence[int]) -> PositionBlock:
        """Join blocks that form a grid of ``shape``, in C order."""
        by_index = dict(zip(product(*(range(n) for n in shape)), blocks, strict=True))
        axes = []
        for a, n in enumerate(shape):
            column = [_block_along(by_index, len(shape), a, m).axes[a] for m in range(n)]
            for index, block in by_index.items():
                if not _equal(block.axes[a], column[index[a]]):
                    raise _UnknownLayerError
            stretches = [axis.positions for axis in column]
            axes.append(Axis(column[0].parent, self._concatenated(stretches)))
        if any(block.dropped != blocks[0].dropped for block in blocks):
            raise _UnknownLayerError
        return PositionBlock(tuple(axes), blocks[0].dropped)

    def _concatenated(self, stretches: Sequence[Array]) -> Array:
        if len(stretches) == 1:
            return stretches[0]
        key = tuple(id(s) for s in stretches)
        if key not in self.stretches:
            self.stretches[key] = np.concatenate(stretches)
            self.referenced.append(stretches)
        return self.stretches[key]

    def _shuffled(self, blocks: Sequence[PositionBlock], sorter: Array, axis: int) -> PositionBlock:
        """Join blocks along an axis and undo the sorting of its positions."""
        shape = [len(blocks) if a == axis else 1 for a in range(len(blocks[0].axes))]
        joined = self._joined(blocks, shape)
        axes = list(joined.axes)
        axes[axis] = Axis(axes[axis].parent, axes[axis].positions[np.argsort(sorter)])
        return PositionBlock(tuple(axes), joined.dropped)


def _list(item: Any) -> Sequence[Any]:
    if isinstance(item, List | list):
        return list(item)
    raise _UnknownLayerError


def _block_along(
    blocks: Mapping[tuple[int, ...], PositionBlock], ndim: int, axis: int, n: int
) -> PositionBlock:
    """Return the block number ``n`` along one axis, the first along all others."""
    return blocks[tuple(n if a == axis else 0 for a in range(ndim))]


def _equal(a: Axis, b: Axis) -> bool:
    if a.parent != b.parent:
        return False
    return a.positions is b.positions or np.array_equal(a.positions, b.positions)


def _grid(columns: Sequence[Sequence[Axis]]) -> Grid:
    return tuple(tuple(len(axis.positions) for axis in axes) for axes in columns)


def _pick(positions: Array) -> Pick:
    """Return positions as a range if they are evenly spaced, else as a tuple."""
    n = len(positions)
    if n == 0:
        return range(0)
    first = int(positions[0])
    step = int(positions[1]) - first if n > 1 else 1
    if step and (n < 3 or bool((np.diff(positions) == step).all())):
        return range(first, first + n * step, step)
    return tuple(int(p) for p in positions)


def _parent_grid(grid: Grid, order: AxisOrder) -> Grid:
    """Return the blocks along the parent's axes, without those of new axes."""
    return tuple(chunks for chunks, axis in zip(grid, order, strict=True) if axis is not None)


def _reads_per_chunk(grid: Grid, chunk: Sequence[int], shape: Sequence[int]) -> float:
    """Return the average number of reads of a stored chunk by the blocks of a grid."""
    reads = 1.0
    for chunks, c, n in zip(grid, chunk, shape, strict=True):
        spans = (s for s in regions.chunk_slices(chunks) if s.stop > s.start)
        touched = sum(-(-s.stop // max(1, c)) - s.start // max(1, c) for s in spans)
        reads *= touched / max(1, -(-n // max(1, c)))
    return reads

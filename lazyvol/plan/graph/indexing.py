"""Layers that dask makes of an index or of other chunks, read as recipes.

Their tasks take parts of blocks and put them together. Each task is followed in positions instead
of values: a block is the positions, along every axis of the parent, of the elements it holds. Where
all blocks fit together they are a selection of the parent, and any region of it can be read.
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
from lazyvol.plan.graph.elementwise import Found
from lazyvol.plan.graph.results import is_held
from lazyvol.plan.recipes.base import Array, leaves
from lazyvol.plan.recipes.views import Pick, Sliced, aligned
from lazyvol.plan.regions import Grid

#: how many times a stored chunk may be read by the blocks of an array that was cut anew; above it
#: dask's own cutting, which holds what it has read, is left to do it
AGAIN = 2.0

GETITEM = (operator.getitem, chunk.getitem)


class Axis(NamedTuple):
    """One axis of a block: the parent's axis (None for a new one), and the positions along it."""

    parent: int | None
    positions: Array


class Piece(NamedTuple):
    """A block in positions: its axes, and the one position along axes that were dropped."""

    axes: tuple[Axis, ...]
    dropped: tuple[tuple[int, int], ...] = ()


class _Unread(Exception):
    """The layer is of another kind."""


def read_selection(
    name: str, layer: Mapping[Any, Any], parent_name: str, parent: Found
) -> Found | None:
    """The recipe of a layer that selects from a parent, or cuts it anew; else None."""
    try:
        return _Reading(name, layer, parent_name, parent).found()
    except (_Unread, IndexError, KeyError, TypeError, ValueError):
        return None


class _Reading:
    def __init__(
        self, name: str, layer: Mapping[Any, Any], parent_name: str, parent: Found
    ) -> None:
        self.name, self.layer, self.parent_name, self.parent = name, layer, parent_name, parent
        self.pieces: dict[Any, Piece] = {}
        # equal stretches are one object, so that blocks are compared by identity
        self.known: dict[Any, Array] = {}
        self.kept: list[Any] = []
        self.starts = [
            [np.arange(s.start, s.stop) for s in regions.spans(chunks)] for chunks in parent.grid
        ]

    def found(self) -> Found:
        blocks = {
            key[1:]: self._piece(key)
            for key in self.layer
            if isinstance(key, tuple) and key[0] == self.name
        }
        if not blocks:
            raise _Unread
        first = next(iter(blocks.values()))
        ndim = len(first.axes)
        counts = [1 + max(index[a] for index in blocks) for a in range(ndim)]
        if len(blocks) != prod(counts):
            raise _Unread
        along = [[_at(blocks, ndim, a, n).axes[a] for n in range(counts[a])] for a in range(ndim)]
        for index, piece in blocks.items():
            if piece.dropped != first.dropped or any(
                not _equal(axis, along[a][index[a]]) for a, axis in enumerate(piece.axes)
            ):
                raise _Unread
        return self._selected(along, first.dropped)

    def _selected(
        self, along: Sequence[Sequence[Axis]], dropped: Sequence[tuple[int, int]]
    ) -> Found:
        """The recipe, from the blocks along each axis."""
        parent, grid = self.parent.recipe, _grid(along)
        picks: list[Pick | None] = [None] * parent.ndim
        for axis, position in dropped:
            picks[axis] = position
        order = [axes[0].parent for axes in along]
        for axes in along:
            if axes[0].parent is not None:
                picks[axes[0].parent] = _pick(np.concatenate([a.positions for a in axes]))
        kept = [a for a in order if a is not None]
        if any(p is None for p in picks) or kept != sorted(kept):
            raise _Unread
        plain = tuple(p for p in picks if p is not None)
        if plain == tuple(range(n) for n in parent.shape):
            own = _reads(self.parent.grid, parent.grain, parent.shape)
            again = _reads(_turned(grid, order), parent.grain, parent.shape)
            if again > AGAIN * own and not all(is_held(leaf) for leaf in leaves(parent)):
                raise _Unread
        else:
            parent = Sliced((parent,), plain)
        numbers = {a: n for n, a in enumerate(kept)}
        turned = aligned(parent, [None if a is None else numbers[a] for a in order])
        return Found(turned, grid, self.parent.ours)

    def _piece(self, key: Any) -> Piece:
        if key in self.pieces:
            return self.pieces[key]
        if key not in self.layer:
            if not isinstance(key, tuple) or key[0] != self.parent_name:
                raise _Unread
            axes = (Axis(a, self.starts[a][n]) for a, n in enumerate(key[1:]))
            made = Piece(tuple(axes))
        else:
            made = self._of(self.layer[key])
        self.pieces[key] = made
        return made

    def _of(self, task: Any) -> Piece:
        if isinstance(task, Alias):
            return self._piece(task.target)
        if type(task) is not Task or task.kwargs:
            raise _Unread
        if task.func in GETITEM:
            return self._taken(self._part(task.args[0]), self._value(task.args[1]))
        if task.func is _shuffle._getitem:
            return self._taken(self._part(task.args[0]), self._value(task.args[1])[1])
        if task.func is dask_core.concatenate_shaped:
            return self._joined([self._part(a) for a in _list(task.args[0])], task.args[1])
        if task.func is _shuffle.concatenate_arrays:
            parts = [self._part(a) for a in _list(task.args[0])]
            return self._shuffled(parts, self._value(task.args[1])[1], task.args[2])
        raise _Unread

    def _part(self, item: Any) -> Piece:
        if isinstance(item, TaskRef | Alias):
            return self._piece(item.key if isinstance(item, TaskRef) else item.target)
        if isinstance(item, Task):
            return self._of(item)
        raise _Unread

    def _value(self, item: Any) -> Any:
        if isinstance(item, TaskRef):
            item = self.layer[item.key]
        return item.value if isinstance(item, DataNode) else item

    def _taken(self, piece: Piece, index: Any) -> Piece:
        """A piece indexed as numpy would."""
        index = index if isinstance(index, tuple) else (index,)
        lists = sum(isinstance(i, list | np.ndarray) for i in index)
        if lists > 1 or (lists and any(isinstance(i, int | np.integer) for i in index)):
            raise _Unread
        axes: list[Axis] = []
        dropped = list(piece.dropped)
        own = iter(piece.axes)
        for i in index:
            if i is None:
                axes.append(Axis(None, self._of_one()))
                continue
            axis = next(own)
            if isinstance(i, int | np.integer):
                if axis.parent is not None:
                    dropped.append((axis.parent, int(axis.positions[i])))
            else:
                axes.append(Axis(axis.parent, self._stretch(axis.positions, i)))
        return Piece((*axes, *own), tuple(sorted(dropped)))

    def _of_one(self) -> Array:
        return self.known.setdefault("one", np.zeros(1, np.int64))

    def _stretch(self, positions: Array, index: Any) -> Array:
        if isinstance(index, slice):
            key = (id(positions), index.start, index.stop, index.step)
            if key not in self.known:
                self.known[key] = positions[index]
                self.kept.append(positions)
            return self.known[key]
        listed: Array = positions[np.asarray(index)]
        return listed

    def _joined(self, parts: Sequence[Piece], shape: Sequence[int]) -> Piece:
        """Pieces side by side in a grid, in C order."""
        places = dict(zip(product(*(range(n) for n in shape)), parts, strict=True))
        axes = []
        for a, n in enumerate(shape):
            row = [_at(places, len(shape), a, m).axes[a] for m in range(n)]
            for index, piece in places.items():
                if not _equal(piece.axes[a], row[index[a]]):
                    raise _Unread
            axes.append(Axis(row[0].parent, self._concatenated([r.positions for r in row])))
        if any(piece.dropped != parts[0].dropped for piece in parts):
            raise _Unread
        return Piece(tuple(axes), parts[0].dropped)

    def _concatenated(self, stretches: Sequence[Array]) -> Array:
        if len(stretches) == 1:
            return stretches[0]
        key = tuple(id(s) for s in stretches)
        if key not in self.known:
            self.known[key] = np.concatenate(stretches)
            self.kept.append(stretches)
        return self.known[key]

    def _shuffled(self, parts: Sequence[Piece], sorter: Array, axis: int) -> Piece:
        """Pieces one after the other along an axis, then put into another order."""
        shape = [len(parts) if a == axis else 1 for a in range(len(parts[0].axes))]
        joined = self._joined(parts, shape)
        axes = list(joined.axes)
        axes[axis] = Axis(axes[axis].parent, axes[axis].positions[np.argsort(sorter)])
        return Piece(tuple(axes), joined.dropped)


def _list(item: Any) -> Sequence[Any]:
    if isinstance(item, List | list):
        return list(item)
    raise _Unread


def _at(blocks: Mapping[tuple[int, ...], Piece], ndim: int, axis: int, n: int) -> Piece:
    """The block number ``n`` along one axis, the first along all others."""
    return blocks[tuple(n if a == axis else 0 for a in range(ndim))]


def _equal(a: Axis, b: Axis) -> bool:
    if a.parent != b.parent:
        return False
    return a.positions is b.positions or np.array_equal(a.positions, b.positions)


def _grid(along: Sequence[Sequence[Axis]]) -> Grid:
    return tuple(tuple(len(axis.positions) for axis in axes) for axes in along)


def _pick(positions: Array) -> Pick:
    """Positions as a range where they are one."""
    n = len(positions)
    if n == 0:
        return range(0)
    first = int(positions[0])
    step = int(positions[1]) - first if n > 1 else 1
    if step and (n < 3 or bool((np.diff(positions) == step).all())):
        return range(first, first + n * step, step)
    return tuple(int(p) for p in positions)


def _turned(grid: Grid, order: Sequence[int | None]) -> Grid:
    """Blocks of the parent's axes, which are in their order, without the new ones."""
    return tuple(chunks for chunks, axis in zip(grid, order, strict=True) if axis is not None)


def _reads(grid: Grid, grain: Sequence[int], shape: Sequence[int]) -> float:
    """How many times the blocks of a grid read a stored chunk, on average."""
    times = 1.0
    for chunks, g, n in zip(grid, grain, shape, strict=True):
        spans = (s for s in regions.spans(chunks) if s.stop > s.start)
        touched = sum(-(-s.stop // max(1, g)) - s.start // max(1, g) for s in spans)
        times *= touched / max(1, -(-n // max(1, g)))
    return times

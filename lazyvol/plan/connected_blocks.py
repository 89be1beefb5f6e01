"""Stitching: blocks of a volume, each made anew once it is known what all of them hold together.

Two reads. In the first, every block is looked at, and what the others need to know of it (its
faces, say) is joined into a table for each block. In the second, every block is made with its
table. A volume that fits a task is made alone, in one read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.blas_threads import one_thread_each
from lazyvol.plan.budget import BLOCK, Budget, Price, Step, sampled_cost, stored_bytes
from lazyvol.plan.evaluate import evaluate, price
from lazyvol.plan.graph.layers import Places, ResultLayer, needs
from lazyvol.plan.graph.lazy_array import (
    Blocks,
    Lazy,
    foreign_of,
    lazy,
    recipe_of,
    result,
    steps_of,
)
from lazyvol.plan.operands import axes_within, done, grid_of, labelled, operands
from lazyvol.plan.recipes.base import Array, Cost, Given, Recipe, Want, settle
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.recipes.handed_blocks import handed
from lazyvol.plan.recipes.views import aligned
from lazyvol.plan.reductions.partition import block_grid
from lazyvol.plan.regions import Grid, Region
from lazyvol.stack import require_stack

#: bytes of the smallest blocks that a tight budget may ask for
LEAST = 2**16


@dataclass(frozen=True)
class Stitching:
    """What is made of volumes whose blocks must know of each other.

    ``alone(block)`` makes whole volumes, which are the last axes of a block. Of a volume in
    blocks, ``look(block, region, shape)`` says what the others need to know of one,
    ``join(seen, grid)`` gives a table for each, by their index in the volume's grid, and
    ``make(block, table)`` makes it. ``scratch`` is the kernels' own memory in bytes per voxel.
    """

    alone: Callable[[Array], Array]
    look: Callable[[Array, Region, tuple[int, ...]], Any]
    join: Callable[[Mapping[tuple[int, ...], Any], Grid], Mapping[tuple[int, ...], Any]]
    make: Callable[[Array, Any], Array]
    dtype: np.dtype[Any]
    scratch: float = 0.0


@dataclass(frozen=True, eq=False)
class Stitched(Recipe):
    """Blocks of ``grid`` made with their tables; ``tables`` has an object for each of them."""

    streams = True

    kernels: Stitching
    parents: tuple[Recipe, Recipe]
    grid: Grid

    @property
    def parent(self) -> Recipe:
        """The volumes."""
        return self.parents[0]

    @property
    def tables(self) -> Recipe:
        """A table for each block, in an array of objects."""
        return self.parents[1]

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.parent.shape

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.kernels.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(max(1, max(chunks, default=1)) for chunks in self.grid)

    @cached_property
    def token(self) -> str:
        facts = (self.parent.token, self.tables.token, self.grid)
        return str(tokenize("stitched", self.kernels, facts))

    @cached_property
    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """Where the blocks of each axis begin and end."""
        return tuple(regions.edges(chunks) for chunks in self.grid)

    def _blocks(self, region: Region) -> list[tuple[Region, Region]]:
        """Blocks behind a region, and the places of their tables."""
        return [
            (box, tuple(slice(i, i + 1) for i in index))
            for index, box in regions.overlapping(self.cuts, region)
            if regions.size(regions.intersect(box, region))
        ]

    def wants(self, region: Region) -> list[Want]:
        found: list[Want] = []
        for box, place in self._blocks(region):
            found += [(0, box), (1, place)]
        return found

    def fetch(self, region: Region, given: Given, out: Array | None = None) -> Array:
        found = np.empty(regions.lengths(region), self.dtype) if out is None else out
        for box, place in self._blocks(region):
            table = evaluate(self.tables, place, given).item()
            made = self.kernels.make(evaluate(self.parent, box, given), table)
            if box == region:
                return np.asarray(made, self.dtype)
            common = regions.intersect(box, region)
            found[regions.relative(common, region)] = made[regions.relative(common, box)]
        return found

    def cost(self, region: Region) -> Cost:
        blocks = self._blocks(region)
        costs = [price(self.parent, box) for box, _ in blocks]
        own = 0 if len(blocks) == 1 and blocks[0][0] == region else self.nbytes(region)
        most = max((_working(self, box) for box, _ in blocks), default=0)
        most = max(most, max((c.peak for c in costs), default=0))
        return Cost(sum(c.read for c in costs), own + most)


def _working(recipe: Stitched, box: Region) -> int:
    """Bytes of a block, of what is made of it, and of its kernel."""
    made = recipe.nbytes(box)
    return recipe.parent.nbytes(box) + made + int(recipe.kernels.scratch * regions.size(box))


def stitched(
    kernels: Stitching, stack: xr.DataArray, *, dims: Sequence[str], title: str = "stitch"
) -> xr.DataArray:
    """Every volume of a stack, along ``dims``, by a stitching; its dims stay in their order."""
    order = (*(str(d) for d in require_stack(stack).dims if d not in dims), *dims)
    arrays, local = operands((stack,))
    turn = tuple(a for a in axes_within(stack, order) if a is not None)
    make = partial(_stitched, kernels, turn, len(dims), title)
    found = labelled(done(make, arrays, local), order, stack)
    return found.transpose(*stack.dims)


def _stitched(
    kernels: Stitching, turn: tuple[int, ...], ndim: int, title: str, array: Any
) -> Blocks | Lazy:
    parent = aligned(recipe_of(array), turn)
    first = parent.ndim - ndim
    if _fits(kernels, parent, first):
        axes = (*range(first), *(None for _ in range(ndim)))
        core = frozenset(range(first, parent.ndim))
        alone = Blockwise(
            kernels.alone, (parent,), (axes,), parent.shape, kernels.dtype, core, kernels.scratch
        )
        own = grid_of(array, turn)
        grid = (*own[:first], *((n,) for n in parent.shape[first:]))
        return Blocks(alone, _narrowed(grid, first, kernels.dtype.itemsize), title)
    grid = _volume_grid(parent, first, kernels)
    tables = _tables(kernels, parent, grid, first, array, title)
    recipe = Stitched(kernels, (parent, recipe_of(tables)), grid)
    return lazy(recipe, grid, array, tables, title=title)


def _room(tasks: int) -> int:
    """Bytes that a block and what is made of it may take where there are so many tasks."""
    limit = Budget.current().per_task_of(tasks)
    return 2 * BLOCK if limit is None else min(2 * BLOCK, limit // 2)


def _item(kernels: Stitching, parent: Recipe) -> int:
    """Bytes per voxel while a block is made."""
    return parent.dtype.itemsize + kernels.dtype.itemsize + int(kernels.scratch)


def _fits(kernels: Stitching, parent: Recipe, first: int) -> bool:
    """Whether a task can make a whole volume."""
    room = _room(prod(parent.shape[:first]))
    return prod(parent.shape[first:]) * _item(kernels, parent) <= room


def _narrowed(grid: Grid, first: int, item: int) -> Grid:
    """Blocks of whole volumes cut along the other axes until one is no more than usual."""
    chunks = [max(c, default=1) or 1 for c in grid]
    room = max(1, BLOCK // item)
    for axis in range(first):
        if prod(chunks) > room:
            chunks[axis] = max(1, chunks[axis] * room // prod(chunks))
    return tuple(
        regions.cover(sum(own), n) if n < max(own, default=0) else own
        for own, n in zip(grid, chunks, strict=True)
    )


def _volume_grid(parent: Recipe, first: int, kernels: Stitching) -> Grid:
    """Blocks of one volume each, in whole stored chunks where they are not too large."""
    budget = Budget.current()
    limit, room, item = budget.per_task, _room(budget.at_once), _item(kernels, parent)
    grid = _blocks(parent, first, item, room)
    while (
        limit is not None
        and room > LEAST
        and sampled_cost(_looked(kernels, parent), grid)[1] > limit
    ):
        room //= 2
        grid = _blocks(parent, first, item, room)
    return grid


def _blocks(parent: Recipe, first: int, item: int, room: int) -> Grid:
    """Blocks of one volume each, of about ``room`` bytes."""
    shape = parent.shape[first:]
    own = block_grid(shape, parent.grain[first:], item, room)
    if prod(max(c) for c in own) * item > 2 * room:
        own = block_grid(shape, (1,) * len(shape), item, room)
    return (*((1,) * n for n in parent.shape[:first]), *own)


def _looked(kernels: Stitching, parent: Recipe) -> Blockwise:
    """A recipe that costs what looking at a block does."""
    axes = (tuple(range(parent.ndim)),)
    return Blockwise(
        kernels.alone, (parent,), axes, parent.shape, kernels.dtype, frozenset(), kernels.scratch
    )


def _tables(
    kernels: Stitching, parent: Recipe, grid: Grid, first: int, array: Any, title: str
) -> Lazy:
    """A table for every block: blocks are looked at, those of a volume are joined."""
    settle(parent)
    name = f"lazyvol-{title}-tables-" + tokenize(kernels, parent.token, grid)
    tasks: dict[Any, Any] = {}
    volumes: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for index, box in regions.boxes(grid):
        places, blocks = needs((parent, box))
        key = (f"{name}-look", *index)
        tasks[key] = Task(key, _look, kernels.look, parent, box, first, places, blocks)
        volumes.setdefault(index[:first], []).append(index)
        joined = TaskRef((f"{name}-join", *index[:first]))
        tasks[(name, *index)] = Task((name, *index), _table, joined, index[first:], len(grid))
    for volume, indices in volumes.items():
        inside = [index[first:] for index in indices]
        seen = List(*(TaskRef((f"{name}-look", *index)) for index in indices))
        key = (f"{name}-join", *volume)
        tasks[key] = Task(key, _join, kernels.join, inside, grid[first:], seen)
    below = steps_of(array)
    price = partial(_price, kernels, parent, grid, first)
    step = Step(name, f"{title}-look", len(tasks), tuple(s.token for s in below), price)
    ones = tuple((1,) * len(chunks) for chunks in grid)
    layer = ResultLayer(name, tasks, ones, np.dtype(object))
    return result(layer, foreign_of(array).values(), below, step)


def _look(
    look: Callable[..., Any], parent: Recipe, box: Region, first: int, places: Places,
    blocks: Sequence[Array],
) -> Any:  # fmt: skip
    with one_thread_each():
        block = evaluate(parent, box, handed(places, blocks))
        return look(block, box[first:], parent.shape[first:])


def _join(
    join: Callable[..., Any], blocks: Sequence[tuple[int, ...]], grid: Grid, seen: Sequence[Any]
) -> Any:
    return join(dict(zip(blocks, seen, strict=True)), grid)


def _table(tables: Mapping[tuple[int, ...], Any], index: tuple[int, ...], ndim: int) -> Array:
    """One table as a block of an array of objects."""
    found = np.empty((1,) * ndim, object)
    found[(0,) * ndim] = tables[index]
    return found


def _price(kernels: Stitching, parent: Recipe, grid: Grid, first: int) -> Price:
    """A read of all of it; faces of every block wait until they are joined."""
    read, peak = sampled_cost(_looked(kernels, parent), grid)
    return Price(read, stored_bytes(parent), peak, waiting=_faces(grid[first:]) * 4)


def _faces(grid: Grid) -> int:
    """Voxels in both planes across each axis of all blocks of a volume."""
    total = 0
    for axis, chunks in enumerate(grid):
        plane = prod(sum(own) for a, own in enumerate(grid) if a != axis)
        total += 2 * len(chunks) * plane
    return total

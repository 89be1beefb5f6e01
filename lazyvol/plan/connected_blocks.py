"""Connected blocks: a volume in blocks, each computed with facts about all others.

The volume is read twice. In the first pass every block is inspected, and the facts that the others
need (its faces, say) are combined into a table for each block. In the second pass every block is
computed with its table. A volume that fits into a task is computed whole, in one pass.
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
from lazyvol.plan.budget import BLOCK, Budget, Step, StepCost, sampled_cost, stored_bytes
from lazyvol.plan.evaluate import evaluate, region_cost
from lazyvol.plan.execution import single_blas_thread
from lazyvol.plan.graph.layers import ResultLayer, required_blocks
from lazyvol.plan.graph.lazy_array import (
    BlockedRecipe,
    LazyArray,
    foreign_arrays,
    lazy_array,
    recipe_of,
    result_array,
    steps_below,
)
from lazyvol.plan.recipes.base import Array, Cost, Dependency, Recipe, cache_properties
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.recipes.leaves import BlockRefs, InputBlocks, input_blocks
from lazyvol.plan.recipes.views import transposed
from lazyvol.plan.regions import Grid, Index, Region
from lazyvol.plan.verbs import axis_order, defer_or_compute, labelled, operand_grid, operands
from lazyvol.stack import require_stack

#: bytes of the smallest blocks under a tight budget
SMALLEST = 2**16


@dataclass(frozen=True)
class ConnectedKernels:
    """The kernels of an operation whose blocks need facts about each other.

    ``whole(block)`` computes whole volumes, the last axes of a block. For a volume in blocks,
    ``inspect(block, region, shape)`` returns the facts about a block that the others need,
    ``combine(facts, grid)`` returns a table for each, by its index in the volume's grid, and
    ``compute(block, table)`` computes it. ``scratch`` is their own memory in bytes per voxel.
    """

    whole: Callable[[Array], Array]
    inspect: Callable[[Array, Region, tuple[int, ...]], Any]
    combine: Callable[[Mapping[Index, Any], Grid], Mapping[Index, Any]]
    compute: Callable[[Array, Any], Array]
    dtype: np.dtype[Any]
    scratch: float = 0.0


@dataclass(frozen=True, eq=False)
class ConnectedBlocks(Recipe):
    """The blocks of ``grid``, computed with their tables.

    The parents are the volumes and an array with a table (an object) for each block.
    """

    is_streaming = True

    kernels: ConnectedKernels
    parents: tuple[Recipe, Recipe]
    grid: Grid

    @property
    def volumes(self) -> Recipe:
        return self.parents[0]

    @property
    def tables(self) -> Recipe:
        return self.parents[1]

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.volumes.shape

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.kernels.dtype

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(max(1, max(chunks, default=1)) for chunks in self.grid)

    @cached_property
    def token(self) -> str:
        parents = (self.volumes.token, self.tables.token, self.grid)
        return str(tokenize("connected blocks", self.kernels, parents))

    @cached_property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """Positions where the blocks of each axis begin and end."""
        return tuple(regions.edges(chunks) for chunks in self.grid)

    def _blocks(self, region: Region) -> list[tuple[Region, Region]]:
        """Return the blocks that overlap a region, and the places of their tables."""
        return [
            (box, tuple(slice(i, i + 1) for i in index))
            for index, box in regions.overlapping(self.edges, region)
            if regions.size(regions.intersect(box, region))
        ]

    def dependencies(self, region: Region) -> list[Dependency]:
        required: list[Dependency] = []
        for box, place in self._blocks(region):
            required += [(0, box), (1, place)]
        return required

    def fetch(self, region: Region, blocks: InputBlocks, out: Array | None = None) -> Array:
        values = np.empty(regions.lengths(region), self.dtype) if out is None else out
        for box, place in self._blocks(region):
            table = evaluate(self.tables, place, blocks).item()
            block = self.kernels.compute(evaluate(self.volumes, box, blocks), table)
            if box == region:
                return np.asarray(block, self.dtype)
            common = regions.intersect(box, region)
            values[regions.relative(common, region)] = block[regions.relative(common, box)]
        return values

    def cost(self, region: Region) -> Cost:
        blocks = self._blocks(region)
        costs = [region_cost(self.volumes, box) for box, _ in blocks]
        is_one_block = len(blocks) == 1 and blocks[0][0] == region
        peak = max((self._block_bytes(box) for box, _ in blocks), default=0)
        peak = max(peak, max((c.peak for c in costs), default=0))
        return Cost(sum(c.read for c in costs), peak + (0 if is_one_block else self.nbytes(region)))

    def _block_bytes(self, box: Region) -> int:
        """Return the bytes of a block, of its result, and of its kernel."""
        scratch = int(self.kernels.scratch * regions.size(box))
        return self.volumes.nbytes(box) + self.nbytes(box) + scratch


def connected_blockwise(
    kernels: ConnectedKernels, stack: xr.DataArray, *, dims: Sequence[str], title: str
) -> xr.DataArray:
    """Apply ``kernels`` to every volume of a stack, along ``dims``; keep the order of its dims."""
    order = (*(str(d) for d in require_stack(stack).dims if d not in dims), *dims)
    arrays = operands((stack,))
    axes = tuple(a for a in axis_order(stack, order) if a is not None)
    build = partial(_connected_blockwise, kernels, axes, len(dims), title)
    result = labelled(defer_or_compute(build, arrays), order, stack)
    return result.transpose(*stack.dims)


def _connected_blockwise(
    kernels: ConnectedKernels, axes: tuple[int, ...], ndim: int, title: str, array: Any
) -> BlockedRecipe | LazyArray:
    volumes = transposed(recipe_of(array), axes)
    first = volumes.ndim - ndim
    if _fits_one_task(kernels, volumes, first):
        result_axes = (*range(first), *(None for _ in range(ndim)))
        whole = frozenset(range(first, volumes.ndim))
        recipe = Blockwise(
            kernels.whole, (volumes,), (result_axes,), volumes.shape, kernels.dtype, whole,
            kernels.scratch,
        )  # fmt: skip
        grid = (*operand_grid(array, axes)[:first], *((n,) for n in volumes.shape[first:]))
        return BlockedRecipe(recipe, _narrowed(grid, first, kernels.dtype.itemsize), title)
    grid = _volume_grid(volumes, first, kernels)
    tables = _tables(kernels, volumes, grid, first, array, title)
    connected = ConnectedBlocks(kernels, (volumes, recipe_of(tables)), grid)
    return lazy_array(connected, grid, array, tables, title=title)


# blocks -----------------------------------------------------------------------------------------


def _room(tasks: int) -> int:
    """Return the bytes for a block, its result and its kernel's scratch, with ``tasks`` at once."""
    limit = Budget.current().per_task_of(tasks)
    return 2 * BLOCK if limit is None else min(2 * BLOCK, limit // 2)


def _bytes_per_voxel(kernels: ConnectedKernels, volumes: Recipe) -> int:
    return volumes.dtype.itemsize + kernels.dtype.itemsize + int(kernels.scratch)


def _fits_one_task(kernels: ConnectedKernels, volumes: Recipe, first: int) -> bool:
    """Return True if a task can compute a whole volume."""
    room = _room(prod(volumes.shape[:first]))
    return prod(volumes.shape[first:]) * _bytes_per_voxel(kernels, volumes) <= room


def _narrowed(grid: Grid, first: int, item: int) -> Grid:
    """Split blocks of whole volumes along the other axes until they are no larger than BLOCK."""
    chunks = [max(c, default=1) or 1 for c in grid]
    room = max(1, BLOCK // item)
    for axis in range(first):
        if prod(chunks) > room:
            chunks[axis] = max(1, chunks[axis] * room // prod(chunks))
    return tuple(
        regions.uniform_chunks(sum(stored), n) if n < max(stored, default=0) else stored
        for stored, n in zip(grid, chunks, strict=True)
    )


def _volume_grid(volumes: Recipe, first: int, kernels: ConnectedKernels) -> Grid:
    """Return blocks of one volume each, in stored chunks unless these are too large."""
    budget = Budget.current()
    limit, room = budget.per_task, _room(budget.tasks_per_process)
    item = _bytes_per_voxel(kernels, volumes)
    inspecting = _inspection(kernels, volumes)
    grid = _grid_of_room(volumes, first, item, room)
    while limit is not None and room > SMALLEST and sampled_cost(inspecting, grid)[1] > limit:
        room //= 2
        grid = _grid_of_room(volumes, first, item, room)
    return grid


def _grid_of_room(volumes: Recipe, first: int, item: int, room: int) -> Grid:
    """Return blocks of one volume each, of about ``room`` bytes."""
    shape = volumes.shape[first:]
    grid = regions.block_grid(shape, volumes.preferred_chunk[first:], item, room)
    if prod(max(c) for c in grid) * item > 2 * room:
        grid = regions.block_grid(shape, (1,) * len(shape), item, room)
    return (*((1,) * n for n in volumes.shape[:first]), *grid)


# tables -----------------------------------------------------------------------------------------


def _inspection(kernels: ConnectedKernels, volumes: Recipe) -> Blockwise:
    """Return a recipe with the cost of inspecting blocks."""
    axes = (tuple(range(volumes.ndim)),)
    return Blockwise(
        kernels.whole, (volumes,), axes, volumes.shape, kernels.dtype, frozenset(), kernels.scratch
    )


def _tables(
    kernels: ConnectedKernels, volumes: Recipe, grid: Grid, first: int, array: Any, title: str
) -> LazyArray:
    """Return a table for every block: blocks are inspected, the facts of a volume are combined."""
    cache_properties(volumes)
    name = f"lazyvol-{title}-tables-" + tokenize(kernels, volumes.token, regions.run_lengths(grid))
    tasks: dict[Any, Any] = {}
    blocks_of: dict[Index, list[Index]] = {}
    for index, box in regions.boxes(grid):
        refs, blocks = required_blocks((volumes, box))
        key = (f"{name}-inspect", *index)
        tasks[key] = Task(key, _inspect, kernels.inspect, volumes, box, first, refs, blocks)
        blocks_of.setdefault(index[:first], []).append(index)
        combined = TaskRef((f"{name}-combine", *index[:first]))
        tasks[(name, *index)] = Task((name, *index), _table, combined, index[first:], len(grid))
    for volume, indices in blocks_of.items():
        in_volume = [index[first:] for index in indices]
        facts = List(*(TaskRef((f"{name}-inspect", *index)) for index in indices))
        key = (f"{name}-combine", *volume)
        tasks[key] = Task(key, _combine, kernels.combine, in_volume, grid[first:], facts)
    below = steps_below(array)
    cost = partial(_cost, kernels, volumes, grid, first)
    step = Step(name, f"{title}-inspect", len(tasks), tuple(s.token for s in below), cost)
    ones = tuple((1,) * len(chunks) for chunks in grid)
    layer = ResultLayer(name, tasks, ones, np.dtype(object))
    return result_array(layer, foreign_arrays(array).values(), below, step)


def _inspect(
    inspect: Callable[..., Any], volumes: Recipe, box: Region, first: int, refs: BlockRefs,
    blocks: Sequence[Array],
) -> Any:  # fmt: skip
    with single_blas_thread():
        block = evaluate(volumes, box, input_blocks(refs, blocks))
        return inspect(block, box[first:], volumes.shape[first:])


def _combine(
    combine: Callable[..., Any], indices: Sequence[Index], grid: Grid, facts: Sequence[Any]
) -> Any:
    return combine(dict(zip(indices, facts, strict=True)), grid)


def _table(tables: Mapping[Index, Any], index: Index, ndim: int) -> Array:
    """Return one table as a block of an array of objects."""
    block = np.empty((1,) * ndim, object)
    block[(0,) * ndim] = tables[index]
    return block


def _cost(kernels: ConnectedKernels, volumes: Recipe, grid: Grid, first: int) -> StepCost:
    """Return the cost of inspecting all blocks; their faces wait until they are combined."""
    read, peak = sampled_cost(_inspection(kernels, volumes), grid)
    return StepCost(read, stored_bytes(volumes), peak, waiting=_face_voxels(grid[first:]) * 4)


def _face_voxels(grid: Grid) -> int:
    """Return the voxels in both faces of all blocks of a volume, across each axis."""
    total = 0
    for axis, chunks in enumerate(grid):
        plane = prod(sum(lengths) for a, lengths in enumerate(grid) if a != axis)
        total += 2 * len(chunks) * plane
    return total

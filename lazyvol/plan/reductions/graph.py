"""Graphs of folds: tasks that stream through their box with one state, and a tree of merges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import ceil, log, prod
from typing import Any

import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from lazyvol.errors import BudgetError
from lazyvol.plan import regions
from lazyvol.plan.budget import (
    RUN_OVERHEAD,
    Budget,
    Step,
    StepCost,
    ceil_mib,
    sampled_cost,
    show_bytes,
    show_tasks,
    stored_bytes,
)
from lazyvol.plan.evaluate import program_of
from lazyvol.plan.execution import single_blas_thread
from lazyvol.plan.graph.layers import ResultLayer, TaskLayer, required_blocks
from lazyvol.plan.graph.lazy_array import (
    LazyArray,
    foreign_arrays,
    recipe_of,
    result_array,
    steps_below,
)
from lazyvol.plan.recipes.base import Array, Cost, Dependency, Recipe, cache_properties, leaves
from lazyvol.plan.recipes.leaves import (
    BlockRefs,
    InMemory,
    InputBlocks,
    input_blocks,
    is_in_memory,
    receives_blocks,
)
from lazyvol.plan.recipes.views import AxisOrder, transposed
from lazyvol.plan.reductions.fold import BoundFold, Fold, Output, State, finish_fold
from lazyvol.plan.reductions.partition import (
    FOREIGN_TASK,
    IN_MEMORY_TILE,
    TASK,
    TILE,
    FoldSize,
    Partition,
    partition_fold,
)
from lazyvol.plan.regions import Grid, Region

# tasks ------------------------------------------------------------------------------------------


def _stream(
    compute: Callable[[Region, InputBlocks], dict[str, Array]],
    box: Region,
    refs: BlockRefs,
    blocks: Sequence[Array],
) -> dict[str, Array]:
    """Run one task: ``state`` or ``outputs`` of a bound fold, on its box."""
    with single_blas_thread():
        return compute(box, input_blocks(refs, blocks))


def _merge(fold: Fold, states: Sequence[State]) -> State:
    """Merge states in their order; copy the first, because a task may be run again."""
    return reduce(fold.combine, states[1:], {name: a.copy() for name, a in states[0].items()})


#: elements of a state that are merged and finished together, to avoid a second whole state
SLAB = 2**16


def _merge_and_finish(bound: BoundFold, states: Sequence[State]) -> dict[str, Array]:
    """Merge states and return the outputs, a slab of the first kept axis at a time."""
    fold = bound.fold
    shape = next(iter(states[0].values())).shape[: len(bound.kept)]
    if not shape:
        return finish_fold(fold, _merge(fold, states))
    outputs = {
        name: np.empty((*shape, *out.sizes), out.dtype) for name, out in fold.outputs.items()
    }
    step = max(1, SLAB // max(1, prod(shape[1:])))
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        slabs = [{name: a[part] for name, a in state.items()} for state in states]
        for name, values in finish_fold(fold, _merge(fold, slabs)).items():
            outputs[name][part] = values
    return outputs


def _pick(outputs: Mapping[str, Array], name: str) -> Array:
    return outputs[name]


#: bytes of an output that is joined into one block: the blocks of an average differ from those of
#: the stack, and dask would rechunk the stack in every sum with it
JOINED = 64 * 2**20


def _join(name: str, kept: Grid, outputs: Sequence[Mapping[str, Array]]) -> Array:
    """Join one output from its blocks, in the order of their indices."""
    first = outputs[0][name]
    shape = (*(sum(chunks) for chunks in kept), *first.shape[len(kept) :])
    joined = np.empty(shape, first.dtype)
    for (_, box), block in zip(regions.boxes(kept), outputs, strict=True):
        joined[box] = block[name]
    return joined


# plans ------------------------------------------------------------------------------------------

#: bytes of a state above which only two are merged at once
LARGE = 8 * 2**20


def _merge_arity(bound: BoundFold) -> int:
    """Return the number of states that one task merges: two large ones, or many small ones."""
    return 2 if _block_size(bound) * bound.fold.state_bytes > LARGE else 16


def plan_fold(
    fold: Fold, operands: tuple[Recipe, ...], reduced: frozenset[int], budget: Budget
) -> BoundFold:
    """Partition a fold so that its peak fits the budget; raise BudgetError if nothing fits."""
    size: FoldSize | None = _fold_size(fold, operands, reduced, budget)
    smallest = None
    while size is not None:
        bound = BoundFold(fold, operands, reduced, partition_fold(size))
        if budget.per_process is None:
            return bound
        peak = _peak(bound, budget.tasks_per_process)
        if peak <= budget.per_process:
            return bound
        smallest = peak if smallest is None else min(smallest, peak)
        size = size.tighter()
    tasks = min(budget.workers, max(1, regions.count(bound.partition.grid)))
    raise BudgetError(
        f"memory must be at least {ceil_mib((smallest or 0) * budget.processes)} for a reduction "
        f"of an array of shape {bound.shape} with {show_tasks(tasks)}, got "
        f"memory={show_bytes(budget.memory or 0)}; raise memory or use fewer workers"
    )


def _fold_size(
    fold: Fold, operands: tuple[Recipe, ...], reduced: frozenset[int], budget: Budget
) -> FoldSize:
    largest = max(operands, key=lambda o: prod(o.shape))
    data = list(leaves(largest))
    # a task receives all its foreign blocks at once: then it takes no more than FOREIGN_TASK
    holds_all = receives_blocks(largest)
    is_local = all(isinstance(leaf, InMemory) or is_in_memory(leaf) for leaf in data)
    return FoldSize(
        shape=np.broadcast_shapes(*(o.shape for o in operands)),
        reduced=reduced,
        preferred_chunk=largest.preferred_chunk,
        item_bytes=max(1, largest.dtype.itemsize + ceil(fold.scratch)),
        state_bytes=fold.state_bytes,
        workers=budget.workers,
        task_limit=FOREIGN_TASK if holds_all else TASK,
        holds_all=holds_all,
        tile_limit=IN_MEMORY_TILE if is_local else TILE,
        segment_lengths=largest.segment_lengths,
        halo=halo_widths(largest),
    )


def halo_widths(recipe: Recipe) -> tuple[int, ...]:
    """Return the voxels along each axis that a voxel in the middle needs besides itself."""
    program, shape = program_of(recipe), recipe.shape
    if not prod(shape):
        return (0,) * len(shape)
    required = program.requirements(tuple(slice(n // 2, n // 2 + 1) for n in shape))
    widths = [0] * len(shape)
    for n, node in enumerate(program.nodes):
        if node.shape == shape[: node.ndim]:
            for box in required.boxes[n]:
                for axis, span in enumerate(box):
                    widths[axis] = max(widths[axis], span.stop - span.start - 1)
    return tuple(widths)


def _peak(bound: BoundFold, workers: int) -> int:
    """Return the peak of one process: running tasks, states that wait, outputs."""
    cost = _cost(bound)
    running = min(workers, max(1, regions.count(bound.partition.grid)))
    return RUN_OVERHEAD + max(running * cost.peak, cost.alone) + cost.waiting + cost.held


def _block_size(bound: BoundFold) -> int:
    """Return the elements of the largest block of the kept axes."""
    return prod(max(bound.partition.grid[a], default=0) for a in bound.kept)


def _cost(bound: BoundFold) -> StepCost:
    read, task_peak = sampled_cost(_Boxes(bound, bound.operands), bound.partition.grid)
    segments, arity = bound.segments, _merge_arity(bound)
    state = _block_size(bound) * bound.fold.state_bytes
    levels = ceil(log(segments, arity) - 1e-9) if segments > 1 else 0
    if levels > 1:
        task_peak = max(task_peak, (arity + 1) * state)  # a merge has its states and the result
    last_merge = min(arity, segments) * state if segments > 1 else 0
    waiting = max(0, levels - 1) * (arity - 1) * state
    held = bound.fold.output_bytes * prod(bound.shape[a] for a in bound.kept)
    held += sum(_joined_bytes(bound, out) for out in bound.fold.outputs.values())
    stored = sum(stored_bytes(o) for o in bound.operands)
    return StepCost(read, stored, task_peak, last_merge, waiting, held)


def _kept_grid(bound: BoundFold) -> Grid:
    return tuple(bound.partition.grid[a] for a in bound.kept)


def _joined_bytes(bound: BoundFold, out: Output) -> int:
    """Return the bytes of an output that is joined into one block; 0 if it stays in blocks."""
    size = prod(bound.shape[a] for a in bound.kept) * prod(out.sizes) * out.dtype.itemsize
    return size if regions.count(_kept_grid(bound)) > 1 and size <= JOINED else 0


@dataclass(frozen=True, eq=False)
class _Boxes(Recipe):
    """A fold seen as a recipe whose regions are task boxes, to sum up costs and find blocks."""

    is_streaming = True

    bound: BoundFold
    parents: tuple[Recipe, ...]

    def dependencies(self, region: Region) -> list[Dependency]:
        return [(n, self.bound.operand_region(o, region)) for n, o in enumerate(self.parents)]

    def cost(self, region: Region) -> Cost:
        return self.bound.cost(region)


# graphs -----------------------------------------------------------------------------------------


def fold_graph(
    fold: Fold, axes: Sequence[AxisOrder], reduced: frozenset[int], title: str, *arrays: Any
) -> dict[str, LazyArray]:
    """Return the outputs of a fold over arrays as lazy arrays that share one graph.

    ``axes`` are, for each array, its axes in the order of the data's.
    """
    operands = tuple(transposed(recipe_of(x), order) for x, order in zip(arrays, axes, strict=True))
    for operand in operands:
        cache_properties(operand)
    bound = plan_fold(fold, operands, reduced, Budget.current())
    tokens = [o.token for o in operands]
    name = f"lazyvol-{title}-" + tokenize(fold, tokens, reduced, bound.partition)
    tasks, below = _tasks(bound, name), steps_below(*arrays)
    foreign = list(foreign_arrays(*arrays).values())
    step = Step(name, title, len(tasks), tuple(s.token for s in below), partial(_cost, bound))
    graph = HighLevelGraph.from_collections(name, TaskLayer(tasks), dependencies=foreign)
    dependency = Delayed(name, graph)
    return {
        key: result_array(_output_layer(bound, name, key, out), [dependency], (*below, step), None)
        for key, out in fold.outputs.items()
    }


#: bytes of arrays in memory that are folded immediately: scheduling one task takes 1.5 ms
IMMEDIATE = 32 * 2**20
#: bytes of a state that stays in the cache during any tile: then the whole array is one tile
SMALL_STATE = 2**18


def fold_in_memory(
    fold: Fold, axes: Sequence[AxisOrder], reduced: frozenset[int], *arrays: Array
) -> dict[str, Array] | None:
    """Return the outputs of a fold over small arrays in memory, without a graph; else None."""
    if sum(a.nbytes for a in arrays) > IMMEDIATE:
        return None
    operands = tuple(transposed(recipe_of(x), order) for x, order in zip(arrays, axes, strict=True))
    budget = replace(Budget.current(), workers=1)
    shape = np.broadcast_shapes(*(o.shape for o in operands))
    bound = BoundFold(fold, operands, reduced, Partition(tuple((n,) for n in shape), shape))
    box = regions.whole(shape)
    if budget.memory is None and fold.state_bytes * _block_size(bound) <= SMALL_STATE:
        return finish_fold(fold, bound.state(box, {}))  # saves 0.1 ms of planning
    bound = plan_fold(fold, operands, reduced, budget)
    return bound.outputs(box, {}) if regions.count(bound.partition.grid) == 1 else None


def _tasks(bound: BoundFold, name: str) -> dict[Any, Any]:
    """Return the tasks of all boxes and of their merges; the last ones are keyed by kept block."""
    tasks: dict[Any, Any] = {}
    is_single = bound.segments == 1
    boxes = _Boxes(bound, bound.operands)
    states_of: dict[tuple[int, ...], list[Any]] = {}
    for index, box in regions.boxes(bound.partition.grid):
        refs, blocks = required_blocks((boxes, box))
        kept_index = tuple(index[a] for a in bound.kept)
        key = (f"{name}-done", *kept_index) if is_single else (f"{name}-leaf", *index)
        compute = bound.outputs if is_single else bound.state
        tasks[key] = Task(key, _stream, compute, box, refs, blocks)
        states_of.setdefault(kept_index, []).append(key)
    if not is_single:
        for kept_index, keys in states_of.items():
            _add_merges(tasks, name, kept_index, keys, bound)
    return tasks


def _add_merges(
    tasks: dict[Any, Any], name: str, kept_index: tuple[int, ...], keys: list[Any], bound: BoundFold
) -> None:
    """Add the tasks that merge the states of one kept block, level by level, and finish it."""
    level, arity = 0, _merge_arity(bound)
    while len(keys) > arity:
        merged = []
        for n in range(0, len(keys), arity):
            key = (f"{name}-merge-{level}", *kept_index, n // arity)
            tasks[key] = Task(key, _merge, bound.fold, _refs(keys[n : n + arity]))
            merged.append(key)
        keys, level = merged, level + 1
    key = (f"{name}-done", *kept_index)
    tasks[key] = Task(key, _merge_and_finish, bound, _refs(keys))


def _refs(keys: Sequence[Any]) -> List:
    return List(*(TaskRef(key) for key in keys))


def _output_layer(bound: BoundFold, name: str, key: str, out: Output) -> ResultLayer:
    """Return the layer of one output: its blocks, or one block if it is small."""
    layer, kept = f"{name}-{key}", _kept_grid(bound)
    new_axes = (0,) * len(out.sizes)
    sizes = tuple((n,) for n in out.sizes)
    done = [(f"{name}-done", *index) for index, _ in regions.boxes(kept)]
    if _joined_bytes(bound, out):
        whole = (layer, *(0 for _ in kept), *new_axes)
        tasks = {whole: Task(whole, _join, key, kept, _refs(done))}
        grid: Grid = (*((sum(chunks),) for chunks in kept), *sizes)
    else:
        tasks = {
            (layer, *d[1:], *new_axes): Task((layer, *d[1:], *new_axes), _pick, TaskRef(d), key)
            for d in done
        }
        grid = (*kept, *sizes)
    return ResultLayer(layer, tasks, grid, np.dtype(out.dtype))

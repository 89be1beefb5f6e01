"""Folds on recipes: tasks that stream through their box with one state, and a tree of merges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import ceil, log, prod
from typing import Any

import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from lazyvol.errors import BudgetError
from lazyvol.plan import regions
from lazyvol.plan.blas_threads import one_thread_each
from lazyvol.plan.budget import (
    SLACK,
    Budget,
    Price,
    Step,
    enough,
    sampled_cost,
    show_bytes,
    stored_bytes,
)
from lazyvol.plan.graph.layers import Places, ResultLayer, TaskLayer, needs
from lazyvol.plan.graph.lazy_array import Lazy, foreign_of, recipe_of, result, steps_of
from lazyvol.plan.graph.results import is_held
from lazyvol.plan.recipes.base import Array, Cost, Foreign, Memory, Recipe, Want, leaves, settle
from lazyvol.plan.recipes.handed_blocks import handed
from lazyvol.plan.recipes.views import aligned
from lazyvol.plan.reductions.fold import Fold, Output, State, Stream, finished_state, segments
from lazyvol.plan.reductions.partition import HANDED, TASK, TILE, VIEWED, Cut, Problem, cut
from lazyvol.plan.regions import Grid, Region


def _leaf(stream: Stream, box: Region, places: Places, blocks: Sequence[Array]) -> State:
    with one_thread_each():
        return stream.run(box, handed(places, blocks))


def _leaf_outputs(
    stream: Stream, box: Region, places: Places, blocks: Sequence[Array]
) -> dict[str, Array]:
    with one_thread_each():
        return stream.outputs(box, handed(places, blocks))


def _merge(fold: Fold, states: Sequence[State]) -> State:
    """States merged in their order; the first is copied, for a task may be run again."""
    return reduce(fold.combine, states[1:], {name: a.copy() for name, a in states[0].items()})


#: elements of a state that are merged and finished together, to need no second whole state
SLAB = 2**16


def _merge_outputs(stream: Stream, states: Sequence[State]) -> dict[str, Array]:
    """States merged and finished a slab of the first kept axis at a time."""
    fold = stream.fold
    shape = next(iter(states[0].values())).shape[: len(stream.kept)]
    if not shape:
        return finished_state(fold, _merge(fold, states))
    found = {name: np.empty((*shape, *out.sizes), out.dtype) for name, out in fold.outputs.items()}
    step = max(1, SLAB // max(1, prod(shape[1:])))
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        slabs = [{name: a[part] for name, a in state.items()} for state in states]
        for name, values in finished_state(fold, _merge(fold, slabs)).items():
            found[name][part] = values
    return found


def _pick(outputs: Mapping[str, Array], name: str) -> Array:
    return outputs[name]


#: bytes of an output that is one block however many tasks made it: an average that is cut as no
#: stack is would have dask cut the stack anew in every sum with it
JOINED = 64 * 2**20


def _join(name: str, kept: Grid, outputs: Sequence[Mapping[str, Array]]) -> Array:
    """One output out of its blocks, in the order of their indices."""
    first = outputs[0][name]
    shape = (*(sum(chunks) for chunks in kept), *first.shape[len(kept) :])
    found = np.empty(shape, first.dtype)
    for (_, box), block in zip(regions.boxes(kept), outputs, strict=True):
        found[box] = block[name]
    return found


#: states merged at once: two large ones, or many small ones
LARGE = 8 * 2**20


def arity(stream: Stream) -> int:
    """How many states one merge takes."""
    return 2 if _block_size(stream) * stream.fold.state_bytes > LARGE else 16


def planned(
    fold: Fold, operands: tuple[Recipe, ...], reduced: frozenset[int], budget: Budget
) -> Stream:
    """The fold cut so that its projected peak fits the budget; refused where no cut does."""
    problem: Problem | None = _problem(fold, operands, reduced, budget)
    smallest = None
    while problem is not None:
        stream = Stream(fold, operands, reduced, cut(problem))
        if budget.share is None:
            return stream
        need = peak(stream, budget.at_once)
        if need <= budget.share:
            return stream
        smallest = need if smallest is None else min(smallest, need)
        problem = problem.tighter()
    raise BudgetError(
        f"a reduction over an array of shape {stream.shape} needs at least "
        f"{enough((smallest or 0) * budget.processes)} with "
        f"{min(budget.workers, max(1, regions.count(stream.cut.grid)))} tasks at once, "
        f"got memory={show_bytes(budget.memory or 0)}; "
        f"give it that much, or fewer workers"
    )


def _problem(
    fold: Fold, operands: tuple[Recipe, ...], reduced: frozenset[int], budget: Budget
) -> Problem:
    shape = np.broadcast_shapes(*(o.shape for o in operands))
    largest = max(operands, key=lambda o: prod(o.shape))
    item = max(1, largest.dtype.itemsize + ceil(fold.scratch))
    # a task is handed all its foreign blocks at once: then it takes no more than HANDED of them
    below = list(leaves(largest))
    handed = any(isinstance(leaf, Foreign) and not leaf.held for leaf in below)
    views = all(isinstance(leaf, Memory) or is_held(leaf) for leaf in below)
    return Problem(
        shape, reduced, largest.grain, item, fold.state_bytes, budget.workers,
        HANDED if handed else TASK, handed, VIEWED if views else TILE, pieces=largest.pieces,
    )  # fmt: skip


def peak(stream: Stream, workers: int) -> int:
    """Projected peak of one process: tasks at once, states that wait, outputs."""
    price = _price(stream)
    running = min(workers, max(1, regions.count(stream.cut.grid)))
    return SLACK + max(running * price.peak, price.alone) + price.waiting + price.held


def _block_size(stream: Stream) -> int:
    """Elements of the largest block of the kept axes."""
    return prod(max(stream.cut.grid[a], default=0) for a in stream.kept)


def _price(stream: Stream) -> Price:
    read, most = sampled_cost(_Boxes(stream, stream.operands), stream.cut.grid)
    parts, width = segments(stream), arity(stream)
    state = _block_size(stream) * stream.fold.state_bytes
    levels = ceil(log(parts, width) - 1e-9) if parts > 1 else 0
    if levels > 1:
        most = max(most, (width + 1) * state)  # a merge takes its states and makes one
    last = min(width, parts) * state if parts > 1 else 0
    waiting = max(0, levels - 1) * (width - 1) * state
    held = stream.fold.output_bytes * prod(stream.shape[a] for a in stream.kept)
    held += sum(_joined_bytes(stream, out) for out in stream.fold.outputs.values())
    stored = sum(stored_bytes(o) for o in stream.operands)
    return Price(read, stored, most, last, waiting, held)


def _kept_grid(stream: Stream) -> Grid:
    return tuple(stream.cut.grid[a] for a in stream.kept)


def _joined_bytes(stream: Stream, out: Output) -> int:
    """Bytes of an output that is put together into one block; 0 where it stays in blocks."""
    size = prod(stream.shape[a] for a in stream.kept) * prod(out.sizes) * out.dtype.itemsize
    return size if regions.count(_kept_grid(stream)) > 1 and size <= JOINED else 0


@dataclass(frozen=True, eq=False)
class _Boxes(Recipe):
    """A stream seen as a recipe whose regions are task boxes, to add up its cost."""

    streams = True

    stream: Stream
    parents: tuple[Recipe, ...]

    def wants(self, region: Region) -> list[Want]:
        return [(n, self.stream.part(o, region)) for n, o in enumerate(self.parents)]

    def cost(self, region: Region) -> Cost:
        return self.stream.cost(region)


def folded(
    fold: Fold,
    axes: tuple[tuple[int | None, ...], ...],
    reduced: frozenset[int],
    title: str,
    *arrays: Any,
) -> dict[str, Lazy]:
    """Outputs of a fold over arrays as lazy arrays that share one graph.

    ``axes`` turns each array into one with the axes of the data (see ``Aligned``).
    """
    operands = tuple(aligned(recipe_of(x), turn) for x, turn in zip(arrays, axes, strict=True))
    for operand in operands:
        settle(operand)
    stream = planned(fold, operands, reduced, Budget.current())
    name = f"lazyvol-{title}-" + tokenize(fold, [o.token for o in operands], reduced, stream.cut)
    tasks, below = _tasks(stream, name), steps_of(*arrays)
    foreign = list(foreign_of(*arrays).values())
    own = Step(name, title, len(tasks), tuple(s.token for s in below), partial(_price, stream))
    merged = HighLevelGraph.from_collections(name, TaskLayer(tasks), dependencies=foreign)
    source = _Graph(merged, name)
    return {
        key: result(_output(stream, name, key, out), [source], (*below, own), None)
        for key, out in fold.outputs.items()
    }


class _Graph:
    """A graph as a dependency of another: what ``HighLevelGraph.from_collections`` asks for."""

    def __init__(self, graph: HighLevelGraph, name: str) -> None:
        self.graph, self.name = graph, name

    def __dask_graph__(self) -> HighLevelGraph:
        return self.graph

    def __dask_layers__(self) -> tuple[str]:
        return (self.name,)

    def __dask_keys__(self) -> list[Any]:
        return []


#: bytes in memory that are folded where they are asked for: scheduling one task takes 1.5 ms
AT_ONCE = 32 * 2**20
#: bytes of a state that stays in cache whatever passes by: then no tile is too large
SMALL_STATE = 2**18


def outright(
    fold: Fold,
    axes: tuple[tuple[int | None, ...], ...],
    reduced: frozenset[int],
    *arrays: Array,
) -> dict[str, Array] | None:
    """Outputs of a fold over arrays in memory, made here and now where they are small."""
    if sum(a.nbytes for a in arrays) > AT_ONCE:
        return None
    operands = tuple(aligned(recipe_of(x), turn) for x, turn in zip(arrays, axes, strict=True))
    budget = replace(Budget.current(), workers=1)
    shape = np.broadcast_shapes(*(o.shape for o in operands))
    stream = Stream(fold, operands, reduced, Cut(tuple((n,) for n in shape), shape))
    box = regions.whole(shape)
    if budget.memory is None and fold.state_bytes * _block_size(stream) <= SMALL_STATE:
        return finished_state(fold, stream.run(box, {}))  # 0.1 ms less than by a plan
    stream = planned(fold, operands, reduced, budget)
    return stream.outputs(box, {}) if regions.count(stream.cut.grid) == 1 else None


def _tasks(stream: Stream, name: str) -> dict[Any, Any]:
    """Leaves, merges and finishes of a stream; the last layer is keyed by kept block."""
    tasks: dict[Any, Any] = {}
    lone = segments(stream) == 1
    boxes = _Boxes(stream, stream.operands)
    groups: dict[tuple[int, ...], list[Any]] = {}
    for index, box in regions.boxes(stream.cut.grid):
        places, blocks = needs((boxes, box))
        block = tuple(index[a] for a in stream.kept)
        key = (f"{name}-done", *block) if lone else (f"{name}-leaf", *index)
        tasks[key] = Task(key, _leaf_outputs if lone else _leaf, stream, box, places, blocks)
        groups.setdefault(block, []).append(key)
    if not lone:
        for block, keys in groups.items():
            _tree(tasks, name, block, keys, stream)
    return tasks


def _tree(
    tasks: dict[Any, Any], name: str, block: tuple[int, ...], keys: list[Any], stream: Stream
) -> None:
    """Merge the states of one block by index until one task can finish them."""
    level, width = 0, arity(stream)
    while len(keys) > width:
        merged = []
        for n in range(0, len(keys), width):
            key = (f"{name}-merge-{level}", *block, n // width)
            tasks[key] = Task(key, _merge, stream.fold, _refs(keys[n : n + width]))
            merged.append(key)
        keys, level = merged, level + 1
    key = (f"{name}-done", *block)
    tasks[key] = Task(key, _merge_outputs, stream, _refs(keys))


def _refs(keys: Sequence[Any]) -> List:
    return List(*(TaskRef(key) for key in keys))


def _output(stream: Stream, name: str, key: str, out: Output) -> ResultLayer:
    """One output of a fold: its blocks, or, where it is small, one block."""
    layer, kept = f"{name}-{key}", _kept_grid(stream)
    extra = (0,) * len(out.sizes)
    sizes = tuple((n,) for n in out.sizes)
    done = [(f"{name}-done", *index) for index, _ in regions.boxes(kept)]
    if _joined_bytes(stream, out):
        whole = (layer, *(0 for _ in kept), *extra)
        tasks = {whole: Task(whole, _join, key, kept, _refs(done))}
        grid: Grid = (*((sum(chunks),) for chunks in kept), *sizes)
    else:
        tasks = {
            (layer, *d[1:], *extra): Task((layer, *d[1:], *extra), _pick, TaskRef(d), key)
            for d in done
        }
        grid = (*kept, *sizes)
    return ResultLayer(layer, tasks, grid, np.dtype(out.dtype))

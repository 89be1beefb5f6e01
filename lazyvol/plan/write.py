"""Writing results: tasks, in waves, that each read their inputs and write one shard or a few."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.metadata import version
from inspect import signature
from itertools import islice
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.diagnostics import ProgressBar
from dask.highlevelgraph import HighLevelGraph

from lazyvol.plan import regions
from lazyvol.plan.budget import Budget
from lazyvol.plan.checkpointed_graphs import with_checkpoints
from lazyvol.plan.checkpoints import StateStore
from lazyvol.plan.evaluate import run_block
from lazyvol.plan.execution import computing_client, local_scheduler
from lazyvol.plan.failures import FATAL, Failures, retried
from lazyvol.plan.graph.layers import required_blocks
from lazyvol.plan.graph.lazy_array import LazyArray, as_lazy_array, recipe_of, refit
from lazyvol.plan.recipes.base import Array, Recipe, Shared, cache_properties, topological_order
from lazyvol.plan.recipes.leaves import BlockRefs, Foreign, InMemory, Stored
from lazyvol.plan.reductions.fold import Fold
from lazyvol.plan.regions import Grid, Index, Region

if TYPE_CHECKING:
    from distributed import Client

#: number of a sink, with index and region of one of its blocks
Job = tuple[int, Index, Region]
#: tasks submitted to the scheduler at once: 10,000 take it 0.9 s and 43 MB, 100,000 take 11 s
WAVE = 10_000
#: tasks that each thread of a cluster gets at least before a task writes several regions, and
#: the most that it writes: they fail together if their worker dies again and again
GROUPED_TASKS, MOST_REGIONS = 32, 16


class Sink(Protocol):
    """The destination of one array's regions: small, picklable, idempotent."""

    grid: Grid

    def write(self, region: Region, block: Array) -> None:
        """Store one region of the grid, completely and durably, or raise."""

    def has(self, region: Region) -> bool:
        """Return True if a region is stored, completely and durably."""

    def missing(self) -> Iterable[Index]:
        """Return the indices of the regions that are not stored yet, completely."""

    def file_of(self, region: Region) -> str:
        """Return the name of the file that stores a region, for messages."""


def write(
    arrays: Sequence[Any],
    sinks: Sequence[Sink],
    *,
    resume: bool = False,
    progress: bool = False,
    states: StateStore | None = None,
) -> None:
    """Compute every array and store it region by region; nothing is held whole.

    Arrays in memory are written by this process, even with a client, because a cluster would have
    to receive all of the data. With ``resume``, regions that a sink has are neither computed nor
    written again. Reductions below keep their states in ``states``.

    Raises
    ------
    IncompleteError
        Some regions could not be computed; all others are stored.
    """
    parts, jobs = _jobs(sinks, resume)
    lazy_arrays = [
        as_lazy_array(a if isinstance(a, da.Array) else da.from_array(a, chunks=-1)) for a in arrays
    ]
    is_lazy = any(isinstance(a, da.Array) for a in arrays)
    client, local = (computing_client(), None) if is_lazy else (None, local_scheduler())
    foreign = {name: array for lazy in lazy_arrays for name, array in lazy.foreign.items()}
    foreign = with_checkpoints(foreign, states)
    if parts > WAVE:  # compute foreign arrays once, not once per wave
        kept = dask.persist(*foreign.values(), scheduler=local)
        foreign = dict(zip(foreign, kept, strict=True))
    shared = [Shared(pair) for pair in zip(sinks, (a.recipe for a in lazy_arrays), strict=True)]
    failures = Failures(parts)
    per_task = 1 if client is None or foreign else _regions_per_task(parts)
    blocks = list(foreign.values())
    with ProgressBar(dt=0.5, out=sys.stderr) if progress else nullcontext():
        while wave := list(islice(jobs, WAVE * per_task)):
            if client is None:
                dask.compute(_wave(wave, shared, blocks, failures), scheduler=local)
            elif per_task == 1:
                _compute_on(client, _wave(wave, shared, blocks, failures), failures)
            else:
                _compute_groups(client, wave, per_task, shared, failures)
    failures.require_none()


def _jobs(sinks: Sequence[Sink], resume: bool) -> tuple[int, Iterator[Job]]:
    """Return the number of regions to write, and an iterator over them: there may be millions."""
    wanted = [set(sink.missing()) if resume else None for sink in sinks]
    jobs = (
        (n, index, box)
        for n, sink in enumerate(sinks)
        for index, box in regions.boxes(sink.grid)
        if (own := wanted[n]) is None or index in own
    )
    counts = (
        regions.count(sink.grid) if own is None else len(own)
        for sink, own in zip(sinks, wanted, strict=True)
    )
    return sum(counts), jobs


def _regions_per_task(regions_left: int) -> int:
    """Return how many regions a task of a cluster writes, one after the other.

    The scheduler takes 1 ms for a task, so that 1,000 workers would wait for it.
    """
    tasks = GROUPED_TASKS * Budget.current().workers
    return max(1, min(MOST_REGIONS, regions_left // tasks))


Step = dict[str, str]
#: shortens values in a description, which serves to find the parameter that differs
SHORT = Repr()
SHORT.maxtuple = SHORT.maxlist = SHORT.maxdict = 20
SHORT.maxstring = SHORT.maxother = 200
#: a budget that never divides a computation; ``refit`` without one takes the cluster's
UNLIMITED = Budget(1 << 62, 1)
#: bytes of an array in memory whose checksum is taken at once
PART = 16 << 20


def plan_identity(
    arrays: Sequence[Any], checksum: Callable[[Any], int], *facts: Any
) -> tuple[str, list[Step]]:
    """Return the name of a computation, and its steps with their parameters as text.

    The name is a hash of the recipes down to the data, of the facts and of the versions. It is
    equal for any memory limit and number of workers, and for equal arrays in memory, whose bytes go
    through ``checksum``.
    """
    versions = {p: version(p) for p in ("lazyvol", "numpy", "numba", "scipy")}
    tokens: list[str] = []
    steps: list[Step] = []
    described: set[str] = set()
    for array in map(_without_budget, arrays):
        recipe = cache_properties(recipe_of(array))
        in_memory = recipe.values if isinstance(recipe, InMemory) else None
        tokens.append(recipe.token if in_memory is None else _content(in_memory, checksum))
        steps += _steps(array, tokens[-1], described)
    return str(tokenize(tokens, facts, versions)), [*steps, {"recipe": "versions", **versions}]


def _without_budget(array: Any) -> Any:
    """Return an array whose folds are divided as for one worker with unlimited memory."""
    if isinstance(array, da.Array) and recipe_of(array).foreign:
        return refit(array, UNLIMITED, {})
    return array


def _content(values: Array, checksum: Callable[[Any], int]) -> str:
    """Return a name for the content of an array in memory."""
    rows = np.atleast_1d(values)
    step = max(1, PART // max(1, rows[:1].nbytes))
    parts = (np.ascontiguousarray(rows[n : n + step]) for n in range(0, len(rows), step))
    checksums = [checksum(_bytes(part)) for part in parts if part.size]
    return str(tokenize(values.shape, values.dtype.str, checksums))


def _steps(array: Any, content: str, described: set[str]) -> list[Step]:
    """Return the steps of an array as text, each once; those of a reduction after its operands'.

    ``described`` has the names of arrays and recipes that are in the list already: each pass of a
    quantile depends on the input and on all passes before, which are 670,000 paths for three.
    """
    if not isinstance(array, da.Array | LazyArray):
        return [_describe(recipe_of(array), content)]
    lazy = array if isinstance(array, LazyArray) else as_lazy_array(array)
    steps: list[Step] = []
    for node in topological_order(lazy.recipe)[0]:
        if node.token in described:
            continue
        described.add(node.token)
        foreign = lazy.foreign.get(node.name) if isinstance(node, Foreign) else None
        origin = None if foreign is None else as_lazy_array(foreign).origin
        if origin is None:
            steps.append(_describe(node, content))
            continue
        for operand in origin.arrays:
            steps += _steps(operand, content, described)
        steps.append(_reduction(origin.build, origin.key))
    return steps


def _reduction(build: Any, output: str | None) -> Step:
    """Return the parameters of a result of several stages as text, by name."""
    if not isinstance(build, partial):
        step = {"recipe": _text(build)}
    else:
        named = dict(zip(signature(build.func).parameters, build.args, strict=False))
        step = {"recipe": str(named.pop("title", _text(build.func)))}
        for name, value in named.items():
            step |= _parameters(name, value)
    return step if output is None else step | {"output": output}


def _bytes(values: Array) -> Array:
    """Return the bytes of an array; Python objects, which are texts, as their literals."""
    if values.dtype.kind == "O":
        return np.frombuffer(repr(values.tolist()).encode("utf-8", "surrogatepass"), np.uint8)
    return values.view(np.uint8)


def _describe(node: Recipe, content: str) -> Step:
    """Return the parameters of one step of a computation as text, by name."""
    if isinstance(node, Stored):
        paths = SHORT.repr(", ".join(getattr(node.source, "paths", ())))
        return {"recipe": "input", "input": paths, "version": node.token}
    if isinstance(node, InMemory):
        return {"recipe": "input", "input": "array in memory", "content": content}
    if isinstance(node, Foreign):
        return {"recipe": "input", "input": node.name}
    step = {"recipe": type(node).__name__.lower()}
    names: list[str] = [field.name for field in fields(node)] if is_dataclass(node) else []
    for name in names:
        if name != "parents":
            step |= _parameters(name, getattr(node, name))
    return step


def _parameters(name: str, value: Any) -> Step:
    """Return a parameter as text; those of a partial function under their own names."""
    if isinstance(value, Fold):
        parts = ("start", "update", "combine", "finish")
        return {k: v for part in parts for k, v in _parameters(part, getattr(value, part)).items()}
    if not isinstance(value, partial):
        return {name: _text(value)}
    step = {name: _text(value.func)}
    for key, argument in value.keywords.items():
        step |= _parameters(key, argument)
    return step


def _text(value: Any) -> str:
    return " ".join((getattr(value, "__name__", None) or SHORT.repr(value)).split())


def _wave(
    jobs: Sequence[Job],
    shared: Sequence[Shared[tuple[Sink, Recipe]]],
    foreign: Sequence[da.Array],
    failures: Failures,
) -> Delayed:
    """Return one delayed value that depends on the write tasks of a wave.

    Sinks and recipes are arguments of every task. As tasks of their own they would be the
    dependencies of all others, and be blamed whenever a worker dies. The wave's name is unique, so
    that a save of one result to another path at that time has separate tasks.
    """
    name = f"lazyvol-write-{uuid4().hex}"
    tasks: dict[Any, Any] = {}
    for n, index, region in jobs:
        _, recipe = shared[n].value
        refs, blocks = required_blocks((recipe, region))
        key = (name, n, *index)
        tasks[key] = Task(key, _write_block, failures, shared[n], region, refs, blocks)
    tasks[name] = Task(name, len, List(*(TaskRef(key) for key in tasks)))
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=foreign)
    return Delayed(name, graph)


def _write_block(
    failures: Failures | None,
    shared: Shared[tuple[Sink, Recipe]],
    region: Region,
    refs: BlockRefs,
    blocks: Sequence[Array],
) -> None:
    """Run one task. On a cluster it may have run before, on a worker that died."""
    sink, recipe = shared.value
    try:
        if failures is None and retried(partial(sink.has, region)):
            return
        block = run_block(recipe, region, refs, blocks)
        retried(partial(sink.write, region, block))
    except Exception as error:
        if failures is None:
            raise
        failures.record(sink.file_of(region), region, error)


class _RegionErrors(Exception):
    """Errors of some regions of a task, by their position in it."""


def _compute_groups(
    client: "Client",
    jobs: Sequence[Job],
    per_task: int,
    shared: Sequence[Shared[tuple[Sink, Recipe]]],
    failures: Failures,
) -> None:
    """Run tasks on a cluster that write several regions each; divide a task that is lost.

    Their results read stored data alone: blocks of foreign arrays would be in memory for all
    regions of a task at once.
    """
    from lazyvol.plan.on_cluster import each_error

    rest, name = iter(jobs), f"lazyvol-write-{uuid4().hex}"
    groups: dict[Any, list[Job]] = {}
    while group := list(islice(rest, per_task)):
        groups[name, group[0][0], *group[0][1]] = group
    graph = {
        key: Task(key, _write_group, [(shared[n], region) for n, _, region in group])
        for key, group in groups.items()
    }
    lost: list[Job] = []
    for key, error in each_error(client, graph, list(graph)):
        if isinstance(error, _RegionErrors):
            for position, cause in error.args[0].items():
                n, _, region = groups[key][position]
                failures.record(shared[n].value[0].file_of(region), region, cause)
        elif isinstance(error, FATAL):
            raise error
        elif error is not None:
            lost += groups[key]
    if lost:
        _compute_on(client, _wave(lost, shared, [], failures), failures)


def _write_group(parts: Sequence[tuple[Shared[tuple[Sink, Recipe]], Region]]) -> None:
    """Write several regions, one after the other; raise the errors of all of them at the end."""
    errors: dict[int, Exception] = {}
    for position, (shared, region) in enumerate(parts):
        refs, blocks = required_blocks((shared.value[1], region))
        try:
            _write_block(None, shared, region, refs, blocks)
        except FATAL:
            raise
        except Exception as error:
            errors[position] = error
    if errors:
        raise _RegionErrors(errors)


def _compute_on(client: "Client", wave: Delayed, failures: Failures) -> None:
    """Run the tasks of a wave on a cluster; none waits for another, or is repeated with it."""
    from lazyvol.plan.on_cluster import each_error

    tasks = wave.dask.layers[wave.key]
    regions_of = {key: task.args for key, task in tasks.items() if key != wave.key}
    graph = wave.dask.cull(set(regions_of))
    for key, error in each_error(client, graph, list(regions_of)):
        if error is not None:
            _, shared, region, *_ = regions_of[key]
            sink, _ = shared.value
            failures.record(sink.file_of(region), region, error)

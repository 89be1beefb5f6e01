"""Writing results: one task per shard, in waves, each reading what it needs."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from typing import Any, Protocol

import dask
import dask.array as da
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.diagnostics import ProgressBar
from dask.highlevelgraph import HighLevelGraph

from lazyvol.plan import regions
from lazyvol.plan.blas_threads import local_scheduler, one_thread_each
from lazyvol.plan.evaluate import evaluate
from lazyvol.plan.graph.layers import Places, needs
from lazyvol.plan.graph.lazy_array import described, recipe_of
from lazyvol.plan.graph.results import finished
from lazyvol.plan.recipes.base import Array, Recipe, settle
from lazyvol.plan.recipes.handed_blocks import handed
from lazyvol.plan.regions import Grid, Region

#: tasks handed to the scheduler at once: 10,000 take it 0.9 s and 43 MB, 100,000 take 11 s
WAVE = 10_000


class Sink(Protocol):
    """Where the regions of one array go: small, picklable, idempotent."""

    grid: Grid

    def write(self, region: Region, block: Array) -> None:
        """Store one region of the grid, wholly and durably, or raise."""

    def has(self, region: Region) -> bool:
        """Whether the region is stored already."""


def write(
    arrays: Sequence[Any], sinks: Sequence[Sink], *, resume: bool = False, progress: bool = False
) -> None:
    """Compute every array and store it region by region; nothing is held whole.

    What is all in memory is written by this process, whoever else there is: a cluster would be
    sent all of it. With ``resume``, regions that a sink has are neither computed nor written again.
    """
    todo = [
        (n, index, box)
        for n, sink in enumerate(sinks)
        for index, box in regions.boxes(sink.grid)
        if not (resume and sink.has(box))
    ]
    scheduler = None if any(isinstance(a, da.Array) for a in arrays) else local_scheduler()
    lazy = [
        described(a if isinstance(a, da.Array) else da.from_array(a, chunks=-1)) for a in arrays
    ]
    foreign = {name: array for one in lazy for name, array in one.foreign.items()}
    if len(todo) > WAVE:  # computed once, not once a wave
        foreign = dict(zip(foreign, dask.persist(*foreign.values()), strict=True))
    jobs, recipes = iter(todo), [one.recipe for one in lazy]
    with _shown(progress):
        while wave := list(islice(jobs, WAVE)):
            tasks = _wave(wave, recipes, sinks, list(foreign.values()))
            dask.compute(tasks, scheduler=scheduler)


def plan_token(arrays: Sequence[Any], *facts: Any) -> str:
    """Name of a computation: its recipes down to the stored data, its facts, the versions."""
    versions = [version(p) for p in ("lazyvol", "numpy", "numba", "scipy")]
    return str(tokenize([settle(recipe_of(a)).token for a in arrays], facts, versions))


def _wave(
    jobs: Sequence[tuple[int, tuple[int, ...], Region]],
    recipes: Sequence[Recipe],
    sinks: Sequence[Sink],
    foreign: Sequence[da.Array],
) -> Delayed:
    """One delayed value that rests on the write tasks of a wave.

    Recipes and sinks travel in every task: as tasks of their own they would be what all others
    depend on, and take the blame when a worker dies.
    """
    name = "lazyvol-write-" + tokenize([r.token for r in recipes], jobs)
    tasks: dict[Any, Any] = {}
    for n, index, box in jobs:
        places, blocks = needs((recipes[n], box))
        key = (name, n, *index)
        tasks[key] = Task(key, _write_block, sinks[n], recipes[n], box, places, blocks)
    tasks[name] = Task(name, len, List(*(TaskRef(key) for key in tasks)))
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=foreign)
    return Delayed(name, graph)


def _write_block(
    sink: Sink, recipe: Recipe, region: Region, places: Places, blocks: Sequence[Array]
) -> int:
    with one_thread_each():
        values = evaluate(recipe, region, handed(places, blocks))
        block = finished(recipe, values, blocks)
    sink.write(region, block)
    return block.nbytes


@contextmanager
def _shown(progress: bool) -> Iterator[None]:
    """A progress bar on standard error while dask's local scheduler runs."""
    if not progress:
        yield
        return
    with ProgressBar(dt=0.5, out=sys.stderr):
        yield

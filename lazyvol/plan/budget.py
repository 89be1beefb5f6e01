"""The cost of a computation before it runs: steps, bytes and memory. Integer arithmetic."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from numbers import Integral
from typing import Any

from lazyvol.arguments import operation
from lazyvol.errors import BudgetError, LabelError
from lazyvol.plan import regions
from lazyvol.plan.evaluate import foreign_bytes, region_cost
from lazyvol.plan.execution import computing_client, current_limits, limits_set, local_threads
from lazyvol.plan.halo_cost import Halo, halo_of
from lazyvol.plan.recipes.base import Cost, Recipe, leaves
from lazyvol.plan.recipes.leaves import Stored
from lazyvol.plan.regions import Grid, Region
from lazyvol.stack import is_number

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

#: bytes of a block by default: enough for a task to be worth scheduling
BLOCK = 128 * 2**20
#: blocks of small data for each thread, and bytes of the smallest: a task costs 2 ms besides its
#: work, which takes 10 ms for a Gaussian of 4 MiB
TASKS_PER_THREAD, SMALL_BLOCK = 3, 4 * 2**20
#: memory of every run in addition to its blocks: compiled kernels (63 MiB measured if they are
#: cached on disk, 102 MiB if they are compiled first), file buffers, graph, thread stacks
RUN_OVERHEAD = 112 * 2**20


def parse_bytes(amount: int | float | str) -> int:
    """Return the number of bytes in ``2e9``, ``"2GiB"`` or ``"500 MB"``."""
    if is_number(amount) and 0 <= amount <= sys.float_info.max:  # type: ignore[operator]
        return int(amount)
    text = amount.lower() if isinstance(amount, str) else ""
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*(?:e[0-9]{1,2})?)\s*([a-z]*)\s*", text)
    if not match or match[2] not in UNITS:
        raise LabelError(
            f"memory must be a number of bytes or text like '2GiB', got {amount!r}; "
            f"use one of the units {', '.join(u for u in UNITS if u)}"
        )
    return int(float(match[1]) * UNITS[match[2]])


def show_bytes(amount: float) -> str:
    """Return bytes as text with three digits and a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"


def ceil_mib(amount: float) -> str:
    """Return bytes rounded up to MiB, for messages that name a sufficient amount."""
    return f"{ceil(amount / 2**20)} MiB"


#: memory of a cluster's worker process before it has work: interpreter, dask, this library
#: (184 MiB measured)
WORKER_OVERHEAD = 200 * 2**20
#: fraction of a worker process's limit that plans use: allocators keep some freed memory
USABLE_FRACTION = 0.85


@dataclass(frozen=True)
class Workers:
    """Threads and processes that run tasks, and the bytes that each process may use."""

    threads: int
    processes: int = 1
    limit: int | None = None

    @property
    def memory(self) -> int | None:
        """Bytes for the work of all processes; None if they have no limit."""
        if self.limit is None:
            return None
        return self.processes * max(0, int(USABLE_FRACTION * self.limit) - WORKER_OVERHEAD)


def default_workers() -> Workers:
    """Return the workers of the current client, or this machine's threads if there is none."""
    client = computing_client()
    if client is None:
        return Workers(local_threads() or os.cpu_count() or 1)
    from lazyvol.plan.on_cluster import cluster_errors

    with cluster_errors(client):
        return _cluster(client.scheduler_info(n_workers=-1)["workers"])


def _cluster(workers: Mapping[str, Mapping[str, Any]]) -> Workers:
    """Describe a cluster by its smallest worker; without workers it counts as one thread."""
    limits = [int(w["memory_limit"] or 0) for w in workers.values()]
    threads = sum(int(w["nthreads"]) for w in workers.values())
    nonzero = [n for n in limits if n]
    return Workers(max(1, threads), max(1, len(limits)), min(nonzero) if nonzero else None)


@dataclass(frozen=True)
class Budget:
    """The memory in bytes that a run may use (None: no limit) and the tasks that run at once.

    Both are totals over ``processes``. Each process gets an equal share. Memory that belongs to no
    task may all be in one process: the states that wait to be merged, for example.
    """

    memory: int | None = None
    workers: int = 1
    processes: int = 1

    @classmethod
    def current(cls) -> "Budget":
        """Return the budget in force: that of ``limited``, else the cluster's or none."""
        asked, workers = current_limits(), default_workers()
        amount = workers.memory if asked.memory is None else asked.memory
        return cls(amount, asked.workers or workers.threads, workers.processes)

    @property
    def per_process(self) -> int | None:
        """Bytes that one process may use."""
        return None if self.memory is None else self.memory // self.processes

    @property
    def tasks_per_process(self) -> int:
        """Tasks that one process runs at once."""
        return max(1, ceil(self.workers / self.processes))

    @property
    def per_task(self) -> int | None:
        """Bytes that a running task may use if every thread runs one."""
        return self.per_task_of(self.tasks_per_process)

    def per_task_of(self, tasks: int) -> int | None:
        """Bytes that each of ``tasks`` tasks may use; fewer tasks than threads get more each."""
        running = max(1, min(self.tasks_per_process, tasks))
        return (
            None if self.per_process is None else max(0, self.per_process - RUN_OVERHEAD) // running
        )

    def block_bytes(self, nbytes: int, rows: int) -> int:
        """Return bytes of a block of an array, so that small arrays have a few for every thread.

        ``rows`` is the number of shortest blocks along the first axis, which is divided first:
        blocks along other axes read their halos, or the whole stored chunk, once more each.
        """
        share = nbytes // self.workers
        if rows >= self.workers:
            share = max(share // TASKS_PER_THREAD, nbytes // rows)
        return min(BLOCK, max(SMALL_BLOCK, share))

    def as_before(self, limits: "tuple[int, int | None] | None") -> "Budget":
        """Return the budget of an interrupted run if it fits into this one.

        With equal workers and memory, its reductions are divided into equal tasks, which continue
        from the states that they kept.
        """
        if limits is None:
            return self
        before = replace(self, workers=limits[0], memory=limits[1])
        limit = self.per_task
        return before if limit is None or (before.per_task or inf) <= limit else self


@operation(unchecked=("memory", "workers"))
def limited(
    memory: int | float | str | None = None, workers: int | None = None
) -> AbstractContextManager[None]:
    """Context in which operations are divided into tasks that fit ``memory``, ``workers`` at once.

    The limits apply to the calling thread, or asynchronous task, alone. ``workers`` also sets the
    number of dask's local threads; a cluster keeps its own.
    """
    return limits_of(memory, workers)


def limits_of(
    memory: int | float | str | None, workers: int | None
) -> AbstractContextManager[None]:
    """Return the context of ``limited``; its errors do not name a function."""
    amount = None if memory is None else parse_bytes(memory)
    return limits_set(amount, count_of("workers", workers))


def count_of(name: str, number: int | None) -> int | None:
    """Return a number of workers or threads; raise LabelError unless it is 1 or more, or None."""
    is_whole = isinstance(number, Integral) and is_number(number)
    if number is not None and not (is_whole and number >= 1):
        raise LabelError(
            f"{name} must be a whole number of 1 or more, got {number!r:.200}; leave it out for "
            f"one task per core"
        )
    return number


def budget_for(memory: int | float | str | None, workers: int | None) -> Budget:
    """Return the budget in force, with ``memory`` and ``workers`` replaced unless they are None."""
    current = Budget.current()
    memory = current.memory if memory is None else memory
    with limits_of(memory, current.workers if workers is None else workers):
        return Budget.current()


@dataclass(frozen=True)
class StepCost:
    """The cost of a step: bytes read, bytes of its sources counted once, and bytes of memory.

    ``peak`` is the memory of one running task, ``alone`` that of a task which runs after all
    others (a merge). ``waiting`` stays in memory during the step (states to merge), ``held``
    after it (results).
    """

    read: int = 0
    stored: int = 0
    peak: int = 0
    alone: int = 0
    waiting: int = 0
    held: int = 0


def _no_halo() -> Halo | None:
    return None


@dataclass(frozen=True)
class Step:
    """One stage of a computation: all tasks that run one kernel."""

    token: str
    title: str
    tasks: int
    parents: tuple[str, ...]
    cost: Callable[[], StepCost]
    halo: Callable[[], Halo | None] = _no_halo


def recipe_step(title: str, recipe: Recipe, grid: Grid, parents: Iterable[Step]) -> Step:
    """Return the step that computes every block of ``grid`` from a recipe, one task each."""
    tokens = tuple(p.token for p in parents)
    cost, halo = partial(_recipe_cost, recipe, grid), partial(halo_of, recipe, grid)
    token = f"{recipe.token}-{regions.run_lengths(grid)}"
    return Step(token, title, regions.count(grid), tokens, cost, halo)


def _recipe_cost(recipe: Recipe, grid: Grid) -> StepCost:
    """Return the cost of computing every block of ``grid`` from a recipe."""
    read, peak = sampled_cost(recipe, grid)
    return StepCost(read, stored_bytes(recipe), peak)


def foreign_step(name: str, blocks: int) -> Step:
    """Return the step of a foreign dask array, of known blocks and unknown cost."""
    return Step(name, f"input: {name.rpartition('-')[0] or name}", blocks, (), StepCost)


#: blocks whose cost is summed one by one; more are represented by a sample of this many
SAMPLE = 512


def _task_cost(recipe: Recipe, region: Region) -> Cost:
    """Return the cost of a task that computes ``region``, with the foreign blocks it receives."""
    cost = region_cost(recipe, region)
    return replace(cost, peak=cost.peak + foreign_bytes(recipe, region))


def sampled_cost(recipe: Recipe, grid: Grid) -> tuple[int, int]:
    """Return the bytes that all blocks of ``grid`` read, and the largest peak of a block."""
    total = regions.count(grid)
    if total == 0:
        return 0, 0
    stride = max(1, ceil(total / SAMPLE))
    costs = [_task_cost(recipe, box) for box in _every(grid, stride, total)]
    return sum(c.read for c in costs) * total // len(costs), max(c.peak for c in costs)


def _every(grid: Grid, stride: int, total: int) -> Iterator[Region]:
    """Yield every block number ``stride`` of a grid, in C order."""
    axes = [regions.edges(chunks) for chunks in grid]
    for number in range(0, total, stride):
        box, quotient = [], number
        for edges in reversed(axes):
            quotient, index = divmod(quotient, len(edges) - 1)
            box.append(slice(edges[index], edges[index + 1]))
        yield tuple(reversed(box))


def fit_to_budget(recipe: Recipe, grid: Grid, budget: Budget) -> Grid:
    """Return ``grid``, or finer blocks if the tasks that run at once would exceed the budget."""
    while budget.per_process is not None:
        _, peak = sampled_cost(recipe, grid)
        running = max(1, min(budget.tasks_per_process, regions.count(grid)))
        if running * peak + RUN_OVERHEAD <= budget.per_process:
            break
        finer = _finer(recipe, grid, recipe.preferred_chunk)
        finer = finer or _finer(recipe, grid, recipe.minimum_region)
        if finer is None:
            raise BudgetError(
                f"memory must be at least "
                f"{ceil_mib((peak * running + RUN_OVERHEAD) * budget.processes)} for a result of "
                f"shape {recipe.shape} with {show_tasks(running * budget.processes)}, got "
                f"memory={show_bytes(budget.memory or 0)}; raise memory or use fewer workers"
            )
        grid = finer
    return grid


def show_tasks(number: int) -> str:
    """Return ``"1 task at once"`` or ``"n tasks at once"``."""
    return "1 task at once" if number == 1 else f"{number} tasks at once"


#: a later axis is halved only if that saves this fraction of a task's memory: elements along the
#: later axes are stored next to each other
SAVED = 0.05


def _finer(recipe: Recipe, grid: Grid, multiples: Sequence[int]) -> Grid | None:
    """Halve the blocks along the axis that saves most memory, of those longer than ``multiples``.

    Halving the first axis alone would leave slabs thinner than their halos: a Gaussian filter of
    256^3 voxels in a third of the memory that whole volumes need would read its input 400 times
    instead of 12 times.
    """
    finer = list(_halved(grid, multiples))
    middles = [tuple(regions.chunk_slices(c)[len(c) // 2] for c in g) for g in finer]
    peaks = [_task_cost(recipe, box).peak for box in middles]
    enough = (1 + SAVED) * min(peaks, default=0)
    return next((g for g, peak in zip(finer, peaks, strict=True) if peak <= enough), None)


def _halved(grid: Grid, multiples: Sequence[int]) -> Iterator[Grid]:
    """Yield the grid with blocks of half the length along each axis that allows it."""
    for axis, (chunks, multiple) in enumerate(zip(grid, multiples, strict=True)):
        longest = max(chunks, default=0)
        if longest > max(1, multiple):
            half = max(multiple, longest // 2 // multiple * multiple)
            yield (*grid[:axis], regions.uniform_chunks(sum(chunks), half), *grid[axis + 1 :])


def stored_bytes(recipe: Recipe) -> int:
    """Return the bytes of the stored arrays below a recipe, each counted once."""
    sources = {leaf.token: leaf.source for leaf in leaves(recipe) if isinstance(leaf, Stored)}
    return sum(s.stored_bytes(regions.whole(s.shape)) for s in sources.values())

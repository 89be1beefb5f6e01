"""What a computation costs before it runs: steps, bytes and memory. Integer arithmetic."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import dask

from lazyvol.errors import BudgetError, LabelError
from lazyvol.plan import regions
from lazyvol.plan.evaluate import foreign_bytes, price
from lazyvol.plan.halo_cost import Halo, halo_of
from lazyvol.plan.recipes.base import Cost, Recipe, Stored, leaves
from lazyvol.plan.regions import Grid

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

#: bytes of a block when nothing else is asked: long enough for a task to be worth scheduling
BLOCK = 128 * 2**20
#: memory that every run needs beside its blocks: compiled kernels (63 MiB measured where they
#: are cached on disk, 102 MiB when they are compiled first), file buffers, graph, thread stacks
SLACK = 112 * 2**20


def parse_bytes(amount: int | float | str) -> int:
    """Number of bytes in ``2e9``, ``"2GiB"`` or ``"500 MB"``."""
    if isinstance(amount, (int, float)):
        return int(amount)
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", amount.lower())
    if not match or match[2] not in UNITS:
        raise LabelError(
            f"memory is a number of bytes or text like '2GiB', got {amount!r}; "
            f"units are {', '.join(u for u in UNITS if u)}"
        )
    return int(float(match[1]) * UNITS[match[2]])


def show_bytes(amount: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"


def enough(amount: float) -> str:
    """Bytes rounded up, for a refusal that says what would do."""
    return f"{ceil(amount / 2**20)} MiB"


#: memory of a cluster's worker process before it has work: interpreter, dask, this library
#: (184 MiB measured)
PROCESS = 200 * 2**20
#: share of a worker process's limit that is planned with: allocators keep some of what was freed
FILLED = 0.85


@dataclass(frozen=True)
class Workers:
    """Who runs the tasks: threads in processes, and the bytes that each process may hold."""

    threads: int
    processes: int = 1
    limit: int | None = None

    @property
    def memory(self) -> int | None:
        """Bytes for the work of all processes, where they have a limit."""
        if self.limit is None:
            return None
        return self.processes * max(0, int(FILLED * self.limit) - PROCESS)


def default_workers() -> Workers:
    """Workers of the client in use, else this machine's threads."""
    module = sys.modules.get("distributed")
    if module is not None:
        try:
            return _cluster(module.default_client().scheduler_info(n_workers=-1)["workers"])
        except ValueError:  # no client: dask's own threads
            pass
    return Workers(int(dask.config.get("num_workers", None) or os.cpu_count() or 1))


def _cluster(workers: Mapping[str, Mapping[str, Any]]) -> Workers:
    """A cluster as its weakest process times their number; none yet counts as one thread."""
    limits = [int(w["memory_limit"] or 0) for w in workers.values()]
    threads = sum(int(w["nthreads"]) for w in workers.values())
    limited = [n for n in limits if n]
    return Workers(max(1, threads), max(1, len(limits)), min(limited) if limited else None)


@dataclass(frozen=True)
class Budget:
    """Memory in bytes that a run may take (None: no limit) and the tasks running at once.

    Both are of all ``processes`` together. Each has its own share, and holds for itself what is
    not a task's: what waits to be merged may all come to one of them.
    """

    memory: int | None = None
    workers: int = 1
    processes: int = 1

    @classmethod
    def current(cls) -> "Budget":
        """The budget in force: what ``limited`` set, else the cluster's limit or none, and the
        threads there are."""
        memory = dask.config.get("lazyvol.memory", None)
        threads = dask.config.get("lazyvol.workers", None)
        found = default_workers()
        amount = found.memory if memory is None else parse_bytes(memory)
        return cls(amount, int(threads or found.threads), found.processes)

    @property
    def share(self) -> int | None:
        """Bytes that one process may hold."""
        return None if self.memory is None else self.memory // self.processes

    @property
    def at_once(self) -> int:
        """Tasks that one process runs at once."""
        return max(1, ceil(self.workers / self.processes))

    @property
    def per_task(self) -> int | None:
        """Bytes that one running task may hold, where every thread has one."""
        return self.per_task_of(self.at_once)

    def per_task_of(self, tasks: int) -> int | None:
        """Bytes that each of a number of tasks may hold: no more run than there are."""
        running = max(1, min(self.at_once, tasks))
        return None if self.share is None else max(0, self.share - SLACK) // running


def limited(memory: int | float | str | None = None, workers: int | None = None) -> dask.config.set:
    """Context in which operations are cut to fit ``memory`` bytes with ``workers`` tasks.

    Dask's local threads are as many as the workers in it; a cluster keeps its own.
    """
    amount = None if memory is None else parse_bytes(memory)
    found: dict[str, int | None] = {"lazyvol.memory": amount, "lazyvol.workers": workers}
    return dask.config.set(found | ({"num_workers": workers} if workers else {}))


@dataclass(frozen=True)
class Price:
    """What a step costs: bytes read, bytes of its sources once, and bytes of memory.

    ``peak`` is one running task's memory, ``alone`` that of a task which runs when the others
    are done (a merge). ``waiting`` stays in memory while the step runs (states to be merged),
    ``held`` when it is done (its results).
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
    """One stage of a computation: all tasks that run the same kernel."""

    token: str
    title: str
    tasks: int
    parents: tuple[str, ...]
    price: Callable[[], Price]
    halo: Callable[[], Halo | None] = _no_halo


def recipe_step(title: str, recipe: Recipe, grid: Grid, parents: Iterable["Step"]) -> Step:
    """The step that makes every block of ``grid`` out of a recipe, a task each."""

    tokens = tuple(p.token for p in parents)
    price = partial(recipe_price, recipe, grid)
    halo = partial(halo_of, recipe, grid)
    return Step(f"{recipe.token}-{grid}", title, regions.count(grid), tokens, price, halo)


def recipe_price(recipe: Recipe, grid: Grid) -> Price:
    """Price of every block of ``grid`` made out of a recipe."""
    read, peak = sampled_cost(recipe, grid)
    return Price(read, stored_bytes(recipe), peak)


def foreign_step(name: str, blocks: int) -> Step:
    """Someone else's graph: its blocks are known, its cost is not."""
    return Step(name, f"given: {name.rpartition('-')[0] or name}", blocks, (), Price)


#: blocks whose cost is added up one by one; more are represented by a sample of this many
SAMPLE = 512


def task_cost(recipe: Recipe, region: regions.Region) -> Cost:
    """Price of a task that makes ``region``: the recipe's, and the foreign blocks it is handed."""
    cost = price(recipe, region)
    return replace(cost, peak=cost.peak + foreign_bytes(recipe, region))


def sampled_cost(recipe: Recipe, grid: Grid) -> tuple[int, int]:
    """Bytes that all blocks of ``grid`` read, and the largest peak of one of them."""
    total = regions.count(grid)
    if total == 0:
        return 0, 0
    stride = max(1, ceil(total / SAMPLE))
    costs = [task_cost(recipe, box) for box in _every(grid, stride, total)]
    return sum(c.read for c in costs) * total // len(costs), max(c.peak for c in costs)


def _every(grid: Grid, stride: int, total: int) -> Iterable[regions.Region]:
    spans = [regions.spans(chunks) for chunks in grid]
    for flat in range(0, total, stride):
        box, rest = [], flat
        for axis in reversed(spans):
            rest, at = divmod(rest, len(axis))
            box.append(axis[at])
        yield tuple(reversed(box))


def fitted(recipe: Recipe, grid: Grid, budget: Budget) -> Grid:
    """``grid``, or finer blocks where the tasks that run at once would not fit the budget."""
    while budget.share is not None:
        _, peak = sampled_cost(recipe, grid)
        running = max(1, min(budget.at_once, regions.count(grid)))
        if running * peak + SLACK <= budget.share:
            break
        finer = _finer(grid, recipe.grain) or _finer(grid, recipe.least)
        if finer is None:
            raise BudgetError(
                f"a result of shape {recipe.shape} needs at least "
                f"{enough((peak * running + SLACK) * budget.processes)} with "
                f"{running * budget.processes} tasks at once, got "
                f"memory={show_bytes(budget.memory or 0)}; give it that much, or fewer workers"
            )
        grid = finer
    return grid


def _finer(grid: Grid, grain: Sequence[int]) -> Grid | None:
    """Blocks of half the length along the first axis with more than one grain in a block."""
    for axis, (chunks, g) in enumerate(zip(grid, grain, strict=True)):
        longest = max(chunks, default=0)
        if longest > max(1, g):
            half = max(g, longest // 2 // g * g)
            return (*grid[:axis], regions.cover(sum(chunks), half), *grid[axis + 1 :])
    return None


def stored_bytes(recipe: Recipe) -> int:
    """Bytes of the stored arrays behind a recipe, each counted once."""
    found = {leaf.token: leaf.source for leaf in leaves(recipe) if isinstance(leaf, Stored)}
    return sum(s.stored_bytes(regions.whole(s.shape)) for s in found.values())

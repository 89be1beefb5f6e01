"""The plan of a computation: its cost, before anything runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from math import prod
from typing import Any

import dask.array as da
import xarray as xr

from lazyvol.errors import BudgetError, LabelError
from lazyvol.plan.budget import (
    RUN_OVERHEAD,
    Budget,
    Step,
    StepCost,
    budget_for,
    ceil_mib,
    show_bytes,
    show_tasks,
)
from lazyvol.plan.graph.lazy_array import as_lazy_array, refit
from lazyvol.plan.halo_cost import Halo

#: number of times an input is read above which a step is refused under a memory limit: its blocks
#: are then much smaller than their halos, or than the strips of a distance matrix should be
MOST_READS = 256
PROMISE = "never rechunks, never holds a whole stack, stores no intermediate"


@dataclass(frozen=True)
class Row:
    """One step of a plan: its tasks, the bytes it reads, and the peak memory of one task.

    ``bytes_stored`` are those of its stored inputs, each counted once.
    """

    title: str
    tasks: int
    bytes_read: int
    task_bytes: int
    halo: Halo | None = None
    bytes_stored: int = 0


@dataclass(frozen=True, repr=False)
class Plan:
    """The cost of a result: bytes read and written, tasks, and memory.

    ``peak_bytes`` bounds the memory of the run without the interpreter, with ``workers`` tasks at
    once and results written as soon as they are computed. ``passes`` is the number of times that
    stored data are read.
    """

    rows: tuple[Row, ...]
    tasks: int
    passes: int
    bytes_read: int
    bytes_written: int
    peak_bytes: int
    workers: int
    memory: int | None = None

    def __str__(self) -> str:
        lines = [f"{name:<12}{value}" for name, value in self.facts().items()]
        lines += [f"  {r.title}: {_row_text(r)}" for r in self.rows]
        return "\n".join(["Plan", *lines, f"  {PROMISE}"])

    __repr__ = __str__

    def facts(self) -> dict[str, str]:
        """Name and value of each figure, as text."""
        limit = "" if self.memory is None else f" of {show_bytes(self.memory)}"
        peak = f"{show_bytes(self.peak_bytes)}{limit} with {show_tasks(self.workers)}"
        return {
            "passes": str(self.passes),
            "reads": show_bytes(self.bytes_read),
            "writes": show_bytes(self.bytes_written),
            "tasks": str(self.tasks),
            "peak memory": peak,
        }

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th style='text-align:left'>{escape(n)}</th><td>{escape(v)}</td></tr>"
            for n, v in self.facts().items()
        )
        steps = "".join(f"<li>{escape(r.title)}: {escape(_row_text(r))}</li>" for r in self.rows)
        return f"<table>{facts}</table><ol>{steps}</ol><p>{escape(PROMISE)}</p>"


def _row_text(row: Row) -> str:
    tasks = "1 task" if row.tasks == 1 else f"{row.tasks} tasks"
    halo = "" if row.halo is None else f"; {row.halo}"
    return (
        f"{tasks}, {show_bytes(row.bytes_read)} read, {show_bytes(row.task_bytes)} per task{halo}"
    )


def explain_arrays(
    obj: Any, *, memory: int | float | str | None = None, workers: int | None = None
) -> Plan:
    """Return the plan of computing an array, a Dataset, or a list or dict of them.

    Raise BudgetError if no blocks fit ``memory``; see ``lazyvol.explain``.
    """
    budget = budget_for(memory, workers)
    refitted: dict[str, Any] = {}
    arrays = lazy_arrays(obj)
    if budget.memory is not None or workers is not None:
        arrays = [refit(a, budget, refitted) for a in arrays]
    plan = plan_of(arrays, budget)
    require_fit(plan)
    return plan


def require_fit(plan: Plan) -> None:
    """Raise BudgetError if a plan with a memory limit exceeds it, or reads far too much to fit."""
    if plan.memory is None:
        return
    if plan.peak_bytes > plan.memory:
        raise BudgetError(
            f"memory must be at least {ceil_mib(plan.peak_bytes)} with "
            f"{show_tasks(plan.workers)}, got memory={show_bytes(plan.memory)}; "
            "raise memory or use fewer workers"
        )
    for row in plan.rows:
        if row.bytes_read > MOST_READS * row.bytes_stored > 0:
            raise BudgetError(
                f"memory must let a step read its input at most {MOST_READS} times, got "
                f"memory={show_bytes(plan.memory)}, by which {row.title} reads "
                f"{show_bytes(row.bytes_read)} of {show_bytes(row.bytes_stored)} in {row.tasks} "
                "tasks; raise memory, use fewer workers, or save the result of an earlier step and "
                "continue from the file"
            )


def lazy_arrays(obj: Any) -> list[da.Array]:
    """Return the dask arrays in a labelled object, a dask array or a collection of them."""
    if isinstance(obj, da.Array):
        return [obj]
    if isinstance(obj, xr.DataArray):
        return lazy_arrays(obj.data) if isinstance(obj.data, da.Array) else []
    if isinstance(obj, (xr.Dataset, Mapping)):
        return [a for value in obj.values() for a in lazy_arrays(value)]
    if isinstance(obj, (list, tuple)):
        return [a for value in obj for a in lazy_arrays(value)]
    raise LabelError(
        "explain: obj must be a DataArray, a Dataset, a dask array or a list of them, got "
        f"{type(obj).__name__}"
    )


def plan_of(arrays: Iterable[da.Array], budget: Budget) -> Plan:
    """Return the plan of arrays with their current blocks; its rows are in the order they run."""
    arrays = list(arrays)
    steps = [s for a in arrays for s in as_lazy_array(a).steps]
    return plan_of_steps(steps, sum(prod(a.shape) * a.dtype.itemsize for a in arrays), budget)


def plan_of_steps(steps: Iterable[Step], bytes_written: int, budget: Budget) -> Plan:
    """Return the plan of steps in the order they run, some of them named several times."""
    steps = list({s.token: s for s in steps}.values())
    costs = {s.token: s.cost() for s in steps}
    return Plan(
        rows=tuple(_row(s, costs[s.token]) for s in steps),
        tasks=sum(s.tasks for s in steps),
        passes=_passes(steps, costs),
        bytes_read=sum(c.read for c in costs.values()),
        bytes_written=bytes_written,
        peak_bytes=_peak(steps, costs, budget),
        workers=budget.workers,
        memory=budget.memory,
    )


def _row(step: Step, cost: StepCost) -> Row:
    return Row(step.title, step.tasks, cost.read, cost.peak, step.halo(), cost.stored)


def _peak(steps: list[Step], costs: Mapping[str, StepCost], budget: Budget) -> int:
    """Return the largest sum of running and waiting memory over steps that may run at once."""
    peak = 0
    for step in steps:
        concurrent = [
            s for s in steps if s.token not in step.parents and step.token not in s.parents
        ]
        running = max(_running(s, costs[s.token], budget.workers) for s in concurrent)
        peak = max(peak, running + sum(costs[s.token].waiting for s in concurrent))
    return RUN_OVERHEAD * budget.processes + peak + sum(c.held for c in costs.values())


def _running(step: Step, cost: StepCost, workers: int) -> int:
    return max(min(workers, step.tasks) * cost.peak, cost.alone)


def _passes(steps: list[Step], costs: Mapping[str, StepCost]) -> int:
    """Return the reads of stored data along the longest chain; ``steps`` are in running order."""
    passes: dict[str, int] = {}
    for step in steps:
        cost = costs[step.token]
        reads = max(1, round(cost.read / cost.stored)) if cost.stored else 0
        passes[step.token] = reads + max((passes.get(t, 0) for t in step.parents), default=0)
    return max(passes.values(), default=0)

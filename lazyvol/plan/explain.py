"""What a computation will cost, said before anything runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from math import prod
from typing import Any

import dask.array as da
import xarray as xr

from lazyvol.errors import BudgetError, LabelError
from lazyvol.plan.budget import SLACK, Budget, Price, Step, enough, show_bytes
from lazyvol.plan.graph.lazy_array import described, refit
from lazyvol.plan.halo_cost import Halo

PROMISE = "never rechunks, never holds a whole stack, stores no intermediate"


@dataclass(frozen=True)
class Row:
    """One step of a plan: its tasks, bytes read, and the memory of one task."""

    title: str
    tasks: int
    bytes_read: int
    task_bytes: int
    halo: Halo | None = None


@dataclass(frozen=True, repr=False)
class Plan:
    """The cost of a result: what will be read and written, in how many tasks, in what memory.

    ``peak_bytes`` bounds the memory of the run beside the interpreter, with ``workers`` tasks at
    once and results written as they are made. ``passes`` counts how often stored data are read.
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
        lines += [f"  {r.title}: {_row(r)}" for r in self.rows]
        return "\n".join(["Plan", *lines, f"  {PROMISE}"])

    __repr__ = __str__

    def facts(self) -> dict[str, str]:
        """Name and value of each figure, as people read them."""
        limit = "" if self.memory is None else f" of {show_bytes(self.memory)}"
        return {
            "passes": str(self.passes),
            "reads": show_bytes(self.bytes_read),
            "writes": show_bytes(self.bytes_written),
            "tasks": str(self.tasks),
            "peak memory": f"{show_bytes(self.peak_bytes)}{limit} with {self.workers} at once",
        }

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th style='text-align:left'>{escape(n)}</th><td>{escape(v)}</td></tr>"
            for n, v in self.facts().items()
        )
        steps = "".join(f"<li>{escape(r.title)}: {escape(_row(r))}</li>" for r in self.rows)
        return f"<table>{facts}</table><ol>{steps}</ol><p>{escape(PROMISE)}</p>"


def _row(row: Row) -> str:
    read, memory = show_bytes(row.bytes_read), show_bytes(row.task_bytes)
    halo = "" if row.halo is None else f"; {row.halo}"
    return f"{row.tasks} tasks, read {read}, {memory} each{halo}"


def explain(
    obj: Any, *, memory: int | float | str | None = None, workers: int | None = None
) -> Plan:
    """Plan of a lazy result: passes, bytes, tasks and peak memory. Nothing is computed.

    Parameters
    ----------
    obj
        A DataArray, a Dataset, a dask array, or a list of them.
    memory
        Bytes, or text like ``"2GiB"``, that the run may take: the plan is cut to fit it.
    workers
        Tasks that run at once; this machine's threads by default.

    Raises
    ------
    BudgetError
        If no cut fits ``memory``; the message names the smallest that would do.

    Examples
    --------
    >>> import dask.array as da, lazyvol as lv
    >>> stack = lv.as_stack(da.zeros((64, 16, 16, 16), chunks=(8, 16, 16, 16)))
    >>> plan = lv.explain(lv.stats.mean(stack), workers=2)
    >>> plan.bytes_written, plan.peak_bytes < 2**27
    (32768, True)
    """
    budget = budget_for(memory, workers)
    done: dict[str, Any] = {}
    arrays = lazy_arrays(obj)
    if budget.memory is not None or workers is not None:
        arrays = [refit(a, budget, done) for a in arrays]
    plan = plan_of(arrays, budget)
    if budget.memory is not None and plan.peak_bytes > budget.memory:
        raise BudgetError(
            f"the run peaks at {enough(plan.peak_bytes)} with {plan.workers} tasks at once, "
            f"got memory={show_bytes(budget.memory)}; give it that much, or fewer workers"
        )
    return plan


def budget_for(memory: int | float | str | None, workers: int | None) -> Budget:
    """The budget in force, changed by what is given."""
    from lazyvol.plan.budget import limited

    current = Budget.current()
    with limited(current.memory if memory is None else memory, workers or current.workers):
        return Budget.current()


def lazy_arrays(obj: Any) -> list[da.Array]:
    """Dask arrays in a labelled object, a dask array or a collection of them."""
    if isinstance(obj, da.Array):
        return [obj]
    if isinstance(obj, xr.DataArray):
        return lazy_arrays(obj.data) if isinstance(obj.data, da.Array) else []
    if isinstance(obj, (xr.Dataset, Mapping)):
        return [a for value in obj.values() for a in lazy_arrays(value)]
    if isinstance(obj, (list, tuple)):
        return [a for value in obj for a in lazy_arrays(value)]
    raise LabelError(
        f"a plan is of a DataArray, a Dataset or a dask array, got {type(obj).__name__}"
    )


def steps_behind(arrays: Iterable[da.Array]) -> list[Step]:
    """Steps of arrays, each once, in the order they run."""
    found: dict[str, Step] = {}
    for array in arrays:
        found.update((s.token, s) for s in described(array).steps)
    return list(found.values())


def plan_of(arrays: Iterable[da.Array], budget: Budget) -> Plan:
    """Plan of arrays as they are cut now."""
    arrays = list(arrays)
    steps = steps_behind(arrays)
    prices = {s.token: s.price() for s in steps}
    return Plan(
        rows=tuple(
            Row(s.title, s.tasks, prices[s.token].read, prices[s.token].peak, s.halo())
            for s in steps
        ),
        tasks=sum(s.tasks for s in steps),
        passes=_passes(steps, prices),
        bytes_read=sum(p.read for p in prices.values()),
        bytes_written=sum(prod(a.shape) * a.dtype.itemsize for a in arrays),
        peak_bytes=_peak(steps, prices, budget),
        workers=budget.workers,
        memory=budget.memory,
    )


def _peak(steps: list[Step], prices: Mapping[str, Price], budget: Budget) -> int:
    """Largest sum of what runs and what waits, over steps that may run at once."""
    workers = budget.workers
    most = 0
    for step in steps:
        others = [s for s in steps if s.token not in step.parents and step.token not in s.parents]
        running = max(_running(s, prices[s.token], workers) for s in others)
        most = max(most, running + sum(prices[s.token].waiting for s in others))
    return SLACK * budget.processes + most + sum(p.held for p in prices.values())


def _running(step: Step, price: Price, workers: int) -> int:
    return max(min(workers, step.tasks) * price.peak, price.alone)


def _passes(steps: list[Step], prices: Mapping[str, Price]) -> int:
    """Reads of stored data along the longest chain of steps; steps come in the order they run."""
    found: dict[str, int] = {}
    for step in steps:
        price = prices[step.token]
        own = max(1, round(price.read / price.stored)) if price.stored else 0
        found[step.token] = own + max((found.get(t, 0) for t in step.parents), default=0)
    return max(found.values(), default=0)

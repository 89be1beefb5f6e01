"""Shards of a result, and the plan of saving it: the grid of shards is what a save computes."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import BudgetError, LabelError
from lazyvol.io.places import is_place, path_text
from lazyvol.io.saved_labels import require_text
from lazyvol.io.single_files import suffix_of
from lazyvol.io.zarr.shard_shape import CHUNK_BYTES, SHARD_BYTES, shard_grid
from lazyvol.plan import regions
from lazyvol.plan.budget import (
    BLOCK,
    TASKS_PER_THREAD,
    Budget,
    Step,
    StepCost,
    budget_for,
    ceil_mib,
    recipe_step,
    sampled_cost,
    show_bytes,
)
from lazyvol.plan.explain import Plan, explain_arrays, plan_of_steps, require_fit
from lazyvol.plan.graph.lazy_array import as_lazy_array, recipe_of, refit
from lazyvol.plan.regions import Grid
from lazyvol.stack import require_stack

#: memory of a task that writes a shard without a budget, unless the array's blocks take more
FREE_TASK_BYTES = 4 * BLOCK


@operation(unchecked=("obj", "path", "memory", "workers"))
def explain(
    obj: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    memory: int | float | str | None = None,
    workers: int | None = None,
) -> Plan:
    """Plan of a lazy result: passes, bytes, tasks and peak memory. Nothing is computed.

    Parameters
    ----------
    obj
        A DataArray, a Dataset, a dask array, or a list or dict of them.
    path
        Where ``lazyvol.save`` will write it: a ``.zarr`` is computed shard by shard, not in the
        blocks of the array, and a task holds its shard. By default the plan is that of ``compute``;
        for other suffixes too, as they are written block by block. Nothing is written.
    memory
        Bytes that the run may use, or text like ``"2GiB"``; blocks are made small enough to fit.
        By default the memory of the cluster's workers, or no limit.
    workers
        Tasks that run at once; this machine's threads by default.

    Returns
    -------
    Plan
        Its figures are attributes; ``print`` shows them with one line per step.

    Raises
    ------
    BudgetError
        If no blocks fit ``memory``; the message names the smallest amount that suffices. Also if a
        step would read its input more than 256 times: with so little memory its blocks are much
        smaller than their halos.
    LabelError
        If ``obj`` is none of these, or ``memory`` is not a number of bytes.

    Examples
    --------
    >>> import dask.array as da, lazyvol as lv
    >>> stack = lv.as_stack(da.zeros((64, 16, 16, 16), chunks=(8, 16, 16, 16)))
    >>> plan = lv.explain(lv.stats.mean(stack), workers=2)
    >>> plan.bytes_written, plan.peak_bytes < 2**27
    (32768, True)
    >>> lv.explain(stack * 2, "double.zarr").tasks  # 1 MiB is one shard
    9
    """
    is_local = path is not None and not is_place(path)
    if path is None or (is_local and suffix_of(path_text(path, "explain: path")) != ".zarr"):
        return explain_arrays(obj, memory=memory, workers=workers)
    if not isinstance(obj, xr.DataArray | xr.Dataset):
        raise LabelError(
            f"explain: obj must be a DataArray or a Dataset with path=, got {type(obj).__name__}; "
            "label it by as_stack, or leave path out"
        )
    plan = _plan(refitted_arrays(obj, budget := budget_for(memory, workers)), path, budget)
    require_fit(plan)
    return plan


def _plan(arrays: Mapping[str, xr.DataArray], path: Any, budget: Budget) -> Plan:
    """Return the plan of writing arrays to a store: their last steps compute shards."""
    copies = copies_of(path)
    shard_bytes = largest_shard(arrays.values(), budget, copies)
    lazy = [array for array in arrays.values() if array.chunks is not None]
    steps = [step for array in lazy for step in _steps(array, shard_bytes, copies)]
    return plan_of_steps(steps, sum(array.nbytes for array in lazy), budget)


def _steps(array: xr.DataArray, shard_bytes: int, copies: int) -> list[Step]:
    """Return the steps before an array, and that which computes its shards and writes them."""
    lazy = as_lazy_array(array.data)
    own = [step.title for step in lazy.steps if step not in lazy.below]
    grid, task_bytes = _shards(array, shard_bytes)
    step = recipe_step(own[-1] if own else "write", lazy.recipe, grid, lazy.below)

    def cost() -> StepCost:
        computed = step.cost()
        return replace(computed, peak=computed.peak + encoding_bytes(task_bytes, copies))

    return [*lazy.below, replace(step, cost=cost)]


def copies_of(path: Any, *, pyramid: bool = False) -> int:
    """Return how many copies of a shard a task holds besides its values.

    A shard of a remote store is encoded in memory and sent as a whole; one of a folder is written
    chunk by chunk.
    """
    return (3 if is_place(path) else 0) + pyramid


def encoding_bytes(shard_bytes: int, copies: int) -> int:
    """Return the memory in which a shard is encoded: copies, and a chunk padded and compressed."""
    return copies * shard_bytes + 2 * min(CHUNK_BYTES, shard_bytes)


def refitted_arrays(obj: xr.DataArray | xr.Dataset, budget: Budget) -> dict[str, xr.DataArray]:
    """Return the arrays of a result by name, their tasks divided so that they fit the budget."""
    built: dict[str, Any] = {}
    arrays: Mapping[Any, Any] = obj if isinstance(obj, xr.Dataset) else {"": obj}
    return {require_text(n): refitted(require_stack(a), budget, built) for n, a in arrays.items()}


def refitted(array: xr.DataArray, budget: Budget, built: dict[str, Any]) -> xr.DataArray:
    """Divide the tasks of an array so that they fit the budget; ``built`` are earlier results."""
    if budget.memory is None:
        return array
    return array.copy(data=refit(array.data, budget, built))


def largest_shard(arrays: Iterable[xr.DataArray], budget: Budget, copies: int) -> int:
    """Return the bytes of a shard for which the tasks that write arrays fit the budget."""
    return min((_shard_bytes(a, budget, copies) for a in arrays), default=BLOCK)


def input_rows(array: xr.DataArray) -> int:
    """Return the length along the first axis of the chunks that an array is computed from.

    It is 1 if they are no shorter than the array.
    """
    if array.chunks is None or not array.ndim:
        return 1
    rows = recipe_of(array.data).preferred_chunk[0]
    return max(1, rows) if rows < array.shape[0] else 1


def _shards(array: xr.DataArray, shard_bytes: int) -> tuple[Grid, int]:
    """Return the grid of the shards of an array, and the bytes of one."""
    rows = input_rows(array)
    _, shards = shard_grid(array.shape, array.dtype, shard_bytes, input_rows=rows)
    grid = tuple(regions.uniform_chunks(n, s) for n, s in zip(array.shape, shards, strict=True))
    return grid, min(shard_bytes, prod(shards) * array.dtype.itemsize)


def _shard_bytes(array: xr.DataArray, budget: Budget, copies: int) -> int:
    """Return the bytes of a shard for which the task that writes one fits its budget.

    It is small enough for every thread to write a few, and halved until it fits. A small shard may
    need much input: one of block means over 32^3 voxels reads 32,768 times its own bytes. Without
    a budget a task takes no more than those of the array's own blocks, or ``FREE_TASK_BYTES``.

    Raises
    ------
    BudgetError
        Not even a shard of one element fits.
    """
    recipe, size = recipe_of(array.data), array.dtype.itemsize
    free = max(FREE_TASK_BYTES, _block_bytes(array)) if budget.memory is None else 0
    for shard_bytes in _candidates(array, budget):
        grid, task_bytes = _shards(array, shard_bytes)
        needed = sampled_cost(recipe, grid)[1] + encoding_bytes(task_bytes, copies)
        per_task = budget.per_task_of(regions.count(grid))
        limit = free if per_task is None else per_task
        if needed <= limit:
            return shard_bytes
        if task_bytes <= size:
            break
    if budget.memory is None:
        return BLOCK
    raise BudgetError(
        f"save: memory must be at least "
        f"{ceil_mib(budget.memory + (needed - limit) * budget.workers)} for a result of shape "
        f"{array.shape}, got {show_bytes(budget.memory)}; raise memory or use fewer workers"
    )


def _candidates(array: xr.DataArray, budget: Budget) -> Iterator[int]:
    """Yield bytes of a shard, largest first: that of whole input chunks, then halves of a block.

    Smaller shards decode each chunk several times; they are chosen where whole chunks would be too
    few for all threads.
    """
    shard_bytes = _padded(budget.block_bytes(array.nbytes, _rows(array)))
    length = input_rows(array)
    if length > 1 and array.shape[0] >= length * TASKS_PER_THREAD * budget.workers:
        whole_bytes = _padded(array.nbytes // array.shape[0] * length)
        if shard_bytes < whole_bytes <= SHARD_BYTES:
            yield whole_bytes
    shard_bytes = min(BLOCK, shard_bytes)
    while shard_bytes:
        yield shard_bytes
        shard_bytes //= 2


def _padded(nbytes: int) -> int:
    """Return bytes of a shard that suffice for values whose last chunks are padded."""
    return nbytes + nbytes // 8


def _rows(array: xr.DataArray) -> int:
    """Return the number of shards along the first axis if they are as short as possible."""
    if not array.ndim:
        return 1
    chunk, _ = shard_grid(array.shape, array.dtype, BLOCK)
    # chunks of a stack become shorter with its shards, down to one volume
    return -(-array.shape[0] // (chunk[0] if array.ndim < 4 else 1))


def _block_bytes(array: xr.DataArray) -> int:
    """Return the peak memory of a task for one of the array's own blocks."""
    if array.chunks is None:
        return 0
    return sampled_cost(recipe_of(array.data), array.chunks)[1]

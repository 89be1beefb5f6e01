"""Results of arrays in memory, computed immediately on this machine's threads."""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import dask
import dask.array as da
import numpy as np

from lazyvol.errors import BudgetError
from lazyvol.plan import regions
from lazyvol.plan.budget import Budget, fit_to_budget, show_bytes
from lazyvol.plan.evaluate import evaluate, owned_result
from lazyvol.plan.execution import each_in_threads, local_scheduler, single_blas_thread
from lazyvol.plan.graph.lazy_array import BlockedRecipe, LazyArray
from lazyvol.plan.recipes.base import Array, Recipe
from lazyvol.plan.regions import Region


def compute_graph(lazy: LazyArray) -> Array:
    """Return all values of a result that takes several stages."""
    values = np.empty(lazy.shape, lazy.dtype)
    da.store(lazy.array, values, lock=False, scheduler=local_scheduler())
    return values


def compute_together(outputs: Mapping[str, LazyArray]) -> dict[str, Array]:
    """Return all values of several outputs of one graph, so that the data are read once."""
    arrays = [lazy.array for lazy in outputs.values()]
    return dict(zip(outputs, dask.compute(*arrays, scheduler=local_scheduler()), strict=True))


def compute_blocks(blocked: BlockedRecipe) -> Array:
    """Return all values of a recipe, each block computed in its place in the result.

    (Dask's own compute holds all blocks and then copies them into one array.)
    """
    recipe = blocked.recipe
    values = _empty(recipe)  # before the blocks are listed: a huge result has too many
    grid = fit_to_budget(recipe, blocked.grid, Budget.current())
    boxes = [box for _, box in regions.boxes(grid)]
    if len(boxes) == 1:
        block = _compute_in_place(recipe, values, boxes[0])
        return values if np.may_share_memory(block, values) else owned_result(recipe, block)
    with single_blas_thread():
        each_in_threads(partial(_compute_block, recipe, values), boxes)
    return values


def _empty(recipe: Recipe) -> Array:
    """Allocate a result whose components are whole volumes, each contiguous in memory.

    Interleaved components take longer to write: a gradient 2.4 times as long, a Hessian 2.0 times
    (128^3 float32: 29 against 12 and 58 against 29 ms of CPU time).
    """
    ndim = len(recipe.shape) - recipe.component_axes
    shape = (*recipe.shape[ndim:], *recipe.shape[:ndim])
    try:
        values = np.empty(shape, recipe.dtype)
    except (MemoryError, ValueError):  # numpy raises ValueError for sizes beyond 63 bits
        size = recipe.dtype.itemsize * prod(shape)
        raise BudgetError(
            f"the result of shape {recipe.shape} needs {show_bytes(size)} in memory; pass the "
            f"stack as a dask array and save the result"
        ) from None
    first = range(recipe.component_axes)
    return np.moveaxis(values, first, [axis - recipe.component_axes for axis in first])


def _compute_block(recipe: Recipe, values: Array, region: Region) -> None:
    block = _compute_in_place(recipe, values, region)
    if not np.may_share_memory(block, values):
        values[region] = block


def _compute_in_place(recipe: Recipe, values: Array, region: Region) -> Array:
    """Compute a block in its place if that is contiguous for every component."""
    place = values[region]
    first: Any = (..., *(0,) * recipe.component_axes)
    component = place[first]
    return evaluate(recipe, region, {}, place if component.flags.c_contiguous else None)

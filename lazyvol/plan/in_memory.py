"""Values of recipes over arrays in memory, here and now."""

from functools import partial

import dask.array as da
import numpy as np

from lazyvol.plan import memory_order, regions
from lazyvol.plan.blas_threads import each_here, local_scheduler, one_thread_each
from lazyvol.plan.budget import Budget, fitted
from lazyvol.plan.evaluate import evaluate
from lazyvol.plan.graph.lazy_array import Blocks, Lazy
from lazyvol.plan.graph.results import finished
from lazyvol.plan.recipes.base import Array, Recipe
from lazyvol.plan.regions import Region


def stored(lazy: Lazy) -> Array:
    """All values of what is made in several steps, each block put in its place."""
    values = np.empty(lazy.shape, lazy.dtype)
    da.store(lazy.array, values, lock=False, scheduler=local_scheduler())
    return values


def filled(blocks: Blocks) -> Array:
    """All values, block by block on this machine's threads, each put in its place.

    (Dask's own compute holds every block and then copies them together.)
    """
    recipe = blocks.recipe
    boxes = [box for _, box in regions.boxes(fitted(recipe, blocks.grid, Budget.current()))]
    values = memory_order.empty(recipe.shape, recipe.dtype, recipe.planes)
    if len(boxes) == 1:
        made = _made(recipe, values, boxes[0])
        return values if np.may_share_memory(made, values) else finished(recipe, made)
    with one_thread_each():
        each_here(partial(_put, recipe, values), boxes)
    return values


def _put(recipe: Recipe, values: Array, box: Region) -> None:
    made = _made(recipe, values, box)
    if not np.may_share_memory(made, values):
        values[box] = made


def _made(recipe: Recipe, values: Array, box: Region) -> Array:
    """A block, made where it belongs if that place is contiguous and the recipe can."""
    place = values[box]
    return evaluate(recipe, box, {}, place if memory_order.runs(place, recipe.planes) else None)

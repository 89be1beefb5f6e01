"""Small arrays beside a stack: made once for all tasks, and handed whole to each of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import Alias

from lazyvol.plan import regions
from lazyvol.plan.graph.layers import ResultLayer
from lazyvol.plan.graph.lazy_array import Blocks, Lazy, derived, described, recipe_of, result
from lazyvol.plan.operands import done, grid_of, labelled, operands
from lazyvol.plan.recipes.base import Array, Foreign, Recipe
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.regions import Grid
from lazyvol.stack import require_stack


def settled(stack: xr.DataArray) -> xr.DataArray:
    """The stack, made once in a run however many tasks take it; for what is small."""
    if not isinstance(stack.data, da.Array):
        return stack
    return stack.copy(data=settled_array(described(stack.data)).array)


def settled_array(lazy: Lazy) -> Lazy:
    """An array whose blocks are made once, and handed to the tasks that need them."""
    made: Lazy = derived(_settled, lazy)
    return made


def _settled(lazy: Lazy) -> Lazy:
    if isinstance(lazy.recipe, Foreign):
        return lazy
    name = f"{lazy.name}-settled"
    tasks = {
        (name, *index): Alias((name, *index), (lazy.name, *index))
        for index, _ in regions.boxes(lazy.chunks)
    }
    layer = ResultLayer(name, tasks, lazy.chunks, lazy.dtype)
    return result(layer, [lazy.array], lazy.steps, None)


def with_tables(
    kernel: Callable[..., Array],
    stack: xr.DataArray,
    *tables: xr.DataArray,
    core: Sequence[str],
    out: Sequence[str],
    sizes: Mapping[str, int] | None = None,
    dtype: np.dtype[Any],
    scratch: float = 0.0,
    title: str = "tables",
) -> xr.DataArray:
    """Each block alone with all of every table: ``kernel(block, *tables) -> block``.

    As ``blockwise``, where the others may have dims that the stack has not. Blocks that are too
    large because of what is in ``core`` are cut along the other dims.
    """
    require_stack(stack)
    dims, result = tuple(str(d) for d in stack.dims), tuple(out)
    lengths = {str(d): n for d, n in stack.sizes.items()} | dict(sizes or {})
    fixed = frozenset(a for a, d in enumerate(result) if d in core or d in (sizes or {}))
    runs = tuple(None if d in core or d not in result else result.index(d) for d in dims)
    arrays, local = operands((stack, *(require_stack(t) for t in tables)))
    shape = tuple(lengths[d] for d in result)
    make = partial(_tabled, kernel, runs, shape, np.dtype(dtype), fixed, scratch, title)
    return labelled(done(make, arrays, local), result, stack)


def _tabled(
    kernel: Callable[..., Array],
    runs: tuple[int | None, ...],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    entire: frozenset[int],
    scratch: float,
    title: str,
    *arrays: Any,
) -> Blocks:
    parents = tuple(recipe_of(a) for a in arrays)
    axes = (runs, *((None,) * p.ndim for p in parents[1:]))
    recipe = Blockwise(kernel, parents, axes, shape, dtype, entire, scratch)
    own = _cut(arrays[0], parents[0], runs)
    along = {axis: a for a, axis in enumerate(runs) if axis is not None}
    grid = tuple((n,) if a in entire else own[along[a]] for a, n in enumerate(shape))
    return Blocks(recipe, grid, title)


#: bytes of a block beside tables, which take as much again
BLOCK = 32 * 2**20


def _cut(array: Any, parent: Recipe, runs: tuple[int | None, ...]) -> Grid:
    """Blocks of the stack: its own, cut further along the dims that need not be whole."""
    grid = list(grid_of(array, tuple(range(parent.ndim))))
    whole = prod(n for n, axis in zip(parent.shape, runs, strict=True) if axis is None)
    chunks = [1 if axis is None else max(c, default=1) for c, axis in zip(grid, runs, strict=True)]
    room = max(1, BLOCK // max(1, whole * parent.dtype.itemsize))
    for a, axis in enumerate(runs):
        if axis is not None and prod(chunks) > room:
            most = max(1, chunks[a] * room // prod(chunks))
            grain = parent.grain[a]
            chunks[a] = most // grain * grain if most >= grain else most
            grid[a] = regions.cover(parent.shape[a], chunks[a])
    return tuple(grid)

"""Shared parts of all verbs: the arrays and dims of labelled stacks, and the labels of results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from lazyvol.errors import LabelError
from lazyvol.plan.blas_threads import local_scheduler
from lazyvol.plan.budget import BLOCK, Budget
from lazyvol.plan.graph.lazy_array import BlockedRecipe, LazyArray, as_lazy_array, deferred
from lazyvol.plan.in_memory import compute_blocks, compute_graph
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.recipes.views import AxisOrder
from lazyvol.plan.reductions.partition import block_grid
from lazyvol.plan.regions import Grid
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import require_stack


def shared_dims(stacks: Sequence[xr.DataArray], core: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the dims of the first stack, then those in ``core`` that only others have.

    Raise LabelError if another stack has further dims.
    """
    for stack in stacks:
        require_stack(stack)
    first = [str(d) for d in stacks[0].dims]
    core_only = dict.fromkeys(str(d) for s in stacks[1:] for d in s.dims if d in core)
    dims = (*first, *(d for d in core_only if d not in first))
    for other in stacks[1:]:
        extra = [d for d in other.dims if d not in dims]
        if extra:
            raise LabelError(
                f"stacks must have dims among those of the first, {dims}, got one with "
                f"{tuple(other.dims)}; pass the stack with {extra} first"
            )
        require_same_grid(stacks[0], other)
    return dims


def lengths_of(stacks: Sequence[xr.DataArray]) -> dict[str, int]:
    """Return the length of every dim of the stacks."""
    return {str(d): n for s in stacks for d, n in s.sizes.items()}


def axis_order(stack: xr.DataArray, dims: Sequence[str]) -> AxisOrder:
    """Return the stack's axis of each of ``dims``, None for dims that it lacks."""
    axes = {str(d): a for a, d in enumerate(stack.dims)}
    return tuple(axes.get(d) for d in dims)


def operands(stacks: Sequence[xr.DataArray]) -> tuple[tuple[Any, ...], bool]:
    """Return the arrays of stacks, and whether all are in memory.

    If one is lazy, all are described as lazy arrays; a numpy array is one block.
    """
    arrays = [s.data for s in stacks]
    is_local = not any(isinstance(a, da.Array) for a in arrays)
    if is_local:
        return tuple(np.asarray(a) for a in arrays), True
    lazy = (as_lazy_array(a if isinstance(a, da.Array) else _single_block(a)) for a in arrays)
    return tuple(lazy), False


def _single_block(values: Array) -> da.Array:
    """Return a numpy array as a dask array: it is in the graph once, for any number of tasks."""
    return da.from_array(values, chunks=-1, name=f"array in memory-{tokenize(values)}")


def operand_grid(array: Any, order: AxisOrder) -> Grid:
    """Return the blocks of a result over ``array``: those of a lazy array, else one per thread."""
    if isinstance(array, LazyArray):
        chunks = array.chunks
    else:
        target = max(2**18, min(BLOCK, array.nbytes // max(1, Budget.current().workers)))
        chunks = block_grid(array.shape, (1,) * array.ndim, array.dtype.itemsize, target)
    return tuple((1,) if a is None else chunks[a] for a in order)


def defer_or_compute(
    build: Callable[..., BlockedRecipe | LazyArray], arrays: Sequence[Any], is_local: bool
) -> Any:
    """Return ``build(*arrays)`` as a dask array, or its values if all arrays are in memory."""
    if not is_local:
        return deferred(build, *arrays).array
    built = build(*arrays)
    return compute_graph(built) if isinstance(built, LazyArray) else compute_blocks(built)


def compute_together(outputs: Mapping[str, LazyArray]) -> dict[str, Any]:
    """Compute several outputs of one graph at once, so that the data are read once."""
    arrays = [lazy.array for lazy in outputs.values()]
    return dict(zip(outputs, dask.compute(*arrays, scheduler=local_scheduler()), strict=True))


def labelled(
    data: Any,
    dims: tuple[str, ...],
    like: xr.DataArray,
    labels: Mapping[str, Sequence[Any]] | None = None,
) -> xr.DataArray:
    """Return ``data`` with the name, the attributes and the fitting coordinates of ``like``.

    ``labels`` are coordinates of new dims. Indexes are reused: building them again, and assigning
    coordinates afterwards, took 1.4 ms instead of 0.5.
    """
    lengths = dict(zip(dims, np.shape(data), strict=True))
    new = xr.Coordinates({d: (d, list(values)) for d, values in (labels or {}).items()})
    kept = {
        name: variable
        for name, variable in like.coords.variables.items()
        if all(lengths.get(str(d)) == n for d, n in variable.sizes.items())
    }
    indexes = {name: index for name, index in like.xindexes.items() if name in kept}
    coords = xr.Coordinates({**kept, **new.variables}, {**indexes, **new.xindexes})
    return xr.DataArray(data, coords, dims, name=like.name, attrs=like.attrs)

"""Folds over whole particles: every tile has all voxels of those it has."""

import xarray as xr

from lazyvol.kernels.arrays import Array
from lazyvol.plan.blas_threads import local_scheduler
from lazyvol.plan.reductions.fold import Fold
from lazyvol.plan.verbs import blockwise, fold


def fold_wholes(
    spec: Fold,
    stack: xr.DataArray,
    *operands: xr.DataArray,
    whole: tuple[str, ...],
    dims: tuple[str, ...],
    title: str,
) -> dict[str, xr.DataArray]:
    """``fold`` over ``dims``, the dims ``whole`` of ``stack`` uncut in every tile.

    A block whose core dims are whole cannot be cut, so the stack goes in as such blocks. One in
    memory would be cut for the cache: it becomes a single block, which copies nothing.
    """
    local = stack.chunks is None and all(o.chunks is None for o in operands)
    uncut = blockwise(_itself, _blocks(stack), core=whole, title="whole")
    found = fold(spec, uncut, *operands, dims=dims, title=title)
    if not local:
        return found
    computed = xr.Dataset(found).reset_coords(drop=True).compute(scheduler=local_scheduler())
    return {name: found[name].copy(data=computed[name].data) for name in found}


def _blocks(stack: xr.DataArray) -> xr.DataArray:
    """A stack in blocks: one in memory is a single one, named so that it is not read for a name."""
    if stack.chunks is not None:
        return stack
    block = stack.variable.chunk(name=f"in memory-{id(stack.data)}")
    return stack.copy(data=block.data)


def _itself(block: Array) -> Array:
    return block

"""Folds over whole particles: no particle is split between tasks."""

import xarray as xr

from lazyvol.kernels.arrays import Array
from lazyvol.plan.execution import local_scheduler
from lazyvol.plan.reductions.fold import Fold
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.stack import dataset_of


def fold_whole_particles(
    spec: Fold,
    stack: xr.DataArray,
    *operands: xr.DataArray,
    whole: tuple[str, ...],
    dims: tuple[str, ...],
    title: str,
) -> dict[str, xr.DataArray]:
    """Fold over ``dims`` with the dims ``whole`` of ``stack`` unsplit.

    A block with core dims cannot be split, so the stack passes through ``blockwise``. A stack in
    memory would be split to fit the cache: it becomes a single block, without a copy.
    """
    in_memory = stack.chunks is None and all(o.chunks is None for o in operands)
    block = _single_block(stack) if in_memory else stack
    unsplit = blockwise(_identity, block, core=whole, title="whole")
    outputs = fold(spec, unsplit, *operands, dims=dims, title=title)
    if not in_memory:
        return outputs
    computed = dataset_of(outputs).reset_coords(drop=True).compute(scheduler=local_scheduler())
    return {name: outputs[name].copy(data=computed[name].data) for name in outputs}


def _single_block(stack: xr.DataArray) -> xr.DataArray:
    """Return a stack in memory as a single block, named by its address: it is computed now, and a
    name by its values would take time to hash them."""
    block = stack.variable.chunk(name=f"in memory-{id(stack.data)}")
    return stack.copy(data=block.data)


def _identity(block: Array) -> Array:
    return block

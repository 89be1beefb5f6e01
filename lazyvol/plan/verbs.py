"""The five verbs: the only way from labelled stacks and a kernel to a lazy result.

Stacks that are all numpy give a numpy result, computed here and now on this machine's threads;
one dask array among them makes the result lazy.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK
from lazyvol.plan.graph.lazy_array import Blocks, derived, lazily, recipe_of
from lazyvol.plan.operands import (
    all_done,
    axes_within,
    done,
    grid_of,
    labelled,
    lengths_of,
    operands,
    shared_dims,
)
from lazyvol.plan.ragged import ragged_array
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.recipes.borders import MODES, Mode
from lazyvol.plan.recipes.stencil import Generated, Stencil
from lazyvol.plan.recipes.views import aligned
from lazyvol.plan.reductions.fold import Fold
from lazyvol.plan.reductions.graph import folded, outright
from lazyvol.plan.reductions.partition import block_grid
from lazyvol.plan.regions import Region
from lazyvol.stack import require_stack

Kernel = Callable[..., Array]
Depth = Mapping[str, int | tuple[int, int]]


def blockwise(
    kernel: Kernel,
    *stacks: xr.DataArray,
    core: Sequence[str] = (),
    out: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    dtype: np.dtype[Any] | None = None,
    scratch: float = 0.0,
    title: str = "blockwise",
) -> xr.DataArray:
    """Each block alone: ``kernel(*blocks) -> block``.

    Every block has the dims of the first stack, of length 1 where its stack lacks them; dims in
    ``core`` arrive whole, and may be those of another stack alone (a table). ``out`` names the
    dims of the result (the first stack's by default),
    ``sizes`` the lengths of those that are new. ``scratch`` is the kernel's own memory in bytes
    per voxel of the first block.
    """
    dims = shared_dims(stacks, core)
    result = tuple(out) if out is not None else dims
    lengths = lengths_of(stacks) | dict(sizes or {})
    fixed = frozenset(n for n, d in enumerate(result) if d in core or d in (sizes or {}))
    runs = tuple(None if d in core or d not in result else result.index(d) for d in dims)
    arrays, local = operands(stacks)
    shape = tuple(lengths[d] for d in result)
    make = partial(
        _blockwise, kernel, tuple(axes_within(s, dims) for s in stacks), runs, shape,
        dtype or stacks[0].dtype, fixed, scratch, title,
    )  # fmt: skip
    return labelled(done(make, arrays, local), result, stacks[0])


def _blockwise(
    kernel: Kernel,
    turns: tuple[tuple[int | None, ...], ...],
    runs: tuple[int | None, ...],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    entire: frozenset[int],
    scratch: float,
    title: str,
    *arrays: Any,
) -> Blocks:
    parents = tuple(aligned(recipe_of(x), t) for x, t in zip(arrays, turns, strict=True))
    recipe = Blockwise(
        kernel, parents, (runs,) * len(parents), shape, np.dtype(dtype), entire, scratch
    )
    along = {axis: own for own, axis in enumerate(runs) if axis is not None}
    first = grid_of(arrays[0], turns[0])
    grid = tuple(
        (n,) if a in entire or a not in along else first[along[a]] for a, n in enumerate(shape)
    )
    return Blocks(recipe, grid, title)


def stencil(
    kernel: Kernel,
    stack: xr.DataArray,
    *,
    depth: Depth,
    mode: Mode | str = "reflect",
    fill: float = 0.0,
    dtype: np.dtype[Any] | None = None,
    step: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    labels: Mapping[str, Sequence[Any]] | None = None,
    scratch: float = 0.0,
    placed: bool = False,
    fills: bool = False,
    planes: int = 0,
    title: str = "stencil",
) -> xr.DataArray:
    """Each block with a halo: ``kernel(grown) -> interior``, exact at every border.

    ``depth`` gives the halo in voxels per dim, one number or (before, after). ``mode`` continues
    the array beyond its border as ``scipy.ndimage`` does, is ``"valid"``, or ``"clip"``: the halo
    ends at the border, and ``kernel(grown, halo)`` is told how far it got on each side.
    ``step`` gives the voxels of the stack that one of the result stands for (the last may stand
    for fewer), ``sizes`` the lengths of new dims that the kernel makes whole at the end,
    ``labels`` their coordinates; the last ``planes`` dims come first in memory.
    ``scratch`` is the kernel's own memory in bytes per voxel of the grown block. A kernel that
    is ``placed`` is told next the region of the result that it makes; one that ``fills`` has an
    argument ``out``: memory that its result may be made in (fresh memory costs more than
    differences do), or None.
    """
    require_stack(stack)
    if mode not in (*MODES, "valid", "clip"):
        raise LabelError(f"mode is one of {(*MODES, 'valid')}, got {mode!r}")
    dims, new = tuple(str(d) for d in stack.dims), dict(sizes or {})
    halo = tuple(_pair(depth.get(d, 0)) for d in dims)
    steps = tuple((step or {}).get(d, 1) for d in dims)
    make = partial(
        _stencil, kernel, halo, mode, fill, dtype or stack.dtype, steps, tuple(new.values()),
        scratch, placed, fills, planes, title,
    )  # fmt: skip
    arrays, local = operands((stack,))
    made = done(make, arrays, local)
    if mode == "valid":
        ends = [(lo, n - hi) for n, (lo, hi) in zip(stack.shape, halo, strict=True)]
        stack = stack.isel({d: slice(*e) for d, e in zip(stack.dims, ends, strict=True)})
    return labelled(made, (*dims, *new), stack, labels)


def _stencil(
    kernel: Kernel,
    halo: tuple[tuple[int, int], ...],
    mode: Mode | str,
    fill: float,
    dtype: np.dtype[Any],
    steps: tuple[int, ...],
    sizes: tuple[int, ...],
    scratch: float,
    placed: bool,
    fills: bool,
    planes: int,
    title: str,
    array: Any,
) -> Blocks:
    recipe = Stencil(
        kernel, (recipe_of(array),), halo, mode, np.dtype(dtype), fill, scratch, steps, sizes,
        placed, fills, planes,
    )  # fmt: skip
    grid = grid_of(array, tuple(range(array.ndim)))
    if mode == "valid" or max(steps, default=1) > 1:
        own = zip(recipe.shape, grid, steps, strict=False)
        grid = tuple(regions.cover(n, max(1, max(c, default=1) // s)) for n, c, s in own)
    return Blocks(recipe, (*grid, *((n,) for n in sizes)), title)


def _pair(depth: int | tuple[int, int]) -> tuple[int, int]:
    low, high = depth if isinstance(depth, tuple) else (depth, depth)
    if low < 0 or high < 0:
        raise LabelError(f"a halo has a length of 0 or more voxels, got {depth=}")
    return int(low), int(high)


def fold(
    spec: Fold, *stacks: xr.DataArray, dims: Sequence[str], title: str = "fold"
) -> dict[str, xr.DataArray]:
    """Streaming reduction over ``dims``: every output of ``spec``, all from one read.

    Blocks have the dims of the first stack, of length 1 where a stack lacks them.
    """
    order = shared_dims(stacks)
    missing = [d for d in dims if d not in order]
    if missing:
        raise LabelError(f"dims to reduce are among {order}, got {missing=}")
    kept = tuple(d for d in order if d not in dims)
    reduced = frozenset(order.index(d) for d in dims)
    arrays, local = operands(stacks)
    turns = tuple(axes_within(s, order) for s in stacks)
    made: Mapping[str, Any] | None = outright(spec, turns, reduced, *arrays) if local else None
    if made is None:
        lazily = derived(partial(folded, spec, turns, reduced, title), *arrays)
        made = all_done(lazily) if local else {k: lazy.array for k, lazy in lazily.items()}
    return {
        key: labelled(made[key], (*kept, *out.dims), stacks[0]) for key, out in spec.outputs.items()
    }


def generate(
    kernel: Callable[[Region], Array],
    like: xr.DataArray,
    *,
    dtype: np.dtype[Any],
    scratch: float = 0.0,
    title: str = "generate",
) -> xr.DataArray:
    """Values from position alone: ``kernel(slices) -> block``, lazy, labelled as ``like``."""
    make = partial(_generate, kernel, like.shape, np.dtype(dtype), scratch, title)
    dims = tuple(str(d) for d in like.dims)
    return labelled(lazily(make).array, dims, like)


def _generate(
    kernel: Callable[[Region], Array],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    scratch: float,
    title: str,
) -> Blocks:
    recipe = Generated(kernel, shape, dtype, scratch)
    grid = block_grid(shape, (1,) * len(shape), dtype.itemsize, BLOCK)
    return Blocks(recipe, grid, title)


def ragged(
    kernel: Kernel,
    stack: xr.DataArray,
    mask: xr.DataArray,
    lines: xr.DataArray | None = None,
    *,
    frame: str | None = None,
    dtype: np.dtype[Any] | None = None,
    title: str = "ragged",
) -> xr.DataArray:
    """Unequal lengths with known sizes: ``kernel(block, flags) -> observations`` of some frames.

    A block has the dim ``frame`` (the stack's first by default), the other dims of the mask, and
    the rest of the stack's; flags have the first of these, and one frame where all share them.
    Observations follow each other along ``obs``, frame by frame. ``lines`` are their numbers in
    every frame, or in every index of the mask's first other dim too; a mask in memory is counted.
    """
    frame = frame or str(require_stack(stack).dims[0])
    selected = tuple(str(d) for d in mask.dims if d != frame)
    kept = tuple(str(d) for d in stack.dims if d not in (frame, *selected))
    if lines is None:
        lines = xr.DataArray(np.asarray(mask.data, bool), dims=mask.dims).sum(selected)
    n = lengths_of((stack, mask, lines))[frame]
    each = [d for d in selected if d in lines.dims]
    own = lines.transpose(*(d for d in (frame, *each) if d in lines.dims)).values
    numbers = np.broadcast_to(own, (n, *own.shape[own.ndim - len(each) :])).reshape(n, -1)
    turns = axes_within(stack, (frame, *selected, *kept)), axes_within(mask, (frame, *selected))
    make = partial(ragged_array, kernel, turns, numbers, dtype or stack.dtype, title)
    arrays, local = operands((stack, mask))
    return labelled(done(make, arrays, local), ("obs", *kept), stack)


__all__ = ["Fold", "blockwise", "fold", "generate", "ragged", "stencil"]

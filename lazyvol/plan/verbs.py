"""The five verbs: the only way from labelled stacks and a kernel to a result.

If all stacks are numpy arrays the result is one too, computed immediately on this machine's
threads; one dask array among them makes the result lazy.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK
from lazyvol.plan.graph import lazy_array
from lazyvol.plan.graph.lazy_array import (
    BlockedRecipe,
    as_lazy_array,
    deferred,
    recipe_of,
    remember_origin,
)
from lazyvol.plan.operands import (
    axis_order,
    compute_together,
    defer_or_compute,
    labelled,
    lengths_of,
    operand_grid,
    operands,
    shared_dims,
)
from lazyvol.plan.ragged import ragged_array
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.recipes.borders import MODES, Mode
from lazyvol.plan.recipes.leaves import Generated
from lazyvol.plan.recipes.stencil import Stencil
from lazyvol.plan.recipes.views import AxisOrder, transposed
from lazyvol.plan.reductions.fold import Fold
from lazyvol.plan.reductions.graph import fold_graph, fold_in_memory
from lazyvol.plan.reductions.partition import block_grid
from lazyvol.plan.regions import Grid, Region
from lazyvol.stack import require_stack

Kernel = Callable[..., Array]
Depth = Mapping[str, int | tuple[int, int]]

#: bytes of a block that comes with tables, which take about as much again
TABLE_BLOCK = 32 * 2**20


def blockwise(
    kernel: Kernel,
    *stacks: xr.DataArray,
    tables: Sequence[xr.DataArray] = (),
    core: Sequence[str] = (),
    out: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    dtype: np.dtype[Any] | None = None,
    scratch: float = 0.0,
    title: str = "blockwise",
) -> xr.DataArray:
    """Each block alone: ``kernel(*blocks, *tables) -> block``.

    Every block has the dims of the first stack, of length 1 where its stack lacks them. Dims in
    ``core`` arrive whole; another stack may have core dims that the first one lacks. ``out`` are
    the dims of the result (the first stack's by default), ``sizes`` the lengths of the new ones.
    ``tables`` are small arrays with dims of their own: each block gets all of every table, and
    blocks that are large because of core dims are split along the others. ``scratch`` is the
    kernel's own memory in bytes per voxel of the largest block.
    """
    dims = shared_dims(stacks, core)
    result = tuple(out) if out is not None else dims
    lengths = lengths_of(stacks) | dict(sizes or {})
    whole = frozenset(n for n, d in enumerate(result) if d in core or d in (sizes or {}))
    result_axes = tuple(None if d in core or d not in result else result.index(d) for d in dims)
    arrays, is_local = operands((*stacks, *(require_stack(t) for t in tables)))
    shape = tuple(lengths[d] for d in result)
    build = partial(
        _blockwise, kernel, tuple(axis_order(s, dims) for s in stacks), result_axes, shape,
        np.dtype(dtype or stacks[0].dtype), whole, scratch, title,
    )  # fmt: skip
    return labelled(defer_or_compute(build, arrays, is_local), result, stacks[0])


def _blockwise(
    kernel: Kernel,
    orders: tuple[AxisOrder, ...],
    result_axes: AxisOrder,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    whole: frozenset[int],
    scratch: float,
    title: str,
    *arrays: Any,
) -> BlockedRecipe:
    """Build the recipe; ``arrays`` beyond the number of ``orders`` are tables."""
    recipes = [recipe_of(a) for a in arrays]
    stacks = [transposed(r, order) for r, order in zip(recipes, orders, strict=False)]
    tables = recipes[len(stacks) :]
    axes = (*((result_axes,) * len(stacks)), *((None,) * t.ndim for t in tables))
    recipe = Blockwise(kernel, (*stacks, *tables), axes, shape, dtype, whole, scratch)
    first = operand_grid(arrays[0], orders[0])
    if tables:
        chunk, item = stacks[0].preferred_chunk, stacks[0].dtype.itemsize
        first = _split_for_tables(first, result_axes, stacks[0].shape, chunk, item)
    operand_axis = {axis: a for a, axis in enumerate(result_axes) if axis is not None}
    grid = tuple(
        (n,) if a in whole or a not in operand_axis else first[operand_axis[a]]
        for a, n in enumerate(shape)
    )
    return BlockedRecipe(recipe, grid, title)


def _split_for_tables(
    grid: Grid, result_axes: AxisOrder, shape: Sequence[int], preferred: Sequence[int], item: int
) -> Grid:
    """Split blocks along the axes that need not be whole, until they fit TABLE_BLOCK."""
    split = list(grid)
    is_whole = [axis is None for axis in result_axes]
    whole = prod(n for n, w in zip(shape, is_whole, strict=True) if w)
    chunks = [1 if w else max(c, default=1) for c, w in zip(grid, is_whole, strict=True)]
    room = max(1, TABLE_BLOCK // max(1, whole * item))
    for a, own in enumerate(preferred):
        if not is_whole[a] and prod(chunks) > room:
            length = max(1, chunks[a] * room // prod(chunks))
            chunks[a] = length // own * own if length >= own else length
            split[a] = regions.uniform_chunks(shape[a], chunks[a])
    return tuple(split)


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
    needs_region: bool = False,
    accepts_out: bool = False,
    title: str = "stencil",
) -> xr.DataArray:
    """Each block with a halo: ``kernel(grown) -> interior``, exact at every border.

    ``depth`` is the halo in voxels per dim, one number or (before, after). ``mode`` continues the
    array beyond its border as in ``scipy.ndimage``; with ``"valid"`` the result has only voxels
    whose halo lies inside; with ``"clip"`` the halo ends at the border, and the kernel is called as
    ``kernel(grown, halo)`` with its lengths on each side. ``step`` is the number of voxels of the
    stack that one voxel of the result stands for (fewer for the last one). ``sizes`` are the
    lengths of new trailing dims that the kernel computes whole, ``labels`` their coordinates; in
    memory these dims vary slowest. ``scratch`` is the kernel's own memory in bytes per voxel of
    the grown block.

    With ``needs_region`` the kernel's next argument is the region of the result to compute. With
    ``accepts_out`` it gets ``out=``, memory for its result, or None: allocating new memory costs
    more than differencing.
    """
    require_stack(stack)
    if mode not in (*MODES, "valid", "clip"):
        raise LabelError(f"mode must be one of {(*MODES, 'valid')}, got {mode!r}")
    dims, new = tuple(str(d) for d in stack.dims), dict(sizes or {})
    halo = tuple(_halo_lengths(depth.get(d, 0)) for d in dims)
    steps = tuple((step or {}).get(d, 1) for d in dims)
    build = partial(
        _stencil, kernel, halo, mode, fill, np.dtype(dtype or stack.dtype), steps,
        tuple(new.values()), scratch, needs_region, accepts_out, title,
    )  # fmt: skip
    data = defer_or_compute(build, *operands((stack,)))
    if mode == "valid":
        ends = [(lo, n - hi) for n, (lo, hi) in zip(stack.shape, halo, strict=True)]
        stack = stack.isel({d: slice(*e) for d, e in zip(stack.dims, ends, strict=True)})
    return labelled(data, (*dims, *new), stack, labels)


def _stencil(
    kernel: Kernel,
    halo: tuple[tuple[int, int], ...],
    mode: Mode | str,
    fill: float,
    dtype: np.dtype[Any],
    steps: tuple[int, ...],
    sizes: tuple[int, ...],
    scratch: float,
    needs_region: bool,
    accepts_out: bool,
    title: str,
    array: Any,
) -> BlockedRecipe:
    recipe = Stencil(
        kernel, (recipe_of(array),), halo, mode, dtype, fill, scratch, steps, sizes,
        needs_region, accepts_out,
    )  # fmt: skip
    grid = operand_grid(array, tuple(range(array.ndim)))
    if mode == "valid" or max(steps, default=1) > 1:
        axes = zip(recipe.shape, grid, steps, strict=False)
        grid = tuple(regions.uniform_chunks(n, max(1, max(c, default=1) // s)) for n, c, s in axes)
    return BlockedRecipe(recipe, (*grid, *((n,) for n in sizes)), title)


def _halo_lengths(depth: int | tuple[int, int]) -> tuple[int, int]:
    low, high = depth if isinstance(depth, tuple) else (depth, depth)
    if low < 0 or high < 0:
        raise LabelError(f"a halo must have 0 or more voxels, got {depth=}")
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
        raise LabelError(f"dims to reduce must be among {order}, got {missing=}")
    kept = tuple(d for d in order if d not in dims)
    reduced = frozenset(order.index(d) for d in dims)
    arrays, is_local = operands(stacks)
    orders = tuple(axis_order(s, order) for s in stacks)
    data: Mapping[str, Any] | None = None
    if is_local:
        data = fold_in_memory(spec, orders, reduced, *arrays)
    if data is None:
        lazy = remember_origin(partial(fold_graph, spec, orders, reduced, title), *arrays)
        data = compute_together(lazy) if is_local else {k: a.array for k, a in lazy.items()}
    return {
        key: labelled(data[key], (*kept, *out.dims), stacks[0]) for key, out in spec.outputs.items()
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
    build = partial(_generate, kernel, like.shape, np.dtype(dtype), scratch, title)
    dims = tuple(str(d) for d in like.dims)
    return labelled(deferred(build).array, dims, like)


def _generate(
    kernel: Callable[[Region], Array],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    scratch: float,
    title: str,
) -> BlockedRecipe:
    recipe = Generated(kernel, shape, dtype, scratch)
    grid = block_grid(shape, (1,) * len(shape), dtype.itemsize, BLOCK)
    return BlockedRecipe(recipe, grid, title)


def ragged(
    kernel: Kernel,
    stack: xr.DataArray,
    mask: xr.DataArray,
    counts: xr.DataArray | None = None,
    *,
    frame: str | None = None,
    dtype: np.dtype[Any] | None = None,
    title: str = "ragged",
) -> xr.DataArray:
    """Unequal lengths with known sizes: ``kernel(block, flags) -> observations`` of some frames.

    A block has the dim ``frame`` (the stack's first by default), the other dims of the mask, and
    then the rest of the stack's; flags have those of the mask, with one frame if all frames share
    them. Observations follow each other along ``obs``, frame by frame. ``counts`` are their numbers
    per frame, or per index of the mask's first other dim too; without them the mask is counted now.
    """
    frame = frame or str(require_stack(stack).dims[0])
    selected = tuple(str(d) for d in mask.dims if d != frame)
    kept = tuple(str(d) for d in stack.dims if d not in (frame, *selected))
    if counts is None:
        counts = xr.DataArray(np.asarray(mask.data, bool), dims=mask.dims).sum(selected)
    n = lengths_of((stack, mask, counts))[frame]
    line_dims = [d for d in selected if d in counts.dims]
    values = counts.transpose(*(d for d in (frame, *line_dims) if d in counts.dims)).values
    lines = values.shape[values.ndim - len(line_dims) :]
    line_counts = np.broadcast_to(values, (n, *lines)).reshape(n, -1)
    orders = axis_order(stack, (frame, *selected, *kept)), axis_order(mask, (frame, *selected))
    build = partial(
        ragged_array, kernel, orders, line_counts, np.dtype(dtype or stack.dtype), title
    )
    data = defer_or_compute(build, *operands((stack, mask)))
    return labelled(data, ("obs", *kept), stack)


def computed_once(stack: xr.DataArray) -> xr.DataArray:
    """Return a small stack whose blocks are computed once per run, for any number of tasks."""
    if not isinstance(stack.data, da.Array):
        return stack
    return stack.copy(data=lazy_array.computed_once(as_lazy_array(stack.data)).array)


__all__ = ["Fold", "blockwise", "computed_once", "fold", "generate", "ragged", "stencil"]

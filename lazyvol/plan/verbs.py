"""The verbs: the only way from labelled stacks and a kernel to a result.

If all stacks are numpy arrays the result is one too, computed immediately on this machine's
threads; one dask array among them makes the result lazy. ``ragged``, like ``pairs`` and
``connected_blockwise``, is defined beside its recipe, in the module of its name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from lazyvol.errors import LabelError
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget
from lazyvol.plan.graph import lazy_array
from lazyvol.plan.graph.lazy_array import (
    BlockedRecipe,
    LazyArray,
    as_lazy_array,
    deferred,
    recipe_of,
)
from lazyvol.plan.in_memory import compute_blocks, compute_graph, compute_together
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.recipes.leaves import Generated
from lazyvol.plan.recipes.stencil import MODES, Mode, Stencil
from lazyvol.plan.recipes.views import AxisOrder, transposed
from lazyvol.plan.reductions.fold import Fold
from lazyvol.plan.reductions.graph import fold_graph, fold_in_memory
from lazyvol.plan.regions import Grid, Region
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import data_array, require_stack

Kernel = Callable[..., Array]
Depth = Mapping[str, int | tuple[int, int]]

#: bytes of a block that a kernel gets together with tables, which take about as many
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
    ``tables`` are small arrays with any dims: each block gets all of every table, and blocks that
    are large because of core dims are split along the other dims. ``scratch`` is the kernel's own
    memory in bytes per voxel of the largest block.
    """
    dims = shared_dims(stacks, core)
    result = tuple(out) if out is not None else dims
    lengths = lengths_of(stacks) | dict(sizes or {})
    whole = frozenset(n for n, d in enumerate(result) if d in core or d in (sizes or {}))
    result_axes = tuple(None if d in core or d not in result else result.index(d) for d in dims)
    arrays = operands((*stacks, *(require_stack(t) for t in tables)))
    shape = tuple(lengths[d] for d in result)
    build = partial(
        _blockwise, kernel, tuple(axis_order(s, dims) for s in stacks), result_axes, shape,
        np.dtype(dtype or stacks[0].dtype), whole, scratch, title,
    )  # fmt: skip
    return labelled(defer_or_compute(build, arrays), result, stacks[0])


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
    whose halo is inside; with ``"clip"`` the halo ends at the border, and the kernel is called as
    ``kernel(grown, halo)`` with its lengths on each side. ``step`` is the number of voxels of the
    stack that one voxel of the result stands for (fewer for the last one). ``sizes`` are the
    lengths of new trailing dims that the kernel computes whole, ``labels`` their coordinates; in
    memory these dims vary slowest. ``scratch`` is the kernel's own memory in bytes per voxel of the
    grown block.

    With ``needs_region`` the kernel's next argument is the region of the result to compute. With
    ``accepts_out`` it gets ``out=``: memory for its result, or None. (Allocating new memory takes
    longer than computing finite differences.)
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
    data = defer_or_compute(build, operands((stack,)))
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
    orders = tuple(axis_order(s, order) for s in stacks)
    data = _folded(spec, orders, reduced, title, operands(stacks))
    return {
        key: labelled(data[key], (*kept, *out.dims), stacks[0]) for key, out in spec.outputs.items()
    }


def _folded(
    spec: Fold, orders: Sequence[AxisOrder], reduced: frozenset[int], title: str, arrays: Any
) -> Mapping[str, Any]:
    """Return the outputs of a fold: dask arrays, or values if the operands are numpy arrays."""
    is_lazy = isinstance(arrays[0], LazyArray)
    values = None if is_lazy else fold_in_memory(spec, orders, reduced, *arrays)
    if values is not None:
        return values
    lazy = deferred(partial(fold_graph, spec, orders, reduced, title), *arrays)
    return {k: a.array for k, a in lazy.items()} if is_lazy else compute_together(lazy)


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
    grid = regions.block_grid(shape, (1,) * len(shape), dtype.itemsize, BLOCK)
    return BlockedRecipe(recipe, grid, title)


def computed_once(stack: xr.DataArray) -> xr.DataArray:
    """Return a small stack whose blocks are computed once per run, for any number of tasks."""
    if not isinstance(stack.data, da.Array):
        return stack
    return stack.copy(data=lazy_array.computed_once(as_lazy_array(stack.data)).array)


# operands and labels, for the verbs here and in other modules -------------------------------------


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


def operands(stacks: Iterable[xr.DataArray]) -> tuple[Any, ...]:
    """Return the arrays of stacks: as lazy arrays if one is lazy, else as numpy arrays.

    Among lazy arrays a numpy array is one block.
    """
    arrays = [s.data for s in stacks]
    if not any(isinstance(a, da.Array) for a in arrays):
        return tuple(np.asarray(a) for a in arrays)
    return tuple(as_lazy_array(a if isinstance(a, da.Array) else _single_block(a)) for a in arrays)


def _single_block(values: Array) -> da.Array:
    """Return a numpy array as a dask array: it is in the graph once, for any number of tasks."""
    return da.from_array(values, chunks=-1, name=f"array in memory-{tokenize(values)}")


def operand_grid(array: Any, order: AxisOrder) -> Grid:
    """Return the blocks of a result over ``array``: those of a lazy array, else one per thread."""
    if isinstance(array, LazyArray):
        chunks = array.chunks
    else:
        target = max(2**18, min(BLOCK, array.nbytes // max(1, Budget.current().workers)))
        chunks = regions.block_grid(array.shape, (1,) * array.ndim, array.dtype.itemsize, target)
    return tuple((1,) if a is None else chunks[a] for a in order)


def defer_or_compute(build: Callable[..., BlockedRecipe | LazyArray], arrays: Sequence[Any]) -> Any:
    """Return ``build(*operands)`` as a dask array, or its values if these are numpy arrays."""
    if isinstance(arrays[0], LazyArray):
        return deferred(build, *arrays).array
    built = build(*arrays)
    return compute_graph(built) if isinstance(built, LazyArray) else compute_blocks(built)


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
    twice = sorted({d for d in dims if dims.count(d) > 1})
    if twice:
        raise LabelError(
            f"stack must not have the dims {twice} that the result adds, got {like.dims}; rename "
            f"them"
        )
    lengths = dict(zip(dims, np.shape(data), strict=True))
    new = xr.Coordinates({d: (d, list(values)) for d, values in (labels or {}).items()})
    kept = {
        name: variable
        for name, variable in like.coords.variables.items()
        if all(lengths.get(str(d)) == n for d, n in variable.sizes.items())
        and (name not in lengths or variable.dims == (name,))
    }
    indexes = {name: index for name, index in like.xindexes.items() if name in kept}
    coords = xr.Coordinates({**kept, **new.variables}, {**indexes, **new.xindexes})
    return data_array(data, coords, dims, like.name, like.attrs)

"""Layers that dask builds from elementwise functions and transpositions, read as recipes."""

import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask._task_spec import GraphNode, TaskRef
from dask.array import chunk
from dask.blockwise import Blockwise as BlockwiseLayer
from dask.blockwise import blockwise_token

from lazyvol.plan.recipes.base import Array, Recipe
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.recipes.views import transposed
from lazyvol.plan.regions import Grid


class ParsedArray(NamedTuple):
    """An array read from its graph: recipe, blocks, and whether a recipe layer is below it."""

    recipe: Recipe
    grid: Grid
    has_recipe: bool


#: Python's operators on arrays
OPERATORS: frozenset[Any] = frozenset(
    getattr(operator, name)
    for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "lshift",
        "rshift", "lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert",
    )
)  # fmt: skip
#: functions whose result at a voxel depends on that voxel alone, in addition to numpy's ufuncs
ELEMENTWISE: frozenset[Any] = OPERATORS | {
    np.where, np.clip, np.round, np.isclose, np.real, np.imag, np.nan_to_num, np.angle, chunk.astype
}  # fmt: skip

#: options with which an elementwise function remains elementwise
OPTIONS = frozenset(
    ("decimals", "astype_dtype", "casting", "copy", "rtol", "atol", "equal_nan", "nan", "posinf",
     "neginf", "deg")
)  # fmt: skip


@dataclass(frozen=True)
class Elementwise:
    """A kernel: a function of blocks, with its constant operands and options."""

    function: Callable[..., Any]
    constants: tuple[tuple[int, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    dtype: np.dtype[Any] | None = None

    def __call__(self, *blocks: Array) -> Any:
        operands: list[Any] = list(blocks)
        for position, value in self.constants:
            operands.insert(position, value)
        values = self.function(*operands, **dict(self.options))
        return values if self.dtype is None else np.asarray(values).astype(self.dtype, copy=False)


def read_blockwise(layer: BlockwiseLayer, inputs: Mapping[str, ParsedArray]) -> ParsedArray | None:
    """Return the recipe of a layer that maps one block of each input to one block; else None."""
    if layer.concatenate or layer.new_axes or layer.io_deps or layer.output_blocks is not None:
        return None
    tokens = [TaskRef(blockwise_token(n)) for n in range(len(layer.indices))]
    if list(layer.task.args) != tokens:
        return None
    options = dict(layer.task.kwargs)
    if any(isinstance(v, GraphNode | TaskRef) for v in options.values()):
        return None
    if layer.task.func is np.transpose:
        return _read_transpose(layer, inputs, options.get("axes"))
    kernel = _kernel(layer, options)
    return None if kernel is None else _read_elementwise(layer, inputs, kernel)


def _read_transpose(
    layer: BlockwiseLayer, inputs: Mapping[str, ParsedArray], axes: Any
) -> ParsedArray | None:
    if len(layer.indices) != 1 or layer.indices[0][1] is None or axes is None:
        return None
    name, index = layer.indices[0]
    if layer.output_indices != tuple(index[a] for a in axes):
        return None
    array, order = inputs[name], tuple(int(a) % len(index) for a in axes)
    grid = tuple(array.grid[a] for a in order)
    return ParsedArray(transposed(array.recipe, order), grid, array.has_recipe)


def _kernel(layer: BlockwiseLayer, options: dict[str, Any]) -> Elementwise | None:
    """Return the function of a layer with its constants; None if it is not known as elementwise."""
    function, dtype = layer.task.func, None
    if function is da.core._enforce_dtype:
        dtype = np.dtype(options.pop("enforce_dtype"))
        function = options.pop("enforce_dtype_function")
    if isinstance(function, partial) and not function.args:
        options = {**function.keywords, **options}
        function = function.func
    if not is_elementwise(function) or not set(options) <= OPTIONS:
        return None
    if isinstance(function, np.ufunc) and options:
        return None
    constants = [(n, value) for n, (value, index) in enumerate(layer.indices) if index is None]
    if any(not _is_constant(value) for _, value in constants):
        return None
    return Elementwise(function, tuple(constants), tuple(sorted(options.items())), dtype)


def is_elementwise(function: Any) -> bool:
    """Return True for a function whose result at a voxel depends on that voxel alone."""
    if isinstance(function, np.ufunc):
        return function.signature is None and function.nout == 1
    try:
        return function in ELEMENTWISE
    except TypeError:
        return False


def _is_constant(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "biufc"
    return isinstance(value, np.number | np.bool_ | bool | int | float | complex)


def _read_elementwise(
    layer: BlockwiseLayer, inputs: Mapping[str, ParsedArray], kernel: Elementwise
) -> ParsedArray | None:
    axes = layer.output_indices
    ndim = len(axes)
    operands = [(inputs[n], index) for n, index in layer.indices if index is not None]
    if not operands or any(index != axes[ndim - len(index) :] for _, index in operands):
        return None
    grid = _common_grid([array.grid for array, _ in operands], ndim)
    if grid is None:
        return None
    parents = tuple(array.recipe for array, _ in operands)
    recipe = Blockwise(
        kernel,
        parents,
        tuple(tuple(range(ndim - p.ndim, ndim)) for p in parents),
        tuple(sum(chunks) for chunks in grid),
        result_dtype(kernel, parents),
    )
    return ParsedArray(recipe, grid, any(array.has_recipe for array, _ in operands))


def result_dtype(kernel: Callable[..., Any], parents: Sequence[Recipe]) -> np.dtype[Any]:
    """Return the dtype of a kernel's result, from a trial on one voxel."""
    samples = (np.ones((1,) * p.ndim, p.dtype) for p in parents)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(kernel(*samples)).dtype


def _common_grid(grids: Sequence[Grid], ndim: int) -> Grid | None:
    """Return the blocks that operands share after broadcasting; None if they differ."""
    common: list[tuple[int, ...]] = [(1,)] * ndim
    for grid in grids:
        for axis, chunks in enumerate(grid, ndim - len(grid)):
            if any(math.isnan(n) for n in chunks):
                return None
            if common[axis] == (1,):
                common[axis] = chunks
            elif chunks not in ((1,), common[axis]):
                return None
    return tuple(common)

"""Layers that dask makes of an elementwise function, and of a transposition, read as recipes."""

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
from lazyvol.plan.recipes.views import aligned
from lazyvol.plan.regions import Grid


class Found(NamedTuple):
    """What a layer says of its array: a recipe, its blocks, and whether part of it is ours."""

    recipe: Recipe
    grid: Grid
    ours: bool


#: Python's operators on arrays
OPERATORS: frozenset[Any] = frozenset(
    getattr(operator, name)
    for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "lshift",
        "rshift", "lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert",
    )
)  # fmt: skip
#: functions, beside numpy's own elementwise ones, whose result at a voxel is that of the voxel
ELEMENTWISE: frozenset[Any] = OPERATORS | {
    np.where, np.clip, np.round, np.isclose, np.real, np.imag, np.nan_to_num, np.angle, chunk.astype
}  # fmt: skip

#: options that do not make an elementwise function another kind of function
OPTIONS = frozenset(
    ("decimals", "astype_dtype", "casting", "copy", "rtol", "atol", "equal_nan", "nan", "posinf",
     "neginf", "deg")
)  # fmt: skip

#: numbers of an operand that may ride inside a recipe (it travels with every task)
SMALL = 4096


@dataclass(frozen=True)
class Elementwise:
    """A kernel: a function of blocks, with its constant operands and options."""

    function: Callable[..., Any]
    constants: tuple[tuple[int, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    dtype: np.dtype[Any] | None = None

    def __call__(self, *blocks: Array) -> Any:
        operands: list[Any] = list(blocks)
        for place, value in self.constants:
            operands.insert(place, value)
        found = self.function(*operands, **dict(self.options))
        return found if self.dtype is None else np.asarray(found).astype(self.dtype, copy=False)


def read_blockwise(layer: BlockwiseLayer, inputs: Mapping[str, Found]) -> Found | None:
    """The recipe of a layer that takes one block of each input for one of its own; else None."""
    if layer.concatenate or layer.new_axes or layer.io_deps or layer.output_blocks is not None:
        return None
    tokens = [TaskRef(blockwise_token(n)) for n in range(len(layer.indices))]
    if list(layer.task.args) != tokens:
        return None
    options = dict(layer.task.kwargs)
    if any(isinstance(v, GraphNode | TaskRef) for v in options.values()):
        return None
    if layer.task.func is np.transpose:
        return _transposed(layer, inputs, options.get("axes"))
    kernel = _kernel(layer, options)
    return None if kernel is None else _pointwise(layer, inputs, kernel)


def _transposed(layer: BlockwiseLayer, inputs: Mapping[str, Found], axes: Any) -> Found | None:
    if len(layer.indices) != 1 or layer.indices[0][1] is None or axes is None:
        return None
    name, index = layer.indices[0]
    if layer.output_indices != tuple(index[a] for a in axes):
        return None
    found, order = inputs[name], tuple(int(a) % len(index) for a in axes)
    grid = tuple(found.grid[a] for a in order)
    return Found(aligned(found.recipe, order), grid, found.ours)


def _kernel(layer: BlockwiseLayer, options: dict[str, Any]) -> Elementwise | None:
    """The function of a layer with its constants, where it is one of those known."""
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
    """Return True for a function of voxels: one that no other voxel has a part in."""
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


def _pointwise(
    layer: BlockwiseLayer, inputs: Mapping[str, Found], kernel: Elementwise
) -> Found | None:
    out = layer.output_indices
    operands = [(inputs[n], index) for n, index in layer.indices if index is not None]
    if not operands or any(index != out[len(out) - len(index) :] for _, index in operands):
        return None
    grid = _joint_grid([f.grid for f, _ in operands], len(out))
    if grid is None:
        return None
    parents = tuple(f.recipe for f, _ in operands)
    recipe = Blockwise(
        kernel,
        parents,
        tuple(tuple(range(len(out) - p.ndim, len(out))) for p in parents),
        tuple(sum(chunks) for chunks in grid),
        result_dtype(kernel, parents),
    )
    return Found(recipe, grid, any(f.ours for f, _ in operands))


def result_dtype(kernel: Callable[..., Any], parents: Sequence[Recipe]) -> np.dtype[Any]:
    """dtype of a kernel's result, tried on one voxel."""
    samples = (np.ones((1,) * p.ndim, p.dtype) for p in parents)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(kernel(*samples)).dtype


def _joint_grid(grids: Sequence[Grid], ndim: int) -> Grid | None:
    """The blocks that operands share, axes of length 1 being broadcast; None if they differ."""
    found: list[tuple[int, ...]] = [(1,)] * ndim
    for grid in grids:
        for axis, chunks in enumerate(grid, ndim - len(grid)):
            if any(math.isnan(n) for n in chunks):
                return None
            if found[axis] == (1,):
                found[axis] = chunks
            elif chunks not in ((1,), found[axis]):
                return None
    return tuple(found)

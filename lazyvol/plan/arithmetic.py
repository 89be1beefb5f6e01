"""Arithmetic between lazy arrays stays lazy by region: ``(stack - mean) / std`` is one recipe."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from lazyvol.plan import regions
from lazyvol.plan.pointwise import Blockwise
from lazyvol.plan.recipe import Array

if TYPE_CHECKING:
    from lazyvol.plan.lazy import LazyArray

ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
UNARY = ("neg", "pos", "abs", "invert")


@dataclass(frozen=True)
class Cast:
    """Kernel that changes the dtype of a block."""

    dtype: np.dtype[Any]

    def __call__(self, block: Array) -> Array:
        return block.astype(self.dtype)


def fits(*inputs: Any) -> bool:
    """Whether operands are arrays or plain numbers that a recipe can take."""
    return all(
        isinstance(x, (da.Array, np.number, np.bool_, bool, int, float, complex))
        or (isinstance(x, np.ndarray) and x.size <= SMALL)
        for x in inputs
    )


#: numbers of a numpy operand that may ride inside a recipe (it travels with every task)
SMALL = 4096


def apply(function: Callable[..., Any], *inputs: Any) -> "LazyArray":
    """``function`` of lazy arrays, numbers and small numpy arrays, broadcast as numpy does."""
    from lazyvol.plan.lazy import lazy, recipe_of

    arrays = [x for x in inputs if isinstance(x, da.Array)]
    others = {n: x for n, x in enumerate(inputs) if not isinstance(x, da.Array)}
    shape = np.broadcast_shapes(*(np.shape(x) for x in inputs))
    if any(np.shape(x) not in ((), (1,)) for x in others.values()):
        from_numpy = [da.from_array(x) if isinstance(x, np.ndarray) else x for x in inputs]
        return apply(function, *from_numpy)
    kernel = partial(_call, function, tuple(sorted(others.items()))) if others else function
    samples = (np.ones((1,) * x.ndim, x.dtype) for x in arrays)
    recipe = Blockwise(
        kernel,
        tuple(recipe_of(x) for x in arrays),
        tuple(tuple(range(len(shape) - x.ndim, len(shape))) for x in arrays),
        shape,
        np.asarray(kernel(*samples)).dtype,
    )
    return lazy(recipe, _grid(shape, arrays), *arrays, title="pointwise")


def _call(function: Callable[..., Any], others: tuple[tuple[int, Any], ...], *blocks: Any) -> Any:
    """``function`` with the constant operands put back in their places."""
    inputs = list(blocks)
    for place, value in others:
        inputs.insert(place, value)
    return function(*inputs)


def _grid(shape: tuple[int, ...], arrays: list[da.Array]) -> regions.Grid:
    """Blocks of the largest operand; axes it lacks are cut as another operand cuts them."""
    found: list[tuple[int, ...]] = [(n,) for n in shape]
    for array in sorted(arrays, key=lambda x: x.size):
        for own, chunks in enumerate(array.chunks):
            axis = len(shape) - array.ndim + own
            if sum(chunks) == shape[axis]:
                found[axis] = chunks
    return tuple(found)


def install_operators(cls: type) -> None:
    """Give ``cls`` the operators of numpy arrays, each lazy by region where it can be."""
    for name in (*ARITHMETIC, *COMPARISONS):
        function = getattr(operator, name)
        plain = name.rstrip("_")
        setattr(cls, f"__{plain}__", _forward(function, f"__{plain}__"))
        if name in ARITHMETIC:
            setattr(cls, f"__r{plain}__", _reflected(function, f"__r{plain}__"))
    for name in UNARY:
        setattr(cls, f"__{name}__", _forward(getattr(operator, name), f"__{name}__"))
    cls.__hash__ = da.Array.__hash__  # type: ignore[method-assign]


def _derived(function: Callable[..., Any], *inputs: Any) -> Any:
    from lazyvol.plan.lazy import derived

    return derived(partial(apply, function), *inputs)


def _forward(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def method(self: Any, *other: Any) -> Any:
        if fits(*other):
            return _derived(function, self, *other)
        return getattr(da.Array, name)(self, *other)

    return method


def _reflected(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        if fits(other):
            return _derived(function, other, self)
        return getattr(da.Array, name)(self, other)

    return method

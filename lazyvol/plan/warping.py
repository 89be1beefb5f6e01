"""A stencil whose kernel is told where it is: for values that hang on the position."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.borders import Mode
from lazyvol.plan.lazy import LazyArray, derived, lazy, recipe_of
from lazyvol.plan.recipe import Array, Given
from lazyvol.plan.regions import Region
from lazyvol.plan.stencils import Stencil
from lazyvol.plan.verbs import Depth, _done, _grid, _labelled, _operands, _pair
from lazyvol.stack import require_stack


@dataclass(frozen=True, eq=False)
class Placed(Stencil):
    """``kernel(grown, region) -> interior``, where ``region`` is the interior's own."""

    @cached_property
    def token(self) -> str:
        return str(tokenize("placed", super().token))

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        if regions.size(region) == 0:
            return np.empty(regions.lengths(region), self.dtype)
        block = self._filled(self._grown(region), given)
        return np.asarray(self.kernel(block, region), self.dtype)


def placed(
    kernel: Callable[[Array, Region], Array],
    stack: xr.DataArray,
    *,
    depth: Depth | None = None,
    mode: Mode = "reflect",
    dtype: np.dtype[Any] | None = None,
    scratch: float = 0.0,
    title: str = "placed",
) -> xr.DataArray:
    """As ``stencil``, by a kernel that is told the region of the array that it makes."""
    require_stack(stack)
    halo = tuple(_pair((depth or {}).get(str(d), 0)) for d in stack.dims)
    make = partial(_placed, kernel, halo, mode, dtype or stack.dtype, scratch, title)
    arrays, local = _operands((stack,))
    dims = tuple(str(d) for d in stack.dims)
    return _labelled(_done(derived(make, *arrays), local), dims, stack)


def _placed(
    kernel: Callable[[Array, Region], Array],
    halo: tuple[tuple[int, int], ...],
    mode: Mode,
    dtype: np.dtype[Any],
    scratch: float,
    title: str,
    array: Any,
) -> LazyArray:
    recipe = Placed(kernel, recipe_of(array), halo, mode, np.dtype(dtype), 0.0, scratch)
    return lazy(recipe, _grid(array, tuple(range(array.ndim))), array, title=title)

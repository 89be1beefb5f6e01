"""Padding: rows of unequal lengths as rows of one length, a few frames to a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget
from lazyvol.plan.graph.lazy_array import Blocks, recipe_of
from lazyvol.plan.operands import done, operands
from lazyvol.plan.recipes.base import Array, Recipe, Want
from lazyvol.plan.regions import Region
from lazyvol.stack import require_stack

#: ``kernel(values, sizes, out, first)`` puts rows of ``sizes`` into the frames of ``out``, whose
#: element 0 is number ``first`` of each row
Kernel = Callable[[Array, Array, Array, int], None]


@dataclass(frozen=True, eq=False)
class Padded(Recipe):
    """Rows of the parent, one after the other, as (frame, place in the row, ...)."""

    kernel: Kernel
    parents: tuple[Recipe]
    sizes: Array
    fill: Any

    @property
    def parent(self) -> Recipe:
        """The rows, one after the other."""
        return self.parents[0]

    @cached_property
    def ends(self) -> Array:
        """Where every row begins, and where the last ends."""
        return np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        longest = int(self.sizes.max(initial=0))
        return (len(self.sizes), longest, *self.parent.shape[1:])

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        frames = self.parent.grain[0] * len(self.sizes) // max(1, self.parent.shape[0])
        return (max(1, min(frames, len(self.sizes))), max(1, self.shape[1]), *self.parent.grain[1:])

    @cached_property
    def token(self) -> str:
        return str(tokenize("padded", self.kernel, self.parent.token, self.sizes, self.fill))

    def _behind(self, region: Region) -> Region:
        """Observations of the frames of a region."""
        rows = region[0]
        return (slice(int(self.ends[rows.start]), int(self.ends[rows.stop])), *region[2:])

    def wants(self, region: Region) -> list[Want]:
        return [(0, self._behind(region))]

    def make(self, region: Region, parts: Sequence[Array], out: Array | None = None) -> Array:
        found = np.empty(regions.lengths(region), self.dtype) if out is None else out
        found[...] = self.fill
        if parts[0].size and found.size:
            self.kernel(parts[0], self.sizes[region[0]], found, region[1].start)
        return found


def padded(
    kernel: Kernel,
    values: xr.DataArray,
    row_size: xr.DataArray,
    dim: str,
    *,
    fill: Any,
    title: str = "pad",
) -> xr.DataArray:
    """Rows of ``values`` along its first dim as (the dim of ``row_size``, ``dim``, ...).

    ``row_size`` is in memory. Places beyond the end of a row are ``fill``.
    """
    require_stack(values)
    arrays, local = operands((values,))
    sizes = np.asarray(row_size.data, np.int64)
    made = done(partial(_padded, kernel, sizes, fill, title), arrays, local)
    dims = (str(row_size.dims[0]), dim, *(str(d) for d in values.dims[1:]))
    coords = {n: c.variable for n, c in values.coords.items() if values.dims[0] not in c.dims}
    coords |= {n: c.variable for n, c in row_size.coords.items()}
    return xr.DataArray(made, coords, dims, name=values.name, attrs=values.attrs)


def _padded(kernel: Kernel, sizes: Array, fill: Any, title: str, array: Any) -> Blocks:
    recipe = Padded(kernel, (recipe_of(array),), sizes, fill)
    limit = Budget.current().per_task
    room = BLOCK if limit is None else min(BLOCK, max(1, limit // 4))
    item = max(1, prod(recipe.shape[1:]) * recipe.dtype.itemsize)
    rows = regions.cover(recipe.shape[0], max(1, room // item))
    return Blocks(recipe, (rows, *((n,) for n in recipe.shape[1:])), title)

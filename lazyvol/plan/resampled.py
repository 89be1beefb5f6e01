"""Resampled volumes: each block of the result needs one box of the stack, anywhere in it.

A ``Sampling`` knows the box. So a rotated, scaled or shifted stack is computed in blocks, and each
task reads the part of the volume that its block comes from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, Protocol

import numpy as np
import xarray as xr
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget
from lazyvol.plan.graph.lazy_array import BlockedRecipe, LazyArray, recipe_of
from lazyvol.plan.recipes.base import Array, Dependency, Recipe
from lazyvol.plan.regions import Grid, Region
from lazyvol.plan.verbs import defer_or_compute, labelled, operands
from lazyvol.stack import data_array, require_stack

#: side in voxels of the smallest cubic blocks; a tighter budget makes slabs
SIDE = 64
#: bytes of a block or its source: with halo and coefficients a task takes five to ten times as much
BOX = BLOCK // 4


class Sampling(Protocol):
    """A kernel whose result has other voxels than the stack along some axes."""

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of the stack along which the result has other voxels."""

    def source(self, region: Region) -> Region:
        """Return the box of the stack that a region of the result depends on."""

    def sample(self, block: Array, region: Region) -> Array:
        """Return a region of the result from the values of its source."""

    def working_bytes(self, region: Region) -> int:
        """Return the kernel's own memory for a region, besides its source and its result."""


@dataclass(frozen=True, eq=False)
class Resampled(Recipe):
    """A sampling applied to the parent; the result has the parent's axes, in order."""

    sampling: Sampling
    parents: tuple[Recipe]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        chunk = (
            max(n, SIDE) if a in self.sampling.axes else n
            for a, n in enumerate(self.parent.preferred_chunk)
        )
        return tuple(max(1, min(c, n)) for c, n in zip(chunk, self.shape, strict=True))

    @cached_property
    def token(self) -> str:
        return str(tokenize("resampled", self.sampling, self.parent.token, self.shape, self.dtype))

    def dependencies(self, region: Region) -> list[Dependency]:
        return [(0, self.sampling.source(region))] if regions.size(region) else []

    def compute(self, region: Region, inputs: Sequence[Array], out: Array | None = None) -> Array:
        if not inputs:
            return np.empty(regions.lengths(region), self.dtype)
        return np.asarray(self.sampling.sample(inputs[0], region), self.dtype)

    def working_bytes(self, region: Region) -> int:
        return self.nbytes(region) + self.sampling.working_bytes(region)


def resample(
    sampling: Sampling,
    stack: xr.DataArray,
    *,
    grid: Mapping[str, xr.Variable],
    dtype: np.dtype[Any],
    title: str,
) -> xr.DataArray:
    """Each block of the result from a box of the stack: ``sampling.sample(box, region)``.

    ``grid`` are the positions of the result along its new dims; positions and labels of the stack
    along these are dropped. An empty ``grid`` keeps those of the stack.
    """
    dims = tuple(str(d) for d in require_stack(stack).dims)
    shape = tuple(grid[d].size if d in grid else n for d, n in zip(dims, stack.shape, strict=True))
    build = partial(_resampled, sampling, shape, np.dtype(dtype), title)
    data = defer_or_compute(build, operands((stack,)))
    return labelled(data, dims, on_grid(stack, grid))


def on_grid(stack: xr.DataArray, grid: Mapping[str, xr.Variable]) -> xr.DataArray:
    """Return labels for a result: those of a stack, with other positions along some dims."""
    lengths = {str(d): grid[str(d)].size if d in grid else n for d, n in stack.sizes.items()}
    moved = [name for name, c in stack.coords.items() if set(c.dims) & set(grid)]
    kept = stack.drop_vars(moved).coords
    values = np.broadcast_to(np.int8(0), tuple(lengths.values()))
    return data_array(values, {**kept, **grid}, tuple(lengths), stack.name, stack.attrs)


def _resampled(
    sampling: Sampling, shape: tuple[int, ...], dtype: np.dtype[Any], title: str, array: Any
) -> BlockedRecipe:
    recipe = Resampled(sampling, (recipe_of(array),), shape, dtype)
    target = _target(recipe)
    if not isinstance(array, LazyArray):  # in memory: a block for every thread
        workers = max(1, Budget.current().workers)
        target = max(2**18, min(target, prod(shape) * dtype.itemsize // workers))
    return BlockedRecipe(recipe, _blocks(shape, dtype.itemsize, sampling.axes, target), title)


def _target(recipe: Resampled) -> int:
    """Return the bytes of a block of the result: BOX, or less where its source is larger."""
    whole = regions.whole(recipe.shape)
    source, result = recipe.parent.nbytes(recipe.sampling.source(whole)), recipe.nbytes(whole)
    return max(1, BOX * result // max(source, result)) if result else BOX


def _blocks(shape: Sequence[int], item: int, axes: Sequence[int], target: int) -> Grid:
    """Return blocks of up to ``target`` bytes: of whole volumes, else with sides as equal as
    possible, whose sources are the smallest under rotations."""
    chunks = [max(1, n) for n in shape]
    for a in range(len(shape)):
        if a not in axes:
            rest = prod(chunks) // chunks[a] * item
            chunks[a] = max(1, min(chunks[a], target // rest))
    while prod(chunks) * item > target and max(chunks[a] for a in axes) > 1:
        longest = max(axes, key=lambda a: chunks[a])
        chunks[longest] = -(-chunks[longest] // 2)
    return tuple(regions.uniform_chunks(n, c) for n, c in zip(shape, chunks, strict=True))

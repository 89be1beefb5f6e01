"""Pairwise matrices: every volume of a stack with every other, with as few reads as memory allows.

The result is computed in strips of rows. A task holds its rows and streams the columns past them,
a tile of voxels at a time if stored chunks are smaller than a volume. Of a stack with itself, a
strip begins at its own rows; the elements to its left are mirrored from the strips above.
n volumes in strips of b are read (n / b + 1) / 2 times, those of another stack n / b times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil, prod, sqrt
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.budget import Budget
from lazyvol.plan.evaluate import evaluate, region_cost
from lazyvol.plan.graph.lazy_array import (
    BlockedRecipe,
    LazyArray,
    computed_once,
    lazy_array,
    recipe_of,
)
from lazyvol.plan.recipes.base import Array, Cost, Dependency, Recipe
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.recipes.leaves import InputBlocks, receives_blocks
from lazyvol.plan.recipes.views import transposed
from lazyvol.plan.reductions.partition import FOREIGN_TASK, SMALL
from lazyvol.plan.regions import Grid, Region
from lazyvol.plan.verbs import defer_or_compute, operands
from lazyvol.stack import data_array

#: bytes that a task may hold without a budget: rows of 64^3 float32 for 450 volumes
HOLD = 512 * 2**20
#: bytes of a tile of columns: enough for a matrix product to be worth its call
TILE = 32 * 2**20
#: least columns of a product, unless their tile is too large
COLUMNS = 128


@dataclass(frozen=True)
class PairKernel:
    """A function of two volumes as sums over their voxels, computed for many pairs at once.

    ``update(state, place, rows, columns, mask, fresh=, first=)`` adds a tile of voxels of all rows
    and of the columns at ``place``; ``fresh`` is True for the rows' first columns, ``first`` for
    the first tile. ``buffers`` are the bytes of its scratch memory, ``state_bytes`` are bytes per
    pair, the result included.
    """

    start: Callable[[int, int], dict[str, Array]]
    update: Callable[..., None]
    finish: Callable[[dict[str, Array]], Array]
    dtype: np.dtype[Any]
    state_bytes: int
    buffers: int


@dataclass(frozen=True, eq=False)
class PairMatrix(Recipe):
    """The matrix (row, column) of a pair kernel on the volumes of one parent and of another.

    The parents are the rows, the columns and, optionally, the mask. Their axes are those of a
    volume, after the number of the volume (the mask has none). With ``triangle`` rows and columns
    are one stack, and nothing left of a region's first row is computed. ``tile`` is the shape of
    the part of a volume that is read at once, ``columns`` the number of columns.
    """

    is_streaming = True

    kernel: PairKernel
    parents: tuple[Recipe, ...]
    triangle: bool
    tile: tuple[int, ...] = ()
    columns: int = COLUMNS

    @property
    def row_volumes(self) -> Recipe:
        """Volumes that a task holds."""
        return self.parents[0]

    @property
    def column_volumes(self) -> Recipe:
        """Volumes that a task streams past them."""
        return self.parents[1]

    @property
    def mask(self) -> Recipe | None:
        """Voxels that count, or None if all do."""
        return self.parents[2] if len(self.parents) > 2 else None

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.row_volumes.shape[0], self.column_volumes.shape[0])

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.kernel.dtype

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        return (max(1, self.row_volumes.preferred_chunk[0]), self.shape[1])

    @cached_property
    def token(self) -> str:
        parents = [p.token for p in self.parents]
        return str(tokenize("pairs", self.kernel, parents, self.triangle))

    @property
    def volume(self) -> Region:
        """All voxels of one volume."""
        return regions.whole(self.row_volumes.shape[1:])

    # regions of the parents -----------------------------------------------------------------

    def _computed(self, region: Region) -> tuple[slice, slice]:
        """Return the rows and columns of a region that are computed."""
        rows, columns = region
        first = max(columns.start, rows.start) if self.triangle else columns.start
        return rows, slice(min(first, columns.stop), columns.stop)

    def _streamed(self, rows: slice, columns: slice) -> slice:
        """Return the columns that are not among the rows already in memory."""
        if not self.triangle:
            return columns
        return slice(min(columns.stop, max(columns.start, rows.stop)), columns.stop)

    def dependencies(self, region: Region) -> list[Dependency]:
        rows, columns = self._computed(region)
        if columns.stop == columns.start:
            return []
        required: list[Dependency] = [(0, (rows, *self.volume))]
        streamed = self._streamed(rows, columns)
        if streamed.stop > streamed.start:
            required.append((1, (streamed, *self.volume)))
        return required if self.mask is None else [*required, (2, self.volume)]

    def _tiles(self) -> list[Region]:
        return list(regions.tiles(self.volume, self.tile, self.row_volumes.preferred_chunk[1:]))

    def _batches(self, rows: slice, columns: slice) -> list[slice]:
        """Return the columns to take at once: those among the rows, then the others."""
        cut = self._streamed(rows, columns).start
        parts = [slice(columns.start, cut), slice(cut, columns.stop)]
        multiple = self.column_volumes.preferred_chunk[:1]
        return [
            batch
            for part in parts if part.stop > part.start
            for (batch,) in regions.tiles((part,), (self.columns,), multiple)
        ]  # fmt: skip

    # evaluation -----------------------------------------------------------------------------

    def fetch(self, region: Region, blocks: InputBlocks, out: Array | None = None) -> Array:
        rows, columns = self._computed(region)
        matrix = np.zeros(regions.lengths(region), self.dtype)
        if columns.stop > columns.start:
            first = columns.start - region[1].start
            matrix[:, first:] = self._pairs(rows, columns, blocks)
        return matrix

    def _pairs(self, rows: slice, columns: slice, blocks: InputBlocks) -> Array:
        state = self.kernel.start(rows.stop - rows.start, columns.stop - columns.start)
        for tile in self._tiles():
            row_values = evaluate(self.row_volumes, (rows, *tile), blocks)
            flags = None if self.mask is None else evaluate(self.mask, tile, blocks)
            for batch in self._batches(rows, columns):
                if self.triangle and batch.stop <= rows.stop:
                    values = row_values[batch.start - rows.start : batch.stop - rows.start]
                else:
                    values = evaluate(self.column_volumes, (batch, *tile), blocks)
                place = slice(batch.start - columns.start, batch.stop - columns.start)
                self.kernel.update(
                    state, place, row_values, values, flags, fresh=batch.start == columns.start,
                    first=all(s.start == 0 for s in tile),
                )  # fmt: skip
        return self.kernel.finish(state)

    def cost(self, region: Region) -> Cost:
        rows, columns = self._computed(region)
        if columns.stop == columns.start:
            return Cost(0, self.nbytes(region))
        dependencies = self.dependencies(region)
        read = sum(region_cost(self.parents[n], part).read for n, part in dependencies)
        tile = self._tiles()[0]
        batch = max(self._batches(rows, columns), key=lambda b: b.stop - b.start)
        parts = [(self.row_volumes, (rows, *tile))]
        if self._streamed(rows, columns).start < columns.stop:
            parts.append((self.column_volumes, (batch, *tile)))
        if self.mask is not None:
            parts.insert(1, (self.mask, tile))
        held, reading = 0, 0
        for parent, part in parts:
            reading = max(reading, held + region_cost(parent, part).peak)
            held += parent.nbytes(part)
        pairs = (rows.stop - rows.start) * (columns.stop - columns.start)
        peak = max(reading, held) + self.kernel.buffers + pairs * self.kernel.state_bytes
        return Cost(read, peak + self.nbytes(region))


def pairs(
    kernel: PairKernel,
    stack: xr.DataArray,
    other: xr.DataArray | None = None,
    *,
    dim: str,
    mask: xr.DataArray | None = None,
    title: str = "pairs",
) -> xr.DataArray:
    """Return ``kernel`` for every volume along ``dim`` with every one of ``other`` or of the stack.

    The result has the dims ``dim`` and ``{dim}_other``; of a stack with itself it is symmetric.
    ``mask`` has all dims of a volume.
    """
    order = (dim, *(str(d) for d in stack.dims if d != dim))
    stacks = (stack,) if other is None else (stack, other)
    masks = [] if mask is None else [mask.transpose(*order[1:])]
    arrays = operands([*(s.transpose(*order) for s in stacks), *masks])
    build = partial(_pairs, kernel, other is None, mask is not None, title)
    data = defer_or_compute(build, arrays)
    names = (dim, f"{dim}_other")
    coords: dict[Any, Any] = {
        n: c.variable for n, c in stack.coords.items() if set(c.dims) <= {dim}
    }
    return data_array(data, coords, names, stack.name, stack.attrs)


def _pairs(
    kernel: PairKernel, with_itself: bool, is_masked: bool, title: str, *arrays: Any
) -> BlockedRecipe | LazyArray:
    recipes = [recipe_of(a) for a in arrays]
    masks = (recipes.pop(),) if is_masked else ()
    columns = recipes[0 if with_itself else 1]
    matrix, grid = _plan(
        PairMatrix(kernel, (recipes[0], columns, *masks), with_itself), Budget.current()
    )
    if not with_itself:
        return BlockedRecipe(matrix, grid, title)
    return _mirrored(computed_once(lazy_array(matrix, grid, *arrays, title=title)), title)


def _plan(matrix: PairMatrix, budget: Budget) -> tuple[PairMatrix, Grid]:
    """Return strips as high as memory allows, and no fewer than keep all workers busy."""
    limit = HOLD if budget.per_task is None else budget.per_task
    n, multiple = matrix.shape[0], max(1, matrix.row_volumes.preferred_chunk[0])
    height = max(1, n)
    while True:
        tiled = _with_tile(matrix, height, limit)
        first = (slice(0, min(n, height)), slice(0, matrix.shape[1]))
        if height <= multiple or tiled.cost(first).peak <= limit:
            break
        height = max(multiple, ceil(height / 2 / multiple) * multiple)
    bytes_read = matrix.row_volumes.nbytes(regions.whole(matrix.row_volumes.shape))
    strips = budget.workers if bytes_read > SMALL else 1
    if receives_blocks(matrix.row_volumes) or receives_blocks(matrix.column_volumes):
        return tiled, _foreign_grid(matrix, strips, limit)
    heights = _strip_heights(n, height, multiple, strips, matrix.triangle)
    return tiled, (heights, (matrix.shape[1],))


def _with_tile(matrix: PairMatrix, height: int, limit: int) -> PairMatrix:
    """Set the tile and the columns to read at once, in stored chunks, for strips of ``height``."""
    rows, others = matrix.row_volumes, matrix.column_volumes
    shape, item = rows.shape[1:], others.dtype.itemsize
    step = max(1, others.preferred_chunk[0])
    columns = ceil(COLUMNS / step) * step
    tile = [max(1, min(c, n)) for c, n in zip(rows.preferred_chunk[1:], shape, strict=True)]
    while columns > 1 and prod(tile) * item * columns > min(TILE, limit // 8):
        columns = max(step, columns // 2 // step * step) if columns > step else columns // 2
    room = min(limit // 4, 8 * TILE) // max(1, item * (height + columns))
    for a in reversed(range(len(tile))):
        fits = room // max(1, prod(tile) // tile[a])
        tile[a] = max(tile[a], min(shape[a], fits // tile[a] * tile[a]))
    return replace(matrix, tile=tuple(tile), columns=max(1, columns))


def _strip_heights(
    n: int, highest: int, multiple: int, count: int, triangle: bool
) -> tuple[int, ...]:
    """Return the heights of strips of equal work, in stored chunks, none above ``highest``."""
    heights, start = [], 0
    area = n * n / max(1, count)
    while start < n:
        # the work of a strip of a triangle is the area right of the diagonal
        remaining = n - start
        height = remaining - sqrt(max(0.0, remaining**2 - area)) if triangle else n / max(1, count)
        rounded = max(multiple, round(height / multiple) * multiple)
        rounded = min(rounded, max(multiple, highest // multiple * multiple), highest, remaining)
        heights.append(rounded)
        start += rounded
    return tuple(heights) or (0,)


def _foreign_grid(matrix: PairMatrix, count: int, limit: int) -> Grid:
    """Return squares of pairs, because a task receives all blocks of its volumes at once."""
    rows, columns = matrix.row_volumes, matrix.column_volumes
    volume = prod(rows.shape[1:]) * rows.dtype.itemsize
    side = max(1, min(FOREIGN_TASK, limit // 2) // max(1, 2 * volume))
    multiple = max(1, rows.preferred_chunk[0], columns.preferred_chunk[0])
    side = max(1, side // multiple * multiple) if side >= multiple else side
    side = min(side, max(1, ceil(matrix.shape[0] / max(1, count))))
    return tuple(regions.uniform_chunks(n, side) for n in matrix.shape)


def _mirrored(upper: LazyArray, title: str) -> LazyArray:
    """Return the whole matrix from its upper triangle."""
    above = upper.recipe
    n = above.shape[0]
    parents = (above, transposed(above, (1, 0)))
    recipe = _Mirror(_mirror, parents, ((0, 1), (0, 1)), (n, n), above.dtype)
    return lazy_array(recipe, (upper.chunks[0], (n,)), upper, title=f"{title}: both halves")


@dataclass(frozen=True, eq=False)
class _Mirror(Blockwise):
    """Blockwise whose kernel gets the offset of its first row from its first column."""

    def compute(self, region: Region, inputs: Sequence[Array], out: Array | None = None) -> Array:
        return np.asarray(self.kernel(*inputs, region[0].start - region[1].start))


def _mirror(above: Array, below: Array, offset: int) -> Array:
    """Return ``above`` on and above the diagonal, ``below`` below the diagonal."""
    rows, columns = above.shape
    return np.where(np.tri(rows, columns, offset - 1, dtype=np.bool_), below, above)

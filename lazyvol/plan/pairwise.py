"""Pairs: every volume of a stack against every other, each read as seldom as memory allows.

The result is made in strips of rows. A task holds its rows and streams the columns past them, a
stretch of voxels at a time where the stored chunks are smaller than a volume. Of a stack against
itself a strip begins at its own rows; what lies left of it is a later reading of strips above.
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
from lazyvol.plan.evaluate import evaluate, price
from lazyvol.plan.graph.lazy_array import Blocks, Lazy, lazy, recipe_of
from lazyvol.plan.graph.results import is_held
from lazyvol.plan.operands import done, operands
from lazyvol.plan.recipes.base import Array, Cost, Foreign, Given, Recipe, Want, leaves
from lazyvol.plan.recipes.blockwise import Blockwise
from lazyvol.plan.recipes.views import aligned
from lazyvol.plan.reductions.partition import HANDED, SMALL
from lazyvol.plan.regions import Grid, Region
from lazyvol.plan.tables import settled_array

#: bytes that a task may hold where no budget says: rows of 64^3 float32 for 450 of them
HOLD = 512 * 2**20
#: bytes of the tile of columns: enough of them for a matrix product to be worth its call
TILE = 32 * 2**20
#: columns that a product takes at least, where their tile is not too large for it
COLUMNS = 128


@dataclass(frozen=True)
class Paired:
    """A function of two volumes as sums over their voxels, taken for many pairs at once.

    ``update(state, place, rows, columns, mask, fresh=, first=)`` takes in a tile of voxels of all
    rows and of the columns at ``place``: ``fresh`` where the rows meet their first columns,
    ``first`` at the first tile. ``buffers`` are bytes that it needs at most, ``state_bytes`` are
    bytes per pair, the result included.
    """

    start: Callable[[int, int], dict[str, Array]]
    update: Callable[..., None]
    finish: Callable[[dict[str, Array]], Array]
    dtype: np.dtype[Any]
    state_bytes: int
    buffers: int


@dataclass(frozen=True, eq=False)
class Pairs(Recipe):
    """``paired`` on the rows of one parent and of another: (row, column).

    The parents are the rows, the others and, where there is one, the mask. Rows come first, then
    the axes of a volume, which are those of the mask. With ``triangle`` rows and others are one
    stack, and nothing is made left of a region's first row. ``tile`` is the length along each axis
    of a volume of what is read at once, ``columns`` their number.
    """

    streams = True

    paired: Paired
    parents: tuple[Recipe, ...]
    triangle: bool
    tile: tuple[int, ...] = ()
    columns: int = COLUMNS

    @property
    def rows(self) -> Recipe:
        """Volumes that are held."""
        return self.parents[0]

    @property
    def others(self) -> Recipe:
        """Volumes that are streamed past them."""
        return self.parents[1]

    @property
    def mask(self) -> Recipe | None:
        """Voxels that count, where not all do."""
        return self.parents[2] if len(self.parents) > 2 else None

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.rows.shape[0], self.others.shape[0])

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.paired.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return (max(1, self.rows.grain[0]), self.shape[1])

    @cached_property
    def token(self) -> str:
        parents = [p.token for p in self.parents]
        return str(tokenize("pairs", self.paired, parents, self.triangle))

    @property
    def volume(self) -> Region:
        """All voxels of one volume."""
        return regions.whole(self.rows.shape[1:])

    def _needed(self, region: Region) -> tuple[slice, slice]:
        """Rows and columns of a region that are made."""
        rows, columns = region
        first = max(columns.start, rows.start) if self.triangle else columns.start
        return rows, slice(min(first, columns.stop), columns.stop)

    def wants(self, region: Region) -> list[Want]:
        rows, columns = self._needed(region)
        if columns.stop == columns.start:
            return []
        found: list[Want] = [(0, (rows, *self.volume))]
        others = self._unheld(rows, columns)
        if others.stop > others.start:
            found.append((1, (others, *self.volume)))
        return found if self.mask is None else [*found, (2, self.volume)]

    def _tiles(self) -> list[Region]:
        return list(regions.tiles(self.volume, self.tile, self.rows.grain[1:]))

    def _batches(self, rows: slice, columns: slice) -> list[slice]:
        """Columns that are taken at once: those among the rows, then others on the stored grid."""
        cut = self._unheld(rows, columns).start
        parts = [slice(columns.start, cut), slice(cut, columns.stop)]
        grain = self.others.grain[:1]
        return [
            b for p in parts if p.stop > p.start
            for (b,) in regions.tiles((p,), (self.columns,), grain)
        ]  # fmt: skip

    def _unheld(self, rows: slice, columns: slice) -> slice:
        """Columns that are not rows of the same stack."""
        if not self.triangle:
            return columns
        return slice(min(columns.stop, max(columns.start, rows.stop)), columns.stop)

    def fetch(self, region: Region, given: Given, out: Array | None = None) -> Array:
        rows, columns = self._needed(region)
        found = np.zeros(regions.lengths(region), self.dtype)
        if columns.stop > columns.start:
            at = columns.start - region[1].start
            found[:, at:] = self._made(rows, columns, given)
        return found

    def _made(self, rows: slice, columns: slice, given: Given) -> Array:
        state = self.paired.start(rows.stop - rows.start, columns.stop - columns.start)
        for tile in self._tiles():
            held = evaluate(self.rows, (rows, *tile), given)
            flags = None if self.mask is None else evaluate(self.mask, tile, given)
            for batch in self._batches(rows, columns):
                others = self._columns(rows, batch, tile, held, given)
                place = slice(batch.start - columns.start, batch.stop - columns.start)
                self.paired.update(
                    state, place, held, others, flags, fresh=batch.start == columns.start,
                    first=all(s.start == 0 for s in tile),
                )  # fmt: skip
        return self.paired.finish(state)

    def _columns(self, rows: slice, batch: slice, tile: Region, held: Array, given: Given) -> Array:
        """Columns of a tile: rows that are held, or others that are read."""
        if self.triangle and batch.stop <= rows.stop:
            return held[batch.start - rows.start : batch.stop - rows.start]
        return evaluate(self.others, (batch, *tile), given)

    def cost(self, region: Region) -> Cost:
        rows, columns = self._needed(region)
        if columns.stop == columns.start:
            return Cost(0, self.nbytes(region))
        read = sum(price(self.parents[n], part).read for n, part in self.wants(region))
        tile = self._tiles()[0]
        batch = max(self._batches(rows, columns), key=lambda b: b.stop - b.start)
        parts = [(self.rows, (rows, *tile))]
        if self._unheld(rows, columns).start < columns.stop:
            parts.append((self.others, (batch, *tile)))
        if self.mask is not None:
            parts.insert(1, (self.mask, tile))
        held, reading = 0, 0
        for parent, part in parts:
            reading = max(reading, held + price(parent, part).peak)
            held += parent.nbytes(part)
        pairs = (rows.stop - rows.start) * (columns.stop - columns.start)
        peak = max(reading, held) + self.paired.buffers + pairs * self.paired.state_bytes
        return Cost(read, peak + self.nbytes(region))


def pairs(
    paired: Paired,
    stack: xr.DataArray,
    other: xr.DataArray | None = None,
    *,
    dim: str,
    mask: xr.DataArray | None = None,
    title: str = "pairs",
) -> xr.DataArray:
    """``paired`` for every volume along ``dim`` with every one of ``other``, or of its own stack.

    The result has the dims ``dim`` and ``{dim}_other``; of a stack with itself it is symmetric.
    ``mask`` has dims of a volume, all of them.
    """
    order = (dim, *(str(d) for d in stack.dims if d != dim))
    stacks = (stack,) if other is None else (stack, other)
    flags = [] if mask is None else [mask.transpose(*order[1:])]
    arrays, local = operands([*(s.transpose(*order) for s in stacks), *flags])
    make = partial(_pairs, paired, other is None, mask is not None, title)
    data = done(make, arrays, local)
    names = (dim, f"{dim}_other")
    coords: dict[Any, Any] = {
        n: c.variable for n, c in stack.coords.items() if set(c.dims) <= {dim}
    }
    return xr.DataArray(data, coords, names, name=stack.name, attrs=stack.attrs)


def _pairs(paired: Paired, own: bool, masked: bool, title: str, *arrays: Any) -> Blocks | Lazy:
    recipes = [recipe_of(a) for a in arrays]
    mask = recipes.pop() if masked else None
    parents = (recipes[0], recipes[0 if own else 1], *(() if mask is None else (mask,)))
    whole = Pairs(paired, parents, own)
    recipe, grid = _planned(whole, Budget.current())
    if not own:
        return Blocks(recipe, grid, title)
    return _mirrored(settled_array(lazy(recipe, grid, *arrays, title=title)), title)


def _planned(whole: Pairs, budget: Budget) -> tuple[Pairs, Grid]:
    """Strips as high as memory allows, and no fewer than keep all workers busy."""
    limit = HOLD if budget.per_task is None else budget.per_task
    n, grain = whole.shape[0], max(1, whole.rows.grain[0])
    height = max(1, n)
    while True:
        recipe = _tiled(whole, height, limit)
        first = (slice(0, min(n, height)), slice(0, whole.shape[1]))
        if height <= grain or recipe.cost(first).peak <= limit:
            break
        height = max(grain, ceil(height / 2 / grain) * grain)
    bytes_read = whole.rows.nbytes(regions.whole(whole.rows.shape))
    strips = budget.workers if bytes_read > SMALL else 1
    if _is_handed(whole.rows) or _is_handed(whole.others):
        return recipe, _handed_grid(whole, strips, limit)
    return recipe, (_strips(n, height, grain, strips, whole.triangle), (whole.shape[1],))


def _tiled(whole: Pairs, height: int, limit: int) -> Pairs:
    """Lengths of what is read at once, for strips of a height: in whole stored chunks."""
    shape, grain = whole.rows.shape[1:], whole.rows.grain[1:]
    item, step = whole.others.dtype.itemsize, max(1, whole.others.grain[0])
    columns = ceil(COLUMNS / step) * step
    tile = [max(1, min(g, n)) for g, n in zip(grain, shape, strict=True)]
    while columns > 1 and prod(tile) * item * columns > min(TILE, limit // 8):
        columns = max(step, columns // 2 // step * step) if columns > step else columns // 2
    room = min(limit // 4, 8 * TILE) // max(1, item * (height + columns))
    for a in reversed(range(len(tile))):
        fits = room // max(1, prod(tile) // tile[a])
        tile[a] = max(tile[a], min(shape[a], fits // tile[a] * tile[a]))
    return replace(whole, tile=tuple(tile), columns=max(1, columns))


def _strips(n: int, most: int, grain: int, count: int, triangle: bool) -> tuple[int, ...]:
    """Heights of strips: of equal work, in whole stored chunks, none above ``most``."""
    found, at = [], 0
    share = n * n / max(1, count)
    while at < n:
        # the area right of the diagonal is what a strip of a triangle costs
        left = n - at
        wanted = left - sqrt(max(0.0, left**2 - share)) if triangle else n / max(1, count)
        height = max(grain, round(wanted / grain) * grain)
        height = min(height, max(grain, most // grain * grain), most, n - at)
        found.append(height)
        at += height
    return tuple(found) or (0,)


def _is_handed(recipe: Recipe) -> bool:
    return any(isinstance(leaf, Foreign) and not is_held(leaf) for leaf in leaves(recipe))


def _handed_grid(whole: Pairs, count: int, limit: int) -> Grid:
    """Squares of pairs, for a task is handed all blocks of its volumes at once."""
    volume = prod(whole.rows.shape[1:]) * whole.rows.dtype.itemsize
    side = max(1, min(HANDED, limit // 2) // max(1, 2 * volume))
    grain = max(1, whole.rows.grain[0], whole.others.grain[0])
    side = max(1, side // grain * grain) if side >= grain else side
    side = min(side, max(1, ceil(whole.shape[0] / max(1, count))))
    return tuple(regions.cover(n, side) for n in whole.shape)


def _mirrored(upper: Lazy, title: str) -> Lazy:
    """The whole matrix out of its upper triangle."""
    above = upper.recipe
    n = above.shape[0]
    turned = aligned(above, (1, 0))
    recipe = _Mirror(_reflect, (above, turned), ((0, 1), (0, 1)), (n, n), above.dtype)
    return lazy(recipe, (upper.chunks[0], (n,)), upper, title=f"{title}: both halves")


@dataclass(frozen=True, eq=False)
class _Mirror(Blockwise):
    """Blockwise whose kernel is told how far its rows begin after its columns."""

    def make(self, region: Region, parts: Sequence[Array], out: Array | None = None) -> Array:
        return np.asarray(self.kernel(*parts, region[0].start - region[1].start))


def _reflect(above: Array, below: Array, offset: int) -> Array:
    """What lies on and right of the diagonal from one, the rest from the other."""
    rows, columns = above.shape
    return np.where(np.tri(rows, columns, offset - 1, dtype=np.bool_), below, above)

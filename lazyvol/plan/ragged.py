"""Ragged recipes: what is chosen of every frame, one after the other, in known numbers.

The observations of a frame follow each other along the first axis of the result, and so do the
frames. How many there are of each *line* is known beforehand: a line is a frame, or where frames
are large, an index of its first selected axis. So any stretch of the result knows where its data
lie, and reads no other lines.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.errors import LabelError
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget
from lazyvol.plan.evaluate import evaluate, price
from lazyvol.plan.graph.lazy_array import Blocks, recipe_of
from lazyvol.plan.graph.results import is_held
from lazyvol.plan.recipes.base import Array, Cost, Foreign, Given, Recipe, Want, leaves
from lazyvol.plan.recipes.views import Aligned, aligned
from lazyvol.plan.reductions.partition import HANDED
from lazyvol.plan.regions import Grid, Region

Turn = tuple[int | None, ...]

#: bytes of a frame beyond which it is counted and read line by line, and of lines read at once
TILE = 64 * 2**20
#: bytes that a task reads at most, where it has few observations to show for it
READ = 2**30


@dataclass(frozen=True, eq=False)
class Ragged(Recipe):
    """``kernel(block, flags) -> observations`` of one frame after the other.

    The parent has the axes (frame, selected ..., kept ...), the mask (frame, selected ...); a
    frame axis of length 1 is shared by all frames. ``lines`` are the numbers of observations,
    (frame, line), ``tile`` those of lines that are read at once.
    """

    streams = True

    kernel: Callable[[Array, Array], Array]
    parents: tuple[Recipe, Recipe]
    lines: Array
    dtype: np.dtype[Any]
    tile: int

    @property
    def parent(self) -> Recipe:
        """The array that observations are chosen of."""
        return self.parents[0]

    @property
    def mask(self) -> Recipe:
        """The flags that choose them."""
        return self.parents[1]

    @cached_property
    def ends(self) -> Array:
        """Where every line begins in the result, and where the last ends."""
        return np.concatenate([[0], np.cumsum(self.lines, dtype=np.int64)])

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (int(self.ends[-1]), *self.parent.shape[self.mask.ndim :])

    @property
    def unit(self) -> int:
        """Lines that are stored together: whole chunks of frames, or of one frame's lines."""
        return self.parent.grain[0 if self.lines.shape[1] == 1 else 1]

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        each = self.shape[0] * self.unit // max(1, self.lines.size)
        return (max(1, min(each, self.shape[0])), *self.parent.grain[self.mask.ndim :])

    @cached_property
    def token(self) -> str:
        parents = (self.parent.token, self.mask.token)
        return str(tokenize("ragged", self.kernel, parents, self.lines, str(self.dtype)))

    def _tiles(self, region: Region) -> Iterator[tuple[int, int, Region, Region]]:
        """Lines from and to, and the regions of parent and mask behind them, where a stretch of
        the result has observations."""
        a, b = region[0].start, region[0].stop
        first = int(np.searchsorted(self.ends, a, "right")) - 1
        last = int(np.searchsorted(self.ends, b, "left"))
        for low, high in self._runs(first, last) if b > a else ():
            if self.ends[high] > self.ends[low]:
                box = self._box(low, high)
                yield low, high, (*_own(box, self.parent), *region[1:]), _own(box, self.mask)

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Stretches of lines that are read at once; none goes beyond a frame it is a part of."""
        per_frame = self.lines.shape[1]
        if per_frame == 1:
            for (span,) in regions.tiles((slice(first, last),), (self.tile,), (self.unit,)):
                yield span.start, span.stop
            return
        for f in range(first // per_frame, -(-last // per_frame)):
            base = f * per_frame
            own = slice(max(first - base, 0), min(last - base, per_frame))
            for (span,) in regions.tiles((own,), (self.tile,), (self.unit,)):
                yield base + span.start, base + span.stop

    def _box(self, low: int, high: int) -> Region:
        """Frame and selected axes of a run of lines."""
        per_frame = self.lines.shape[1]
        whole = regions.whole(self._selected)
        if per_frame == 1:
            return (slice(low, high), *whole)
        f = low // per_frame
        return (slice(f, f + 1), slice(low - f * per_frame, high - f * per_frame), *whole[1:])

    @property
    def _anew(self) -> bool:
        """Whether blocks are laid out anew: frames share one, or axes were turned."""
        axes = self.parent.axes if isinstance(self.parent, Aligned) else ()
        order = [a for a in axes if a is not None]
        return self.parent.shape[0] < len(self.lines) or order != sorted(order)

    @property
    def _selected(self) -> tuple[int, ...]:
        return self.mask.shape[1:]

    def wants(self, region: Region) -> list[Want]:
        found: list[Want] = []
        for _, _, part, flags in self._tiles(region):
            found += [(0, part), (1, flags)]
        return found

    def fetch(self, region: Region, given: Given, out: Array | None = None) -> Array:
        found = np.empty(regions.lengths(region), self.dtype) if out is None else out
        for low, high, part, flags in self._tiles(region):
            block = evaluate(self.parent, part, given)
            frames = high - low if self.lines.shape[1] == 1 else 1
            block = np.broadcast_to(block, (frames, *block.shape[1:]))
            values = self.kernel(block, np.asarray(evaluate(self.mask, flags, given), bool))
            self._place(found, region[0], low, high, values)
        return found

    def _place(self, found: Array, span: slice, low: int, high: int, values: Array) -> None:
        """Observations of a run of lines where they belong in a stretch of the result."""
        start, stop = int(self.ends[low]), int(self.ends[high])
        if len(values) != stop - start:
            raise LabelError(
                f"a mask has the same flags whenever it is read, but lines {low} to {high} had "
                f"{stop - start} when they were counted and have {len(values)} now; save it first"
            )
        a, b = max(span.start, start), min(span.stop, stop)
        found[a - span.start : b - span.start] = values[a - start : b - start]

    def cost(self, region: Region) -> Cost:
        read, most = 0, 0
        for low, high, part, flags in self._tiles(region):
            parent, mask = price(self.parent, part), price(self.mask, flags)
            made = int(self.ends[high] - self.ends[low]) * prod(regions.lengths(region[1:]))
            size = prod(regions.lengths(self._box(low, high))) * prod(regions.lengths(region[1:]))
            held = size * self.parent.dtype.itemsize
            marks = 3 * regions.size(flags)
            selecting = held * (2 if self._anew else 1) + marks + made * self.dtype.itemsize
            most = max(most, parent.peak, held + mask.peak, selecting)
            read += parent.read + mask.read
        return Cost(read, self.nbytes(region) + most)


def _own(box: Region, recipe: Recipe) -> Region:
    """A box as a region of a recipe whose frames may share one."""
    return tuple(
        slice(0, 1) if n == 1 else s for s, n in zip(box, recipe.shape[: len(box)], strict=True)
    )


def is_split(selected: Sequence[int], kept: Sequence[int], item: int) -> bool:
    """Whether frames are so large that their lines are counted one by one."""
    return len(selected) > 1 and prod(selected) * prod(kept) * item > TILE


def ragged_array(
    kernel: Callable[[Array, Array], Array],
    turns: tuple[Turn, Turn],
    lines: Array,
    dtype: np.dtype[Any],
    title: str,
    stack: Any,
    mask: Any,
) -> Blocks:
    """Ragged observations of two arrays whose axes are turned into those of a recipe."""
    parent, flags = aligned(recipe_of(stack), turns[0]), aligned(recipe_of(mask), turns[1])
    limit = Budget.current().per_task
    room = BLOCK if limit is None else min(BLOCK, max(1, limit // 4))
    recipe = Ragged(kernel, (parent, flags), lines, dtype, 1)
    recipe = replace(recipe, tile=_tile(recipe, min(TILE, room)))
    return Blocks(recipe, _grid(recipe, room), title)


def _line_bytes(recipe: Ragged) -> int:
    """Bytes of the parent behind one line."""
    per_frame = recipe.lines.shape[1]
    kept = prod(recipe.parent.shape[recipe.mask.ndim :])
    size = prod(recipe.mask.shape[1:]) // (1 if per_frame == 1 else max(1, per_frame))
    return max(1, size * kept * recipe.parent.dtype.itemsize)


def _tile(recipe: Ragged, room: int) -> int:
    """Lines read at once: whole stored chunks, as many as have room, or at least one chunk
    where it is not far too large."""
    fits = max(1, room // _line_bytes(recipe))
    unit = max(1, recipe.unit)
    if fits >= unit:
        return fits // unit * unit
    return unit if unit * _line_bytes(recipe) <= 4 * room else fits


def _grid(recipe: Ragged, room: int) -> Grid:
    """Blocks of about ``room`` bytes that begin where stored chunks of lines do."""
    kept = tuple((n,) for n in recipe.shape[1:])
    item = max(1, prod(recipe.shape[1:]) * recipe.dtype.itemsize)
    handed = any(isinstance(x, Foreign) and not is_held(x) for x in leaves(recipe.parent))
    most = max(1, (HANDED if handed else READ) // _line_bytes(recipe) // recipe.unit)
    cuts = recipe.ends[:: max(1, recipe.unit)]
    if cuts[-1] != recipe.ends[-1] or len(cuts) == 1:
        cuts = np.append(cuts, recipe.ends[-1])
    found, at = [0], 0
    while at < len(cuts) - 1:
        to = int(np.searchsorted(cuts, cuts[at] + max(1, room // item), "right")) - 1
        at = min(max(to, at + 1), at + most, len(cuts) - 1)
        found.append(int(cuts[at]))
    sizes = tuple(int(n) for n in np.diff(found) if n)
    return (sizes or (0,), *kept)

"""Ragged arrays: the selected observations of every frame, one after the other, and back.

The observations of a frame follow each other along the first axis of the result, and so do the
frames. Their numbers are known beforehand for each *line*: a line is a frame, or, if frames are
large, an index of a frame's first selected axis. So the lines of any interval of the result can be
located, and no others are read. ``padded`` makes frames of one length again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from lazyvol.errors import LabelError
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget
from lazyvol.plan.evaluate import evaluate, region_cost
from lazyvol.plan.graph.lazy_array import BlockedRecipe, recipe_of
from lazyvol.plan.recipes.base import Array, Cost, Dependency, Recipe
from lazyvol.plan.recipes.leaves import InputBlocks, receives_blocks
from lazyvol.plan.recipes.views import AxisOrder, Transposed, transposed
from lazyvol.plan.reductions.partition import FOREIGN_TASK
from lazyvol.plan.regions import Grid, Region
from lazyvol.plan.verbs import (
    Kernel,
    axis_order,
    defer_or_compute,
    labelled,
    lengths_of,
    operands,
)
from lazyvol.stack import data_array, require_stack

#: bytes of a frame above which it is counted and read line by line, and of lines read at once
TILE = 64 * 2**20
#: bytes that a task reads at most, if it has few observations
READ = 2**30


@dataclass(frozen=True, eq=False)
class Ragged(Recipe):
    """``kernel(block, flags) -> observations`` of one frame after the other.

    The parent has the axes (frame, selected ..., kept ...), the mask (frame, selected ...); a
    frame axis of length 1 is shared by all frames. ``counts`` are the numbers of observations,
    (frame, line), ``tile`` the number of lines that are read at once.
    """

    is_streaming = True

    kernel: Callable[[Array, Array], Array]
    parents: tuple[Recipe, Recipe]
    counts: Array
    dtype: np.dtype[Any]
    tile: int

    @property
    def mask(self) -> Recipe:
        """The flags that select observations."""
        return self.parents[1]

    @cached_property
    def ends(self) -> Array:
        """Positions in the result where every line begins, and where the last one ends."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (int(self.ends[-1]), *self.parent.shape[self.mask.ndim :])

    @property
    def lines_per_frame(self) -> int:
        return int(self.counts.shape[1])

    @property
    def stored_lines(self) -> int:
        """Number of lines that are stored together: frames, or lines of a frame."""
        return self.parent.preferred_chunk[0 if self.lines_per_frame == 1 else 1]

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        observations = self.shape[0] * self.stored_lines // max(1, self.counts.size)
        kept = self.parent.preferred_chunk[self.mask.ndim :]
        return (max(1, min(observations, self.shape[0])), *kept)

    @cached_property
    def token(self) -> str:
        parents = (self.parent.token, self.mask.token)
        return str(tokenize("ragged", self.kernel, parents, self.counts, str(self.dtype)))

    def _tiles(self, region: Region) -> Iterator[tuple[int, int, Region, Region]]:
        """Yield the runs of lines with observations in a stretch of the result: first and last
        line, and the regions of parent and mask."""
        start, stop = region[0].start, region[0].stop
        first = int(np.searchsorted(self.ends, start, "right")) - 1
        last = int(np.searchsorted(self.ends, stop, "left"))
        for low, high in self._line_runs(first, last) if stop > start else ():
            if self.ends[high] > self.ends[low]:
                box = self._box(low, high)
                part = (*_operand_region(box, self.parent), *region[1:])
                yield low, high, part, _operand_region(box, self.mask)

    def _line_runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield runs of lines to read at once; lines that are parts of frames stay within one."""
        per_frame = self.lines_per_frame
        if per_frame == 1:
            for (span,) in regions.tiles((slice(first, last),), (self.tile,), (self.stored_lines,)):
                yield span.start, span.stop
            return
        for frame in range(first // per_frame, -(-last // per_frame)):
            base = frame * per_frame
            lines = slice(max(first - base, 0), min(last - base, per_frame))
            for (span,) in regions.tiles((lines,), (self.tile,), (self.stored_lines,)):
                yield base + span.start, base + span.stop

    def _box(self, low: int, high: int) -> Region:
        """Return the frames and the selected axes of a run of lines."""
        per_frame = self.lines_per_frame
        selected = regions.whole(self.mask.shape[1:])
        if per_frame == 1:
            return (slice(low, high), *selected)
        frame = low // per_frame
        lines = slice(low - frame * per_frame, high - frame * per_frame)
        return (slice(frame, frame + 1), lines, *selected[1:])

    @property
    def _copies_blocks(self) -> bool:
        """True if the kernel has to copy blocks: frames share one, or axes are permuted."""
        is_permuted = isinstance(self.parent, Transposed) and self.parent.order != sorted(
            self.parent.order
        )
        return self.parent.shape[0] < len(self.counts) or is_permuted

    def dependencies(self, region: Region) -> list[Dependency]:
        required: list[Dependency] = []
        for _, _, part, flags in self._tiles(region):
            required += [(0, part), (1, flags)]
        return required

    def fetch(self, region: Region, blocks: InputBlocks, out: Array | None = None) -> Array:
        observations = np.empty(regions.lengths(region), self.dtype) if out is None else out
        for low, high, part, mask_part in self._tiles(region):
            block = evaluate(self.parent, part, blocks)
            frames = high - low if self.lines_per_frame == 1 else 1
            block = np.broadcast_to(block, (frames, *block.shape[1:]))
            flags = np.asarray(evaluate(self.mask, mask_part, blocks), bool)
            self._insert_lines(observations, region[0], low, high, self.kernel(block, flags))
        return observations

    def _insert_lines(
        self, observations: Array, span: slice, low: int, high: int, values: Array
    ) -> None:
        """Write the values of a run of lines to a stretch of the result."""
        start, stop = int(self.ends[low]), int(self.ends[high])
        if len(values) != stop - start:
            raise LabelError(
                "mask must have equal flags each time it is read, got "
                f"{len(values)} observations in lines {low} to {high} after {stop - start} were "
                "counted; save the mask first"
            )
        first, last = max(span.start, start), min(span.stop, stop)
        observations[first - span.start : last - span.start] = values[first - start : last - start]

    def cost(self, region: Region) -> Cost:
        read, peak = 0, 0
        kept = prod(regions.lengths(region[1:]))
        for low, high, part, mask_part in self._tiles(region):
            parent, mask = region_cost(self.parent, part), region_cost(self.mask, mask_part)
            observations = int(self.ends[high] - self.ends[low]) * kept * self.dtype.itemsize
            block = prod(regions.lengths(self._box(low, high))) * kept * self.parent.dtype.itemsize
            flags = 3 * regions.size(mask_part)
            selecting = block * (2 if self._copies_blocks else 1) + flags + observations
            peak = max(peak, parent.peak, block + mask.peak, selecting)
            read += parent.read + mask.read
        return Cost(read, self.nbytes(region) + peak)


def _operand_region(box: Region, recipe: Recipe) -> Region:
    """Return a box as a region of a recipe, whose frames may share one."""
    return tuple(
        slice(0, 1) if n == 1 else s for s, n in zip(box, recipe.shape[: len(box)], strict=True)
    )


def is_counted_by_line(selected: Sequence[int], kept: Sequence[int], item: int) -> bool:
    """Return True if frames are so large that their lines are counted one by one."""
    return len(selected) > 1 and prod(selected) * prod(kept) * item > TILE


def ragged_array(
    kernel: Callable[[Array, Array], Array],
    orders: tuple[AxisOrder, AxisOrder],
    counts: Array,
    dtype: np.dtype[Any],
    title: str,
    stack: Any,
    mask: Any,
) -> BlockedRecipe:
    """Build the ragged recipe of two arrays, with ``orders`` of their axes as in ``Ragged``."""
    parent, flags = transposed(recipe_of(stack), orders[0]), transposed(recipe_of(mask), orders[1])
    room = _block_bytes()
    recipe = Ragged(kernel, (parent, flags), counts, dtype, 1)
    recipe = replace(recipe, tile=_lines_at_once(recipe, min(TILE, room)))
    return BlockedRecipe(recipe, _grid(recipe, room), title)


def _block_bytes() -> int:
    limit = Budget.current().per_task
    return BLOCK if limit is None else min(BLOCK, max(1, limit // 4))


def _line_bytes(recipe: Ragged) -> int:
    """Return the bytes of the parent that one line takes."""
    per_frame = recipe.lines_per_frame
    kept = prod(recipe.parent.shape[recipe.mask.ndim :])
    size = prod(recipe.mask.shape[1:]) // (1 if per_frame == 1 else max(1, per_frame))
    return max(1, size * kept * recipe.parent.dtype.itemsize)


def _lines_at_once(recipe: Ragged, room: int) -> int:
    """Return the lines to read at once: as many stored chunks as fit, or one chunk if it is not
    far too large."""
    fits = max(1, room // _line_bytes(recipe))
    stored = max(1, recipe.stored_lines)
    if fits >= stored:
        return fits // stored * stored
    return stored if stored * _line_bytes(recipe) <= 4 * room else fits


def _grid(recipe: Ragged, room: int) -> Grid:
    """Return blocks of about ``room`` bytes that begin where stored chunks of lines do."""
    kept = tuple((n,) for n in recipe.shape[1:])
    item = max(1, prod(recipe.shape[1:]) * recipe.dtype.itemsize)
    limit = FOREIGN_TASK if receives_blocks(recipe.parent) else READ
    stored_chunks = max(1, limit // _line_bytes(recipe) // recipe.stored_lines)
    cuts = recipe.ends[:: max(1, recipe.stored_lines)]
    if cuts[-1] != recipe.ends[-1] or len(cuts) == 1:
        cuts = np.append(cuts, recipe.ends[-1])
    edges, at = [0], 0
    while at < len(cuts) - 1:
        fits = int(np.searchsorted(cuts, cuts[at] + max(1, room // item), "right")) - 1
        at = min(max(fits, at + 1), at + stored_chunks, len(cuts) - 1)
        edges.append(int(cuts[at]))
    sizes = tuple(int(n) for n in np.diff(edges) if n)
    return (sizes or (0,), *kept)


def ragged(
    kernel: Kernel,
    stack: xr.DataArray,
    mask: xr.DataArray,
    counts: xr.DataArray | None = None,
    *,
    frame: str | None = None,
    dtype: np.dtype[Any] | None = None,
    title: str = "ragged",
) -> xr.DataArray:
    """Unequal lengths with known sizes: ``kernel(block, flags) -> observations`` of some frames.

    A block has the dim ``frame`` (the stack's first by default), the other dims of the mask, and
    then the rest of the stack's; flags have those of the mask, with one frame if all frames share
    them. Observations follow each other along ``obs``, frame by frame. ``counts`` are their numbers
    per frame, or per index of the mask's first other dim too; without them the mask is counted now.
    """
    frame = frame or str(require_stack(stack).dims[0])
    selected = tuple(str(d) for d in mask.dims if d != frame)
    kept = tuple(str(d) for d in stack.dims if d not in (frame, *selected))
    if counts is None:
        counts = xr.DataArray(np.asarray(mask.data, bool), dims=mask.dims).sum(selected)
    n = lengths_of((stack, mask, counts))[frame]
    line_dims = [d for d in selected if d in counts.dims]
    values = counts.transpose(*(d for d in (frame, *line_dims) if d in counts.dims)).values
    lines = values.shape[values.ndim - len(line_dims) :]
    line_counts = np.broadcast_to(values, (n, *lines)).reshape(n, prod(lines))
    orders = axis_order(stack, (frame, *selected, *kept)), axis_order(mask, (frame, *selected))
    build = partial(
        ragged_array, kernel, orders, line_counts, np.dtype(dtype or stack.dtype), title
    )
    data = defer_or_compute(build, operands((stack, mask)))
    return labelled(data, ("obs", *kept), stack)


# rows of one length ------------------------------------------------------------------------------

#: ``kernel(values, row_sizes, out, first)`` writes rows of values to the frames of ``out``, whose
#: element 0 is element ``first`` of each row
PadKernel = Callable[[Array, Array, Array, int], None]


@dataclass(frozen=True, eq=False)
class Padded(Recipe):
    """The rows of the parent, one after the other there, as (row, place in the row, ...)."""

    kernel: PadKernel
    parents: tuple[Recipe]
    row_sizes: Array
    fill: Any

    @cached_property
    def ends(self) -> Array:
        """Positions where every row begins, and where the last one ends."""
        return np.concatenate([[0], np.cumsum(self.row_sizes, dtype=np.int64)])

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        longest = int(self.row_sizes.max(initial=0))
        return (len(self.row_sizes), longest, *self.parent.shape[1:])

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        chunk = self.parent.preferred_chunk
        rows = chunk[0] * len(self.row_sizes) // max(1, self.parent.shape[0])
        return (max(1, min(rows, len(self.row_sizes))), max(1, self.shape[1]), *chunk[1:])

    @cached_property
    def token(self) -> str:
        return str(tokenize("padded", self.kernel, self.parent.token, self.row_sizes, self.fill))

    def dependencies(self, region: Region) -> list[Dependency]:
        rows = region[0]
        return [(0, (slice(int(self.ends[rows.start]), int(self.ends[rows.stop])), *region[2:]))]

    def compute(self, region: Region, inputs: Sequence[Array], out: Array | None = None) -> Array:
        rows = np.empty(regions.lengths(region), self.dtype) if out is None else out
        rows[...] = self.fill
        if inputs[0].size and rows.size:
            self.kernel(inputs[0], self.row_sizes[region[0]], rows, region[1].start)
        return rows


def padded(
    kernel: PadKernel,
    values: xr.DataArray,
    row_size: xr.DataArray,
    dim: str,
    *,
    fill: Any,
    title: str = "pad",
) -> xr.DataArray:
    """Return the rows of ``values`` along its first dim as (the dim of ``row_size``, ``dim``, ...).

    ``row_size`` is in memory. Places beyond the end of a row are ``fill``.
    """
    arrays = operands((require_stack(values),))
    sizes = np.asarray(row_size.data, np.int64)
    data = defer_or_compute(partial(_padded, kernel, sizes, fill, title), arrays)
    dims = (str(row_size.dims[0]), dim, *(str(d) for d in values.dims[1:]))
    coords = {n: c.variable for n, c in values.coords.items() if values.dims[0] not in c.dims}
    coords |= {n: c.variable for n, c in row_size.coords.items()}
    return data_array(data, coords, dims, values.name, values.attrs)


def _padded(kernel: PadKernel, sizes: Array, fill: Any, title: str, array: Any) -> BlockedRecipe:
    recipe = Padded(kernel, (recipe_of(array),), sizes, fill)
    row_bytes = max(1, prod(recipe.shape[1:]) * recipe.dtype.itemsize)
    rows = regions.uniform_chunks(recipe.shape[0], max(1, _block_bytes() // row_bytes))
    return BlockedRecipe(recipe, (rows, *((n,) for n in recipe.shape[1:])), title)

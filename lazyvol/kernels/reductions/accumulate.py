"""Accumulate the rows of a block into sums, sums of squares and extremes, one value per column.

A row is a run of contiguous memory. If the axes after the reduced ones are long, they are the rows,
and each column is a kept element. If they are short, rows are cut from the flattened block (an
image of colours becomes rows of thousands of values) and columns are merged at the end.

The loops are in ``row_loops``, one per statistic; several loops process a tile, which stays in the
L2 cache, before the next tile.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels import arrays
from lazyvol.kernels._numba import Kernel, compiled
from lazyvol.kernels.reductions import row_loops

Array = np.ndarray[Any, np.dtype[Any]]
#: a loop over rows, and the arrays that it adds to
Loop = tuple[Kernel, tuple[Array, ...]]

#: bytes of a tile for several loops (with 1 MB a variance takes 1.15 times as long, with 256 kB
#: 1.3), and for a single loop
TILE, LONE_TILE = 2**21, 2**24
#: most rows in a tile: their offsets take 1 MB
ROWS = 2**16
#: fewest and most columns of rows that are cut from a flattened block
FEWEST, MOST = 64, 1024
#: longest axis after the reduced ones for which blocks are flattened. The mean colour of an image
#: in memory, (1314, 489, 3): 0.02 Gvoxel/s without, 6 with
SHORT = 32
#: repetitions of a flag that have a separate loop, see ``_repeater``
FEW_TIMES = 4
#: bits of a float64 mantissa
MANTISSA = 53


def accumulate(
    block: Array, axes: Sequence[int], mask: Array | None, parts: Mapping[str, tuple[Array, ...]],
    wide: bool,
) -> None:  # fmt: skip
    """Add a block, reduced over ``axes``, to arrays of shape (before, after).

    ``mask`` has the block's three axes (before, reduced, after), each of length 1 where the mask is
    constant. ``parts`` are among sum and square, each with its rounding error, low and high.
    ``wide`` is True if squares are not exact in float64.
    """
    after = arrays.trailing_size(block.shape, axes)
    reduced = prod(block.shape[a] for a in axes)
    if after > 1 and (after > SHORT or reduced < FEWEST):
        _accumulate_rows(arrays.strided_rows(block, axes), mask, parts, wide)
    else:
        rows = arrays.as_three_axes(block, axes).reshape(-1, reduced * after)
        _accumulate_stretches(arrays.read_only(rows), after, mask, parts, wide)


def _accumulate_rows(
    rows: arrays.StridedRows,
    mask: Array | None,
    parts: Mapping[str, tuple[Array, ...]],
    wide: bool,
) -> None:
    """Add rows, tile by tile, to the results of their kept elements."""
    by_column = mask is not None and mask.shape[2] > 1
    loops = list(_loops_over_rows(parts, wide, by_column))
    shape = (rows.kept_offsets.size, rows.reduced_offsets.size, rows.length)
    for kept, reduced, columns in _row_tiles(shape, rows.values.itemsize, len(loops) > 1):
        starts = rows.kept_offsets[kept, None] + rows.reduced_offsets[None, reduced]
        bounds = np.arange(len(starts) + 1) * starts.shape[1]
        flags: tuple[Array, ...] = ()
        if mask is not None and by_column:
            numbers = np.arange(mask.shape[0] * mask.shape[1]).reshape(mask.shape[:2])
            flag_starts = np.broadcast_to(numbers, shape[:2])[kept, reduced] * rows.length
            flags = (arrays.read_only(mask.reshape(-1)), flag_starts.reshape(-1))
        elif mask is not None:
            is_set = np.broadcast_to(mask[..., 0], shape[:2])[kept, reduced]
            bounds = np.append(0, np.cumsum(np.count_nonzero(is_set, axis=1)))
            starts = starts[is_set]
        for loop, results in loops:
            loop(
                rows.values, starts.reshape(-1), bounds, columns.start, columns.stop, *flags,
                *(r[kept] for r in results),
            )  # fmt: skip


def _loops_over_rows(
    parts: Mapping[str, tuple[Array, ...]], wide: bool, flagged: bool
) -> Iterator[Loop]:
    """Yield the loop of each part; values and exact squares without flags have a common one."""
    sums = row_loops.sums_of_flagged_rows if flagged else row_loops.sums_of_rows
    extremes = row_loops.extremes_of_flagged_rows if flagged else row_loops.extremes_of_rows
    together = {"sum", "square"} <= set(parts) and not (wide or flagged)
    if together:
        yield row_loops.sums_and_squares_of_rows, (*parts["sum"], *parts["square"])
    for part, results in parts.items():
        if part in ("low", "high"):
            yield extremes(part == "high"), results
        elif not together:
            yield sums(part == "square", part == "square" and wide), results


def _row_tiles(
    shape: tuple[int, int, int], item: int, several: bool
) -> Iterator[tuple[slice, slice, slice]]:
    """Yield tiles of (kept, reduced, columns) for one loop or ``several``."""
    kept, reduced, length = shape
    budget = (TILE if several else LONE_TILE) // item
    columns = min(length, max(row_loops.COLUMNS, budget // max(1, reduced)))
    rows = min(reduced, ROWS, max(4, budget // columns // 4 * 4))
    together = max(1, min(budget // (columns * rows), ROWS // rows)) if columns == length else 1
    yield from product(_spans(kept, together), _spans(reduced, rows), _spans(length, columns))


def _spans(length: int, step: int) -> list[slice]:
    return [slice(i, min(length, i + step)) for i in range(0, length, step)]


def _accumulate_stretches(
    values: Array,
    after: int,
    mask: Array | None,
    parts: Mapping[str, tuple[Array, ...]],
    wide: bool,
) -> None:
    """Add (before, reduced * after) values, tile by tile, to results (before, after)."""
    before, size = values.shape
    width = min(max(FEWEST, min(MOST, size // 32)) // after * after, size)
    loops = list(_loops_over_stretches(parts, wide, _exact(values, width), mask is not None))
    flags = None if mask is None else _flag_rows(mask, size // after)
    times = 1 if mask is None else after // mask.shape[2]
    budget = (TILE if len(loops) > 1 or times > 1 else LONE_TILE) // values.itemsize
    memory = np.empty(budget if times > 1 else 0, np.uint8)  # reused: new memory costs page faults
    step = max(1, budget // width) * width
    for stretch in _spans(size, step):
        for kept in _spans(before, max(1, budget // min(size, step))):
            own = () if flags is None else (_repeated(flags, kept, stretch, times, memory),)
            for loop, results in loops:
                loop(values[kept, stretch], width, *own, *(r[kept] for r in results))


def _loops_over_stretches(
    parts: Mapping[str, tuple[Array, ...]], wide: bool, exact: bool, flagged: bool
) -> Iterator[Loop]:
    """Yield the loop of each part."""
    sums = row_loops.sums_of_flagged_stretches if flagged else row_loops.sums_of_stretches
    extremes = (
        row_loops.extremes_of_flagged_stretches if flagged else row_loops.extremes_of_stretches
    )
    for part, results in parts.items():
        if part in ("low", "high"):
            yield extremes(part == "high"), results
        elif part == "square":
            yield sums(True, wide, False), results
        else:
            yield sums(False, False, exact), results


def _exact(values: Array, width: int) -> bool:
    """Return True if sums of every ``width``-th value are exact in float64."""
    bits = 8 * values.itemsize + (values.shape[1] // width + 1).bit_length()
    return values.dtype.kind in "iub" and bits <= MANTISSA


# flags -----------------------------------------------------------------------------------------


def _flag_rows(mask: Array, reduced: int) -> Array:
    """Return flags as bytes, (1 or before, reduced * 1 or after)."""
    if mask.shape[1] < reduced:
        mask = np.repeat(mask, reduced, axis=1)
    return arrays.read_only(mask.reshape(mask.shape[0], -1).view(np.uint8))


def _repeated(flags: Array, kept: slice, stretch: slice, times: int, memory: Array) -> Array:
    """Return the flags of a tile of values, each ``times`` times, in ``memory``."""
    part = flags[
        kept if len(flags) > 1 else slice(1), stretch.start // times : stretch.stop // times
    ]
    if times == 1:
        return part
    repeated = memory[: part.size * times]
    repeat = _repeater(times if times <= FEW_TIMES else 0)
    repeat(part.reshape(-1), times, repeated)
    return arrays.read_only(repeated.reshape(len(part), -1))


@cache
def _repeater(fixed: int) -> Kernel:
    """Return a loop that repeats each flag ``times`` times, or a ``fixed`` number of times.

    A number that is known when the loop is compiled lets it use vector registers: 0.03 ms for
    the flags of an image (1314, 489, 3), 0.4 otherwise.
    """

    @compiled
    def repeat(flags, times, repeated):  # type: ignore[no-untyped-def]
        n = fixed if fixed else times
        for i in range(flags.size):
            for c in range(n):
                repeated[i * n + c] = flags[i]

    return repeat

"""Accumulate the rows of a block into sums, sums of squares and extremes, one value per column.

A row is a stretch of contiguous memory. If the axes after the reduced ones are long, they are the
rows, and each column is a kept element. If they are short, rows are cut from the flattened block
(an image of colours becomes rows of thousands of values) and columns are merged at the end.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels import arrays
from lazyvol.kernels._numba import Kernel, compiled
from lazyvol.kernels.reductions.double_double import two_product, two_sum

Array = np.ndarray[Any, np.dtype[Any]]

#: columns of long rows that are accumulated together: their sums (64 kB) stay in the second cache
#: (512 columns: 2.8 GB/s of float32, 2048: 3.2, 8192: 3.3)
COLUMNS = 2048
#: fewest and most columns of rows that are cut from a flattened block
FEWEST, MOST = 64, 1024
#: rows of a flattened block that one call adds: a call costs 0.1 us, as much as a row
BATCH = 16
#: longest axis after the reduced ones for which blocks are flattened. The mean colour of an image
#: in memory, (1314, 489, 3): 0.02 Gvoxel/s without, 6 with
SHORT = 32
#: bits of a float64 mantissa
MANTISSA = 53
UNSIGNED = np.uint64


def accumulate(
    block: Array,
    axes: Sequence[int],
    mask: Array | None,
    sums: tuple[Array, ...],
    extremes: tuple[Array, Array],
    wanted: tuple[bool, bool, bool, bool],
    wide: bool,
    neutral: Array,
) -> None:
    """Add a block, reduced over ``axes``, to sums and extremes of shape (before, after).

    ``mask`` has the block's three axes (before, reduced, after), each of length 1 where the mask
    is constant. ``sums`` are sum, its rest, sum of squares and its rest; ``extremes`` minimum and
    maximum. ``wanted`` are flags of sum, squares, minimum and maximum: arrays of the others are
    ignored. ``wide`` says that squares are not exact in float64. ``neutral`` holds the largest and
    the smallest number of the block's dtype.
    """
    flags = np.ones((1, 1, 1), bool) if mask is None else mask
    after = arrays.trailing_size(block.shape, axes)
    reduced = np.prod([block.shape[a] for a in axes], dtype=int)
    if after > 1 and (after > SHORT or reduced < FEWEST):
        rows = arrays.strided_rows(block, axes)
        _accumulate_long_rows(
            rows.values, rows.kept_offsets, rows.reduced_offsets, rows.length, flags, sums,
            extremes, wanted, wide,
        )  # fmt: skip
        return
    flat = arrays.as_three_axes(block, axes).reshape(-1, reduced * after)
    width = min(max(FEWEST, min(MOST, flat.shape[1] // 32)) // after * after, flat.shape[1])
    rows_per_column = flat.shape[1] // width + 1
    bits = 8 * flat.itemsize + rows_per_column.bit_length()
    exact = flat.dtype.kind in "iub" and bits <= MANTISSA
    if mask is not None and flags.shape[1] < reduced:
        flags = np.repeat(flags, reduced, axis=1)
    _accumulate_flat(
        flat, flags, mask is not None, width, after, sums, extremes, wanted, wide, exact, neutral
    )


@compiled
def _accumulate_long_rows(  # type: ignore[no-untyped-def]
    x, kept_offsets, reduced_offsets, length, flags, sums, extremes, wanted, wide
):
    """Accumulate rows that start at every sum of a kept and a reduced offset of flat ``x``."""
    per_column = flags.shape[2] > 1
    flat_flags = flags.reshape(-1) if per_column else np.ones(min(COLUMNS, length), np.bool_)
    starts = np.empty(reduced_offsets.size, np.int64)
    flag_starts = np.zeros(reduced_offsets.size, np.int64)
    for a in range(kept_offsets.size):
        m = a if flags.shape[0] > 1 else 0
        count = 0
        for r in range(reduced_offsets.size):
            row = r if flags.shape[1] > 1 else 0
            if per_column or flags[m, row, 0]:
                starts[count] = kept_offsets[a] + reduced_offsets[r]
                if per_column:
                    flag_starts[count] = (m * flags.shape[1] + row) * length
                count += 1
        for first in range(0, length, COLUMNS):
            n = min(COLUMNS, length - first)
            if per_column and first:
                flag_starts += COLUMNS
            _add_spaced_rows(
                x, first, starts[:count], n, flat_flags, flag_starts[:count], per_column,
                (
                    _columns(sums[0], wanted[0], a, first, n),
                    _columns(sums[1], wanted[0], a, first, n),
                    _columns(sums[2], wanted[1], a, first, n),
                    _columns(sums[3], wanted[1], a, first, n),
                ),
                (
                    _columns(extremes[0], wanted[2], a, first, n),
                    _columns(extremes[1], wanted[3], a, first, n),
                ),
                wanted, wide,
            )  # fmt: skip


@compiled
def _columns(part, wanted, a, first, n):  # type: ignore[no-untyped-def]
    return part[a, first : first + n] if wanted else part[0, :0]


def _repeater(fixed: int) -> Kernel:
    """Return a kernel that repeats each flag ``times`` times, or a ``fixed`` number of times.

    A number that is known when the kernel is compiled lets it use vector registers: 0.03 ms for
    the flags of an image (1314, 489, 3), 0.4 otherwise.
    """

    @compiled
    def repeat(flags, times, repeated):  # type: ignore[no-untyped-def]
        n = fixed if fixed else times
        for i in range(flags.size):
            for c in range(n):
                repeated[i * n + c] = flags[i]

    return repeat


_repeat_any, _repeat_once = _repeater(0), _repeater(1)
_repeat_twice, _repeat_thrice, _repeat_four_times = _repeater(2), _repeater(3), _repeater(4)


@compiled
def _repeat(flags, times, repeated):  # type: ignore[no-untyped-def]
    if times == 1:
        _repeat_once(flags, times, repeated)
    elif times == 2:
        _repeat_twice(flags, times, repeated)
    elif times == 3:
        _repeat_thrice(flags, times, repeated)
    elif times == 4:
        _repeat_four_times(flags, times, repeated)
    else:
        _repeat_any(flags, times, repeated)


@compiled
def _rows_with_set_flags(flags, per_row, is_set):  # type: ignore[no-untyped-def]
    """Mark the rows, of ``per_row`` flags each, that have a flag set.

    Bytes are joined by ``|``, which takes vector registers: 0.07 ms for 2 million flags, 1.6 with
    flags of one bit.
    """
    flag_bytes = flags.view(np.uint8)
    for row in range(is_set.size):
        last = UNSIGNED(min((row + 1) * per_row, flags.size))
        joined = np.uint8(0)
        for i in range(UNSIGNED(row * per_row), last):
            joined = np.uint8(joined | flag_bytes[i])
        is_set[row] = joined != 0


@compiled
def _next_run(is_set, first):  # type: ignore[no-untyped-def]
    """Return the next run of marked rows from ``first`` on, of at most ``BATCH`` rows."""
    while first < is_set.size and not is_set[first]:
        first += 1
    last = first
    while last < min(is_set.size, first + BATCH) and is_set[last]:
        last += 1
    return first, last


@compiled
def _accumulate_flat(  # type: ignore[no-untyped-def]
    x, flags, masked, width, after, sums, extremes, wanted, wide, exact, neutral
):
    """Cut each row of ``x`` into rows of ``width``, and merge columns ``after`` apart."""
    total = x.shape[1]
    times = after // flags.shape[2]
    values, flat_flags = x.reshape(-1), flags.reshape(-1)
    own = np.ones(BATCH * width, np.bool_)
    is_set = np.ones(-(-total // width), np.bool_)
    block_flags = flat_flags
    partial = (np.empty(width), np.empty(width), np.empty(width), np.empty(width))
    ends = (np.empty(width, x.dtype), np.empty(width, x.dtype))
    for a in range(x.shape[0]):
        for j in range(width):
            partial[0][j], partial[1][j], partial[2][j], partial[3][j] = 0.0, 0.0, 0.0, 0.0
            ends[0][j], ends[1][j] = neutral[0], neutral[1]
        if masked and (a == 0 or flags.shape[0] > 1):
            block_flags = flat_flags[a * total // times : (a + 1) * total // times]
            _rows_with_set_flags(block_flags, width // times, is_set)
        first_row, last_row = _next_run(is_set, 0)
        while first_row < is_set.size:
            first, last = first_row * width, min(last_row * width, total)
            batch_flags = own[: last - first]
            if masked and times > 1:
                _repeat(block_flags[first // times : last // times], times, own)
            elif masked:
                batch_flags = block_flags[first:last]
            _add_rows(
                values[a * total + first : a * total + last], batch_flags, partial, ends, wanted,
                wide, exact,
            )  # fmt: skip
            first_row, last_row = _next_run(is_set, last_row)
        for i in range(0, width, after):
            for c in range(after):
                j = i + c
                if wanted[0]:
                    sums[0][a, c], error = two_sum(sums[0][a, c], partial[0][j])
                    sums[1][a, c] += error + partial[1][j]
                if wanted[1]:
                    sums[2][a, c], error = two_sum(sums[2][a, c], partial[2][j])
                    sums[3][a, c] += error + partial[3][j]
                if wanted[2]:
                    extremes[0][a, c] = _smaller(ends[0][j], extremes[0][a, c])
                if wanted[3]:
                    extremes[1][a, c] = _larger(ends[1][j], extremes[1][a, c])


@compiled
def _add_spaced_rows(  # type: ignore[no-untyped-def]
    x, first, starts, n, flags, flag_starts, masked, sums, extremes, wanted, wide
):
    """Add the rows of ``n`` values from ``first + starts`` on, where their flags are set.

    Without a mask four rows are added at a time: 6 GB/s of float32 against 2.5 for one by one,
    which load and store the sums for each row.
    """
    simple = not (masked or (wide and wanted[1]))
    in_fours = starts.size // 4 * 4 if simple else 0
    for i in range(0, in_fours, 4):
        a, b = _row(x, first + starts[i], n), _row(x, first + starts[i + 1], n)
        c, d = _row(x, first + starts[i + 2], n), _row(x, first + starts[i + 3], n)
        if wanted[0] and wanted[1]:
            _add_four_values_and_squares(a, b, c, d, *sums)
        elif wanted[0]:
            _add_four_values(a, b, c, d, *sums)
        elif wanted[1]:
            _add_four_squares(a, b, c, d, *sums)
        if wanted[2]:
            _take_smallest_of_four(a, b, c, d, extremes[0])
        if wanted[3]:
            _take_largest_of_four(a, b, c, d, extremes[1])
    for i in range(in_fours, starts.size):
        row, own = _row(x, first + starts[i], n), _row(flags, flag_starts[i], n)
        if not (simple and wanted[0] and wanted[1]):
            _add_rows(row, own, sums, extremes, wanted, wide, False)
            continue
        _add_values_and_squares(row, *sums)
        if wanted[2]:
            _take_smaller(row, own, extremes[0])
        if wanted[3]:
            _take_larger(row, own, extremes[1])


@compiled
def _row(x, start, n):  # type: ignore[no-untyped-def]
    return x[start : start + n]


@compiled
def _add_rows(x, own, sums, extremes, wanted, wide, exact):  # type: ignore[no-untyped-def]
    """Add contiguous rows, as long as the sums; the last one may be shorter."""
    if wanted[0] and exact:
        _add_exactly(x, own, sums[0])
    elif wanted[0]:
        _add_values(x, own, sums[0], sums[1])
    if wanted[1] and wide:
        _add_wide_squares(x, own, sums[2], sums[3])
    elif wanted[1]:
        _add_squares(x, own, sums[2], sums[3])
    if wanted[2]:
        _take_smaller(x, own, extremes[0])
    if wanted[3]:
        _take_larger(x, own, extremes[1])


@compiled
def _add_values_and_squares(x, high, low, high2, low2):  # type: ignore[no-untyped-def]
    for j in range(x.size):
        v = np.float64(x[j])
        high[j], error = two_sum(high[j], v)
        low[j] += error
        high2[j], error = two_sum(high2[j], v * v)
        low2[j] += error


# In the kernels below indices are unsigned, since a check of their sign would keep loops out of
# vector registers. Sums are selected by flags, not values: to select float64 values before they
# are added takes five times as long.


@compiled
def _add_values(x, own, high, low):  # type: ignore[no-untyped-def]
    width, size = UNSIGNED(high.size), UNSIGNED(x.size)
    for first in range(UNSIGNED(0), size, width):
        for j in range(min(width, size - first)):
            total, error = two_sum(high[j], np.float64(x[first + j]))
            high[j] = total if own[first + j] else high[j]
            low[j] += error if own[first + j] else 0.0


@compiled
def _add_exactly(x, own, high):  # type: ignore[no-untyped-def]
    """Add integers whose sums are exact in float64."""
    width, size = UNSIGNED(high.size), UNSIGNED(x.size)
    for first in range(UNSIGNED(0), size, width):
        for j in range(min(width, size - first)):
            total = high[j] + np.float64(x[first + j])
            high[j] = total if own[first + j] else high[j]


@compiled
def _add_squares(x, own, high, low):  # type: ignore[no-untyped-def]
    """Add squares that are exact in float64, those of values of at most 26 bits."""
    width, size = UNSIGNED(high.size), UNSIGNED(x.size)
    for first in range(UNSIGNED(0), size, width):
        for j in range(min(width, size - first)):
            v = np.float64(x[first + j])
            total, error = two_sum(high[j], v * v)
            high[j] = total if own[first + j] else high[j]
            low[j] += error if own[first + j] else 0.0


@compiled
def _add_wide_squares(x, own, high, low):  # type: ignore[no-untyped-def]
    """Add squares of float64 and wide integers with their rounding errors."""
    width, size = UNSIGNED(high.size), UNSIGNED(x.size)
    for first in range(UNSIGNED(0), size, width):
        for j in range(min(width, size - first)):
            v = np.float64(x[first + j])
            square, rest = two_product(v, v)
            total, error = two_sum(high[j], square)
            high[j] = total if own[first + j] else high[j]
            low[j] += error + rest if own[first + j] else 0.0


@compiled
def _take_smaller(x, own, low):  # type: ignore[no-untyped-def]
    width, size = UNSIGNED(low.size), UNSIGNED(x.size)
    for first in range(UNSIGNED(0), size, width):
        for j in range(min(width, size - first)):
            smaller = _smaller(x[first + j], low[j])
            low[j] = smaller if own[first + j] else low[j]


@compiled
def _take_larger(x, own, high):  # type: ignore[no-untyped-def]
    width, size = UNSIGNED(high.size), UNSIGNED(x.size)
    for first in range(UNSIGNED(0), size, width):
        for j in range(min(width, size - first)):
            larger = _larger(x[first + j], high[j])
            high[j] = larger if own[first + j] else high[j]


@compiled
def _smaller(value, low):  # type: ignore[no-untyped-def]
    """Return the smaller of two numbers, NaN if either is."""
    return value if value < low or value != value else low


@compiled
def _larger(value, high):  # type: ignore[no-untyped-def]
    """Return the larger of two numbers, NaN if either is."""
    return value if value > high or value != value else high


@compiled
def _take_smallest_of_four(a, b, c, d, low):  # type: ignore[no-untyped-def]
    for j in range(a.size):
        low[j] = _smaller(a[j], _smaller(b[j], _smaller(c[j], _smaller(d[j], low[j]))))


@compiled
def _take_largest_of_four(a, b, c, d, high):  # type: ignore[no-untyped-def]
    for j in range(a.size):
        high[j] = _larger(a[j], _larger(b[j], _larger(c[j], _larger(d[j], high[j]))))


def _four_row_kernel(values: bool, squares: bool) -> Kernel:
    """Return a kernel that adds four rows, their squares, or both to the sums of columns."""

    @compiled
    def add_four(a, b, c, d, high, low, high2, low2):  # type: ignore[no-untyped-def]
        for j in range(a.size):
            s, rest, s2, rest2 = 0.0, 0.0, 0.0, 0.0
            if values:
                s, rest = high[j], low[j]
            if squares:
                s2, rest2 = high2[j], low2[j]
            for value in (a[j], b[j], c[j], d[j]):
                v = np.float64(value)
                if values:
                    s, error = two_sum(s, v)
                    rest += error
                if squares:
                    s2, error = two_sum(s2, v * v)
                    rest2 += error
            if values:
                high[j], low[j] = s, rest
            if squares:
                high2[j], low2[j] = s2, rest2

    return add_four


_add_four_values, _add_four_squares = _four_row_kernel(True, False), _four_row_kernel(False, True)
_add_four_values_and_squares = _four_row_kernel(True, True)

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
#: longest axis after the reduced ones for which blocks are flattened. The mean colour of an image
#: in memory, (1314, 489, 3): 0.02 Gvoxel/s without, 6 with
SHORT = 32
#: bits of a float64 mantissa
MANTISSA = 53


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
    masked = not flags.all() if flags.size == 1 else True
    _accumulate_flat(
        flat, _per_element(flags, reduced, after) if masked else flags[0], masked, width, after,
        sums, extremes, wanted, wide, exact, neutral,
    )  # fmt: skip


def _per_element(flags: Array, reduced: int, after: int) -> Array:
    """Return flags (before or 1, reduced * after) of a flattened block."""
    flags = np.repeat(flags, reduced // flags.shape[1], axis=1)
    before, rows, columns = flags.shape
    if columns == after:
        return flags.reshape(before, -1)
    repeated = np.empty((before, rows * after), bool)
    _repeat_each[after if after in _repeat_each else 0](flags.reshape(-1), after, repeated.ravel())
    return repeated


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


_repeat_each = {n: _repeater(n) for n in (0, 2, 3, 4)}


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
            _add_rows(
                x, first, starts[:count], n, flat_flags, first if per_column else 0,
                flag_starts[:count], per_column,
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
                wanted, wide, False,
            )  # fmt: skip


@compiled
def _columns(part, wanted, a, first, n):  # type: ignore[no-untyped-def]
    return part[a, first : first + n] if wanted else part[0, :0]


@compiled
def _accumulate_flat(  # type: ignore[no-untyped-def]
    x, flags, masked, width, after, sums, extremes, wanted, wide, exact, neutral
):
    """Cut each row of ``x`` into rows of ``width``, and merge columns ``after`` apart."""
    total = x.shape[1]
    starts = width * np.arange(total // width)
    rest = total - total // width * width
    flag_starts = starts if masked else np.zeros(starts.size, np.int64)
    first = np.zeros(1, np.int64)
    partial = (np.empty(width), np.empty(width), np.empty(width), np.empty(width))
    ends = (np.empty(width, x.dtype), np.empty(width, x.dtype))
    flat_flags = flags.reshape(-1) if masked else np.ones(width, np.bool_)
    for a in range(x.shape[0]):
        for part in partial:
            part[:] = 0.0
        ends[0][:], ends[1][:] = neutral[0], neutral[1]
        m = a * total if masked and flags.shape[0] > 1 else 0
        _add_rows(
            x[a], 0, starts, width, flat_flags, m, flag_starts, masked, partial, ends, wanted,
            wide, exact,
        )  # fmt: skip
        if rest:
            _add_rows(
                x[a], total - rest, first, rest, flat_flags, m + total - rest if masked else 0,
                first, masked,
                (partial[0][:rest], partial[1][:rest], partial[2][:rest], partial[3][:rest]),
                (ends[0][:rest], ends[1][:rest]), wanted, wide, exact,
            )  # fmt: skip
        for i in range(0, width, after):
            for c in range(after):
                j = i + c
                for p in range(0, 4, 2):
                    if wanted[p // 2]:
                        sums[p][a, c], error = two_sum(sums[p][a, c], partial[p][j])
                        sums[p + 1][a, c] += error + partial[p + 1][j]
                if wanted[2]:
                    extremes[0][a, c] = _smaller(ends[0][j], extremes[0][a, c])
                if wanted[3]:
                    extremes[1][a, c] = _larger(ends[1][j], extremes[1][a, c])


@compiled
def _add_rows(  # type: ignore[no-untyped-def]
    x, base, starts, n, flags, flag_base, flag_starts, masked, sums, extremes, wanted, wide, exact
):
    """Add the rows of ``n`` values from ``base + starts`` on, where their flags are set.

    Without a mask four rows are added at a time: 6 GB/s of float32 against 2.5 for one by one,
    which load and store the sums for each row.
    """
    in_fours = 0
    if (wanted[0] or wanted[1]) and not (masked or wide):
        in_fours = starts.size // 4 * 4
    for i in range(0, in_fours, 4):
        first = base + starts[i : i + 4]
        a, b = x[first[0] : first[0] + n], x[first[1] : first[1] + n]
        c, d = x[first[2] : first[2] + n], x[first[3] : first[3] + n]
        if wanted[0] and wanted[1]:
            _add_four_values_and_squares(a, b, c, d, *sums)
        elif wanted[1]:
            _add_four_squares(a, b, c, d, *sums)
        elif exact:
            _add_four_exactly(a, b, c, d, *sums)
        else:
            _add_four_values(a, b, c, d, *sums)
    for i in range(starts.size):
        row = x[base + starts[i] : base + starts[i] + n]
        own = flags[flag_base + flag_starts[i] : flag_base + flag_starts[i] + n]
        if i >= in_fours:
            _add_row(row, own, sums, wanted, wide, exact)
        if wanted[2]:
            _take_smaller(row, own, extremes[0])
        if wanted[3]:
            _take_larger(row, own, extremes[1])


@compiled
def _add_row(row, own, sums, wanted, wide, exact):  # type: ignore[no-untyped-def]
    if wanted[0] and exact:
        _add_exactly(row, own, sums[0])
    elif wanted[0]:
        _add_values(row, own, sums[0], sums[1])
    if wanted[1] and wide:
        _add_wide_squares(row, own, sums[2], sums[3])
    elif wanted[1]:
        _add_squares(row, own, sums[2], sums[3])


# Sums are selected by the flag, not values: float64 selected before they are added take five times
# as long.


@compiled
def _add_values(x, own, high, low):  # type: ignore[no-untyped-def]
    for j in range(x.size):
        total, error = two_sum(high[j], np.float64(x[j]))
        high[j] = total if own[j] else high[j]
        low[j] += error if own[j] else 0.0


@compiled
def _add_exactly(x, own, high):  # type: ignore[no-untyped-def]
    """Add integers whose sum is exact in float64."""
    for j in range(x.size):
        total = high[j] + np.float64(x[j])
        high[j] = total if own[j] else high[j]


@compiled
def _add_squares(x, own, high, low):  # type: ignore[no-untyped-def]
    """Add squares that are exact in float64, those of values of at most 26 bits."""
    for j in range(x.size):
        total, error = two_sum(high[j], np.float64(x[j]) * np.float64(x[j]))
        high[j] = total if own[j] else high[j]
        low[j] += error if own[j] else 0.0


@compiled
def _add_wide_squares(x, own, high, low):  # type: ignore[no-untyped-def]
    """Add squares of float64 and wide integers with their rounding errors."""
    for j in range(x.size):
        square, rest = two_product(np.float64(x[j]), np.float64(x[j]))
        total, error = two_sum(high[j], square)
        high[j] = total if own[j] else high[j]
        low[j] += error + rest if own[j] else 0.0


@compiled
def _take_smaller(x, own, low):  # type: ignore[no-untyped-def]
    for j in range(x.size):
        low[j] = _smaller(x[j], low[j]) if own[j] else low[j]


@compiled
def _take_larger(x, own, high):  # type: ignore[no-untyped-def]
    for j in range(x.size):
        high[j] = _larger(x[j], high[j]) if own[j] else high[j]


@compiled
def _smaller(value, low):  # type: ignore[no-untyped-def]
    """Return the smaller of two numbers, NaN if either is."""
    return value if value < low or value != value else low


@compiled
def _larger(value, high):  # type: ignore[no-untyped-def]
    """Return the larger of two numbers, NaN if either is."""
    return value if value > high or value != value else high


def _four_row_kernel(values: bool, squares: bool, exact: bool = False) -> Kernel:
    """Return a kernel that adds four rows, their squares, or both, to the sums of the columns."""

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
                if values and exact:
                    s += v
                elif values:
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


_add_four_values = _four_row_kernel(True, False)
_add_four_exactly = _four_row_kernel(True, False, exact=True)
_add_four_squares = _four_row_kernel(False, True)
_add_four_values_and_squares = _four_row_kernel(True, True)

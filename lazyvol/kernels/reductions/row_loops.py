"""Compiled loops that add rows of values to sums and extremes, one value per column.

Every loop serves one statistic and is compiled when it is first used, in 0.4 s per type of values;
one function for all statistics took 7.5. Sums are double-double (see ``double_double``).

Indices are unsigned, since a check of their sign would keep loops out of vector registers. Sums are
selected by flags, not values: to select float64 values before they are added takes five times as
long.
"""

from functools import cache

import numpy as np

from lazyvol.kernels._numba import Kernel, compiled
from lazyvol.kernels.reductions.double_double import two_product, two_sum

#: columns that are accumulated together: their sums (64 kB) stay in the second cache
#: (512 columns: 2.8 GB/s of float32, 2048: 3.2, 8192: 3.3)
COLUMNS = 2048
UNSIGNED = np.uint64


@compiled
def _term(value, squares, wide):  # type: ignore[no-untyped-def]
    """Return a value or its square in float64, and its rounding error."""
    v = np.float64(value)
    if wide:
        return two_product(v, v)
    return (v * v if squares else v), 0.0


@compiled
def _bounded(value, bound, largest):  # type: ignore[no-untyped-def]
    """Return the smaller or larger of two numbers, NaN if either is."""
    beyond = value > bound if largest else value < bound
    return value if beyond or value != value else bound


# rows that start anywhere ----------------------------------------------------------------------
#
# ``x`` is flat; the rows of kept element ``a`` start at ``starts[bounds[a] : bounds[a + 1]]``, and
# their flags at the corresponding ``flag_starts``. Results have the shape (kept, columns); columns
# from ``first`` to ``last`` are added to.


@cache
def sums_of_rows(squares: bool, wide: bool) -> Kernel:
    """Return the loop that adds values, or ``squares`` with the rest of each if ``wide``.

    Four rows are added at a time: 8 GB/s of float32 against 2.5 for one by one, which load and
    store the sums for each row.
    """

    @compiled
    def add(x, starts, bounds, first, last, high, low):  # type: ignore[no-untyped-def]
        for a in range(high.shape[0]):
            total, rest = high[a], low[a]
            in_fours = bounds[a + 1] - (bounds[a + 1] - bounds[a]) % 4
            for left in range(UNSIGNED(first), UNSIGNED(last), UNSIGNED(COLUMNS)):
                right = min(UNSIGNED(last), left + UNSIGNED(COLUMNS))
                for i in range(bounds[a], in_fours, 4):
                    p, q = UNSIGNED(starts[i]), UNSIGNED(starts[i + 1])
                    r, t = UNSIGNED(starts[i + 2]), UNSIGNED(starts[i + 3])
                    for j in range(left, right):
                        s, errors = total[j], rest[j]
                        for value in (x[p + j], x[q + j], x[r + j], x[t + j]):
                            v, left_over = _term(value, squares, wide)
                            s, error = two_sum(s, v)
                            errors += error + left_over if wide else error
                        total[j], rest[j] = s, errors
                for i in range(in_fours, bounds[a + 1]):
                    p = UNSIGNED(starts[i])
                    for j in range(left, right):
                        v, left_over = _term(x[p + j], squares, wide)
                        total[j], error = two_sum(total[j], v)
                        rest[j] += error + left_over if wide else error

    return add


@compiled
def sums_and_squares_of_rows(x, starts, bounds, first, last, high, low, high2, low2):  # type: ignore[no-untyped-def]
    """Add values and their squares in one loop, which takes two thirds of the time of two."""
    for a in range(high.shape[0]):
        total, rest, total2, rest2 = high[a], low[a], high2[a], low2[a]
        in_fours = bounds[a + 1] - (bounds[a + 1] - bounds[a]) % 4
        for left in range(UNSIGNED(first), UNSIGNED(last), UNSIGNED(COLUMNS)):
            right = min(UNSIGNED(last), left + UNSIGNED(COLUMNS))
            for i in range(bounds[a], in_fours, 4):
                p, q = UNSIGNED(starts[i]), UNSIGNED(starts[i + 1])
                r, t = UNSIGNED(starts[i + 2]), UNSIGNED(starts[i + 3])
                for j in range(left, right):
                    s, errors, s2, errors2 = total[j], rest[j], total2[j], rest2[j]
                    for value in (x[p + j], x[q + j], x[r + j], x[t + j]):
                        v = np.float64(value)
                        s, error = two_sum(s, v)
                        errors += error
                        s2, error = two_sum(s2, v * v)
                        errors2 += error
                    total[j], rest[j], total2[j], rest2[j] = s, errors, s2, errors2
            for i in range(in_fours, bounds[a + 1]):
                p = UNSIGNED(starts[i])
                for j in range(left, right):
                    v = np.float64(x[p + j])
                    total[j], error = two_sum(total[j], v)
                    rest[j] += error
                    total2[j], error = two_sum(total2[j], v * v)
                    rest2[j] += error


@cache
def sums_of_flagged_rows(squares: bool, wide: bool) -> Kernel:
    """Return the loop that adds values or ``squares`` where their flags are set."""

    @compiled
    def add(x, starts, bounds, first, last, flags, flag_starts, high, low):  # type: ignore[no-untyped-def]
        for a in range(high.shape[0]):
            total, rest = high[a], low[a]
            for left in range(UNSIGNED(first), UNSIGNED(last), UNSIGNED(COLUMNS)):
                right = min(UNSIGNED(last), left + UNSIGNED(COLUMNS))
                for i in range(bounds[a], bounds[a + 1]):
                    p, f = UNSIGNED(starts[i]), UNSIGNED(flag_starts[i])
                    for j in range(left, right):
                        v, left_over = _term(x[p + j], squares, wide)
                        s, error = two_sum(total[j], v)
                        total[j] = s if flags[f + j] else total[j]
                        if wide:  # to add 0 would take as long
                            error += left_over
                        rest[j] += error if flags[f + j] else 0.0

    return add


@cache
def extremes_of_rows(largest: bool) -> Kernel:
    """Return the loop that takes the smallest or ``largest`` values, of four rows at a time."""

    @compiled
    def take(x, starts, bounds, first, last, extremes):  # type: ignore[no-untyped-def]
        for a in range(extremes.shape[0]):
            bound = extremes[a]
            in_fours = bounds[a + 1] - (bounds[a + 1] - bounds[a]) % 4
            for left in range(UNSIGNED(first), UNSIGNED(last), UNSIGNED(COLUMNS)):
                right = min(UNSIGNED(last), left + UNSIGNED(COLUMNS))
                for i in range(bounds[a], in_fours, 4):
                    p, q = UNSIGNED(starts[i]), UNSIGNED(starts[i + 1])
                    r, t = UNSIGNED(starts[i + 2]), UNSIGNED(starts[i + 3])
                    for j in range(left, right):
                        e = bound[j]
                        for value in (x[p + j], x[q + j], x[r + j], x[t + j]):
                            e = _bounded(value, e, largest)
                        bound[j] = e
                for i in range(in_fours, bounds[a + 1]):
                    p = UNSIGNED(starts[i])
                    for j in range(left, right):
                        bound[j] = _bounded(x[p + j], bound[j], largest)

    return take


@cache
def extremes_of_flagged_rows(largest: bool) -> Kernel:
    """Return the loop that takes the smallest or ``largest`` values whose flags are set."""

    @compiled
    def take(x, starts, bounds, first, last, flags, flag_starts, extremes):  # type: ignore[no-untyped-def]
        for a in range(extremes.shape[0]):
            bound = extremes[a]
            for left in range(UNSIGNED(first), UNSIGNED(last), UNSIGNED(COLUMNS)):
                right = min(UNSIGNED(last), left + UNSIGNED(COLUMNS))
                for i in range(bounds[a], bounds[a + 1]):
                    p, f = UNSIGNED(starts[i]), UNSIGNED(flag_starts[i])
                    for j in range(left, right):
                        e = _bounded(x[p + j], bound[j], largest)
                        bound[j] = e if flags[f + j] else bound[j]

    return take


# rows cut from the memory of kept elements ------------------------------------------------------
#
# ``x`` has the shape (kept, values). Each row is cut into short rows of ``width`` values, whose
# columns are merged at the end into results of shape (kept, ``after``).


@cache
def sums_of_stretches(squares: bool, wide: bool, exact: bool) -> Kernel:
    """Return the loop that adds values or ``squares``; ``exact`` values need no rest."""

    @compiled
    def add(x, width, high, low):  # type: ignore[no-untyped-def]
        size, step = UNSIGNED(x.shape[1]), UNSIGNED(width)
        total, rest = np.empty(width), np.empty(width)
        for a in range(x.shape[0]):
            for j in range(width):
                total[j], rest[j] = 0.0, 0.0
            row = x[a]
            for first in range(UNSIGNED(0), size, step):
                for j in range(min(step, size - first)):
                    v, left_over = _term(row[first + j], squares, wide)
                    if exact:
                        total[j] += v
                    else:
                        total[j], error = two_sum(total[j], v)
                        rest[j] += error + left_over if wide else error
            _merge_columns(total, rest, high[a], low[a])

    return add


@cache
def sums_of_flagged_stretches(squares: bool, wide: bool, exact: bool) -> Kernel:
    """Return the loop that adds values or ``squares`` whose flags (1 or kept, values) are set."""

    @compiled
    def add(x, width, flags, high, low):  # type: ignore[no-untyped-def]
        size, step = UNSIGNED(x.shape[1]), UNSIGNED(width)
        total, rest = np.empty(width), np.empty(width)
        for a in range(x.shape[0]):
            for j in range(width):
                total[j], rest[j] = 0.0, 0.0
            row, own = x[a], flags[a if flags.shape[0] > 1 else 0]
            for first in range(UNSIGNED(0), size, step):
                n = min(step, size - first)
                if not _any_set(own, first, n):
                    continue
                for j in range(n):
                    v, left_over = _term(row[first + j], squares, wide)
                    if exact:
                        total[j] = total[j] + v if own[first + j] else total[j]
                    else:
                        s, error = two_sum(total[j], v)
                        total[j] = s if own[first + j] else total[j]
                        if wide:  # to add 0 would take as long
                            error += left_over
                        rest[j] += error if own[first + j] else 0.0
            _merge_columns(total, rest, high[a], low[a])

    return add


@compiled
def _merge_columns(total, rest, high, low):  # type: ignore[no-untyped-def]
    """Add sums of columns to those of every ``high.size``-th column."""
    for i in range(0, total.size, high.size):
        for c in range(high.size):
            high[c], error = two_sum(high[c], total[i + c])
            low[c] += error + rest[i + c]


@compiled
def _any_set(flags, first, n):  # type: ignore[no-untyped-def]
    """Return True if one of ``n`` flags, as bytes, is set.

    All flags are combined in vector registers; stopping at the first set flag takes longer.
    """
    joined = np.uint8(0)
    for j in range(n):
        joined = np.uint8(joined | flags[first + j])
    return joined != 0


@cache
def extremes_of_stretches(largest: bool) -> Kernel:
    """Return the loop that takes the smallest or ``largest`` values."""

    @compiled
    def take(x, width, extremes):  # type: ignore[no-untyped-def]
        size, step = UNSIGNED(x.shape[1]), UNSIGNED(width)
        bound = np.empty(width, x.dtype)
        for a in range(x.shape[0]):
            row = x[a]
            _spread(extremes[a], bound)
            for first in range(UNSIGNED(0), size, step):
                for j in range(min(step, size - first)):
                    bound[j] = _bounded(row[first + j], bound[j], largest)
            _merge_bounds(bound, extremes[a], largest)

    return take


@compiled
def _spread(extremes, bound):  # type: ignore[no-untyped-def]
    """Repeat the extremes of kept elements over the columns."""
    for i in range(0, bound.size, extremes.size):
        for c in range(extremes.size):
            bound[i + c] = extremes[c]


@compiled
def _merge_bounds(bound, extremes, largest):  # type: ignore[no-untyped-def]
    """Take the extremes of every ``extremes.size``-th column."""
    for i in range(0, bound.size, extremes.size):
        for c in range(extremes.size):
            extremes[c] = _bounded(bound[i + c], extremes[c], largest)


@cache
def extremes_of_flagged_stretches(largest: bool) -> Kernel:
    """Return the loop that takes the smallest or ``largest`` values whose flags are set."""

    @compiled
    def take(x, width, flags, extremes):  # type: ignore[no-untyped-def]
        size, step = UNSIGNED(x.shape[1]), UNSIGNED(width)
        bound = np.empty(width, x.dtype)
        for a in range(x.shape[0]):
            row, own = x[a], flags[a if flags.shape[0] > 1 else 0]
            _spread(extremes[a], bound)
            for first in range(UNSIGNED(0), size, step):
                n = min(step, size - first)
                if _any_set(own, first, n):
                    for j in range(n):
                        e = _bounded(row[first + j], bound[j], largest)
                        bound[j] = e if own[first + j] else bound[j]
            _merge_bounds(bound, extremes[a], largest)

    return take

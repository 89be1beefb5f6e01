"""Correlation with dense weights that are not separable, four rows of results at a time.

Rows of results follow the longest weighted axis but the last one. The last weighted axis runs
within the rows, together with the axes after it. The order of sums depends on the weights alone.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lazyvol.kernels._numba import compiled_products
from lazyvol.kernels.filters.weighted_sums import (
    PITCH,
    ROW_RESULTS,
    VECTOR,
    add_columns,
    allocate_rows,
    copy_values,
    fits_in_row,
    split_taps,
    zero_rows,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: rows of results that share their reads: with more the buffer leaves the L1 cache, with fewer
#: more is read (7^3 weights: 11.2 ns per voxel with 8 rows, 9.8 with 32)
ROWS = 32
#: mean length of runs of taps from which four rows at a time pay: 3^3 and 4^3 weights take 3.6 and
#: 6.2 ns per voxel against 2.9 and 4.2 one result at a time, 5^3 and 6^3 6.0 and 11.2 against 8.1
#: and 14.0
MIN_RUN = 5


class Schedule(NamedTuple):
    """The reads of one result and the columns of taps in each, flattened for compiled code.

    ``row_axis`` and ``last`` are the axes along and within rows, ``reach`` the taps' extent along
    them. A read is a shift along the other axes; adjacent columns with equal numbers of taps form a
    group. ``group_starts[i]`` is the first group of read i. A group has ``taps[g]`` taps in the
    columns from ``column_starts[g]`` on, whose weights begin at ``weight_starts[g]``.
    """

    row_axis: int
    last: int
    reach: tuple[int, int]
    shifts: Array
    group_starts: Array
    taps: Array
    weight_starts: Array
    column_starts: Array
    columns: Array
    weights: Array


class _Column(NamedTuple):
    """Weights of consecutive taps along the rows; its first row and position in that row."""

    row: int
    position: int
    weights: Array


def schedule(weights: Array) -> Schedule | None:
    """Return how to sum with ``weights``, or None if too few of them are adjacent to pay."""
    weighted = [a for a, n in enumerate(weights.shape) if n > 1]
    if len(weighted) < 2:
        return None
    last = weighted[-1]
    row_axis = max(weighted[:-1], key=lambda a: (weights.shape[a], a))
    nonzero = np.moveaxis(weights != 0, row_axis, 0)
    runs = np.count_nonzero(nonzero[0]) + np.count_nonzero(nonzero[1:] & ~nonzero[:-1])
    if runs == 0 or np.count_nonzero(nonzero) < MIN_RUN * runs:
        return None
    within = last == weights.ndim - 1 and fits_in_row(weights.shape[last])
    reach = (weights.shape[row_axis] - 1, weights.shape[last] - 1 if within else 0)
    return _flatten((row_axis, last), reach, list(_reads(weights, row_axis, last, within)))


def _reads(
    weights: Array, row_axis: int, last: int, within: bool
) -> Iterator[tuple[tuple[int, ...], list[_Column]]]:
    """Yield shifts along the other axes with their columns of taps.

    The last axis is one of the other axes unless its taps are ``within`` the rows that are read.
    Columns are sorted by their number of taps.
    """
    moved = np.moveaxis(weights, (row_axis, last), (-1, -2))
    for index in np.ndindex(moved.shape[:-2]):
        runs = [(x, _runs(x if within else 0, moved[(*index, x)])) for x in range(moved.shape[-2])]
        shift = list(index)
        for axis in sorted((row_axis, last)):
            shift.insert(axis, 0)
        if within:
            columns = [c for _, run in runs for c in run]
            yield tuple(shift), sorted(columns, key=lambda c: len(c.weights))
            continue
        for x, run in runs:
            shift[last] = x
            yield tuple(shift), run


def _runs(position: int, taps: Array) -> list[_Column]:
    """Return the runs of nonzero weights, split into parts that are summed at once."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], taps != 0, [False]])))
    columns = []
    for low, high in ends.reshape(-1, 2).tolist():
        for part in split_taps(high - low):
            columns.append(_Column(low, position, taps[low : low + part]))
            low += part
    return columns


def _flatten(
    axes: tuple[int, int],
    reach: tuple[int, int],
    reads: list[tuple[tuple[int, ...], list[_Column]]],
) -> Schedule:
    """Flatten the columns of all reads; neighbours with as many taps become one group."""
    shifts: list[tuple[int, ...]] = []
    taps: list[int] = []
    group_starts, weight_starts, column_starts = [0], [], [0]
    columns: list[int] = []
    weights: list[float] = []
    for shift, read_columns in reads:
        for c in read_columns:
            if len(taps) == group_starts[-1] or taps[-1] != len(c.weights):
                taps.append(len(c.weights))
                weight_starts.append(len(weights))
                column_starts.append(len(columns))
            columns.append(c.row * PITCH + c.position)
            weights.extend(c.weights.tolist())
            column_starts[-1] = len(columns)
        if read_columns:
            shifts.append(shift)
            group_starts.append(len(taps))
    return Schedule(
        *axes, reach, np.array(shifts), np.array(group_starts), np.array(taps),
        np.array(weight_starts), np.array(column_starts), np.array(columns),
        np.array(weights, np.float64),
    )  # fmt: skip


def correlate_rows(out: Array, x: Array, plan: Schedule) -> None:
    """Write the valid part of C-contiguous ``x`` to C-contiguous ``out``."""
    axis, last = plan.row_axis, plan.last
    width = prod(out.shape[last:])
    others = [n if a < last and a != axis else 1 for a, n in enumerate(out.shape)]
    index = np.indices(others).reshape(x.ndim, -1)
    steps = [np.array(a.strides) // a.itemsize for a in (x, out)]
    _correlate_rows(
        out.reshape(-1), x.reshape(-1), steps[1] @ index, steps[0] @ index, plan.shifts @ steps[0],
        (int(steps[1][axis]), int(steps[0][axis])), (out.shape[axis], width), plan,
        allocate_rows(ROWS + 4), allocate_rows(ROWS + 4 + plan.reach[0]),
    )  # fmt: skip


@compiled_products
def _correlate_rows(
    out: Array, x: Array, targets: Array, starts: Array, shifts: Array, steps: tuple[int, int],
    lengths: tuple[int, int], plan: Schedule, sums: Array, rows: Array,
) -> None:  # fmt: skip
    """Sum rows of ``lengths`` (their number, their values) from each of ``starts`` on."""
    for s in range(starts.size):
        for first in range(0, lengths[0], ROWS):
            high = min(ROWS, lengths[0] - first)
            for low in range(0, lengths[1], ROW_RESULTS):
                n = min(ROW_RESULTS, lengths[1] - low)
                at = starts[s] + first * steps[1] + low
                _sum_rows(sums, rows, x, at + shifts, steps[1], high, n, plan)
                for r in range(high):
                    to = targets[s] + (first + r) * steps[0] + low
                    copy_values(out, to, sums, r * PITCH, n)


@compiled_products
def _sum_rows(
    sums: Array, rows: Array, x: Array, starts: Array, step: int, high: int, n: int, plan: Schedule
) -> None:
    """Sum ``high`` rows of ``n`` values, rounded up to groups of four rows and whole vectors."""
    groups, padded = (high + 3) // 4, (n + VECTOR - 1) // VECTOR * VECTOR
    zero_rows(sums, 4 * groups, padded)
    for i in range(starts.size):
        for r in range(high + plan.reach[0]):
            copy_values(rows, r * PITCH, x, starts[i] + r * step, n + plan.reach[1])
        for g in range(plan.group_starts[i], plan.group_starts[i + 1]):
            columns = plan.columns[plan.column_starts[g] : plan.column_starts[g + 1]]
            add_columns(
                sums, rows, 0, padded, groups, plan.weights, plan.weight_starts[g], plan.taps[g],
                columns,
            )  # fmt: skip

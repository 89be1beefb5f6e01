"""Correlation of a block with weights that are no product of rows, four rows at a time.

Rows of results lie along the longest axis that has weights, but for the last such axis: that one
is within the rows, with what comes after it. Sums are taken in an order that weights alone decide.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lazyvol.kernels._numba import compiled_products
from lazyvol.kernels.filters.fours import (
    LANES,
    PITCH,
    VECTOR,
    add,
    clear,
    fits,
    move,
    rows_of,
    shares,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: rows of results that share what they read: more leave the first cache, fewer read more (7^3
#: weights take 11.2 ns per voxel by 8 rows, 9.8 by 32)
HIGH = 32
#: taps on end, in the mean, from which rows by fours pay: of 3^3 and 4^3 weights they take 3.6 and
#: 6.2 ns per voxel against 2.9 and 4.2 one result at a time, of 5^3 and 6^3 6.0 and 11.2 against
#: 8.1 and 14.0
DENSE = 5


class Plan(NamedTuple):
    """What a result reads, and the columns of taps within what is read.

    Axes that ``rows`` are along, and the ``last`` that has weights; how far taps reach in both.
    ``shifts`` of each read along the axes that rows are not along, and the first of its groups.
    Columns of as many taps, one after the other, are a group: ``counts`` of taps, the first of
    its ``columns`` (where they begin in rows) and the first of its ``weights``.
    """

    rows: int
    last: int
    reach: tuple[int, int]
    shifts: Array
    reads: Array
    counts: Array
    firsts: Array
    begins: Array
    columns: Array
    weights: Array


class _Columns(NamedTuple):
    """Weights of a run of taps along the rows, and where it begins: row and place in it."""

    row: int
    place: int
    weights: Array


def planned(weights: Array) -> Plan | None:
    """How to sum with ``weights``; None where too few of them lie side by side."""
    weighty = [a for a, n in enumerate(weights.shape) if n > 1]
    if len(weighty) < 2:
        return None
    last = weighty[-1]
    rows = max(weighty[:-1], key=lambda a: (weights.shape[a], a))
    there = np.moveaxis(weights != 0, rows, 0)
    runs = np.count_nonzero(there[0]) + np.count_nonzero(there[1:] & ~there[:-1])
    if runs == 0 or np.count_nonzero(there) < DENSE * runs:
        return None
    within = last == weights.ndim - 1 and fits(weights.shape[last])
    reach = (weights.shape[rows] - 1, weights.shape[last] - 1 if within else 0)
    return _packed((rows, last), reach, list(_reads(weights, rows, last, within)))


def _reads(
    weights: Array, rows: int, last: int, within: bool
) -> Iterator[tuple[tuple[int, ...], list[_Columns]]]:
    """Positions of the other axes, and the columns of taps there.

    The last axis is one of the others if its taps are not within what is read at once. Columns of
    as many taps follow each other, to be summed together.
    """
    moved = np.moveaxis(weights, (rows, last), (-1, -2))
    for index in np.ndindex(moved.shape[:-2]):
        found = [(x, _runs(x if within else 0, moved[(*index, x)])) for x in range(moved.shape[-2])]
        at = list(index)
        for axis in sorted((rows, last)):
            at.insert(axis, 0)
        if within:
            columns = [c for _, run in found for c in run]
            yield tuple(at), sorted(columns, key=lambda c: len(c.weights))
            continue
        for x, run in found:
            at[last] = x
            yield tuple(at), run


def _runs(place: int, taps: Array) -> list[_Columns]:
    """Runs of weights other than 0, in parts that are summed at once."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], taps != 0, [False]])))
    found = []
    for low, high in ends.reshape(-1, 2).tolist():
        for part in shares(high - low):
            found.append(_Columns(low, place, taps[low : low + part]))
            low += part
    return found


def _packed(
    axes: tuple[int, int],
    reach: tuple[int, int],
    reads: list[tuple[tuple[int, ...], list[_Columns]]],
) -> Plan:
    """The columns as flat arrays, those of as many taps that follow each other as one group."""
    shifts: list[tuple[int, ...]] = []
    counts: list[int] = []
    first, firsts, begins = [0], [], [0]
    columns: list[int] = []
    weights: list[float] = []
    for shift, found in reads:
        for c in found:
            if len(counts) == first[-1] or counts[-1] != len(c.weights):
                counts.append(len(c.weights))
                firsts.append(len(weights))
                begins.append(len(columns))
            columns.append(c.row * PITCH + c.place)
            weights.extend(c.weights.tolist())
            begins[-1] = len(columns)
        if found:
            shifts.append(shift)
            first.append(len(counts))
    return Plan(
        *axes, reach, np.array(shifts), np.array(first), np.array(counts), np.array(firsts),
        np.array(begins), np.array(columns), np.array(weights, np.float64),
    )  # fmt: skip


def correlate(out: Array, x: Array, plan: Plan) -> None:
    """The valid part of C-contiguous ``x`` into C-contiguous ``out``."""
    axis, last = plan.rows, plan.last
    width = prod(out.shape[last:])
    others = [n if a < last and a != axis else 1 for a, n in enumerate(out.shape)]
    at = np.indices(others).reshape(x.ndim, -1)
    steps = [np.array(a.strides) // a.itemsize for a in (x, out)]
    _rows(
        out.reshape(-1), x.reshape(-1), steps[1] @ at, steps[0] @ at, plan.shifts @ steps[0],
        (int(steps[1][axis]), int(steps[0][axis])), (out.shape[axis], width), plan,
        rows_of(HIGH + 4), rows_of(HIGH + 4 + plan.reach[0]),
    )  # fmt: skip


@compiled_products
def _rows(
    out: Array, x: Array, places: Array, starts: Array, shifts: Array, steps: tuple[int, int],
    lengths: tuple[int, int], plan: Plan, sums: Array, rows: Array,
) -> None:  # fmt: skip
    """Rows of ``lengths`` (their number, their values) from each of ``starts`` on."""
    for s in range(starts.size):
        for first in range(0, lengths[0], HIGH):
            high = min(HIGH, lengths[0] - first)
            for low in range(0, lengths[1], LANES):
                n = min(LANES, lengths[1] - low)
                at = starts[s] + first * steps[1] + low
                _sums(sums, rows, x, at + shifts, steps[1], high, n, plan)
                for r in range(high):
                    place = places[s] + (first + r) * steps[0] + low
                    move(out, place, sums, r * PITCH, n)


@compiled_products
def _sums(
    sums: Array, rows: Array, x: Array, starts: Array, step: int, high: int, n: int, plan: Plan
) -> None:
    """``high`` rows of ``n`` sums: in whole fours of whole vectors, more than there are."""
    groups, lanes = (high + 3) // 4, (n + VECTOR - 1) // VECTOR * VECTOR
    clear(sums, 0, 4 * groups, lanes)
    for i in range(starts.size):
        for r in range(high + plan.reach[0]):
            move(rows, r * PITCH, x, starts[i] + r * step, n + plan.reach[1])
        for g in range(plan.reads[i], plan.reads[i + 1]):
            columns = plan.columns[plan.begins[g] : plan.begins[g + 1]]
            add(sums, rows, 0, lanes, groups, plan.weights, plan.firsts[g], plan.counts[g], columns)

"""Walks through blocks of three axes (before, reduced, after) with a state per kept element.

A block may have flags: only flagged values count. Flags have the block's axes, of length 1 where
all share them (a mask of the pixels of a colour image).
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import as_three_axes, strided_rows, trailing_size
from lazyvol.kernels.reductions.double_double import (
    LANES,
    ROW,
    add,
    add_four,
    add_four_both,
    add_four_squares,
    add_square,
    add_wide_square,
)
from lazyvol.kernels.reductions.lanes import walk_lanes

Array = np.ndarray[Any, np.dtype[Any]]

#: longest axis after the reduced ones whose elements are taken as lanes of a flat row. The mean
#: colour of an image in memory, (1314, 489, 3): 0.02 Gvoxel/s row by row, 6 as lanes
SHORT = 32
#: bits of a float64: integers whose sum has no more are added as they are
MANTISSA = 53


def walk(
    block: Array,
    axes: Sequence[int],
    flags: Array | None,
    rows: Array | None,
    parts: tuple[Array, ...],
    todo: tuple[bool, ...],
    wide: bool,
    bounds: Array,
) -> None:
    """Take a block, reduced over ``axes``, into the parts of a state, (before, after) each.

    ``parts`` are sum, its rest, sum of squares, its rest, least and greatest; ``todo`` says
    which of sum, squares, least and greatest are there. ``rows`` are the indices of the reduced
    axis to take where there are no flags, all by default. ``bounds`` are 0, the largest and the
    smallest number.
    """
    masked = flags is not None
    marks = _ALL if flags is None else flags
    after = trailing_size(block.shape, axes)
    if after == 1 or (after <= SHORT and prod(block.shape[a] for a in axes) >= LANES):
        values = as_three_axes(block, axes)
        if rows is not None:
            values = values[:, rows]
        if masked and marks.shape[1] == 1:
            marks = np.repeat(marks, values.shape[1], axis=1)
        flat, lain = values.reshape(len(values), -1), marks.reshape(len(marks), -1)
        rows_of_lane = flat.shape[1] // LANES + 1
        bits = 8 * values.itemsize + rows_of_lane.bit_length()
        plain = values.dtype.kind in "iub" and bits <= MANTISSA
        walk_lanes(flat, after, lain, marks.shape[2], masked, *parts, *todo, wide, plain, bounds)
    else:
        laid = strided_rows(block, axes)
        chosen = np.arange(len(laid.reduced_offsets)) if rows is None else rows
        _walk_rows(
            laid.values, laid.kept_offsets, laid.reduced_offsets, chosen, marks, masked, *parts,
            *todo, wide, bounds,
        )  # fmt: skip


_ALL = np.ones((1, 1, 1), bool)


@compiled
def _least(low, values):  # type: ignore[no-untyped-def]
    """Take a row into the least values of its voxels; a NaN stays."""
    for j in range(values.size):
        v, m = values[j], low[j]
        least = v if v < m else m
        low[j] = least if v == v else v


@compiled
def _most(high, values):  # type: ignore[no-untyped-def]
    """Take a row into the greatest values of its voxels; a NaN stays."""
    for j in range(values.size):
        v, m = values[j], high[j]
        most = v if v > m else m
        high[j] = most if v == v else v


@compiled
def _take(values, s, sr, q, qr, low, high, sums, squares, lows, highs, wide):  # type: ignore[no-untyped-def]
    """One row of values into the state of its voxels."""
    if sums:
        add(s, sr, values)
    if squares and wide:
        add_wide_square(q, qr, values)
    if squares and not wide:
        add_square(q, qr, values)
    if lows:
        _least(low, values)
    if highs:
        _most(high, values)


@compiled
def _take_four(a, b, c, d, s, sr, q, qr, sums, squares):  # type: ignore[no-untyped-def]
    """Four rows of values into the sums of their voxels: 6 GB/s of float32 against 2.5 one by one,
    for then loading and storing the state takes most of the time."""
    if sums and squares:
        add_four_both(s, sr, q, qr, a, b, c, d)
    elif sums:
        add_four(s, sr, a, b, c, d)
    else:
        add_four_squares(q, qr, a, b, c, d)


@compiled
def _take_flagged(  # type: ignore[no-untyped-def]
    x, m, row, bounds, s, sr, q, qr, low, high, sums, squares, lows, highs, wide
):
    """One row of values with a flag each: what does not count becomes what changes nothing."""
    n = x.size
    if sums or squares:
        for j in range(n):
            row[j] = x[j] if m[j] else bounds[0]
        _take(row[:n], s, sr, q, qr, low, high, sums, squares, False, False, wide)
    if lows:
        for j in range(n):
            row[j] = x[j] if m[j] else bounds[1]
        _take(row[:n], s, sr, q, qr, low, high, False, False, True, False, wide)
    if highs:
        for j in range(n):
            row[j] = x[j] if m[j] else bounds[2]
        _take(row[:n], s, sr, q, qr, low, high, False, False, False, True, wide)


@compiled
def _walk_rows(  # type: ignore[no-untyped-def]
    x, before, reduced, rows, m, masked, s, sr, q, qr, low, high, sums, squares, lows, highs, wide,
    bounds,
):  # fmt: skip
    """A row of voxels stays in cache through the reduced axis."""
    row = np.empty(ROW, x.dtype)
    each = m.shape[2] > 1
    length = max(s.shape[1], q.shape[1], low.shape[1], high.shape[1])
    for a in range(before.size):
        am = a if m.shape[0] > 1 else 0
        for b in range(0, length, ROW):
            c = min(b + ROW, length)
            n, start = c - b, before[a] + b
            s_, sr_ = (s[a, b:c], sr[a, b:c]) if sums else (s[0], sr[0])
            q_, qr_ = (q[a, b:c], qr[a, b:c]) if squares else (q[0], qr[0])
            low_ = low[a, b:c] if lows else low[0]
            high_ = high[a, b:c] if highs else high[0]
            done = 0
            if not (masked or wide) and (sums or squares):
                done = len(rows) // 4 * 4
                for i in range(0, done, 4):
                    p, p_ = start + reduced[rows[i]], start + reduced[rows[i + 1]]
                    r, r_ = start + reduced[rows[i + 2]], start + reduced[rows[i + 3]]
                    _take_four(
                        x[p : p + n], x[p_ : p_ + n], x[r : r + n], x[r_ : r_ + n],
                        s_, sr_, q_, qr_, sums, squares,
                    )  # fmt: skip
            if done and (lows or highs):
                for r in rows[:done]:
                    p = start + reduced[r]
                    _take(
                        x[p : p + n], s_, sr_, q_, qr_, low_, high_, False, False, lows, highs, wide
                    )
            for r in rows[done:]:
                rm, p = r if m.shape[1] > 1 else 0, start + reduced[r]
                if masked and each:
                    _take_flagged(
                        x[p : p + n], m[am, rm, b:c], row, bounds, s_, sr_, q_, qr_, low_, high_,
                        sums, squares, lows, highs, wide,
                    )  # fmt: skip
                elif not masked or m[am, rm, 0]:
                    _take(
                        x[p : p + n], s_, sr_, q_, qr_, low_, high_,
                        sums, squares, lows, highs, wide,
                    )  # fmt: skip

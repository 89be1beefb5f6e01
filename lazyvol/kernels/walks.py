"""Walks through blocks of three axes (before, reduced, after) with a state per kept element.

A block may have flags: only flagged values count. Flags have the block's axes, of length 1 where
all share them (a mask of the pixels of a colour image).
"""

from typing import Any

import numpy as np

from lazyvol.kernels.compiled import compiled
from lazyvol.kernels.exact import (
    LANES,
    ROW,
    add,
    add_four,
    add_four_both,
    add_four_squares,
    add_square,
    add_wide_square,
    two_sum,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: longest axis after the reduced ones whose elements are taken as lanes of a flat row. The mean
#: colour of an image in memory, (1314, 489, 3): 0.02 Gvoxel/s row by row, 1.5 as lanes
SHORT = 32
#: lanes of a flat row: their state stays in the first cache, and what each call costs is spread
#: (sums of 1e6 float32 each: 0.4 Gvoxel/s with 64 lanes, 2.1 with 512)
WIDE = 512
#: rows whose flags are looked at together, and the changes among them that are a few
BATCH = 64
CHANGES = 4
#: eight flags that are set, as a word
ALL_SET = np.uint64(0x0101010101010101)


def walk(
    values: Array,
    flags: Array | None,
    rows: Array | None,
    parts: tuple[Array, ...],
    todo: tuple[bool, ...],
    wide: bool,
    bounds: Array,
) -> None:
    """Take a C-contiguous block into the parts of a state, (before, after) each.

    ``parts`` are sum, its rest, sum of squares, its rest, least and greatest; ``todo`` says
    which of sum, squares, least and greatest are there. ``rows`` are the indices of the reduced
    axis to take where there are no flags, all by default. ``bounds`` are 0, the largest and the
    smallest number.
    """
    masked = flags is not None
    marks = _ALL if flags is None else flags
    after = values.shape[2]
    if after == 1 or (after <= SHORT and values.shape[1] >= LANES):
        if rows is not None:
            values = values[:, rows]
        if masked and marks.shape[1] == 1:
            marks = np.repeat(marks, values.shape[1], axis=1)
        flat, lain = values.reshape(len(values), -1), marks.reshape(len(marks), -1)
        _walk_flat(flat, after, lain, marks.shape[2], masked, *parts, *todo, wide, bounds)
    else:
        chosen = np.arange(values.shape[1]) if rows is None else rows
        _walk_rows(values, chosen, marks, masked, *parts, *todo, wide, bounds)


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
    x, rows, m, masked, s, sr, q, qr, low, high, sums, squares, lows, highs, wide, bounds
):
    """A row of voxels stays in cache through the reduced axis."""
    row = np.empty(ROW, x.dtype)
    each = m.shape[2] > 1
    for a in range(x.shape[0]):
        am = a if m.shape[0] > 1 else 0
        for b in range(0, x.shape[2], ROW):
            c = min(b + ROW, x.shape[2])
            s_, sr_ = (s[a, b:c], sr[a, b:c]) if sums else (s[0], sr[0])
            q_, qr_ = (q[a, b:c], qr[a, b:c]) if squares else (q[0], qr[0])
            low_ = low[a, b:c] if lows else low[0]
            high_ = high[a, b:c] if highs else high[0]
            done = 0
            if not (masked or wide) and (sums or squares):
                done = len(rows) // 4 * 4
                for i in range(0, done, 4):
                    _take_four(
                        x[a, rows[i], b:c], x[a, rows[i + 1], b:c], x[a, rows[i + 2], b:c],
                        x[a, rows[i + 3], b:c], s_, sr_, q_, qr_, sums, squares,
                    )  # fmt: skip
            if done and (lows or highs):
                for r in rows[:done]:
                    _take(
                        x[a, r, b:c], s_, sr_, q_, qr_, low_, high_, False, False, lows, highs, wide
                    )
            for r in rows[done:]:
                rm = r if m.shape[1] > 1 else 0
                if masked and each:
                    _take_flagged(
                        x[a, r, b:c], m[am, rm, b:c], row, bounds, s_, sr_, q_, qr_, low_, high_,
                        sums, squares, lows, highs, wide,
                    )  # fmt: skip
                elif not masked or m[am, rm, 0]:
                    _take(
                        x[a, r, b:c], s_, sr_, q_, qr_, low_, high_,
                        sums, squares, lows, highs, wide,
                    )  # fmt: skip


@compiled
def _take_lanes(part, lanes, ends, sums, squares, lows, highs, wide):  # type: ignore[no-untyped-def]
    """Elements side by side, a lane each; parts that are not there cost nothing."""
    k = part.size
    if sums and part.itemsize <= 2:  # integers whose sums are exact as they are
        sums_of_lanes = lanes[0, :k]
        for j in range(k):
            sums_of_lanes[j] += np.float64(part[j])
    elif sums:
        add(lanes[0, :k], lanes[1, :k], part)
    if squares and wide:
        add_wide_square(lanes[2, :k], lanes[3, :k], part)
    if squares and not wide:
        add_square(lanes[2, :k], lanes[3, :k], part)
    if lows:
        _least(ends[0, :k], part)
    if highs:
        _most(ends[1, :k], part)


@compiled
def _take_rows(x, first, last, few, n, lanes, ends, sums, squares, lows, highs, wide):  # type: ignore[no-untyped-def]
    """Rows ``first`` to ``last`` of ``n`` elements, ``few`` at a time side by side."""
    for r in range(first, last, few):
        part = x[r * n : min(r + few, last) * n]
        _take_lanes(part, lanes, ends, sums, squares, lows, highs, wide)


@compiled
def _take_marked(  # type: ignore[no-untyped-def]
    part, m, lanes, ends, row, bounds, sums, squares, lows, highs, wide
):
    """Elements by flags of their own: what does not count becomes what changes nothing."""
    for which in range(3):
        if (which == 0 and (sums or squares)) or (which == 1 and lows) or (which == 2 and highs):
            other = bounds[which]
            for k in range(part.size):
                row[k] = part[k] if m[k] else other
            _take_lanes(
                row[: part.size], lanes, ends, sums and which == 0, squares and which == 0,
                which == 1, which == 2, wide,
            )  # fmt: skip


@compiled
def _take_flagged_rows(  # type: ignore[no-untyped-def]
    part, m, n, lanes, ends, row, sums, squares, lows, highs, wide
):
    """Rows by flags that change often, one for each: those that count are moved together first.

    Without a branch, which half of all flags would mislead: 11 ns a row of three so became 5.
    """
    last, wide_row, own = np.uint64(0), np.uint64(n), np.uint64(0)
    for i in range(m.size):
        for c in range(n):
            row[last + np.uint64(c)] = part[own + np.uint64(c)]
        own += wide_row
        last += wide_row * np.uint64(m[i])
    _take_lanes(row[: np.int64(last)], lanes, ends, sums, squares, lows, highs, wide)


@compiled
def _walk_marked(  # type: ignore[no-untyped-def]
    x, m, n, each, few, lanes, ends, row, bounds, sums, squares, lows, highs, wide
):
    """Rows whose flags are set. Stretches of them are taken as they are: a mask is mostly these.

    Flags are looked at by the ``BATCH`` of rows. Where they are all alike, or change but a few
    times, only the ends of the stretches are noted; where they change often, rows are taken by
    their flags, of which each row has ``each``: one, or one for each element.
    """
    total, begin = x.size // n, -1
    words = m[: m.size // 8 * 8].view(np.uint64)
    for r in range(0, total, BATCH):
        end = min(r + BATCH, total)
        alike = _alike(words, r * each, end * each)
        if alike == 1 and begin < 0:
            begin = r
        if alike == 1 or (alike == 0 and begin < 0):
            continue
        own = m[r * each : end * each]
        count, changes = _told(own)
        if each == 1 and changes <= CHANGES:
            for i in range(r, end):
                if m[i] and begin < 0:
                    begin = i
                elif not m[i] and begin >= 0:
                    _take_rows(x, begin, i, few, n, lanes, ends, sums, squares, lows, highs, wide)
                    begin = -1
            continue
        if begin >= 0:
            _take_rows(x, begin, r, few, n, lanes, ends, sums, squares, lows, highs, wide)
            begin = -1
        if count and each == 1:
            _take_flagged_rows(
                x[r * n : end * n], own, n, lanes, ends, row, sums, squares, lows, highs, wide
            )
        elif count:
            _take_marked(
                x[r * n : end * n], own, lanes, ends, row, bounds, sums, squares, lows, highs, wide
            )
    if begin >= 0:
        _take_rows(x, begin, total, few, n, lanes, ends, sums, squares, lows, highs, wide)


@compiled
def _alike(words, first, last):  # type: ignore[no-untyped-def]
    """Whether flags are all set (1), none is (0), or both (-1), read eight to a word."""
    if last % 8:
        return -1
    word = words[first // 8]
    if word != ALL_SET and word != 0:
        return -1
    for i in range(first // 8 + 1, last // 8):
        if words[i] != word:
            return -1
    return 1 if word else 0


@compiled
def _told(m):  # type: ignore[no-untyped-def]
    """How many flags are set, and how often they change."""
    count, changes = 0, 0
    for i in range(m.size):
        count += m[i]
    for i in range(1, m.size):
        changes += m[i] != m[i - 1]
    return count, changes


@compiled
def _walk_flat(  # type: ignore[no-untyped-def]
    x, n, m, each, masked, s, sr, q, qr, low, high, sums, squares, lows, highs, wide, bounds
):
    """Blocks (before, reduced * n), ``n`` after the reduced axis: partial results of a few rows
    side by side, merged at the end."""
    total = x.shape[1] // n
    few = max(1, min(WIDE, max(LANES, total * n // 32)) // n)
    few = max(min(few, total), min(BATCH, total) if masked else 1)
    width = few * n
    lanes, ends = np.zeros((4, width)), np.empty((2, width), x.dtype)
    row = np.empty(width, x.dtype)
    for a in range(x.shape[0]):
        lanes[:] = 0.0
        ends[0], ends[1] = bounds[1], bounds[2]
        if masked:
            _walk_marked(
                x[a], m[a if m.shape[0] > 1 else 0], n, each, few, lanes, ends, row,
                bounds, sums, squares, lows, highs, wide,
            )  # fmt: skip
        else:
            _take_rows(x[a], 0, total, few, n, lanes, ends, sums, squares, lows, highs, wide)
        for j in range(width):
            c = j % n
            if sums:
                s[a, c], e = two_sum(s[a, c], lanes[0, j])
                sr[a, c] += e + lanes[1, j]
            if squares:
                q[a, c], e = two_sum(q[a, c], lanes[2, j])
                qr[a, c] += e + lanes[3, j]
        for j in range(0, width, n):
            if lows:
                _least(low[a], ends[0, j : j + n])
            if highs:
                _most(high[a], ends[1, j : j + n])

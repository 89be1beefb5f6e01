"""Walks along contiguous memory with a state per lane: every element of a stretch has its own.

A stretch is a few rows of ``n`` elements, one after the other; lanes of one element of a row are
merged at the end. Elements may have flags: only flagged ones count.
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.reductions.double_double import LANES, two_product, two_sum

#: lanes of a flat row: their state stays in the first cache, and what each batch costs is spread
#: (an image (1314, 489, 3) of float32 under a mask: 0.45 ms with 192 lanes, 0.35 with 1024)
WIDE = 1024
#: batches of a row for each lane that one call takes: a call costs 0.08 us, as much as a batch
BATCHES = 16
#: unsigned indices need no look at their sign, which would keep loops out of vector registers
UNSIGNED = np.uint64
EIGHT = np.uint64(8)
#: eight flags that are set, as a word
ALL_SET = np.uint64(0x0101010101010101)


@compiled
def _add_lanes(x, own, taken, count, sums, rest):  # type: ignore[no-untyped-def]
    """Add the flagged elements of batches that are taken, each to the sum of its lane.

    A batch is an element for each lane. Sums are chosen, not values: float64 chosen before they
    are added took five times as long.
    """
    width, size = UNSIGNED(sums.size), UNSIGNED(x.size)
    for b in range(UNSIGNED(count)):
        if taken[b]:
            start = b * width
            for j in range(min(width, size - start)):
                s, e = two_sum(sums[j], np.float64(x[start + j]))
                sums[j] = s if own[start + j] else sums[j]
                rest[j] += e if own[start + j] else 0.0


@compiled
def _add_lanes_plainly(x, own, taken, count, sums):  # type: ignore[no-untyped-def]
    """The same where all sums are exact in float64."""
    width, size = UNSIGNED(sums.size), UNSIGNED(x.size)
    for b in range(UNSIGNED(count)):
        if taken[b]:
            start = b * width
            for j in range(min(width, size - start)):
                s = sums[j] + np.float64(x[start + j])
                sums[j] = s if own[start + j] else sums[j]


@compiled
def _add_squared_lanes(x, own, taken, count, squares, rest):  # type: ignore[no-untyped-def]
    """The same of squares that are exact in float64."""
    width, size = UNSIGNED(squares.size), UNSIGNED(x.size)
    for b in range(UNSIGNED(count)):
        if taken[b]:
            start = b * width
            for j in range(min(width, size - start)):
                v = np.float64(x[start + j])
                s, e = two_sum(squares[j], v * v)
                squares[j] = s if own[start + j] else squares[j]
                rest[j] += e if own[start + j] else 0.0


@compiled
def _add_wide_squared_lanes(x, own, taken, count, squares, rest):  # type: ignore[no-untyped-def]
    """The same of squares with their low halves."""
    width, size = UNSIGNED(squares.size), UNSIGNED(x.size)
    for b in range(UNSIGNED(count)):
        if taken[b]:
            start = b * width
            for j in range(min(width, size - start)):
                v = np.float64(x[start + j])
                p, r = two_product(v, v)
                s, e = two_sum(squares[j], p)
                squares[j] = s if own[start + j] else squares[j]
                rest[j] += e + r if own[start + j] else 0.0


@compiled
def _least_of_lanes(x, own, taken, count, low):  # type: ignore[no-untyped-def]
    """Take flagged elements into the least of their lanes; a NaN stays."""
    width, size = UNSIGNED(low.size), UNSIGNED(x.size)
    for b in range(UNSIGNED(count)):
        if taken[b]:
            start = b * width
            for j in range(min(width, size - start)):
                v, m = x[start + j], low[j]
                least = v if v < m or v != v else m
                low[j] = least if own[start + j] else m


@compiled
def _most_of_lanes(x, own, taken, count, high):  # type: ignore[no-untyped-def]
    """Take flagged elements into the greatest of their lanes; a NaN stays."""
    width, size = UNSIGNED(high.size), UNSIGNED(x.size)
    for b in range(UNSIGNED(count)):
        if taken[b]:
            start = b * width
            for j in range(min(width, size - start)):
                v, m = x[start + j], high[j]
                most = v if v > m or v != v else m
                high[j] = most if own[start + j] else m


@compiled
def _take_lanes(  # type: ignore[no-untyped-def]
    x, own, taken, count, s, sr, q, qr, low, high, sums, squares, lows, highs, wide, plain
):
    """Batches into the lanes of each part; parts that are not there cost nothing."""
    if sums and plain:
        _add_lanes_plainly(x, own, taken, count, s)
    elif sums:
        _add_lanes(x, own, taken, count, s, sr)
    if squares and wide:
        _add_wide_squared_lanes(x, own, taken, count, q, qr)
    elif squares:
        _add_squared_lanes(x, own, taken, count, q, qr)
    if lows:
        _least_of_lanes(x, own, taken, count, low)
    if highs:
        _most_of_lanes(x, own, taken, count, high)


def _repeater(times: int) -> Any:
    """Each flag so many times. A number known when it is compiled makes vectors of the loop: 0.03
    ms for the flags of an image (1314, 489, 3), 0.4 by ``_repeat``."""
    fixed = UNSIGNED(times)

    @compiled
    def repeat(flags, first, count, own, at):  # type: ignore[no-untyped-def]
        for i in range(count):
            for c in range(fixed):
                own[at + i * fixed + c] = flags[first + i]

    return repeat


_twice, _thrice, _four_times = (_repeater(n) for n in (2, 3, 4))


@compiled
def _repeat(flags, first, count, times, own, at):  # type: ignore[no-untyped-def]
    """Each flag any number of times."""
    for i in range(count):
        for c in range(times):
            own[at + i * times + c] = flags[first + i]


@compiled
def _mark(m, first, last, few, count, n, each, own, taken):  # type: ignore[no-untyped-def]
    """Flags of the elements of rows ``first`` to ``last``, and which batches of ``few`` rows have
    any set. A row has ``each`` flags: one, or one for each element."""
    words = m[: m.size // 8 * 8].view(np.uint64)
    wide, step = UNSIGNED(n), UNSIGNED(each)
    for b in range(count):
        start, end = UNSIGNED(first + b * few), UNSIGNED(min(first + b * few + few, last))
        at, k = UNSIGNED(b * few * n), end - start
        alike = -1
        if k % EIGHT == 0:
            alike = _alike(words, start * step // EIGHT, k * step // EIGHT)
        taken[b] = alike != 0
        if alike == 1:
            for i in range(k * wide):
                own[at + i] = True
        elif alike == -1 and each == n:
            for i in range(k * wide):
                own[at + i] = m[start * wide + i]
        elif alike == -1 and n == 2:
            _twice(m, start, k, own, at)
        elif alike == -1 and n == 3:
            _thrice(m, start, k, own, at)
        elif alike == -1 and n == 4:
            _four_times(m, start, k, own, at)
        elif alike == -1:
            _repeat(m, start, k, wide, own, at)


@compiled
def _alike(words, first, count):  # type: ignore[no-untyped-def]
    """Whether flags are all set (1), none is (0), or both (-1), read eight to a word."""
    word = words[first]
    if word != ALL_SET and word != 0:
        return -1
    for i in range(first + UNSIGNED(1), first + count):
        if words[i] != word:
            return -1
    return 1 if word else 0


@compiled
def walk_lanes(  # type: ignore[no-untyped-def]
    x, n, m, each, masked, s, sr, q, qr, low, high,
    sums, squares, lows, highs, wide, plain, bounds,
):  # fmt: skip
    """Blocks (before, reduced * n), ``n`` after the reduced axis: partial results of a few rows
    side by side, merged at the end."""
    total = x.shape[1] // n
    few = min(total, (max(LANES, min(WIDE, total * n // 32)) // n + 7) // 8 * 8)
    width = few * n
    s_, sr_, q_, qr_ = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width)
    low_, high_ = np.empty(width, x.dtype), np.empty(width, x.dtype)
    own, taken = np.ones(BATCHES * width, np.bool_), np.ones(BATCHES, np.bool_)
    for a in range(x.shape[0]):
        s_[:], sr_[:], q_[:], qr_[:] = 0.0, 0.0, 0.0, 0.0
        low_[:], high_[:] = bounds[1], bounds[2]
        am = a if m.shape[0] > 1 else 0
        for first in range(0, total, BATCHES * few):
            last = min(first + BATCHES * few, total)
            count = (last - first + few - 1) // few
            if masked:
                _mark(m[am], first, last, few, count, n, each, own, taken)
            _take_lanes(
                x[a, first * n : last * n], own, taken, count,
                s_, sr_, q_, qr_, low_, high_, sums, squares, lows, highs, wide, plain,
            )  # fmt: skip
        for r in range(few):
            for c in range(n):
                j = r * n + c
                if sums:
                    s[a, c], e = two_sum(s[a, c], s_[j])
                    sr[a, c] += e + sr_[j]
                if squares:
                    q[a, c], e = two_sum(q[a, c], q_[j])
                    qr[a, c] += e + qr_[j]
                if lows:
                    v, w = low_[j], low[a, c]
                    low[a, c] = v if v < w or v != v else w
                if highs:
                    v, w = high_[j], high[a, c]
                    high[a, c] = v if v > w or v != v else w

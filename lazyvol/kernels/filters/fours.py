"""Weighted sums of rows, four results at a time, in memory whose rows lie ``PITCH`` values apart.

Four neighbouring results of n taps rest on n + 3 rows, so a row is read once for up to four
products: 0.02 ns for each in float64 with vectors of 512 bits, against 0.04 one result at a time.
The distance of rows is a constant, as compiled code would otherwise ask before each run of vectors
for every pair of rows whether they overlap: 7^3 weights took 43 ns per voxel so, and take 10.

The products of up to nine taps are added up before they go to a sum, in the order of their weights:
errors of sums of sums are smaller, and a result does not depend on its place.
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled_products

Array = np.ndarray[Any, np.dtype[Any]]

#: values from the start of a row to the next: an odd number of vectors, which fill the cache
#: evenly. At 400 a sweep of 17 taps an axis took 5.4 ns per voxel, at 168 4.0: more pages
PITCH = 168
#: results of a row that are made at once; the rest of it is what their taps reach
LANES = 128
#: taps whose weights stay in registers beside what they are multiplied with
MOST = 9
#: values of a vector
VECTOR = 8


def fits(taps: int) -> bool:
    """Whether what so many taps of a row reach has room beside its results."""
    return taps - 1 <= PITCH - LANES


def rows_of(count: int) -> Array:
    """Zeroed memory of so many rows, that begins where vectors do, for reads beyond the last."""
    memory = np.zeros((count + 1) * PITCH + VECTOR)
    first = -memory.ctypes.data % 64 // memory.itemsize
    return memory[first : first + (count + 1) * PITCH]


def shares(taps: int) -> list[int]:
    """Taps in parts of 1, 3, 5, 7 or 9, as few and as even as they can be: each is compiled."""
    parts = -(-taps // MOST)
    parts += (taps - parts) % 2
    pairs = (taps - parts) // 2
    return [1 + 2 * (pairs // parts + (p < pairs % parts)) for p in range(parts)]


@compiled_products
def add(
    out: Array, x: Array, at: int, n: int, groups: int, w: Array, t: int, count: int,
    columns: Array,
) -> None:  # fmt: skip
    """Sums of columns of ``count`` taps each, their weights from ``t`` on, to rows of ``out``.

    To four rows in each of ``groups``, ``n`` values of each. The first column of the first row
    begins at ``at`` in ``x``, others so many values later as ``columns`` say.
    """
    if count == 9:
        _add(out, x, at, n, groups, w, t, (0, 1, 2, 3, 4, 5, 6, 7, 8), columns)
    elif count == 7:
        _add(out, x, at, n, groups, w, t, (0, 1, 2, 3, 4, 5, 6), columns)
    elif count == 5:
        _add(out, x, at, n, groups, w, t, (0, 1, 2, 3, 4), columns)
    elif count == 3:
        _add(out, x, at, n, groups, w, t, (0, 1, 2), columns)
    else:
        _add(out, x, at, n, groups, w, t, (0,), columns)


@compiled_products
def _add(
    out: Array, x: Array, at: int, n: int, groups: int, w: Array, t: int, taps: tuple[int, ...],
    columns: Array,
) -> None:  # fmt: skip
    """Compiled for each number of ``taps``, so that they are no loop."""
    row = np.uint64(PITCH)
    for group in range(groups):
        p = np.uint64(group * 4 * PITCH)
        for column in range(columns.size):
            q, u = np.uint64(at) + p + np.uint64(columns[column]), t + column * len(taps)
            for i in range(np.uint64(n)):
                a = b = c = d = 0.0
                for k in range(len(taps)):
                    v, place = w[np.uint64(u) + np.uint64(k)], q + np.uint64(k) * row + i
                    a += v * x[place]
                    b += v * x[place + row]
                    c += v * x[place + row + row]
                    d += v * x[place + row + row + row]
                a, b = out[p + i] + a, out[p + row + i] + b
                c, d = out[p + row + row + i] + c, out[p + row + row + row + i] + d
                out[p + i], out[p + row + i] = a, b
                out[p + row + row + i], out[p + row + row + row + i] = c, d


@compiled_products
def add_within(
    out: Array, o: int, apart: int, x: Array, high: int, n: int, w: Array, t: int, count: int,
    step: int,
) -> None:  # fmt: skip
    """Sums within rows of ``x``, of ``count`` taps from ``t`` on that lie ``step`` values apart.

    They go to rows of ``out`` that begin at ``o`` and lie ``apart``; those of ``t`` 0 are the
    first there.
    """
    if count == 9:
        _within(out, o, apart, x, high, n, w, t, (0, 1, 2, 3, 4, 5, 6, 7, 8), step)
    elif count == 7:
        _within(out, o, apart, x, high, n, w, t, (0, 1, 2, 3, 4, 5, 6), step)
    elif count == 5:
        _within(out, o, apart, x, high, n, w, t, (0, 1, 2, 3, 4), step)
    elif count == 3:
        _within(out, o, apart, x, high, n, w, t, (0, 1, 2), step)
    else:
        _within(out, o, apart, x, high, n, w, t, (0,), step)


@compiled_products
def _within(
    out: Array, o: int, apart: int, x: Array, high: int, n: int, w: Array, t: int,
    taps: tuple[int, ...], step: int,
) -> None:  # fmt: skip
    for r in range(high):
        p, q = np.uint64(o + r * apart), np.uint64(r * PITCH + t * step)
        u, between = np.uint64(t), np.uint64(step)
        for i in range(np.uint64(n)):
            a = 0.0
            for k in range(len(taps)):
                a += w[u + np.uint64(k)] * x[q + np.uint64(k) * between + i]
            out[p + i] = out[p + i] + a if t else a


@compiled_products
def move(out: Array, o: int, x: Array, at: int, n: int) -> None:
    """``n`` values of ``x`` from ``at`` on to ``out`` from ``o`` on."""
    p, q = np.uint64(o), np.uint64(at)
    for i in range(np.uint64(n)):
        out[p + i] = x[q + i]


@compiled_products
def clear(out: Array, o: int, count: int, n: int) -> None:
    """Zeros at the start of ``count`` rows."""
    for r in range(count):
        p = np.uint64(o + r * PITCH)
        for i in range(np.uint64(n)):
            out[p + i] = 0.0

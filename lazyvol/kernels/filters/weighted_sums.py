"""Inner loops of correlations: weighted sums of flat values, one or four results at a time.

``weighted_sums`` takes neighbours at any offsets, and adds eight products each time that a sum is
loaded and stored: 0.03 to 0.04 ns per product for float32 voxels summed in float64, 0.025 in
float32 (0.3 if they are added one at a time).

``add_columns`` sums four rows of results at once, in a buffer whose rows are ``PITCH`` values
apart: four adjacent results of n taps read n + 3 rows, so a row is read once for up to four
products. A product takes 0.02 ns in float64 with 512-bit vectors, against 0.04 one result at a
time: the Gaussian is 9.7 times as fast as scipy (6.9 times with ``weighted_sums``), convolution
with 7^3 weights 26 times (14 times). The pitch is a constant because compiled code otherwise checks
all pairs of rows for overlap before each loop: 43 ns per voxel of 7^3 weights instead of 10. The
products of up to nine taps are added up before they go to a sum, in the order of their weights:
rounding errors are smaller, and a result does not depend on its position.
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled_products, inlined

Array = np.ndarray[Any, np.dtype[Any]]

#: sums of ``weighted_sums`` that take their next products together: 4 KiB of the L1 cache
RUN = 512
#: distance in values between the starts of buffer rows: an odd number of vectors, which fill the
#: cache evenly. With 400, 17 taps along each axis took 5.4 ns per voxel, with 168 4.0: fewer memory
#: pages
PITCH = 168
#: results of a buffer row that are summed at once; the rest of a row holds their neighbours
ROW_RESULTS = 128
#: taps whose weights stay in registers
MAX_TAPS = 9
#: values of a vector register
VECTOR = 8


@compiled_products
def weighted_sums(out: Array, x: Array, start: int, n: int, offsets: Array, weights: Array) -> None:
    """Set ``out[i] = sum_t weights[t] * x[start + offsets[t] + i]`` for ``i < n``.

    Offsets are unsigned: for signed ones compiled code checks for indices from the end.
    """
    origin = np.uint64(start)
    for first in range(0, n, RUN):
        low, high = np.uint64(first), np.uint64(min(n, first + RUN))
        t = 1 if weights.size % 4 == 1 else 0  # the odd tap initialises the sums
        for i in range(low, high):
            out[i] = weights[0] * x[origin + offsets[0] + i] if t else 0
        while t + 8 <= weights.size:
            _add_eight(out, x, origin, low, high, offsets, weights, t)
            t += 8
        if t + 4 <= weights.size:
            _add_four(out, x, origin, low, high, offsets, weights, t)
            t += 4
        while t < weights.size:
            w, p = weights[t], origin + offsets[t]
            for i in range(low, high):
                out[i] += w * x[p + i]
            t += 1


@compiled_products
def _add_eight(
    out: Array, x: Array, at: int, low: int, high: int, o: Array, w: Array, t: int
) -> None:  # fmt: skip
    w0, w1, w2, w3 = w[t], w[t + 1], w[t + 2], w[t + 3]
    w4, w5, w6, w7 = w[t + 4], w[t + 5], w[t + 6], w[t + 7]
    p0, p1, p2, p3 = at + o[t], at + o[t + 1], at + o[t + 2], at + o[t + 3]
    p4, p5, p6, p7 = at + o[t + 4], at + o[t + 5], at + o[t + 6], at + o[t + 7]
    for i in range(low, high):
        out[i] += (
            w0 * x[p0 + i] + w1 * x[p1 + i] + w2 * x[p2 + i] + w3 * x[p3 + i]
            + w4 * x[p4 + i] + w5 * x[p5 + i] + w6 * x[p6 + i] + w7 * x[p7 + i]
        )  # fmt: skip


@compiled_products
def _add_four(
    out: Array, x: Array, at: int, low: int, high: int, o: Array, w: Array, t: int
) -> None:  # fmt: skip
    w0, w1, w2, w3 = w[t], w[t + 1], w[t + 2], w[t + 3]
    p0, p1, p2, p3 = at + o[t], at + o[t + 1], at + o[t + 2], at + o[t + 3]
    for i in range(low, high):
        out[i] += w0 * x[p0 + i] + w1 * x[p1 + i] + w2 * x[p2 + i] + w3 * x[p3 + i]


def fits_in_row(taps: int) -> bool:
    """Return True if the neighbours of ``taps`` adjacent elements fit into one buffer row."""
    return taps - 1 <= PITCH - ROW_RESULTS


def allocate_rows(count: int) -> Array:
    """Return ``count`` zeroed buffer rows, aligned to vectors, and one more for reads beyond."""
    memory = np.zeros((count + 1) * PITCH + VECTOR)
    first = -memory.ctypes.data % 64 // memory.itemsize
    return memory[first : first + (count + 1) * PITCH]


def split_taps(taps: int) -> list[int]:
    """Split taps into parts of 1, 3, 5, 7 or 9 (those compiled), as few and equal as possible."""
    parts = -(-taps // MAX_TAPS)
    parts += (taps - parts) % 2
    pairs = (taps - parts) // 2
    return [1 + 2 * (pairs // parts + (p < pairs % parts)) for p in range(parts)]


@inlined
def add_columns(
    out: Array, x: Array, start: int, n: int, groups: int, w: Array, t: int, taps: int,
    columns: Array,
) -> None:  # fmt: skip
    """Add weighted sums down columns of ``taps`` rows of ``x`` to ``groups`` of four rows.

    ``n`` values of each row of ``out``. Weights follow each other from ``w[t]`` on. For the first
    row a column begins at ``start`` plus its offset in ``columns``.
    """
    if taps == 9:
        _add_columns(out, x, start, n, groups, w, t, (0, 1, 2, 3, 4, 5, 6, 7, 8), columns)
    elif taps == 7:
        _add_columns(out, x, start, n, groups, w, t, (0, 1, 2, 3, 4, 5, 6), columns)
    elif taps == 5:
        _add_columns(out, x, start, n, groups, w, t, (0, 1, 2, 3, 4), columns)
    elif taps == 3:
        _add_columns(out, x, start, n, groups, w, t, (0, 1, 2), columns)
    else:
        _add_columns(out, x, start, n, groups, w, t, (0,), columns)


@compiled_products
def _add_columns(
    out: Array, x: Array, start: int, n: int, groups: int, w: Array, t: int, taps: tuple[int, ...],
    columns: Array,
) -> None:  # fmt: skip
    """Add weighted sums; compiled for each length of ``taps``, which unrolls the loop over them."""
    row = np.uint64(PITCH)
    for group in range(groups):
        p = np.uint64(group * 4 * PITCH)
        for column in range(columns.size):
            q, u = np.uint64(start) + p + np.uint64(columns[column]), t + column * len(taps)
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


@inlined
def add_within_rows(
    out: Array, first: int, distance: int, x: Array, rows: int, n: int, w: Array, t: int, taps: int,
    step: int,
) -> None:  # fmt: skip
    """Add weighted sums of ``taps`` elements, ``step`` apart, within each of ``rows`` of ``x``.

    Weights follow each other from ``w[t]`` on. Rows of ``out`` begin at ``first`` and are
    ``distance`` apart; they are overwritten where ``t`` is 0.
    """
    if taps == 9:
        _add_within(out, first, distance, x, rows, n, w, t, (0, 1, 2, 3, 4, 5, 6, 7, 8), step)
    elif taps == 7:
        _add_within(out, first, distance, x, rows, n, w, t, (0, 1, 2, 3, 4, 5, 6), step)
    elif taps == 5:
        _add_within(out, first, distance, x, rows, n, w, t, (0, 1, 2, 3, 4), step)
    elif taps == 3:
        _add_within(out, first, distance, x, rows, n, w, t, (0, 1, 2), step)
    else:
        _add_within(out, first, distance, x, rows, n, w, t, (0,), step)


@compiled_products
def _add_within(
    out: Array, first: int, distance: int, x: Array, rows: int, n: int, w: Array, t: int,
    taps: tuple[int, ...], step: int,
) -> None:  # fmt: skip
    for r in range(rows):
        p, q = np.uint64(first + r * distance), np.uint64(r * PITCH + t * step)
        u, between = np.uint64(t), np.uint64(step)
        for i in range(np.uint64(n)):
            a = 0.0
            for k in range(len(taps)):
                a += w[u + np.uint64(k)] * x[q + np.uint64(k) * between + i]
            out[p + i] = out[p + i] + a if t else a


@compiled_products
def copy_values(out: Array, to: int, x: Array, start: int, n: int) -> None:
    """Copy ``n`` values of ``x`` from ``start`` on to ``out`` from ``to`` on."""
    p, q = np.uint64(to), np.uint64(start)
    for i in range(np.uint64(n)):
        out[p + i] = x[q + i]


@compiled_products
def zero_rows(out: Array, rows: int, n: int) -> None:
    """Set the first ``n`` values of the first buffer rows to 0."""
    for r in range(rows):
        p = np.uint64(r * PITCH)
        for i in range(np.uint64(n)):
            out[p + i] = 0.0

"""Weighted sums of flat values at any distances from each other: what correlations are made of.

Eight products are taken for each time that a sum is read and written: 0.03 to 0.04 ns each for
float32 voxels summed in float64, 0.025 in float32 (one at a time, 0.3).
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled_products

Array = np.ndarray[Any, np.dtype[Any]]

#: sums that take up their next products together: 4 KiB of the fastest cache
RUN = 512


@compiled_products
def weighted(out: Array, x: Array, at: int, n: int, offsets: Array, weights: Array) -> None:
    """``out[i] = sum_t weights[t] * x[at + offsets[t] + i]`` for ``i < n``.

    Positions are unsigned: compiled code asks of signed ones whether they count from the end.
    """
    start = np.uint64(at)
    for first in range(0, n, RUN):
        low, high = np.uint64(first), np.uint64(min(n, first + RUN))
        t = 1 if weights.size % 4 == 1 else 0  # an odd one out spares the zeros
        for i in range(low, high):
            out[i] = weights[0] * x[start + offsets[0] + i] if t else 0
        while t + 8 <= weights.size:
            _eight(out, x, start, low, high, offsets, weights, t)
            t += 8
        if t + 4 <= weights.size:
            _four(out, x, start, low, high, offsets, weights, t)
            t += 4
        while t < weights.size:
            w, p = weights[t], start + offsets[t]
            for i in range(low, high):
                out[i] += w * x[p + i]
            t += 1


@compiled_products
def _eight(out: Array, x: Array, at: int, low: int, high: int, o: Array, w: Array, t: int) -> None:
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
def _four(out: Array, x: Array, at: int, low: int, high: int, o: Array, w: Array, t: int) -> None:
    w0, w1, w2, w3 = w[t], w[t + 1], w[t + 2], w[t + 3]
    p0, p1, p2, p3 = at + o[t], at + o[t + 1], at + o[t + 2], at + o[t + 3]
    for i in range(low, high):
        out[i] += w0 * x[p0 + i] + w1 * x[p1 + i] + w2 * x[p2 + i] + w3 * x[p3 + i]

"""Products of the components of a gradient, continued beyond the border of the array."""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]


@compiled
def multiply(f: Array, g: Array, lengths: Array, z: Array, y: Array, x: Array, out: Array) -> None:
    """``f`` times ``g`` of voxels at ``z``, ``y``, ``x``; 0 where one of these is -1.

    Both are flat, of ``lengths`` (z, y, x). Positions along x are repeated at the ends
    alone, so rows are multiplied as they lie: 1 ns per voxel, 4 with numpy.
    """
    first, last = _run(x)
    for i in range(z.size):
        for j in range(y.size):
            row, to = (z[i] * lengths[1] + y[j]) * lengths[2], (i * y.size + j) * x.size
            if z[i] < 0 or y[j] < 0:
                out[to : to + x.size] = 0.0
                continue
            for k in range(x.size):
                if k < first or k >= last:
                    at = row + x[k]
                    out[to + k] = np.float64(f[at]) * g[at] if x[k] >= 0 else 0.0
            if last > first:
                _multiply_run(f, g, row + x[first], last - first, out, to + first)


@compiled
def _multiply_run(f: Array, g: Array, at: int, n: int, out: Array, to: int) -> None:
    at_, to_ = np.uint64(at), np.uint64(to)
    for i in range(n):
        k = np.uint64(i)
        out[to_ + k] = np.float64(f[at_ + k]) * np.float64(g[at_ + k])


@compiled
def _run(x: Array) -> tuple[int, int]:
    """The longest part of positions that goes up by 1, where only the ends do not."""
    first, last, start = 0, 0, 0
    for i in range(1, x.size + 1):
        if i == x.size or x[i] != x[i - 1] + 1 or x[i - 1] < 0:
            if i - start > last - first and x[start] >= 0:
                first, last = start, i
            start = i
    return first, last

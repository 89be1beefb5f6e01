"""Products of the components of a gradient, continued beyond the border of the array."""

from typing import Any

import numpy as np

from lazyvol.kernels.compiled import compiled

Array = np.ndarray[Any, np.dtype[Any]]


@compiled
def multiply(
    f: Array, lengths: Array, z: Array, y: Array, x: Array, a: int, b: int, out: Array
) -> None:
    """Components ``a`` times ``b`` of voxels at ``z``, ``y``, ``x``; 0 where one of them is -1.

    ``f`` is flat, of ``lengths`` (z, y, x, component). Positions along x are repeated at the ends
    alone, so rows are multiplied as they lie: 1 ns per voxel, 4 with numpy.
    """
    first, last = _run(x)
    size = lengths[3]
    for i in range(z.size):
        for j in range(y.size):
            row, to = (z[i] * lengths[1] + y[j]) * lengths[2], (i * y.size + j) * x.size
            if z[i] < 0 or y[j] < 0:
                out[to : to + x.size] = 0.0
                continue
            for k in range(x.size):
                if k < first or k >= last:
                    at = (row + x[k]) * size
                    out[to + k] = np.float64(f[at + a]) * f[at + b] if x[k] >= 0 else 0.0
            if last > first:
                at = (row + x[first]) * size
                _multiply_run(f, at + a, at + b, size, last - first, out, to + first)


@compiled
def _multiply_run(f: Array, a: int, b: int, step: int, n: int, out: Array, to: int) -> None:
    a_, b_, to_, step_ = np.uint64(a), np.uint64(b), np.uint64(to), np.uint64(step)
    for i in range(n):
        k = np.uint64(i)
        out[to_ + k] = np.float64(f[a_ + step_ * k]) * np.float64(f[b_ + step_ * k])


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

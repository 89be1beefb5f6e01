"""Euclidean distance transforms of masks, exact, for voxels of any shape.

Squared distances are separable: along one axis after the other, each voxel takes the lowest of the
parabolas that the voxels of its line carry (Felzenszwalb and Huttenlocher, Theory of Computing 8,
415, 2012). A volume takes 8 bytes per voxel; ``scipy.ndimage.distance_transform_edt`` keeps three
indices per voxel, 60 bytes and more.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.morphology.binary import interior

Array = np.ndarray[Any, np.dtype[Any]]
Halo = Sequence[tuple[int, int]]

#: lines that are copied together, so that memory is read in order
LINES = 16


def distances(block: Array, *, axes: Sequence[int], step: Sequence[float]) -> Array:
    """Return the distances of set voxels from the nearest other one, in volumes along ``axes``.

    ``step`` is the voxel size along each of them. Without another voxel they are infinite.
    """
    out = np.empty(block.shape)
    volumes, results = (np.moveaxis(a, axes, range(-len(axes), 0)) for a in (block, out))
    for index in np.ndindex(volumes.shape[: -len(axes)]):
        squares = np.zeros(volumes[index].shape)  # contiguous whatever the order of the axes
        squares[volumes[index]] = np.inf
        for axis, size in enumerate(step):
            shape = squares.shape
            lines = (prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
            _lower_envelopes(squares.reshape(lines), size * size)
        np.sqrt(squares, out=results[index])
    return out


def distances_to(
    block: Array, halo: Halo, *, axes: Sequence[int], step: Sequence[float], limit: float
) -> Array:
    """Return the distances of a block up to a limit, without its halo, which is as wide."""
    return np.minimum(interior(distances(block, axes=axes, step=step), halo), limit)


@compiled
def _lower_envelopes(squares: Array, step: float) -> None:
    """Replace values f(q) along the middle axis by min over p of f(p) + step (q - p)^2."""
    before, n, after = squares.shape
    lines = np.empty((LINES, n))
    vertex, start = np.empty(n, np.int64), np.empty(n + 1)
    for b in range(before):
        for first in range(0, after, LINES):
            m = min(LINES, after - first)
            for i in range(n):
                for j in range(m):
                    lines[j, i] = squares[b, i, first + j]
            for j in range(m):
                count = _parabolas(lines[j], step, vertex, start)
                if count == 0:
                    continue
                k = 0
                for i in range(n):
                    while k + 1 < count and start[k + 1] < i:
                        k += 1
                    distance = float(i - vertex[k])
                    squares[b, i, first + j] = lines[j, vertex[k]] + step * distance * distance


@compiled
def _parabolas(line: Array, step: float, vertex: Array, start: Array) -> int:
    """Find the parabolas of the lower envelope of a line, and where each begins; return their
    number."""
    count = 0
    for q in range(line.size):
        if line[q] == np.inf:
            continue
        place = -np.inf
        while count > 0:
            p = vertex[count - 1]
            place = 0.5 * ((line[q] - line[p]) / (step * (q - p)) + q + p)
            if place > start[count - 1]:
                break
            count -= 1
        if count == 0:
            place = -np.inf
        vertex[count], start[count] = q, place
        count += 1
    return count

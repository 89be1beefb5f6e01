"""Grey reconstruction of whole volumes: seeds dilated under a mask, or eroded above it.

The hybrid algorithm of Vincent (IEEE Transactions on Image Processing 2, 176, 1993): two sweeps
over the volume, then a queue of the voxels from which values still spread.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import particle_volumes

Array = np.ndarray[Any, np.dtype[Any]]


def reconstruct(
    seed: Array, mask: Array, *, axes: Sequence[int], structure: Array, erodes: bool
) -> Array:
    """Return volumes along ``axes``: seeds dilated under the mask, or eroded above it.

    ``structure`` are a voxel and its neighbours. NaN in the mask remains and blocks the growth.
    """
    missing = 3 - len(axes)
    element = np.pad(structure[(None,) * missing], [(1, 1)] * missing + [(0, 0)] * len(axes))
    out = np.empty(seed.shape, seed.dtype)
    seeds, results = particle_volumes(seed, axes), particle_volumes(out, axes)
    lead, sign = seeds.shape[:-3], -1.0 if erodes else 1.0
    masks = np.broadcast_to(particle_volumes(mask, axes), seeds.shape)
    for index in np.ndindex(lead):
        limit = _padded(masks[index], sign)
        grown = _padded(seeds[index], sign)
        np.minimum(grown, limit, out=grown)
        z, y, x = np.nonzero(element)
        steps = ((z - 1) * limit.shape[1] + (y - 1)) * limit.shape[2] + (x - 1)
        first = (limit.shape[1] + 1) * limit.shape[2] + 1
        _grow(grown.ravel(), limit.ravel(), np.sort(steps), first)
        inner = sign * grown[1:-1, 1:-1, 1:-1]
        is_nan = masks[index] != masks[index]
        results[index] = np.where(is_nan, np.nan, inner) if is_nan.any() else inner
    return out


def bytes_per_voxel(lengths: Sequence[int]) -> float:
    """Return the memory of a volume: two padded copies, the queue and its flags, the result."""
    padded = prod(n + 2 for n in lengths) / max(1, prod(lengths))
    return 25.0 * padded + 17.0


def _padded(volume: Array, sign: float) -> Array:
    """Return a volume in float64 in a margin of the lowest value, which also replaces NaN."""
    padded = np.full([n + 2 for n in volume.shape], -np.inf)
    inner = padded[1:-1, 1:-1, 1:-1]
    np.multiply(volume, sign, out=inner)
    inner[inner != inner] = -np.inf
    return padded


@compiled
def _grow(grown: Array, limit: Array, steps: Array, first: int) -> None:
    """Dilate flat padded values under a limit until nothing changes, in place.

    ``first`` is the first voxel inside the margin.
    """
    n, half = grown.size, steps.size // 2
    for p in range(first, n - first):
        grown[p] = _highest(grown, limit, steps[: half + 1], p)
    queue, waits = np.empty(n, np.int64), np.zeros(n, np.bool_)
    head = count = 0
    for p in range(n - first - 1, first - 1, -1):
        grown[p] = _highest(grown, limit, steps[half:], p)
        for s in steps[half + 1 :]:
            q = p + s
            if grown[q] < grown[p] and grown[q] < limit[q] and not waits[p]:
                queue[count], waits[p] = p, True
                count += 1
    while count > 0:
        p = queue[head]
        head, count = (head + 1) % n, count - 1
        waits[p] = False
        for s in steps:
            q = p + s
            if grown[q] < grown[p] and grown[q] < limit[q]:
                grown[q] = min(grown[p], limit[q])
                if not waits[q]:
                    queue[(head + count) % n], waits[q] = q, True
                    count += 1


@compiled
def _highest(grown: Array, limit: Array, steps: Array, p: int) -> float:
    """Return the highest value at ``steps`` from a voxel, at most the voxel's limit."""
    highest = grown[p]
    for s in steps:
        highest = max(highest, grown[p + s])
    return float(min(highest, limit[p]))

"""Binary morphology of blocks that were grown by a halo as far as the array goes.

A block ends where its array ends or where its halo does. Within the halo the border does not
reach the interior, so what is assumed beyond it matters at the array's own border alone.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]
Halo = Sequence[tuple[int, int]]


def ball(reach: Sequence[int], step: Sequence[float], radius: float) -> Array:
    """Voxels no further than ``radius`` from the middle one, ``step`` apart along each axis."""
    squares = (
        (np.arange(-n, n + 1) * s) ** 2 if n else np.zeros(1)
        for n, s in zip(reach, step, strict=True)
    )
    return np.asarray(np.sqrt(reduce(np.add.outer, squares)) <= radius * (1 + 1e-9))


def dilated(block: Array, halo: Halo, *, element: Array, iterations: int, border: bool) -> Array:
    """``scipy.ndimage.binary_dilation`` of the interior."""
    return _interior(_times(_dilate, block, element, iterations, border), halo)


def eroded(block: Array, halo: Halo, *, element: Array, iterations: int, border: bool) -> Array:
    """``scipy.ndimage.binary_erosion`` of the interior."""
    return _interior(_times(_erode, block, element, iterations, border), halo)


def opened(block: Array, halo: Halo, *, element: Array, iterations: int, border: bool) -> Array:
    """``scipy.ndimage.binary_opening`` of the interior."""
    worn = _times(_erode, block, element, iterations, border)
    return _interior(_times(_dilate, worn, element, iterations, border), halo)


def closed(block: Array, halo: Halo, *, element: Array, iterations: int, border: bool) -> Array:
    """``scipy.ndimage.binary_closing`` of the interior."""
    grown = _times(_dilate, block, element, iterations, border)
    return _interior(_times(_erode, grown, element, iterations, border), halo)


def _interior(block: Array, halo: Halo) -> Array:
    return block[tuple(slice(lo, n - hi) for n, (lo, hi) in zip(block.shape, halo, strict=True))]


def _times(step: Any, block: Array, element: Array, iterations: int, border: bool) -> Array:
    """A step some times over, each with the border as it was."""
    for _ in range(iterations):
        block = step(block, element, border)
    return block


def _dilate(block: Array, element: Array, border: bool) -> Array:
    return _swept(block, element, border, True)


def _erode(block: Array, element: Array, border: bool) -> Array:
    return _swept(block, element, border, False)


def _swept(block: Array, element: Array, border: bool, some: bool) -> Array:
    """Whether any or all of the flags that a symmetric element covers are set.

    A box is a line along one axis after the other. Measured on one core, 128^3 in Mvoxel/s, and
    ``scipy.ndimage.binary_dilation``: 7 neighbours 1600 and 84, a ball of 3 440 and 17, of 5 135
    and 8, a box of 9^3 530 and 14. And scipy's way of several iterations corrupts the heap where
    an element is longer than the array (scipy 1.17).
    """
    if element.all():
        for axis, n in enumerate(element.shape):
            if n > 1:
                line = np.ones([n if a == axis else 1 for a in range(block.ndim)], bool)
                block = _covered(block, line, border, some)
        return block
    return _covered(block, element, border, some)


def _covered(block: Array, element: Array, border: bool, some: bool) -> Array:
    """As ``_swept`` by any element: the block within its border is a row, along which the
    element is a list of distances."""
    reach = [n // 2 for n in element.shape]
    shape = [n + 2 * r for n, r in zip(block.shape, reach, strict=True)]
    padded = np.full(shape, border)
    padded[tuple(slice(r, r + n) for r, n in zip(reach, block.shape, strict=True))] = block
    away = np.ravel_multi_index(np.nonzero(element), shape)
    out = np.empty(padded.size, np.uint8)
    _sweep(padded.ravel().view(np.uint8), np.sort(away), out, some)
    found = out.view(bool).reshape(shape)[tuple(slice(0, n) for n in block.shape)]
    return np.ascontiguousarray(found)


#: flags that go through all distances together: they stay in the first cache
CHUNK = 8192


@compiled
def _sweep(x, away, out, some):  # type: ignore[no-untyped-def]
    """Flags at every distance of the rising ``away`` taken together, as far as they go."""
    end = x.size - away[-1]
    for b in range(0, end, CHUNK):
        c = min(b + CHUNK, end)
        part = out[b:c]
        part[:] = x[b + away[0] : c + away[0]]
        for k in range(1, away.size):
            other = x[b + away[k] : c + away[k]]
            if some:
                for j in range(part.size):
                    part[j] |= other[j]
            else:
                for j in range(part.size):
                    part[j] &= other[j]

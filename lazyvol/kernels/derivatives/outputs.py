"""What is made of rows of derivatives before they are stored: the field is never whole.

Rows are those of a buffer of ``eigen``: the three first derivatives, or the six second ones. Axes
that a block lacks (the first ones) have zeros. Results go to a flat array, each component to its
own part of it: side by side they took twice as long to store.
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.derivatives import eigenvalues, vesselness
from lazyvol.kernels.derivatives.eigenvalues import STRIDE, WIDTH

Array = np.ndarray[Any, np.dtype[Any]]

GRADIENT, LENGTH = 0, 1
HESSIAN, TRACE, EIGENVALUES, VESSELNESS, NORM, SHAPE = 2, 3, 4, 5, 6, 7
#: whose result is one number per voxel
SCALAR = (LENGTH, TRACE, VESSELNESS, NORM)


@compiled
def emit(
    s: Array, n: int, what: int, axes: int, fine: bool, p: Array, out: Array, at: int, apart: int
) -> None:
    """``what`` of ``n`` voxels of a block with ``axes`` axes into ``out`` from ``at``.

    Components are ``apart`` there. ``fine`` asks for eigenvalues to the precision of float64, ``p``
    has the options of vesselness.
    """
    if what == GRADIENT:
        _store(s, n, 3 - axes, axes, out, at, apart)
    elif what == LENGTH:
        _length(s, n, out, at)
    elif what == TRACE:
        place = np.uint64(at)
        for i in range(n):
            out[place + np.uint64(i)] = s[i] + s[3 * STRIDE + i] + s[5 * STRIDE + i]
    elif what == HESSIAN:
        _matrices(s, n, axes, out, at, apart)
    else:
        _eigenvalues(s, n, axes, fine)
        _of_eigenvalues(s, n, what, axes, p, out, at, apart)


@compiled
def _of_eigenvalues(
    s: Array, n: int, what: int, axes: int, p: Array, out: Array, at: int, apart: int
) -> None:
    if what == EIGENVALUES:
        _store(s, n, 0, axes, out, at, apart)
    elif what == VESSELNESS:
        vesselness.vesselness(s, n, axes == 2, p[0], p[1], p[2], p[3])
        _store(s, n, 0, 1, out, at, apart)
    else:
        vesselness.shape(s, n, axes == 2, p[0], p[1], p[2])
        for i in range(n):
            s[STRIDE + i] = np.sqrt(s[STRIDE + i])
        _store(s, n, 1 if what == NORM else 0, 1 if what == NORM else 2, out, at, apart)


@compiled
def _eigenvalues(s: Array, n: int, axes: int, fine: bool) -> None:
    if axes == 1:
        for i in range(n):
            s[i] = s[5 * STRIDE + i]
    elif axes == 2:
        eigenvalues.plane(s, n)
    elif fine:
        eigenvalues.exact(s, n)
    else:
        eigenvalues.rough(s, n)


@compiled
def _length(s: Array, n: int, out: Array, at: int) -> None:
    """Euclidean length, of vectors of any length."""
    place = np.uint64(at)
    for i in range(n):
        a, b, c = s[i], s[STRIDE + i], s[2 * STRIDE + i]
        most = max(max(abs(a), abs(b)), abs(c))
        scale = (
            eigenvalues.UP
            if most < eigenvalues.SMALL
            else (eigenvalues.DOWN if most > eigenvalues.LARGE else 1.0)
        )
        back = (
            eigenvalues.DOWN
            if most < eigenvalues.SMALL
            else (eigenvalues.UP if most > eigenvalues.LARGE else 1.0)
        )
        a, b, c = a * scale, b * scale, c * scale
        out[place + np.uint64(i)] = np.sqrt(a * a + b * b + c * c) * back


@compiled
def _store(s: Array, n: int, first: int, count: int, out: Array, at: int, apart: int) -> None:
    """``count`` rows from ``first``."""
    for c in range(count):
        row, place = np.uint64((first + c) * STRIDE), np.uint64(at + c * apart)
        for i in range(n):
            k = np.uint64(i)
            out[place + k] = s[row + k]


@compiled
def _matrices(s: Array, n: int, axes: int, out: Array, at: int, apart: int) -> None:
    """Symmetric matrices in full, row by row."""
    for r in range(axes):
        for c in range(axes):
            low, high = min(r, c) + 3 - axes, max(r, c) + 3 - axes
            row = low * (5 - low) // 2 + high
            _store(s, n, row, 1, out, at + (r * axes + c) * apart, apart)


@compiled
def emit_fields(
    fields: tuple[Array, ...], shape: Array, what: int, axes: int, fine: bool, p: Array,
    out: Array, steps: Array, apart: int,
) -> None:  # fmt: skip
    """``what`` of fields of derivatives of a box, flat and as many as there are rows.

    ``out`` is flat, with planes and rows of the box ``steps`` and components ``apart``.
    """
    s = np.empty(6 * STRIDE)
    for z in range(shape[0]):
        for y in range(shape[1]):
            first, to = (z * shape[1] + y) * shape[2], z * steps[0] + y * steps[1]
            for x in range(0, shape[2], WIDTH):
                n = min(WIDTH, shape[2] - x)
                for row in range(len(fields)):
                    field = fields[row][first + x : first + x + n]
                    place = s[row * STRIDE : row * STRIDE + n]
                    for i in range(n):
                        place[i] = field[i]
                emit(s, n, what, axes, fine, p, out, to + x, apart)

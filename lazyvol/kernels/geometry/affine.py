"""Volumes under a rotation and a shift, by interpolation at the places that voxels come from.

As ``scipy.ndimage.affine_transform`` does it, 64^3 on one core in 9 ms instead of 44 (cubic) and
3.3 instead of 20 (linear).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import each_particle, particle_volumes
from lazyvol.kernels.geometry.splines import EDGE, BoundaryMode, coefficients, continued

Array = np.ndarray[Any, np.dtype[Any]]

#: what a position beyond the border is taken for
BEYOND = {"constant": 0, "nearest": 1, "reflect": 2, "mirror": 3, "wrap": 4}
#: voxels beyond the border that interpolation looks at
REACH = 2
#: part of a voxel by which rounding may push a position over the border: a quarter turn keeps
#: its outermost voxels (scipy loses some of them)
ROUNDING = 1e-9


def turned(
    block: Array, *angles: Array, axes: Sequence[int], step: Sequence[float], order: int,
    mode: BoundaryMode, fill: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Every particle turned about voxel n // 2; ``angles`` are its rot, tilt and psi in degrees.

    ``step`` is the distance between voxels along z, y, x. One with an angle that is not finite is
    NaN.
    """
    out = np.empty(block.shape, dtype)
    source, target = particle_volumes(block, axes), particle_volumes(out, axes)
    for index, *euler in each_particle(source.shape[:-3], *angles, axes=axes):
        matrix, offset = backwards(source.shape[-3:], step, euler)
        if not np.isfinite(matrix).all():
            target[index] = np.nan
        else:
            given = prepared(source[index], order, mode)
            target[index] = sampled(given, matrix, offset, order, mode, fill, wide(dtype))
    return out


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that compiled code writes for a result of ``dtype``: it knows no float16, and no
    other byte order than the machine's."""
    return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)


def backwards(
    shape: Sequence[int],
    step: Sequence[float],
    angles: Sequence[float] | Array,
    shift: Sequence[float] | Array = (0.0, 0.0, 0.0),
) -> tuple[Array, Array]:
    """Where voxels come from when a volume is shifted and then turned: at ``matrix @ i + offset``.

    The rotation acts on vectors (x, y, z) about voxel n // 2, ``shift`` is in voxels z, y, x.
    """
    inverse = rotation(angles).T[::-1, ::-1]  # to the axes' order z, y, x
    spacing = np.asarray(step, np.float64)
    matrix = inverse * spacing / spacing[:, None]
    centre = np.array([n // 2 for n in shape], np.float64)
    return matrix, centre - matrix @ centre - np.asarray(shift, np.float64)


def rotation(angles: Sequence[float] | Array) -> Array:
    """Matrix of a rotation of vectors (x, y, z): R_z(rot) R_y(tilt) R_z(psi), of degrees."""
    (a, b, c), (sa, sb, sc) = np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))
    first = np.array([[a, -sa, 0.0], [sa, a, 0.0], [0.0, 0.0, 1.0]])
    second = np.array([[b, 0.0, sb], [0.0, 1.0, 0.0], [-sb, 0.0, b]])
    third = np.array([[c, -sc, 0.0], [sc, c, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(first @ second @ third)


def prepared(volume: Array, order: int, mode: BoundaryMode) -> tuple[Array, int]:
    """What is interpolated in: coefficients, continued beyond the border, and by how much."""
    beyond: BoundaryMode = "mirror" if mode == "constant" else mode
    if order == 1:
        return continued(volume, REACH, beyond), REACH
    if mode == "nearest":
        grown = continued(volume, EDGE, "nearest")
        coefficients(grown, mode)
        return continued(grown, REACH, "reflect"), EDGE + REACH
    filtered = np.array(volume, np.float64, order="C")
    coefficients(filtered, mode)
    return continued(filtered, REACH, beyond), REACH


def sampled(
    given: tuple[Array, int],
    matrix: Array,
    offset: Array,
    order: int,
    mode: BoundaryMode,
    fill: float,
    dtype: np.dtype[Any],
) -> Array:
    """Values of a prepared volume at ``matrix @ i + offset`` for every voxel i of it."""
    padded, margin = given
    out = np.empty([n - 2 * margin for n in padded.shape], dtype)
    sample = _cubic if order == 3 else _linear
    sample(out, padded, margin, matrix, offset, BEYOND[mode], fill)
    return out


@compiled
def _place(p: float, n: int, margin: int, beyond: int) -> float:
    """A position inside the continued volume that stands for ``p``."""
    if beyond == 1:
        reach = margin - REACH
        return min(max(p, -1.0 * reach), n - 1.0 + reach)
    if n == 1:
        return 0.0
    if beyond == 2:
        p = (p + 0.5) % (2.0 * n)
        return min(p, 2.0 * n - p) - 0.5
    if beyond == 3:
        p = p % (2.0 * n - 2.0)
        return min(p, 2.0 * n - 2.0 - p)
    return p % n


@compiled
def _linear(
    out: Array, padded: Array, margin: int, m: Array, b: Array, beyond: int, fill: float
) -> None:
    nz, ny, nx = out.shape
    for z in range(nz):
        for y in range(ny):
            pz0 = m[0, 0] * z + m[0, 1] * y + b[0]
            py0 = m[1, 0] * z + m[1, 1] * y + b[1]
            px0 = m[2, 0] * z + m[2, 1] * y + b[2]
            for x in range(nx):
                pz, py, px = pz0 + m[0, 2] * x, py0 + m[1, 2] * x, px0 + m[2, 2] * x
                if beyond:
                    pz = _place(pz, nz, margin, beyond)
                    py = _place(py, ny, margin, beyond)
                    px = _place(px, nx, margin, beyond)
                elif not (
                    -ROUNDING <= pz <= nz - 1 + ROUNDING
                    and -ROUNDING <= py <= ny - 1 + ROUNDING
                    and -ROUNDING <= px <= nx - 1 + ROUNDING
                ):
                    out[z, y, x] = fill
                    continue
                pz, py, px = pz + margin, py + margin, px + margin
                i, j, k = np.uint32(pz), np.uint32(py), np.uint32(px)
                s, t, u = pz - i, py - j, px - k
                near = (1 - t) * ((1 - u) * padded[i, j, k] + u * padded[i, j, k + 1]) + t * (
                    (1 - u) * padded[i, j + 1, k] + u * padded[i, j + 1, k + 1]
                )
                i += 1
                far = (1 - t) * ((1 - u) * padded[i, j, k] + u * padded[i, j, k + 1]) + t * (
                    (1 - u) * padded[i, j + 1, k] + u * padded[i, j + 1, k + 1]
                )
                out[z, y, x] = (1 - s) * near + s * far


@compiled
def _weights(t: float) -> tuple[float, float, float, float]:
    u = 1.0 - t
    a, d = u * u * u / 6.0, t * t * t / 6.0
    return a, 2.0 / 3.0 - t * t + 3.0 * d, 2.0 / 3.0 - u * u + 3.0 * a, d


@compiled
def _cubic(
    out: Array, padded: Array, margin: int, m: Array, b: Array, beyond: int, fill: float
) -> None:
    nz, ny, nx = out.shape
    for z in range(nz):
        for y in range(ny):
            pz0 = m[0, 0] * z + m[0, 1] * y + b[0]
            py0 = m[1, 0] * z + m[1, 1] * y + b[1]
            px0 = m[2, 0] * z + m[2, 1] * y + b[2]
            for x in range(nx):
                pz, py, px = pz0 + m[0, 2] * x, py0 + m[1, 2] * x, px0 + m[2, 2] * x
                if beyond:
                    pz = _place(pz, nz, margin, beyond)
                    py = _place(py, ny, margin, beyond)
                    px = _place(px, nx, margin, beyond)
                elif not (
                    -ROUNDING <= pz <= nz - 1 + ROUNDING
                    and -ROUNDING <= py <= ny - 1 + ROUNDING
                    and -ROUNDING <= px <= nx - 1 + ROUNDING
                ):
                    out[z, y, x] = fill
                    continue
                pz, py, px = pz + margin, py + margin, px + margin
                i, j, k = np.uint32(pz), np.uint32(py), np.uint32(px)
                wz, wy = _weights(pz - i), _weights(py - j)
                w0, w1, w2, w3 = _weights(px - k)
                i, j, k = i - 1, j - 1, k - 1
                total = 0.0
                for a in range(4):
                    plane = 0.0
                    for c in range(4):
                        row = padded[i + a, j + c]
                        plane += wy[c] * (
                            (w0 * row[k] + w1 * row[k + 1]) + (w2 * row[k + 2] + w3 * row[k + 3])
                        )
                    total += wz[a] * plane
                out[z, y, x] = total

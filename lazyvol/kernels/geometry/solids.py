"""Solids from formulas: how far a voxel lies outside a surface, and soft edges.

Positions are (voxel index - centre) * step along z, y, x. A step of 0 leaves an axis out: a ball
with one such axis is an endless rod. Edges fall from 1 at the surface to 0 at ``soft`` outside
of it along a raised cosine.
"""

from math import cos, pi, radians, sin, sqrt
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
Triple = tuple[float, float, float]

#: rows are cut a little too long, so that rounding never costs a voxel
MARGIN, TINY = 1.0 + 1e-6, 1e-9


@compiled
def edge(outside: float, soft: float) -> float:
    """Value of a voxel at a distance outside the surface, negative inside of it."""
    if outside <= 0.0:
        return 1.0
    if outside >= soft:
        return 0.0
    return 0.5 + 0.5 * cos(pi * (outside / soft))


@compiled
def _beyond(side: float, end: float) -> float:
    """Distance to a solid that is this far away sideways and lengthways."""
    if side <= 0.0 or end <= 0.0:
        return max(side, end)
    return sqrt(side * side + end * end)


@compiled
def _reach(dz: float, dy: float, along: Array, radius: float, half: float) -> Triple:
    """Stretch of a row (dz, dy) that a cylinder may touch: its dx from and to, 0 if it is empty."""
    az, ay, ax = along
    t = dz * az + dy * ay
    low, high = -np.inf, np.inf
    a, b = 1.0 - ax * ax, -t * ax
    c = dz * dz + dy * dy - t * t - radius * radius
    if a > TINY:
        root = b * b - a * c
        if root < 0.0:
            return 0.0, 0.0, 0.0
        low, high = (-b - sqrt(root)) / a, (-b + sqrt(root)) / a
    elif c > 0.0:
        return 0.0, 0.0, 0.0
    if abs(ax) > TINY:
        ends = (-half - t) / ax, (half - t) / ax
        low, high = max(low, min(ends)), min(high, max(ends))
    elif abs(t) > half:
        return 0.0, 0.0, 0.0
    return low, high, 1.0 if low <= high else 0.0


@compiled
def _voxels(low: float, high: float, first: float, step: float, n: int) -> tuple[int, int]:
    """Voxels of a row, numbered from ``first`` steps from the centre, between two positions."""
    if step == 0.0:
        return 0, n
    a, b = low / step - first, high / step - first
    return int(max(0.0, min(a, b) - 1.0)), int(min(float(n), max(a, b) + 2.0))


@compiled
def add_cylinder(
    out: Array, start: Triple, centre: Triple, step: Triple, along: Array,
    radius: float, half: float, soft: float, gain: float,
) -> None:  # fmt: skip
    """Add ``gain`` times a cylinder about the unit vector ``along``, ``half`` of it each way.

    Only the part of a row near the cylinder is looked at (5 times faster on a box of 64^3).
    """
    wide, far = (radius + soft) * MARGIN + TINY, (half + soft) * MARGIN + TINY
    first = start[2] - centre[2]
    for i in range(out.shape[0]):
        dz = (start[0] + i - centre[0]) * step[0]
        for j in range(out.shape[1]):
            dy = (start[1] + j - centre[1]) * step[1]
            low, high, touched = _reach(dz, dy, along, wide, far)
            if touched == 0.0:
                continue
            begin, end = _voxels(low, high, first, step[2], out.shape[2])
            for k in range(begin, end):
                dx = (first + k) * step[2]
                t = dz * along[0] + dy * along[1] + dx * along[2]
                pz, py, px = dz - t * along[0], dy - t * along[1], dx - t * along[2]
                side = sqrt(pz * pz + py * py + px * px)
                out[i, j, k] += gain * edge(_beyond(side - radius, abs(t) - half), soft)


@compiled
def add_ball(
    out: Array, start: Triple, centre: Triple, step: Triple, radius: float, soft: float
) -> None:
    """Add a ball."""
    reach = (radius + soft) ** 2
    for i in range(out.shape[0]):
        dz = (start[0] + i - centre[0]) * step[0]
        for j in range(out.shape[1]):
            dy = (start[1] + j - centre[1]) * step[1]
            for k in range(out.shape[2]):
                dx = (start[2] + k - centre[2]) * step[2]
                square = dz * dz + dy * dy + dx * dx
                if square <= reach:
                    out[i, j, k] += edge(np.sqrt(square) - radius, soft)


@compiled
def add_box(
    out: Array, start: Triple, centre: Triple, step: Triple, half: Triple, soft: float
) -> None:
    """Add a box of ``half`` its size each way."""
    for i in range(out.shape[0]):
        ez = abs((start[0] + i - centre[0]) * step[0]) - half[0]
        for j in range(out.shape[1]):
            ey = abs((start[1] + j - centre[1]) * step[1]) - half[1]
            side = _beyond(ez, ey)
            for k in range(out.shape[2]):
                ex = abs((start[2] + k - centre[2]) * step[2]) - half[2]
                out[i, j, k] += edge(_beyond(side, ex), soft)


def blank(region: Region, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Zeros of a region of up to three axes, and the same as (z, y, x)."""
    out = np.zeros(tuple(s.stop - s.start for s in region), working(dtype))
    return out, out.reshape((1,) * (3 - out.ndim) + out.shape)


def working(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Float type to compute ``dtype`` in: compiled code has no float16."""
    return np.promote_types(dtype, np.float32)


def starts(region: Region) -> Triple:
    found = (0.0,) * (3 - len(region)) + tuple(float(s.start) for s in region)
    return found[0], found[1], found[2]


def cylinder(
    region: Region, *, centre: Triple, step: Triple, along: Triple, radius: float, length: float,
    soft: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """One region of a cylinder."""
    out, space = blank(region, dtype)
    axis = np.array(along)
    add_cylinder(space, starts(region), centre, step, axis, radius, length / 2, soft, 1.0)
    return out


def ball(
    region: Region, *, centre: Triple, step: Triple, radius: float, soft: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """One region of a ball."""
    out, space = blank(region, dtype)
    add_ball(space, starts(region), centre, step, radius, soft)
    return out


def box(
    region: Region, *, centre: Triple, step: Triple, half: Triple, soft: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """One region of a box."""
    out, space = blank(region, dtype)
    add_box(space, starts(region), centre, step, half, soft)
    return out


def across(along: Array) -> tuple[Array, Array]:
    """Two unit vectors at right angles to a unit vector and to each other."""
    other = np.eye(3)[np.argmin(np.abs(along))]
    first = np.cross(along, other)
    first /= np.linalg.norm(first)
    return first, np.cross(along, first)


def rotation(along: Array, tilt: float, azimuth: float) -> Array:
    """Matrix that turns (z, y, x) by ``tilt`` degrees about a vector at right angles to ``along``.

    ``azimuth`` (degrees) says which of them: the rotation of Rodrigues.
    """
    first, second = across(along)
    about = cos(radians(azimuth)) * first + sin(radians(azimuth)) * second
    a, b, c = about
    skew = np.array([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]])
    t = radians(tilt)
    return np.asarray(np.eye(3) + sin(t) * skew + (1.0 - cos(t)) * (skew @ skew))

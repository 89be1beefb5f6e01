"""Solids by formula, with soft edges, from the distance of each voxel to the surface.

Positions are (voxel index - centre) * step along z, y, x. A step of 0 removes an axis: a ball with
one such axis is an infinite rod. Values fall from 1 at the surface to 0 at a distance ``soft``
outside it, along a raised cosine.
"""

from math import cos, pi, radians, sin, sqrt
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
Triple = tuple[float, float, float]

#: relative and absolute excess of the visited part of a row, so that rounding never skips a voxel
EXCESS, TINY = 1.0 + 1e-6, 1e-9


@compiled
def soft_edge(outside: float, soft: float) -> float:
    """Return the value at a distance outside the surface (negative inside)."""
    if outside <= 0.0:
        return 1.0
    if outside >= soft:
        return 0.0
    return 0.5 + 0.5 * cos(pi * (outside / soft))


@compiled
def _distance(side: float, end: float) -> float:
    """Return the distance to a solid from those to its lateral surface and to its end."""
    if side <= 0.0 or end <= 0.0:
        return max(side, end)
    return sqrt(side * side + end * end)


@compiled
def _row_interval(dz: float, dy: float, along: Array, radius: float, half: float) -> Triple:
    """Return the interval of dx where a cylinder may touch the row (dz, dy), and 0 if none."""
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
def _voxel_range(low: float, high: float, first: float, step: float, n: int) -> tuple[int, int]:
    """Return the range of voxels between two positions, in a row that begins ``first`` steps from
    the centre."""
    if step == 0.0:
        return 0, n
    a, b = low / step - first, high / step - first
    return int(max(0.0, min(a, b) - 1.0)), int(min(float(n), max(a, b) + 2.0))


@compiled
def add_cylinder(
    out: Array, start: Triple, centre: Triple, step: Triple, along: Array,
    radius: float, half: float, soft: float, gain: float,
) -> None:  # fmt: skip
    """Add ``gain`` times a cylinder of half-length ``half`` about the unit vector ``along``.

    Only the part of each row near the cylinder is visited (5 times faster on a box of 64^3).
    """
    max_radius, max_half = (radius + soft) * EXCESS + TINY, (half + soft) * EXCESS + TINY
    first = start[2] - centre[2]
    for i in range(out.shape[0]):
        dz = (start[0] + i - centre[0]) * step[0]
        for j in range(out.shape[1]):
            dy = (start[1] + j - centre[1]) * step[1]
            low, high, touched = _row_interval(dz, dy, along, max_radius, max_half)
            if touched == 0.0:
                continue
            begin, end = _voxel_range(low, high, first, step[2], out.shape[2])
            for k in range(begin, end):
                dx = (first + k) * step[2]
                t = dz * along[0] + dy * along[1] + dx * along[2]
                pz, py, px = dz - t * along[0], dy - t * along[1], dx - t * along[2]
                side = sqrt(pz * pz + py * py + px * px)
                out[i, j, k] += gain * soft_edge(_distance(side - radius, abs(t) - half), soft)


@compiled
def add_ball(
    out: Array, start: Triple, centre: Triple, step: Triple, radius: float, soft: float
) -> None:
    """Add a ball."""
    max_square = (radius + soft) ** 2
    for i in range(out.shape[0]):
        dz = (start[0] + i - centre[0]) * step[0]
        for j in range(out.shape[1]):
            dy = (start[1] + j - centre[1]) * step[1]
            for k in range(out.shape[2]):
                dx = (start[2] + k - centre[2]) * step[2]
                square = dz * dz + dy * dy + dx * dx
                if square <= max_square:
                    out[i, j, k] += soft_edge(np.sqrt(square) - radius, soft)


@compiled
def add_soft_edges(out: Array, outside: Array, soft: float) -> None:
    """Add to (y, x) the values at distances outside a surface."""
    for j in range(out.shape[0]):
        for k in range(out.shape[1]):
            out[j, k] += soft_edge(outside[j, k], soft)


def zeros(region: Region, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return zeros of a region of up to three axes, and a view of them as (z, y, x)."""
    computed = np.promote_types(dtype, np.float32)  # compiled code has no float16
    out = np.zeros(tuple(s.stop - s.start for s in region), computed)
    return out, out.reshape((1,) * (3 - out.ndim) + out.shape)


def offsets(region: Region, centre: Triple, step: Triple) -> tuple[Array, Array, Array]:
    """Return the distances of a region's voxels from the centre along z, y and x."""
    spans = (slice(0, 1),) * (3 - len(region)) + region
    z, y, x = (
        (np.arange(s.start, s.stop) - c) * d for s, c, d in zip(spans, centre, step, strict=True)
    )
    return z, y, x


def zyx_start(region: Region) -> Triple:
    """Return the first voxel of a region along z, y, x; 0 along missing axes."""
    z, y, x = (0.0,) * (3 - len(region)) + tuple(float(s.start) for s in region)
    return z, y, x


def cylinder(
    region: Region, *, centre: Triple, step: Triple, along: Triple, radius: float, length: float,
    soft: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return one region of a cylinder."""
    out, space = zeros(region, dtype)
    axis = np.array(along)
    add_cylinder(space, zyx_start(region), centre, step, axis, radius, length / 2, soft, 1.0)
    return out


def ball(
    region: Region, *, centre: Triple, step: Triple, radius: float, soft: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return one region of a ball."""
    out, space = zeros(region, dtype)
    add_ball(space, zyx_start(region), centre, step, radius, soft)
    return out


def box(
    region: Region, *, centre: Triple, step: Triple, half: Triple, soft: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return one region of a box with sides of half-length ``half``."""
    out, space = zeros(region, dtype)
    z, y, x = (abs(o) - h for o, h in zip(offsets(region, centre, step), half, strict=True))
    for plane, ez in zip(space, z, strict=True):
        outside = _distances(_distances(ez, y)[:, None], x)
        add_soft_edges(plane, outside, soft)
    return out


def _distances(side: Array, end: Array) -> Array:
    """Return the distances to a solid from those to its sides and to its ends."""
    with np.errstate(over="ignore"):  # solids wider than 1e154 voxels
        beyond = np.sqrt(side * side + end * end)
    return np.where((side <= 0.0) | (end <= 0.0), np.maximum(side, end), beyond)


def perpendicular(along: Array) -> tuple[Array, Array]:
    """Return two unit vectors perpendicular to a unit vector and to each other."""
    basis = np.eye(3)[np.argmin(np.abs(along))]
    first = np.cross(along, basis)
    first /= np.linalg.norm(first)
    return first, np.cross(along, first)


def tilt_matrix(along: Array, tilt: float, azimuth: float) -> Array:
    """Return the rotation of (z, y, x) by ``tilt`` about an axis perpendicular to ``along``.

    The axis is at the angle ``azimuth`` about ``along``; both angles are in degrees (Rodrigues'
    formula).
    """
    first, second = perpendicular(along)
    a, b, c = cos(radians(azimuth)) * first + sin(radians(azimuth)) * second
    skew = np.array([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]])
    t = radians(tilt)
    return np.asarray(np.eye(3) + sin(t) * skew + (1.0 - cos(t)) * (skew @ skew))

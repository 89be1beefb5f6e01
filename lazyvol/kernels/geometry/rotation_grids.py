"""Sets of rotations: over all orientations, about one axis, around one rotation.

Quaternions are x, y, z, w as in scipy. Angles are rot, tilt and psi in degrees.
"""

from math import ceil, inf, pi, radians, sqrt
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

Array = np.ndarray[Any, np.dtype[Any]]

#: constants of the super-Fibonacci spiral: sqrt(2) and the real root of p^4 = p + 4
PHI, PSI = sqrt(2.0), 1.533751168755204288118041
#: rotation vectors of neighbours, in steps: none, along one axis, along all three
NEIGHBOURS = np.array(
    [(0, 0, 0)]
    + [tuple(s * int(a == b) for b in range(3)) for a in range(3) for s in (-1, 1)]
    + [(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)],
    np.float64,
)


def uniform(step: float, symmetry: float = 1) -> Array:
    """Return quaternions about ``step`` degrees apart over all rotations, the identity first.

    For a reference of ``symmetry``-fold symmetry about z they cover its asymmetric unit; for a
    cylindrical one (inf) they are the directions of its axis.
    """
    if symmetry == inf:
        quaternions = _axis_directions(step)
    else:
        quaternions = super_fibonacci(max(1, ceil(8 * pi**2 / radians(step) ** 3)))
        x, y, z, w = quaternions.T
        rot = np.rad2deg(np.arctan2(z, w) + np.arctan2(-x, y)) % 360.0
        quaternions = quaternions[rot < 360.0 / symmetry]
    return np.concatenate([[[0.0, 0.0, 0.0, 1.0]], quaternions])


def super_fibonacci(count: int) -> Array:
    """Return ``count`` evenly spread quaternions (Alexa, CVPR 2022).

    Neighbours are about (8 pi^2 / count)^(1/3) radians apart.
    """
    s = np.arange(count) + 0.5
    r, q = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * pi * s / PHI, 2 * pi * s / PSI
    return np.stack(
        [r * np.sin(alpha), r * np.cos(alpha), q * np.sin(beta), q * np.cos(beta)], axis=-1
    )


def _axis_directions(step: float) -> Array:
    """Return rotations that bring any axis to z: directions on a Fibonacci sphere."""
    count = max(2, ceil(4 * pi / radians(step) ** 2))
    s = np.arange(count) + 0.5
    tilt = np.rad2deg(np.arccos(1 - 2 * s / count))
    psi = np.rad2deg(pi * (1 + sqrt(5.0)) * s)
    return from_euler(np.stack([np.zeros(count), tilt, psi], -1))


def about_z(step: float, symmetry: float = 1) -> Array:
    """Return quaternions of rotations about z, at most ``step`` degrees apart, the identity
    first."""
    period = 360.0 / symmetry
    count = max(1, ceil(period / step - 1e-9))
    half_angle = np.deg2rad(np.arange(count) * period / count) / 2
    zeros = np.zeros(count)
    return np.stack([zeros, zeros, np.sin(half_angle), np.cos(half_angle)], axis=-1)


def neighbours(quaternion: Array, step: float, symmetry: float = 1, planar: bool = False) -> Array:
    """Return a rotation and its neighbours ``step`` degrees away, as quaternions.

    ``planar`` rotations, of images, have neighbours about z alone.
    """
    rotations = Rotation.from_rotvec(neighbour_offsets(symmetry, planar) * step, degrees=True)
    return np.asarray((rotations * Rotation.from_quat(quaternion)).as_quat())


def neighbour_offsets(symmetry: float, planar: bool = False) -> Array:
    """Return the rotation vectors (x, y, z) of neighbours in steps; none about z where a rotation
    about it changes nothing (a ``symmetry`` of inf)."""
    offsets = NEIGHBOURS[~NEIGHBOURS[:, :2].any(1)] if planar else NEIGHBOURS
    return offsets[offsets[:, 2] == 0] if symmetry == inf else offsets


def compose(quaternion: Array, degrees: Array) -> Array:
    """Return a rotation followed by the one of a rotation vector."""
    rotation = Rotation.from_rotvec(degrees, degrees=True)
    return np.asarray((rotation * Rotation.from_quat(quaternion)).as_quat())


def zyx_matrices(quaternions: Array) -> Array:
    """Return the matrices of rotations, acting on vectors (z, y, x)."""
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())[..., ::-1, ::-1]


def to_euler(quaternion: Array) -> Array:
    """Return rot, tilt and psi of quaternions (..., x y z w).

    At a tilt of 0 only rot + psi is determined: each gets half of that sum (scipy would warn).
    """
    x, y, z, w = np.moveaxis(np.asarray(quaternion, np.float64), -1, 0)
    half_sum, half_difference = np.arctan2(z, w), np.arctan2(-x, y)
    tilt = 2 * np.arctan2(np.hypot(x, y), np.hypot(z, w))
    angles = np.rad2deg(
        np.stack([half_sum + half_difference, tilt, half_sum - half_difference], -1)
    )
    angles[..., ::2] = (angles[..., ::2] + 180.0) % 360.0 - 180.0
    return np.asarray(angles)


def from_euler(angles: Array) -> Array:
    """Return the quaternions of rot, tilt and psi."""
    return np.asarray(Rotation.from_euler("ZYZ", angles, degrees=True).as_quat())

"""Rotations to try: all over, or around one. Angles are rot, tilt and psi in degrees."""

from math import ceil, inf, pi, radians, sqrt
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

Array = np.ndarray[Any, np.dtype[Any]]

#: the real roots that spread a spiral over all rotations (Alexa, CVPR 2022)
PHI, PSI = sqrt(2.0), 1.533751168755204288118041
#: steps around a rotation: none, along one axis, along all three
AROUND = np.array(
    [(0, 0, 0)]
    + [tuple(s * int(a == b) for b in range(3)) for a in range(3) for s in (-1, 1)]
    + [(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)],
    np.float64,
)


def uniform(step: float, symmetry: float = 1, within: float = 180.0) -> Array:
    """Quaternions about ``step`` degrees apart, no more than ``within`` from none.

    A super-Fibonacci spiral. Of a reference that looks the same after a turn of 360 / ``symmetry``
    degrees about z there are fewer, of one that is round (inf) those of its axis.
    """
    if symmetry == inf:
        found = _axes(step)
    else:
        count = max(1, ceil(8 * pi**2 / radians(step) ** 3))
        found = spiral(count)
        x, y, z, w = found.T
        rot = np.rad2deg(np.arctan2(z, w) + np.arctan2(-x, y)) % 360.0
        found = found[rot < 360.0 / symmetry]
    none = np.array([[0.0, 0.0, 0.0, 1.0]])
    near = 2 * np.rad2deg(np.arccos(np.minimum(np.abs(found[:, 3]), 1.0))) <= within
    return np.concatenate([none, found[near]])


def spiral(count: int) -> Array:
    """Quaternions x, y, z, w spread evenly over all rotations."""
    s = np.arange(count) + 0.5
    r, q = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * pi * s / PHI, 2 * pi * s / PSI
    return np.stack(
        [r * np.sin(alpha), r * np.cos(alpha), q * np.sin(beta), q * np.cos(beta)], axis=-1
    )


def _axes(step: float) -> Array:
    """Rotations that bring any axis to z: directions on a Fibonacci sphere."""
    count = max(2, ceil(4 * pi / radians(step) ** 2))
    s = np.arange(count) + 0.5
    tilt = np.rad2deg(np.arccos(1 - 2 * s / count))
    psi = np.rad2deg(pi * (1 + sqrt(5.0)) * s)
    return quaternion(np.stack([np.zeros(count), tilt, psi], -1))


def about_z(step: float, symmetry: float = 1) -> Array:
    """Quaternions of turns about z, ``step`` degrees apart or less, the first of them none."""
    whole = 360.0 / symmetry
    count = max(1, ceil(whole / step - 1e-9))
    half = np.deg2rad(np.arange(count) * whole / count) / 2
    nothing = np.zeros(count)
    return np.stack([nothing, nothing, np.sin(half), np.cos(half)], axis=-1)


def around(quaternion: Array, step: float, symmetry: float = 1, planar: bool = False) -> Array:
    """Quaternions of a rotation and of its neighbours ``step`` degrees away along the axes.

    A turn about z of a round reference changes nothing, so there is none. An image turns about z
    alone: where it is ``planar`` there is no other axis.
    """
    turns = Rotation.from_rotvec(offsets(symmetry, planar) * step, degrees=True)
    return np.asarray((turns * Rotation.from_quat(quaternion)).as_quat())


def offsets(symmetry: float, planar: bool = False) -> Array:
    """Rotation vectors (x, y, z) of neighbours, in steps."""
    found = AROUND[~AROUND[:, :2].any(1)] if planar else AROUND
    return found[found[:, 2] == 0] if symmetry == inf else found


def turned(quaternion: Array, degrees: Array) -> Array:
    """A rotation and then a small one, by a rotation vector."""
    turn = Rotation.from_rotvec(degrees, degrees=True)
    return np.asarray((turn * Rotation.from_quat(quaternion)).as_quat())


def matrices(quaternions: Array) -> Array:
    """Matrices of rotations, of vectors (z, y, x)."""
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())[..., ::-1, ::-1]


def angles(quaternion: Array) -> Array:
    """rot, tilt and psi of quaternions (..., x y z w).

    scipy warns where tilt is 0 and only rot + psi is known; here both are then half of it.
    """
    x, y, z, w = np.moveaxis(np.asarray(quaternion, np.float64), -1, 0)
    total, apart = np.arctan2(z, w), np.arctan2(-x, y)
    tilt = 2 * np.arctan2(np.hypot(x, y), np.hypot(z, w))
    found = np.rad2deg(np.stack([total + apart, tilt, total - apart], -1))
    found[..., ::2] = (found[..., ::2] + 180.0) % 360.0 - 180.0
    return np.asarray(found)


def quaternion(euler: Array) -> Array:
    """Quaternion of rot, tilt and psi."""
    return np.asarray(Rotation.from_euler("ZYZ", euler, degrees=True).as_quat())

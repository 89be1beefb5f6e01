"""Small misalignments, which all particles have: how much better they explain a particle.

A particle is the reference plus small multiples of its derivatives by rotations about three axes
and by shifts along them; multiples are normal about 0, with variances fitted to the particles. A
particle that this explains is consistent, even if a large rotation resembles it more than the
reference itself.
"""

from itertools import product
from math import pi
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lazyvol.kernels.screening.fourier_coefficients import Band, to_complex, to_real
from lazyvol.kernels.screening.fourier_rotation import RotatedSpectra
from lazyvol.kernels.screening.measured import Measured
from lazyvol.kernels.screening.products import fold_products, frequency_products, overlaps

Array = np.ndarray[Any, np.dtype[Any]]

#: degrees of the rotations by which derivatives are taken
STEP = 6.0
#: standard deviations about each axis that are tried: rotations in degrees, shifts in voxels
DEGREES, VOXELS = (0.0, 1.0, 2.0, 3.5, 5.5), (0.0, 0.25, 0.5, 0.8, 1.2)


def derivatives(rotated: RotatedSpectra, references: Array, selected: Array, band: Band) -> Array:
    """Return (fold, direction, number): derivatives by degrees about, and voxels along, each axis.

    ``rotated`` gives the references of all folds under rotations, (volume, number), of which
    ``references`` are those without one.
    """
    axes = np.eye(3)[:1] if band.planar else np.eye(3)
    turns = []
    for axis in axes:
        forth, back = (Rotation.from_rotvec(s * STEP * axis, degrees=True) for s in (1, -1))
        turns.append((rotated.at(forth.as_matrix()) - rotated.at(back.as_matrix())) / (2 * STEP))
    phase = 2 * pi * band.frequency[selected] * np.abs(band.spacing)
    shifts = [to_real(-1j * phase[:, a] * to_complex(references)) for a in range(band.planar, 3)]
    return np.stack([*turns, *shifts], axis=1).astype(np.float32)


def allowance(
    data: Array, measured: Measured, references: Array, directions: Array, contrast: Array,
    weight: Array,
) -> Array:  # fmt: skip
    """Return by how much small misalignments raise the log likelihood of each particle, 0 or more.

    ``weight`` are the probabilities that particles are consistent; the variances of misalignments
    have the largest likelihood among these.
    """
    n, count = len(data), directions.shape[1]
    overlap = overlaps(measured, directions, n)
    expected = measured.energies(frequency_products(directions, references[:, None]), n)
    strength = contrast[:, None]
    slope = strength * (fold_products(data, directions) - strength * expected)
    overlap *= np.square(contrast)[:, None, None]
    turns = count // 2
    best, best_total = np.zeros(n), 0.0
    for degrees, voxels in product(DEGREES, VOXELS):
        size = np.r_[np.full(turns, degrees), np.full(count - turns, voxels)]
        scaled = overlap * np.outer(size, size) + np.eye(count)
        solved = np.linalg.solve(scaled, (size * slope)[:, :, None])[:, :, 0]
        logs = 0.5 * ((size * slope) * solved).sum(1) - 0.5 * np.linalg.slogdet(scaled)[1]
        total = float(weight @ logs)
        if total > best_total:
            best, best_total = logs, total
    return np.maximum(best, 0.0)

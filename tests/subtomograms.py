"""Particles as subtomogram averaging makes them: a wedge of their own, rotated onto the reference.

Every particle is measured in its own orientation with a range of tilts of +-60 degrees about y, and
rotated back by splines, with zeros from outside the box.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from scipy.spatial.transform import Rotation

Array = np.ndarray

#: centres, widths and heights of the Gaussians of an object without symmetry, in a box of 32
OBJECT = [
    ((0, 0, 0), 4.0, 1.0), ((7, 2, -1), 3.0, 1.2), ((-3, 6, 2), 2.5, 1.0), ((1, -4, 6), 2.5, 0.9),
    ((-6, -3, -4), 2.0, 0.8),
]  # fmt: skip
#: another species
OTHER = [
    ((0, 0, 0), 3.0, 1.0), ((-6, 4, 2), 3.0, 1.0), ((5, 5, -3), 2.5, 1.1), ((-2, -5, -5), 3.0, 0.9)
]  # fmt: skip


def gaussians(box: int, matrix: Array | None = None, shift: Array | float = 0.0, parts=OBJECT):
    """Return an object rotated by a matrix (z, y, x) about voxel box // 2, then shifted."""
    place, matrix = np.stack(np.indices((box,) * 3), -1) - box // 2, matrix
    volume = np.zeros((box,) * 3)
    for centre, width, height in parts:
        at = np.array(centre) * box / 32
        at = (at if matrix is None else matrix @ at) + shift
        volume += height * np.exp(-((place - at) ** 2).sum(-1) / 2 / (width * box / 32) ** 2)
    return volume


def measured_mask(box: int, tilts=(-60.0, 60.0)) -> Array:
    """Return True for the frequencies of a tilt range, in the order of ``numpy.fft.fftn``."""
    z, _, x = np.meshgrid(*[np.fft.fftfreq(box)] * 3, indexing="ij")
    tilt = np.degrees(np.arctan2(z * np.where(x < 0, -1, 1), np.abs(x)))
    return ((tilt >= tilts[0]) & (tilt <= tilts[1])) | ((z == 0) & (x == 0))


def rotated(volume: Array, matrix: Array, order: int = 3) -> Array:
    """Return a volume rotated by a matrix (z, y, x) about voxel n // 2."""
    centre = np.full(3, volume.shape[0] // 2)
    return ndi.affine_transform(volume, matrix.T, centre - matrix.T @ centre, order=order)


@dataclass(frozen=True)
class Particles:
    """Particles (k, z, y, x), True for the wrong ones, and rot, tilt and psi (k, 3) in degrees."""

    values: Array
    wrong: Array
    angles: Array


def unchanged(volume: Array, rng: np.random.Generator) -> Array:
    return volume


def particles(
    n: int, sigma: float, seed: int, *, box: int = 24, wrong: str = "", part: float = 0.0,
    degrees: float = 0.0, voxels: float = 0.0, contrast: float = 0.0, level: float = 0.0,
    offset: float = 0.0, colour: float = 0.0, order: int = 3,
    image: Callable[[Array, np.random.Generator], Array] = unchanged,
    rotations: Rotation | None = None,
) -> Particles:  # fmt: skip
    """Simulate particles, a part of them wrong in one way.

    ``degrees`` and ``voxels`` are root mean squares of the misalignment of every particle,
    ``contrast``, ``level`` and ``offset`` deviations of its contrast, of the logarithm of its noise
    and of its mean; ``colour`` is the width of a Gaussian filter of the noise. ``image`` changes
    the signal before noise is added, as a transfer function does. ``rotations`` are random unless
    they are given.
    """
    rng, bad = np.random.default_rng(seed), np.zeros(n, bool)
    bad[rng.permutation(n)[: round(part * n)]] = True
    rotations = Rotation.random(n, random_state=seed) if rotations is None else rotations
    kept = measured_mask(box)
    values = np.empty((n, box, box, box), np.float32)
    for k, rotation in enumerate(rotations):
        back = rotation.as_matrix()[::-1, ::-1]
        tilt = Rotation.from_rotvec(rng.normal(size=3) * np.radians(degrees) / np.sqrt(3))
        pose, move = tilt.as_matrix(), rng.normal(size=3) * voxels / np.sqrt(3)
        size, parts = max(0.2, 1 + contrast * rng.normal()), OBJECT
        if bad[k] and wrong == "rotated":
            pose = Rotation.from_rotvec(rng.uniform(0.8, 3) * _direction(rng)).as_matrix()
        elif bad[k] and wrong == "shifted":
            move = move + rng.uniform(0.15, 0.25) * box * _direction(rng)
        elif bad[k] and wrong == "flipped":
            pose = np.diag([-1.0, -1.0, 1.0])
        elif bad[k] and wrong == "species":
            parts = OTHER
        signal = size * gaussians(box, back.T @ pose, back.T @ move, parts)
        if bad[k] and wrong == "noise":
            signal *= 0
        if bad[k] and wrong == "gold":
            place = np.stack(np.indices((box,) * 3), -1) - box // 2
            bead = place - rng.uniform(-box / 4, box / 4, 3)
            signal += 12 * sigma * ((bead**2).sum(-1) < 2.5**2)
        if bad[k] and wrong == "neighbour":
            beside = rng.uniform(0.45, 0.65) * box * _direction(rng)
            signal += gaussians(box, Rotation.random(random_state=k).as_matrix(), beside)
        if bad[k] and wrong == "membrane":
            place = np.stack(np.indices((box,) * 3), -1) - box // 2
            distance = place @ _direction(rng) - rng.uniform(0.25, 0.4) * box
            signal += np.exp(-(distance**2) / 2 / 1.5**2)
        noise = rng.normal(size=signal.shape)
        if colour:
            noise = ndi.gaussian_filter(noise, colour)
        noise *= sigma * np.exp(level * rng.normal()) / noise.std()
        spectrum = np.fft.fftn(image(signal, rng) + noise) * kept
        values[k] = rotated(np.fft.ifftn(spectrum).real, back, order) + offset * rng.normal()
    return Particles(values, bad, rotations.as_euler("ZYZ", degrees=True))


def _direction(rng: np.random.Generator) -> Array:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)

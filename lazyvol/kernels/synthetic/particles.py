"""Noisy copies of one signal, some of them turned away: every particle from its number alone."""

from typing import Any

import numpy as np
from scipy import ndimage

from lazyvol.kernels.geometry import solids
from lazyvol.kernels.synthetic import philox

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
#: degrees from and to; the azimuth in quarter turns where the flag is set
Tilts = tuple[float, float, bool]

#: streams of one seed: facts of particles, and their voxels (0 is ``synthetic.noise``)
FACTS, VOXELS = 1, 2


def ranks(start: int, stop: int, seed: int) -> Array:
    """Number between 0 and 1 for each particle, of 53 bits so that no two are the same."""
    u = philox.draws(start, stop, seed=seed, stream=FACTS)
    return np.asarray(u[:, 0] + (u[:, 3] - 0.5) * 2.0**-32)


def poses(start: int, stop: int, *, seed: int, below: float, tilts: Tilts) -> tuple[Array, Array]:
    """Degrees of tilt and azimuth of particles; those with a rank from ``below`` on stand."""
    u = philox.draws(start, stop, seed=seed, stream=FACTS)
    low, high, quarters = tilts
    tilt = np.where(ranks(start, stop, seed) < below, low + (high - low) * u[:, 1], 0.0)
    azimuth = np.where(u[:, 2] < 0.5, 0.0, 90.0) if quarters else 360.0 * u[:, 2]
    return tilt, azimuth


def noise(
    region: Region, *, shape: tuple[int, ...], seed: int, scale: float, dtype: np.dtype[Any]
) -> Array:
    """Normal noise of particles: another stream than ``synthetic.noise`` of the same seed."""
    return philox.numbers(region, shape=shape, seed=seed, stream=VOXELS, scale=scale, dtype=dtype)


def with_noise(
    block: Array, region: Region, *, shape: tuple[int, ...], seed: int, stream: int, scale: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """A block of an array of ``shape`` plus normal noise that depends on the position."""
    found = philox.numbers(
        region, shape=shape, seed=seed, stream=stream, scale=scale,
        dtype=np.promote_types(dtype, np.float32),
    )  # fmt: skip
    return np.asarray(found + block, dtype)


def cylinders(
    region: Region,
    *,
    shape: tuple[int, ...],
    seed: int,
    below: float,
    tilts: Tilts,
    along: solids.Triple,
    step: solids.Triple,
    radius: float,
    length: float,
    soft: float,
    signal: float,
    scale: float,
    dtype: np.dtype[Any],
) -> Array:
    """One region of a stack of noisy cylinders, (particle, z, y, x)."""
    which, *space = region
    single = solids.working(dtype)
    out = noise(region, shape=shape, seed=seed, scale=scale, dtype=single)
    tilt, azimuth = poses(which.start, which.stop, seed=seed, below=below, tilts=tilts)
    start = (float(space[0].start), float(space[1].start), float(space[2].start))
    centre = (float(shape[1] // 2), float(shape[2] // 2), float(shape[3] // 2))
    axis = np.array(along)
    for n, volume in enumerate(out):
        turned = solids.rotation(axis, tilt[n], azimuth[n]) @ axis if tilt[n] else axis
        solids.add_cylinder(volume, start, centre, step, turned, radius, length / 2, soft, signal)
    return out.astype(dtype, copy=False)


def copies(
    block: Array, template: Array, tilt: Array, azimuth: Array,
    *, along: solids.Triple, step: solids.Triple, signal: float,
) -> Array:  # fmt: skip
    """Noise plus ``signal`` times the template, turned about voxel n // 2 by linear interpolation.

    ``block`` is (particle, z, y, x), ``template`` (1, z, y, x), the angles (particle, 1, 1, 1).
    """
    out = np.empty_like(block)
    standing = np.multiply(template[0], signal, dtype=np.float64)
    for n, volume in enumerate(block):
        placed = standing
        if tilt[n, 0, 0, 0]:
            pose = tilt[n].item(), azimuth[n].item()
            matrix = solids.rotation(np.array(along), *pose)
            placed = turned(standing, matrix, np.array(step))
        np.add(volume, placed, out=out[n], casting="same_kind")
    return out


def turned(volume: Array, matrix: Array, step: Array) -> Array:
    """A volume under a rotation about voxel n // 2; what comes from outside is 0."""
    centre = np.array([n // 2 for n in volume.shape], np.float64)
    back = matrix.T * step / step[:, None]
    found = ndimage.affine_transform(volume, back, centre - back @ centre, order=1)
    return np.asarray(found)

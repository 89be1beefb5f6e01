"""Noisy copies of one signal, some of them tilted: every particle from its number and the seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels.geometry import affine, solids
from lazyvol.kernels.synthetic import philox

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
#: lowest and highest tilt in degrees, and whether azimuths are multiples of 90 degrees
Tilts = tuple[float, float, bool]

#: streams of one seed: properties of particles, and their voxels (0 is ``synthetic.noise``)
PROPERTIES, VOXELS = 1, 2


def ranks(start: int, stop: int, seed: int) -> Array:
    """Return a number between 0 and 1 for each particle; 53 bits, so that all are distinct."""
    u = philox.draws(start, stop, seed=seed, stream=PROPERTIES)
    return np.asarray(u[:, 0] + (u[:, 3] - 0.5) * 2.0**-32)


def poses(start: int, stop: int, *, seed: int, below: float, tilts: Tilts) -> tuple[Array, Array]:
    """Return the tilt and azimuth of particles in degrees; those of rank ``below`` or more have
    no tilt."""
    u = philox.draws(start, stop, seed=seed, stream=PROPERTIES)
    low, high, right_angles = tilts
    tilt = np.where(ranks(start, stop, seed) < below, low + (high - low) * u[:, 1], 0.0)
    azimuth = np.where(u[:, 2] < 0.5, 0.0, 90.0) if right_angles else 360.0 * u[:, 2]
    return tilt, azimuth


def noise(
    region: Region, *, shape: tuple[int, ...], seed: int, scale: float, dtype: np.dtype[Any]
) -> Array:
    """Return one region of the noise of particles, from another stream than
    ``synthetic.noise``."""
    return philox.numbers(region, shape=shape, seed=seed, stream=VOXELS, scale=scale, dtype=dtype)


def add_noise(
    block: Array, region: Region, *, shape: tuple[int, ...], seed: int, stream: int, scale: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Add normal noise that depends on the position to one region of an array of ``shape``."""
    normal = philox.numbers(
        region, shape=shape, seed=seed, stream=stream, scale=scale,
        dtype=np.promote_types(dtype, np.float32),
    )  # fmt: skip
    return np.asarray(normal + block, dtype)


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
    """Return one region of a stack of noisy cylinders, (particle, z, y, x)."""
    numbers, *space = region
    computed = np.promote_types(dtype, np.float32)  # compiled code has no float16
    out = noise(region, shape=shape, seed=seed, scale=scale, dtype=computed)
    tilt, azimuth = poses(numbers.start, numbers.stop, seed=seed, below=below, tilts=tilts)
    start = (float(space[0].start), float(space[1].start), float(space[2].start))
    centre = (float(shape[1] // 2), float(shape[2] // 2), float(shape[3] // 2))
    upright = np.array(along)
    for n, volume in enumerate(out):
        axis = upright
        if tilt[n]:
            axis = solids.tilt_matrix(upright, tilt[n], azimuth[n]) @ upright
        solids.add_cylinder(volume, start, centre, step, axis, radius, length / 2, soft, signal)
    return out.astype(dtype, copy=False)


def add_template(
    block: Array, template: Array, tilt: Array, azimuth: Array,
    *, along: solids.Triple, step: solids.Triple, signal: float,
) -> Array:  # fmt: skip
    """Add ``signal`` times a template, tilted about voxel n // 2 by linear interpolation.

    ``block`` is (particle, z, y, x), ``template`` (1, z, y, x), the angles (particle, 1, 1, 1).
    """
    out = np.empty_like(block)
    upright = np.multiply(template[0], signal, dtype=np.float64)
    for n, volume in enumerate(block):
        tilted = upright
        if tilt[n, 0, 0, 0]:
            matrix = solids.tilt_matrix(np.array(along), tilt[n].item(), azimuth[n].item())
            tilted = rotated(upright, matrix, step)
        np.add(volume, tilted, out=out[n], casting="same_kind")
    return out


def rotated(volume: Array, rotation: Array, step: Sequence[float]) -> Array:
    """Rotate a volume about voxel n // 2 by linear interpolation; values from outside are 0."""
    matrix, offset = affine.inverse_affine(volume.shape, step, rotation)
    spline = affine.spline_of(volume, 1, "constant")
    return affine.sample_affine(spline, matrix, offset, 1, "constant", 0.0, volume.dtype)

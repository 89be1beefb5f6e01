"""Averages of particles in the frame of a reference, with missing-wedge compensation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import each_particle, particle_volumes
from lazyvol.kernels.geometry.affine import (
    inverse_affine,
    rotation_matrix,
    sample_affine,
    spline_of,
    translated,
)

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: lowest coverage that a frequency is divided by, relative to the highest: below it is noise
MIN_COVERAGE = 0.1


@dataclass(frozen=True)
class ParticleLayout:
    """Storage of particles in blocks, and the poses that accompany them.

    ``axes`` are those of a particle, ``stack`` is the position of the stack axis among the others,
    ``shape`` the shape of a particle and ``step`` its voxel size along three axes. Blocks are
    followed by masks of frequencies if ``has_wedge``, by shifts if ``shifted``, by angles if
    ``rotated``, and by the angles of the rotation since the masks if ``oriented``.
    """

    axes: tuple[int, ...]
    stack: int
    shape: tuple[int, int, int]
    step: tuple[float, ...]
    order: int = 3
    shifted: bool = False
    rotated: bool = False
    has_wedge: bool = False
    oriented: bool = False

    @property
    def half_spectrum(self) -> tuple[int, int, int]:
        """Shape of a half spectrum."""
        return (*self.shape[:2], self.shape[2] // 2 + 1)


def start(shape: tuple[int, ...], *, layout: ParticleLayout) -> State:
    """Return zero sums of values, of weights, and with a wedge of coverage, for each of
    ``shape``."""
    state = {name: np.zeros((*shape, *layout.shape)) for name in ("sum", "weight")}
    if layout.has_wedge:
        state["coverage"] = np.zeros((*shape, *layout.half_spectrum))
    return state


def update(
    state: State, _: Sequence[int], block: Array, weights: Array, *rest: Array,
    layout: ParticleLayout,
) -> None:  # fmt: skip
    """Add every particle of a block, except those of weight 0 or with a non-finite number."""
    source = particle_volumes(block, layout.axes)
    lead = source.shape[:-3]
    masks = None
    if layout.has_wedge:
        masks = np.broadcast_to(particle_volumes(rest[0], layout.axes), source.shape)
        rest = rest[1:]
    for index, weight, *pose in each_particle(lead, weights, *rest, axes=layout.axes):
        if not weight or not np.isfinite([weight, *pose]).all():
            continue
        group = index[: layout.stack] + index[layout.stack + 1 :]
        sums = {name: values[group] for name, values in state.items()}
        shift = pose[: len(layout.axes)] if layout.shifted else []
        angles = pose[len(shift) :][:3] if layout.rotated else None
        orientation = pose[-3:] if layout.oriented else (0.0, 0.0, 0.0)
        shift = [0.0] * (3 - len(shift)) + shift
        mask = None if masks is None else masks[index]
        add_particle(sums, source[index], weight, shift, angles, layout, mask, orientation)


def add_particle(
    sums: Mapping[str, Array],
    volume: Array,
    weight: float,
    shift: Sequence[float] | Array,
    angles: Sequence[float] | Array | None,
    layout: ParticleLayout,
    mask: Array | None,
    orientation: Sequence[float] | Array = (0.0, 0.0, 0.0),
) -> None:
    """Add a particle, shifted by voxels and then rotated by degrees.

    Voxels from outside its box and NaN do not count. Since the frequencies of ``mask`` were
    measured, the particle has been rotated by the angles ``orientation`` already.
    """
    add_weighted(sums["sum"], sums["weight"], transformed(volume, shift, angles, layout), weight)
    if mask is not None:
        rotation = rotation_matrix(orientation)
        if angles is not None:
            rotation = rotation_matrix(angles) @ rotation
        _add_coverage(sums["coverage"], mask, to_mask(rotation, layout), weight)


def to_mask(rotation: Array, layout: ParticleLayout) -> Array:
    """Return the matrix from frequencies of rotated particles to those of their masks, in cycles
    per box."""
    sizes = np.array(layout.shape) * layout.step
    return np.asarray(rotation.T * sizes[:, None] / sizes)


@compiled
def mask_at(mask: Array, index: Array, m: Array) -> Array:
    """Return the values of a mask (frequency 0 first) at ``m`` times the frequencies ``index``."""
    values = np.empty(len(index), np.float32)
    for n in range(len(index)):
        f, g, h = index[n]
        values[n] = _mask_value(mask, m, f, g, h)
    return values


def transformed(
    volume: Array,
    shift: Sequence[float] | Array,
    angles: Sequence[float] | Array | None,
    layout: ParticleLayout,
) -> Array:
    """Return a particle in the frame of the reference, NaN outside its box; float64."""
    if angles is None:
        return translated(volume, shift, layout.order, "constant", np.nan)
    matrix, offset = inverse_affine(volume.shape, layout.step, rotation_matrix(angles), shift)
    spline, double = spline_of(volume, layout.order, "constant"), np.dtype(np.float64)
    return sample_affine(spline, matrix, offset, layout.order, "constant", np.nan, double)


@compiled
def add_weighted(total: Array, weight: Array, values: Array, w: float) -> None:
    """Add ``w`` times the values and ``w`` to the weights, where values are not NaN."""
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                v = values[z, y, x]
                if not np.isnan(v):
                    total[z, y, x] += w * v
                    weight[z, y, x] += w


@compiled
def _add_coverage(coverage: Array, mask: Array, m: Array, w: float) -> None:
    """Add ``w`` times a rotated mask of frequencies (frequency 0 first) to a half spectrum.

    ``m`` takes frequencies of the sum to those of the mask.
    """
    nz, ny, _ = mask.shape
    for z in range(nz):
        fz = z if z <= nz // 2 else z - nz
        for y in range(ny):
            fy = y if y <= ny // 2 else y - ny
            for x in range(coverage.shape[2]):
                coverage[z, y, x] += w * _mask_value(mask, m, fz, fy, x)


@compiled
def _mask_value(mask: Array, m: Array, f: int, g: int, h: int) -> float:
    """Return a mask at ``m`` times a frequency; 1 beyond its frequencies, as all are measured."""
    nz, ny, nx = mask.shape
    p = m[0, 0] * f + m[0, 1] * g + m[0, 2] * h
    q = m[1, 0] * f + m[1, 1] * g + m[1, 2] * h
    r = m[2, 0] * f + m[2, 1] * g + m[2, 2] * h
    if 2 * abs(p) > nz or 2 * abs(q) > ny or 2 * abs(r) > nx:
        return 1.0
    return float(_interpolate_periodic(mask, p, q, r))


@compiled
def _interpolate_periodic(mask: Array, p: float, q: float, r: float) -> float:
    """Interpolate a periodic array linearly."""
    nz, ny, nx = mask.shape
    i, j, k = int(np.floor(p)), int(np.floor(q)), int(np.floor(r))
    value = 0.0
    for a in range(2):
        for b in range(2):
            near = (p - i if a else 1 - p + i) * (q - j if b else 1 - q + j)
            row = mask[(i + a) % nz, (j + b) % ny]
            value += near * ((1 - r + k) * row[k % nx] + (r - k) * row[(k + 1) % nx])
    return value


def start_coverage(shape: tuple[int, ...], *, groups: int, layout: ParticleLayout) -> State:
    """Return zero sums of the masks of groups of particles."""
    return {"coverage": np.zeros((*shape, groups, *layout.half_spectrum))}


def update_coverage(
    state: State, _: Sequence[int], masks: Array, group: Array, *orientation: Array,
    layout: ParticleLayout,
) -> None:  # fmt: skip
    """Add the mask of every particle to the sum of its group, rotated by its ``orientation``."""
    masks = particle_volumes(masks, layout.axes)
    for index, number, *angles in each_particle(
        masks.shape[:-3], group, *orientation, axes=layout.axes
    ):
        rotation = rotation_matrix(angles or (0.0, 0.0, 0.0))
        _add_coverage(state["coverage"][int(number)], masks[index], to_mask(rotation, layout), 1.0)


def combine(s: State, t: State) -> State:
    """Add the sums of two states."""
    for name, sums in s.items():
        sums += t[name]
    return s


def finish(state: State, *, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> State:
    """Return the average and the weight of every voxel of particles of ``sizes``."""
    lead = state["sum"].shape[:-3]
    weight = state["weight"].reshape(*lead, *sizes)
    return {"average": average(state).reshape(*lead, *sizes).astype(dtype), "weight": weight}


def average(state: Mapping[str, Array]) -> Array:
    """Return the weighted means of the voxels, NaN where the weight is 0."""
    counted = state["weight"] > 0
    means = np.full(counted.shape, np.nan)
    np.divide(state["sum"], state["weight"], out=means, where=counted)
    if "coverage" in state:
        for index in np.ndindex(counted.shape[:-3]):
            compensate_coverage(means[index], state["coverage"][index])
    return means


def compensate_coverage(volume: Array, coverage: Array) -> None:
    """Divide every frequency by its coverage relative to the highest one, in place."""
    missing = np.isnan(volume)
    spectrum = scipy.fft.rfftn(np.where(missing, 0.0, volume), workers=1)
    largest = coverage.max()
    if largest > 0:
        spectrum /= np.maximum(coverage / largest, MIN_COVERAGE)
    volume[...] = scipy.fft.irfftn(spectrum, volume.shape, workers=1, overwrite_x=True)
    volume[missing] = np.nan

"""Sums of particles in the frame of a reference, and what of them was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import each_particle, particle_volumes
from lazyvol.kernels.geometry.affine import backwards, prepared, rotation, sampled
from lazyvol.kernels.geometry.translation import slid

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: least part of the best measured frequency's weight that others are taken to have: less is noise
LEAST = 0.1


@dataclass(frozen=True)
class Layout:
    """How particles lie in blocks and sums.

    ``axes`` are those of a particle, ``stack`` the place of the stacked axis among the others,
    ``shape`` that of a particle and ``step`` the size of its voxels along three axes. ``moved``,
    ``turned`` and ``wedged`` tell which numbers follow a block.
    """

    axes: tuple[int, ...]
    stack: int
    shape: tuple[int, int, int]
    step: tuple[float, ...]
    order: int = 3
    moved: bool = False
    turned: bool = False
    wedged: bool = False

    @property
    def half(self) -> tuple[int, int, int]:
        """Shape of half a spectrum."""
        return (*self.shape[:2], self.shape[2] // 2 + 1)


def start(shape: tuple[int, ...], *, layout: Layout) -> State:
    """Sums for each of ``shape``: of values, of weights, and of weights of frequencies."""
    state = {name: np.zeros((*shape, *layout.shape)) for name in ("sum", "weight")}
    if layout.wedged:
        state["coverage"] = np.zeros((*shape, *layout.half))
    return state


def update(
    state: State, _: Sequence[int], block: Array, weights: Array, *rest: Array, layout: Layout
) -> None:
    """Add every particle of a block; one of weight 0, or with a number that is NaN, is left out."""
    source = particle_volumes(block, layout.axes)
    lead = source.shape[:-3]
    masks = (
        np.broadcast_to(particle_volumes(rest[0], layout.axes), source.shape)
        if layout.wedged
        else None
    )
    numbers = rest[1:] if layout.wedged else rest
    for index, weight, *pose in each_particle(lead, weights, *numbers, axes=layout.axes):
        if not weight or not np.isfinite([weight, *pose]).all():
            continue
        group = index[: layout.stack] + index[layout.stack + 1 :]
        own = {name: sums[group] for name, sums in state.items()}
        shift = pose[: len(layout.axes)] if layout.moved else []
        angles = pose[len(shift) :] if layout.turned else None
        shift = [0.0] * (3 - len(shift)) + shift
        mask = None if masks is None else masks[index]
        add(own, source[index], weight, shift, angles, layout, mask)


def add(
    sums: Mapping[str, Array],
    volume: Array,
    weight: float,
    shift: Sequence[float] | Array,
    angles: Sequence[float] | Array | None,
    layout: Layout,
    mask: Array | None,
) -> None:
    """Add a particle, shifted by voxels and then turned by degrees; what is not there is not
    counted: voxels from outside of its box, and those that are NaN."""
    accumulate(sums["sum"], sums["weight"], placed(volume, shift, angles, layout), weight)
    if mask is not None:
        turn = np.eye(3) if angles is None else rotation(angles)
        sizes = np.array(volume.shape) * layout.step
        _cover(sums["coverage"], mask, turn.T[::-1, ::-1] * sizes[:, None] / sizes, weight)


def placed(
    volume: Array,
    shift: Sequence[float] | Array,
    angles: Sequence[float] | Array | None,
    layout: Layout,
) -> Array:
    """A particle in the frame of the reference, NaN where there is nothing of it; float64."""
    if angles is None:
        return slid(volume, shift, layout.order, "constant", np.nan)
    matrix, offset = backwards(volume.shape, layout.step, angles, shift)
    given = prepared(volume, layout.order, "constant")
    return sampled(given, matrix, offset, layout.order, "constant", np.nan, np.dtype(np.float64))


@compiled
def accumulate(total: Array, weight: Array, values: Array, w: float) -> None:
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                v = values[z, y, x]
                if not np.isnan(v):
                    total[z, y, x] += w * v
                    weight[z, y, x] += w


@compiled
def _cover(coverage: Array, mask: Array, m: Array, w: float) -> None:
    """Add a mask of frequencies, frequency 0 first, where a rotation takes it: ``m`` leads from
    frequencies of the sum to those of the mask. Beyond those of the mask counts as measured."""
    nz, ny, nx = mask.shape
    for z in range(nz):
        fz = z if z <= nz // 2 else z - nz
        for y in range(ny):
            fy = y if y <= ny // 2 else y - ny
            for x in range(coverage.shape[2]):
                p = m[0, 0] * fz + m[0, 1] * fy + m[0, 2] * x
                q = m[1, 0] * fz + m[1, 1] * fy + m[1, 2] * x
                r = m[2, 0] * fz + m[2, 1] * fy + m[2, 2] * x
                if 2 * abs(p) > nz or 2 * abs(q) > ny or 2 * abs(r) > nx:
                    coverage[z, y, x] += w
                else:
                    coverage[z, y, x] += w * _between(mask, p, q, r)


@compiled
def _between(mask: Array, p: float, q: float, r: float) -> float:
    """Linear interpolation in a periodic array."""
    nz, ny, nx = mask.shape
    i, j, k = int(np.floor(p)), int(np.floor(q)), int(np.floor(r))
    found = 0.0
    for a in range(2):
        for b in range(2):
            near = (p - i if a else 1 - p + i) * (q - j if b else 1 - q + j)
            row = mask[(i + a) % nz, (j + b) % ny]
            found += near * ((1 - r + k) * row[k % nx] + (r - k) * row[(k + 1) % nx])
    return found


def combine(s: State, t: State) -> State:
    for name, sums in s.items():
        sums += t[name]
    return s


def finish(state: State, *, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> State:
    """Average and weight of every voxel of particles of ``sizes``."""
    lead = state["sum"].shape[:-3]
    found = average(state)
    weight = state["weight"].reshape(*lead, *sizes)
    return {"average": found.reshape(*lead, *sizes).astype(dtype), "weight": weight}


def average(state: Mapping[str, Array]) -> Array:
    """Means of the voxels; NaN where there were none."""
    some = state["weight"] > 0
    found = np.full(some.shape, np.nan)
    np.divide(state["sum"], state["weight"], out=found, where=some)
    if "coverage" in state:
        for index in np.ndindex(some.shape[:-3]):
            _restore(found[index], state["coverage"][index])
    return found


def _restore(volume: Array, coverage: Array) -> None:
    """Give every frequency the weight of the one that most particles measured, in place."""
    gone = np.isnan(volume)
    spectrum = scipy.fft.rfftn(np.where(gone, 0.0, volume), workers=1)
    most = coverage.max()
    if most > 0:
        spectrum /= np.maximum(coverage / most, LEAST)
    volume[...] = scipy.fft.irfftn(spectrum, volume.shape, workers=1, overwrite_x=True)
    volume[gone] = np.nan

"""Refine a rough pose of a particle: hill climbing over rotations in decreasing steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np

from lazyvol.kernels.geometry import rotation_grids
from lazyvol.kernels.registration.rotational_correlation import (
    Frequencies,
    ReferenceSpectrum,
    ShiftWindow,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: longest single step of a shift, in periods of the highest frequency
SHIFT_STEP = 0.25
#: iterations of a climb: more than three are rare
ITERATIONS = 4
#: bytes for rotations whose scores are computed together
BATCH_BYTES = 8 * 2**20


@dataclass(frozen=True)
class SearchLevel:
    """One level of a search: its step in degrees, the number of best poses to keep, and its
    frequencies.

    Coarse shifts are searched in ``window``, if there is one.
    """

    step: float
    keep: int
    frequencies: Frequencies
    window: ShiftWindow | None = None

    @property
    def batch(self) -> int:
        """Number of rotations whose coarse scores are computed together."""
        box = prod(self.window.shape) if self.window else 0
        bytes_per_rotation = 24 * len(self.frequencies.index) + 16 * box
        return max(1, BATCH_BYTES // bytes_per_rotation)

    @property
    def stride(self) -> float:
        """Longest single step of a shift."""
        return SHIFT_STEP / max(self.frequencies.highest, 1e-300)


@dataclass(frozen=True)
class Pose:
    """A rotation as a quaternion, a shift in the unit of positions, and their coefficient."""

    quaternion: Array
    shift: Array
    score: float


@dataclass(frozen=True)
class ParticleSpectrum:
    """Conjugate spectrum of a particle, and the weight of each frequency."""

    conjugate: Array
    weight: Array

    @property
    def is_empty(self) -> bool:
        """Whether the spectrum is not finite or vanishes."""
        return not (np.isfinite(self.conjugate).all() and np.any(self.conjugate * self.weight))

    def shifted(self, shift: Array, frequencies: Frequencies) -> "ParticleSpectrum":
        """Return the spectrum of the shifted particle at ``frequencies``."""
        if not np.any(shift):
            return self
        wave = np.exp(2j * np.pi * (frequencies.cycles @ shift)).astype(np.complex64)
        return ParticleSpectrum(self.conjugate[: len(wave)] * wave, self.weight[: len(wave)])

    def coarse_scores(self, rotated: Array, level: SearchLevel) -> tuple[Array, Array]:
        """Return the coefficient of each rotated reference at its best shift, and that shift."""
        n = rotated.shape[1]
        weight = self.weight[:n] * level.frequencies.multiplicity
        if level.window is None:
            raise ValueError("level: a search for coarse shifts needs a window, got None")
        heights, shifts = level.window.peaks(rotated * (self.conjugate[:n] * self.weight[:n]))
        scale = self.norm_product((_power(rotated) * weight).sum(-1), weight)
        return heights / scale, shifts * level.window.voxel

    def norm_product(self, power: Array, weight: Array) -> Array:
        """Return sqrt(power of a reference * power of the particle); inf where it is 0."""
        own = (_power(self.conjugate[: len(weight)]) * weight).sum(dtype=np.float64)
        product = np.asarray(power, np.float64) * own
        return np.asarray(np.where(product > 0, np.sqrt(product), inf))


def _power(values: Array) -> Array:
    return np.asarray(values.real**2 + values.imag**2)


def score_neighbours(
    particle: ParticleSpectrum, reference: ReferenceSpectrum, quaternions: Array, shift: Array,
    level: SearchLevel, reach: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the coefficient of each rotation at the best shift near ``shift``, and that shift.

    The shift is one Newton step away; the coefficient there is predicted to second order.
    """
    frequencies = level.frequencies
    shifted, n = particle.shifted(shift, frequencies), len(frequencies.cycles)
    weight = shifted.weight[:n] * frequencies.multiplicity
    matrices = rotation_grids.zyx_matrices(quaternions)
    product, gradient, hessian, power = reference.correlation_sums(
        matrices, frequencies, shifted.conjugate[:n] * weight, weight
    )
    step = _newton_steps(gradient, hessian, level.stride)
    step[np.sqrt(((shift + step) ** 2).sum(-1)) > reach * (1 + 1e-9)] = 0.0
    gain = (gradient * step).sum(-1) + np.einsum("ra,rab,rb->r", step, hessian, step) / 2
    return (product + gain) / shifted.norm_product(power, weight), shift + step


def _newton_steps(gradient: Array, hessian: Array, longest: float) -> Array:
    """Return steps to the maxima of parabolas, of length up to ``longest``; 0 without a
    maximum."""
    size = np.abs(np.trace(hessian, axis1=1, axis2=2))[:, None, None]
    hessian = _with_curvature_along_z(hessian, size)
    is_maximum = np.linalg.eigvalsh(hessian).max(-1) < -1e-9 * size[:, 0, 0]
    hessian = np.where(is_maximum[:, None, None], hessian, -np.eye(3))
    step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
    length = np.sqrt((step**2).sum(-1))
    step *= np.minimum(1.0, longest / np.maximum(length, 1e-300))[:, None]
    return np.asarray(np.where(is_maximum[:, None], step, 0.0))


def _with_curvature_along_z(hessian: Array, size: Array) -> Array:
    """Give Hessians a negative curvature along z where they have none, as those of images, which
    have no frequencies along z."""
    flat = hessian[:, 0, 0] == 0
    if not flat.any():
        return hessian
    curved = hessian.copy()
    curved[flat, 0, 0] = -size[flat, 0, 0]
    return curved


def fit_parabola(values: Array, points: Array) -> tuple[Array, Array, Array]:
    """Return the value, gradient and Hessian at 0 of parabolas fitted at ``points`` (point, n)."""
    n = points.shape[1]
    pairs = [(a, b) for a in range(n) for b in range(a, n)]
    products = [points[:, a] * points[:, b] for a, b in pairs]
    used = [i for i, p in enumerate(products) if p.any()]
    design = np.column_stack([np.ones(len(points)), points, *(products[i] for i in used)])
    fit = values @ np.linalg.pinv(design).T
    hessian = np.zeros((*values.shape[:-1], n, n))
    for i, value in zip(used, np.moveaxis(fit[..., 1 + n :], -1, 0), strict=True):
        a, b = pairs[i]
        hessian[..., a, b] += value
        hessian[..., b, a] += value
    return fit[..., 0], fit[..., 1 : 1 + n], hessian


@dataclass(frozen=True)
class Refinement:
    """The refinement of poses of one particle against a reference.

    Shifts are up to ``reach`` long. Rotations about z are left out for a ``symmetry`` of inf, and
    all others for ``planar`` particles (images).
    """

    particle: ParticleSpectrum
    reference: ReferenceSpectrum
    reach: float
    symmetry: float
    planar: bool = False

    def refine(self, starts: Sequence[Pose], levels: Sequence[SearchLevel]) -> Pose:
        """Return the best pose reached from any of ``starts``, through all levels but the
        first."""
        poses = [self._refine_shift(p, levels[0]) for p in starts]
        for level in levels[1:]:
            poses = _distinct_best([self._climb(p, level) for p in poses], level)
        if len(levels) == 1:
            return max(poses, key=lambda p: p.score)
        return self._refine_rotation(poses[0], levels[-1])

    def _score(self, quaternions: Array, shift: Array, level: SearchLevel) -> tuple[Array, Array]:
        return score_neighbours(
            self.particle, self.reference, quaternions, shift, level, self.reach
        )

    def _neighbours(self, pose: Pose, level: SearchLevel) -> Array:
        return rotation_grids.neighbours(pose.quaternion, level.step, self.symmetry, self.planar)

    def _refine_shift(self, pose: Pose, level: SearchLevel) -> Pose:
        """Move the shift of a pose to the maximum of the correlation."""
        for _ in range(ITERATIONS):
            scores, shifts = self._score(pose.quaternion[None], pose.shift, level)
            has_moved = np.abs(shifts[0] - pose.shift).max() > level.stride / 50
            pose = Pose(pose.quaternion, shifts[0], float(scores[0]))
            if not has_moved:
                break
        return pose

    def _climb(self, pose: Pose, level: SearchLevel) -> Pose:
        """Move to the best neighbouring rotation until none is better."""
        for _ in range(ITERATIONS):
            quaternions = self._neighbours(pose, level)
            scores, shifts = self._score(quaternions, pose.shift, level)
            best = int(scores.argmax())
            pose = Pose(quaternions[best], shifts[best], float(scores[best]))
            if best == 0:  # the pose itself
                break
        return pose

    def _refine_rotation(self, pose: Pose, level: SearchLevel) -> Pose:
        """Move to the maximum of a parabola through the scores around a pose, if it is better."""
        offsets = rotation_grids.neighbour_offsets(self.symmetry, self.planar)
        scores, _ = self._score(self._neighbours(pose, level), pose.shift, level)
        pose = self._refine_shift(pose, level)
        free = offsets.any(0)
        if not free.any():
            return pose
        _, gradient, hessian = fit_parabola(scores, offsets[:, free])
        if np.linalg.eigvalsh(hessian).max() >= 0:
            return pose
        step = -np.linalg.solve(hessian, gradient)
        if np.abs(step).max() > 1:
            return pose
        rotation_vector = np.zeros(3)
        rotation_vector[free] = step * level.step
        top = Pose(rotation_grids.compose(pose.quaternion, rotation_vector), pose.shift, -inf)
        top = self._refine_shift(top, level)
        return top if top.score > pose.score else pose


def _distinct_best(poses: Sequence[Pose], level: SearchLevel) -> list[Pose]:
    """Return the best poses whose rotations differ by more than half a step."""
    cosine = np.cos(np.deg2rad(level.step) / 4)
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda p: -p.score):
        if all(abs(pose.quaternion @ better.quaternion) < cosine for better in kept):
            kept.append(pose)
    return kept[: level.keep]

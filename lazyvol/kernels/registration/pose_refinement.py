"""From a rough pose of a particle to the best one near it: uphill, in smaller and smaller steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np

from lazyvol.kernels.geometry import rotation_grids
from lazyvol.kernels.registration.rotational_correlation import Frequencies, Reference, Window

Array = np.ndarray[Any, np.dtype[Any]]

#: longest step of a shift at once, in periods of the highest frequency
PART = 0.25
#: rounds of one climb: more than three are rare
ROUNDS = 4
#: bytes for rotations whose scores are found together
ROOM = 8 * 2**20


@dataclass(frozen=True)
class Level:
    """One step of a search: degrees, how many of the best to follow, the frequencies it looks at.

    ``window`` is where coarse shifts are looked for, if they are.
    """

    step: float
    keep: int
    frequencies: Frequencies
    window: Window | None = None

    @property
    def batch(self) -> int:
        """Rotations whose coarse scores are found together."""
        box = prod(self.window.shape) if self.window else 0
        each = 24 * len(self.frequencies.at) + 16 * box
        return max(1, ROOM // each)

    @property
    def stride(self) -> float:
        """Longest step of a shift at once."""
        return PART / max(self.frequencies.highest, 1e-300)


@dataclass(frozen=True)
class Pose:
    """A rotation as a quaternion, a shift in the unit of positions, and the coefficient there."""

    quaternion: Array
    shift: Array
    score: float


@dataclass(frozen=True)
class Particle:
    """Spectrum of a particle, conjugated, and how well each frequency was measured."""

    conjugate: Array
    weight: Array

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compare."""
        return not (np.isfinite(self.conjugate).all() and np.any(self.conjugate * self.weight))

    def moved(self, shift: Array, frequencies: Frequencies) -> "Particle":
        """The particle after a shift."""
        if not np.any(shift):
            return self
        wave = np.exp(2j * np.pi * (frequencies.places @ shift)).astype(np.complex64)
        return Particle(self.conjugate[: len(wave)] * wave, self.weight[: len(wave)])

    def coarse(self, turned: Array, level: Level) -> tuple[Array, Array]:
        """Coefficient of each turned reference at the best shift within reach, and this shift."""
        n = turned.shape[1]
        weight = self.weight[:n] * level.frequencies.twice
        if level.window is None:
            raise ValueError("coarse shifts are looked for in a window, this level has none")
        heights, moves = level.window.peaks(turned * (self.conjugate[:n] * self.weight[:n]))
        scale = self.over((_power(turned) * weight).sum(-1), weight)
        return heights / scale, moves * level.window.voxel

    def over(self, power: Array, weight: Array) -> Array:
        """The root of a reference's power times that of the particle."""
        own = (_power(self.conjugate[: len(weight)]) * weight).sum(dtype=np.float64)
        product = np.asarray(power, np.float64) * own
        return np.asarray(np.where(product > 0, np.sqrt(product), inf))


def _power(values: Array) -> Array:
    return np.asarray(values.real**2 + values.imag**2)


def look(
    particle: Particle, reference: Reference, quaternions: Array, shift: Array, level: Level,
    reach: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Coefficient of each rotation at the best shift near one, and this shift: Newton's step."""
    frequencies = level.frequencies
    near, n = particle.moved(shift, frequencies), len(frequencies.places)
    weight = near.weight[:n] * frequencies.twice
    matrices = rotation_grids.matrices(quaternions)
    own = near.conjugate[:n] * weight
    heights, slope, bend, power = reference.sums(matrices, frequencies, own, weight)
    step = _uphill_steps(slope, bend, level.stride)
    moves = shift + step
    step[np.sqrt((moves**2).sum(-1)) > reach * (1 + 1e-9)] = 0.0
    gain = (slope * step).sum(-1) + np.einsum("ra,rab,rb->r", step, bend, step) / 2
    return (heights + gain) / near.over(power, weight), shift + step


def _uphill_steps(slope: Array, bend: Array, longest: float) -> Array:
    """To the tops of parabolas, no further than ``longest``; none where there is no top."""
    size = np.abs(np.trace(bend, axis1=1, axis2=2))[:, None, None]
    bend = _upright(bend, size)
    hill = np.linalg.eigvalsh(bend).max(-1) < -1e-9 * size[:, 0, 0]
    bend = np.where(hill[:, None, None], bend, -np.eye(3))
    step = -np.linalg.solve(bend, slope[..., None])[..., 0]
    length = np.sqrt((step**2).sum(-1))
    step *= np.minimum(1.0, longest / np.maximum(length, 1e-300))[:, None]
    return np.asarray(np.where(hill[:, None], step, 0.0))


def _upright(bend: Array, size: Array) -> Array:
    """Second derivatives with a hill along z where nothing depends on z: images hold no frequency
    along it, and their hill is that along y and x."""
    flat = bend[:, 0, 0] == 0
    if not flat.any():
        return bend
    found = bend.copy()
    found[flat, 0, 0] = -size[flat, 0, 0]
    return found


def quadratic(values: Array, at: Array) -> tuple[Array, Array, Array]:
    """Value, slope and second derivatives at 0 of parabolas fitted at places (points, n)."""
    n = at.shape[1]
    pairs = [(a, b) for a in range(n) for b in range(a, n)]
    products = [at[:, a] * at[:, b] for a, b in pairs]
    used = [i for i, p in enumerate(products) if p.any()]
    design = np.column_stack([np.ones(len(at)), at, *(products[i] for i in used)])
    fit = values @ np.linalg.pinv(design).T
    bend = np.zeros((*values.shape[:-1], n, n))
    for i, value in zip(used, np.moveaxis(fit[..., 1 + n :], -1, 0), strict=True):
        a, b = pairs[i]
        bend[..., a, b] += value
        bend[..., b, a] += value
    return fit[..., 0], fit[..., 1 : 1 + n], bend


def climbed(
    particle: Particle, reference: Reference, firsts: Sequence[Pose], levels: Sequence[Level],
    reach: float, symmetry: float, planar: bool = False,
) -> Pose:  # fmt: skip
    """The best pose that is reached from any of some, through all levels but the first."""
    poses = [_settled(particle, reference, p, levels[0], reach) for p in firsts]
    for level in levels[1:]:
        poses = [_uphill(particle, reference, p, level, reach, symmetry, planar) for p in poses]
        poses = _best(poses, level)
    if len(levels) == 1:
        return max(poses, key=lambda p: p.score)
    return _topped(particle, reference, poses[0], levels[-1], reach, symmetry, planar)


def _settled(
    particle: Particle, reference: Reference, pose: Pose, level: Level, reach: float
) -> Pose:
    """A pose with its shift brought to the top."""
    for _ in range(ROUNDS):
        score, shift = look(particle, reference, pose.quaternion[None], pose.shift, level, reach)
        far = np.abs(shift[0] - pose.shift).max() > level.stride / 50
        pose = Pose(pose.quaternion, shift[0], float(score[0]))
        if not far:
            break
    return pose


def _uphill(
    particle: Particle, reference: Reference, pose: Pose, level: Level, reach: float,
    symmetry: float, planar: bool,
) -> Pose:  # fmt: skip
    """Where a walk over neighbouring rotations ends."""
    for _ in range(ROUNDS):
        near = rotation_grids.around(pose.quaternion, level.step, symmetry, planar)
        scores, shifts = look(particle, reference, near, pose.shift, level, reach)
        best = int(scores.argmax())
        pose = Pose(near[best], shifts[best], float(scores[best]))
        if not best:
            break
    return pose


def _best(poses: Sequence[Pose], level: Level) -> list[Pose]:
    """The best that are further apart than half a step."""
    least = np.cos(np.deg2rad(level.step) / 4)
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda p: -p.score):
        if all(abs(pose.quaternion @ other.quaternion) < least for other in kept):
            kept.append(pose)
    return kept[: level.keep]


def _topped(
    particle: Particle, reference: Reference, pose: Pose, level: Level, reach: float,
    symmetry: float, planar: bool,
) -> Pose:  # fmt: skip
    """The top of a parabola through the scores around a pose, where it is higher."""
    offsets = rotation_grids.offsets(symmetry, planar)
    near = rotation_grids.around(pose.quaternion, level.step, symmetry, planar)
    scores, _ = look(particle, reference, near, pose.shift, level, reach)
    pose = _settled(particle, reference, pose, level, reach)
    free = offsets.any(0)
    if not free.any():
        return pose
    _, slope, bend = quadratic(scores, offsets[:, free])
    if np.linalg.eigvalsh(bend).max() >= 0:
        return pose
    step = -np.linalg.solve(bend, slope)
    if np.abs(step).max() > 1:
        return pose
    turn = np.zeros(3)
    turn[free] = step * level.step
    top = Pose(rotation_grids.turned(pose.quaternion, turn), pose.shift, -inf)
    top = _settled(particle, reference, top, level, reach)
    return top if top.score > pose.score else pose

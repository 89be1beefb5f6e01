"""Pose of every particle against a reference: from coarse rotations to fine ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from lazyvol.kernels.arrays import particle_volumes
from lazyvol.kernels.geometry import rotation_grids
from lazyvol.kernels.registration import subvolume_average
from lazyvol.kernels.registration.pose_refinement import Level, Particle, Pose, climbed
from lazyvol.kernels.registration.rotational_correlation import (
    Frequencies,
    Reference,
    Window,
    gathered,
)
from lazyvol.kernels.registration.subvolume_average import Layout

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: frequencies, times the diameter of what is turned and the step of rotations in radians, up to
#: which a step does not make a reference unlike itself
COHERENT = 1.25
#: frequencies that a box has at least along its shortest side while rotations are coarse
LOWEST = 4
#: part of the shortest side that is taken for the diameter
FILLED = 0.7
#: parts of a state that are summed over particles
SUMS = ("sum", "weight", "coverage")


@dataclass(frozen=True)
class Hunt:
    """What is looked for: ``steps`` are degrees from coarse to fine, ``keep`` how many of the best
    are followed at each, ``limit`` the highest frequency, ``reach`` the longest shift.

    ``grid`` are the quaternions that are tried first, or None for those that particles come with.
    """

    layout: Layout
    steps: tuple[float, ...]
    keep: tuple[int, ...]
    limit: float
    reach: float
    symmetry: float
    grid: Array | None
    n: int
    halves: bool = False

    @property
    def planar(self) -> bool:
        """Whether particles are images, which turn about z and move along y and x alone."""
        return len(self.layout.axes) == 2


def levels(hunt: Hunt) -> list[Level]:
    """From coarse rotations at low frequencies to fine ones at all."""
    shape, step = hunt.layout.shape, hunt.layout.step
    sides = [n * abs(s) for n, s in zip(shape, step, strict=True)]
    side = min(sides[hunt.planar :])
    limits = []
    for degrees in hunt.steps:
        coherent = COHERENT / (FILLED * side * np.deg2rad(degrees)) if degrees else inf
        limits.append(min(hunt.limit, max(coherent, LOWEST / side)))
    found = Frequencies.of(shape, step, limits)
    window = Window.of(shape, step, found[0], hunt.reach)
    first = Level(hunt.steps[0], hunt.keep[0], found[0], window)
    rest = zip(hunt.steps[1:], hunt.keep[1:], found[1:], strict=True)
    return [first, *(Level(degrees, keep, some) for degrees, keep, some in rest)]


def start(shape: tuple[int, ...], *, hunt: Hunt) -> State:
    """Poses of all particles, 0 until they are found, and the sums of each half-set."""
    poses: State = {"rotations": np.zeros((hunt.n, 3)), "shifts": np.zeros((hunt.n, 3))}
    poses["ncc"] = np.zeros(hunt.n)
    return poses | subvolume_average.start((1 + hunt.halves,), layout=hunt.layout)


def update(
    state: State, _: Sequence[int], block: Array, numbers: Array, groups: Array, *rest: Array,
    hunt: Hunt,
) -> None:  # fmt: skip
    """Find the pose of every particle of a block, and add it to the sum of its half-set.

    After the particles come the number of each and its half-set, then for each half-set its
    reference, the mask of frequencies if there is one, and the three angles and three shifts (in
    the unit of the voxels' size) that each particle comes with, if it does.
    """
    layout = hunt.layout
    source = particle_volumes(block, layout.axes)
    several = 1 + hunt.halves
    steps = levels(hunt)
    references = [
        Reference.of(particle_volumes(b, layout.axes)[0], layout.step, hunt.limit)
        for b in rest[:several]
    ]
    rest = rest[several:]
    masks = None
    if layout.wedged:
        masks = np.broadcast_to(particle_volumes(rest[0], layout.axes), source.shape)
        rest = rest[1:]
    poses = np.stack([b.ravel() for b in rest], -1) if rest else None
    given = [
        _particle(v, steps[-1].frequencies, None if masks is None else masks[i])
        for i, v in enumerate(source)
    ]
    firsts = _firsts(given, references, groups.ravel(), poses, steps, hunt)
    for i, (number, group) in enumerate(zip(numbers.ravel(), groups.ravel(), strict=True)):
        move = np.zeros(3) if poses is None else poses[i, 3:]
        if given[i].is_empty or not np.isfinite(move).all():
            _note(state, number, np.full(3, np.nan), np.full(3, np.nan), np.nan)
            continue
        one = given[i].moved(move, steps[-1].frequencies)
        pose = climbed(
            one, references[group], firsts[i], steps, hunt.reach, hunt.symmetry, hunt.planar
        )
        angles, shift = rotation_grids.angles(pose.quaternion), pose.shift + move
        _note(state, number, angles, shift, pose.score)
        sums: State = {k: state[k][group] for k in SUMS if k in state}
        mask = None if masks is None else masks[i]
        subvolume_average.add(sums, source[i], 1.0, shift / layout.step, angles, layout, mask)


def _note(state: State, number: int, angles: Array, shift: Array, score: float) -> None:
    """Enter the pose of one particle."""
    state["rotations"][number], state["shifts"][number] = angles, shift
    state["ncc"][number] = score


def _particle(volume: Array, frequencies: Frequencies, mask: Array | None) -> Particle:
    """What of a particle is compared: NaN counts as its mean."""
    gone = np.isnan(volume) if volume.dtype.kind == "f" else np.zeros((), bool)
    if gone.any() and not gone.all():
        volume = np.where(gone, np.nanmean(volume, dtype=np.float64), volume)
    weight = np.ones(len(frequencies.at), np.float32)
    if mask is not None:
        z, y, x = (frequencies.at[:, a] % n for a, n in enumerate(mask.shape))
        weight = mask[z, y, x].astype(np.float32)
    return Particle(np.conj(gathered(volume, frequencies)), weight)


def _firsts(
    given: Sequence[Particle],
    references: Sequence[Reference],
    groups: Array,
    poses: Array | None,
    steps: Sequence[Level],
    hunt: Hunt,
) -> list[list[Pose]]:
    """Poses that each particle's search begins with: the best of the grid, or its own."""
    coarse = steps[0]
    if poses is not None:
        return [
            _scored(p.moved(pose[3:], coarse.frequencies), references[g], pose[:3], coarse)
            for p, g, pose in zip(given, groups, poses, strict=True)
        ]
    grid = np.zeros((1, 4)) if hunt.grid is None else hunt.grid
    scores, shifts = np.full((len(given), len(grid)), -inf), np.zeros((len(given), len(grid), 3))
    for first in range(0, len(grid), coarse.batch):
        part = slice(first, first + coarse.batch)
        matrices = rotation_grids.matrices(grid[part])
        for group in np.unique(groups):
            turned = references[group].turned(matrices, coarse.frequencies)
            for i in map(int, np.flatnonzero(groups == group)):
                scores[i, part], shifts[i, part] = given[i].coarse(turned, coarse)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : coarse.keep]
    return [
        [Pose(grid[b], shifts[i, b], float(scores[i, b])) for b in own]
        for i, own in enumerate(best)
    ]


def _scored(particle: Particle, reference: Reference, angles: Array, level: Level) -> list[Pose]:
    """The pose that a particle comes with, its shift by what is coarse."""
    if not np.isfinite(angles).all():
        angles = np.zeros(3)
    own = rotation_grids.quaternion(angles)
    turned = reference.turned(rotation_grids.matrices(own[None]), level.frequencies)
    scores, shifts = particle.coarse(turned, level)
    return [Pose(own, shifts[0], float(scores[0]))]


def finish(state: State, *, dtype: np.dtype[Any], planar: bool = False) -> State:
    """Poses and averages: of all, and of each half-set where there are two.

    The pose of an image is one angle from -180 to 180 degrees, and shifts along y and x.
    """
    found = {name: state[name] for name in ("rotations", "shifts", "ncc")}
    sums: State = {k: state[k] for k in SUMS if k in state}
    averages = {"average": subvolume_average.average({k: s.sum(0) for k, s in sums.items()})}
    if len(state["sum"]) > 1:
        averages["first"], averages["second"] = subvolume_average.average(sums)
    if planar:
        found["rotations"] = (found["rotations"].sum(-1) + 180.0) % 360.0 - 180.0
        found["shifts"] = found["shifts"][:, 1:]
        averages = {name: volume[0] for name, volume in averages.items()}
    return found | {name: values.astype(dtype) for name, values in averages.items()}

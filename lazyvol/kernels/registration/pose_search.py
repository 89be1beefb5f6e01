"""Pose of every particle against a reference: a search from coarse rotations to fine ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from lazyvol.kernels.arrays import particle_volumes
from lazyvol.kernels.geometry import rotation_grids
from lazyvol.kernels.geometry.affine import rotation_matrix
from lazyvol.kernels.registration import subvolume_average
from lazyvol.kernels.registration.pose_refinement import (
    ParticleSpectrum,
    Pose,
    Refinement,
    SearchLevel,
)
from lazyvol.kernels.registration.rotational_correlation import (
    Frequencies,
    ReferenceSpectrum,
    ShiftWindow,
    spectrum_at,
)
from lazyvol.kernels.registration.subvolume_average import ParticleLayout

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: largest product of frequency, diameter and step (in radians) at which a reference still
#: resembles itself rotated by the step
COHERENCE = 1.25
#: cycles along the shortest side that a level includes at least
MIN_CYCLES = 4
#: assumed diameter of the object, relative to the shortest side
DIAMETER = 0.7
#: parts of a state that are summed over particles
SUMS = ("sum", "weight", "coverage")


@dataclass(frozen=True)
class PoseSearch:
    """Options of a search for poses of ``n`` particles.

    ``steps`` are degrees from coarse to fine, ``keep`` is the number of best poses kept at each,
    ``limit`` the highest frequency and ``reach`` the longest shift. ``grid`` are the quaternions
    that are tried first, or None if particles come with poses.
    """

    layout: ParticleLayout
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
        """Whether particles are images, which rotate about z and shift along y and x."""
        return len(self.layout.axes) == 2

    @property
    def n_references(self) -> int:
        """Number of half-sets, or 1."""
        return 1 + self.halves

    def levels(self) -> list[SearchLevel]:
        """Return the levels, from low frequencies at coarse steps to all at the finest."""
        shape, step = self.layout.shape, self.layout.step
        sides = [n * abs(s) for n, s in zip(shape, step, strict=True)]
        side = min(sides[self.planar :])
        limits = []
        for degrees in self.steps:
            coherent = COHERENCE / (DIAMETER * side * np.deg2rad(degrees)) if degrees else inf
            limits.append(min(self.limit, max(coherent, MIN_CYCLES / side)))
        frequencies = Frequencies.up_to(shape, step, limits)
        levels = [
            SearchLevel(*level) for level in zip(self.steps, self.keep, frequencies, strict=True)
        ]
        window = ShiftWindow.within(shape, step, frequencies[0], self.reach)
        levels[0] = SearchLevel(self.steps[0], self.keep[0], frequencies[0], window)
        return levels


@dataclass(frozen=True)
class _Operands:
    """The blocks that accompany a block of particles."""

    numbers: Array
    groups: Array
    references: list[ReferenceSpectrum]
    masks: Array | None
    poses: Array | None
    orientations: Array | None

    @classmethod
    def unpack(
        cls, source: Array, numbers: Array, groups: Array, rest: Sequence[Array],
        search: PoseSearch,
    ) -> "_Operands":  # fmt: skip
        """Sort the operands of ``update``."""
        layout, blocks = search.layout, iter(rest)
        references = [
            ReferenceSpectrum.from_volume(
                particle_volumes(next(blocks), layout.axes)[0], layout.step, search.limit
            )
            for _ in range(search.n_references)
        ]
        masks = None
        if layout.has_wedge:
            masks = np.broadcast_to(particle_volumes(next(blocks), layout.axes), source.shape)
        columns = [np.broadcast_to(b.ravel(), len(source)) for b in blocks]
        last = len(columns) - 3 * layout.oriented
        poses, orientations = (
            np.stack(part, -1) if part else None for part in (columns[:last], columns[last:])
        )
        return cls(numbers.ravel(), groups.ravel(), references, masks, poses, orientations)

    def mask(self, i: int) -> Array | None:
        """Return the mask of frequencies of particle ``i``."""
        return None if self.masks is None else self.masks[i]

    def orientation(self, i: int) -> Array:
        """Return the angles by which particle ``i`` was rotated since its mask."""
        return np.zeros(3) if self.orientations is None else self.orientations[i]

    def shift(self, i: int) -> Array:
        """Return the shift that particle ``i`` comes with."""
        return np.zeros(3) if self.poses is None else self.poses[i, 3:]


def start(shape: tuple[int, ...], *, search: PoseSearch) -> State:
    """Return zero poses of all particles, and zero sums of each half-set."""
    poses: State = {"rotations": np.zeros((search.n, 3)), "shifts": np.zeros((search.n, 3))}
    poses["ncc"] = np.zeros(search.n)
    return poses | subvolume_average.start((search.n_references,), layout=search.layout)


def update(
    state: State, _: Sequence[int], block: Array, numbers: Array, groups: Array, *rest: Array,
    search: PoseSearch,
) -> None:  # fmt: skip
    """Find the pose of every particle of a block, and add it to the sum of its half-set.

    Operands are the number and half-set of each particle, the reference of each half-set, the mask
    of frequencies if there is one, the three angles and three shifts (in the unit of the voxel
    size) that particles come with, if they do, and the three angles of the rotation since the mask.
    """
    layout, levels = search.layout, search.levels()
    source = particle_volumes(block, layout.axes)
    operands = _Operands.unpack(source, numbers, groups, rest, search)
    finest = levels[-1].frequencies
    spectra = [
        _particle_spectrum(v, finest, operands.mask(i), operands.orientation(i), layout)
        for i, v in enumerate(source)
    ]
    starts = _initial_poses(spectra, operands, levels, search)
    for i, (number, group) in enumerate(zip(operands.numbers, operands.groups, strict=True)):
        known_shift = operands.shift(i)
        if spectra[i].is_empty or not np.isfinite(known_shift).all():
            _record(state, number, np.full(3, np.nan), np.full(3, np.nan), np.nan)
            continue
        refinement = Refinement(
            spectra[i].shifted(known_shift, finest), operands.references[group], search.reach,
            search.symmetry, search.planar,
        )  # fmt: skip
        pose = refinement.refine(starts[i], levels)
        angles, shift = rotation_grids.to_euler(pose.quaternion), pose.shift + known_shift
        _record(state, number, angles, shift, pose.score)
        sums: State = {k: state[k][group] for k in SUMS if k in state}
        subvolume_average.add_particle(
            sums, source[i], 1.0, shift / layout.step, angles, layout, operands.mask(i),
            operands.orientation(i),
        )  # fmt: skip


def _record(state: State, number: int, angles: Array, shift: Array, score: float) -> None:
    """Store the pose of one particle."""
    state["rotations"][number], state["shifts"][number] = angles, shift
    state["ncc"][number] = score


def _particle_spectrum(
    volume: Array, frequencies: Frequencies, mask: Array | None, orientation: Array,
    layout: ParticleLayout,
) -> ParticleSpectrum:  # fmt: skip
    """Return the spectrum of a particle, with NaN replaced by its mean."""
    missing = np.isnan(volume) if volume.dtype.kind == "f" else np.zeros((), bool)
    if missing.any() and not missing.all():
        volume = np.where(missing, np.nanmean(volume, dtype=np.float64), volume)
    weight = np.ones(len(frequencies.index), np.float32)
    if mask is not None:
        matrix = subvolume_average.to_mask(rotation_matrix(orientation), layout)
        weight = subvolume_average.mask_at(mask, frequencies.index, matrix)
    return ParticleSpectrum(np.conj(spectrum_at(volume, frequencies)), weight)


def _initial_poses(
    spectra: Sequence[ParticleSpectrum],
    operands: _Operands,
    levels: Sequence[SearchLevel],
    search: PoseSearch,
) -> list[list[Pose]]:
    """Return the poses from which each particle's search starts: the best of the grid, or its
    own."""
    coarse, references = levels[0], operands.references
    if operands.poses is not None:
        frequencies = coarse.frequencies
        return [
            _given_pose(p.shifted(pose[3:], frequencies), references[g], pose[:3], coarse)
            for p, g, pose in zip(spectra, operands.groups, operands.poses, strict=True)
        ]
    grid = np.zeros((1, 4)) if search.grid is None else search.grid
    scores = np.full((len(spectra), len(grid)), -inf)
    shifts = np.zeros((len(spectra), len(grid), 3))
    for first in range(0, len(grid), coarse.batch):
        batch = slice(first, first + coarse.batch)
        matrices = rotation_grids.zyx_matrices(grid[batch])
        for group in np.unique(operands.groups):
            rotated = references[group].rotated(matrices, coarse.frequencies)
            for i in map(int, np.flatnonzero(operands.groups == group)):
                scores[i, batch], shifts[i, batch] = spectra[i].coarse_scores(rotated, coarse)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : coarse.keep]
    return [
        [Pose(grid[b], shifts[i, b], float(scores[i, b])) for b in kept]
        for i, kept in enumerate(best)
    ]


def _given_pose(
    particle: ParticleSpectrum, reference: ReferenceSpectrum, angles: Array, level: SearchLevel
) -> list[Pose]:
    """Return the pose of given angles, with the best coarse shift."""
    if not np.isfinite(angles).all():
        angles = np.zeros(3)
    quaternion = rotation_grids.from_euler(angles)
    matrices = rotation_grids.zyx_matrices(quaternion[None])
    scores, shifts = particle.coarse_scores(reference.rotated(matrices, level.frequencies), level)
    return [Pose(quaternion, shifts[0], float(scores[0]))]


def finish(state: State, *, dtype: np.dtype[Any], planar: bool = False) -> State:
    """Return poses and averages: of all particles, and of each half-set where there are two.

    The pose of an image is one angle from -180 to 180 degrees, and shifts along y and x.
    """
    poses = {name: state[name] for name in ("rotations", "shifts", "ncc")}
    sums: State = {k: state[k] for k in SUMS if k in state}
    averages = {"average": subvolume_average.average({k: s.sum(0) for k, s in sums.items()})}
    if len(state["sum"]) > 1:
        averages["first"], averages["second"] = subvolume_average.average(sums)
    if planar:
        poses["rotations"] = (poses["rotations"].sum(-1) + 180.0) % 360.0 - 180.0
        poses["shifts"] = poses["shifts"][:, 1:]
        averages = {name: volume[0] for name, volume in averages.items()}
    return poses | {name: values.astype(dtype) for name, values in averages.items()}

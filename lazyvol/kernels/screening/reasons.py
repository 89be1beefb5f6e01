"""Why a particle is not consistent: which hypothesis explains it, and whether that explains all.

A grid of poses is coarse. The best pose of a particle is refined, and what remains is compared with
the residuals of consistent particles: unless most of its excess is gone, the particle is not the
reference in any pose, but the reference with something beside it, or another object. Particles of
another species may each look like noise then, but their residuals are alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.spatial.transform import Rotation

from lazyvol.kernels.screening.fourier_coefficients import to_complex, to_real
from lazyvol.kernels.screening.fourier_rotation import RotatedSpectra
from lazyvol.kernels.screening.hypotheses import (
    CONSISTENT,
    EXTRA,
    ROTATED,
    SHIFTED,
    UNLIKE,
    Hypotheses,
)
from lazyvol.kernels.screening.measured import Measured
from lazyvol.kernels.screening.mixture import Mixture
from lazyvol.kernels.screening.products import frequency_products
from lazyvol.kernels.screening.residual import Residual
from lazyvol.kernels.screening.steps import Each, computed

Array = np.ndarray[Any, np.dtype[Any]]

#: standard score up to which a residual is that of a consistent particle
TYPICAL = 3.0
#: least part of the excess energy that a pose must explain, and that other hypotheses must, as the
#: mean of a small class is noisy
EXPLAINED, EXPLAINED_BY_OTHERS = 0.75, 0.5
#: rounds of the refinement of a pose, and its largest steps: degrees, voxels
ROUNDS, LARGEST_STEPS = 6, (10.0, 2.0)
#: least particles whose residuals are compared with each other; least score of each, and least mean
LEAST_ALIKE, LEAST_LIKENESS, ALIKE = 4, 1.0, 2.0
#: least mean energy that residuals share, as a part of that of the reference in its pose: 0.07 to
#: 0.10 for another species, 0.02 to 0.06 for particles in one wrong pose
SHARED = 0.065
#: degrees of the rotations by which derivatives are taken
STEP = 4.0


@dataclass(frozen=True)
class Reason:
    """The ``kind`` of the best hypothesis, and the best pose of the reference: shift in voxels."""

    kind: int
    rotation: Array
    shift: Array

    def arrays(self) -> dict[str, Array]:
        """Return the reason as arrays."""
        return {"kind": np.array(self.kind), "rotation": self.rotation, "shift": self.shift}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Self:
        """Return the reason from arrays."""
        return cls(int(arrays["kind"]), arrays["rotation"], arrays["shift"])


@dataclass(frozen=True)
class _Pose:
    """A pose of the reference: shift in voxels, spectrum, and the energy that it explains."""

    rotation: Array
    shift: Array
    spectrum: Array
    explained: float


@dataclass(frozen=True)
class _Particle:
    """A particle's whitened spectrum, the weights of its frequencies, and poses of a reference."""

    data: Array
    weights: Array
    reference: RotatedSpectra
    phase: Array

    def view(self, rotation: Array, shift: Array) -> Array:
        """Return the spectrum of the reference in a pose."""
        wave = np.exp(-1j * (self.phase @ shift))
        return np.asarray(to_real(to_complex(self.reference.at(rotation)[0]) * wave))

    def product(self, a: Array, b: Array) -> Array:
        """Return inner products of spectra at the measured frequencies."""
        return np.asarray(frequency_products(a, b) @ self.weights)

    def pose(self, rotation: Array, shift: Array) -> _Pose:
        """Return a pose and the energy of the particle that it explains."""
        spectrum = self.view(rotation, shift)
        overlap = max(float(self.data @ spectrum), 0.0)
        energy = max(float(self.product(spectrum, spectrum)), 1e-30)
        return _Pose(rotation, shift, spectrum, overlap**2 / energy)

    def rest(self, spectrum: Array) -> Array:
        """Return what remains of the particle without a spectrum, scaled to it."""
        overlap, energy = self.data @ spectrum, self.product(spectrum, spectrum)
        scale = max(float(overlap), 0.0) / max(float(energy), 1e-30)
        return np.asarray(self.data - scale * spectrum * np.tile(self.weights, 2))

    def refined(self, pose: _Pose) -> _Pose:
        """Return the pose near another one that explains most: Gauss-Newton steps."""
        axes = np.eye(3) if self.phase[:, 0].any() else np.eye(3)[:1]
        for _ in range(ROUNDS):
            rows = np.stack([pose.spectrum, *self._derivatives(pose, axes)])
            overlap = self.product(rows[:, None], rows[None])
            overlap += 1e-6 * np.diag(np.diag(overlap)) + 1e-12 * np.eye(len(rows))
            step = np.linalg.solve(overlap, rows @ self.data)
            step = step[1:] / max(float(step[0]), 1e-30)
            turn, move = step[: len(axes)] @ axes, step[len(axes) :]
            turn, move = (
                v * min(1.0, most / max(float(np.linalg.norm(v)), 1e-30))
                for v, most in zip((turn, move), LARGEST_STEPS, strict=True)
            )
            matrix = Rotation.from_rotvec(turn, degrees=True).as_matrix()
            tried = self.pose(matrix @ pose.rotation, pose.shift + move)
            if tried.explained <= pose.explained:
                break
            pose = tried
        return pose

    def _derivatives(self, pose: _Pose, axes: Array) -> list[Array]:
        """Return derivatives by degrees about each axis, then by voxels along z, y and x."""
        turns = []
        for axis in axes:
            both = [
                Rotation.from_rotvec(s * STEP * axis, degrees=True).as_matrix() for s in (1, -1)
            ]
            forth, back = (self.view(m @ pose.rotation, pose.shift) for m in both)
            turns.append((forth - back) / (2 * STEP))
        spectrum = to_complex(pose.spectrum)
        return [*turns, *(to_real(-1j * self.phase[:, a] * spectrum) for a in range(3))]


def reasons_of(
    particles: Array, data: Array, measured: Measured, hypotheses: Hypotheses, mixture: Mixture,
    snr: Array, phase: Array, each: Each = computed,
) -> dict[int, Reason]:  # fmt: skip
    """Return the reasons for some particles, by their numbers.

    ``data`` are whitened spectra, ``snr`` (frequency,) is the signal power relative to noise,
    ``phase`` (frequency, axis) that of a wave per voxel.
    """
    shown = {
        int(k): _Particle(
            data[k], measured.of_particles(slice(k, k + 1)).values()[0], hypotheses.reference, phase
        )
        for k in particles
    }

    def reason(number: int) -> dict[str, Array]:
        k = int(particles[number])
        return _reason_of(k, shown[k], hypotheses, mixture, snr).arrays()

    steps = each("reasons", len(shown), reason)
    reasons = {k: Reason.of(step) for k, step in zip(shown, steps, strict=True)}
    posed = [k for k, reason in reasons.items() if reason.kind in (ROTATED, SHIFTED, UNLIKE)]
    alike = _alike([shown[k] for k in posed], [reasons[k] for k in posed], mixture.residual.share)
    for k in np.array(posed, np.int64)[alike]:
        reasons[int(k)] = replace(reasons[int(k)], kind=UNLIKE)
    return reasons


def _alike(particles: Sequence[_Particle], reasons: Sequence[Reason], share: Array) -> Array:
    """Return True for particles whose residuals resemble the sum of those of the others.

    Each resembles it a little; together they do so beyond chance. A filtered reference leaves a
    little of all particles in one pose: less than ``SHARED``.
    """
    chosen = np.zeros(len(particles), bool)
    if len(particles) < LEAST_ALIKE:
        return chosen
    poses = [p.pose(r.rotation, r.shift) for p, r in zip(particles, reasons, strict=True)]
    rests = [p.rest(pose.spectrum) for p, pose in zip(particles, poses, strict=True)]
    score, _ = _likeness(particles, rests, share)
    members: list[int] = np.flatnonzero(score > LEAST_LIKENESS).tolist()
    if len(members) < LEAST_ALIKE:
        return chosen
    score, shared = _likeness([particles[n] for n in members], [rests[n] for n in members], share)
    if score.mean() > ALIKE and shared.mean() > SHARED:
        chosen[members] = score > LEAST_LIKENESS
    return chosen


def _likeness(
    particles: Sequence[_Particle], rests: Sequence[Array], share: Array
) -> tuple[Array, Array]:
    """Return how much each residual resembles the sum of the others.

    First in standard deviations, then as the part of the energy that the reference explains.
    """
    double, total = np.tile(share, 2), np.sum(rests, axis=0)
    score, shared = np.empty(len(rests)), np.empty(len(rests))
    for n, (particle, rest) in enumerate(zip(particles, rests, strict=True)):
        others = (total - rest) * double
        overlap, fitted = float(rest @ others), np.square(particle.data - rest) @ double
        score[n] = overlap / max(np.sqrt(float(particle.product(others, others))), 1e-30)
        shared[n] = overlap / max(float(fitted), 1e-30) / max(1, len(rests) - 1)
    return score, shared


def _explains(
    k: int, particle: _Particle, spectrum: Array, residual: Residual, least: float
) -> bool:
    """Return True if particle k without a spectrum is typical, or lacks most of its excess."""
    root = residual.root_of(k, particle.rest(spectrum), particle.weights)
    return bool(
        min(residual.score[k], residual.score_of(k, root)) < TYPICAL
        or residual.excess(root) < (1 - least) * residual.excess(residual.root[k])
    )


def _reason_of(
    k: int, particle: _Particle, hypotheses: Hypotheses, mixture: Mixture, snr: Array
) -> Reason:
    """Return the reason for particle k alone."""
    kinds = np.r_[hypotheses.kind, EXTRA]
    joint = mixture.probability[k] * (kinds != CONSISTENT)
    codes = np.unique(kinds)
    kind = int(codes[np.argmax([joint[kinds == c].sum() for c in codes])])
    posed, logs, residual = hypotheses.poses.kind, mixture.logs_of(k), mixture.residual
    if kind not in (ROTATED, SHIFTED, EXTRA):
        number = int(np.where(kinds == kind, logs, -np.inf).argmax())
        spectrum = hypotheses.spectrum_for(k, number)
        if _explains(k, particle, spectrum, residual, EXPLAINED_BY_OTHERS):
            return Reason(kind, np.eye(3), np.zeros(3))
        kind = EXTRA
    allowed = (posed == kind) | (kind == EXTRA)
    best = int(np.where(allowed, logs[: len(posed)], -np.inf).argmax())
    start = hypotheses.poses[slice(best, best + 1)]
    pose = particle.refined(particle.pose(start.rotation[0], start.shift[0]))
    fits = _explains(k, particle, pose.spectrum, residual, EXPLAINED)
    if posed[best] != CONSISTENT and fits and (kind != EXTRA or residual.score[k] >= TYPICAL):
        return Reason(int(posed[best]), pose.rotation, pose.shift)
    reference = hypotheses.references[k % len(hypotheses.references)] * mixture.contrast[k]
    noise = np.tile(1 / (1 + particle.weights * snr), 2)
    present = (particle.data * noise) @ reference - 0.5 * particle.product(
        reference * noise, reference
    )
    return Reason(EXTRA if present > 0 else UNLIKE, pose.rotation, pose.shift)

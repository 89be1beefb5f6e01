"""Hypotheses about a particle: the reference, noise alone, poses, templates, a second class.

All are whitened spectra at the selected frequencies; every cross-validation fold has its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

from lazyvol.kernels.screening.fourier_coefficients import Band, to_complex, to_real
from lazyvol.kernels.screening.fourier_rotation import RotatedSpectra
from lazyvol.kernels.screening.measured import Measured
from lazyvol.kernels.screening.misalignment import derivatives
from lazyvol.kernels.screening.mixture import log_likelihood
from lazyvol.kernels.screening.products import Products, fold_products, frequency_products
from lazyvol.kernels.screening.steps import Each, computed

Array = np.ndarray[Any, np.dtype[Any]]

#: kinds of hypotheses by code; templates are numbered from ``TEMPLATE``
CONSISTENT, EMPTY, ROTATED, SHIFTED, SECOND_CLASS, EXTRA, UNLIKE, TEMPLATE = range(8)
#: spacing and largest length of the grid of shifts, as parts of the shortest side of the box
SHIFT_SPACING, LARGEST_SHIFT = 0.1, 0.3
#: correlation from which two references count as one
EQUIVALENT = 0.9
#: expected power of the difference between two classes, as a part of the signal power
CLASS_DIFFERENCE = 0.5
#: fraction of particles that a search for a second class starts from, its rounds of expectation
#: maximisation, and the least gain in log likelihood
START_FRACTION, ROUNDS, LEAST_GAIN = 0.15, 15, 5.0
#: variances of a gradual difference between particles, relative to that between two classes
VARIATIONS = tuple(np.geomspace(1e-3, 1.0, 13))
#: poses whose spectra are in memory at a time, for all folds
POSE_BATCH = 16
#: bytes of the spectra of all poses at the frequencies that are compared at once
COMPARED_BYTES = 16 << 20


@dataclass(frozen=True)
class Poses:
    """Rotations (pose, 3, 3) and shifts (pose, 3), in voxels, of the reference."""

    rotation: Array
    shift: Array

    @classmethod
    def grid(cls, rotations: Array, band: Band) -> "Poses":
        """Return the pose of the reference itself, rotations alone, and shifts alone."""
        reach = int(LARGEST_SHIFT / SHIFT_SPACING + 1e-9)
        steps = [[0] if band.planar else range(-reach, reach + 1)] + 2 * [range(-reach, reach + 1)]
        cells = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
        square = (cells**2).sum(1)
        shifts = cells[(square > 0) & (square <= reach**2)] * SHIFT_SPACING * band.shortest_side
        shifts = shifts / np.abs(band.spacing)
        turned, moved = len(rotations), len(shifts)
        return cls(
            np.concatenate([np.eye(3)[None], rotations, np.tile(np.eye(3), (moved, 1, 1))]),
            np.concatenate([np.zeros((1 + turned, 3)), shifts]),
        )

    def __len__(self) -> int:
        return len(self.rotation)

    def __getitem__(self, chosen: Array | slice) -> "Poses":
        return Poses(self.rotation[chosen], self.shift[chosen])

    @property
    def kind(self) -> Array:
        """Code of the hypothesis of each pose, the first of which is the reference itself."""
        kind = np.where(self.shift.any(1), SHIFTED, ROTATED)
        kind[0] = CONSISTENT
        return kind

    def spectra(self, rotated: RotatedSpectra, selected: Array, band: Band) -> Iterator[Array]:
        """Yield the spectra (volume, number) of volumes in each pose."""
        frequency = 2 * pi * band.frequency[selected] * np.abs(band.spacing)
        for rotation, shift in zip(self.rotation, self.shift, strict=True):
            spectra = rotated.at(rotation)
            if shift.any():
                phase = np.exp(-1j * (frequency @ shift)).astype(np.complex64)
                spectra = to_real(to_complex(spectra) * phase)
            yield spectra


@dataclass
class Hypotheses:
    """``kind`` codes, pose and spectrum of each hypothesis, from all particles.

    ``references`` are the spectra of the reference itself for every fold, and ``derivatives`` those
    by small misalignments (``misalignment``); ``reference`` is that of all particles, and
    ``second_class`` (fold, number) the mean of the second class without the particles of a fold.
    """

    kind: Array
    poses: Poses
    spectra: Array
    references: Array
    derivatives: Array
    reference: RotatedSpectra
    second_class: Array | None = None

    def spectrum_for(self, k: int, number: int) -> Array:
        """Return the spectrum of a hypothesis for particle k, to which k did not contribute."""
        if self.kind[number] == SECOND_CLASS and self.second_class is not None:
            return np.asarray(self.second_class[k % len(self.second_class)])
        return np.asarray(self.spectra[number])


def distinct_poses(
    half_maps: Array, poses: Poses, whitening: Array, selected: Array, band: Band,
    each: Each = computed,
) -> Poses:  # fmt: skip
    """Return the poses, the first included, in which the reference differs from all others.

    Comparing two half-set references keeps their noise from making symmetric views differ. Views
    are compared at some of the frequencies at a time, in steps.
    """
    rotated = RotatedSpectra(half_maps, band, selected, whitening)
    width = max(1, COMPARED_BYTES // (16 * len(poses)))
    starts = range(0, len(selected), width)

    def products(number: int) -> dict[str, Array]:
        part = slice(starts[number], starts[number] + width)
        at_part, frequencies = rotated.among(part), selected[part]
        spectra = np.empty((2, len(poses), 2 * len(frequencies)), np.float32)
        for n, views in enumerate(poses.spectra(at_part, frequencies, band)):
            spectra[:, n] = views
        return {"cross": spectra[0] @ spectra[1].T}

    cross = np.zeros((len(poses), len(poses)), np.float32)
    for found in each("distinct poses", len(starts), products):
        cross += found["cross"]
    return poses[np.r_[0, 1 + distinct(cross)]]


def compare(
    data: Array, volumes: Array, poses: Poses, templates: Array,
    whitening: Array, selected: Array, measured: Measured, band: Band, each: Each = computed,
) -> tuple[Hypotheses, Products]:  # fmt: skip
    """Return the hypotheses and their products with the particles.

    ``volumes`` are the references of all particles and of every fold; ``data`` and ``templates``
    are whitened spectra, ``measured`` are the weights of the selected frequencies.
    """
    rotated = RotatedSpectra(volumes, band, selected, whitening)
    kind = np.r_[poses.kind, EMPTY, TEMPLATE + np.arange(len(templates))]
    unrotated = rotated.at(np.eye(3))
    references, tangents = unrotated[1:], derivatives(rotated, unrotated, selected, band)
    empty = np.zeros((1, len(whitening)), np.float32)
    starts = range(0, len(poses), POSE_BATCH)

    def compared(number: int) -> dict[str, Array]:
        batch = poses[slice(starts[number], starts[number] + POSE_BATCH)]
        views = np.stack([*batch.spectra(rotated, selected, band)], axis=1)
        products = Products.joined([Products.of(data, measured, views[1:], references)])
        return {"view": views[0].copy(), "t": products.t, "q": products.q, "c": products.c}

    steps = list(each("poses", len(starts), compared))
    spectra = [step["view"] for step in steps]
    parts = [Products(step["t"], step["q"], step["c"]) for step in steps]
    fixed = np.concatenate([empty, templates])
    everywhere = np.broadcast_to(fixed, (len(references), *fixed.shape))
    of_fixed = Products.of(data, measured, everywhere, references)
    hypotheses = Hypotheses(
        kind,
        poses,
        np.concatenate([*spectra, fixed]),
        references,
        tangents[1:],
        RotatedSpectra(volumes[:1], band, selected, whitening),
    )
    return hypotheses, Products.joined([*parts, of_fixed])


def distinct(cross: Array) -> Array:
    """Return candidates unlike the first and unlike each other, the least like the first leading.

    ``cross`` are inner products of two noisy versions; indices are counted without the first.
    """
    cross = (cross + cross.T) / 2
    power = np.diag(cross)
    if power[0] <= 0:
        return np.empty(0, np.int64)
    norm = np.sqrt(np.maximum(power, 0.1 * power[0]))
    correlation = cross / np.outer(norm, norm)
    free = correlation[0] < EQUIVALENT
    chosen = []
    for n in np.argsort(correlation[0], kind="stable"):
        if free[n]:
            chosen.append(n - 1)
            free &= correlation[n] < EQUIVALENT
            free[n] = False
    return np.array(chosen, np.int64)


def principal_components(
    data: Array, weight: Array, count: int, measured: Measured, seed: int = 0
) -> Array:
    """Return (particle, component) scores of weighted spectra, of unit variance.

    The components are those of the deviations from the mean, where they were measured. Eight
    subspace iterations from random directions.
    """
    ones = np.ones((1, len(data)))
    coverage = np.tile(measured.sums(ones)[0], 2)
    mean = (data.sum(0, dtype=np.float64) / np.maximum(coverage, 1e-3)).astype(np.float32)

    def scores_of(basis: Array) -> Array:
        weighted = weight[:, None] * basis
        expected = measured.energies(frequency_products(weighted.T, mean)[None], len(data))
        return np.asarray(data @ weighted - expected, np.float32)

    basis = np.random.default_rng(seed).normal(size=(data.shape[1], count)).astype(np.float32)
    for _ in range(8):
        scores = scores_of(basis)
        back = data.T @ scores - mean[:, None] * np.tile(measured.sums(scores.T), 2).T
        basis = np.linalg.qr(weight[:, None] * back)[0].astype(np.float32)
    scores = scores_of(basis)
    normalized: Array = scores / np.maximum(scores.std(0), 1e-30)
    return normalized


def find_second_class(
    data: Array, references: Array, logs: Array, weights: Array, snr: Array, measured: Measured,
    contrast_variance: float,
) -> Array | None:  # fmt: skip
    """Return the (fold, number) means of a second class of particles, None if there is none.

    Expectation maximisation of two classes from both ends of the principal components. Each fold
    is judged by means from the other folds, so that a class of pure noise gains nothing. ``logs``
    and ``weights`` are (particle, hypothesis) of the hypotheses known so far.
    """
    joint = logs + np.log(np.maximum(weights, 1e-300))
    known = logsumexp(joint, axis=1)
    filtering = np.sqrt(CLASS_DIFFERENCE * snr / (1 + CLASS_DIFFERENCE * snr)).astype(np.float32)
    scores = principal_components(data, filtering, 3, measured).T
    ends = np.stack([scores, -scores], axis=1).reshape(-1, len(data))
    limits = np.quantile(ends, 1 - START_FRACTION, axis=1, keepdims=True)
    starts = expit(4 * (ends - limits))
    gain, means = _two_classes(data, references, known, starts, snr, measured, contrast_variance)
    best = int(gain.argmax()) if len(gain) else -1
    if best < 0 or gain[best] < LEAST_GAIN or _equivalent(means[:, best], references):
        return None
    pair = np.stack([references, means[:, best]], axis=1)
    products, consistent = Products.of(data, measured, pair, references), joint[:, 0] - known
    return means[:, best] if gain[best] > _gain_by_variation(products, consistent) else None


def _gain_by_variation(products: Products, consistent: Array) -> float:
    """Return the gain in log likelihood if particles differ gradually instead of in two classes.

    Each is the reference plus a multiple, normal about 0, of the difference between a class and the
    reference, as small misalignments, defocus and flexibility cause. ``products`` are those with
    the reference and the class, ``consistent`` the log probability of the reference so far.
    """
    t, q, c = (np.asarray(a, np.float64) for a in (products.t, products.q, products.c))
    overlap = t[:, 1] - t[:, 0] - (c[:, 1] - q[:, 0])
    energy = np.maximum(q[:, 1] + q[:, 0] - 2 * c[:, 1], 0)
    rest = np.log(np.maximum(-np.expm1(consistent), 1e-300))
    gains = []
    for variance in VARIATIONS:
        spread = 1 + variance * energy
        logs = 0.5 * (variance * overlap**2 / spread - np.log(spread))
        gains.append(float(np.logaddexp(rest, consistent + logs).sum()))
    return max(gains)


def _equivalent(a: Array, b: Array) -> bool:
    """Return True if two references, averaged over folds, correlate above ``EQUIVALENT``."""
    a, b = a.mean(0), b.mean(0)
    return bool(a @ b > EQUIVALENT * np.linalg.norm(a) * np.linalg.norm(b))


def _two_classes(
    data: Array, references: Array, known: Array, membership: Array, snr: Array,
    measured: Measured, contrast_variance: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the gain in log likelihood by a second class and its means, for every start.

    ``membership`` is (start, particle), means are (fold, start, number). One pass over the data
    serves all starts. Starts that end with almost no particles, or with half of them, are dropped.
    """
    gain, count = np.zeros(len(membership)), len(references)
    means = np.repeat(references[:, None], len(membership), axis=1)
    totals = _sums_and_coverage(data, np.ones((1, len(data)), np.float32), measured, count)
    for _ in range(ROUNDS):
        size = membership.sum(1)
        membership = membership[(size > 1.5) & (size < 0.5 * len(data))]
        if not len(membership):
            return np.empty(0), means[:, :0]
        means = _class_means(data, references, membership, totals, snr, measured)
        q = measured.energies(frequency_products(means, means), len(data))
        logs = log_likelihood(fold_products(data, means), q, 1.0, contrast_variance).T
        share = membership.mean(1, keepdims=True)
        joint = np.stack([known + np.log(1 - share), logs + np.log(share)])
        evidence = logsumexp(joint, axis=0)
        membership, gain = np.exp(joint[1] - evidence), (evidence - known).sum(1)
    return gain, means


def _sums_and_coverage(
    data: Array, weights: Array, measured: Measured, count: int
) -> tuple[Array, Array]:
    """Return sums over each fold and the measured weights in them, by (sum, particle) weights.

    They are (fold, sum, number) and (fold, sum, frequency).
    """
    single = weights.astype(np.float32)
    sums = [single[:, f::count] @ data[f::count] for f in range(count)]
    coverage = [
        measured.of_particles(slice(f, None, count)).sums(weights[:, f::count])
        for f in range(count)
    ]
    return np.stack(sums), np.stack(coverage)


def _class_means(
    data: Array, references: Array, membership: Array, totals: tuple[Array, Array], snr: Array,
    measured: Measured,
) -> Array:  # fmt: skip
    """Return (fold, class, number): means of classes for every fold, from the other folds.

    The reference plus the Wiener-filtered difference between the mean of the class and that of
    all other particles. ``totals`` are the sums and the coverage of all particles.
    """
    sums, covered = _sums_and_coverage(data, membership, measured, len(references))
    estimates = []
    for part, coverage in ((sums, covered), (totals[0] - sums, totals[1] - covered)):
        size = np.tile(np.maximum(coverage.sum(0) - coverage, 1e-3), 2).astype(np.float32)
        estimates.append(((part.sum(0) - part) / size, size))
    (mean, size), (rest_mean, rest_size) = estimates
    power = (CLASS_DIFFERENCE * snr).astype(np.float32)
    mean -= rest_mean
    mean *= power / (power + 1 / size + 1 / rest_size)
    mean += references[:, None]
    return np.asarray(mean, np.float32)

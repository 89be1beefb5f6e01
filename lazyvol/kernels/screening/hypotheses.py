"""Hypotheses about a particle: the reference, noise alone, rotations, templates, a second class.

All are whitened spectra at the selected frequencies; every cross-validation fold has its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.kernels.screening.fourier_rotation import RotatedSpectra
from lazyvol.kernels.screening.mixture import log_likelihood

Array = np.ndarray[Any, np.dtype[Any]]

#: kinds of hypotheses by code; templates are numbered from ``TEMPLATE``
CONSISTENT, EMPTY, ROTATED, SECOND_CLASS, TEMPLATE = range(5)
#: correlation from which two references count as one
EQUIVALENT = 0.9
#: expected power of the difference between two classes, as a part of the signal power
CLASS_DIFFERENCE = 0.5
#: fraction of particles that a search for a second class starts from, its rounds of expectation
#: maximisation, and the least gain in log likelihood
START_FRACTION, ROUNDS, LEAST_GAIN = 0.15, 15, 5.0
#: rotations whose spectra are in memory at a time, for all folds
ROTATION_BATCH = 16


@dataclass
class Hypotheses:
    """``kind`` codes, ``rotation`` (3, 3) and spectrum of each hypothesis, from all particles.

    ``references`` are the spectra of the reference itself for every fold.
    """

    kind: Array
    rotation: Array
    spectra: Array
    references: Array


def distinct_rotations(
    half_maps: Array, rotations: Array, whitening: Array, selected: Array, band: Band
) -> Array:
    """Return the rotations under which the reference differs from itself and from each other.

    Comparing two half-set references keeps their noise from making symmetric views differ.
    """
    rotated = RotatedSpectra(half_maps, band, selected, whitening)
    candidates = np.concatenate([np.eye(3)[None], rotations])
    spectra = np.empty((2, len(candidates), len(whitening)), np.float32)
    for n, rotation in enumerate(candidates):
        spectra[:, n] = rotated.at(rotation)
    chosen: Array = rotations[distinct(spectra[0] @ spectra[1].T)]
    return chosen


def compare(
    data: Array, folds: Array, volumes: Array, rotations: Array, templates: Array,
    whitening: Array, selected: Array, band: Band,
) -> tuple[Hypotheses, Array, Array]:  # fmt: skip
    """Return the hypotheses, t and q: (particle, hypothesis).

    ``t`` are inner products of particles with the hypotheses of their folds, ``q`` those of the
    hypotheses with themselves. ``volumes`` are the references of all particles and of every fold;
    ``data`` and ``templates`` are whitened spectra.
    """
    rotated = RotatedSpectra(volumes, band, selected, whitening)
    first_template = 2 + len(rotations)
    count = first_template + len(templates)
    kind = np.full(count, ROTATED)
    kind[:2] = CONSISTENT, EMPTY
    kind[first_template:] = TEMPLATE + np.arange(len(templates))
    rotation = np.tile(np.eye(3), (count, 1, 1))
    rotation[2:first_template] = rotations
    spectra = np.zeros((count, len(whitening)), np.float32)
    spectra[first_template:] = templates
    t, q = np.zeros((len(data), count)), np.zeros((len(data), count))
    t[:, first_template:], q[:, first_template:] = data @ templates.T, (templates**2).sum(1)
    numbers = np.r_[0, np.arange(2, first_template)]
    for first in range(0, len(numbers), ROTATION_BATCH):
        batch = numbers[first : first + ROTATION_BATCH]
        views = np.stack([rotated.at(rotation[n]) for n in batch], axis=1)
        spectra[batch] = views[0]
        t[:, batch] = fold_products(data, views[1:])
        q[:, batch] = np.einsum("fhn,fhn->fh", views[1:], views[1:], dtype=np.float64)[folds]
        if first == 0:
            references = views[1:, 0].copy()
    return Hypotheses(kind, rotation, spectra, references), t, q


def fold_products(data: Array, spectra: Array) -> Array:
    """Return inner products of particles with (fold, hypothesis, number) of their own folds.

    Folds take turns (``reference.cross_validation_folds``), so that slices need no copies.
    """
    products = np.empty((len(data), spectra.shape[1]))
    for f, of_fold in enumerate(spectra):
        products[f :: len(spectra)] = data[f :: len(spectra)] @ of_fold.T
    return products


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


def principal_components(data: Array, weight: Array, count: int, seed: int = 0) -> Array:
    """Return (particle, component) scores of weighted spectra, of unit variance.

    Eight subspace iterations from random directions.
    """
    mean = data.mean(0)
    basis = np.random.default_rng(seed).normal(size=(data.shape[1], count)).astype(np.float32)
    for _ in range(8):
        scores = data @ (weight[:, None] * basis) - mean @ (weight[:, None] * basis)
        back = data.T @ scores - mean[:, None] * scores.sum(0)
        basis = np.linalg.qr(weight[:, None] * back)[0].astype(np.float32)
    scores = data @ (weight[:, None] * basis) - mean @ (weight[:, None] * basis)
    normalized: Array = scores / np.maximum(scores.std(0), 1e-30)
    return normalized


def find_second_class(
    data: Array, references: Array, logs: Array, weights: Array, snr: Array, folds: Array,
    contrast_variance: float,
) -> Array | None:  # fmt: skip
    """Return the (fold, number) means of a second class of particles, None if there is none.

    Expectation maximisation of two classes from both ends of the principal components. Each fold
    is judged by means from the other folds, so that a class of pure noise gains nothing. ``logs``
    and ``weights`` are (particle, hypothesis) of the hypotheses known so far.
    """
    known = logsumexp(logs + np.log(np.maximum(weights, 1e-300)), axis=1)
    filtering = np.sqrt(CLASS_DIFFERENCE * snr / (1 + CLASS_DIFFERENCE * snr)).astype(np.float32)
    scores = principal_components(data, filtering, 3).T
    ends = np.stack([scores, -scores], axis=1).reshape(-1, len(data))
    limits = np.quantile(ends, 1 - START_FRACTION, axis=1, keepdims=True)
    starts = expit(4 * (ends - limits))
    gain, means = _two_classes(data, references, known, starts, snr, folds, contrast_variance)
    best = int(gain.argmax()) if len(gain) else -1
    if best < 0 or gain[best] < LEAST_GAIN or _equivalent(means[:, best], references):
        return None
    return means[:, best]


def _equivalent(a: Array, b: Array) -> bool:
    """Return True if two references, averaged over folds, correlate above ``EQUIVALENT``."""
    a, b = a.mean(0), b.mean(0)
    return bool(a @ b > EQUIVALENT * np.linalg.norm(a) * np.linalg.norm(b))


def _two_classes(
    data: Array, references: Array, known: Array, membership: Array, snr: Array, folds: Array,
    contrast_variance: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the gain in log likelihood by a second class and its means, for every start.

    ``membership`` is (start, particle), means are (fold, start, number). One pass over the data
    serves all starts. Starts that end with almost no particles, or with half of them, are dropped.
    """
    gain = np.zeros(len(membership))
    means = np.repeat(references[:, None], len(membership), axis=1)
    totals = fold_sums(data, np.ones((1, len(data)), np.float32), len(references))
    for _ in range(ROUNDS):
        size = membership.sum(1)
        membership = membership[(size > 1.5) & (size < 0.5 * len(data))]
        if not len(membership):
            return np.empty(0), means[:, :0]
        means = _class_means(data, references, membership, totals, snr)
        q = np.einsum("fsn,fsn->fs", means, means, dtype=np.float64)[folds]
        logs = log_likelihood(fold_products(data, means), q, 1.0, contrast_variance).T
        share = membership.mean(1, keepdims=True)
        joint = np.stack([known + np.log(1 - share), logs + np.log(share)])
        evidence = logsumexp(joint, axis=0)
        membership, gain = np.exp(joint[1] - evidence), (evidence - known).sum(1)
    return gain, means


def fold_sums(data: Array, weights: Array, count: int) -> Array:
    """Return (fold, sum, number): sums over each fold, by (sum, particle) weights."""
    single = weights.astype(np.float32)
    return np.stack([single[:, f::count] @ data[f::count] for f in range(count)])


def _class_means(
    data: Array, references: Array, membership: Array, totals: Array, snr: Array
) -> Array:
    """Return (fold, class, number): means of classes for every fold, from the other folds.

    The reference plus the Wiener-filtered difference between the mean of the class and that of
    all other particles. ``totals`` are sums over all particles.
    """
    count = len(references)
    sums = fold_sums(data, membership, count)
    estimates = []
    for part_sums, part in ((sums, membership), (totals - sums, 1 - membership)):
        fold_size = np.stack([part[:, f::count].sum(1) for f in range(count)])
        size = np.maximum(fold_size.sum(0) - fold_size, 1e-3)[:, :, None].astype(np.float32)
        estimates.append(((part_sums.sum(0) - part_sums) / size, size))
    (mean, size), (rest_mean, rest_size) = estimates
    power = (CLASS_DIFFERENCE * snr).astype(np.float32)
    mean -= rest_mean
    mean *= power / (power + 1 / size + 1 / rest_size)
    mean += references[:, None]
    return np.asarray(mean, np.float32)

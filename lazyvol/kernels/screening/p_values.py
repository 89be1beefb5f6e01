"""p-values of log likelihood ratios by simulation, and the false discovery rate.

A p-value is the probability that a consistent particle reaches a ratio as high as the observed
one. Consistent particles are simulated as inner products t with all hypotheses: means as among the
particles, noise as measured.
"""

from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.kernels.screening.mixture import Mixture, log_likelihood, log_ratio, weight_folds
from lazyvol.kernels.screening.reference import tapered

Array = np.ndarray[Any, np.dtype[Any]]

#: simulated particles, half of them consistent
DRAWS = 20_000
#: weight of the variances that the noise spectrum predicts against observed ones, in particles
PRIOR_PARTICLES = 100.0


def p_values(mixture: Mixture, gram: Array, covariance: Array) -> Array:
    """Return the p-value of every particle's log likelihood ratio.

    ``gram`` and ``covariance`` are those of ``noise_products``. The mean inner products of
    consistent particles are estimated from the particles: a filtered reference falls short of the
    truth, and under a rotation by a different factor.
    """
    means, consistent = gram.copy(), mixture.probability[:, 0]
    means[0] = (consistent / mixture.contrast) @ mixture.t / consistent.sum()
    noise = _scaled_to_particles(covariance, means[0], mixture)
    return simulated(
        mixture.ratios, weight_folds(len(consistent)), means, mixture.q.mean(0), noise,
        mixture.weights, mixture.contrast, mixture.contrast_variance,
    )  # fmt: skip


def noise_products(
    spectra: Array, q: Array, noise: Array, whitening: Array, columns: Array, band: Band
) -> tuple[Array, Array]:
    """Return the inner products of all hypotheses, and the covariance of noise in t.

    Tapering correlates the frequencies of the noise a little. ``q`` exceeds the diagonal of the
    inner products by the noise in the references of the folds; the covariance includes it.
    """
    gram = _gram(spectra)
    full = np.zeros((len(spectra), band.size), np.float32)
    full[:, columns] = spectra * whitening
    coloured = tapered(full, band)
    coloured *= np.sqrt(np.tile(noise, 2)).astype(np.float32)
    covariance = _gram(coloured)
    covariance += np.diag(np.maximum(q.mean(0) - np.diag(gram), 0))
    return gram, covariance


def _gram(spectra: Array) -> Array:
    """Return the inner products of spectra, summed in float64."""
    starts = range(0, spectra.shape[1], 1024)
    parts = (spectra[:, n : n + 1024].astype(np.float64) for n in starts)
    return np.asarray(sum(part @ part.T for part in parts))


def _scaled_to_particles(covariance: Array, mean: Array, mixture: Mixture) -> Array:
    """Return the noise covariance with variances shrunk to those among consistent particles.

    The spectrum of steep noise is that of the whole tapered box, not of its middle: variances were
    0.7 to 1.9 times those it predicts. Ratios depend on differences from the first product, so
    those are scaled.
    """
    consistent = mixture.probability[:, 0]
    basis = np.eye(len(mean))
    basis[1:, 0] = -1
    inverse = 2 * np.eye(len(mean)) - basis
    contrast, noise = mixture.contrast[:, None], basis @ covariance @ basis.T
    deviations = (mixture.t - contrast * mean) @ basis.T
    observed = consistent @ deviations**2 / consistent.sum()
    observed -= mixture.contrast_variance * np.square(contrast).mean() * (basis @ mean) ** 2
    predicted, size = np.diag(noise), consistent.sum()
    ratio = np.divide(observed, predicted, out=np.ones_like(predicted), where=predicted > 0)
    overall = float((predicted * ratio).sum() / predicted.sum())
    shrinkage = max(0.0, 1 - 2 / size / max(float(np.var(ratio)), 1e-300))
    ratio = overall + shrinkage * (ratio - overall)
    scale = np.sqrt((size * np.maximum(ratio, 0.25) + PRIOR_PARTICLES) / (size + PRIOR_PARTICLES))
    return np.asarray(inverse @ (noise * scale * scale[:, None]) @ inverse.T)


def simulated(
    ratios: Array, folds: Array, means: Array, q: Array, noise: Array, weights: Array,
    contrast: Array, contrast_variance: float, draws: int = DRAWS,
) -> Array:  # fmt: skip
    """Return the probability that a consistent particle reaches each log likelihood ratio.

    ``means`` are the inner products of a particle of each hypothesis (row) with all hypotheses,
    ``q`` those of hypotheses with themselves, ``noise`` the covariance that noise adds.

    Importance sampling: half of the particles are drawn from the alternatives and weighted by the
    likelihood ratio of the first hypothesis, so a p-value of 1e-12 takes no more draws than 0.1.
    """
    random = np.random.default_rng(0)
    root, inverse = _root_and_inverse(noise)
    half, alternatives = draws // 2, weights[:, 1:].sum(0) / weights[:, 1:].sum()
    drawn = random.choice(len(alternatives), half, p=alternatives)
    truth = np.r_[np.zeros(half, np.int64), 1 + drawn]
    expected = random.choice(contrast, draws)
    actual = expected * (1 + np.sqrt(contrast_variance) * random.normal(size=draws))
    samples, importance = np.empty((len(weights), draws), np.float32), np.empty(draws)
    step = (means[1:] - means[0]) @ inverse
    middle = 0.5 * ((means[1:] + means[0]) * step).sum(1)
    for part in np.array_split(np.arange(draws), 10):
        a = actual[part, None]
        t = a * means[truth[part]] + random.normal(size=(len(part), len(root))) @ root.T
        logs = log_likelihood(t, q, expected[part, None], contrast_variance)
        samples[:, part] = log_ratio(logs, weights).T
        log_odds = logsumexp(a * (t @ step.T) - a * a * middle + np.log(alternatives), axis=1)
        importance[part] = 2 * expit(-log_odds)
    importance /= draws
    pairs = zip(ratios, folds, strict=True)
    return np.array([_tail(ratio, samples[fold], importance) for ratio, fold in pairs])


def _tail(ratio: float, samples: Array, importance: Array) -> float:
    """Return the importance of samples from ``ratio`` up; beyond all samples, extrapolate."""
    top = int(samples.argmax())
    if ratio > samples[top]:
        return float(importance[top] * np.exp(samples[top] - ratio))
    return min(1.0, float(importance @ (samples >= ratio)))


def _root_and_inverse(covariance: Array) -> tuple[Array, Array]:
    """Return a square root of a covariance and its pseudo-inverse."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    significant = values > 1e-6 * values.max(initial=1e-300)
    inverse = np.divide(1, values, out=np.zeros_like(values), where=significant)
    return vectors * np.sqrt(values), (vectors * inverse) @ vectors.T


def benjamini_hochberg(p: Array, rate: float) -> Array:
    """Return True for p-values that Benjamini-Hochberg rejects at a false discovery rate."""
    order = np.sort(p)
    below = np.flatnonzero(order <= rate * np.arange(1, len(p) + 1) / max(1, len(p)))
    return p <= order[below[-1]] if below.size else np.zeros(len(p), bool)

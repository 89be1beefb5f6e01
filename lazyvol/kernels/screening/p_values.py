"""p-values of log likelihood ratios by simulation, and the false discovery rate.

A p-value is the probability that a consistent particle, measured at the same frequencies, reaches a
ratio as high as the observed one. Consistent particles are simulated as inner products t with all
hypotheses: means as among the particles, noise as measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled_sums
from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.kernels.screening.measured import batches
from lazyvol.kernels.screening.mixture import Mixture, weight_folds
from lazyvol.kernels.screening.reference import tapered
from lazyvol.kernels.screening.residual import LEAST_SPREAD, evidence
from lazyvol.kernels.screening.steps import Each, computed

Array = np.ndarray[Any, np.dtype[Any]]

#: simulated noise that particles share, and draws of each: fewer of many particles
POOL, DRAWS, LEAST_DRAWS, ALL_DRAWS = 16_384, 2_000, 250, 4_000_000
#: weight of the relative variances that the noise spectrum predicts against observed ones, in
#: particles
PRIOR_PARTICLES = 100.0
#: least energy of a difference in a particle relative to the mean over particles
LEAST_RELATIVE = 0.05
#: parts of the particles whose p-values are one step
PARTS = 32


@dataclass(frozen=True)
class Null:
    """Consistent particles: the distribution of their inner products t.

    ``mean`` (particle, hypothesis) is that of t at contrast 1. ``deviation`` (particle, hypothesis)
    and ``correlation`` (hypothesis, hypothesis) are those of the noise in the first product and in
    the differences of all others from it.
    """

    mean: Array
    deviation: Array
    correlation: Array


def model_of(mixture: Mixture, covariance: Array) -> dict[str, Array]:
    """Return the distribution of the log likelihood ratios of consistent particles, as arrays.

    ``covariance`` is that of ``noise_covariance``.
    """
    shares = np.maximum(mixture.weights[:, 1:], 1e-300)
    shares /= shares.sum(1, keepdims=True)
    return {
        **vars(null_of(mixture, covariance)),
        "q": mixture.products.q,
        "shares": shares[weight_folds(len(mixture.contrast))],
        "contrast": mixture.contrast,
        "variance": np.array(mixture.contrast_variance),
        "spread": np.array(mixture.residual.spread),
    }


def p_values(ratios: Array, model: Mapping[str, Array], each: Each = computed) -> Array:
    """Return the p-value of every particle's log likelihood ratio by ``model_of``."""
    draws = int(np.clip(ALL_DRAWS // len(ratios), LEAST_DRAWS, DRAWS))
    return simulated(
        ratios, Null(model["mean"], model["deviation"], model["correlation"]), model["q"],
        model["shares"], model["contrast"], float(model["variance"]), float(model["spread"]),
        draws, each,
    )  # fmt: skip


def noise_covariance(
    spectra: Array, q: Array, noise: Array, coverage: Array, whitening: Array, columns: Array,
    band: Band,
) -> Array:  # fmt: skip
    """Return the covariance of noise in t, (hypothesis, hypothesis), in a typical particle.

    Tapering correlates the frequencies of the noise a little. ``q`` exceeds the inner products of
    the hypotheses with themselves by the noise in the references of the folds.
    """
    half = np.tile(np.sqrt(coverage), 2).astype(np.float32)
    energy = np.square(spectra * half[columns], dtype=np.float64).sum(1)
    full = np.zeros((len(spectra), band.size), np.float32)
    full[:, columns] = spectra * whitening
    coloured = tapered(full, band)
    coloured *= half * np.sqrt(np.tile(noise, 2)).astype(np.float32)
    starts = range(0, coloured.shape[1], 1024)
    parts = (coloured[:, n : n + 1024].astype(np.float64) for n in starts)
    covariance = np.asarray(sum(part @ part.T for part in parts))
    return covariance + np.diag(np.maximum(q.mean(0) - energy, 0))


def null_of(mixture: Mixture, covariance: Array) -> Null:
    """Return the distribution of the inner products of consistent particles.

    A filtered reference falls short of the truth, and under a rotation by a different factor: the
    mean of each hypothesis is what particles have besides the predicted one. The spectrum of steep
    noise is that of the whole tapered box, not of its middle: variances were 0.7 to 1.9 times those
    it predicts, and are shrunk to those among consistent particles. In each particle they are
    proportional to what was measured of the difference between two hypotheses. Their overall level,
    which few particles show well, is the observed one.
    """
    products, contrast, v = mixture.products, mixture.contrast, mixture.contrast_variance
    n = mixture.probability[:, 0].sum()
    weight = mixture.probability[:, 0] / n
    strength = (weight / contrast) @ products.t[:, 0] / (weight @ products.q[:, 0])
    mean = products.c * np.float32(strength)
    basis = np.eye(len(covariance))
    basis[1:, 0] = -1
    noise = basis @ covariance @ basis.T
    predicted = np.maximum(np.diag(noise), 0)
    size = np.sqrt(np.maximum(predicted, 1e-300))
    correlation = noise / np.outer(size, size)
    mean += ((weight / contrast) @ products.t - weight @ mean).astype(np.float32)
    relative = products.q + products.q[:, :1] - 2 * products.c
    relative[:, 0] = products.q[:, 0]
    relative /= np.maximum(relative.mean(0), 1e-30)
    np.maximum(relative, LEAST_RELATIVE, out=relative)
    observed = np.zeros(len(covariance))
    for part in batches(len(mean)):
        expected = _differences(contrast[part, None] * mean[part])
        squares = (_differences(products.t[part]) - expected) ** 2 - v * expected**2
        observed += weight[part] @ (squares / relative[part])
    ratio = np.divide(observed, predicted, out=np.ones_like(observed), where=predicted > 0)
    overall = float((predicted * ratio).sum() / predicted.sum())
    shrinkage = max(0.0, 1 - 2 / n / max(float(np.var(ratio)), 1e-300))
    ratio = np.maximum(1 + shrinkage * (ratio / overall - 1), 0.25)
    variance = overall * predicted * (n * ratio + PRIOR_PARTICLES) / (n + PRIOR_PARTICLES)
    deviation = np.sqrt(relative) * np.sqrt(np.maximum(variance, 0)).astype(np.float32)
    return Null(mean, deviation, correlation)


def _correlated(random: np.random.Generator, draws: int, correlation: Array) -> Array:
    """Return normal numbers (draw, hypothesis) of variance 1 with a correlation, as float32."""
    values, vectors = np.linalg.eigh(correlation)
    root = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    return np.asarray(random.standard_normal((draws, len(values)), np.float32) @ root.T)


def _differences(t: Array) -> Array:
    """Return the first product, and the differences of all others from it."""
    differences = np.array(t, np.float64)
    differences[:, 1:] -= differences[:, :1]
    return differences


def simulated(
    ratios: Array, null: Null, q: Array, shares: Array, contrast: Array, contrast_variance: float,
    spread: float, draws: int = DRAWS, each: Each = computed,
) -> Array:  # fmt: skip
    """Return the probability that a consistent particle reaches each log likelihood ratio.

    ``q`` are inner products of hypotheses with themselves, ``shares`` (particle, alternative) the
    weights of the alternatives, the last of which is judged by the score of the residual alone,
    standard normal for consistent particles; ``spread`` is that of ``residual.Residual``.

    Importance sampling: half of the particles are drawn as if one of the alternatives were true,
    and weighted by its likelihood ratio, so a p-value of 1e-12 takes no more draws than 0.1.
    """
    random, count = np.random.default_rng(0), len(null.correlation)
    proposal = shares.mean(0) * np.r_[np.ones(count - 1), spread >= LEAST_SPREAD]
    proposal /= proposal.sum()
    noise = _correlated(random, POOL, null.correlation)
    truth = np.zeros(POOL, np.int64)
    truth[1::2] = 1 + random.choice(count, POOL // 2, p=proposal)
    score, raised = random.standard_normal((2, POOL))
    rest = evidence(np.where(truth == count, score + spread * np.abs(raised), score), spread)
    normal, correlation = random.standard_normal(POOL), np.ascontiguousarray(null.correlation)
    starts = range(0, len(ratios), ceil(len(ratios) / PARTS) or 1)

    def tails(number: int) -> dict[str, Array]:
        first = starts[number]
        part = slice(first, first + starts.step)
        return {"tails": _tails(
            ratios[part], null.mean[part], null.deviation[part], correlation, q[part],
            shares[part], contrast[part], contrast_variance, noise, rest, truth, normal, proposal,
            draws, first,
        )}  # fmt: skip

    found = [step["tails"] for step in each("p-values", len(starts), tails)]
    return np.concatenate([np.empty(0), *found])


@compiled_sums
def _tails(  # type: ignore[no-untyped-def]
    ratios, mean, deviation, correlation, q, shares, contrast, variance, noise, rest, truth, normal,
    proposal, draws, number,
):  # fmt: skip
    """Return the importance of the draws whose ratio reaches each observed one.

    ``number`` is that of the first particle: others take other draws.
    Beyond all draws the tail is extrapolated: it decreases by at least exp(-1) per unit.
    """
    tails, x, v = np.empty(len(ratios)), np.empty(len(correlation)), variance * contrast**2
    square, line, level = np.empty(len(x)), np.empty(len(x)), np.empty(len(x))
    for k in range(len(ratios)):
        for h in range(len(x)):  # ``mixture.log_likelihood`` is a parabola in t
            spread = 1.0 + v[k] * q[k, h]
            square[h], line[h] = 0.5 * v[k] / spread, contrast[k] / spread
            level[h] = -0.5 * (contrast[k] ** 2 * q[k, h] / spread + np.log(spread))
        top, at_top, total = -np.inf, 0.0, 0.0
        for n in range(draws):
            p = ((number + k) * draws + n) % len(noise)
            true = truth[p]
            a = contrast[k] * (1.0 + np.sqrt(variance) * normal[p])
            for h in range(len(x)):
                x[h] = deviation[k, h] * noise[p, h]
                if 0 < true < len(x):
                    x[h] += deviation[k, h] * correlation[true, h] * deviation[k, true]
            t = a * mean[k, 0] + x[0]
            first = (square[0] * t + line[0]) * t + level[0]
            odds = np.exp(min(rest[p], 600.0))
            mixed, tilted = shares[k, -1] * odds, proposal[-1] * odds
            for h in range(1, len(x)):
                t = a * mean[k, h] + x[0] + x[h]
                log = (square[h] * t + line[h]) * t + level[h] - first
                mixed += shares[k, h - 1] * np.exp(min(log, 600.0))
                tilt = x[h] - 0.5 * deviation[k, h] ** 2
                tilted += proposal[h - 1] * np.exp(min(tilt, 600.0))
            ratio, importance = np.log(max(mixed, 1e-300)), 2.0 / (1.0 + tilted)
            if ratio > top:
                top, at_top = ratio, importance
            if ratio >= ratios[k]:
                total += importance
        if ratios[k] > top:
            total = at_top * np.exp(top - ratios[k])
        tails[k] = min(1.0, total / draws)
    return tails


def benjamini_hochberg(p: Array, rate: float) -> Array:
    """Return True for p-values that Benjamini-Hochberg rejects at a false discovery rate."""
    order = np.sort(p)
    below = np.flatnonzero(order <= rate * np.arange(1, len(p) + 1) / max(1, len(p)))
    return p <= order[below[-1]] if below.size else np.zeros(len(p), bool)

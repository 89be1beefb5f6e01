"""A mixture of hypotheses: likelihoods, mixture weights and posterior probabilities.

A particle is reduced to its inner products t with the references of all hypotheses, the first of
which is that it is consistent. Under hypothesis h with contrast a, t is normal with mean a G[h]
and covariance G, the inner products of the references; q is the diagonal of G. Contrasts are
normal about an expected contrast, with a relative variance. Where frequencies are missing, G is
that of the particle.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyvol.kernels.screening.products import Products
from lazyvol.kernels.screening.residual import Residual

Array = np.ndarray[Any, np.dtype[Any]]

#: least weight of the first hypothesis: most particles are assumed consistent
MAJORITY = 0.5
#: most rounds of expectation maximisation of the mixture weights, and change of one that ends them
ROUNDS, CONVERGED = 60, 1e-4
#: parts of fitted weights in a mean with those of the prior that are tried
PARTS = (1.0, 0.75, 0.5, 0.25, 0.0)
#: least and most folds of the mixture weights, and particles times folds: leaving out one in 24
#: of 600 particles cost 0.001 of the area under the ROC curve
FOLDS, FOLDS_TIMES_PARTICLES = (24, 128), 80_000
#: largest relative variance of contrasts
MAX_CONTRAST_VARIANCE = 0.25


@dataclass(frozen=True)
class Mixture:
    """Inner products of particles with their folds' hypotheses, and the mixture fitted to them.

    The last hypothesis, beyond those of ``products``, is the first with something else beside it
    (``residual``). ``contrast`` is the expectation for each particle; ``allowance`` is added to
    the log likelihood of the first hypothesis (``misalignment``); ``prior`` counts imagined
    particles per hypothesis, ``weights`` are (fold, hypothesis) and ``probability`` is (particle,
    hypothesis).
    """

    products: Products
    residual: Residual
    contrast: Array
    contrast_variance: float
    allowance: Array
    prior: Array
    weights: Array
    probability: Array

    @classmethod
    def fit(
        cls, products: Products, residual: Residual, contrast: Array, contrast_variance: float,
        allowance: Array, prior: Array,
    ) -> "Mixture":  # fmt: skip
        """Return the mixture of largest likelihood."""
        given = (products, residual, contrast, contrast_variance, allowance, prior)
        mixture = cls(*given, np.empty(0), np.empty(0))
        return cls(*given, *fit_weights(mixture.logs, prior, weight_folds(len(contrast))))

    def refitted(self, products: Products, allowance: Array, prior: Array) -> "Mixture":
        """Return the mixture with other hypotheses or another allowance."""
        return Mixture.fit(
            products, self.residual, self.contrast, self.contrast_variance, allowance, prior
        )

    @property
    def logs(self) -> Array:
        """Log likelihoods, (particle, hypothesis)."""
        return self.logs_of(slice(None))

    def logs_of(self, k: int | slice) -> Array:
        """Log likelihoods of some particles, (particle, hypothesis), or of one."""
        t, q, contrast = self.products.t[k], self.products.q[k], self.contrast[k, ..., None]
        logs = log_likelihood(t, q, contrast, self.contrast_variance)
        logs[..., 0] += self.allowance[k]
        last = logs[..., :1] + self.residual.logs[k, ..., None]
        return np.concatenate([logs, last], axis=-1)

    @property
    def ratios(self) -> Array:
        """Log likelihood ratio of each particle, by mixture weights from other folds."""
        folds = weight_folds(len(self.contrast))
        ratios = log_ratio(self.logs, self.weights)
        return np.asarray(ratios[np.arange(len(folds)), folds])


def weight_folds(n: int) -> Array:
    """Assign particles to cross-validation folds, so that no weight includes its own particle."""
    return np.arange(n) % min(n, int(np.clip(FOLDS_TIMES_PARTICLES // n, *FOLDS)))


def log_likelihood(t: Array, q: Array, contrast: Array | float, contrast_variance: float) -> Array:
    """Return the log likelihood of hypotheses relative to noise alone, contrasts integrated out."""
    v = np.asarray(contrast_variance * np.square(contrast))
    top = v * t * t + 2 * contrast * t - np.square(contrast) * q
    logs: Array = -0.5 * np.log1p(v * q) + top / (2 * (1 + v * q))
    return logs


def fit_weights(logs: Array, prior: Array, folds: Array) -> tuple[Array, Array]:
    """Return mixture weights, (fold, hypothesis), and probabilities, (particle, hypothesis).

    Expectation maximisation; ``prior`` counts imagined particles per hypothesis. The weights of a
    fold come from all other folds: where many hypotheses are alike, a particle that raised the
    weight of the one it resembles would make itself look inconsistent.
    """
    count = logs.shape[1]
    likelihood = np.exp(logs - logs.max(1, keepdims=True))
    others = (folds[:, None] != np.arange(folds.max() + 1)).astype(np.float64)
    weights = np.full((others.shape[1], count), 0.1 / max(1, count - 1))
    weights[:, 0] = 0.9
    total = others.sum(0)[:, None] + prior.sum()
    for _ in range(ROUNDS):
        responsibility = others / np.maximum(likelihood @ weights.T, 1e-300)
        before, weights = weights, (weights * (responsibility.T @ likelihood) + prior) / total
        low = weights[:, 0] < MAJORITY
        if count > 1 and low.any():
            weights[low, 1:] *= (1 - MAJORITY) / weights[low, 1:].sum(1, keepdims=True)
            weights[low, 0] = MAJORITY
        if np.abs(weights - before).max() < CONVERGED:
            break
    return _held_out(likelihood, weights, np.r_[len(logs), prior[1:]], folds)


def _held_out(likelihood: Array, weights: Array, prior: Array, folds: Array) -> tuple[Array, Array]:
    """Return weights, and probabilities, by the part of fitted weights in a mean with the prior's.

    The part under which particles are likeliest by the weights of their folds: many hypotheses fit
    the noise of few particles, which must not make the others look inconsistent.
    """
    tried = [part * weights + (1 - part) * prior / prior.sum() for part in PARTS]
    evidence = [np.log(np.maximum((likelihood * w[folds]).sum(1), 1e-300)).sum() for w in tried]
    best = tried[int(np.argmax(evidence))]
    joint = likelihood * best[folds]
    return best, joint / np.maximum(joint.sum(1, keepdims=True), 1e-300)


def log_ratio(logs: Array, weights: Array) -> Array:
    """Return the log likelihood ratio of the mixed alternatives to the first hypothesis.

    (particle, hypothesis) and (fold, hypothesis) give (particle, fold).
    """
    alternatives = np.maximum(weights[:, 1:], 1e-300)
    best = logs[:, 1:].max(1, keepdims=True)
    shares = alternatives / alternatives.sum(1, keepdims=True)
    mixed = np.exp(logs[:, 1:] - best) @ shares.T
    return np.asarray(np.log(np.maximum(mixed, 1e-300)) + best - logs[:, :1])


def expected_contrast(t: Array, q: Array, weight: Array, noise_level: Array) -> Array:
    """Return the contrast of each particle after division by its noise level.

    Either the signal is equally strong in all particles, or signal and noise were scaled
    together: the one that explains more of the particles.
    """
    equal_signal: Array = np.median(noise_level) / noise_level

    def explained(contrast: Array) -> float:
        return float((weight * contrast * t).sum() ** 2 / (weight * contrast**2 * q).sum())

    equal_contrast = np.ones_like(equal_signal)
    return equal_signal if explained(equal_signal) > explained(equal_contrast) else equal_contrast


def contrast_variance(t: Array, q: Array, weight: Array, contrast: Array) -> float:
    """Return the relative variance of contrasts about their expectation, beyond that of noise."""
    precision = weight * q**2
    q = np.maximum(q, 1e-300)
    excess = (t / q - 1) ** 2 - 1 / (q * contrast**2)
    variance = (precision * excess).sum() / max(precision.sum(), 1e-300)
    return float(np.clip(variance, 0, MAX_CONTRAST_VARIANCE))

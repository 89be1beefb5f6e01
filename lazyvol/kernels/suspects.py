"""Which hypothesis explains a particle: likelihoods, their mixture, and p-values by simulation.

A particle is its inner products with the references of all hypotheses: t, where the first is that
it is right. Under hypothesis h with contrast a they are normal, with mean a G[h] and covariance G,
the references' own inner products. A contrast is normal about ``level`` with ``spread``.
"""

from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

Array = np.ndarray[Any, np.dtype[Any]]

#: least share of right particles: most are right, by what the word means here
MAJORITY = 0.5
#: rounds of expectation and maximisation of the shares of hypotheses
ROUNDS = 60
#: simulated particles, half of them right
DRAWS = 20_000


def likelihood(t: Array, q: Array, level: Array | float, spread: float) -> Array:
    """Logarithm of each hypothesis' likelihood over that of nothing but noise.

    ``t`` is the particle's inner product with the reference, ``q`` the reference's own.
    """
    v = np.asarray(spread * np.square(level))
    top = v * t * t + 2 * level * t - np.square(level) * q
    found: Array = -0.5 * np.log1p(v * q) + top / (2 * (1 + v * q))
    return found


def shares(logs: Array, prior: Array) -> tuple[Array, Array]:
    """Share of each hypothesis, and their probabilities for each particle.

    ``prior`` counts imagined particles per hypothesis.
    """
    n, count = logs.shape
    share = np.full(count, 0.1 / max(1, count - 1))
    share[0] = 0.9
    found = np.zeros_like(logs)
    for _ in range(ROUNDS):
        found = logs + np.log(np.maximum(share, 1e-300))
        found -= logsumexp(found, axis=1, keepdims=True)
        np.exp(found, out=found)
        share = (found.sum(0) + prior) / (n + prior.sum())
        if count > 1 and share[0] < MAJORITY:
            share[1:] *= (1 - MAJORITY) / share[1:].sum()
            share[0] = MAJORITY
    return share, found


def ratio(logs: Array, share: Array) -> Array:
    """Logarithm of the likelihood of all rivals, mixed by their shares, over the first's."""
    rivals: Array = np.maximum(share[..., 1:], 1e-300)
    mixed = rivals / rivals.sum(-1, keepdims=True)
    return np.asarray(logsumexp(logs[:, 1:] + np.log(mixed), axis=1) - logs[:, 0])


def others_shares(share: Array, found: Array, prior: Array) -> Array:
    """Shares as they are without each particle."""
    total = len(found) + prior.sum()
    return np.asarray(np.maximum(share * total - found, 1e-12))


def p_values(
    ratios: Array, means: Array, q: Array, noise: Array, share: Array, level: Array, spread: float,
    draws: int = DRAWS,
) -> Array:  # fmt: skip
    """Probability that a right particle has so large a ratio or a larger one.

    ``means`` are inner products of a particle of each hypothesis with all references, ``q`` the
    references' own, ``noise`` the covariance of what noise adds. Half of the simulated particles
    are right, half are drawn from the rivals and weighed by how much likelier right ones are
    there: that gives tails which right ones never reach (a p-value of 1e-12 costs no more than one
    of 0.1).
    """
    random = np.random.default_rng(0)
    root, back = _roots(noise)
    half, rivals = draws // 2, share[1:] / share[1:].sum()
    truth = np.r_[np.zeros(half, np.int64), 1 + random.choice(len(rivals), half, p=rivals)]
    own = random.choice(level, draws)
    contrast = own * (1 + np.sqrt(spread) * random.normal(size=draws))
    drawn, weight = np.empty(draws), np.empty(draws)
    step = (means[1:] - means[0]) @ back
    middle = 0.5 * ((means[1:] + means[0]) * step).sum(1)
    for part in np.array_split(np.arange(draws), 10):
        a = contrast[part, None]
        t = a * means[truth[part]] + random.normal(size=(len(part), len(root))) @ root.T
        logs = likelihood(t, q, own[part, None], spread)
        drawn[part] = ratio(logs, share)
        likelier = logsumexp(a * (t @ step.T) - a * a * middle + np.log(rivals), axis=1)
        weight[part] = 2 * expit(-likelier)
    order = np.argsort(-drawn)
    tail = np.cumsum(weight[order]) / draws
    place = np.searchsorted(-drawn[order], -ratios, side="right")
    least = tail[0] * np.exp(np.minimum(0, drawn[order[0]] - ratios))  # beyond all drawn
    return np.minimum(1.0, np.where(place > 0, tail[np.maximum(place - 1, 0)], least))


def _roots(covariance: Array) -> tuple[Array, Array]:
    """A root of a covariance, and its inverse where it has one."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    sure = values > 1e-6 * values.max(initial=1e-300)
    inverse = np.divide(1, values, out=np.zeros_like(values), where=sure)
    return vectors * np.sqrt(values), (vectors * inverse) @ vectors.T


def rejected(p: Array, rate: float) -> Array:
    """Those that the rule of Benjamini and Hochberg rejects at a false discovery rate."""
    order = np.sort(p)
    below = np.flatnonzero(order <= rate * np.arange(1, len(p) + 1) / max(1, len(p)))
    return p <= order[below[-1]] if below.size else np.zeros(len(p), bool)


def at_least_wrong(p: Array) -> float:
    """How many p-values are surely of wrong particles: more small ones than right ones give.

    The excess over what is due below any bound, less its standard error (after Meinshausen
    and Rice, Ann. Stat. 34, 2006).
    """
    n, below = len(p), np.arange(1, len(p) + 1)
    bound = np.sort(p)
    sure = below - n * bound - np.sqrt(n * bound * (1 - bound))
    inside = bound < 0.5
    return float(max(0.0, np.max(sure[inside] / (1 - bound[inside]), initial=0.0)))

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


def shares(logs: Array, prior: Array, folds: Array) -> tuple[Array, Array]:
    """Share of each hypothesis, (fold, hypothesis), and their probabilities for each particle.

    Expectation and maximisation. ``prior`` counts imagined particles per hypothesis. The shares
    of a fold are those in all others: where hypotheses are many and alike, a particle that tips
    the share of the one it resembles would make itself look wrong.
    """
    count = logs.shape[1]
    likely = np.exp(logs - logs.max(1, keepdims=True))
    others = (folds[:, None] != np.arange(folds.max() + 1)).astype(np.float64)
    share = np.full((others.shape[1], count), 0.1 / max(1, count - 1))
    share[:, 0] = 0.9
    many = others.sum(0)[:, None] + prior.sum()
    for _ in range(ROUNDS):
        belong = others / np.maximum(likely @ share.T, 1e-300)
        share = (share * (belong.T @ likely) + prior) / many
        few = share[:, 0] < MAJORITY
        if count > 1 and few.any():
            share[few, 1:] *= (1 - MAJORITY) / share[few, 1:].sum(1, keepdims=True)
            share[few, 0] = MAJORITY
    found = likely * share[folds]
    return share, found / np.maximum(found.sum(1, keepdims=True), 1e-300)


def ratio(logs: Array, share: Array) -> Array:
    """Logarithm of the likelihood of all rivals, mixed by their shares, over the first's.

    (particle, hypothesis) and (fold, hypothesis) give (particle, fold).
    """
    rivals = np.maximum(share[:, 1:], 1e-300)
    best = logs[:, 1:].max(1, keepdims=True)
    mixed = np.exp(logs[:, 1:] - best) @ (rivals / rivals.sum(1, keepdims=True)).T
    return np.asarray(np.log(np.maximum(mixed, 1e-300)) + best - logs[:, :1])


def p_values(
    ratios: Array, folds: Array, means: Array, q: Array, noise: Array, share: Array, level: Array,
    spread: float, draws: int = DRAWS,
) -> Array:  # fmt: skip
    """Probability that a right particle has so large a ratio or a larger one.

    ``means`` are inner products of a particle of each hypothesis with all references, ``q`` the
    references' own, ``noise`` the covariance of what noise adds; ``share`` and ``folds`` as in
    ``shares``. Half of the simulated particles are right, half are drawn from the rivals and
    weighed by how much likelier right ones are there: that gives tails which right ones never
    reach (a p-value of 1e-12 costs no more than one of 0.1).
    """
    random = np.random.default_rng(0)
    root, back = _roots(noise)
    half, rivals = draws // 2, share[:, 1:].sum(0) / share[:, 1:].sum()
    truth = np.r_[np.zeros(half, np.int64), 1 + random.choice(len(rivals), half, p=rivals)]
    own = random.choice(level, draws)
    contrast = own * (1 + np.sqrt(spread) * random.normal(size=draws))
    drawn, weight = np.empty((len(share), draws), np.float32), np.empty(draws)
    step = (means[1:] - means[0]) @ back
    middle = 0.5 * ((means[1:] + means[0]) * step).sum(1)
    for part in np.array_split(np.arange(draws), 10):
        a = contrast[part, None]
        t = a * means[truth[part]] + random.normal(size=(len(part), len(root))) @ root.T
        drawn[:, part] = ratio(likelihood(t, q, own[part, None], spread), share).T
        likelier = logsumexp(a * (t @ step.T) - a * a * middle + np.log(rivals), axis=1)
        weight[part] = 2 * expit(-likelier)
    weight /= draws
    return np.array([_tail(r, drawn[f], weight) for r, f in zip(ratios, folds, strict=True)])


def _tail(ratio: float, drawn: Array, weight: Array) -> float:
    """Weight of what is drawn as high as a ratio or higher."""
    top = int(drawn.argmax())
    if ratio > drawn[top]:
        return float(weight[top] * np.exp(drawn[top] - ratio))
    return min(1.0, float(weight @ (drawn >= ratio)))


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

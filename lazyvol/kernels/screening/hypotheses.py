"""Hypotheses beside the reference itself: it turned, nothing, templates, and a kind that is found.

All are rows of whitened numbers at the frequencies that tell something; every fold has its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.kernels.screening.fourier_rotation import Turned
from lazyvol.kernels.screening.mixture import likelihood

Array = np.ndarray[Any, np.dtype[Any]]

#: hypotheses: what each stands for, as codes; templates follow
RIGHT, EMPTY, TURNED, OTHER, TEMPLATE = range(5)
#: turned references that correlate so far with another hypothesis are the same one
ALIKE = 0.9
#: how different a second kind of particle is expected to be, as part of the signal's power
DIFFERENT = 0.5
#: part of the particles that a search for a second kind begins with, rounds of it, and by how much
#: it must raise the logarithm of the likelihood
FEW, ROUNDS, WORTH = 0.15, 15, 5.0


#: turns whose rows are in memory at once for all folds
TOGETHER = 16


@dataclass
class Rivals:
    """Hypotheses: ``kind`` codes, the ``turn`` of each (3, 3), and its row without folds.

    ``right`` are the rows of the reference itself for every fold.
    """

    kind: Array
    turn: Array
    rows: Array
    right: Array


def different_turns(volumes: Array, turns: Array, white: Array, kept: Array, band: Band) -> Array:
    """Turns of the reference that are hypotheses of their own.

    ``volumes`` are two references of half the particles each: their noise differs. Symmetric
    objects look the same from where their symmetry turns them, and noise does not tell otherwise.
    """
    halves = Turned(volumes, band, kept, white)
    every = np.concatenate([np.eye(3)[None], turns])
    seen = np.empty((2, len(every), len(white)), np.float32)
    for n, turn in enumerate(every):
        seen[:, n] = halves.rows(turn)
    found: Array = turns[distinct(seen[0] @ seen[1].T)]
    return found


def compared(
    seen: Array, folds: Array, volumes: Array, turns: Array, given: Array, white: Array,
    kept: Array, band: Band,
) -> tuple[Rivals, Array, Array]:  # fmt: skip
    """All hypotheses, inner products of particles with them, and their own: (particle, hypothesis).

    ``volumes`` are the references of all particles and of every fold, ``given`` rows of templates.
    """
    turned = Turned(volumes, band, kept, white)
    count = 2 + len(turns) + len(given)
    kind = np.full(count, TURNED)
    kind[:2] = RIGHT, EMPTY
    kind[2 + len(turns) :] = TEMPLATE + np.arange(len(given))
    turn = np.tile(np.eye(3), (count, 1, 1))
    turn[2 : 2 + len(turns)] = turns
    rows = np.zeros((count, len(white)), np.float32)
    rows[2 + len(turns) :] = given
    t, q = np.zeros((len(seen), count)), np.zeros((len(seen), count))
    t[:, 2 + len(turns) :], q[:, 2 + len(turns) :] = seen @ given.T, (given**2).sum(1)
    numbers = np.r_[0, np.arange(2, 2 + len(turns))]
    for first in range(0, len(numbers), TOGETHER):
        some = numbers[first : first + TOGETHER]
        each = np.stack([turned.rows(turn[n]) for n in some], axis=1)
        rows[some] = each[0]
        t[:, some] = products(seen, each[1:])
        q[:, some] = np.einsum("fhn,fhn->fh", each[1:], each[1:], dtype=np.float64)[folds]
        if first == 0:
            right = each[1:, 0].copy()
    return Rivals(kind, turn, rows, right), t, q


def products(seen: Array, each: Array) -> Array:
    """(particle, hypothesis): inner products with the hypotheses of the particle's own fold.

    Folds take turns (``references.folds_of``), so that none of them is copied.
    """
    out = np.empty((len(seen), each.shape[1]))
    for f, own in enumerate(each):
        out[f :: len(each)] = seen[f :: len(each)] @ own.T
    return out


def distinct(cross: Array) -> Array:
    """Hypotheses unlike the first and unlike each other, the least like the first one first.

    ``cross`` are inner products of two noisy versions; the result does not count the first.
    """
    cross = (cross + cross.T) / 2
    own = np.diag(cross)
    if own[0] <= 0:
        return np.empty(0, np.int64)
    norm = np.sqrt(np.maximum(own, 0.1 * own[0]))
    alike = cross / np.outer(norm, norm)
    free = alike[0] < ALIKE
    chosen = []
    for n in np.argsort(alike[0], kind="stable"):
        if free[n]:
            chosen.append(n - 1)
            free &= alike[n] < ALIKE
            free[n] = False
    return np.array(chosen, np.int64)


def directions(rows: Array, weight: Array, count: int, seed: int = 0) -> Array:
    """Principal components of weighted rows, (particle, component), each of unit variance."""
    mean = rows.mean(0)
    basis = np.random.default_rng(seed).normal(size=(rows.shape[1], count)).astype(np.float32)
    for _ in range(8):
        scores = rows @ (weight[:, None] * basis) - mean @ (weight[:, None] * basis)
        back = rows.T @ scores - mean[:, None] * scores.sum(0)
        basis = np.linalg.qr(weight[:, None] * back)[0].astype(np.float32)
    scores = rows @ (weight[:, None] * basis) - mean @ (weight[:, None] * basis)
    found: Array = scores / np.maximum(scores.std(0), 1e-30)
    return found


def other_kind(
    rows: Array, right: Array, logs: Array, share: Array, snr: Array, folds: Array, spread: float
) -> Array | None:
    """A second kind of particle that no hypothesis foresaw: (fold, number).

    Two-class expectation and maximisation from the ends of the first principal components; means
    are drawn to the reference ``right`` (fold, number) as far as the prior and noise ask; each fold
    is judged by the mean of the others, so a kind made of noise does not pay. None if none pays.
    """
    known = logsumexp(logs + np.log(np.maximum(share, 1e-300)), axis=1)
    weight = np.sqrt(DIFFERENT * snr / (1 + DIFFERENT * snr)).astype(np.float32)
    scores = directions(rows, weight, 3).T
    ends = np.stack([scores, -scores], axis=1).reshape(-1, len(rows))
    starts = expit(4 * (ends - np.quantile(ends, 1 - FEW, axis=1, keepdims=True)))
    gain, means = _two_kinds(rows, right, known, starts, snr, folds, spread)
    best = int(gain.argmax()) if len(gain) else -1
    if best < 0 or gain[best] < WORTH or _alike(means[:, best], right):
        return None
    return means[:, best]


def _alike(one: Array, other: Array) -> bool:
    """Whether two references are the same for all that matters."""
    a, b = one.mean(0), other.mean(0)
    return bool(a @ b > ALIKE * np.linalg.norm(a) * np.linalg.norm(b))


def _two_kinds(
    rows: Array, right: Array, known: Array, belongs: Array, snr: Array, folds: Array,
    spread: float,
) -> tuple[Array, Array]:  # fmt: skip
    """What a second kind adds to the logarithm of the likelihood, and its means, by starts.

    ``belongs`` is (start, particle), means are (fold, start, number). Rows are read once for all
    starts; those that end with next to no particle, or with half of them, are left out.
    """
    gain, means = np.zeros(len(belongs)), np.repeat(right[:, None], len(belongs), axis=1)
    whole = sums_of(rows, np.ones((1, len(rows)), np.float32), len(right))
    for _ in range(ROUNDS):
        many = belongs.sum(1)
        belongs = belongs[(many > 1.5) & (many < 0.5 * len(rows))]
        if not len(belongs):
            return np.empty(0), means[:, :0]
        means = _means(rows, right, belongs, whole, snr, folds)
        q = np.einsum("fsn,fsn->fs", means, means, dtype=np.float64)[folds]
        logs = likelihood(products(rows, means), q, 1.0, spread).T
        part = belongs.mean(1, keepdims=True)
        both = np.stack([known + np.log(1 - part), logs + np.log(part)])
        total = logsumexp(both, axis=0)
        belongs, gain = np.exp(both[1] - total), (total - known).sum(1)
    return gain, means


def sums_of(rows: Array, weights: Array, count: int) -> Array:
    """(fold, sum, number): sums of the rows of each fold, by (sum, particle) weights."""
    each = weights.astype(np.float32)
    return np.stack([each[:, f::count] @ rows[f::count] for f in range(count)])


def _means(
    rows: Array, right: Array, belongs: Array, whole: Array, snr: Array, folds: Array
) -> Array:
    """Means of kinds for every fold, out of the other folds: (fold, kind, number).

    ``right`` and as much of the difference between the kind's mean and that of all others as can
    be trusted: what the two share is in ``right`` already. ``whole`` are sums of all particles.
    """
    count = len(right)
    own = sums_of(rows, belongs, count)
    both = []
    for sums, part in ((own, belongs), (whole - own, 1 - belongs)):
        each = np.stack([part[:, f::count].sum(1) for f in range(count)])
        many = np.maximum(each.sum(0) - each, 1e-3)[:, :, None].astype(np.float32)
        both.append(((sums.sum(0) - sums) / many, many))
    (kind, many), (rest, others) = both
    power = (DIFFERENT * snr).astype(np.float32)
    kind -= rest
    kind *= power / (power + 1 / many + 1 / others)
    kind += right[:, None]
    return np.asarray(kind, np.float32)

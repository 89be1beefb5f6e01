"""Goodness of fit: the part of a particle that its reference does not explain, as evidence.

The residual of a particle is the rest of its spectrum after the reference, scaled to the particle,
and small misalignments of the reference are subtracted. Among consistent particles it is noise.
Other objects, next to the reference or in its place, have a spectrum like that of the reference, so
frequencies count by the share of the signal in signal and noise. The cube root of such a sum of
squares is nearly normal (Wilson and Hilferty, PNAS 17, 684 (1931)); its mean and deviation are
those of the particles themselves, as no noise is exactly as assumed. Being estimates, they make it
follow Student's distribution, whose quantiles are replaced by normal ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtri, stdtr

from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.kernels.screening.measured import Measured
from lazyvol.kernels.screening.products import fold_products, frequency_products, overlaps

Array = np.ndarray[Any, np.dtype[Any]]

#: standard deviations of misalignments that are part of the fit: degrees, voxels
DEGREES, VOXELS = 3.5, 0.8
#: least probability that a particle is consistent with which it counts among the consistent
LIKELY = 0.5
#: least score of an addition as strong as the reference: weaker ones do not show in one particle,
#: and a hypothesis that no particle contradicts gains weight without evidence
LEAST_SPREAD, IMPOSSIBLE = 3.0, -1e3
#: standard normal quartile, and degrees of freedom per particle of a deviation by quartiles: for
#: normal ones 0.37, with which 6 instead of 1 in 2,240 consistent particles had scores above 3.3
QUARTILE, EFFICIENCY = 0.6745, 0.15
#: least degrees of freedom, and highest standard scores
LEAST_FREEDOM, HIGHEST = 3.0, 30.0


@dataclass(frozen=True)
class Residual:
    """Cube roots of the energy of residuals relative to that of noise, ``root`` (particle,).

    ``share`` (frequency,) weights the energy, away from frequencies that were not measured
    (``interior``, by those ``beside`` each); ``total`` is that of noise as it is expected,
    ``mismatch`` what strong signals leave beyond that. ``centre`` and ``deviation`` are those of
    the roots of consistent particles, with ``freedom`` degrees of freedom, and ``added`` is the
    root that an addition as strong as the reference brings.
    """

    root: Array
    share: Array
    beside: Array
    total: Array
    mismatch: Array
    centre: float
    deviation: Array
    freedom: float
    added: Array

    @property
    def score(self) -> Array:
        """Standard scores of the particles, normal for consistent ones."""
        return self.scores((self.root - self.centre) / self.deviation)

    @property
    def spread(self) -> float:
        """Score that an addition as strong as the reference brings."""
        return float(np.median(self.scores((self.added - self.centre) / self.deviation)))

    def scores(self, deviations: Array | float) -> Array:
        """Return standard scores of deviations whose scale is itself an estimate."""
        tail = stdtr(self.freedom, -np.abs(deviations))
        score = np.minimum(-ndtri(np.maximum(tail, 1e-300)), HIGHEST)
        return np.asarray(np.copysign(score, deviations))

    def root_of(self, k: int, rest: Array, weights: Array) -> float:
        """Return the root of another residual of particle k, measured with some weights."""
        energy = frequency_products(rest, rest) @ (self.share * interior(weights, self.beside))
        return float(np.cbrt(energy / self.total[k] - self.mismatch[k]))

    def score_of(self, k: int, root: float) -> float:
        """Return the standard score of another root of particle k."""
        return float(self.scores((root - self.centre) / self.deviation[k]))

    def excess(self, root: float) -> float:
        """Return the energy beyond that of a typical consistent particle."""
        return float(root**3 - self.centre**3)

    @property
    def logs(self) -> Array:
        """Log likelihood ratio of an addition of unknown strength to none."""
        return evidence(self.score, self.spread)


def evidence(score: Array, spread: float) -> Array:
    """Return the log likelihood ratio of a raised mean to mean 0 of standard normal scores.

    The raise is half-normal with scale ``spread``.
    """
    if spread < LEAST_SPREAD:
        return np.full_like(score, IMPOSSIBLE)
    square = spread**2
    upper = log_ndtr(score * spread / np.sqrt(1 + square)) + np.log(2)
    return np.asarray(upper + score**2 * square / (2 * (1 + square)) - 0.5 * np.log1p(square))


def residual(
    data: Array, measured: Measured, references: Array, directions: Array, snr: Array,
    weight: Array, beside: Array,
) -> Residual:  # fmt: skip
    """Return the residuals of the particles from the references of their folds.

    ``data`` are whitened spectra, ``directions`` (fold, direction, number) the derivatives of the
    references (``misalignment``), ``snr`` (frequency,) the signal power relative to noise,
    ``weight`` the probability that each particle is consistent, ``beside`` the frequencies beside
    each (``frequencies_beside``).
    """
    rows = np.concatenate([references[:, None], directions], axis=1)
    share = (snr / (1 + snr)).astype(np.float32)
    energy, fitted, *sums = _energies(data, measured, rows, share, snr, beside).T
    total, squares, signal = 2 * np.maximum(sums, 1e-30)
    consistent = weight > LIKELY
    mismatch = _mismatch(energy / total, fitted / total, consistent)
    root = np.cbrt(energy / total - mismatch)
    chance = np.sqrt(2 * squares / 9) / total
    centre, deviation, freedom = _typical(root, chance, consistent)
    added = np.cbrt(centre**3 + signal / total)
    return Residual(root, share, beside, total, mismatch, centre, deviation, freedom, added)


def _coefficients(data: Array, measured: Measured, rows: Array) -> Array:
    """Return (particle, row) of least squares; misalignments are expected to be small."""
    turns = (rows.shape[1] - 1) // 2
    size = np.r_[np.inf, np.full(turns, DEGREES), np.full(rows.shape[1] - 1 - turns, VOXELS)]
    overlap = overlaps(measured, rows, len(data)) + np.diag(1e-9 + size**-2.0)
    return np.asarray(np.linalg.solve(overlap, fold_products(data, rows)[:, :, None])[:, :, 0])


def _energies(
    data: Array, measured: Measured, rows: Array, share: Array, snr: Array, beside: Array
) -> Array:
    """Return five energies of every particle, (particle, energy), at frequencies by share.

    Those of the particle less its multiples of rows, of its multiple of the reference, of noise,
    of noise again by share, and of the signal.
    """
    energies, counted = np.empty((len(data), 5)), np.stack([np.ones_like(share), share, snr])
    coefficients = _coefficients(data, measured, rows).astype(np.float32)
    for k, spectrum in enumerate(data):
        own, weights = rows[k % len(rows)], measured.of_particles(slice(k, k + 1)).values()[0]
        used = share * interior(weights, beside)
        rest = spectrum - coefficients[k] @ own * np.tile(weights, 2)
        fitted = coefficients[k, 0] * own[0]
        energies[k, 0] = frequency_products(rest, rest) @ used
        energies[k, 1] = frequency_products(fitted, fitted) @ (used * weights)
        energies[k, 2:] = counted @ (used * weights)
    return energies


def interior(weights: Array, beside: Array) -> Array:
    """Return 1 for measured frequencies and 0 for those beside others that were not.

    What others hold leaks into these: the box is tapered, and was rotated by interpolation.
    """
    return np.asarray((weights > 0) & (np.append(weights, 0)[beside] > 0).all(1))


def frequencies_beside(selected: Array, coverage: Array, band: Band) -> Array:
    """Return the numbers (frequency, 6) of the selected frequencies beside each selected one.

    -1 stands for one that no particle measured (``coverage`` 0), and the number of a frequency
    itself for others that are not selected.
    """
    size = np.array(band.coarse_shape)
    own, number = np.arange(len(selected)), np.where(coverage > 0, len(selected), -1)
    number[selected] = own
    grid = np.full(size, len(selected))
    for sign in (1, -1):
        grid[tuple((sign * band.index % size).T)] = number
    steps = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
    at = band.index[selected][:, None] + steps
    inside = (np.abs(at) <= np.array(band.max_index)).all(-1)
    found = np.where(inside, grid[tuple(np.moveaxis(at % size, -1, 0))], len(selected))
    return np.where(found == len(selected), own[:, None], found)


def _mismatch(energy: Array, fitted: Array, consistent: Array) -> Array:
    """Return what residuals hold beyond a typical one because their reference is stronger.

    Interpolation and noise in the reference leave a part of its energy. The part is the slope
    between the medians of the consistent particles with the weaker and the stronger reference.
    """
    if np.count_nonzero(consistent) < 4:
        return np.zeros(len(energy))
    middle = np.median(fitted[consistent])
    weak, strong = consistent & (fitted < middle), consistent & (fitted >= middle)
    rise, run = (np.median(v[strong]) - np.median(v[weak]) for v in (energy, fitted))
    slope = max(0.0, rise / run) if run > 0 else 0.0
    return np.asarray(slope * (fitted - middle))


def _typical(root: Array, chance: Array, consistent: Array) -> tuple[float, Array, float]:
    """Return the median of consistent particles, deviations by quartiles, degrees of freedom.

    ``chance`` (particle,) are the deviations of independent noise, which others are multiples of.
    """
    if np.count_nonzero(consistent) < 2:
        consistent = np.ones(len(root), bool)
    centre = float(np.median(root[consistent]))
    low, high = np.quantile((root - centre)[consistent] / chance[consistent], (0.25, 0.75))
    freedom = max(LEAST_FREEDOM, EFFICIENCY * np.count_nonzero(consistent))
    return centre, chance * max((high - low) / (2 * QUARTILE), 1e-3), freedom

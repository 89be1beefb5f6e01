"""What a particle holds besides the reference: goodness of fit, as evidence and reason.

The residual of a particle is the rest of its spectrum after the reference, scaled to the particle,
and small misalignments of the reference are subtracted. Among consistent particles it is noise.
Other objects, next to the reference or in its place, have a spectrum like that of the reference, so
frequencies count by the share of the signal in signal and noise. The cube root of such a sum of
squares is nearly normal (Wilson and Hilferty, PNAS 17, 684 (1931)); its mean and deviation are
those of the particles themselves, as no noise is exactly as assumed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from lazyvol.kernels.screening.measured import Measured
from lazyvol.kernels.screening.products import fold_products, overlaps

Array = np.ndarray[Any, np.dtype[Any]]

#: standard deviations of misalignments that are part of the fit: degrees, voxels
DEGREES, VOXELS = 3.5, 0.8
#: least probability that a particle is consistent with which it counts among the consistent
LIKELY = 0.5
#: least score of an addition as strong as the reference: weaker ones do not show in one particle,
#: and a hypothesis that no particle contradicts gains weight without evidence
LEAST_SPREAD, IMPOSSIBLE = 3.0, -1e3
#: standard normal quartile, and deviation relative to that by quartiles: mismatches only add energy
#: (at sigma 0.8, 5 of 85 consistent particles had scores above 2.3)
QUARTILE, TAILED = 0.6745, 1.1


@dataclass(frozen=True)
class Residual:
    """Energy of residuals relative to that of noise, as standard scores (particle,).

    ``spread`` is the score that an addition as strong as the reference brings; ``share``
    (frequency,) weights the energy, ``total`` is that of noise as it is expected, ``mismatch`` what
    strong signals leave beyond that, ``centre`` and ``deviation`` are those of its cube root.
    """

    score: Array
    spread: float
    share: Array
    total: Array
    mismatch: Array
    centre: float
    deviation: Array

    def score_of(self, k: int, rest: Array) -> float:
        """Return the score of another residual of particle k."""
        energy = np.square(rest.reshape(2, -1)).sum(0) @ self.share
        root = np.cbrt(energy / self.total[k] - self.mismatch[k])
        return float((root - self.centre) / self.deviation[k])

    def energy_above_typical(self, score: float, k: int) -> float:
        """Return the energy of a residual of particle k beyond that of a consistent particle."""
        return float((self.centre + score * self.deviation[k]) ** 3 - self.centre**3)

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
    weight: Array,
) -> Residual:  # fmt: skip
    """Return the residuals of the particles from the references of their folds.

    ``data`` are whitened spectra, ``directions`` (fold, direction, number) the derivatives of the
    references (``misalignment``), ``snr`` (frequency,) the signal power relative to noise,
    ``weight`` the probability that each particle is consistent.
    """
    rows = np.concatenate([references[:, None], directions], axis=1)
    share = (snr / (1 + snr)).astype(np.float32)
    coefficients = _coefficients(data, measured, rows)
    energy = _energies(data, measured, rows, coefficients, share)
    sums = [measured.energies(s[None, None], len(data))[:, 0].astype(np.float64)
            for s in (share, share**2, share * snr)]  # fmt: skip
    total, squares, signal = (2 * np.maximum(s, 1e-30) for s in sums)
    chance = 2 * squares / (9 * total**2)
    fitted = coefficients[:, 0] ** 2 * _reference_energies(measured, references, share, len(data))
    mismatch = _mismatch(energy / total, fitted / total, weight > LIKELY)
    root = np.cbrt(energy / total - mismatch)
    centre, deviation = _typical(root, weight > LIKELY)
    deviation = TAILED * np.sqrt(np.maximum(chance, deviation**2))
    added = (np.cbrt(1 + signal / total) - 1) / deviation
    score = (root - centre) / deviation
    return Residual(score, float(np.median(added)), share, total, mismatch, centre, deviation)


def _coefficients(data: Array, measured: Measured, rows: Array) -> Array:
    """Return (particle, row) of least squares; misalignments are expected to be small."""
    turns = (rows.shape[1] - 1) // 2
    size = np.r_[np.inf, np.full(turns, DEGREES), np.full(rows.shape[1] - 1 - turns, VOXELS)]
    overlap = overlaps(measured, rows, len(data)) + np.diag(1e-9 + size**-2.0)
    return np.asarray(np.linalg.solve(overlap, fold_products(data, rows)[:, :, None])[:, :, 0])


def _energies(
    data: Array, measured: Measured, rows: Array, coefficients: Array, share: Array
) -> Array:
    """Return the energy of each particle, less its multiples of rows, at frequencies by share."""
    energies, count = np.empty(len(data)), len(rows)
    single = coefficients.astype(np.float32)
    for k, spectrum in enumerate(data):
        weights = measured.of_particles(slice(k, k + 1)).values()[0]
        rest = (spectrum - single[k] @ rows[k % count] * np.tile(weights, 2)).reshape(2, -1)
        energies[k] = np.square(rest).sum(0) @ share
    return energies


def _reference_energies(measured: Measured, references: Array, share: Array, n: int) -> Array:
    """Return the energy of the reference of each particle, at frequencies by share."""
    power = np.square(references.reshape(len(references), 1, 2, -1)).sum(2) * share
    return measured.energies(power, n)[:, 0].astype(np.float64)


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


def _typical(root: Array, consistent: Array) -> tuple[float, float]:
    """Return the median of consistent particles, and their deviation by quartiles."""
    values = root[consistent] if np.count_nonzero(consistent) > 1 else root
    low, centre, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(centre), float((high - low) / (2 * QUARTILE))

"""What particles have in common, and what they do not: reference, mask and noise out of spectra.

Rows are those of ``bands``. A particle is a reference, as strong as its contrast, and noise that
is stationary: frequencies are independent. Each fold of the particles has a reference of its own,
made of all other folds, so that no particle is compared with itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from lazyvol.kernels.bands import Band, volumes

Array = np.ndarray[Any, np.dtype[Any]]

#: particle, rows at a time where squares of rows are needed
PIECE = 256
#: reach of the Gaussian that smooths the noise spectrum, in frequency steps
SMOOTH = 1.5
#: noise is taken to have at least this part of its strongest shell's power, and of the signal's:
#: spectra leak and models err by about so much
LEAST, MISFIT = 1e-3, 1e-2
#: reach of the Gaussian over which the energy of a reference is gathered for its mask, in voxels
GATHERED = 1.5
#: shells whose signal is not so many standard errors above 0 are left out
SURE = 2.0


@dataclass(frozen=True)
class References:
    """References of every fold and two of half the particles, before masking.

    ``rows``: (all, first half, second half, fold 0, ...); ``noise`` power per frequency, and
    what it is taken for; ``gain`` that filtered them; ``mask`` on the cube, from 0 to 1.
    """

    rows: Array
    noise: Array
    taken: Array
    gain: Array
    mask: Array
    signal: Array


def folds_of(n: int) -> Array:
    """Fold of each of ``n`` particles: 8 of them, or each its own where they are few."""
    return np.arange(n) % (8 if n > 24 else n)


def gains(rows: Array, noise: Array) -> Array:
    """Strength of the noise of each particle relative to the typical one.

    Logarithms are drawn together as far as their spread is that of chance.
    """
    power = np.array([(np.square(r, dtype=np.float64) / np.tile(noise, 2)).mean() for r in rows])
    logs = np.log(np.maximum(power, 1e-300))
    logs -= np.median(logs)
    chance, spread = 1.5 * 2 / rows.shape[1], float(np.var(logs))
    kept = max(0.0, 1 - chance / spread) if spread > 0 else 0.0
    return np.asarray(np.exp(0.5 * kept * logs))


def references(rows: Array, weight: Array, scale: Array, folds: Array, band: Band) -> References:
    """References out of rows divided by ``scale``, weighted by how likely each belongs."""
    count = int(folds.max()) + 1
    each = (weight / scale * (folds == np.arange(count)[:, None])).astype(np.float32)
    sums = (each @ rows).astype(np.float64)
    shares = np.array([weight[folds == f].sum() for f in range(count)])
    mean = sums.sum(0) / shares.sum()
    many = shares.sum() ** 2 / (weight**2).sum()
    noise = _noise(rows, weight, scale, mean, many, band)
    signal = _signal(mean, noise * band.left / many, band)
    gain = signal / (signal + noise / many)
    halves = [sums[h::2].sum(0) / shares[h::2].sum() for h in (0, 1)]
    others = (sums.sum(0) - sums) / (shares.sum() - shares)[:, None]
    taken = np.maximum(noise, np.maximum(LEAST * noise.max(), MISFIT * signal))
    filtered = np.vstack([mean[None], *(h[None] for h in halves), others]) * np.tile(gain, 2)
    mask = _mask(filtered[0], gain, noise, taken, many, band)
    return References(filtered, noise, taken, gain, mask, signal)


def _noise(rows: Array, weight: Array, scale: Array, mean: Array, many: float, band: Band) -> Array:
    """Power of the noise at every frequency: variance over particles, smoothed.

    What is smoothed is its ratio to the mean of its shell, so that a steep spectrum stays steep
    and a direction that was not measured (a missing wedge) stays empty.
    """
    squares = np.zeros(rows.shape[1])
    share = (weight / scale**2).astype(np.float32)
    for first in range(0, len(rows), PIECE):
        part = slice(first, first + PIECE)
        squares += share[part] @ np.square(rows[part])
    variance = (squares / weight.sum() - mean**2) * many / max(many - 1, 1e-9) / band.left
    power = np.maximum(variance.reshape(2, -1).mean(0), 0)
    shell = shell_mean(power, band)
    ratio = np.divide(power, shell, out=np.ones_like(power), where=shell > 0)
    cube, count = np.zeros(band.cube), np.zeros(band.cube)
    for sign in (1, -1):
        at = tuple((sign * band.index + np.array(band.reach)).T)
        cube[at], count[at] = ratio, 1
    smooth = ndimage.gaussian_filter(cube, SMOOTH, mode="constant")[at]
    near = ndimage.gaussian_filter(count, SMOOTH, mode="constant")[at]
    return np.asarray(np.maximum(shell * smooth / near, 1e-300))


def _signal(mean: Array, error: Array, band: Band) -> Array:
    """Power of what particles share, by shells: that of their mean less that of its noise.

    It is what correlations between half-sets estimate, averaged over all ways to halve. Shells
    that show nothing by themselves are taken together: thousands of frequencies that each tell
    next to nothing tell much of an object with fine detail.
    """
    power = (mean**2).reshape(2, -1).mean(0)
    count = _counts(band)
    signal = _by_shell(power - error, band)
    spread = _by_shell(error, band) / np.sqrt(count)
    sure = signal > SURE * spread
    found = np.where(sure, signal, 0.0)
    for run in np.split(np.arange(len(count)), np.flatnonzero(np.diff(sure)) + 1):
        if not sure[run[0]]:
            weight = count[run] / count[run].sum()
            pooled, chance = weight @ signal[run], np.sqrt(weight**2 @ spread[run] ** 2)
            found[run] = pooled if pooled > SURE * chance else 0.0
    return np.asarray(found[band.shell])


def shell_mean(values: Array, band: Band) -> Array:
    """Mean of each frequency's shell."""
    found: Array = _by_shell(values, band)[band.shell]
    return found


def _by_shell(values: Array, band: Band) -> Array:
    return np.asarray(np.bincount(band.shell, values) / _counts(band))


def _counts(band: Band) -> Array:
    """Frequencies in each shell, 1 where there are none."""
    return np.maximum(np.bincount(band.shell), 1)


def _mask(row: Array, gain: Array, noise: Array, taken: Array, many: float, band: Band) -> Array:
    """Where a reference has more energy than its noise: its part above twice the noise.

    Energies are compared after whitening, where the noise is the same everywhere.
    """
    white = row / np.sqrt(np.tile(taken, 2))
    energy = ndimage.gaussian_filter(volumes(white, band) ** 2, GATHERED, mode="constant")
    chance = 2 * (gain**2 * noise / taken).sum() / many / np.prod(band.shape) * band.window**2
    return np.asarray(np.clip(1 - 2 * chance / np.maximum(energy, 1e-300), 0, 1) * (energy > 0))


def standing(volumes: Array, mask: Array, band: Band) -> Array:
    """Volumes on a background of 0, within the mask.

    Their mean was taken out under the window: so much of the window is put back that nothing is
    left outside the mask.
    """
    outside = (1 - mask) * band.window
    if outside.sum() < 0.02 * outside.size:
        outside = (band.radius > band.lengths.min() / 2) * band.window
    total = max(float((outside * band.window).sum()), 1e-9)
    level = (volumes * outside).sum((-3, -2, -1)) / total
    return np.asarray((volumes - level[..., None, None, None] * band.window) * mask)

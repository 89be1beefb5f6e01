"""What particles have in common, and what they do not: reference, mask and noise out of spectra.

Rows are those of ``bands``. A particle is a reference, as strong as its contrast, and noise that
is stationary: frequencies are independent. Each fold of the particles has a reference of its own,
made of all other folds, so that no particle is compared with itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from scipy import ndimage

from lazyvol.kernels.screening.fourier_coefficients import Band, volumes

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


def gains(rows: Array, noise: Array, measured: Array) -> Array:
    """Strength of the noise of each particle relative to the typical one.

    Logarithms are drawn together as far as their spread is that of chance.
    """
    share = np.tile(measured / noise, 2) / (2 * measured.sum())
    power = np.array([np.square(r, dtype=np.float64) @ share for r in rows])
    logs = np.log(np.maximum(power, 1e-300))
    logs -= np.median(logs)
    chance, spread = 1.5 / measured.sum(), float(np.var(logs))
    kept = max(0.0, 1 - chance / spread) if spread > 0 else 0.0
    return np.asarray(np.exp(0.5 * kept * logs))


def references(
    rows: Array, weight: Array, scale: Array, folds: Array, measured: Array, band: Band
) -> References:
    """References out of rows divided by ``scale``, weighted by how likely each belongs.

    They hold nothing at frequencies that are not ``measured``, (frequency,).
    """
    count = int(folds.max()) + 1
    each = (weight / scale * (folds == np.arange(count)[:, None])).astype(np.float32)
    sums = (each @ rows).astype(np.float64)
    shares = np.array([weight[folds == f].sum() for f in range(count)])
    mean = sums.sum(0) / shares.sum()
    many = shares.sum() ** 2 / (weight**2).sum()
    noise = _noise(rows, weight, scale, mean, many, measured, band)
    signal = _signal(mean, noise * band.left / many, measured, band)
    gain = signal / (signal + noise / many)
    halves = [sums[h::2].sum(0) / shares[h::2].sum() for h in (0, 1)]
    others = (sums.sum(0) - sums) / (shares.sum() - shares)[:, None]
    taken = np.maximum(noise, np.maximum(LEAST * noise.max(), MISFIT * signal))
    filtered = np.vstack([mean[None], *(h[None] for h in halves), others]) * np.tile(gain, 2)
    mask = _mask(filtered[0], gain, noise, taken, many, band)
    return References(filtered, noise, taken, gain, mask, signal)


def _noise(
    rows: Array, weight: Array, scale: Array, mean: Array, many: float, measured: Array, band: Band
) -> Array:  # fmt: skip
    """Power of the noise at every frequency: variance over particles, smoothed.

    What is smoothed is its ratio to the mean of its shell, so that a steep spectrum stays steep
    and a direction without noise stays empty. Frequencies that were measured and those that were
    not (a missing wedge) are smoothed each among themselves: together, noise beside the wedge was
    found a third too weak.
    """
    squares = np.zeros(rows.shape[1])
    share = (weight / scale**2).astype(np.float32)
    for first in range(0, len(rows), PIECE):
        part = slice(first, first + PIECE)
        squares += share[part] @ np.square(rows[part])
    variance = (squares / weight.sum() - mean**2) * many / max(many - 1, 1e-9) / band.left
    power = np.maximum(variance.reshape(2, -1).mean(0), 0)
    smooth = np.zeros_like(power)
    for kind in (measured, ~measured):
        if kind.any():
            smooth[kind] = _smoothed(power, kind, band)[kind]
    return np.asarray(np.maximum(smooth, 1e-300))


def _smoothed(power: Array, kind: Array, band: Band) -> Array:
    """Power smoothed among frequencies of a kind."""
    shell = _by_shell(power, kind, band)[band.shell]
    cubes = np.zeros((2, *band.cube))
    for sign in (1, -1):
        at = tuple((sign * band.index + np.array(band.reach)).T)
        cubes[0][at] = np.divide(power, shell, out=np.ones_like(power), where=shell > 0) * kind
        cubes[1][at] = kind
    ratio, near = (ndimage.gaussian_filter(c, SMOOTH, mode="constant")[at] for c in cubes)
    return np.asarray(shell * ratio / np.maximum(near, 1e-300))


def _signal(mean: Array, error: Array, measured: Array, band: Band) -> Array:
    """Power of what particles share, by shells: that of their mean less that of its noise.

    It is what correlations between half-sets estimate, averaged over all ways to halve. Shells
    that show nothing by themselves are taken together: thousands of frequencies that each tell
    next to nothing tell much of an object with fine detail.
    """
    power = (mean**2).reshape(2, -1).mean(0)
    count = _counts(measured, band)
    signal = _by_shell(power - error, measured, band)
    spread = _by_shell(error, measured, band) / np.sqrt(count)
    sure = signal > SURE * spread
    found = np.where(sure, signal, 0.0)
    for run in np.split(np.arange(len(count)), np.flatnonzero(np.diff(sure)) + 1):
        if not sure[run[0]]:
            weight = count[run] / count[run].sum()
            pooled, chance = weight @ signal[run], np.sqrt(weight**2 @ spread[run] ** 2)
            found[run] = pooled if pooled > SURE * chance else 0.0
    return np.asarray(found[band.shell] * measured)


def _by_shell(values: Array, kind: Array, band: Band) -> Array:
    """Mean of each shell's frequencies of a kind."""
    return np.asarray(np.bincount(band.shell, values * kind) / _counts(kind, band))


def _counts(kind: Array, band: Band) -> Array:
    """Frequencies of a kind in each shell, 1 where there are none."""
    return np.maximum(np.bincount(band.shell, kind), 1)


def _mask(row: Array, gain: Array, noise: Array, taken: Array, many: float, band: Band) -> Array:
    """Where a reference has more energy than its noise: its part above twice the noise.

    Energies are compared after whitening, where the noise is the same everywhere.
    """
    white = row / np.sqrt(np.tile(taken, 2))
    over = (0.0 if band.planar else GATHERED, GATHERED, GATHERED)
    energy = ndimage.gaussian_filter(volumes(white, band) ** 2, over, mode="constant")
    chance = 2 * (gain**2 * noise / taken).sum() / many / np.prod(band.shape) * band.window**2
    return np.asarray(np.clip(1 - 2 * chance / np.maximum(energy, 1e-300), 0, 1) * (energy > 0))


def standing(volumes: Array, mask: Array, band: Band) -> Array:
    """Volumes on a background of 0, within the mask.

    Their mean was taken out under the window: so much of the window is put back that nothing is
    left outside the mask.
    """
    outside = (1 - mask) * band.window
    if outside.sum() < 0.02 * outside.size:
        outside = (band.radius > band.shortest / 2) * band.window
    total = max(float((outside * band.window).sum()), 1e-9)
    level = (volumes * outside).sum((-3, -2, -1)) / total
    return np.asarray((volumes - level[..., None, None, None] * band.window) * mask)


def faded(rows: Array, band: Band) -> Array:
    """Rows whose products with the noise of a whole box are those of ``rows`` with a faded one's.

    Of the faded box the mean is taken out.
    """
    half, cube = band.size // 2, np.array(band.cube)
    plane = band.index[:, 2] == 0  # elsewhere x > 0, and half a spectrum holds one of each pair
    at, back = tuple((band.index % cube).T), tuple((-band.index[plane] % cube).T)
    window = np.fft.ifftshift(_window(band)).astype(np.float32)
    out = np.empty_like(rows)
    for row, found in zip(rows, out, strict=True):
        values = row[:half] + 1j * row[half:]
        waves = np.zeros((*band.cube[:2], band.cube[2] // 2 + 1), np.complex64)
        waves[at], waves[back] = values, values[plane].conj()
        volume = scipy.fft.irfftn(waves, band.cube, workers=1)
        volume -= (volume * window).sum() / window.sum()
        kept = scipy.fft.rfftn(volume * window, workers=1)[at]
        found[:half], found[half:] = kept.real, kept.imag
    return out


def _window(band: Band) -> Array:
    """Weight of each place of the cube as it lies in the box, whose middle voxel is not its own."""
    fades = []
    for n, m, fade in zip(band.shape, band.cube, band.fades, strict=True):
        place = n // 2 + (np.arange(m) - m // 2) * (n / m)
        fades.append(np.interp(place, np.arange(-1, n + 1), np.r_[fade[-1:], fade, fade[:1]]))
    z, y, x = fades
    return np.asarray(z[:, None, None] * y[:, None] * x)

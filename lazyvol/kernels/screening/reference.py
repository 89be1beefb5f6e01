"""References, noise spectrum and mask, estimated from the spectra of the particles.

Model: a particle is a reference times its contrast plus stationary noise, so that frequencies are
independent. Each cross-validation fold has its own reference, estimated from all other folds, so
that no particle is compared with itself. Spectra are those of ``fourier_coefficients``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from scipy import ndimage

from lazyvol.kernels.screening.fourier_coefficients import Band, to_volumes

Array = np.ndarray[Any, np.dtype[Any]]

#: spectra that are squared at a time
BATCH = 256
#: standard deviation of the Gaussian that smooths the noise spectrum, in frequency steps
NOISE_SMOOTHING = 1.5
#: least noise power that whitening assumes, as a part of its maximum and of the signal power;
#: spectral leakage and errors of the model are about as large
NOISE_FLOOR, MODEL_ERROR = 1e-3, 1e-2
#: standard deviation of the Gaussian that smooths the energy of a reference, in voxels
MASK_SMOOTHING = 1.5
#: standard errors above 0 from which the signal of a shell is significant
SIGNIFICANT = 2.0


@dataclass(frozen=True)
class References:
    """Wiener-filtered references before masking, and the spectra that they were filtered by.

    ``spectra``: (all particles, first half, second half, fold 0, ...). Per frequency: ``noise``
    power; ``bounded_noise``, its lower bounds applied; ``gain`` of the filter; ``signal`` power.
    ``mask`` on the coarse grid is from 0 to 1.
    """

    spectra: Array
    noise: Array
    bounded_noise: Array
    gain: Array
    mask: Array
    signal: Array


def cross_validation_folds(n: int) -> Array:
    """Return the fold of each of ``n`` particles: 8 folds, or one each for up to 24 particles."""
    return np.arange(n) % (8 if n > 24 else n)


def noise_levels(spectra: Array, noise: Array, measured: Array) -> Array:
    """Return the noise amplitude of each particle relative to the median particle.

    Logarithms are shrunk to the median by the part of their variance that chance explains.
    """
    share = np.tile(measured / noise, 2) / (2 * measured.sum())
    power = np.array([np.square(s, dtype=np.float64) @ share for s in spectra])
    logs = np.log(np.maximum(power, 1e-300))
    logs -= np.median(logs)
    chance, variance = 1.5 / measured.sum(), float(np.var(logs))
    shrinkage = max(0.0, 1 - chance / variance) if variance > 0 else 0.0
    return np.asarray(np.exp(0.5 * shrinkage * logs))


def estimate(
    spectra: Array, weight: Array, noise_level: Array, folds: Array, measured: Array, band: Band
) -> References:
    """Return the references of all particles, both half-sets and every fold.

    Particles are divided by their ``noise_level`` and weighted by the probability that they are
    consistent. References are 0 at frequencies that are not ``measured``, (frequency,).
    """
    count = int(folds.max()) + 1
    coefficients = (weight / noise_level * (folds == np.arange(count)[:, None])).astype(np.float32)
    sums = (coefficients @ spectra).astype(np.float64)
    totals = np.array([weight[folds == f].sum() for f in range(count)])
    mean = sums.sum(0) / totals.sum()
    n_effective = totals.sum() ** 2 / (weight**2).sum()
    noise = _noise_power(spectra, weight, noise_level, mean, n_effective, measured, band)
    signal = _signal_power(mean, noise * band.tapered_power / n_effective, measured, band)
    gain = signal / (signal + noise / n_effective)
    halves = [sums[h::2].sum(0) / totals[h::2].sum() for h in (0, 1)]
    others = (sums.sum(0) - sums) / (totals.sum() - totals)[:, None]
    bounded = np.maximum(noise, np.maximum(NOISE_FLOOR * noise.max(), MODEL_ERROR * signal))
    filtered = np.vstack([mean[None], *(h[None] for h in halves), others]) * np.tile(gain, 2)
    mask = _soft_mask(filtered[0], gain, noise, bounded, n_effective, band)
    return References(filtered, noise, bounded, gain, mask, signal)


def _noise_power(
    spectra: Array, weight: Array, noise_level: Array, mean: Array, n_effective: float,
    measured: Array, band: Band,
) -> Array:  # fmt: skip
    """Return the noise power at every frequency: the variance over particles, smoothed.

    Measured and missing frequencies (a wedge) are smoothed separately: together, the noise next
    to the wedge came out a third too weak.
    """
    squares = np.zeros(spectra.shape[1])
    coefficients = (weight / noise_level**2).astype(np.float32)
    for first in range(0, len(spectra), BATCH):
        batch = slice(first, first + BATCH)
        squares += coefficients[batch] @ np.square(spectra[batch])
    variance = (squares / weight.sum() - mean**2) * n_effective / max(n_effective - 1, 1e-9)
    power = np.maximum((variance / band.tapered_power).reshape(2, -1).mean(0), 0)
    noise = np.zeros_like(power)
    for region in (measured, ~measured):
        if region.any():
            noise[region] = _smooth(power, region, band)[region]
    return np.asarray(np.maximum(noise, 1e-300))


def _smooth(power: Array, region: Array, band: Band) -> Array:
    """Return the power smoothed over the frequencies of a region.

    The ratio to the shell's mean is smoothed, so that a steep spectrum stays steep and a
    direction without noise stays empty.
    """
    shell_mean = _shell_mean(power, region, band)[band.shell]
    grids = np.zeros((2, *band.coarse_shape))
    for sign in (1, -1):
        at = tuple((sign * band.index + np.array(band.max_index)).T)
        ratio = np.divide(power, shell_mean, out=np.ones_like(power), where=shell_mean > 0)
        grids[0][at] = ratio * region
        grids[1][at] = region
    ratio, weight = (
        ndimage.gaussian_filter(g, NOISE_SMOOTHING, mode="constant")[at] for g in grids
    )
    return np.asarray(shell_mean * ratio / np.maximum(weight, 1e-300))


def _signal_power(mean: Array, error: Array, measured: Array, band: Band) -> Array:
    """Return the signal power by shells: the power of the mean less that of its noise.

    This is the expectation of the half-set cross power over all ways to halve the stack. Runs of
    shells that are not significant alone are pooled: together, thousands of frequencies show an
    object with fine detail.
    """
    power = (mean**2).reshape(2, -1).mean(0)
    count = _shell_size(measured, band)
    signal = _shell_mean(power - error, measured, band)
    standard_error = _shell_mean(error, measured, band) / np.sqrt(count)
    significant = signal > SIGNIFICANT * standard_error
    by_shell = np.where(significant, signal, 0.0)
    for run in np.split(np.arange(len(count)), np.flatnonzero(np.diff(significant)) + 1):
        if not significant[run[0]]:
            weight = count[run] / count[run].sum()
            pooled = weight @ signal[run]
            pooled_error = np.sqrt(weight**2 @ standard_error[run] ** 2)
            by_shell[run] = pooled if pooled > SIGNIFICANT * pooled_error else 0.0
    return np.asarray(by_shell[band.shell] * measured)


def _shell_mean(values: Array, region: Array, band: Band) -> Array:
    """Return the mean over the frequencies of a region in each shell."""
    return np.asarray(np.bincount(band.shell, values * region) / _shell_size(region, band))


def _shell_size(region: Array, band: Band) -> Array:
    """Return the number of frequencies of a region in each shell, at least 1."""
    return np.maximum(np.bincount(band.shell, region), 1)


def _soft_mask(
    spectrum: Array, gain: Array, noise: Array, bounded_noise: Array, n_effective: float, band: Band
) -> Array:
    """Return the part of a reference's local energy above twice that of its noise.

    Energies are compared after whitening, which makes the noise uniform.
    """
    whitened = spectrum / np.sqrt(np.tile(bounded_noise, 2))
    sigma = (0.0 if band.planar else MASK_SMOOTHING, MASK_SMOOTHING, MASK_SMOOTHING)
    energy = ndimage.gaussian_filter(to_volumes(whitened, band) ** 2, sigma, mode="constant")
    noise_energy = (
        2 * (gain**2 * noise / bounded_noise).sum() / n_effective / np.prod(band.shape)
        * band.window**2
    )  # fmt: skip
    mask = np.clip(1 - 2 * noise_energy / np.maximum(energy, 1e-300), 0, 1)
    return np.asarray(mask * (energy > 0))


def masked(volumes: Array, mask: Array, band: Band) -> Array:
    """Return volumes with their background at 0, times the mask.

    Their means were subtracted under the window: the multiple of the window that brings the mean
    outside the mask to 0 is added back.
    """
    outside = (1 - mask) * band.window
    if outside.sum() < 0.02 * outside.size:
        outside = (band.radius > band.shortest_side / 2) * band.window
    total = max(float((outside * band.window).sum()), 1e-9)
    level = (volumes * outside).sum((-3, -2, -1)) / total
    return np.asarray((volumes - level[..., None, None, None] * band.window) * mask)


def tapered(spectra: Array, band: Band) -> Array:
    """Return spectra whose products with untapered noise equal those with tapered noise.

    Tapering (and subtracting the mean) is moved from the noise to the spectra it is multiplied
    with.
    """
    half, coarse = band.size // 2, np.array(band.coarse_shape)
    plane = band.index[:, 2] == 0  # for x > 0 the half spectrum holds one of each pair already
    at, mirrored = tuple((band.index % coarse).T), tuple((-band.index[plane] % coarse).T)
    window = np.fft.ifftshift(_box_window(band)).astype(np.float32)
    result = np.empty_like(spectra)
    for spectrum, out in zip(spectra, result, strict=True):
        values = spectrum[:half] + 1j * spectrum[half:]
        waves = np.zeros((*band.coarse_shape[:2], band.coarse_shape[2] // 2 + 1), np.complex64)
        waves[at], waves[mirrored] = values, values[plane].conj()
        volume = scipy.fft.irfftn(waves, band.coarse_shape, workers=1)
        volume -= (volume * window).sum() / window.sum()
        transformed = scipy.fft.rfftn(volume * window, workers=1)[at]
        out[:half], out[half:] = transformed.real, transformed.imag
    return result


def _box_window(band: Band) -> Array:
    """Return the taper of the box at the voxels of the coarse grid, both centred on n // 2."""
    tapers = []
    for n, m, taper in zip(band.shape, band.coarse_shape, band.tapers, strict=True):
        position = n // 2 + (np.arange(m) - m // 2) * (n / m)
        padded = np.r_[taper[-1:], taper, taper[:1]]
        tapers.append(np.interp(position, np.arange(-1, n + 1), padded))
    z, y, x = tapers
    return np.asarray(z[:, None, None] * y[:, None] * x)

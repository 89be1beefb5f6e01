"""References, noise spectrum and mask, estimated from the spectra of the particles.

Model: a particle is a reference times its contrast plus stationary noise, weighted by what was
measured (``measured``), so that frequencies are independent. Each cross-validation fold has its own
reference, estimated from all other folds, so that no particle is compared with itself. Spectra are
those of ``fourier_coefficients``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from scipy import ndimage

from lazyvol.kernels.screening.fourier_coefficients import Band, to_volumes
from lazyvol.kernels.screening.measured import Measured

Array = np.ndarray[Any, np.dtype[Any]]

#: standard deviation of the Gaussian that smooths the noise spectrum, in frequency steps
NOISE_SMOOTHING = 1.5
#: least noise power that whitening assumes, as a part of its maximum and of the signal power;
#: spectral leakage and errors of the model are about as large
NOISE_FLOOR, MODEL_ERROR = 5e-2, 1e-2
#: standard deviation of the Gaussian that smooths the energy of a reference, in voxels
MASK_SMOOTHING = 1.5
#: noise power of frequencies that no particle measured
LEAST_NOISE = 1e-300
#: sum of weights that is rounding, and sum relative to the largest below which a frequency is
#: measured in too few particles to be compared
LEAST_COVERAGE, RARE = 1e-4, 0.05
#: standard errors above 0 from which the signal of a shell is significant
SIGNIFICANT = 2.0


@dataclass(frozen=True)
class References:
    """Wiener-filtered references before masking, and the spectra that they were filtered by.

    ``spectra``: (all particles, first half, second half, fold 0, ...). Per frequency: ``noise``
    power; ``bounded_noise``, its lower bounds applied; ``gain`` of the filter; ``signal`` power;
    ``coverage``, the mean weight of the particles. ``mask`` on the coarse grid is from 0 to 1.
    """

    spectra: Array
    noise: Array
    bounded_noise: Array
    gain: Array
    mask: Array
    signal: Array
    coverage: Array


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of spectra over the particles of each fold, and the weights they hold.

    ``spectra`` (fold, number) and ``weights`` (fold, frequency) are divided for averages;
    ``particles`` (frequency,) is the number of equally weighted particles of the same variance.
    """

    spectra: Array
    weights: Array
    particles: Array

    @classmethod
    def of(cls, spectra: Array, weight: Array, noise_level: Array, folds: Array,
           measured: Measured) -> "_Sums":  # fmt: skip
        """Sum spectra, divided by their noise levels, over every fold."""
        member = folds == np.arange(folds.max() + 1)[:, None]
        coefficients = (member * (weight / noise_level)).astype(np.float32)
        sums = np.zeros((len(member), spectra.shape[1]))
        for batch, shown in measured.shown(spectra):
            sums += coefficients[:, batch] @ shown
        weights = measured.sums(member * weight)
        total, square = weights.sum(0), measured.sums(weight[None] ** 2)[0]
        return cls(sums, weights, _ratio(total**2, square))

    def average(self, rows: Array | slice = slice(None)) -> Array:
        """Return the average over the particles of some folds."""
        return _ratio(self.spectra[rows].sum(0), np.tile(self.weights[rows].sum(0), 2))

    def others(self) -> Array:
        """Return the averages (fold, number) over all other folds."""
        weights = self.weights.sum(0) - self.weights
        return _ratio(self.spectra.sum(0) - self.spectra, np.tile(weights, 2))


def _ratio(a: Array, b: Array) -> Array:
    """Return a / b, and 0 where b is 0 but for rounding."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > LEAST_COVERAGE)


def cross_validation_folds(n: int) -> Array:
    """Return the fold of each of ``n`` particles: 8 folds, or one each for up to 24 particles."""
    return np.arange(n) % (8 if n > 24 else n)


def noise_levels(spectra: Array, noise: Array, measured: Measured) -> Array:
    """Return the noise amplitude of each particle relative to the median particle.

    Logarithms are shrunk to the median by the part of their variance that chance explains.
    """
    known = (noise > LEAST_NOISE).astype(np.float64)
    share = np.tile(known / noise, 2)
    count = measured.energies(known[None, None], len(spectra))[:, 0]
    shown = (s for _, batch in measured.shown(spectra) for s in batch)
    power = np.array([np.square(s, dtype=np.float64) @ share for s in shown])
    logs = np.log(np.maximum(power, 1e-300) / np.maximum(count, 1))
    logs -= np.median(logs)
    chance, variance = 1.5 / max(1.0, float(np.median(count))), float(np.var(logs))
    shrinkage = max(0.0, 1 - chance / variance) if variance > 0 else 0.0
    return np.asarray(np.exp(0.5 * shrinkage * logs))


def estimate(
    spectra: Array, weight: Array, noise_level: Array, folds: Array, measured: Measured, band: Band
) -> References:
    """Return the references of all particles, both half-sets and every fold.

    Particles are divided by their ``noise_level`` and weighted by the probability that they are
    consistent; each frequency is averaged over the particles in which it was measured, and 0 where
    there are almost none.
    """
    sums = _Sums.of(spectra, weight, noise_level, folds, measured)
    total = sums.weights.sum(0)
    region = total > RARE * total.max()
    mean = sums.average()
    noise = _noise_power(spectra, weight, noise_level, mean, sums, region, measured, band)
    n_effective = np.where(region, sums.particles, 1.0)
    error = noise / n_effective
    precision = region * (n_effective / n_effective.max()) ** 2
    signal = _signal_power(mean, error * band.tapered_power, precision, band) * region
    gain = signal / (signal + error)
    rows = [mean, sums.average(slice(0, None, 2)), sums.average(slice(1, None, 2)), *sums.others()]
    bounded = np.maximum(noise, np.maximum(NOISE_FLOOR * noise.max(), MODEL_ERROR * signal))
    filtered = np.stack(rows) * np.tile(gain, 2)
    mask = _soft_mask(filtered[0], gain**2 * error, bounded, band)
    return References(filtered, noise, bounded, gain, mask, signal, total / weight.sum())


def _noise_power(
    spectra: Array, weight: Array, noise_level: Array, mean: Array, sums: _Sums, region: Array,
    measured: Measured, band: Band,
) -> Array:  # fmt: skip
    """Return the noise power at every frequency: the variance over particles, smoothed.

    It is smoothed over the frequencies of ``region``: together with missing ones (a wedge), the
    noise next to the wedge came out a third too weak.
    """
    squares = np.zeros(spectra.shape[1])
    coefficients = (weight / noise_level**2).astype(np.float32)
    for batch, shown in measured.shown(spectra):
        squares += coefficients[batch] @ np.square(shown)
    total, square = sums.weights.sum(0), measured.sums(weight[None], power=2)[0]
    chance = np.maximum(total - square * _ratio(np.ones_like(total), sums.particles), 1e-9)
    variance = (squares - mean**2 * np.tile(square, 2)) / np.tile(chance, 2)
    power = np.maximum((variance / band.tapered_power).reshape(2, -1).mean(0), 0) * region
    noise = np.where(region, _smooth(power, region, band), 0.0)
    return np.asarray(np.maximum(noise, LEAST_NOISE))


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


def _signal_power(mean: Array, error: Array, precision: Array, band: Band) -> Array:
    """Return the signal power by shells: the power of the mean less that of its noise.

    This is the expectation of the half-set cross power over all ways to halve the stack, with
    frequencies weighted by their ``precision``. Runs of shells that are not significant alone are
    pooled: together, thousands of frequencies show an object with fine detail.
    """
    power = (mean**2).reshape(2, -1).mean(0)
    size = _shell_size(precision, band)
    signal = _shell_mean(power - error, precision, band)
    standard_error = np.sqrt(np.bincount(band.shell, (precision * error) ** 2)) / size
    significant = signal > SIGNIFICANT * standard_error
    by_shell = np.where(significant, signal, 0.0)
    for run in np.split(np.arange(len(size)), np.flatnonzero(np.diff(significant)) + 1):
        if not significant[run[0]]:
            weight = size[run] / size[run].sum()
            pooled = weight @ signal[run]
            pooled_error = np.sqrt(weight**2 @ standard_error[run] ** 2)
            by_shell[run] = pooled if pooled > SIGNIFICANT * pooled_error else 0.0
    return np.asarray(by_shell[band.shell])


def _shell_mean(values: Array, weight: Array, band: Band) -> Array:
    """Return the weighted mean over the frequencies in each shell."""
    return np.asarray(np.bincount(band.shell, values * weight) / _shell_size(weight, band))


def _shell_size(weight: Array, band: Band) -> Array:
    """Return the weight of the frequencies in each shell."""
    return np.maximum(np.bincount(band.shell, weight), 1e-9)


def _soft_mask(spectrum: Array, error: Array, bounded_noise: Array, band: Band) -> Array:
    """Return the part of a reference's local energy above twice that of its ``error``.

    Energies are compared after whitening, which makes the noise uniform.
    """
    whitened = spectrum / np.sqrt(np.tile(bounded_noise, 2))
    sigma = (0.0 if band.planar else MASK_SMOOTHING, MASK_SMOOTHING, MASK_SMOOTHING)
    energy = ndimage.gaussian_filter(to_volumes(whitened, band) ** 2, sigma, mode="constant")
    noise_energy = 2 * (error / bounded_noise).sum() / np.prod(band.shape) * band.window**2
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

"""Weights of the frequencies that were measured, for each particle or for all.

Model: the spectrum of a particle is ``m s + sqrt(m) n`` with the weight m from 0 to 1, the signal s
and noise n of the same power in all particles. A frequency is measured fully (1), partly (at the
edge of a wedge, where a rotation mixed it with its neighbours; by a transfer function that images
were multiplied with once more), or not at all (0). Sums of spectra over particles divided by sums
of their weights are then the averages of least variance. ``to_model`` converts other spectra.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyvol.kernels.geometry.rotation_grids import from_euler, zyx_matrices
from lazyvol.kernels.screening.fourier_coefficients import Band

Array = np.ndarray[Any, np.dtype[Any]]

#: weights are stored as multiples of 1 / STEPS in one byte
STEPS = 255
#: width of the edge of a wedge, in frequency steps
EDGE = 1.5
#: particles whose spectra, or products with hypotheses, are copied at a time
BATCH = 256
#: least weight that a spectrum is divided by, or its noise compared with: neighbours leak into
#: weaker frequencies; and least weight of a transfer function
LEAST_TESTED, LEAST_TRANSFER = 0.3, 0.05


@dataclass(frozen=True)
class Measured:
    """``steps`` are weights times ``STEPS``: (particle, frequency), or one row for all."""

    steps: Array

    @classmethod
    def everywhere(cls, count: int) -> "Measured":
        """Return the weights of particles that were measured at all ``count`` frequencies."""
        return cls(np.full((1, count), STEPS, np.uint8))

    @classmethod
    def of(cls, weights: Array, least: float = 0.2) -> "Measured":
        """Return weights from 0 to 1 rounded to steps; those below ``least`` become 0.

        Less than a fifth of an edge is mostly what other frequencies leak.
        """
        steps = np.rint(STEPS * np.minimum(weights, 1.0)).astype(np.uint8)
        steps[weights < least] = 0
        return cls(np.atleast_2d(steps))

    @property
    def is_common(self) -> bool:
        """True if one row holds for all particles."""
        return len(self.steps) == 1

    def of_particles(self, chosen: Array | slice) -> "Measured":
        """Return the weights of some particles."""
        return self if self.is_common else Measured(self.steps[chosen])

    def at(self, selected: Array) -> "Measured":
        """Return the weights at some frequencies."""
        return Measured(self.steps[:, selected])

    def values(self) -> Array:
        """Return the weights as float32, (particle or 1, frequency)."""
        return self.steps.astype(np.float32) * np.float32(1 / STEPS)

    def shown(self, spectra: Array) -> Iterator[tuple[slice, Array]]:
        """Yield slices of the particles and their spectra, 0 where they were not measured."""
        for batch in batches(len(spectra)):
            yield batch, blanked(spectra[batch], self.of_particles(batch).steps)

    def sums(self, coefficients: Array, power: int = 1) -> Array:
        """Return the sums (row, frequency) of weights times coefficients, (row, particle)."""
        if self.is_common:
            common: Array = self.values().astype(np.float64) ** power
            return np.asarray(coefficients.sum(1)[:, None] * common)
        single, total = coefficients.astype(np.float32), np.zeros((1, 1))
        for batch in batches(len(self.steps)):
            total = total + single[:, batch] @ self.of_particles(batch).values() ** power
        return np.asarray(total, np.float64)

    def energies(self, power: Array, n: int) -> Array:
        """Return the sums over frequencies of weights times a power.

        ``power`` is (fold, hypothesis, frequency), the result (particle, hypothesis) for ``n``
        particles: folds take turns, and each particle gets the sums of its own fold.
        """
        sums, count = np.empty((n, power.shape[1]), np.float32), len(power)
        for f, of_fold in enumerate(power):
            sums[f::count] = self.of_particles(slice(f, None, count)).values() @ of_fold.T
        return sums

    def fractions(self) -> Array:
        """Return the measured fraction of the frequencies, (particle or 1,)."""
        return np.asarray(self.steps.mean(1, dtype=np.float64) / STEPS)


def batches(n: int) -> Iterator[slice]:
    """Yield slices of ``n`` particles, ``BATCH`` at a time."""
    return (slice(first, first + BATCH) for first in range(0, n, BATCH))


def blanked(spectra: Array, steps: Array) -> Array:
    """Return spectra that are 0 at frequencies of weight 0; themselves where there are none."""
    shown = steps > 0
    if shown.all():
        return spectra
    halves = spectra.reshape(len(spectra), 2, -1) * shown[:, None]
    return np.asarray(halves.reshape(spectra.shape))


def tilt_weights(*angles: Array, tilts: Sequence[float], band: Band) -> Array:
    """Return the weights of a range of tilts as steps, (particle, frequency).

    ``angles`` are rot, tilt and psi in degrees of the rotation that particles underwent after they
    were measured.
    """
    matrices = zyx_matrices(from_euler(np.stack([np.ravel(a) for a in angles], -1)))
    steps = np.stack([Measured.of(tilt_range(m, tilts, band)).steps[0] for m in matrices])
    return np.asarray(steps.reshape(*angles[0].shape, steps.shape[-1]))


def at_frequencies(mask: Array, *, index: Array) -> Array:
    """Return the values of masks (..., z, y, x) of a Fourier transform at frequencies."""
    z, y, x = (index % mask.shape[-3:]).T
    return np.asarray(mask[..., z, y, x], np.float32)


def tilt_range(matrix: Array, tilts: Sequence[float], band: Band) -> Array:
    """Return the weights (frequency,) of a range of tilts in degrees, rotated by ``matrix``.

    A projection at tilt t measures the plane where the frequency along the beam, z, is tan(t) times
    that along x, across the tilt axis.
    """
    beam, across = band.frequency @ matrix[:, 0], band.frequency @ matrix[:, 2]
    low, high = (beam * np.cos(t) - across * np.sin(t) for t in np.deg2rad(tilts))
    depth = np.maximum(np.minimum(low, -high), np.minimum(-low, high)) * band.shortest_side
    return np.asarray(np.clip(depth / EDGE + 0.5, 0.0, 1.0))


def to_model(spectra: Array, weights: Array, band: Band) -> tuple[Array, Measured]:
    """Return spectra that follow the model of this module, and their weights.

    ``weights`` (particle or 1, frequency) multiply the signal. The power of the noise follows their
    power 0 (a transfer function changed the signal alone), 1 (its images were multiplied with it
    once more) or 2 (a mask multiplied all): the one under which the spectra are most likely.
    """
    size = float(np.abs(weights).max(initial=0.0))
    if not size > 0:
        return spectra, Measured(np.zeros(weights.shape, np.uint8))
    weights = weights / size
    if np.isin(weights, (0, 1)).all():
        return spectra, Measured.of(weights)
    exponent = _noise_exponent(spectra, weights, band)
    if exponent == 1:
        return spectra, Measured.of(np.abs(weights), LEAST_TRANSFER)
    factor = weights if exponent == 0 else np.divide(
        1, weights, out=np.zeros_like(weights), where=np.abs(weights) >= LEAST_TESTED
    )  # fmt: skip
    converted = spectra * np.tile(factor, 2).astype(spectra.dtype)
    remaining = weights**2 if exponent == 0 else (factor != 0).astype(np.float32)
    return converted, Measured.of(remaining, LEAST_TRANSFER**2)


def _noise_exponent(spectra: Array, weights: Array, band: Band) -> int:
    """Return the power of the weights that the power of the spectra follows best: 0, 1 or 2."""
    logs = np.zeros(3)
    for batch in batches(min(len(spectra), 8 * BATCH)):
        part = np.abs(weights[batch] if len(weights) > 1 else weights)
        power = np.square(spectra[batch]).reshape(len(spectra[batch]), 2, -1).mean(1)
        tested = np.broadcast_to(part >= LEAST_TESTED, power.shape)
        for exponent in range(3):
            noise = np.maximum(part, LEAST_TESTED) ** exponent
            ratio = np.where(tested, power / noise, 0.0)
            level = shell_means(ratio, tested, band)
            logs[exponent] -= np.log(noise * level, where=tested, out=np.zeros_like(power)).sum()
    return int(logs.argmax())


def shell_means(values: Array, tested: Array, band: Band) -> Array:
    """Return, for each particle and frequency, the mean of its shell over tested frequencies."""
    count = int(band.shell.max()) + 1
    member = (band.shell[:, None] == np.arange(count)).astype(np.float32)
    means = (values @ member) / np.maximum(tested @ member, 1)
    return np.asarray(np.maximum(means, 1e-30)[:, band.shell])

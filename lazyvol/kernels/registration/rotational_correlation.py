"""Correlation of a particle with a reference in any orientation and at any shift, in Fourier space.

The Fourier transform of a rotated volume is the rotated transform. It is interpolated from the
oversampled transform of the reference, at frequencies up to a limit (as in RELION; Scheres, J.
Struct. Biol. 180, 519, 2012), and no volume is rotated. Correlations are over the measured
frequencies: constrained, as in Foerster et al. (PNAS 102, 4729, 2005).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.errors import LabelError
from lazyvol.kernels._numba import compiled
from lazyvol.kernels.magnitude import exponent
from lazyvol.kernels.registration.phase_correlation import (
    centred,
    shift_lengths,
    shift_ranges,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: oversampling of the spectrum of the reference
OVERSAMPLING = 2
#: sums over frequencies: product, its gradient (3) and Hessian (6) by shifts, reference's power
N_SUMS = 11


@dataclass(frozen=True)
class Frequencies:
    """Half of the frequencies of a box up to a limit.

    ``index`` holds whole numbers along z, y, x, ``cycles`` cycles per unit of length, and
    ``multiplicity`` 2 where a frequency represents its negative as well, else 1. ``highest`` is the
    length of the longest one.
    """

    index: Array
    cycles: Array
    multiplicity: Array
    highest: float

    @classmethod
    def up_to(
        cls, shape: Sequence[int], step: Sequence[float], limits: Sequence[float]
    ) -> "list[Frequencies]":
        """Return the frequencies up to each limit; those of lower limits come first in all."""
        sizes = np.array(shape) * step
        largest = [
            min((n - 1) // 2, floor(max(limits) * abs(s) + 1e-9))
            for n, s in zip(shape, sizes, strict=True)
        ]
        spans = (*(np.arange(-m, m + 1) for m in largest[:2]), np.arange(largest[2] + 1))
        index = np.stack([g.ravel() for g in np.meshgrid(*spans, indexing="ij")], -1)
        radius = np.sqrt(((index / sizes) ** 2).sum(-1))
        bounds = np.sort(np.asarray(limits, np.float64)) * (1 + 1e-9)
        order = np.argsort(np.searchsorted(bounds, radius), kind="stable")
        order = order[(radius[order] <= bounds[-1]) & (radius[order] > 0)]
        index, radius = index[order], radius[order]
        multiplicity = np.where(index[:, 2] > 0, 2.0, 1.0).astype(np.float32)
        cycles = index / sizes
        counts = [int((radius <= limit * (1 + 1e-9)).sum()) for limit in limits]
        return [
            cls(index[:n], cycles[:n], multiplicity[:n], float(radius[:n].max(initial=0.0)))
            for n in counts
        ]


def spectrum_at(volume: Array, frequencies: Frequencies) -> Array:
    """Return the spectrum of a mean-free volume about voxel n // 2 at ``frequencies``; complex64.

    Values are brought near 1: coefficients do not depend on a factor, float32 powers overflow.
    """
    values = _scale_near_one(centred(volume))
    spectrum = scipy.fft.rfftn(values, workers=1, overwrite_x=True)
    z, y, x = (frequencies.index[:, a] % n for a, n in enumerate(volume.shape))
    centre = [n // 2 / n for n in volume.shape]
    return np.asarray(spectrum[z, y, x] * _phase_factor(frequencies.index @ centre), np.complex64)


def _phase_factor(cycles: Array) -> Array:
    return np.asarray(np.exp(2j * np.pi * cycles), np.complex64)


@dataclass(frozen=True)
class ReferenceSpectrum:
    """The oversampled half spectrum of a reference about its voxel n // 2.

    ``values`` has frequency 0 in the middle of its first two axes; ``scale`` is the number of
    samples per cycle and unit of length.
    """

    values: Array
    scale: Array

    @classmethod
    def from_volume(cls, volume: Array, step: Sequence[float], limit: float) -> "ReferenceSpectrum":
        """Transform a volume up to a limit; each axis is padded and cropped in turn, to save
        memory."""
        shape = np.array(volume.shape)
        scale = OVERSAMPLING * shape * step
        largest = [ceil(limit * abs(s)) + 2 for s in scale]
        spectrum = _compensated(volume)
        spectrum = scipy.fft.rfft(spectrum, OVERSAMPLING * shape[2], axis=2, workers=1)
        spectrum = spectrum[..., : largest[2] + 1]
        for axis in (1, 0):
            n = OVERSAMPLING * shape[axis]
            spectrum = scipy.fft.fft(spectrum, n, axis=axis, workers=1)
            spectrum = np.take(spectrum, np.arange(-largest[axis], largest[axis] + 1) % n, axis)
        for axis, m in enumerate(largest):
            index = np.arange(spectrum.shape[2]) if axis == 2 else np.arange(-m, m + 1)
            cycles = index * (shape[axis] // 2) / (OVERSAMPLING * shape[axis])
            spectrum *= _phase_factor(cycles).reshape([-1 if a == axis else 1 for a in range(3)])
        missing = largest[2] + 1 - spectrum.shape[2]
        if missing > 0:
            spectrum = np.pad(spectrum, [(0, 0), (0, 0), (0, missing)])
        return cls(np.ascontiguousarray(spectrum, np.complex64), scale)

    def rotated(self, matrices: Array, frequencies: Frequencies) -> Array:
        """Return the spectra of the reference in the frames of particles, (rotation, frequency).

        Matrices act on (z, y, x) and bring particles to the reference: samples are at ``matrix @
        f``.
        """
        out = np.empty((len(matrices), len(frequencies.cycles)), np.complex64)
        _interpolate_spectrum(out, self.values, self._per_sample(matrices), frequencies.cycles)
        return out

    def _per_sample(self, matrices: Array) -> Array:
        """Return matrices that take frequencies to positions in ``values``."""
        return np.ascontiguousarray(matrices * self.scale[:, None])

    def correlation_sums(
        self, matrices: Array, frequencies: Frequencies, particle: Array, weight: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return for each rotation the product with a particle (conjugated and weighted), its
        gradient and Hessian by shifts, and the power of the reference."""
        sums = np.empty((len(matrices), N_SUMS))
        _add_sums(
            sums, self.values, self._per_sample(matrices), frequencies.cycles, particle, weight
        )
        hessian = sums[:, [4, 5, 6, 5, 7, 8, 6, 8, 9]].reshape(-1, 3, 3)
        return sums[:, 0], 2 * np.pi * sums[:, 1:4], 4 * np.pi**2 * hessian, sums[:, 10]


def _compensated(volume: Array) -> Array:
    """Subtract the mean of the surroundings and compensate for linear interpolation in Fourier
    space.

    Surroundings that are not 0 act as a box that rotates with the volume (correlation with a
    volume rotated by 90 degrees: 0.987 about the mean of the volume, 0.999 about this one).
    """
    values = np.asarray(volume, np.float64)
    outer = values[~_in_ellipsoid(values.shape)]
    outer = outer[np.isfinite(outer)]
    level = outer.mean() if outer.size else np.nanmean(values)
    values = np.where(np.isfinite(values), values - level, 0.0)
    for axis, n in enumerate(volume.shape):
        taper = np.sinc((np.arange(n) - n // 2) / (OVERSAMPLING * n)) ** 2
        values /= taper.reshape([-1 if a == axis else 1 for a in range(3)])
    return _scale_near_one(values)


def _scale_near_one(values: Array) -> Array:
    """Multiply by the power of two that brings the largest value near 1; float32."""
    return np.asarray(np.ldexp(values, -exponent(values)), np.float32)


def apply_mask(volume: Array, mask: Array) -> Array:
    """Multiply a volume by a mask of weights after subtracting its mean at the mask's soft edge.

    NaN has weight 0. Without a soft edge the mean under the mask is subtracted: a step at the mask
    is an edge in the result.
    """
    if not (mask.min(initial=0.0) >= 0 and mask.max(initial=0.0) <= 1):
        raise LabelError(
            f"align: mask must be from 0 to 1, got values from {mask.min():g} to {mask.max():g}; "
            f"scale it with intensity.rescale"
        )
    weight = np.where(np.isnan(volume), 0.0, np.asarray(mask, np.float64))
    values = np.nan_to_num(np.asarray(volume, np.float64))
    edge = weight * (1 - weight)
    edge = edge if edge.sum() > 0 else weight
    level = (values * edge).sum() / edge.sum() if edge.any() else 0.0
    return np.asarray((values - level) * weight)


def _in_ellipsoid(shape: Sequence[int]) -> Array:
    """Return True for the voxels inside the ellipsoid inscribed in a box."""
    squares = [((np.arange(n) - n // 2) / (n / 2)) ** 2 for n in shape]
    return np.asarray(squares[0][:, None, None] + squares[1][:, None] + squares[2] < 1)


@compiled
def _interpolate(values: Array, z: float, y: float, x: float) -> Any:
    """Interpolate a half spectrum linearly, at samples from its middle; values at negative x are
    the conjugates of their opposites."""
    flip = x < 0
    if flip:
        z, y, x = -z, -y, -x
    z, y = z + values.shape[0] // 2, y + values.shape[1] // 2
    a, b, c = np.uint32(z), np.uint32(y), np.uint32(x)
    s, t, u = np.float32(z - a), np.float32(y - b), np.float32(x - c)
    one = np.float32(1.0)
    near = (one - u) * values[a, b, c] + u * values[a, b, c + 1]
    low = (one - t) * near + t * ((one - u) * values[a, b + 1, c] + u * values[a, b + 1, c + 1])
    a += 1
    near = (one - u) * values[a, b, c] + u * values[a, b, c + 1]
    high = (one - t) * near + t * ((one - u) * values[a, b + 1, c] + u * values[a, b + 1, c + 1])
    value = (one - s) * low + s * high
    return np.conj(value) if flip else value


@compiled
def _interpolate_spectrum(out: Array, values: Array, matrices: Array, cycles: Array) -> None:
    """Interpolate a spectrum at ``matrix @ f`` for each matrix and each row f of ``cycles``."""
    for r in range(matrices.shape[0]):
        m = matrices[r]
        a, b, c, d, e, f = m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2]
        g, h, k = m[2, 0], m[2, 1], m[2, 2]
        for i in range(cycles.shape[0]):
            z, y, x = cycles[i, 0], cycles[i, 1], cycles[i, 2]
            out[r, i] = _interpolate(
                values, a * z + b * y + c * x, d * z + e * y + f * x, g * z + h * y + k * x
            )


@compiled
def _add_sums(
    out: Array, values: Array, matrices: Array, cycles: Array, particle: Array, weight: Array
) -> None:
    """Write for each rotation the product with a particle at no shift, its gradient (3) and
    Hessian (zz, zy, zx, yy, yx, xx) by shifts, and the power of the reference."""
    for r in range(matrices.shape[0]):
        m = matrices[r]
        a, b, c, d, e, f = m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2]
        g, h, k = m[2, 0], m[2, 1], m[2, 2]
        total, power, sz, sy, sx = 0.0, 0.0, 0.0, 0.0, 0.0
        zz, zy, zx, yy, yx, xx = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(cycles.shape[0]):
            z, y, x = cycles[i, 0], cycles[i, 1], cycles[i, 2]
            value = _interpolate(
                values, a * z + b * y + c * x, d * z + e * y + f * x, g * z + h * y + k * x
            )
            product = particle[i] * value
            re, im = np.float64(product.real), np.float64(product.imag)
            total += re
            power += weight[i] * (value.real * value.real + value.imag * value.imag)
            sz, sy, sx = sz - im * z, sy - im * y, sx - im * x
            zz, zy, zx = zz - re * z * z, zy - re * z * y, zx - re * z * x
            yy, yx, xx = yy - re * y * y, yx - re * y * x, xx - re * x * x
        out[r] = (total, sz, sy, sx, zz, zy, zx, yy, yx, xx, power)


@dataclass(frozen=True)
class ShiftWindow:
    """A coarser box on which the correlations of all shifts up to a limit are computed.

    ``slots`` are the positions of frequencies in its half spectrum, ``allowed`` its voxels (flat)
    within reach, ``shifts`` their shifts in its voxels, and ``voxel`` the size of these.
    """

    shape: tuple[int, int, int]
    slots: Array
    allowed: Array
    shifts: Array
    voxel: Array

    @classmethod
    def within(
        cls, shape: Sequence[int], step: Sequence[float], frequencies: Frequencies, reach: float
    ) -> "ShiftWindow":
        """Return a box with three samples per cycle of the highest frequency, so that no peak
        between voxels is missed."""
        largest = np.abs(frequencies.index).max(0, initial=0)
        lengths = [scipy.fft.next_fast_len(3 * int(m) + 1, real=True) for m in largest]
        nz, ny, nx = lengths
        half = nx // 2 + 1
        z, y, x = frequencies.index.T
        slots = ((z % nz) * ny + y % ny) * half + x
        voxel = np.array(shape) * np.array(step) / lengths
        ranges = shift_ranges(lengths, [int(reach / abs(v) + 1e-9) for v in voxel])
        inside = shift_lengths(ranges, voxel) <= reach * (1 + 1e-9)
        shifts = np.stack([p[i] for p, i in zip(ranges, np.nonzero(inside), strict=True)], -1)
        allowed = np.ravel_multi_index(tuple((shifts % lengths).T), tuple(lengths))
        return cls((nz, ny, nx), slots, allowed, shifts, voxel)

    def _half_spectra(self, cross: Array) -> Array:
        """Place cross spectra (rotation, frequency) into half spectra of this box."""
        nz, ny, nx = self.shape
        half = np.zeros((len(cross), nz * ny * (nx // 2 + 1)), np.complex64)
        half[:, self.slots] = cross
        return half.reshape(-1, nz, ny, nx // 2 + 1)

    def correlations(self, cross: Array) -> Array:
        """Return the sums over frequencies at every shift, (rotation, voxel)."""
        values = scipy.fft.irfftn(
            self._half_spectra(cross), self.shape, axes=(1, 2, 3), workers=1, overwrite_x=True
        )
        values *= np.float32(np.prod(self.shape))
        return np.asarray(values.reshape(len(cross), -1))

    def peaks(self, cross: Array) -> tuple[Array, Array]:
        """Return the highest sum within reach and its whole shift in voxels of this box."""
        values = self.correlations(cross)[:, self.allowed]
        best = values.argmax(1)
        return values[np.arange(len(best)), best], self.shifts[best]

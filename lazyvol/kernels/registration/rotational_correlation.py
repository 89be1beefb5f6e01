"""A reference in any orientation against a particle at any shift, in Fourier space.

The Fourier transform of a turned volume is the turned transform: it is read off the reference's
once, oversampled, for frequencies up to a limit only (as RELION does; Scheres, J. Struct. Biol.
180, 519, 2012), and no volume is turned. Correlations are over measured frequencies alone:
constrained, as Foerster et al. (PNAS 102, 4729, 2005).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.geometry.translation import centred, exponent
from lazyvol.kernels.registration.phase_correlation import distances, near

Array = np.ndarray[Any, np.dtype[Any]]

#: oversampling of the reference's spectrum
FINE = 2


@dataclass(frozen=True)
class Frequencies:
    """Half of the frequencies of a box up to a limit.

    ``at`` are their whole numbers along z, y, x, ``places`` cycles per unit of length and
    ``twice`` 2 where a frequency stands for its negative as well, else 1. ``highest`` is the
    length of the longest.
    """

    at: Array
    places: Array
    twice: Array
    highest: float

    @classmethod
    def of(
        cls, shape: Sequence[int], step: Sequence[float], limits: Sequence[float]
    ) -> "list[Frequencies]":
        """Those up to each of several limits, of which lower ones are the beginning of higher."""
        sizes = np.array(shape) * step
        most = [
            min((n - 1) // 2, floor(max(limits) * abs(s) + 1e-9))
            for n, s in zip(shape, sizes, strict=True)
        ]
        spans = (*(np.arange(-m, m + 1) for m in most[:2]), np.arange(most[2] + 1))
        at = np.stack([g.ravel() for g in np.meshgrid(*spans, indexing="ij")], -1)
        radius = np.sqrt(((at / sizes) ** 2).sum(-1))
        bounds = np.sort(np.asarray(limits, np.float64)) * (1 + 1e-9)
        order = np.argsort(np.searchsorted(bounds, radius), kind="stable")
        order = order[(radius[order] <= bounds[-1]) & (radius[order] > 0)]
        at, radius = at[order], radius[order]
        places, twice = at / sizes, np.where(at[:, 2] > 0, 2.0, 1.0).astype(np.float32)
        ends = [int((radius <= limit * (1 + 1e-9)).sum()) for limit in limits]
        return [
            cls(at[:n], places[:n], twice[:n], float(radius[:n].max(initial=0.0))) for n in ends
        ]


def gathered(volume: Array, frequencies: Frequencies) -> Array:
    """Spectrum of a volume about voxel n // 2, without its mean, at ``frequencies``; complex64.

    Of values brought near 1: coefficients do not depend on a factor, powers in float32 overflow.
    """
    values = _near_one(centred(volume))
    spectrum = scipy.fft.rfftn(values, workers=1, overwrite_x=True)
    z, y, x = (frequencies.at[:, a] % n for a, n in enumerate(volume.shape))
    centre = [n // 2 / n for n in volume.shape]
    return np.asarray(spectrum[z, y, x] * _wave(frequencies.at @ centre), np.complex64)


def _wave(turns: Array) -> Array:
    return np.asarray(np.exp(2j * np.pi * turns), np.complex64)


@dataclass(frozen=True)
class Reference:
    """The oversampled half spectrum of a reference about its voxel n // 2.

    ``values`` has frequency 0 in the middle of its first two axes; ``scale`` is samples per cycle
    and unit of length.
    """

    values: Array
    scale: Array

    @classmethod
    def of(cls, volume: Array, step: Sequence[float], limit: float) -> "Reference":
        """Of a volume, up to a limit; padded and cut axis by axis, so that it is small."""
        shape = np.array(volume.shape)
        scale = FINE * shape * step
        most = [ceil(limit * abs(s)) + 2 for s in scale]
        found = _corrected(volume)
        found = scipy.fft.rfft(found, FINE * shape[2], axis=2, workers=1)[..., : most[2] + 1]
        for axis in (1, 0):
            n = FINE * shape[axis]
            found = scipy.fft.fft(found, n, axis=axis, workers=1)
            found = np.take(found, np.arange(-most[axis], most[axis] + 1) % n, axis)
        for axis, m in enumerate(most):
            at = np.arange(found.shape[2]) if axis == 2 else np.arange(-m, m + 1)
            turns = at * (shape[axis] // 2) / (FINE * shape[axis])
            found *= _wave(turns).reshape([-1 if a == axis else 1 for a in range(3)])
        if most[2] + 1 > found.shape[2]:
            found = np.pad(found, [(0, 0), (0, 0), (0, most[2] + 1 - found.shape[2])])
        return cls(np.ascontiguousarray(found, np.complex64), scale)

    def turned(self, matrices: Array, frequencies: Frequencies) -> Array:
        """Spectra of the reference as particles see it, (rotation, frequency): at ``matrix @ f``,
        for rotations that bring a particle to the reference, of vectors (z, y, x)."""
        out = np.empty((len(matrices), len(frequencies.places)), np.complex64)
        _read(out, self.values, self._samples(matrices), frequencies.places)
        return out

    def _samples(self, matrices: Array) -> Array:
        """Matrices from frequencies to samples."""
        return np.ascontiguousarray(matrices * self.scale[:, None])

    def sums(
        self, matrices: Array, frequencies: Frequencies, own: Array, weight: Array
    ) -> tuple[Array, Array, Array, Array]:
        """For each rotation: product with ``own`` (a particle, conjugated and weighted), its slope
        and its second derivatives by a shift, and the reference's power."""
        found = np.empty((len(matrices), SUMS))
        _sums(found, self.values, self._samples(matrices), frequencies.places, own, weight)
        bend = found[:, [4, 5, 6, 5, 7, 8, 6, 8, 9]].reshape(-1, 3, 3)
        return found[:, 0], 2 * np.pi * found[:, 1:4], 4 * np.pi**2 * bend, found[:, 10]


def _corrected(volume: Array) -> Array:
    """A volume about its surroundings, over what linear interpolation of its spectrum makes of it.

    Were its surroundings not 0, a box would turn with it (correlation with the volume turned by
    90 degrees: 0.987 about the mean, 0.999 so).
    """
    found = np.asarray(volume, np.float64)
    outer = found[~_inside(found.shape)]
    outer = outer[np.isfinite(outer)]
    level = outer.mean() if outer.size else np.nanmean(found)
    found = np.where(np.isfinite(found), found - level, 0.0)
    for axis, n in enumerate(volume.shape):
        taper = np.sinc((np.arange(n) - n // 2) / (FINE * n)) ** 2
        found /= taper.reshape([-1 if a == axis else 1 for a in range(3)])
    return _near_one(found)


def _near_one(values: Array) -> Array:
    """Values times the power of two that brings the largest near 1, as float32."""
    return np.asarray(np.ldexp(values, -exponent(values)), np.float32)


def masked(volume: Array, mask: Array) -> Array:
    """A volume about its level where a mask of weights ends, times these; NaN counts as none.

    Under a mask without a soft end the level is the mean: what is cut off there makes an edge.
    """
    weight = np.where(np.isnan(volume), 0.0, np.asarray(mask, np.float64))
    values = np.nan_to_num(np.asarray(volume, np.float64))
    end = weight * (1 - weight)
    end = end if end.sum() > 0 else weight
    level = (values * end).sum() / end.sum() if end.any() else 0.0
    return np.asarray((values - level) * weight)


def _inside(shape: Sequence[int]) -> Array:
    """Voxels in the ellipsoid that fits a box."""
    spans = [((np.arange(n) - n // 2) / (n / 2)) ** 2 for n in shape]
    return np.asarray(spans[0][:, None, None] + spans[1][:, None] + spans[2] < 1)


@compiled
def _value(values: Array, z: float, y: float, x: float) -> Any:
    """Linear interpolation in a spectrum at samples from its middle; those with negative x are
    conjugates of their opposites."""
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
    found = (one - s) * low + s * high
    return np.conj(found) if flip else found


@compiled
def _read(out: Array, values: Array, matrices: Array, places: Array) -> None:
    """A spectrum at samples ``matrix @ place``."""
    for r in range(matrices.shape[0]):
        m = matrices[r]
        a, b, c, d, e, f = m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2]
        g, h, k = m[2, 0], m[2, 1], m[2, 2]
        for i in range(places.shape[0]):
            z, y, x = places[i, 0], places[i, 1], places[i, 2]
            out[r, i] = _value(
                values, a * z + b * y + c * x, d * z + e * y + f * x, g * z + h * y + k * x
            )


#: sums over frequencies: of products, of their slope and bend by shifts, of the reference's power
SUMS = 11


@compiled
def _sums(
    out: Array, values: Array, matrices: Array, places: Array, own: Array, weight: Array
) -> None:
    """For each rotation the product with a particle at no shift, its slope (3) and bend (zz, zy,
    zx, yy, yx, xx) by a shift, and the power of the reference."""
    for r in range(matrices.shape[0]):
        m = matrices[r]
        a, b, c, d, e, f = m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2]
        g, h, k = m[2, 0], m[2, 1], m[2, 2]
        total, power, sz, sy, sx = 0.0, 0.0, 0.0, 0.0, 0.0
        zz, zy, zx, yy, yx, xx = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(places.shape[0]):
            z, y, x = places[i, 0], places[i, 1], places[i, 2]
            found = _value(
                values, a * z + b * y + c * x, d * z + e * y + f * x, g * z + h * y + k * x
            )
            product = own[i] * found
            re, im = np.float64(product.real), np.float64(product.imag)
            total += re
            power += weight[i] * (found.real * found.real + found.imag * found.imag)
            sz, sy, sx = sz - im * z, sy - im * y, sx - im * x
            zz, zy, zx = zz - re * z * z, zy - re * z * y, zx - re * z * x
            yy, yx, xx = yy - re * y * y, yx - re * y * x, xx - re * x * x
        out[r] = (total, sz, sy, sx, zz, zy, zx, yy, yx, xx, power)


@dataclass(frozen=True)
class Window:
    """A coarser box on which correlations up to a limit are looked at, and its shifts in reach.

    ``slots`` are where frequencies lie in its half spectrum; ``allowed`` are its voxels within
    reach and ``moves`` their shifts.
    """

    shape: tuple[int, int, int]
    slots: Array
    allowed: Array
    moves: Array
    voxel: Array

    @classmethod
    def of(
        cls, shape: Sequence[int], step: Sequence[float], frequencies: Frequencies, reach: float
    ) -> "Window":
        """Sampled three times per cycle of the highest frequency: a peak between voxels is not
        missed."""
        most = np.abs(frequencies.at).max(0, initial=0)
        lengths = [scipy.fft.next_fast_len(3 * int(m) + 1, real=True) for m in most]
        nz, ny, nx = lengths
        half = nx // 2 + 1
        z, y, x = frequencies.at.T
        slots = ((z % nz) * ny + y % ny) * half + x
        voxel = np.array(shape) * np.array(step) / lengths
        places = near(lengths, [int(reach / abs(v) + 1e-9) for v in voxel])
        inside = distances(places, voxel) <= reach * (1 + 1e-9)
        own = np.stack([p[i] for p, i in zip(places, np.nonzero(inside), strict=True)], -1)
        flat = np.ravel_multi_index(tuple((own % lengths).T), tuple(lengths))
        return cls((nz, ny, nx), slots, flat, own, voxel)

    def spectrum(self, cross: Array) -> Array:
        """Half spectra of this box out of (many, frequency)."""
        nz, ny, nx = self.shape
        half = np.zeros((len(cross), nz * ny * (nx // 2 + 1)), np.complex64)
        half[:, self.slots] = cross
        return half.reshape(-1, nz, ny, nx // 2 + 1)

    def correlation(self, cross: Array) -> Array:
        """Sums over frequencies for every shift, (many, voxels)."""
        found = scipy.fft.irfftn(
            self.spectrum(cross), self.shape, axes=(1, 2, 3), workers=1, overwrite_x=True
        )
        found *= np.float32(np.prod(self.shape))
        return np.asarray(found.reshape(len(cross), -1))

    def peaks(self, cross: Array) -> tuple[Array, Array]:
        """Highest sum within reach, and its shift in voxels of this box: on the voxels."""
        found = self.correlation(cross)[:, self.allowed]
        best = found.argmax(1)
        return found[np.arange(len(best)), best], self.moves[best]

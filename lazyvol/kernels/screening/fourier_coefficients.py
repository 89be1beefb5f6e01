"""Band-limited Fourier coefficients of volumes as rows of real numbers, and their inverse.

Of each pair of frequencies f, -f of a real volume one is kept. A row, here called a spectrum, holds
the real parts of its coefficients, then the imaginary parts. It is scaled so that inner products
of spectra equal those of the volumes without their means, and white noise has equal variance in
every number. The origin of space is voxel ``n // 2``. Boxes are tapered towards their faces: the
step from one face to the opposite one would leak power from low into high frequencies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor, pi, prod, sqrt
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.errors import RangeError
from lazyvol.kernels.magnitude import exponent

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

SPATIAL_AXES = (-3, -2, -1)
#: fraction of each side of a box over which it is tapered, at either end
TAPER = 1 / 16
#: a standard deviation below this part of the mean is rounding of float32
ROUNDING = 1e-6
#: powers of two up to which fourth powers of spectra are float32 numbers, with room for sums
LARGEST_POWER = 20
#: least peak of a spectrum: coefficients of a thousandth of it have all digits of float32
LEAST_SPECTRUM = 2.0**-116


@dataclass(frozen=True)
class Band:
    """Frequencies of a box above 0 and up to ``limit``, in cycles per unit of length."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    limit: float

    @cached_property
    def lengths(self) -> Array:
        """Physical length of the box along each axis."""
        return np.array([n * abs(d) for n, d in zip(self.shape, self.spacing, strict=True)])

    @property
    def planar(self) -> bool:
        """True for an image, a box of one slice."""
        return self.shape[0] == 1

    @property
    def shortest_side(self) -> float:
        """Physical length of the shortest side, for an image of y and x alone."""
        return float(self.lengths[self.planar :].min())

    @cached_property
    def max_index(self) -> tuple[int, ...]:
        """Highest frequency along each axis, in cycles per box, without the Nyquist frequency."""
        sides = zip(self.shape, self.lengths, strict=True)
        return tuple(min((n - 1) // 2, floor(self.limit * size + 1e-9)) for n, size in sides)

    @cached_property
    def coarse_shape(self) -> tuple[int, ...]:
        """Shape of the coarse grid, the smallest box that has these frequencies."""
        return tuple(2 * h + 1 for h in self.max_index)

    @cached_property
    def index(self) -> Array:
        """(frequency, axis) in cycles per box: one of each pair f, -f within the sphere."""
        axes = [np.arange(-h, h + 1) for h in self.max_index]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        leading_sign = np.zeros(len(grid), np.int64)
        for column in grid.T[::-1]:
            leading_sign = np.where(leading_sign == 0, np.sign(column), leading_sign)
        radius = np.sqrt(((grid / self.lengths) ** 2).sum(1))
        index: Array = grid[(leading_sign > 0) & (radius <= self.limit * (1 + 1e-9))]
        return index

    @cached_property
    def frequency(self) -> Array:
        """(frequency, axis) in cycles per unit of length; a negative spacing flips its axis."""
        frequency: Array = self.index / self.lengths * np.sign(self.spacing)
        return frequency

    @cached_property
    def shell(self) -> Array:
        """Shell number of each frequency; shells are as wide as the coarsest frequency step."""
        radius = np.sqrt((self.frequency**2).sum(1))
        return np.asarray(np.rint(radius * self.shortest_side).astype(np.int64))

    @property
    def size(self) -> int:
        """Numbers in a spectrum."""
        return 2 * len(self.index)

    @cached_property
    def tapers(self) -> tuple[Array, ...]:
        """Weight of each voxel of the box along each axis."""
        return tuple(_taper(n) for n in self.shape)

    @cached_property
    def tapered_power(self) -> float:
        """Fraction of the power of white noise that the taper keeps."""
        return float(prod((taper**2).mean() for taper in self.tapers))

    @cached_property
    def window(self) -> Array:
        """Taper of the coarse grid, 1 in the middle."""
        z, y, x = (_taper(m) for m in self.coarse_shape)
        return np.asarray(z[:, None, None] * y[:, None] * x)

    @cached_property
    def radius(self) -> Array:
        """Distance of each voxel of the coarse grid from its centre, in units of length."""
        axes = zip(self.coarse_shape, self.lengths, strict=True)
        z, y, x = ((np.arange(m) - m // 2) * (size / m) for m, size in axes)
        return np.asarray(np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2))


def _taper(n: int) -> Array:
    """Return a Tukey-like window: 1 inside, squared quarter sine waves at the ends."""
    distance = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    taper: Array = np.sin(pi / 2 * np.minimum(1.0, distance / max(0.5, TAPER * n))) ** 2
    return taper


def band_of(shape: Sequence[int], spacing: Sequence[float], max_size: int) -> Band:
    """Return the band up to the lowest Nyquist frequency, or to about ``max_size`` numbers.

    The frequencies of an image, a box of one slice, fill a disc instead of a ball.
    """
    sides = spacing[shape[0] == 1 :]
    nyquist = min(1 / (2 * abs(d)) for d in sides)
    volume = prod(n * abs(d) for n, d in zip(shape[-len(sides) :], sides, strict=True))
    if len(sides) == len(SPATIAL_AXES):
        limit = (3 * max_size / (4 * pi * volume)) ** (1 / 3)
    else:
        limit = sqrt(max_size / (pi * volume))
    return Band(tuple(shape), tuple(map(float, spacing)), min(nyquist, limit))


def start(shape: tuple[int, ...], *, band: Band) -> State:
    """Return the empty state: half of the coarse grid's spectrum, and the sum of voxels."""
    z, y, x = band.coarse_shape
    spectrum = np.zeros((*shape, z, y, x // 2 + 1), np.complex64)
    return {"spectrum": spectrum, "sum": np.zeros(shape)}


def update(state: State, axes: Sequence[int], block: Array, *positions: Array, band: Band) -> None:
    """Add a block to the state; ``positions`` are its voxel numbers along each of the axes.

    The separable transform is three short matrix products with the band's waves, so a block may
    be any part of a box.
    """
    kept = [a for a in range(block.ndim) if a not in axes]
    volumes = block.transpose(*kept, *axes).reshape(-1, *(block.shape[a] for a in axes))
    waves = [
        _dft_matrix(position.reshape(-1).astype(np.int64), taper, max_index)
        for position, taper, max_index in zip(positions, band.tapers, band.max_index, strict=True)
    ]
    waves_x = np.ascontiguousarray(waves[2][:, band.max_index[2] :]).view(np.float32)
    spectra = state["spectrum"].reshape(-1, *state["spectrum"].shape[-3:])
    with np.errstate(over="ignore", invalid="ignore"):  # ``finish`` finds what overflows
        for n, volume in enumerate(volumes):  # one at a time: intermediates stay in the cache
            transformed = (volume.astype(np.float32) @ waves_x).view(np.complex64)
            transformed = np.matmul(waves[1].T, transformed)
            spectra[n] += np.tensordot(waves[0], transformed, (0, 0))
    state["sum"] += volumes.sum((1, 2, 3), np.float64).reshape(state["sum"].shape)


def _dft_matrix(position: Array, taper: Array, max_index: int) -> Array:
    """Return (voxel, frequency) of exp(-2 pi i h (position - n // 2) / n), tapered."""
    n = len(taper)
    cycles = np.outer(position - n // 2, np.arange(-max_index, max_index + 1)) % n
    return (np.exp(-2j * pi * cycles / n) * taper[position, None]).astype(np.complex64)


def combine(a: State, b: State) -> State:
    """Add the states of two parts of each box."""
    return {name: a[name] + b[name] for name in a}


def finish(state: State, *, band: Band, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return the spectra of the boxes without their tapered means, and the means.

    Raise RangeError for boxes of finite values that float32 cannot transform.
    """
    _require_float32(state)
    at = band.index + np.array(band.max_index)
    at[:, 2] -= band.max_index[2]  # of each pair the one with x >= 0 was kept
    ones = _spectrum_of_ones(band)
    zero = state["spectrum"][..., band.max_index[0], band.max_index[1], 0]
    mean = zero.real / ones[tuple(band.max_index)].real
    values = state["spectrum"][..., at[:, 0], at[:, 1], at[:, 2]]
    values -= mean[..., None] * ones[tuple((band.index + np.array(band.max_index)).T)]
    values *= np.float32(np.sqrt(2 / prod(band.shape)))
    power = np.square(np.abs(values), dtype=np.float64).sum(-1)
    values[power <= band.size * np.square(ROUNDING * mean, dtype=np.float64)] = 0  # constant boxes
    return {"spectra": to_real(values).astype(dtype), "mean": state["sum"] / prod(band.shape)}


def _require_float32(state: State) -> None:
    """Raise RangeError if finite sums belong to spectra that have vanished or overflowed."""
    sums, spectra = state["sum"], state["spectrum"]
    tops = np.abs(spectra).max((-3, -2, -1))
    lost = np.isfinite(sums) & (sums != 0) & ~((tops >= LEAST_SPECTRUM) & (tops < np.inf))
    if lost.any():
        mean = float(sums[lost][0])
        raise RangeError(
            f"screen: values must be between about 1e-36 and 1e33 in magnitude, which float32 can "
            f"transform, got a particle whose voxels add up to {mean:.3g}; divide the stack by "
            f"its standard deviation"
        )


def near_one(spectra: Array) -> Array:
    """Return spectra times one power of two, if products of theirs in float32 would overflow or
    vanish."""
    finite = spectra[np.isfinite(spectra).all(-1)]
    power = exponent(finite)
    if abs(power) <= LARGEST_POWER:
        return spectra
    return np.asarray(spectra * np.float32(2.0 ** -max(power, -126)))


def _spectrum_of_ones(band: Band) -> Array:
    """Return the spectrum of a tapered box of ones, on the coarse grid."""
    z, y, x = (
        _dft_matrix(np.arange(len(taper)), taper, max_index).astype(np.complex128).sum(0)
        for taper, max_index in zip(band.tapers, band.max_index, strict=True)
    )
    return np.asarray((z[:, None, None] * y[:, None] * x).astype(np.complex64))


def to_complex(spectra: Array) -> Array:
    """Return spectra as complex numbers, one per frequency."""
    half = spectra.shape[-1] // 2
    return np.asarray(spectra[..., :half] + 1j * spectra[..., half:])


def to_real(values: Array) -> Array:
    """Return complex numbers, one per frequency, as spectra: real parts, then imaginary parts."""
    return np.concatenate([values.real, values.imag], axis=-1)


def to_volumes(spectra: Array, band: Band) -> Array:
    """Return the band-limited volumes on the coarse grid, of mean 0, centred on voxel n // 2."""
    full = np.zeros((*spectra.shape[:-1], *band.coarse_shape), np.complex128)
    values = to_complex(spectra) / np.sqrt(2 / prod(band.shape))
    full[(..., *(band.index % band.coarse_shape).T)] = values
    full[(..., *(-band.index % band.coarse_shape).T)] = values.conj()
    volumes = scipy.fft.ifftn(full, axes=SPATIAL_AXES, workers=1).real
    return np.fft.fftshift(
        volumes * (prod(band.coarse_shape) / prod(band.shape)), axes=SPATIAL_AXES
    )


def to_spectra(volumes: Array, band: Band) -> Array:
    """Return the spectra of volumes on the coarse grid: the inverse of ``to_volumes``."""
    centred = np.fft.ifftshift(volumes, axes=SPATIAL_AXES)
    full = scipy.fft.fftn(centred, axes=SPATIAL_AXES, workers=1)
    scale = np.sqrt(2 / prod(band.shape)) * prod(band.shape) / prod(band.coarse_shape)
    return to_real(full[(..., *(band.index % band.coarse_shape).T)] * scale)

"""Evenly spread rotations, and spectra of rotated volumes by interpolation in Fourier space."""

from copy import copy
from math import prod, sqrt
from typing import Any, Self

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from lazyvol.kernels._numba import compiled, compiled_sums
from lazyvol.kernels.geometry.rotation_grids import super_fibonacci
from lazyvol.kernels.screening.fourier_coefficients import SPATIAL_AXES, Band

Array = np.ndarray[Any, np.dtype[Any]]

#: factor by which a box is padded before its spectrum is interpolated: errors are 1 % of a compact
#: object's norm (1: 14 %)
PADDING = 2.0


def rotations(n: int) -> Array:
    """Return ``n`` evenly spread rotations, (n, 3, 3) acting on (z, y, x)."""
    return np.asarray(Rotation.from_quat(super_fibonacci(n)).as_matrix())


def in_plane(n: int) -> Array:
    """Return ``n`` rotations about z, evenly spaced together with the identity, as (n, 3, 3)."""
    angles = np.arange(1, n + 1) * (2 * np.pi / (n + 1))
    matrices_xyz = Rotation.from_rotvec(angles[:, None] * [0.0, 0.0, 1.0]).as_matrix()
    return np.asarray(matrices_xyz)[:, ::-1, ::-1]


class RotatedSpectra:
    """Spectra of volumes under any rotation about the centre of the box, in physical lengths.

    ``volumes`` are (volume, z, y, x) on the coarse grid of ``band``. Spectra hold the ``selected``
    frequencies, (frequency,), times ``whitening``, (2 * frequency,).
    """

    def __init__(self, volumes: Array, band: Band, selected: Array, whitening: Array) -> None:
        coarse = np.array(band.coarse_shape)
        padded = tuple(scipy.fft.next_fast_len(int(np.ceil(PADDING * m))) for m in coarse)
        inside = tuple(
            slice(p // 2 - m // 2, p // 2 - m // 2 + m)
            for m, p in zip(band.coarse_shape, padded, strict=True)
        )
        boxes = np.zeros((len(volumes), *padded), np.float32)
        boxes[(slice(None), *inside)] = volumes
        for axis, p in enumerate(padded):
            # linear interpolation of a spectrum multiplies its volume by a squared sinc
            sinc = np.sinc((np.arange(p) - p // 2) / p) ** 2
            boxes /= np.expand_dims(sinc, [n for n in range(3) if n != axis]).astype(np.float32)
        centred = np.fft.ifftshift(boxes, axes=SPATIAL_AXES)
        spectrum = scipy.fft.fftn(centred, axes=SPATIAL_AXES, workers=1)
        scale = sqrt(2 / prod(band.shape)) * prod(band.shape) / prod(band.coarse_shape)
        self._waves = np.ascontiguousarray(np.moveaxis(spectrum * scale, 0, -1), np.complex64)
        self._per_frequency = band.lengths * np.sign(band.spacing) * np.array(padded) / coarse
        self._frequency = band.frequency[selected]
        self._whitening = whitening.astype(np.float32)

    def among(self, part: slice) -> Self:
        """Return these spectra at a part of the selected frequencies."""
        some = copy(self)
        some._frequency = self._frequency[part]
        some._whitening = self._whitening.reshape(2, -1)[:, part].ravel()
        return some

    def at(self, rotation: Array) -> Array:
        """Return the rotated spectra, (volume, number), float32."""
        spectra = np.empty((self._waves.shape[-1], len(self._whitening)), np.float32)
        matrix = rotation * self._per_frequency
        waves = self._waves.view(np.float32)
        _interpolate(waves, self._frequency, matrix, self._whitening, spectra)
        return spectra


@compiled_sums
def _interpolate(waves, frequency, matrix, whitening, out):  # type: ignore[no-untyped-def]
    """Interpolate periodic spectra, along the last axis, trilinearly at rotated frequencies.

    Positions are wrapped once for all spectra, and by addition: a remainder would double the time.
    """
    depth, height, width, reals = waves.shape
    flat, half = waves.reshape(-1), frequency.shape[0]
    offset, share = np.empty(8, np.int64), np.empty(8, np.float32)
    for p in range(half):
        f, g, h = frequency[p]
        at_z = f * matrix[0, 0] + g * matrix[1, 0] + h * matrix[2, 0]
        at_y = f * matrix[0, 1] + g * matrix[1, 1] + h * matrix[2, 1]
        at_x = f * matrix[0, 2] + g * matrix[1, 2] + h * matrix[2, 2]
        z, y, x = np.floor(at_z), np.floor(at_y), np.floor(at_x)
        a, b, c = at_z - z, at_y - y, at_x - x
        for n in range(8):
            i, j, k = n >> 2, (n >> 1) & 1, n & 1
            row = _wrap(np.int64(z) + i, depth) * height + _wrap(np.int64(y) + j, height)
            offset[n] = (row * width + _wrap(np.int64(x) + k, width)) * reals
            share[n] = (
                (a if i else 1.0 - a) * (b if j else 1.0 - b) * (c if k else 1.0 - c) * whitening[p]
            )
        for v in range(reals // 2):
            real, imaginary = np.float32(0), np.float32(0)
            for n in range(8):
                real += share[n] * flat[offset[n] + 2 * v]
                imaginary += share[n] * flat[offset[n] + 2 * v + 1]
            out[v, p], out[v, half + p] = real, imaginary


@compiled
def _wrap(position: int, length: int) -> int:
    """Return a position, at most one period outside, wrapped into [0, length)."""
    if position < 0:
        return position + length
    return position - length if position >= length else position

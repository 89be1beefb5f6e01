"""Rotations evenly spread, and volumes under them, rotated in Fourier space."""

from math import prod, sqrt
from typing import Any

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from lazyvol.kernels._numba import compiled, compiled_sums
from lazyvol.kernels.screening.fourier_coefficients import SPACE, Band

Array = np.ndarray[Any, np.dtype[Any]]

#: a box is padded to this many times its length before its spectrum is interpolated: errors are
#: 1 % of a compact object's norm (1: 14 %)
PADDED = 2.0


def rotations(n: int) -> Array:
    """``n`` rotations evenly spread, (n, 3, 3) acting on (z, y, x).

    Super-Fibonacci spirals (Alexa, CVPR 2022): neighbours are about (8 pi^2 / n)^(1/3) apart.
    """
    # the constants of the paper: the root of 2, and the real root of psi^4 = psi + 4
    turn, wind = sqrt(2.0), 1.533751168755204288118041
    along = np.arange(n) + 0.5
    inner, outer = np.sqrt(along / n), np.sqrt(1 - along / n)
    first, second = 2 * np.pi * along / turn, 2 * np.pi * along / wind
    parts = (
        inner * np.sin(first), inner * np.cos(first), outer * np.sin(second), outer * np.cos(second)
    )  # fmt: skip
    return np.asarray(Rotation.from_quat(np.stack(parts, axis=1)).as_matrix())


def in_plane(n: int) -> Array:
    """``n`` rotations about z, (n, 3, 3) acting on (z, y, x), that part a turn evenly with none."""
    angles = np.arange(1, n + 1) * (2 * np.pi / (n + 1))
    return np.asarray(Rotation.from_rotvec(angles[:, None] * [0.0, 0.0, 1.0]).as_matrix())[
        :, ::-1, ::-1
    ]


class Turned:
    """Rows of volumes under any rotation about the centre of the box, in physical lengths.

    ``volumes`` are (volume, z, y, x) on the cube of ``band``; rows hold those frequencies of the
    band that are ``kept``, (number,), each times ``white``, (2 * number,).
    """

    def __init__(self, volumes: Array, band: Band, kept: Array, white: Array) -> None:
        cube = np.array(band.cube)
        padded = tuple(scipy.fft.next_fast_len(int(np.ceil(PADDED * m))) for m in cube)
        place = tuple(
            slice(p // 2 - m // 2, p // 2 - m // 2 + m)
            for m, p in zip(band.cube, padded, strict=True)
        )
        wide = np.zeros((len(volumes), *padded), np.float32)
        wide[(slice(None), *place)] = volumes
        for axis, p in enumerate(padded):
            # linear interpolation of a spectrum fades its volume by the square of a sinc
            fade = np.sinc((np.arange(p) - p // 2) / p) ** 2
            wide /= np.expand_dims(fade, [n for n in range(3) if n != axis]).astype(np.float32)
        spectrum = scipy.fft.fftn(np.fft.ifftshift(wide, axes=SPACE), axes=SPACE, workers=1)
        scale = sqrt(2 / prod(band.shape)) * prod(band.shape) / prod(band.cube)
        self._waves = np.ascontiguousarray(np.moveaxis(spectrum * scale, 0, -1), np.complex64)
        self._per_frequency = band.lengths * np.sign(band.step) * np.array(padded) / cube
        self._frequency = band.frequency[kept]
        self._white = white.astype(np.float32)

    def rows(self, rotation: Array) -> Array:
        """(volume, number), float32."""
        out = np.empty((self._waves.shape[-1], len(self._white)), np.float32)
        matrix = rotation * self._per_frequency
        _interpolated(self._waves.view(np.float32), self._frequency, matrix, self._white, out)
        return out


@compiled_sums
def _interpolated(waves, frequency, matrix, white, out):  # type: ignore[no-untyped-def]
    """Trilinear interpolation of periodic spectra, the last axis, at rotated frequencies.

    Places are brought into the period once for all spectra, and by addition: a remainder costs
    as much as the rest.
    """
    depth, height, width, reals = waves.shape
    flat, half = waves.reshape(-1), frequency.shape[0]
    first, share = np.empty(8, np.int64), np.empty(8, np.float32)
    for p in range(half):
        f, g, h = frequency[p]
        at_z = f * matrix[0, 0] + g * matrix[1, 0] + h * matrix[2, 0]
        at_y = f * matrix[0, 1] + g * matrix[1, 1] + h * matrix[2, 1]
        at_x = f * matrix[0, 2] + g * matrix[1, 2] + h * matrix[2, 2]
        z, y, x = np.floor(at_z), np.floor(at_y), np.floor(at_x)
        a, b, c = at_z - z, at_y - y, at_x - x
        for n in range(8):
            i, j, k = n >> 2, (n >> 1) & 1, n & 1
            place = _within(np.int64(z) + i, depth) * height + _within(np.int64(y) + j, height)
            first[n] = (place * width + _within(np.int64(x) + k, width)) * reals
            share[n] = (
                (a if i else 1.0 - a) * (b if j else 1.0 - b) * (c if k else 1.0 - c) * white[p]
            )
        for v in range(reals // 2):
            real, imaginary = np.float32(0), np.float32(0)
            for n in range(8):
                real += share[n] * flat[first[n] + 2 * v]
                imaginary += share[n] * flat[first[n] + 2 * v + 1]
            out[v, p], out[v, half + p] = real, imaginary


@compiled
def _within(place: int, length: int) -> int:
    """A place no more than one period away from the period that starts at 0."""
    if place < 0:
        return place + length
    return place - length if place >= length else place

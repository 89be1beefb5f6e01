"""Rotations evenly spread, and volumes under them, rotated in Fourier space."""

from math import prod, sqrt
from typing import Any

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from lazyvol.kernels.bands import SPACE, Band, reals
from lazyvol.kernels.compiled import compiled_sums

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


class Turned:
    """Rows of volumes under any rotation about the centre of the box, in physical lengths.

    ``volumes`` are (volume, z, y, x) on the cube of ``band``.
    """

    def __init__(self, volumes: Array, band: Band) -> None:
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
        self._frequency = band.frequency

    def rows(self, rotation: Array, kept: Array) -> Array:
        """(volume, number) at those frequencies of the band that are kept."""
        at = self._frequency[kept] @ rotation * self._per_frequency
        out = np.zeros((len(at), self._waves.shape[-1]), np.complex64)
        _interpolated(self._waves, at, out)
        return reals(out.T)


@compiled_sums
def _interpolated(waves, at, out):  # type: ignore[no-untyped-def]
    """Trilinear interpolation of periodic spectra, the last axis, at fractional frequencies.

    Places are brought into the period once for all spectra: 0.9 us a frequency became 0.3.
    """
    depth, height, width, count = waves.shape
    flat = waves.reshape(-1)
    for p in range(at.shape[0]):
        z, y, x = np.floor(at[p, 0]), np.floor(at[p, 1]), np.floor(at[p, 2])
        a, b, c = at[p, 0] - z, at[p, 1] - y, at[p, 2] - x
        own = out[p]
        for i in range(2):
            plane = (np.int64(z) + i) % depth * height
            over_z = a if i else 1.0 - a
            for j in range(2):
                row = (plane + (np.int64(y) + j) % height) * width
                over_y = over_z * (b if j else 1.0 - b)
                for k in range(2):
                    first = (row + (np.int64(x) + k) % width) * count
                    share = np.float32(over_y * (c if k else 1.0 - c))
                    place = flat[first : first + count]
                    for v in range(count):
                        own[v] += share * place[v]

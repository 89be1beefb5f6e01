"""Particles moved by parts of voxels: by splines, or by the phases of their Fourier transforms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels.arrays import each_particle, particle_volumes
from lazyvol.kernels.geometry.splines import BoundaryMode, slide

Array = np.ndarray[Any, np.dtype[Any]]


def moved(
    block: Array, *distances: Array, axes: Sequence[int], order: int, mode: BoundaryMode,
    fill: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Every particle moved by its ``distances`` in voxels, one for each of ``axes``.

    One with a distance that is not finite is NaN.
    """
    out = np.empty(block.shape, dtype)
    source, target = particle_volumes(block, axes), particle_volumes(out, axes)
    for index, *distance in each_particle(source.shape[:-3], *distances, axes=axes):
        if np.isfinite(distance).all():
            target[index] = slid(source[index], distance, order, mode, fill)
        else:
            target[index] = np.nan
    return out


def slid(
    volume: Array, distance: Sequence[float] | Array, order: int, mode: BoundaryMode, fill: float
) -> Array:
    """A volume moved along its last axes, float64."""
    found = np.array(volume, np.float64, order="C")
    for axis, d in enumerate(distance, 3 - len(distance)):
        if d:
            slide(found, axis, d, order=order, mode=mode, fill=fill)
    return found


def moved_by_phase(
    block: Array, *distances: Array, axes: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """Every particle, periodic and band-limited, moved by its ``distances`` in voxels."""
    out = np.empty(block.shape, dtype)
    source, target = particle_volumes(block, axes), particle_volumes(out, axes)
    for index, *distance in each_particle(source.shape[:-3], *distances, axes=axes):
        full = [0.0] * (3 - len(distance)) + distance
        if not np.isfinite(full).all():
            target[index] = np.nan
            continue
        spectrum = scipy.fft.rfftn(working(source[index]), workers=1)
        _turn_phases(spectrum, full, source.shape[-3:])
        target[index] = scipy.fft.irfftn(spectrum, source.shape[-3:], workers=1, overwrite_x=True)
    return out


def working(volume: Array) -> Array:
    """A volume of the type that its transform is made in: as exact as its values."""
    single = volume.dtype.kind == "f" and volume.dtype.itemsize <= 4
    return np.ascontiguousarray(volume, np.float32 if single else np.float64)


def centred(volume: Array) -> Array:
    """Values about their mean, float64: the offset is taken away before they are added up, so that
    a constant leaves exactly 0."""
    found = np.array(volume, np.float64)
    if found.size:
        found -= found.flat[0]
        found -= found.mean()
    return found


def exponent(values: Array) -> int:
    """Of the power of two that brings the largest of real values to 1/2 or more, below 1; 0 where
    there is none."""
    top = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    return int(np.frexp(top)[1]) if 0 < top < np.inf else 0


def _turn_phases(spectrum: Array, distance: Sequence[float], shape: Sequence[int]) -> None:
    """Multiply a half spectrum by the phases of a shift, in place.

    The highest frequency of an even length stands for both its signs: of them a real volume keeps
    the mean, a cosine.
    """
    for axis, (n, d) in enumerate(zip(shape, distance, strict=True)):
        frequency = np.fft.rfftfreq(n) if axis == 2 else np.fft.fftfreq(n)
        phase = np.exp(-2j * np.pi * d * frequency)
        if n % 2 == 0:
            phase[n // 2] = np.cos(np.pi * d)
        spectrum *= phase.astype(spectrum.dtype).reshape([-1 if a == axis else 1 for a in range(3)])

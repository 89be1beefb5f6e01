"""Band-pass filter of whole volumes by Fourier transforms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels.magnitude import near_one

Array = np.ndarray[Any, np.dtype[Any]]


def bandpass(
    block: Array,
    *,
    axes: Sequence[int],
    spacing: Sequence[float],
    band: tuple[float, float],
    edge: float,
    dtype: np.dtype[Any],
) -> Array:
    """Return every volume with only the frequencies of ``band``, in cycles per length.

    ``spacing`` is the distance of voxels along each of ``axes``, ``edge`` the width of both cosine
    edges. Transforms are in float64.
    """
    order = [a for a in range(block.ndim) if a not in axes] + list(axes)
    lead = block.ndim - len(axes)
    out = np.empty(block.shape, dtype)
    source, target = block.transpose(order), out.transpose(order)
    shape = source.shape[lead:]
    transfer = transfer_function(_frequencies(shape, spacing), band, edge)
    volume_axes = tuple(range(len(shape)))
    for index in np.ndindex(source.shape[:lead]):
        volume, factor = near_one(np.asarray(source[index], np.float64))
        spectrum = scipy.fft.rfftn(volume, axes=volume_axes, workers=1)
        spectrum *= transfer
        target[index] = scipy.fft.irfftn(
            spectrum, shape, axes=volume_axes, workers=1, overwrite_x=True
        )
        if factor != 1.0:
            target[index] *= factor
    return out


def transfer_function(frequencies: Array, band: tuple[float, float], edge: float) -> Array:
    """Return the amplitude factor of each frequency: 1/2 at both ends, raised cosines about them.

    The lower edge is at most twice its frequency wide, so that the mean does not pass. With a
    lower end of 0 the mean passes; an infinite upper end has no edge.
    """
    low, high = band
    transfer = np.ones(frequencies.shape)
    if np.isfinite(high):
        transfer *= _cosine_step(-frequencies, -high, edge)
    if low > 0:
        transfer *= _cosine_step(frequencies, low, min(edge, 2 * low))
    return transfer


def _cosine_step(frequencies: Array, middle: float, width: float) -> Array:
    """Return 0 to 1 over ``width`` about ``middle``; with width 0, 1 from ``middle`` on."""
    if width == 0:
        return np.asarray(frequencies >= middle, np.float64)
    position = np.clip((frequencies - middle) / width + 0.5, 0.0, 1.0)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * position))


def _frequencies(shape: Sequence[int], spacing: Sequence[float]) -> Array:
    """Return the radial frequency of every element of a half spectrum, in cycles per length."""
    last = scipy.fft.rfftfreq(shape[-1], spacing[-1])
    leading = [scipy.fft.fftfreq(n, d) for n, d in zip(shape[:-1], spacing[:-1], strict=True)]
    grids = np.meshgrid(*leading, last, indexing="ij", sparse=True)
    return np.asarray(np.sqrt(sum(g * g for g in grids)))

"""Volumes through a band of spatial frequencies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft

Array = np.ndarray[Any, np.dtype[Any]]


def bandpass(
    block: Array,
    *,
    axes: Sequence[int],
    steps: Sequence[float],
    band: tuple[float, float],
    edge: float,
    dtype: np.dtype[Any],
) -> Array:
    """Frequencies from ``band[0]`` to ``band[1]``, in cycles per length, of every volume.

    ``steps`` are the distances of voxels along each of ``axes``, ``edge`` is the width of both
    cosine edges.
    Transforms are in float64.
    """
    order = [a for a in range(block.ndim) if a not in axes] + list(axes)
    lead = block.ndim - len(axes)
    out = np.empty(block.shape, dtype)
    source, target = block.transpose(order), out.transpose(order)
    shape = source.shape[lead:]
    share = gain(_radius(shape, steps), band, edge)
    every = tuple(range(len(shape)))
    for index in np.ndindex(source.shape[:lead]):
        found = scipy.fft.rfftn(np.asarray(source[index], np.float64), axes=every, workers=1)
        found *= share
        target[index] = scipy.fft.irfftn(found, shape, axes=every, workers=1, overwrite_x=True)
    return out


def gain(radius: Array, band: tuple[float, float], edge: float) -> Array:
    """Share of each frequency that passes: 1/2 at the ends of the band, raised cosines about them.

    The lower edge is no wider than twice its frequency: the mean does not pass. A lower end of 0
    lets it, and an infinite upper one all there is.
    """
    low, high = band
    passed = np.ones(radius.shape)
    if np.isfinite(high):
        passed *= _rise(-radius, -high, edge)
    if low > 0:
        passed *= _rise(radius, low, min(edge, 2 * low))
    return passed


def _rise(radius: Array, middle: float, width: float) -> Array:
    """0 to 1 over ``width`` about ``middle``; 1 from ``middle`` on where there is no width."""
    if width == 0:
        return np.asarray(radius >= middle, np.float64)
    turn = np.clip((radius - middle) / width + 0.5, 0.0, 1.0)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * turn))


def _radius(shape: Sequence[int], steps: Sequence[float]) -> Array:
    """Frequency of every element of half a spectrum, in cycles per length."""
    last = scipy.fft.rfftfreq(shape[-1], steps[-1])
    rest = [scipy.fft.fftfreq(n, d) for n, d in zip(shape[:-1], steps[:-1], strict=True)]
    grids = np.meshgrid(*rest, last, indexing="ij", sparse=True)
    return np.asarray(np.sqrt(sum(g * g for g in grids)))

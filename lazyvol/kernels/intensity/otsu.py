"""Otsu's threshold of a histogram or of every particle, and masks of values above it."""

from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np

from lazyvol.kernels.reductions import histogram

Array = np.ndarray[Any, np.dtype[Any]]


def otsu(counts: Array, edges: Array) -> Array:
    """Return the centre of the bin that maximizes the variance between both classes, 0-d.

    NaN if there are no counts; the first of several such bins.
    """
    filled = np.flatnonzero(counts)
    if not filled.size:
        return np.array(np.nan)
    span = slice(filled[0], filled[-1] + 1)  # empty bins at the ends would make empty classes
    numbers, centres = counts[span].astype(np.float64), (edges[1:] + edges[:-1])[span] / 2
    if numbers.size == 1:
        return np.array(centres[0])
    below, sums = numbers.cumsum(), (numbers * centres).cumsum()
    above = below[-1] - below[:-1]
    first, second = sums[:-1] / below[:-1], (sums[-1] - sums[:-1]) / above
    return np.array(centres[np.argmax(below[:-1] * above * (first - second) ** 2)])


def above(block: Array, threshold: Array) -> Array:
    """Return True for values above a threshold of one value, False for NaN.

    Integers are compared with the whole part of the threshold, exactly.
    """
    level = threshold.item()
    is_finite = level - level == 0
    whole = is_finite and block.dtype.kind in "iu"
    return np.greater(block, floor(level) if whole else np.float64(level))


def above_otsu(
    block: Array,
    mask: Array | None = None,
    *,
    axes: Sequence[int],
    bins: int,
    limits: tuple[float, float] | None,
) -> Array:
    """Return True for values above the threshold of their particle.

    Bins extend between ``limits``, by default the smallest and the largest value of the particle.
    """
    out = np.empty(block.shape, bool)
    flags = None if mask is None else np.broadcast_to(mask, block.shape)
    rest = [n for a, n in enumerate(block.shape) if a not in axes]
    last = list(range(-len(axes), 0))
    particles, results = np.moveaxis(block, axes, last), np.moveaxis(out, axes, last)
    for index in np.ndindex(*rest):
        values = particles[index]
        valid = None if flags is None else np.moveaxis(flags, axes, last)[index]
        results[index] = above(values, _threshold(values, valid, bins, limits))
    return out


def _threshold(
    values: Array, mask: Array | None, bins: int, limits: tuple[float, float] | None
) -> Array:
    """Return Otsu's threshold of the finite values of a particle."""
    axes = tuple(range(values.ndim))
    if limits is None:
        extent = histogram.start_extent(())
        histogram.update_extent(extent, axes, values, mask)
        limits = float(extent["low"]), float(extent["high"])
        if limits[0] > limits[1]:
            return np.array(np.nan)
    counted, edges = histogram.start((), bins=bins), histogram.bin_edges(*limits, bins)
    others = () if mask is None else (mask,)
    histogram.update(counted, axes, values, *others, masked=mask is not None, edges=edges)
    return otsu(counted["counts"], edges)

"""Otsu's threshold out of a histogram, or of every particle; flags above a threshold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels.reductions import histogram

Array = np.ndarray[Any, np.dtype[Any]]


def otsu(counts: Array, edges: Array) -> Array:
    """Centre of the bin that divides the counts best (largest variance between the classes), 0-d.

    NaN where nothing was counted; of several bins as good, the first.
    """
    filled = np.flatnonzero(counts)
    if not filled.size:
        return np.array(np.nan)
    own = slice(filled[0], filled[-1] + 1)  # empty ends would be classes of nothing
    numbers, centres = counts[own].astype(np.float64), (edges[1:] + edges[:-1])[own] / 2
    if numbers.size == 1:
        return np.array(centres[0])
    below, sums = numbers.cumsum(), (numbers * centres).cumsum()
    above = below[-1] - below[:-1]
    first, second = sums[:-1] / below[:-1], (sums[-1] - sums[:-1]) / above
    return np.array(centres[np.argmax(below[:-1] * above * (first - second) ** 2)])


def above(block: Array, threshold: Array) -> Array:
    """Flags of values above a threshold; NaN is above nothing."""
    return np.greater(block, threshold.astype(np.float64))


def above_otsu(
    block: Array,
    mask: Array | None = None,
    *,
    axes: Sequence[int],
    bins: int,
    ends: tuple[float, float] | None,
) -> Array:
    """Flags of the values of every particle above its own threshold.

    Bins lie between ``ends``, or between the particle's least and greatest value.
    """
    out = np.empty(block.shape, bool)
    flags = None if mask is None else np.broadcast_to(mask, block.shape)
    rest = [n for a, n in enumerate(block.shape) if a not in axes]
    last = list(range(-len(axes), 0))
    turned, into = np.moveaxis(block, axes, last), np.moveaxis(out, axes, last)
    for index in np.ndindex(*rest):
        values = turned[index]
        own = None if flags is None else np.moveaxis(flags, axes, last)[index]
        into[index] = above(values, _threshold(values, own, bins, ends))
    return out


def _threshold(
    values: Array, mask: Array | None, bins: int, ends: tuple[float, float] | None
) -> Array:
    """Otsu's threshold of the finite values of a particle."""
    axes = tuple(range(values.ndim))
    if ends is None:
        extent = histogram.start_ends(())
        histogram.update_ends(extent, axes, values, mask)
        ends = float(extent["low"]), float(extent["high"])
        if ends[0] > ends[1]:
            return np.array(np.nan)
    counted = histogram.start((), bins=bins)
    others = () if mask is None else (mask,)
    histogram.update(counted, axes, values, *others, masked=mask is not None, ends=ends)
    return otsu(counted["counts"], histogram.edges_of(*ends, bins))

"""Sums and Euclidean norms of several separable correlations of one block, in float64."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from lazyvol.kernels.arrays import DOUBLE
from lazyvol.kernels.filters.separable import Weights, separable
from lazyvol.kernels.filters.wide_windows import correlate_axis_by_axis
from lazyvol.kernels.geometry.splines import BoundaryMode

Array = np.ndarray[Any, np.dtype[Any]]


def of_block(block: Array, *, parts: Sequence[Weights], norm: bool, dtype: np.dtype[Any]) -> Array:
    """Return the sum of the valid ``parts``, weights of equal lengths, or their ``norm``."""
    return _combined(partial(separable, block, dtype=DOUBLE), parts, norm, dtype)


def of_whole_volumes(
    block: Array,
    *,
    parts: Sequence[Weights],
    mode: BoundaryMode,
    fill: float,
    norm: bool,
    dtype: np.dtype[Any],
) -> Array:
    """Return the sum or the norm for a block of whole axes, of which one is padded at a time."""
    correlate = partial(correlate_axis_by_axis, block, mode=mode, fill=fill)
    return _combined(correlate, parts, norm, dtype)


def _combined(
    correlate: Callable[[Weights], Array],
    parts: Sequence[Weights],
    norm: bool,
    dtype: np.dtype[Any],
) -> Array:
    total = None
    for weights in parts:
        field = correlate(weights)
        if norm:
            np.multiply(field, field, out=field)
        total = field if total is None else np.add(total, field, out=total)
    if norm and total is not None:
        np.sqrt(total, out=total)
    return np.asarray(total, dtype)

"""Blocks as three axes: what comes before the reduced axes, the reduced ones, and what follows."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def split(block: Array, axes: Sequence[int]) -> Array:
    """C-contiguous (before, reduced, after); a view of ``block`` where its axes are neighbours."""
    axes = sorted(axes)
    if not _neighbours(axes):
        kept = [a for a in range(block.ndim) if a not in axes]
        block = block.transpose(*kept, *axes)
        axes = list(range(len(kept), block.ndim))
    first, last = (axes[0], axes[-1] + 1) if axes else (block.ndim, block.ndim)
    shape = block.shape
    cut = (prod(shape[:first]), prod(shape[first:last]), prod(shape[last:]))
    return np.ascontiguousarray(block.reshape(cut))


def pair(state: Array, axes: Sequence[int]) -> Array:
    """A contiguous state of the kept elements as (before, after), a view."""
    axes = sorted(axes)
    before = prod(state.shape[: axes[0]]) if axes and _neighbours(axes) else state.size
    return state.reshape(before, -1) if state.size else state.reshape(before, 0)


def _neighbours(axes: Sequence[int]) -> bool:
    return list(axes) == list(range(axes[0], axes[-1] + 1)) if axes else True

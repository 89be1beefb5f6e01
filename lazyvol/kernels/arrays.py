"""Blocks as three axes: what comes before the reduced axes, the reduced ones, and what follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Rows:
    """Rows of ``length`` values in flat memory: each begins at one of ``before`` plus one of
    ``reduced``."""

    values: Array
    before: Array
    reduced: Array
    length: int


def rows(block: Array, axes: Sequence[int]) -> Rows:
    """What follows the reduced axes as rows, where it lies.

    Copied only where it has gaps: to copy a tile of an array in memory took three times as long
    as its statistics.
    """
    block, first, last = _together(block, sorted(axes))
    if not (block.flags.c_contiguous or _in_runs(block, last)):
        block = np.ascontiguousarray(block)
    steps = [n // block.itemsize for n in block.strides]
    span = 1 + sum((n - 1) * step for n, step in zip(block.shape, steps, strict=True))
    values = np.lib.stride_tricks.as_strided(block, (span,), (block.itemsize,), writeable=False)
    before = _places(block.shape[:first], steps[:first])
    reduced = _places(block.shape[first:last], steps[first:last])
    return Rows(values, before, reduced, prod(block.shape[last:]))


def _in_runs(block: Array, last: int) -> bool:
    """Whether all that follows the reduced axes lies in its order, and nothing backwards."""
    forwards = all(n >= 0 and n % block.itemsize == 0 for n in block.strides)
    return forwards and block[(0,) * last].flags.c_contiguous


def _places(shape: Sequence[int], steps: Sequence[int]) -> Array:
    """Where each element of some axes begins."""
    found = np.zeros(1, np.int64)
    for n, step in zip(shape, steps, strict=True):
        found = (found[:, None] + np.arange(n) * step).reshape(-1)
    return found


def follow(shape: Sequence[int], axes: Sequence[int]) -> int:
    """How many elements follow the reduced axes, as ``split`` lays out a block of ``shape``."""
    axes = sorted(axes)
    return prod(shape[axes[-1] + 1 :]) if axes and _neighbours(axes) else 1


def split(block: Array, axes: Sequence[int]) -> Array:
    """C-contiguous (before, reduced, after); a view of ``block`` where its axes are neighbours."""
    block, first, last = _together(block, sorted(axes))
    shape = block.shape
    cut = (prod(shape[:first]), prod(shape[first:last]), prod(shape[last:]))
    return np.ascontiguousarray(block.reshape(cut))


def spread(mask: Array, shape: Sequence[int], axes: Sequence[int]) -> Array:
    """A mask that broadcasts to a block of ``shape``, laid out as ``split`` lays out the block.

    Each of the three axes is whole, or has length 1 where all of it shares the mask's values.
    """
    mask, first, last = _together(mask, sorted(axes))
    order = [a for a in range(len(shape)) if a not in axes] + sorted(axes)
    full = tuple(shape) if _neighbours(sorted(axes)) else tuple(shape[a] for a in order)
    wanted, cut = mask.shape, []
    for group in (slice(0, first), slice(first, last), slice(last, len(full))):
        if prod(mask.shape[group]) > 1:
            wanted = (*wanted[: group.start], *full[group], *wanted[group.stop :])
        cut.append(prod(wanted[group]))
    return np.ascontiguousarray(np.broadcast_to(mask, wanted).reshape(cut))


def _together(block: Array, axes: Sequence[int]) -> tuple[Array, int, int]:
    """A block whose reduced axes are neighbours, and where they begin and end."""
    if not _neighbours(axes):
        kept = [a for a in range(block.ndim) if a not in axes]
        block = block.transpose(*kept, *axes)
        axes = list(range(len(kept), block.ndim))
    first, last = (axes[0], axes[-1] + 1) if axes else (block.ndim, block.ndim)
    return block, first, last


def pair(state: Array, axes: Sequence[int]) -> Array:
    """A contiguous state of the kept elements as (before, after), a view."""
    axes = sorted(axes)
    before = prod(state.shape[: axes[0]]) if axes and _neighbours(axes) else state.size
    return state.reshape(before, -1) if state.size else state.reshape(before, 0)


def _neighbours(axes: Sequence[int]) -> bool:
    return list(axes) == list(range(axes[0], axes[-1] + 1)) if axes else True

"""Selections as people write them, as one pick per axis."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lazyvol.plan import regions
from lazyvol.plan.recipe import Array
from lazyvol.plan.selecting import Pick


def picks(index: Any, shape: Sequence[int]) -> tuple[Pick, ...] | None:
    """A selection as one pick per axis; None where dask itself has to do it."""
    index = index if isinstance(index, tuple) else (index,)
    if any(i is None for i in index) or sum(i is Ellipsis for i in index) > 1:
        return None
    if Ellipsis in [i if i is Ellipsis else 0 for i in index]:
        at = next(n for n, i in enumerate(index) if i is Ellipsis)
        fill = (slice(None),) * (len(shape) - len(index) + 1)
        index = index[:at] + fill + index[at + 1 :]
    index = index + (slice(None),) * (len(shape) - len(index))
    if len(index) != len(shape):
        return None
    found = [_pick(i, n) for i, n in zip(index, shape, strict=True)]
    if any(p is None for p in found) or sum(isinstance(p, tuple) for p in found) > 1:
        return None
    return tuple(p for p in found if p is not None)


def _pick(index: Any, length: int) -> Pick | None:
    if isinstance(index, slice):
        start, stop, step = index.indices(length)
        return slice(start, max(start, stop), step) if step > 0 else None
    if isinstance(index, (int, np.integer)) and not isinstance(index, (bool, np.bool_)):
        if not -length <= index < length:
            raise IndexError(f"index {int(index)} is out of bounds for an axis of length {length}")
        return int(index) % length
    if isinstance(index, (list, np.ndarray)):
        return _listed(np.asarray(index), length)
    return None


def _listed(index: Array, length: int) -> Pick | None:
    if index.ndim != 1:
        return None
    if index.dtype == bool:
        if len(index) != length:
            raise IndexError(f"a mask of {len(index)} does not fit an axis of length {length}")
        index = np.flatnonzero(index)
    if index.size and (index.dtype.kind not in "iu"):
        return None
    if index.size and not (-length <= index.min() and index.max() < length):
        raise IndexError(f"a list reaches outside an axis of length {length}")
    return tuple(int(i) % length for i in index)


def selects(index: Any, shape: Sequence[int]) -> bool:
    """Whether a selection can be part of a recipe: dask itself has to do the others."""
    plain = index if isinstance(index, tuple) else (index,)
    if any(i is None for i in plain):
        return all(i is None or i is Ellipsis or is_full(i) for i in plain)
    return picks(index, shape) is not None


def is_full(index: Any) -> bool:
    return isinstance(index, slice) and index == slice(None)


def cut(chunks: Sequence[int], pick: Pick) -> tuple[int, ...]:
    """Chunks of a picked axis: a slice keeps the cuts, a list gets chunks of the same length."""
    if isinstance(pick, slice):
        length = len(range(pick.start, pick.stop, pick.step))
        found = {-(-(e - pick.start) // pick.step) for e in regions.edges(chunks)}
        cuts = sorted({min(length, max(0, c)) for c in found} | {0, length})
        return tuple(b - a for a, b in pairwise(cuts)) or (0,)
    return regions.cover(len(pick), max(chunks, default=1)) if isinstance(pick, tuple) else ()

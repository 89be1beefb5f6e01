"""Histograms with bins of equal width, as ``numpy.histogram``, and the extent of the values."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import as_three_axes, numba_compatible, read_only

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: passed to kernels for a mask that is not used
NO_MASK = np.ones((1, 1, 1), bool)


def bin_edges(low: float, high: float, bins: int) -> Array:
    """Return the edges of bins between two limits; equal ones are moved 0.5 apart on each side."""
    widening = 0.5 if low == high else 0.0
    return np.linspace(low - widening, high + widening, bins + 1)


def full_mask(mask: Array | None, shape: tuple[int, ...], axes: Sequence[int]) -> Array:
    """Return a mask, repeated to ``shape``, in the layout of ``as_three_axes``."""
    if mask is None:
        return read_only(NO_MASK)
    return read_only(as_three_axes(np.broadcast_to(mask, shape), axes))


def start(shape: tuple[int, ...], *, bins: int) -> State:
    """Return a state with empty bins."""
    return {"counts": np.zeros((*shape, bins), np.int64)}


def update(
    state: State,
    axes: Sequence[int],
    block: Array,
    *others: Array,
    masked: bool,
    limits: tuple[float, float] | None,
) -> None:
    """Count a block; ``others`` are a mask if ``masked``, and both limits if they are None."""
    counts = state["counts"]
    low, high = limits if limits is not None else (float(end.item()) for end in others[-2:])
    values = read_only(as_three_axes(numba_compatible(block), axes))
    valid = full_mask(others[0] if masked else None, block.shape, axes)
    bins = counts.shape[-1]
    edges = bin_edges(low, high, bins)
    _count(values, valid, masked, edges, counts.reshape(values.shape[0], values.shape[2], bins))


@compiled
def bin_of(v, edges):  # type: ignore[no-untyped-def]
    """Return the bin of a value as ``numpy.histogram``, -1 for NaN and values outside.

    The quotient may be one bin off, so the value is compared with the edges.
    """
    bins = edges.size - 1
    first, last = edges[0], edges[bins]
    if not (v >= first and v <= last):
        return -1
    width = last - first
    f = (v - first) / width * bins if width > 0 else 0.0
    i = int(f) if f < bins else bins - 1
    if v < edges[i]:
        i -= 1
    if i != bins - 1 and v >= edges[i + 1]:
        i += 1
    return i


@compiled
def _count(x, valid, masked, edges, counts):  # type: ignore[no-untyped-def]
    for a in range(x.shape[0]):
        for r in range(x.shape[1]):
            for j in range(x.shape[2]):
                if masked and not valid[a, r, j]:
                    continue
                i = bin_of(np.float64(x[a, r, j]), edges)
                if i >= 0:
                    counts[a, j, i] += 1


def combine(a: State, b: State) -> State:
    """Add the counts of ``b`` to ``a``."""
    a["counts"] += b["counts"]
    return a


def finish(state: State) -> State:
    """Return the counts."""
    return state


def start_extent(shape: tuple[int, ...]) -> State:
    """Return a state for which every finite value is a new extreme."""
    return {"low": np.full(shape, np.inf), "high": np.full(shape, -np.inf)}


def update_extent(
    state: State, axes: Sequence[int], block: Array, mask: Array | None = None
) -> None:
    """Take the finite values of a whole block into the extent."""
    values = read_only(as_three_axes(numba_compatible(block), axes))
    valid = full_mask(mask, block.shape, axes)
    low, high = _extent(values.ravel(), valid.ravel(), mask is not None)
    np.minimum(state["low"], low, out=state["low"])
    np.maximum(state["high"], high, out=state["high"])


@compiled
def _extent(x, valid, masked):  # type: ignore[no-untyped-def]
    low, high = np.inf, -np.inf
    for j in range(x.size):
        v = np.float64(x[j])
        if not np.isfinite(v) or (masked and not valid[j]):
            continue
        low = min(low, v)
        high = max(high, v)
    return low, high


def combine_extents(a: State, b: State) -> State:
    """Return the extent of the values of both states."""
    return {"low": np.minimum(a["low"], b["low"]), "high": np.maximum(a["high"], b["high"])}


def finish_extent(state: State, *, bins: int) -> State:
    """Return both extremes and the edges of bins between them; 0 and 1 if there are no values."""
    low, high = float(state["low"]), float(state["high"])
    if low > high:
        low, high = 0.0, 1.0
    return {"low": np.array(low), "high": np.array(high), "edges": bin_edges(low, high, bins)}

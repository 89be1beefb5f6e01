"""Histograms of values or of their weights, as ``numpy.histogram``, and the extent of the values.

Sums of weights are in double-double arithmetic (see ``double_double``).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import as_three_axes, numba_compatible, read_only
from lazyvol.kernels.magnitude import require_exact
from lazyvol.kernels.reductions.double_double import merge, two_sum

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
    edges: Array | None,
    even: bool = True,
) -> None:
    """Count a block; ``others`` are a mask if ``masked``, and both limits if ``edges`` is None.

    ``even`` edges are those of ``bin_edges``.
    """
    counts = state["counts"]
    bounds = _edges(edges, others, counts.shape[-1])
    values = read_only(as_three_axes(numba_compatible(block), axes))
    valid = full_mask(others[0] if masked else None, block.shape, axes)
    rows = counts.reshape(values.shape[0], values.shape[2], -1)
    _count(values, valid, masked, bounds, even, rows)


def _edges(edges: Array | None, others: Sequence[Array], bins: int) -> Array:
    """Return ``edges``, or even edges between the limits at the end of ``others``."""
    if edges is not None:
        return edges
    low, high = (float(end.item()) for end in others[-2:])
    return bin_edges(low, high, bins)


def start_sums(shape: tuple[int, ...], *, bins: int) -> State:
    """Return a state with empty bins for sums of weights."""
    return {"high": np.zeros((*shape, bins)), "low": np.zeros((*shape, bins))}


def update_sums(
    state: State,
    axes: Sequence[int],
    block: Array,
    *others: Array,
    masked: bool,
    edges: Array | None,
    even: bool = True,
) -> None:
    """Add the weights of a block; ``others`` are as in ``update``, with the weights after the mask.

    Values and weights become float64, so that one compiled function serves all types.
    """
    high, low = state["high"], state["low"]
    bounds = _edges(edges, others, high.shape[-1])
    values, weights = (
        read_only(as_three_axes(np.broadcast_to(a, block.shape).astype(np.float64), axes))
        for a in (block, others[int(masked)])
    )
    valid = full_mask(others[0] if masked else None, block.shape, axes)
    rows = (values.shape[0], values.shape[2], -1)
    _add(values, valid, masked, weights, bounds, even, high.reshape(rows), low.reshape(rows))


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
def _bin_between(v, edges):  # type: ignore[no-untyped-def]
    """Return the bin of a value between edges of any distances, -1 for NaN and values outside."""
    low, high = 0, edges.size - 1
    if not (v >= edges[low] and v <= edges[high]):
        return -1
    while high - low > 1:
        middle = (low + high) // 2
        if v >= edges[middle]:
            low = middle
        else:
            high = middle
    return low


@compiled
def _count(x, valid, masked, edges, even, counts):  # type: ignore[no-untyped-def]
    for a in range(x.shape[0]):
        for r in range(x.shape[1]):
            for j in range(x.shape[2]):
                if masked and not valid[a, r, j]:
                    continue
                v = np.float64(x[a, r, j])
                i = bin_of(v, edges) if even else _bin_between(v, edges)
                if i >= 0:
                    counts[a, j, i] += 1


@compiled
def _add(x, valid, masked, weights, edges, even, high, low):  # type: ignore[no-untyped-def]
    for a in range(x.shape[0]):
        for r in range(x.shape[1]):
            for j in range(x.shape[2]):
                if masked and not valid[a, r, j]:
                    continue
                i = bin_of(x[a, r, j], edges) if even else _bin_between(x[a, r, j], edges)
                if i >= 0:
                    s, e = two_sum(high[a, j, i], weights[a, r, j])
                    high[a, j, i] = s
                    low[a, j, i] += e


def combine(a: State, b: State) -> State:
    """Add the counts of ``b`` to ``a``."""
    a["counts"] += b["counts"]
    return a


def combine_sums(a: State, b: State) -> State:
    """Add the sums of ``b`` to ``a``."""
    merge(*(state[part].reshape(-1) for state in (a, b) for part in ("high", "low")))
    return a


def finish(state: State) -> State:
    """Return the counts."""
    return state


def finish_sums(state: State) -> State:
    """Return the rounded sums; an infinite one has no rest."""
    high = state["high"]
    return {"counts": np.add(high, state["low"], out=high.copy(), where=np.isfinite(high))}


def start_extent(shape: tuple[int, ...]) -> State:
    """Return a state for which every finite value is a new extreme."""
    return {"low": np.full(shape, np.inf), "high": np.full(shape, -np.inf)}


def update_extent(
    state: State, axes: Sequence[int], block: Array, mask: Array | None = None
) -> None:
    """Extend the extremes to the finite values of a whole block."""
    require_exact("histogram", block, mask)
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

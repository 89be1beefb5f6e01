"""Values counted in bins of equal width, as ``numpy.histogram`` counts them, and their range."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import as_three_axes, numba_compatible, read_only

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: stands for a mask where there is none
ALL = np.ones((1, 1, 1), bool)


def edges_of(low: float, high: float, bins: int) -> Array:
    """Edges of ``bins`` bins from ``low`` to ``high``, a half further on each side if equal."""
    widen = 0.5 if low == high else 0.0
    return np.linspace(low - widen, high + widen, bins + 1)


def flags(mask: Array | None, shape: tuple[int, ...], axes: Sequence[int]) -> Array:
    """A mask laid out as ``as_three_axes`` lays out a block of ``shape``."""
    return read_only(ALL if mask is None else as_three_axes(np.broadcast_to(mask, shape), axes))


def start(shape: tuple[int, ...], *, bins: int) -> State:
    """Empty bins."""
    return {"counts": np.zeros((*shape, bins), np.int64)}


def update(
    state: State,
    axes: Sequence[int],
    block: Array,
    *others: Array,
    masked: bool,
    ends: tuple[float, float] | None,
) -> None:
    """Count a block; ``others`` are a mask where ``masked``, then both ends where not given."""
    counts = state["counts"]
    low, high = ends if ends is not None else (float(b.item()) for b in others[-2:])
    values = read_only(as_three_axes(numba_compatible(block), axes))
    valid = flags(others[0] if masked else None, block.shape, axes)
    bins = counts.shape[-1]
    bounds = edges_of(low, high, bins)
    _count(values, valid, masked, bounds, counts.reshape(values.shape[0], values.shape[2], bins))


@compiled
def _count(x, valid, masked, edges, counts):  # type: ignore[no-untyped-def]
    """The arithmetic of ``numpy.histogram``: a quotient that may be one bin off, then edges."""
    bins = edges.size - 1
    first, last = edges[0], edges[bins]
    width = last - first
    for a in range(x.shape[0]):
        for r in range(x.shape[1]):
            for j in range(x.shape[2]):
                v = np.float64(x[a, r, j])
                if not (v >= first and v <= last) or (masked and not valid[a, r, j]):
                    continue
                f = (v - first) / width * bins if width > 0 else 0.0
                i = int(f) if f < bins else bins - 1
                if v < edges[i]:
                    i -= 1
                if i != bins - 1 and v >= edges[i + 1]:
                    i += 1
                counts[a, j, i] += 1


def combine(a: State, b: State) -> State:
    """Both counts as one, in the memory of the first."""
    a["counts"] += b["counts"]
    return a


def finish(state: State) -> State:
    """The counts themselves."""
    return state


def start_ends(shape: tuple[int, ...]) -> State:
    """Ends that any finite value moves."""
    return {"low": np.full(shape, np.inf), "high": np.full(shape, -np.inf)}


def update_ends(state: State, axes: Sequence[int], block: Array, mask: Array | None = None) -> None:
    """Least and greatest finite value of all of a block."""
    values = read_only(as_three_axes(numba_compatible(block), axes))
    valid = flags(mask, block.shape, axes)
    low, high = _ends(values.ravel(), valid.ravel(), mask is not None)
    np.minimum(state["low"], low, out=state["low"])
    np.maximum(state["high"], high, out=state["high"])


@compiled
def _ends(x, valid, masked):  # type: ignore[no-untyped-def]
    low, high = np.inf, -np.inf
    for j in range(x.size):
        v = np.float64(x[j])
        if not np.isfinite(v) or (masked and not valid[j]):
            continue
        low = min(low, v)
        high = max(high, v)
    return low, high


def combine_ends(a: State, b: State) -> State:
    """The outer ends of both."""
    return {"low": np.minimum(a["low"], b["low"]), "high": np.maximum(a["high"], b["high"])}


def finish_ends(state: State, *, bins: int) -> State:
    """Both ends and the edges of the bins between them; 0 and 1 where there are no values."""
    low, high = float(state["low"]), float(state["high"])
    if low > high:
        low, high = 0.0, 1.0
    return {"low": np.array(low), "high": np.array(high), "edges": edges_of(low, high, bins)}

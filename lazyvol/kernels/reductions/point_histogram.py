"""Weights of points gathered in the cells of a grid.

Positions are in cells: cell i reaches from i - 1/2 to i + 1/2. Sums are carried in
double-double (see ``exact``), so that they do not depend on how the points are cut into chunks.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import numba_compatible, read_only
from lazyvol.kernels.reductions.double_double import two_sum

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: axes of a grid as the loops see it; those it has not are of length 1, and come first
AXES = 3
#: points whose cells are found before anything is added to them: 4 million points in 128^3 cells
#: took 60 ms one by one, 15 ms so
SOME = 512


def cells(
    block: Array, *, order: Sequence[int], first: Sequence[float], step: Sequence[float]
) -> Array:
    """Positions (..., point, axis) in cells of a grid of three axes: component ``order[i]`` along
    the i-th of the last ones, 0 along those that the grid has not."""
    found = np.zeros((*block.shape[:-1], AXES))
    native = numba_compatible(block)
    rows = read_only(np.ascontiguousarray(native).reshape(-1, block.shape[-1]))
    _scaled(found.reshape(-1, AXES), rows, *map(np.array, (order, first, step)))
    return found


@compiled
def _scaled(out, rows, order, first, step):  # type: ignore[no-untyped-def]
    lacking = out.shape[1] - order.size
    for i in range(out.shape[0]):
        for axis in range(order.size):
            place = (np.float64(rows[i, order[axis]]) - first[axis]) / step[axis]
            out[i, lacking + axis] = place


def start(shape: tuple[int, ...], *, grid: Sequence[int], exact: bool) -> State:
    """Empty cells; whole counts need no low halves."""
    if exact:
        return {"counts": np.zeros((*shape, *grid), np.int64)}
    return {"sums": np.zeros((*shape, *grid, 2))}


def update(
    state: State, axes: Sequence[int], block: Array, weights: Array | None = None, *,
    grid: Sequence[int], linear: bool,
) -> None:  # fmt: skip
    """Add points (..., point, 3) in cells, every one or with ``weights`` (..., point, 1)."""
    rows, n = prod(block.shape[:-2]), block.shape[-2]
    places = read_only(np.ascontiguousarray(block.reshape(rows, n, AXES)))
    shape = (1,) * (AXES - len(grid)) + tuple(grid)
    if "counts" in state:
        _count(places, *shape, state["counts"].reshape(rows, -1))
        return
    once = np.ones((1,) * block.ndim) if weights is None else weights.astype(np.float64)
    each = read_only(np.broadcast_to(once[..., 0], block.shape[:-1]).reshape(rows, n))
    gather = _share if linear else _place
    gather(places, each, *shape, state["sums"].reshape(rows, -1, 2))


def combine(a: State, b: State) -> State:
    """Both sums as one, in the memory of the first."""
    if "counts" in a:
        a["counts"] += b["counts"]
    else:
        _merge(a["sums"].reshape(-1, 2), b["sums"].reshape(-1, 2))
    return a


def finish(state: State) -> State:
    """The sums, rounded once."""
    if "counts" in state:
        return {"sum": state["counts"]}
    high, low = state["sums"][..., 0], state["sums"][..., 1]
    return {"sum": np.add(high, low, out=high.copy(), where=np.isfinite(high))}


@compiled
def _merge(sums, others):  # type: ignore[no-untyped-def]
    for cell in range(sums.shape[0]):
        s, e = two_sum(sums[cell, 0], others[cell, 0])
        sums[cell, 0] = s
        sums[cell, 1] += e + others[cell, 1]


@compiled
def _at(p, n):  # type: ignore[no-untyped-def]
    """Cell along an axis of ``n``; -1 outside. The last cell has its far edge too."""
    inside = p >= -0.5 and p <= n - 0.5
    at = int(p + 0.5) if inside else -1
    if inside and p < at - 0.5:  # the sum was rounded up
        at -= 1
    return min(n - 1, at)


@compiled
def _cells(places, depth, height, width, found):  # type: ignore[no-untyped-def]
    """Numbers of the cells that points lie in; -1 outside."""
    for i in range(places.shape[0]):
        z, y, x = _at(places[i, 0], depth), _at(places[i, 1], height), _at(places[i, 2], width)
        found[i] = (z * height + y) * width + x if z >= 0 and y >= 0 and x >= 0 else -1


@compiled
def _count(places, depth, height, width, counts):  # type: ignore[no-untyped-def]
    found = np.empty(SOME, np.int64)
    for row in range(places.shape[0]):
        own = counts[row]
        for start in range(0, places.shape[1], SOME):
            some = places[row, start : start + SOME]
            _cells(some, depth, height, width, found)
            for i in range(some.shape[0]):
                if found[i] >= 0:
                    own[found[i]] += 1


@compiled
def _place(places, weights, depth, height, width, sums):  # type: ignore[no-untyped-def]
    found = np.empty(SOME, np.int64)
    for row in range(places.shape[0]):
        for start in range(0, places.shape[1], SOME):
            some = places[row, start : start + SOME]
            _cells(some, depth, height, width, found)
            _gather(sums[row], found[: some.shape[0]], weights[row, start : start + SOME])


@compiled
def _gather(sums, found, weights):  # type: ignore[no-untyped-def]
    for i in range(found.size):
        cell = found[i]
        if cell >= 0:
            s, e = two_sum(sums[cell, 0], weights[i])
            sums[cell, 0] = s
            sums[cell, 1] += e


@compiled
def _share(places, weights, depth, height, width, sums):  # type: ignore[no-untyped-def]
    """Every point to the 8 cells about it, by its distance from their centres."""
    found, shares = np.empty(SOME, np.int64), np.empty(SOME)
    for row in range(places.shape[0]):
        for start in range(0, places.shape[1], SOME):
            some, heavy = places[row, start : start + SOME], weights[row, start : start + SOME]
            n = some.shape[0]
            for corner in range(8):
                _corners(some, heavy, corner, depth, height, width, found, shares)
                _gather(sums[row], found[:n], shares[:n])


@compiled
def _near(p, n, beyond):  # type: ignore[no-untyped-def]
    """One of the two cells about a point along an axis, and its share; -1 if there is none."""
    at = int(np.floor(p)) + beyond if p > -1.0 and p < n else -1
    share = 1.0 - abs(p - at)
    return (at if at < n and share > 0.0 else -1), share


@compiled
def _corners(places, weights, corner, depth, height, width, found, shares):  # type: ignore[no-untyped-def]
    for i in range(places.shape[0]):
        z, first = _near(places[i, 0], depth, corner >> 2)
        y, second = _near(places[i, 1], height, (corner >> 1) & 1)
        x, third = _near(places[i, 2], width, corner & 1)
        found[i] = (z * height + y) * width + x if z >= 0 and y >= 0 and x >= 0 else -1
        shares[i] = weights[i] * (first * second * third)

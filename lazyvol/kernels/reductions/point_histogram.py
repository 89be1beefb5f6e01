"""Histogram of weighted points on the cells of a grid.

Positions are in cells: cell i reaches from i - 1/2 to i + 1/2. Sums are in double-double arithmetic
(see ``double_double``), so they do not depend on how the points are chunked.
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

#: axes of a grid in compiled loops; missing ones come first and have length 1
AXES = 3
#: points whose cells are computed before these are added to: 4 million points in 128^3 cells take
#: 15 ms, 60 ms point by point
BATCH = 512


def to_cells(
    block: Array, *, order: Sequence[int], first: Sequence[float], step: Sequence[float]
) -> Array:
    """Return positions (..., point, axis) in cells of a grid of three axes.

    Column ``order[i]`` of the positions belongs to the i-th axis of the grid; missing axes are 0.
    """
    positions = np.zeros((*block.shape[:-1], AXES))
    rows = numba_compatible(block).reshape(-1, block.shape[-1])
    origin, spacing = np.array(first), np.array(step)
    _to_cells(
        positions.reshape(-1, AXES), read_only(np.ascontiguousarray(rows)), np.array(order),
        origin, spacing,
    )  # fmt: skip
    return positions


@compiled
def _to_cells(out, rows, order, first, step):  # type: ignore[no-untyped-def]
    missing = out.shape[1] - order.size
    for i in range(out.shape[0]):
        for axis in range(order.size):
            position = (np.float64(rows[i, order[axis]]) - first[axis]) / step[axis]
            out[i, missing + axis] = position


def start(shape: tuple[int, ...], *, grid: Sequence[int], exact: bool) -> State:
    """Return an empty grid; ``exact`` for counts, which are int64."""
    if exact:
        return {"counts": np.zeros((*shape, *grid), np.int64)}
    return {"sums": np.zeros((*shape, *grid, 2))}


def update(
    state: State, axes: Sequence[int], block: Array, weights: Array | None = None, *,
    grid: Sequence[int], linear: bool,
) -> None:  # fmt: skip
    """Add points (..., point, 3) in cells, each as 1 or with ``weights`` (..., point, 1)."""
    rows, n = prod(block.shape[:-2]), block.shape[-2]
    positions = read_only(np.ascontiguousarray(block.reshape(rows, n, AXES)))
    shape = (1,) * (AXES - len(grid)) + tuple(grid)
    if "counts" in state:
        _count(positions, *shape, state["counts"].reshape(rows, -1))
        return
    weights = np.ones((1,) * block.ndim) if weights is None else weights.astype(np.float64)
    per_point = np.broadcast_to(weights[..., 0], block.shape[:-1]).reshape(rows, n)
    add_points = _add_linear if linear else _add_nearest
    add_points(positions, read_only(per_point), *shape, state["sums"].reshape(rows, -1, 2))


def combine(a: State, b: State) -> State:
    """Add ``b`` to ``a`` in place."""
    if "counts" in a:
        a["counts"] += b["counts"]
    else:
        _merge(a["sums"].reshape(-1, 2), b["sums"].reshape(-1, 2))
    return a


def finish(state: State) -> State:
    """Return the counts, or the sums rounded to float64."""
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
def _nearest_cell(p, n):  # type: ignore[no-untyped-def]
    """Return the cell along an axis of ``n``, -1 outside. The last cell includes its far edge."""
    inside = p >= -0.5 and p <= n - 0.5
    cell = int(p + 0.5) if inside else -1
    if inside and p < cell - 0.5:  # the sum was rounded up
        cell -= 1
    return min(n - 1, cell)


@compiled
def _nearest_cells(positions, depth, height, width, cells):  # type: ignore[no-untyped-def]
    """Set the flat index of the cell of each point, -1 outside."""
    for i in range(positions.shape[0]):
        z = _nearest_cell(positions[i, 0], depth)
        y = _nearest_cell(positions[i, 1], height)
        x = _nearest_cell(positions[i, 2], width)
        cells[i] = (z * height + y) * width + x if z >= 0 and y >= 0 and x >= 0 else -1


@compiled
def _count(positions, depth, height, width, counts):  # type: ignore[no-untyped-def]
    cells = np.empty(BATCH, np.int64)
    for row in range(positions.shape[0]):
        row_counts = counts[row]
        for start in range(0, positions.shape[1], BATCH):
            batch = positions[row, start : start + BATCH]
            _nearest_cells(batch, depth, height, width, cells)
            for i in range(batch.shape[0]):
                if cells[i] >= 0:
                    row_counts[cells[i]] += 1


@compiled
def _add_nearest(positions, weights, depth, height, width, sums):  # type: ignore[no-untyped-def]
    cells = np.empty(BATCH, np.int64)
    for row in range(positions.shape[0]):
        for start in range(0, positions.shape[1], BATCH):
            batch = positions[row, start : start + BATCH]
            _nearest_cells(batch, depth, height, width, cells)
            _add_to_cells(sums[row], cells[: batch.shape[0]], weights[row, start : start + BATCH])


@compiled
def _add_to_cells(sums, cells, weights):  # type: ignore[no-untyped-def]
    for i in range(cells.size):
        cell = cells[i]
        if cell >= 0:
            s, e = two_sum(sums[cell, 0], weights[i])
            sums[cell, 0] = s
            sums[cell, 1] += e


@compiled
def _add_linear(positions, weights, depth, height, width, sums):  # type: ignore[no-untyped-def]
    """Add every point to the 8 cells around it, weighted by its distance from their centres."""
    cells, shares = np.empty(BATCH, np.int64), np.empty(BATCH)
    for row in range(positions.shape[0]):
        for start in range(0, positions.shape[1], BATCH):
            batch = positions[row, start : start + BATCH]
            batch_weights = weights[row, start : start + BATCH]
            n = batch.shape[0]
            for corner in range(8):
                _corner_cells(batch, batch_weights, corner, depth, height, width, cells, shares)
                _add_to_cells(sums[row], cells[:n], shares[:n])


@compiled
def _linear_cell(p, n, upper):  # type: ignore[no-untyped-def]
    """Return the lower or upper cell next to a point along an axis (-1 if none) and its share."""
    cell = int(np.floor(p)) + upper if p > -1.0 and p < n else -1
    share = 1.0 - abs(p - cell)
    return (cell if cell < n and share > 0.0 else -1), share


@compiled
def _corner_cells(positions, weights, corner, depth, height, width, cells, shares):  # type: ignore[no-untyped-def]
    for i in range(positions.shape[0]):
        z, share_z = _linear_cell(positions[i, 0], depth, corner >> 2)
        y, share_y = _linear_cell(positions[i, 1], height, (corner >> 1) & 1)
        x, share_x = _linear_cell(positions[i, 2], width, corner & 1)
        cells[i] = (z * height + y) * width + x if z >= 0 and y >= 0 and x >= 0 else -1
        shares[i] = weights[i] * (share_z * share_y * share_x)

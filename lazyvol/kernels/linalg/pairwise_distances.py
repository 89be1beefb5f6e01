"""Distances between volumes from blocked matrix products.

Every metric is computed from the squared difference of each pair, and from the sum and the sum of
squares of each volume. Over a run of voxels the squared difference is |x|^2 + |y|^2 - 2 x.y, where
one BLAS call computes the products of all pairs. Pairs that lose digits to cancellation are
recognized by the ratio of these terms, and summed again as (x - y)^2 over that run of voxels.
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled, compiled_sums
from lazyvol.kernels.magnitude import largest, require_exact, require_squares

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: shift that is subtracted from the voxels before they are multiplied: one for all volumes, or one
#: for each; metrics without an entry have no shift
SHIFTS = {"euclidean": "common", "squared": "common", "ncc": "own"}

#: bytes of one run of voxels in float64, of rows and columns together: near the size of a
#: second-level cache
STRETCH_BYTES = 4 * 2**20
#: by item size of the result: |x - y|^2 / (|x|^2 + |y|^2) below which a run is summed by
#: differences. The product leaves a relative error of 2e-16 / ratio in the square: of float64 at
#: most 1e-14 of a distance
CANCELLATION = {2: 1e-6, 4: 1e-6, 8: 0.02}

#: rows of the result that are finished at a time, to bound the temporary memory
SLAB_ROWS = 64
#: arrays of a state that have one entry or row per row of the result
PER_ROW = ("square", "row_sum", "row_norm", "row_shift", "row_largest")
#: metrics that do not depend on the scale of a volume
SCALE_FREE = ("cosine", "ncc")


def start(rows: int, columns: int) -> State:
    """Return the empty state of all pairs of ``rows`` and ``columns``."""
    state = {"square": np.zeros((rows, columns)), "voxels": np.zeros(())}
    for side, n in (("row", rows), ("column", columns)):
        state |= {f"{side}_{part}": np.zeros(n) for part in ("sum", "norm", "shift", "largest")}
    return state


def update(
    state: State,
    place: slice,
    rows: Array,
    columns: Array,
    mask: Array | None,
    *,
    metric: str,
    itemsize: int,
    fresh: bool,
    first: bool,
) -> None:
    """Add a tile of voxels of all ``rows`` and of the ``columns`` at ``place``.

    ``mask`` covers the voxels of a tile. ``fresh`` is set while the rows meet their first
    columns, ``first`` at the first tile of voxels. ``itemsize`` is that of the result.
    """
    flags = None if mask is None else np.broadcast_to(mask, rows.shape[1:]).ravel()
    rows, columns = rows.reshape(len(rows), -1), columns.reshape(len(columns), -1)
    step = max(64, STRETCH_BYTES // (8 * (len(rows) + len(columns))))
    for offset in range(0, rows.shape[1], step):
        stretch = slice(offset, offset + step)
        selected = None if flags is None else flags[stretch]
        require_exact("distances", columns[:, stretch], selected)
        x, y = _as_float64(rows[:, stretch], selected), _as_float64(columns[:, stretch], selected)
        if first and offset == 0:
            _choose_shifts(state, place, x, y, SHIFTS.get(metric), fresh)
        _add_stretch(state, place, x, y, CANCELLATION[itemsize], fresh)


def _as_float64(values: Array, selected: Array | None) -> Array:
    """Return a float64 copy of the selected voxels."""
    return np.array(values if selected is None else values[:, selected], np.float64, order="C")


def _choose_shifts(
    state: State, place: slice, x: Array, y: Array, kind: str | None, fresh: bool
) -> None:
    """Set the values to subtract from here on, from means over the first run of voxels."""
    if kind is None or not x.shape[1]:
        return
    if kind == "own":
        state["row_shift"][:] = x.mean(1) if fresh else state["row_shift"]
        state["column_shift"][place] = y.mean(1)
    elif fresh:
        mean = float(x[0].mean())
        state["row_shift"][:] = state["column_shift"][:] = mean if np.isfinite(mean) else 0.0


def _add_stretch(
    state: State, place: slice, x: Array, y: Array, cancellation: float, fresh: bool
) -> None:
    """Add the sums over one run of voxels."""
    raw, shifts = (x, y), (state["row_shift"], state["column_shift"][place])
    if fresh:
        _raise_to(state["row_largest"], x)
    _raise_to(state["column_largest"][place], y)
    x, y = x - shifts[0][:, None], y - shifts[1][:, None]
    row_norm, column_norm = np.einsum("iv,iv->i", x, x), np.einsum("jv,jv->j", y, y)
    if fresh:
        state["voxels"] += x.shape[1]
        state["row_sum"] += x.sum(1)
        state["row_norm"] += row_norm
    state["column_sum"][place] += y.sum(1)
    state["column_norm"][place] += column_norm
    with np.errstate(invalid="ignore", over="ignore"):
        product = x @ y.T
    _add_squared_differences(
        state["square"][:, place], product, *raw, *shifts, row_norm, column_norm, cancellation
    )


def _raise_to(tops: Array, volumes: Array) -> None:
    """Raise the largest magnitudes to those of some voxels of each volume, or to infinity."""
    ends = (volumes.max(axis=1, initial=0.0), -volumes.min(axis=1, initial=0.0))
    np.maximum(tops, np.maximum(*ends), out=tops)


# numpy takes 5 times as long, and 40 times if all pairs are nearly equal (256 x 256 x 1024)
@compiled
def _add_squared_differences(  # type: ignore[no-untyped-def]
    out, product, x, y, x_shift, y_shift, x_norm, y_norm, cancellation
):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            norms = x_norm[i] + y_norm[j]
            square = norms - 2.0 * product[i, j]
            if square < cancellation * norms:
                square = _squared_difference(x[i], y[j], x_shift[i] - y_shift[j])
            out[i, j] += square


@compiled_sums
def _squared_difference(x, y, shift):  # type: ignore[no-untyped-def]
    total = 0.0
    for v in range(x.size):
        d = (x[v] - y[v]) - shift
        total += d * d
    return total


def finish(state: State, *, metric: str, dtype: np.dtype[Any]) -> Array:
    """Return the distances (row, column) in ``dtype``; raise RangeError if squares are lost."""
    for top in _tops(state, metric):
        require_squares("distances", top)
    distances = np.empty(state["square"].shape, dtype)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for top in range(0, len(distances), SLAB_ROWS):
            slab = slice(top, top + SLAB_ROWS)
            part = {name: a[slab] if name in PER_ROW else a for name, a in state.items()}
            distances[slab] = FINISHES[metric](part)
    return distances


def _tops(state: State, metric: str) -> list[float]:
    """Return the largest magnitudes that decide whether squares are numbers: of each volume if a
    volume is divided by its own length, else of all."""
    tops = np.concatenate([state["row_largest"], state["column_largest"]])
    tops = tops[np.isfinite(tops)]
    return [float(t) for t in np.unique(tops)] if metric in SCALE_FREE else [largest(tops)]


def _squared(state: State) -> Array:
    return state["square"]


def _euclidean(state: State) -> Array:
    return np.asarray(np.sqrt(state["square"]))


def _cosine(state: State) -> Array:
    return _angular(state["square"], np.sqrt(state["row_norm"]), np.sqrt(state["column_norm"]))


def _ncc(state: State) -> Array:
    """Return 1 - Pearson's correlation: the cosine distance of volumes about their own means."""
    sums = state["row_sum"][:, None] - state["column_sum"]
    square = np.maximum(state["square"] - sums * sums / state["voxels"], 0.0)
    return _angular(square, _deviation(state, "row"), _deviation(state, "column"))


def _deviation(state: State, side: str) -> Array:
    """Return the norms about the mean; 0 where only rounding errors remain."""
    n = state["voxels"]
    norm = state[f"{side}_norm"] - state[f"{side}_sum"] ** 2 / n
    rounding = n * (4 * np.finfo(np.float64).eps * state[f"{side}_shift"]) ** 2
    return np.sqrt(np.where(norm <= rounding, 0.0, norm))


def _angular(square: Array, x: Array, y: Array) -> Array:
    """Return 1 - cosine between vectors of lengths ``x`` and ``y``; NaN where a length is 0.

    (|x - y|^2 - (|x| - |y|)^2) / 2 |x| |y| keeps the digits of small angles.
    """
    difference = x[:, None] - y
    lengths = 2.0 * x[:, None] * y
    distances = np.clip((square - difference * difference) / lengths, 0.0, 2.0)
    return np.where(lengths == 0, np.nan, distances)


def _tanimoto(state: State) -> Array:
    """Return |x - y|^2 / (|x|^2 + |y|^2 - x.y); of booleans, the Jaccard distance."""
    union = 0.5 * (state["row_norm"][:, None] + state["column_norm"] + state["square"])
    return np.where(union == 0, 0.0, state["square"] / union)


FINISHES = {
    "squared": _squared, "euclidean": _euclidean, "cosine": _cosine, "ncc": _ncc,
    "jaccard": _tanimoto, "tanimoto": _tanimoto,
}  # fmt: skip

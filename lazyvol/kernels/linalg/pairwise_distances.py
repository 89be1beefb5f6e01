"""Distances between volumes out of blocked matrix products.

All metrics rest on three sums: the squared difference of every pair, and the sum and the sum of
squares of every volume. The squared difference of a stretch of voxels is |x|^2 + |y|^2 - 2 x.y,
where the products of all pairs are one call of BLAS. What cancels in it is seen from the sums
themselves, and those pairs are taken again as the sum of (x - y)^2: of a stretch, not of the whole.
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled, compiled_sums

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

METRICS = ("euclidean", "cosine", "ncc", "jaccard", "tanimoto")
#: what is subtracted from the voxels before they are multiplied; cosine and tanimoto are about 0
SHIFTS = {"euclidean": "common", "squared": "common", "ncc": "own"}

#: bytes of one stretch of voxels in float64: both operands stay in the second-level cache's reach
STRETCH = 4 * 2**20
#: |x - y|^2 over |x|^2 + |y|^2 below which a stretch is taken by differences: the product then
#: leaves an error of 2e-16 / share in the square. Of float64, 1e-14 of a distance at most
CLOSE = {2: 1e-6, 4: 1e-6, 8: 0.02}


def start(rows: int, columns: int) -> State:
    """Empty state of all pairs of ``rows`` with ``columns``; ``_shift`` is known from the first
    voxels on."""
    state = {"square": np.zeros((rows, columns)), "voxels": np.zeros(())}
    for side, n in (("row", rows), ("column", columns)):
        state |= {f"{side}_{part}": np.zeros(n) for part in ("sum", "norm", "shift")}
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
    """Take in a tile of voxels: all ``rows``, and the ``columns`` that stand at ``place``.

    ``mask`` is over the voxels of a tile. ``fresh`` where the rows meet their first columns,
    ``first`` at the first tile. ``itemsize`` is that of the result.
    """
    flags = None if mask is None else np.broadcast_to(mask, rows.shape[1:]).ravel()
    rows, columns = rows.reshape(len(rows), -1), columns.reshape(len(columns), -1)
    step = max(64, STRETCH // (8 * (len(rows) + len(columns))))
    for at in range(0, rows.shape[1], step):
        part = slice(at, at + step)
        kept = None if flags is None else flags[part]
        x, y = _wide(rows[:, part], kept), _wide(columns[:, part], kept)
        if first and at == 0:
            _choose_shifts(state, place, x, y, SHIFTS.get(metric), fresh)
        _take(state, place, x, y, CLOSE[itemsize], fresh)


def _wide(values: Array, kept: Array | None) -> Array:
    """A copy in float64 of the voxels that are kept."""
    return np.array(values if kept is None else values[:, kept], np.float64, order="C")


def _choose_shifts(
    state: State, place: slice, x: Array, y: Array, kind: str | None, fresh: bool
) -> None:
    """Values to subtract throughout: none, one for all, or each volume's own first mean."""
    if kind is None or not x.shape[1]:
        return
    if kind == "own":
        state["row_shift"][:] = x.mean(1) if fresh else state["row_shift"]
        state["column_shift"][place] = y.mean(1)
    elif fresh:
        mean = float(x[0].mean())
        state["row_shift"][:] = state["column_shift"][:] = mean if np.isfinite(mean) else 0.0


def _take(state: State, place: slice, x: Array, y: Array, close: float, fresh: bool) -> None:
    """Add the sums of one stretch of voxels, which are shifted for all but their differences."""
    raw, shift = (x, y), (state["row_shift"], state["column_shift"][place])
    x, y = x - shift[0][:, None], y - shift[1][:, None]
    own, other = np.einsum("iv,iv->i", x, x), np.einsum("jv,jv->j", y, y)
    if fresh:
        state["voxels"] += x.shape[1]
        state["row_sum"] += x.sum(1)
        state["row_norm"] += own
    state["column_sum"][place] += y.sum(1)
    state["column_norm"][place] += other
    with np.errstate(invalid="ignore", over="ignore"):
        product = x @ y.T
    _squares(state["square"][:, place], product, *raw, *shift, own, other, close)


@compiled
def _squares(out, product, x, y, x0, y0, own, other, close):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            both = own[i] + other[j]
            square = both - 2.0 * product[i, j]
            if square < close * both:
                square = _apart(x[i], y[j], x0[i] - y0[j])
            out[i, j] += square


@compiled_sums
def _apart(x, y, shift):  # type: ignore[no-untyped-def]
    total = 0.0
    for v in range(x.size):
        d = (x[v] - y[v]) - shift
        total += d * d
    return total


#: rows that are finished together, to need little beside the result
SLAB = 64
PER_ROW = ("square", "row_sum", "row_norm", "row_shift")


def finish(state: State, *, metric: str, dtype: np.dtype[Any]) -> Array:
    """Distances (row, column) in ``dtype``."""
    found = np.empty(state["square"].shape, dtype)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for at in range(0, len(found), SLAB):
            part = slice(at, at + SLAB)
            own = {m: a[part] if m in PER_ROW else a for m, a in state.items()}
            found[part] = FINISHES[metric](own)
    return found


def _squared(state: State) -> Array:
    return state["square"]


def _euclidean(state: State) -> Array:
    return np.asarray(np.sqrt(state["square"]))


def _cosine(state: State) -> Array:
    return _angle(state["square"], np.sqrt(state["row_norm"]), np.sqrt(state["column_norm"]))


def _ncc(state: State) -> Array:
    """One minus Pearson's correlation: the cosine distance about each volume's own mean."""
    sums = state["row_sum"][:, None] - state["column_sum"]
    square = np.maximum(state["square"] - sums * sums / state["voxels"], 0.0)
    return _angle(square, _deviation(state, "row"), _deviation(state, "column"))


def _deviation(state: State, side: str) -> Array:
    """Norms about the mean; 0 where nothing but rounding is left of it."""
    n = state["voxels"]
    norm = state[f"{side}_norm"] - state[f"{side}_sum"] ** 2 / n
    rounding = n * (4 * np.finfo(np.float64).eps * state[f"{side}_shift"]) ** 2
    return np.sqrt(np.where(norm <= rounding, 0.0, norm))


def _angle(square: Array, x: Array, y: Array) -> Array:
    """One minus the cosine between vectors of lengths ``x`` and ``y``; NaN where one is 0.

    (|x - y|^2 - (|x| - |y|)^2) / 2 |x| |y| keeps the digits of small angles.
    """
    unequal = x[:, None] - y
    lengths = 2.0 * x[:, None] * y
    found = np.clip((square - unequal * unequal) / lengths, 0.0, 2.0)
    return np.where(lengths == 0, np.nan, found)


def _tanimoto(state: State) -> Array:
    """|x - y|^2 over |x|^2 + |y|^2 - x.y; of booleans what differs over what is in either."""
    either = 0.5 * (state["row_norm"][:, None] + state["column_norm"] + state["square"])
    return np.where(either == 0, 0.0, state["square"] / either)


FINISHES = {
    "squared": _squared, "euclidean": _euclidean, "cosine": _cosine, "ncc": _ncc,
    "jaccard": _tanimoto, "tanimoto": _tanimoto,
}  # fmt: skip

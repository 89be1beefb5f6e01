"""Co-moments of two arrays in one read, and the scores that follow from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled, compiled_sums
from lazyvol.kernels.arrays import as_three_axes

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: means, centred second moments, mean squared difference and cross-entropy sums
PARTS = ("n", "x", "y", "xx", "yy", "xy", "difference", "entropy")
#: smallest distance of a probability from 0 and 1 in its logarithm
CLIP = 1e-7
#: below this, products have lost digits to underflow
SMALLEST = 1e-290


def start(shape: tuple[int, ...]) -> State:
    """Return an empty state."""
    return {part: np.zeros(shape) for part in PARTS}


def update(
    state: State,
    axes: Sequence[int],
    x: Array,
    y: Array,
    mask: Array | None = None,
    *,
    others: int = 0,
    entropy: bool = False,
) -> None:
    """Add a block and its reference, which may have length 1 along kept axes.

    With ``others`` = n, the reference is the average of n arrays that include ``x``: it is replaced
    by the average of the other n - 1, (n y - x) / (n - 1).
    """
    kept = [a for a in range(x.ndim) if a not in axes]
    order = (*kept, *axes)
    rows = [_rows(b, x, order, len(axes)) for b in (x, y)]
    weight = np.ones((1, rows[0].shape[1]), bool)
    if mask is not None:
        weight = _rows(mask, x, order, len(axes))
    kept_shape = tuple(x.shape[a] for a in kept)
    row_numbers = [_row_numbers(b, kept, kept_shape) for b in (y, mask)]
    moments = np.zeros((len(PARTS), rows[0].shape[0]))
    x_weight, y_weight = (1 / (others - 1), others / (others - 1)) if others > 1 else (0.0, 1.0)
    _comoments(*rows, weight, *row_numbers, mask is not None, x_weight, y_weight, entropy, moments)
    block_state = {part: moments[n].reshape(state[part].shape) for n, part in enumerate(PARTS)}
    for part, values in combine(state, block_state).items():
        state[part][...] = values


def _rows(block: Array, like: Array, order: Sequence[int], reduced: int) -> Array:
    """Return a block as (kept, reduced) elements, repeated along reduced axes of length 1."""
    block = block.astype(np.float32) if block.dtype == np.float16 else block
    kept, axes = order[: len(order) - reduced], order[len(order) - reduced :]
    shape = [block.shape[a] if a in kept else like.shape[a] for a in range(block.ndim)]
    transposed = np.broadcast_to(block, shape).transpose(order)
    return as_three_axes(transposed, range(len(kept), len(kept) + len(axes)))[..., 0]


def _row_numbers(block: Array | None, kept: Sequence[int], shape: tuple[int, ...]) -> Array:
    """Return the row of each kept element in a block that may have length 1 along kept axes."""
    if block is None:
        return np.zeros(int(np.prod(shape)), np.int64)
    lengths = tuple(block.shape[a] for a in kept)
    numbers = np.arange(int(np.prod(lengths))).reshape(lengths)
    return np.ascontiguousarray(np.broadcast_to(numbers, shape)).reshape(-1)


@compiled
def _comoments(x, y, w, y_row, w_row, masked, x_weight, y_weight, entropy, out):  # type: ignore[no-untyped-def]
    """Compute means and centred moments of each row from sums about its first voxel that counts.

    The shift limits cancellation to the ratio of a deviation to the spread, for any offset.
    """
    for a in range(x.shape[0]):
        v, u, m = x[a], y[y_row[a]], w[w_row[a]]
        first = _first(m) if masked else 0
        x0 = np.float64(v[first]) if np.isfinite(v[first]) else 0.0
        y0 = np.float64(u[first]) if np.isfinite(u[first]) else 0.0
        n = float(v.size)
        if masked:
            n, sx, sy, xx, yy, xy, dd = _masked_sums(v, u, m, x0, y0, x_weight, y_weight)
        else:
            sx, sy, xx, yy, xy, dd = _sums(v, u, x0, y0, x_weight, y_weight)
        out[0, a] = n
        if n > 0:
            out[1, a], out[2, a] = x0 + sx / n, y0 + sy / n
            out[3, a] = xx - sx * sx / n
            out[4, a] = yy - sy * sy / n
            out[5, a] = xy - sx * sy / n
            out[6, a] = dd
        if entropy:
            out[7, a] = _entropy(v, u, m, masked, x_weight, y_weight)


@compiled
def _first(flags):  # type: ignore[no-untyped-def]
    """Return the index of the first flag that is set, or 0."""
    for j in range(flags.size):
        if flags[j]:
            return j
    return 0


@compiled_sums
def _sums(v, u, x0, y0, x_weight, y_weight):  # type: ignore[no-untyped-def]
    sx = sy = xx = yy = xy = dd = 0.0
    for j in range(v.size):
        p = np.float64(v[j])
        q = y_weight * np.float64(u[j]) - x_weight * p
        dx, dy, d = p - x0, q - y0, p - q
        sx += dx
        sy += dy
        xx += dx * dx
        yy += dy * dy
        xy += dx * dy
        dd += d * d
    return sx, sy, xx, yy, xy, dd


@compiled_sums
def _masked_sums(v, u, m, x0, y0, x_weight, y_weight):  # type: ignore[no-untyped-def]
    n = sx = sy = xx = yy = xy = dd = 0.0
    for j in range(v.size):
        p = np.float64(v[j]) if m[j] else x0
        q = y_weight * np.float64(u[j]) - x_weight * p if m[j] else y0
        dx, dy, d = p - x0, q - y0, p - q if m[j] else 0.0
        n += 1.0 if m[j] else 0.0
        sx += dx
        sy += dy
        xx += dx * dx
        yy += dy * dy
        xy += dx * dy
        dd += d * d
    return n, sx, sy, xx, yy, xy, dd


@compiled
def _entropy(v, u, m, masked, x_weight, y_weight):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(v.size):
        if not masked or m[j]:
            raw = np.float64(v[j])
            q = min(max(y_weight * np.float64(u[j]) - x_weight * raw, 0.0), 1.0)
            p = min(max(raw, CLIP), 1.0 - CLIP)
            total -= q * np.log(p) + (1.0 - q) * np.log1p(-p)
    return total


def combine(a: State, b: State) -> State:
    """Merge two states (Chan, Golub and LeVeque 1983, for pairs)."""
    n = a["n"] + b["n"]
    share = np.divide(b["n"], n, out=np.zeros_like(n), where=n > 0)
    dx, dy = b["x"] - a["x"], b["y"] - a["y"]
    cross = a["n"] * share
    return {
        "n": n,
        "x": a["x"] + dx * share,
        "y": a["y"] + dy * share,
        "xx": a["xx"] + b["xx"] + dx * dx * cross,
        "yy": a["yy"] + b["yy"] + dy * dy * cross,
        "xy": a["xy"] + b["xy"] + dx * dy * cross,
        "difference": a["difference"] + b["difference"],
        "entropy": a["entropy"] + b["entropy"],
    }


def finish(state: State, *, want: Mapping[str, np.dtype[Any]]) -> dict[str, Array]:
    """Return scores by name; NaN without values, or for the correlation of a constant."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return {name: np.asarray(SCORES[name](state)).astype(t) for name, t in want.items()}


def interval(state: State, *, z: float, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return the correlation and its bounds, ``z`` standard errors of Fisher's transform away."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        r = _ncc(state)
        error = z / np.sqrt(np.where(state["n"] > 3, state["n"] - 3, np.nan))
        bounds = {"lower": np.tanh(np.arctanh(r) - error), "upper": np.tanh(np.arctanh(r) + error)}
    return {name: v.astype(dtype) for name, v in {"correlation": r, **bounds}.items()}


def _mse(s: State) -> Array:
    mean: Array = s["difference"] / s["n"]
    return mean


def _ncc(s: State) -> Array:
    r = s["xy"] / _root_of_product(np.maximum(s["xx"], 0.0), np.maximum(s["yy"], 0.0))
    return np.where(np.isfinite(r), np.clip(r, -1.0, 1.0), np.nan)


def _cosine(s: State) -> Array:
    xy = s["xy"] + s["n"] * s["x"] * s["y"]
    xx = s["xx"] + s["n"] * s["x"] ** 2
    yy = s["yy"] + s["n"] * s["y"] ** 2
    cosine: Array = np.clip(xy / _root_of_product(xx, yy), -1.0, 1.0)
    return cosine


def _root_of_product(a: Array, b: Array) -> Array:
    """Return the root of a product, also if the product is outside the range of float64.

    The root of the product is exact for equal factors; the product of the roots is not.
    """
    product = a * b
    within = (product > SMALLEST) & (product < np.inf)
    return np.where(within, np.sqrt(product), np.sqrt(a) * np.sqrt(b))


SCORES = {
    "mse": _mse,
    "rmse": lambda s: np.sqrt(_mse(s)),
    "ncc": _ncc,
    "cosine": _cosine,
    "bce": lambda s: s["entropy"] / s["n"],
    "n": lambda s: s["n"],
}

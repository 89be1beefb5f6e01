"""Co-moments of two arrays in one read, and the scores that follow from them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled, compiled_sums
from lazyvol.kernels.arrays import as_three_axes, numba_compatible, read_only
from lazyvol.kernels.magnitude import LEAST, MOST, require_exact

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: means, centred second moments, mean squared difference and cross-entropy sums
PARTS = ("n", "x", "y", "xx", "yy", "xy", "difference", "entropy")
#: exponents of the powers of two that divided x, y and both before they were squared; 0 for
#: values whose squares float64 holds
POWERS = ("x_power", "y_power", "power")
#: power of each scale in the parts of a state
SCALED: Mapping[str, tuple[str, ...]] = {
    "x": ("x_power",), "y": ("y_power",), "xx": ("x_power", "x_power"),
    "yy": ("y_power", "y_power"), "xy": ("x_power", "y_power"), "difference": ("power", "power"),
}  # fmt: skip
#: smallest distance of a probability from 0 and 1 in its logarithm
CLIP = 1e-7
#: below this, products have lost digits to underflow
SMALLEST = 1e-290


def start(shape: tuple[int, ...]) -> State:
    """Return an empty state."""
    powers = {part: np.zeros(shape, np.int16) for part in POWERS}
    return {part: np.zeros(shape) for part in PARTS} | powers


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
    for values in (x, y):
        require_exact("scores", np.broadcast_to(values, x.shape), mask)
    rows = [_rows(b, x, order, len(axes)) for b in (x, y)]
    flags = np.ones((1, 1), bool) if mask is None else _rows(mask, x, order, len(axes))
    kept_shape = tuple(x.shape[a] for a in kept)
    row_numbers = [_row_numbers(b, kept, kept_shape) for b in (y, mask)]
    weights = (1 / (others - 1), others / (others - 1)) if others > 1 else (0.0, 1.0)
    compute = partial(
        _moments, flags=flags, flag_row=row_numbers[1], weights=weights, entropy=entropy
    )
    block_state = compute(*rows, y_row=row_numbers[0])
    if np.float64 in (rows[0].dtype, rows[1].dtype) and not _in_range(block_state):
        each = partial(compute, y_row=np.arange(len(rows[0])))
        reference, own = rows[1][row_numbers[0]], flags[row_numbers[1]]
        _scale_rows(block_state, each, rows[0], reference, own, others > 0)
    shaped = {part: values.reshape(state[part].shape) for part, values in block_state.items()}
    for part, values in combine(state, shaped).items():
        state[part][...] = values


def _moments(
    x: Array, y: Array, *, y_row: Array, flags: Array, flag_row: Array,
    weights: tuple[float, float], entropy: bool,
) -> State:  # fmt: skip
    """Return the co-moments of rows; flags of shape (1, 1) are set."""
    x, y, flags = (read_only(rows) for rows in (numba_compatible(x), numba_compatible(y), flags))
    moments = np.zeros((len(PARTS), x.shape[0]))
    if flags.size == 1 and flags.all():
        _comoments(x, y, y_row, *weights, moments)
    else:
        _flagged_comoments(x, y, y_row, flags, flag_row, *weights, moments)
    if entropy:
        own = np.broadcast_to(flags, (len(flags), x.shape[1]))
        _entropies(x, y, y_row, np.ascontiguousarray(own), flag_row, *weights, moments[-1])
    powers = {part: np.zeros(x.shape[0], np.int16) for part in POWERS}
    return dict(zip(PARTS, moments, strict=True)) | powers


def _in_range(state: State) -> bool:
    """Return True if no sum of squares has lost digits to the range of float64."""
    sums = (state["xx"], state["yy"], state["difference"])
    return all(bool(((s > LEAST**2) & (s < MOST**2)).all()) for s in sums)


def _scale_rows(
    state: State, compute: Callable[..., State], x: Array, y: Array, flags: Array, together: bool
) -> None:
    """Replace moments that over- or underflowed by those of rows scaled near 1.

    Both arrays share one scale for their difference, and for all parts if ``together``.
    """
    powers, has_values = zip(*(_powers(rows, flags) for rows in (x, y)), strict=True)
    if not any(p.any() for p in powers):
        return
    both = np.where(has_values[0] & has_values[1], np.maximum(*powers), powers[0] + powers[1])
    state["x_power"][:], state["y_power"][:] = (both, both) if together else powers
    state["power"][:] = both
    for part, (first, second) in {
        "difference": (both, both), "rest": (state["x_power"], state["y_power"])
    }.items():  # fmt: skip
        moments = compute(_divided(x, first), _divided(y, second))
        state |= {n: moments[n] for n in SCALED if (n == "difference") == (part == "difference")}


def _divided(rows: Array, powers: Array) -> Array:
    return np.ldexp(np.asarray(rows, np.float64), -powers[:, None])


def _powers(rows: Array, flags: Array) -> tuple[Array, Array]:
    """Return the exponent of each row's largest value, 0 if float64 holds its square; and where
    there is a value that is neither 0 nor infinite."""
    counted = np.isfinite(rows) & flags
    tops = np.abs(rows).max(axis=1, initial=0.0, where=counted).astype(np.float64)
    powers = np.frexp(tops)[1].astype(np.int16)
    usual = (tops == 0) | ((tops > LEAST) & (tops < MOST))
    return np.where(usual, np.int16(0), powers), tops > 0


def _rows(block: Array, like: Array, order: Sequence[int], reduced: int) -> Array:
    """Return a block as (kept, reduced) elements, repeated along reduced axes of length 1."""
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


# The first voxel that counts is subtracted from each row, which limits cancellation to the ratio of
# a deviation to the spread, for any offset.


@compiled
def _comoments(x, y, y_row, x_weight, y_weight, out):  # type: ignore[no-untyped-def]
    """Compute means and centred moments of each row."""
    for a in range(x.shape[0]):
        v, u = x[a], y[y_row[a]]
        x0, y0 = _finite(v[0]), _finite(u[0])
        _store(out, a, x0, y0, float(v.size), *_sums(v, u, x0, y0, x_weight, y_weight))


@compiled
def _flagged_comoments(x, y, y_row, flags, flag_row, x_weight, y_weight, out):  # type: ignore[no-untyped-def]
    """Compute means and centred moments of the values of each row whose flags are set."""
    for a in range(x.shape[0]):
        v, u, m = x[a], y[y_row[a]], flags[flag_row[a]]
        first = _first(m)
        x0, y0 = _finite(v[first]), _finite(u[first])
        _store(out, a, x0, y0, *_masked_sums(v, u, m, x0, y0, x_weight, y_weight))


@compiled
def _entropies(x, y, y_row, flags, flag_row, x_weight, y_weight, out):  # type: ignore[no-untyped-def]
    """Compute the binary cross-entropy of each row, summed where its flags are set."""
    for a in range(x.shape[0]):
        out[a] = _entropy(x[a], y[y_row[a]], flags[flag_row[a]], x_weight, y_weight)


@compiled
def _finite(value):  # type: ignore[no-untyped-def]
    return np.float64(value) if np.isfinite(value) else 0.0


@compiled
def _store(out, a, x0, y0, n, sx, sy, xx, yy, xy, dd):  # type: ignore[no-untyped-def]
    out[0, a] = n
    if n > 0:
        out[1, a], out[2, a] = x0 + sx / n, y0 + sy / n
        out[3, a] = xx - sx * sx / n
        out[4, a] = yy - sy * sy / n
        out[5, a] = xy - sx * sy / n
        out[6, a] = dd


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
def _entropy(v, u, m, x_weight, y_weight):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(v.size):
        if m[j]:
            raw = np.float64(v[j])
            q = min(max(y_weight * np.float64(u[j]) - x_weight * raw, 0.0), 1.0)
            p = min(max(raw, CLIP), 1.0 - CLIP)
            total -= q * np.log(p) + (1.0 - q) * np.log1p(-p)
    return total


def combine(a: State, b: State) -> State:
    """Merge two states (Chan, Golub and LeVeque 1983, for pairs)."""
    a, b = _aligned(a, b)
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
    } | {part: a[part] for part in POWERS}


def _aligned(a: State, b: State) -> tuple[State, State]:
    """Return two states with common powers: the larger ones of states that hold values."""
    if not any(s[power].any() for s in (a, b) for power in POWERS):
        return a, b
    a, b = dict(a), dict(b)
    owners = {"x_power": ("x", "xx"), "y_power": ("y", "yy"), "power": ("difference",)}
    for power, parts in owners.items():
        blank = [np.all([s[part] == 0 for part in parts], axis=0) for s in (a, b)]
        larger = np.maximum(a[power], b[power])
        common = np.where(blank[0], b[power], np.where(blank[1], a[power], larger))
        for state in (a, b):
            steps = state[power] - common
            for part, scales in SCALED.items():
                if power in scales:
                    state[part] = np.ldexp(state[part], scales.count(power) * steps)
            state[power] = common
    return a, b


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
    return np.asarray(np.ldexp(s["difference"] / s["n"], 2 * s["power"]))


def _rmse(s: State) -> Array:
    return np.asarray(np.ldexp(np.sqrt(s["difference"] / s["n"]), s["power"]))


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
    "rmse": _rmse,
    "ncc": _ncc,
    "cosine": _cosine,
    "bce": lambda s: s["entropy"] / s["n"],
    "n": lambda s: s["n"],
}

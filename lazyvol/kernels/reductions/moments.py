"""Sums, sums of squares, extremes and counts of blocks, and the statistics that follow."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import (
    as_three_axes,
    kept_as_two_axes,
    mask_as_three_axes,
    numba_compatible,
)
from lazyvol.kernels.magnitude import (
    are_large,
    has_faint,
    largest,
    require_exact,
    require_squares,
    require_summable,
)
from lazyvol.kernels.reductions.accumulate import accumulate
from lazyvol.kernels.reductions.double_double import centred, is_finite, merge, quotient

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: dtypes whose squares are exact in float64
NARROW = ("float16", "float32", "int8", "uint8", "int16", "uint16", "bool")

#: sums of squares of float64 below ``FAINT_SQUARE`` have lost digits. They are kept for values
#: times ``UP`` instead, which must all be below ``FAINT``
FAINT, FAINT_SQUARE, UP, DOWN = 2.0**-400, 2.0**-900, 2.0**600, 2.0**-600
SQUARES = ("square", "square_rest")


def start(shape: tuple[int, ...], *, parts: Sequence[str], dtype: np.dtype[Any]) -> State:
    """Return an empty state; ``parts`` are among sum, square, low, high, count and faint.

    ``faint`` are sums of squares of values times ``UP``: roots of sums of squares of float64 values
    need them, since the squares may underflow.
    """
    state: State = {}
    for part in parts:
        if part in ("low", "high"):
            state[part] = np.full(shape, _neutral(part, dtype), dtype)
        elif part == "count":
            state[part] = np.zeros(shape, np.int64)
        elif part == "faint":
            state[part] = np.zeros(shape, bool)
        else:
            state[part], state[f"{part}_rest"] = np.zeros(shape), np.zeros(shape)
    return state


def _neutral(part: str, dtype: np.dtype[Any]) -> Any:
    """Return the largest number of a dtype for ``low`` and the smallest for ``high``."""
    if dtype.kind == "f":
        return np.inf if part == "low" else -np.inf
    if dtype.kind == "b":
        return part == "low"
    return np.iinfo(dtype).max if part == "low" else np.iinfo(dtype).min


def update(
    state: State,
    axes: Sequence[int],
    block: Array,
    mask: Array | None = None,
    *,
    skipna: bool = False,
    absolute: bool = False,
    op: str = "norm",
) -> None:
    """Add a block, reduced over ``axes``, where ``mask`` is True and, with ``skipna``, not NaN.

    Raise RangeError, as ``op``, if the state has the part ``faint`` and squares exceed float64, or
    if float64 rounds whole numbers by more than a small part of their deviations.
    """
    if absolute:  # in float64, since the smallest integer of a type has no positive counterpart
        block = np.abs(block, dtype=block.dtype if block.dtype.kind == "f" else np.float64)
    if "sum" in state and "square" in state:
        require_exact(op, block, mask)
    add = partial(_add_faint if "faint" in state else _add, op=op)
    if "count" not in state:
        add(state, axes, block)
        return
    has_nan = skipna and block.dtype.kind == "f"
    valid = np.ones((1,) * block.ndim, bool) if mask is None else mask
    if has_nan:
        valid = valid & ~np.isnan(block)
    flags = mask_as_three_axes(valid, block.shape, axes)
    counts = kept_as_two_axes(state["count"], axes)
    counts += _count(flags, prod(block.shape[a] for a in axes))
    counted = flags if has_nan or mask is not None else None
    add({n: a for n, a in state.items() if n != "count"}, axes, block, flags=counted)


def _add(
    state: State, axes: Sequence[int], block: Array, flags: Array | None = None, *, op: str
) -> None:
    """Add a block to all parts of the state."""
    _accumulate(state, axes, block, flags)
    if "sum" in state and block.dtype == np.float64 and are_large(state["sum"]):
        require_summable(op, as_three_axes(block, axes), flags)  # which may copy the block


def _add_faint(
    state: State, axes: Sequence[int], block: Array, flags: Array | None = None, *, op: str
) -> None:
    """Add a block to all parts of the state, and to sums of squares that float64 cannot hold."""
    scaled = _split(state) if state["faint"].any() else None
    _accumulate(state, axes, block, flags)
    lost = not state["square"].min(initial=np.inf) >= FAINT_SQUARE
    if scaled is None and not lost and state["square"].max(initial=0.0) < np.inf:
        return
    scaled = scaled or {name: np.zeros_like(state[name]) for name in SQUARES}
    if lost and has_faint(block.reshape(-1), FAINT):
        with np.errstate(over="ignore"):
            _accumulate(scaled, axes, block * UP, flags)
    _join(state, scaled)
    if np.isposinf(state["square"]).any():
        values = as_three_axes(block, axes)
        top = largest(values if flags is None else np.where(flags, values, 0.0))
        require_squares(op, top, least=0.0)


def _split(state: State) -> State:
    """Return sums of squares of values times ``UP``, 0 where there is none.

    The sums of squares of values alone remain in the state.
    """
    faint = state["faint"]
    scaled = {name: np.where(faint, state[name], 0.0) for name in SQUARES}
    if faint.any():
        for name in SQUARES:
            state[name][faint] = state[name][faint] * DOWN * DOWN
    return scaled


def _join(state: State, scaled: State) -> None:
    """Replace sums of squares that have lost digits by those of values times ``UP``."""
    faint = (state["square"] < FAINT_SQUARE) & (scaled["square"] > 0)
    for name in SQUARES:
        np.copyto(state[name], scaled[name], where=faint)
    state["faint"][...] = faint


def _count(flags: Array, reduced: int) -> Array:
    """Return the number of flags that are set, (before, after), of length 1 where it is equal."""
    before, rows, after = flags.shape
    axis = None if before == after == 1 else 1
    counts: Array = np.asarray(np.count_nonzero(flags, axis=axis), np.int64).reshape(before, after)
    return np.asarray(counts * (reduced // max(1, rows)))


def update_groups(state: State, axes: Sequence[int], block: Array, group: Array) -> None:
    """Add a block whose slices along the reduced axis belong to group 0, 1, ...

    ``state["sum_g"]`` is the sum of group g; the other parts are of all groups together.
    """
    shared = {n: a for n, a in state.items() if not n.startswith("sum")}
    for g in np.unique(group):
        sums = {"sum": state[f"sum_{g}"], "sum_rest": state[f"sum_{g}_rest"]}
        flags = mask_as_three_axes(group == g, block.shape, axes)
        _accumulate(sums | shared, axes, block, flags)


def _accumulate(
    state: State, axes: Sequence[int], block: Array, flags: Array | None = None
) -> None:
    """Add a block to all parts of the state but the count; ``flags`` have three axes."""
    if not block.size:
        return
    values = numba_compatible(block)
    parts: dict[str, tuple[Array, ...]] = {
        p: tuple(kept_as_two_axes(state[n], axes) for n in (p, f"{p}_rest"))
        for p in ("sum", "square") if p in state
    }  # fmt: skip
    extremes = {p: numba_compatible(state[p]) for p in ("low", "high") if p in state}
    for p, extreme in extremes.items():
        parts[p] = (kept_as_two_axes(extreme, axes),)
    accumulate(values, axes, flags, parts, wide=str(block.dtype) not in NARROW)
    for p, extreme in extremes.items():
        if extreme.dtype != state[p].dtype:  # float16, of which compiled code has a copy
            state[p][...] = extreme.astype(state[p].dtype)


SUMS = ("sum", "sum_rest")
PARTS = (*SUMS, "square", "square_rest")


def combine(a: State, b: State) -> State:
    """Merge state ``b`` into ``a``."""
    scaled = [_split(s) for s in (a, b)] if "faint" in a else []
    if scaled:
        merge(*(np.ravel(s[name]) for s in scaled for name in SQUARES))
    for part in [n for n in a if f"{n}_rest" in a]:
        rest = f"{part}_rest"
        merge(*(np.ravel(x) for x in (a[part], a[rest], b[part], b[rest])))
    if "low" in a:
        np.minimum(a["low"], b["low"], out=a["low"])
    if "high" in a:
        np.maximum(a["high"], b["high"], out=a["high"])
    if "count" in a:
        a["count"] += b["count"]
    if scaled:
        _join(a, scaled[0])
    return a


def finish(
    state: State, *, want: Mapping[str, np.dtype[Any]], n: int, ddof: int = 0
) -> dict[str, Array]:
    """Return statistics of ``n`` values each, or of ``state["count"]`` values.

    A mean of no values is NaN, as is a variance of ``n <= ddof`` values.
    """
    shape = next(iter(state.values())).shape
    count = np.ravel(state["count"]) if "count" in state else np.full(1, n, np.int64)
    flat = {name: np.ravel(a) for name, a in state.items()}
    faint = flat.pop("faint", np.zeros(1, bool))
    results: dict[str, Array] = {}
    for name, dtype in want.items():
        if name in ("low", "high"):
            results[name] = _extremes(flat[name], count, dtype)
        elif name == "count":
            results[name] = np.broadcast_to(count, (int(np.prod(shape)),)).astype(dtype)
        else:
            single = dtype.kind == "f" and dtype.itemsize == 4  # compiled code has no float16
            out = np.empty(int(np.prod(shape)), np.float32 if single else np.float64)
            power = POWERS.get(name, 0) if faint.any() else 0
            scaled = {
                part: np.where(faint, flat[part] * UP, flat[part])
                for part in SUMS if power and part in flat
            }  # fmt: skip
            _statistic(out, flat | scaled, name, count, ddof)
            for _ in range(power):
                np.multiply(out, DOWN, out=out, where=faint)
            results[name] = out
    return {name: a.reshape(shape) for name, a in results.items()}


def finish_halves(
    state: State, *, sizes: tuple[int, int], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """Return the average of each of two groups, and the average and variance of both together."""
    averages = {}
    for name, g in (("first", 0), ("second", 1)):
        sums = {"sum": state[f"sum_{g}"], "sum_rest": state[f"sum_{g}_rest"]}
        averages[name] = finish(sums, want={"mean": dtype}, n=sizes[g])["mean"]
    both = {p: state[f"sum_0{p[3:]}"].copy() for p in ("sum", "sum_rest")}
    merge(*(np.ravel(x) for x in (*both.values(), state["sum_1"], state["sum_1_rest"])))
    both |= {p: state[p] for p in ("square", "square_rest")}
    overall = finish(both, want={"mean": dtype, "var": dtype}, n=sum(sizes))
    return averages | {"average": overall["mean"], "variance": overall["var"]}


#: power of the values in the statistics of their squares
POWERS = {"square": 2, "norm": 1, "var": 2, "std": 1}


def _extremes(values: Array, count: Array, dtype: np.dtype[Any]) -> Array:
    """Return extremes, NaN where there are no values."""
    if dtype.kind != "f" or count.all():
        return values.astype(dtype)
    return np.where(count > 0, values, np.nan).astype(dtype)


def _statistic(out: Array, state: State, name: str, count: Array, ddof: int) -> None:
    """Compute a statistic of the flat sums of a state, with the one loop that it needs."""
    part = "sum" if name in ("sum", "mean") else "square"
    sums = (state[part], state[f"{part}_rest"])
    if name in ("var", "std"):
        _variances(out, state["sum"], state["sum_rest"], *sums, count, ddof, name == "std")
    elif name == "mean":
        _means(out, *sums, count)
    else:
        (_roots if name == "norm" else _sums)(out, *sums)


@compiled
def _sums(out, high, low):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        out[j] = high[j] + (low[j] if is_finite(high[j]) else 0.0)


@compiled
def _roots(out, high, low):  # type: ignore[no-untyped-def]
    """Take roots before rounding to the type of ``out``: the square of a float32 may exceed it."""
    for j in range(out.size):
        out[j] = np.sqrt(high[j] + (low[j] if is_finite(high[j]) else 0.0))


@compiled
def _means(out, s, sr, count):  # type: ignore[no-untyped-def]
    """Divide by counts; only a loop over a common count runs in vector registers."""
    if count.size == 1:
        n = np.float64(count[0])
        for j in range(out.size):
            m, e = quotient(s[j], sr[j], n)
            out[j] = m + e
        return
    for j in range(out.size):
        m, e = quotient(s[j], sr[j], np.float64(count[j]))
        out[j] = m + e


@compiled
def _variances(out, s, sr, q, qr, count, ddof, root):  # type: ignore[no-untyped-def]
    n, free = np.float64(count[0]), np.float64(ddof)
    if count.size == 1:
        degrees = n - free if n > free else np.nan
        for j in range(out.size):
            v, e = centred(s[j], sr[j], q[j], qr[j], n)
            v, e = quotient(v, e, degrees)
            out[j] = np.sqrt(v + e) if root else v + e
        return
    for j in range(out.size):
        n = np.float64(count[j])
        v, e = centred(s[j], sr[j], q[j], qr[j], n)
        v, e = quotient(v, e, n - free if n > free else np.nan)
        out[j] = np.sqrt(v + e) if root else v + e

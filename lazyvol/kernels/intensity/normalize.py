"""Shift and scale the values of each particle by its own statistics.

Particles are processed one after the other, in temporary memory for one of them. Statistics ignore
NaN, which remains in the result.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.magnitude import require_exact
from lazyvol.kernels.reductions import moments

Array = np.ndarray[Any, np.dtype[Any]]
Statistics = Mapping[str, Array]
#: statistics -> offset to subtract and divisor
Scaling = Callable[[Statistics], tuple[Array, Array]]

#: parts of a state of ``moments`` that each statistic needs
PARTS: Mapping[str, tuple[str, ...]] = {
    "low": ("low",), "high": ("high",), "mean": ("sum",), "var": ("sum", "square"),
    "std": ("sum", "square"), "norm": ("square",), "count": (),
}  # fmt: skip
#: statistics that each operation takes
NEEDED: Mapping[str, tuple[str, ...]] = {
    "rescale": ("low", "high"), "unit_norm": ("norm", "count"), "center": ("mean",),
    "standardize": ("mean", "std", "count"), "contrast_normalise": ("mean", "var"),
}  # fmt: skip


def rescale(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], low: float, high: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Map the minimum to ``low`` and the maximum to ``high``; a constant to ``low``."""
    return _scaled(block, mask, axes, "rescale", _range, (low, high), dtype)


def unit_norm(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """Divide by the Euclidean norm; zeros stay zeros, and NaN results if no value counts."""
    return _scaled(block, mask, axes, "unit_norm", _length, None, dtype)


def center(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """Subtract the mean."""
    return _scaled(block, mask, axes, "center", _mean, None, dtype)


def standardize(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """Subtract the mean and divide by the standard deviation, at least 1/sqrt(n)."""
    return _scaled(block, mask, axes, "standardize", _standard, None, dtype)


def contrast_normalise(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], scale: float, bias: float,
    floor: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return ``scale * (x - mean) / max(floor, sqrt(bias + variance))``."""
    scaling = partial(_contrast, scale=scale, bias=bias, floor=floor)
    return _scaled(block, mask, axes, "contrast_normalise", scaling, None, dtype)


def _range(statistics: Statistics) -> tuple[Array, Array]:
    width = statistics["high"] - statistics["low"]
    return statistics["low"], np.where(width == 0, 1.0, width)


def _length(statistics: Statistics) -> tuple[Array, Array]:
    norm = np.where(statistics["count"] == 0, np.nan, statistics["norm"])
    return np.zeros_like(norm), np.where(norm == 0, 1.0, norm)


def _mean(statistics: Statistics) -> tuple[Array, Array]:
    return statistics["mean"], np.ones_like(statistics["mean"])


def _standard(statistics: Statistics) -> tuple[Array, Array]:
    least = 1.0 / np.sqrt(np.maximum(statistics["count"], 1))
    return statistics["mean"], np.maximum(statistics["std"], least)


def _contrast(
    statistics: Statistics, *, scale: float, bias: float, floor: float
) -> tuple[Array, Array]:
    deviation = np.maximum(np.sqrt(bias + statistics["var"]), floor)
    with np.errstate(over="ignore"):  # an infinite quotient makes the contrast 0
        return statistics["mean"], deviation / scale


def _scaled(
    block: Array,
    mask: Array | None,
    axes: Sequence[int],
    op: str,
    scaling: Scaling,
    limits: tuple[float, float] | None,
    dtype: np.dtype[Any],
) -> Array:
    """Return every particle of a block, over ``axes``, shifted and scaled."""
    flags = None if mask is None else np.broadcast_to(mask, block.shape)
    order = _order_with_adjacent(block.ndim, axes)
    if order is not None:
        moved = None if flags is None else flags.transpose(order)
        last = range(block.ndim - len(axes), block.ndim)
        scaled = _scaled(block.transpose(order), moved, last, op, scaling, limits, dtype)
        return scaled.transpose(np.argsort(order))
    out, first = np.empty(block.shape, dtype), min(axes, default=block.ndim)
    shape = (prod(block.shape[a] for a in axes), prod(block.shape[first + len(axes) :]))
    for index in np.ndindex(block.shape[:first]):
        values = block[index].reshape(shape)
        counted = None if flags is None else flags[index].reshape(shape)
        if op != "unit_norm":
            require_exact(op, values, counted)
        offset, divisor = scaling(_statistics(op, values, counted))
        _scale_into(out[index].reshape(shape), values, offset, divisor, limits)
    return out


def _order_with_adjacent(ndim: int, axes: Sequence[int]) -> list[int] | None:
    """Return the order of axes that moves ``axes`` to the end; None if they are adjacent."""
    if not axes or max(axes) - min(axes) + 1 == len(axes):
        return None
    return [a for a in range(ndim) if a not in axes] + sorted(axes)


def _statistics(op: str, values: Array, flags: Array | None) -> Statistics:
    """Return statistics of (voxel, particle) in float64.

    Ignoring NaN costs a copy of the particle, so this is done only if a statistic is NaN.
    """
    if flags is None:
        statistics = _moments(op, values, None, skipna=False)
        if values.dtype.kind != "f" or not any(np.isnan(a).any() for a in statistics.values()):
            return statistics
    return _moments(op, values, flags, skipna=True)


def _moments(op: str, values: Array, flags: Array | None, *, skipna: bool) -> Statistics:
    names = NEEDED[op]
    parts = {p: None for name in names for p in PARTS[name]} | ({"count": None} if skipna else {})
    parts |= {"faint": None} if values.dtype == np.float64 and "square" in parts else {}
    state = moments.start(values.shape[1:], parts=tuple(parts), dtype=values.dtype)
    moments.update(state, (0,), values, flags, skipna=skipna, op=op)
    want = {name: np.dtype(np.float64) for name in names}
    return moments.finish(state, want=want, n=values.shape[0])


def _scale_into(
    out: Array, values: Array, offset: Array, divisor: Array, limits: tuple[float, float] | None
) -> None:
    """Write the scaled values (voxel, particle) into ``out``."""
    if np.float16 in (values.dtype, out.dtype):  # compiled code has no float16
        wide = np.empty(out.shape, np.promote_types(out.dtype, np.float32))
        _scale_into(wide, values.astype(wide.dtype), offset, divisor, limits)
        out[...] = wide
        return
    low, high = limits or (0.0, 0.0)
    if out.shape[1] == 1:
        scaling = float(offset[0]), float(divisor[0])
        _scale_one(out[:, 0], values[:, 0], *scaling, low, high, limits is None)
    else:
        _scale_many(out, values, offset, divisor, low, high, limits is None)


@compiled
def _scaled_value(
    value: float, offset: float, divisor: float, low: float, high: float, plain: bool
) -> float:
    t = float(np.divide(value - offset, divisor))
    return t if plain else low * (1.0 - t) + high * t


@compiled
def _scale_one(
    out: Array, values: Array, offset: float, divisor: float, low: float, high: float, plain: bool
) -> None:
    for j in range(out.size):
        out[j] = _scaled_value(np.float64(values[j]), offset, divisor, low, high, plain)


@compiled
def _scale_many(
    out: Array, values: Array, offset: Array, divisor: Array, low: float, high: float, plain: bool
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = _scaled_value(
                np.float64(values[i, j]), offset[j], divisor[j], low, high, plain
            )

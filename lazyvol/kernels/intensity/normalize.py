"""Straight lines through the values of a particle, out of its own statistics.

Particles are taken one after the other, so that what is needed beside the blocks is memory for
one of them. Statistics come from ``moments``; NaN is left out of them and stays where it is.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.reductions import moments

Array = np.ndarray[Any, np.dtype[Any]]
Found = Mapping[str, Array]
#: statistics -> what to subtract, and what to divide by
Line = Callable[[Found], tuple[Array, Array]]

#: what each statistic needs of a state of ``moments``
PARTS: Mapping[str, tuple[str, ...]] = {
    "low": ("low",), "high": ("high",), "mean": ("sum",), "var": ("sum", "square"),
    "norm": ("square",), "count": (),
}  # fmt: skip


def rescale(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], low: float, high: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Least value to ``low``, greatest to ``high``; a constant to ``low``."""
    return _scaled(block, mask, axes, ("low", "high"), _range, (low, high), dtype)


def unit_norm(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """Divided by the Euclidean norm; zeros stay zeros, and nothing counted gives NaN."""
    return _scaled(block, mask, axes, ("norm", "count"), _length, None, dtype)


def center(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """Without the mean."""
    return _scaled(block, mask, axes, ("mean",), _mean, None, dtype)


def standardize(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """Without the mean, over the deviation or 1/sqrt(n) if that is more."""
    return _scaled(block, mask, axes, ("mean", "var", "count"), _standard, None, dtype)


def contrast_normalise(
    block: Array, mask: Array | None = None, *, axes: Sequence[int], scale: float, bias: float,
    floor: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Without the mean, ``scale`` over sqrt(bias + variance) or ``floor`` if that is more."""
    line = partial(_contrast, scale=scale, bias=bias, floor=floor)
    return _scaled(block, mask, axes, ("mean", "var"), line, None, dtype)


def _range(found: Found) -> tuple[Array, Array]:
    width = found["high"] - found["low"]
    return found["low"], np.where(width == 0, 1.0, width)


def _length(found: Found) -> tuple[Array, Array]:
    norm = np.where(found["count"] == 0, np.nan, found["norm"])
    return np.zeros_like(norm), np.where(norm == 0, 1.0, norm)


def _mean(found: Found) -> tuple[Array, Array]:
    return found["mean"], np.ones_like(found["mean"])


def _standard(found: Found) -> tuple[Array, Array]:
    least = 1.0 / np.sqrt(np.maximum(found["count"], 1))
    return found["mean"], np.maximum(np.sqrt(found["var"]), least)


def _contrast(found: Found, *, scale: float, bias: float, floor: float) -> tuple[Array, Array]:
    return found["mean"], np.maximum(np.sqrt(bias + found["var"]), floor) / scale


def _scaled(
    block: Array,
    mask: Array | None,
    axes: Sequence[int],
    names: Sequence[str],
    line: Line,
    ends: tuple[float, float] | None,
    dtype: np.dtype[Any],
) -> Array:
    """Every particle of a block on its line; ``axes`` are those of one particle."""
    flags = None if mask is None else np.broadcast_to(mask, block.shape)
    order = _together(block.ndim, axes)
    if order is not None:
        turned = None if flags is None else flags.transpose(order)
        last = range(block.ndim - len(axes), block.ndim)
        found = _scaled(block.transpose(order), turned, last, names, line, ends, dtype)
        return found.transpose(np.argsort(order))
    out, first = np.empty(block.shape, dtype), min(axes, default=block.ndim)
    shape = (prod(block.shape[a] for a in axes), prod(block.shape[first + len(axes) :]))
    for index in np.ndindex(block.shape[:first]):
        values = block[index].reshape(shape)
        counted = None if flags is None else flags[index].reshape(shape)
        offset, divisor = line(_statistics(values, counted, names))
        _place(out[index].reshape(shape), values, offset, divisor, ends)
    return out


def _together(ndim: int, axes: Sequence[int]) -> list[int] | None:
    """Order of the axes that brings ``axes`` together at the end; None where they are."""
    if not axes or max(axes) - min(axes) + 1 == len(axes):
        return None
    return [a for a in range(ndim) if a not in axes] + sorted(axes)


def _statistics(values: Array, flags: Array | None, names: Sequence[str]) -> Found:
    """Statistics of (voxel, particle) in float64.

    Leaving NaN out costs a copy of the particle, so it is done where there is one.
    """
    if flags is None:
        found = _moments(values, None, names, skipna=False)
        if values.dtype.kind != "f" or not any(np.isnan(a).any() for a in found.values()):
            return found
    return _moments(values, flags, names, skipna=True)


def _moments(values: Array, flags: Array | None, names: Sequence[str], *, skipna: bool) -> Found:
    parts = {p: None for name in names for p in PARTS[name]} | ({"count": None} if skipna else {})
    state = moments.start(values.shape[1:], parts=tuple(parts), dtype=values.dtype)
    moments.update(state, (0,), values, flags, skipna=skipna)
    want = {name: np.dtype(np.float64) for name in names}
    return moments.finish(state, want=want, n=values.shape[0])


def _place(
    out: Array, values: Array, offset: Array, divisor: Array, ends: tuple[float, float] | None
) -> None:
    """Values (voxel, particle) on the lines of their particles, into ``out``."""
    if np.float16 in (values.dtype, out.dtype):  # compiled code has no float16
        wide = np.empty(out.shape, np.promote_types(out.dtype, np.float32))
        _place(wide, values.astype(wide.dtype), offset, divisor, ends)
        out[...] = wide
        return
    low, high = ends or (0.0, 0.0)
    if out.shape[1] == 1:
        line = float(offset[0]), float(divisor[0])
        _one(out[:, 0], values[:, 0], *line, low, high, ends is None)
    else:
        _many(out, values, offset, divisor, low, high, ends is None)


@compiled
def _on_line(
    value: float, offset: float, divisor: float, low: float, high: float, plain: bool
) -> float:
    t = float(np.divide(value - offset, divisor))
    return t if plain else low * (1.0 - t) + high * t


@compiled
def _one(
    out: Array, values: Array, offset: float, divisor: float, low: float, high: float, plain: bool
) -> None:
    for j in range(out.size):
        out[j] = _on_line(np.float64(values[j]), offset, divisor, low, high, plain)


@compiled
def _many(
    out: Array, values: Array, offset: Array, divisor: Array, low: float, high: float, plain: bool
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = _on_line(np.float64(values[i, j]), offset[j], divisor[j], low, high, plain)

"""How quantiles and histograms are planned: in how many reads, with what state."""

from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from operator import index
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import histogram as histogram_kernels
from lazyvol.kernels.reductions import quantiles
from lazyvol.kernels.reductions.quantiles import Digit
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.stack import STACK, Dims, dims_of, float_of, reduces_split_axes, with_units

#: bytes of the counts that a task of a selection may hold: they choose the width of a digit
ROOM = 64 * 2**20
#: narrowest and widest digit, in bits: narrower ones read the data more often than they save
#: memory, wider ones gain no read (32 bits are two of 16, 64 are four)
DIGITS = (4, 16)
#: bytes of one particle up to which it is sorted whole
WHOLE = 128 * 2**20


def quantile(
    stack: xr.DataArray,
    q: float | Iterable[float],
    dim: Dims,
    skipna: bool,
    mask: xr.DataArray | None,
) -> xr.DataArray:
    """Quantiles over ``dim``: sorted where a block has all of it, else selected digit by digit."""
    dims = dims_of(stack, dim)
    wanted, scalar = _probabilities(q)
    operands = (stack,) if mask is None else (stack, mask)
    how = _sorted if _whole(stack, dims) else _selected
    made = how(operands, dims, wanted, scalar, skipna)
    return made if scalar else made.assign_coords(quantile=("quantile", list(wanted)))


def _probabilities(q: float | Iterable[float]) -> tuple[tuple[float, ...], bool]:
    """Wanted quantiles, and whether one number was given."""
    values = np.asarray(q if np.ndim(q) == 0 else list(q), np.float64)  # type: ignore[arg-type]
    if values.ndim > 1 or not values.size or not ((values >= 0) & (values <= 1)).all():
        raise LabelError(f"q is one number from 0 to 1, or some of them, got {q=}")
    return tuple(values.ravel().tolist()), values.ndim == 0


def _whole(stack: xr.DataArray, dims: Sequence[str]) -> bool:
    """Whether a block has all that is reduced, within bytes that may be sorted at once."""
    cut = [d for d in dims if len(stack.chunksizes.get(d, (1,))) > 1]
    size = prod(stack.sizes[d] for d in dims) * stack.dtype.itemsize
    return STACK not in dims and not cut and size <= WHOLE


def _sorted(
    operands: tuple[xr.DataArray, ...],
    dims: tuple[str, ...],
    q: tuple[float, ...],
    scalar: bool,
    skipna: bool,
) -> xr.DataArray:
    stack = operands[0]
    order = [str(d) for d in stack.dims]
    dtype = float_of(stack.dtype)
    kernel = partial(
        quantiles.sorted_quantiles, axes=tuple(order.index(d) for d in dims), q=q, skipna=skipna,
        scalar=scalar,
    )  # fmt: skip
    kept = tuple(d for d in order if d not in dims)
    return blockwise(
        kernel, *operands, core=dims, out=kept if scalar else (*kept, "quantile"),
        sizes=None if scalar else {"quantile": len(q)}, dtype=dtype,
        scratch=2.0 * dtype.itemsize + 3, title="quantile",
    )  # fmt: skip


def _selected(
    operands: tuple[xr.DataArray, ...],
    dims: tuple[str, ...],
    q: tuple[float, ...],
    scalar: bool,
    skipna: bool,
) -> xr.DataArray:
    """One fold per digit; each takes what the one before has found."""
    stack = operands[0]
    found: dict[str, xr.DataArray] = {}
    numbers: tuple[xr.DataArray, ...] = ()
    for n, digit in enumerate(_digits(stack, dims, len(q))):
        before = [found[f"{part}_{i}"] for i in range(len(q)) for part in ("prefix", "rank")
                  if not digit.first]  # fmt: skip
        spec = _selection(stack, dims, digit, q, scalar, skipna, len(operands) > 1)
        last = numbers if digit.last else ()
        found = fold(spec, *operands, *before, *last, dims=dims, title=f"quantile-{n + 1}")
        numbers = (found["n"],) if digit.first and not digit.last else numbers
    return found["quantile"]


def _digits(stack: xr.DataArray, dims: Sequence[str], ranks: int) -> list[Digit]:
    """The widest digits whose counts are no more than fit, and no more than are counted."""
    n = prod(stack.sizes[d] for d in dims)
    kept = stack.size // max(1, n)
    each = max(1, kept * ranks * quantiles.count_dtype(n).itemsize)
    narrow, wide = DIGITS
    fits = min(max(1, ROOM // each), max(1, n)).bit_length() - 1
    return list(quantiles.digits(8 * stack.dtype.itemsize, min(wide, max(narrow, fits))))


def _selection(
    stack: xr.DataArray,
    dims: Sequence[str],
    digit: Digit,
    q: tuple[float, ...],
    scalar: bool,
    skipna: bool,
    masked: bool,
) -> Fold:
    key = quantiles.key_dtype(stack.dtype)
    count = quantiles.count_dtype(prod(stack.sizes[d] for d in dims))
    outputs = _outputs(digit, len(q), scalar, key, count, float_of(stack.dtype))
    return Fold(
        start=partial(quantiles.start, digit=digit, ranks=len(q), key=key, count=count),
        update=partial(quantiles.update, digit=digit, masked=masked),
        combine=quantiles.combine,
        finish=partial(
            quantiles.finish, digit=digit, q=q, skipna=skipna, data=stack.dtype, scalar=scalar
        ),
        outputs=outputs,
        state_bytes=quantiles.state_bytes(digit, len(q), key, count),
        finish_bytes=sum(prod(o.sizes) * o.dtype.itemsize for o in outputs.values()),
        scratch=_spare(stack, dims, masked),
    )


def _outputs(
    digit: Digit,
    ranks: int,
    scalar: bool,
    key: np.dtype[Any],
    count: np.dtype[Any],
    result: np.dtype[Any],
) -> dict[str, Output]:
    if digit.last:
        extra = ((), ()) if scalar else (("quantile",), (ranks,))
        return {"quantile": Output(result, *extra)}
    found = {"n": Output(count)} if digit.first else {}
    for i in range(ranks):
        found |= {f"prefix_{i}": Output(key), f"rank_{i}": Output(count)}
    return found


def histogram(
    stack: xr.DataArray,
    bins: int,
    ends: tuple[float, float] | None,
    dim: Dims,
    mask: xr.DataArray | None,
) -> xr.Dataset:
    """Counts in bins between ``ends``, or between the least and the greatest finite value."""
    dims = dims_of(stack, dim)
    bins = bins_of(bins)
    ends = None if ends is None else range_of(ends, bins)
    operands = (stack,) if mask is None else (stack, mask)
    found = {} if ends is not None else _extent(operands, bins)
    spec = _counting(stack, dims, bins, ends, mask is not None)
    limits = () if ends is not None else (found["low"], found["high"])
    counts = fold(spec, *operands, *limits, dims=dims, title="histogram")["counts"]
    counts.attrs = {str(n): v for n, v in with_units(stack, 0).items()}
    if ends is None:
        return xr.Dataset({"counts": counts, "edges": found["edges"]})
    bounds = histogram_kernels.edges_of(*ends, bins)
    units = {n: v for n, v in stack.attrs.items() if n == "units"}
    centres = ("bin", (bounds[1:] + bounds[:-1]) / 2, units)
    edges = xr.DataArray(bounds, dims="edge", attrs=stack.attrs)
    return xr.Dataset({"counts": counts.assign_coords(bin=centres), "edges": edges})


def bins_of(bins: int) -> int:
    """A number of bins."""
    try:
        number = index(bins)
    except TypeError:
        number = 0
    if number < 1:
        raise LabelError(f"a histogram has a whole number of bins, 1 or more, got {bins=}")
    return number


def range_of(ends: Sequence[float], bins: int) -> tuple[float, float]:
    """Both ends as numbers between which the bins have a width."""
    try:
        low, high = (float(e) for e in ends)
    except (TypeError, ValueError):
        raise LabelError(f"range is a pair of numbers (low, high), got range={ends!r}") from None
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise LabelError(f"range is finite with low <= high, got range={(low, high)}")
    if not (np.diff(histogram_kernels.edges_of(low, high, bins)) > 0).all():
        raise LabelError(f"range={(low, high)} is too narrow for {bins=}; take fewer")
    return low, high


def _extent(operands: tuple[xr.DataArray, ...], bins: int) -> dict[str, xr.DataArray]:
    """Least and greatest value of all of a stack, and the edges between, from one read."""
    dtype, dims = np.dtype(np.float64), tuple(str(d) for d in operands[0].dims)
    spec = Fold(
        start=histogram_kernels.start_ends,
        update=histogram_kernels.update_ends,
        combine=histogram_kernels.combine_ends,
        finish=partial(histogram_kernels.finish_ends, bins=bins),
        outputs={
            "low": Output(dtype), "high": Output(dtype),
            "edges": Output(dtype, ("edge",), (bins + 1,)),
        },
        state_bytes=16,
        finish_bytes=8 * (bins + 3),
        scratch=_spare(operands[0], dims, len(operands) > 1),
    )  # fmt: skip
    return fold(spec, *operands, dims=dims, title="histogram-range")


def _counting(
    stack: xr.DataArray,
    dims: Sequence[str],
    bins: int,
    ends: tuple[float, float] | None,
    masked: bool,
) -> Fold:
    return Fold(
        start=partial(histogram_kernels.start, bins=bins),
        update=partial(histogram_kernels.update, masked=masked, ends=ends),
        combine=histogram_kernels.combine,
        finish=histogram_kernels.finish,
        outputs={"counts": Output(np.dtype(np.int64), ("bin",), (bins,))},
        state_bytes=8 * bins,
        scratch=_spare(stack, dims, masked),
    )


def _spare(stack: xr.DataArray, dims: Sequence[str], masked: bool) -> float:
    """Bytes per voxel of a tile that is laid out anew: its mask and what that keeps, float16 in a
    wider type, and values whose reduced axes are apart."""
    wider = 4.0 if stack.dtype == np.float16 else 0.0
    return (
        (1.0 + stack.dtype.itemsize) * masked
        + wider
        + stack.dtype.itemsize * reduces_split_axes(stack, dims)
    )

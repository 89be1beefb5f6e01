"""Quantiles: sorted where a block holds all values of a result, else selected digit by digit."""

from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import quantiles as kernels
from lazyvol.kernels.reductions.quantiles import Digit, Quantiles
from lazyvol.ops.stats._scratch import layout_scratch
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.stack import STACK, Dims, dims_of, float_of

Method: TypeAlias = Literal[
    "linear", "lower", "higher", "midpoint", "nearest", "inverted_cdf", "averaged_inverted_cdf",
    "closest_observation", "interpolated_inverted_cdf", "hazen", "weibull", "median_unbiased",
    "normal_unbiased",
]  # fmt: skip

#: bytes of counts that a task may hold: they determine the width of a digit
COUNT_BYTES = 64 * 2**20
#: fewest and most bits of a digit: fewer take more reads than they save memory, more save no read
#: (32 bits are two digits of 16, 64 are four)
DIGIT_BITS = (4, 16)
#: bytes of one particle up to which it is sorted whole
SORTED_BYTES = 128 * 2**20


def quantile(
    operands: tuple[xr.DataArray, ...],
    q: float | Iterable[float],
    dim: Dims,
    method: Method,
    skipna: bool,
) -> xr.DataArray:
    """Return quantiles of a stack over ``dim``; ``operands`` are the stack and perhaps a mask."""
    stack = operands[0]
    dims = dims_of(stack, dim, subject="quantile: dim")
    probabilities, scalar = _probabilities(q)
    quantiles = Quantiles(probabilities, method)
    verb = _sorted if _is_sortable(stack, dims) else _selected
    result = verb(operands, dims, quantiles, scalar, skipna)
    return result if scalar else result.assign_coords(quantile=("quantile", list(probabilities)))


def _probabilities(q: float | Iterable[float]) -> tuple[tuple[float, ...], bool]:
    """Return ``q`` as numbers, and True if one number was given."""
    values = np.asarray(q if np.ndim(q) == 0 else list(q), np.float64)  # type: ignore[arg-type]
    if values.ndim > 1 or not values.size or not ((values >= 0) & (values <= 1)).all():
        raise LabelError(f"quantile: q must lie in [0, 1], got {q=}; divide percentages by 100")
    return tuple(values.ravel().tolist()), values.ndim == 0


def _is_sortable(stack: xr.DataArray, dims: Sequence[str]) -> bool:
    """Return True if every block holds ``dims`` whole, in few enough bytes to sort them."""
    split = [d for d in dims if len(stack.variable.chunksizes.get(d, (1,))) > 1]
    size = prod(stack.sizes[d] for d in dims) * stack.dtype.itemsize
    return STACK not in dims and not split and size <= SORTED_BYTES


def _sorted(
    operands: tuple[xr.DataArray, ...],
    dims: tuple[str, ...],
    quantiles: Quantiles,
    scalar: bool,
    skipna: bool,
) -> xr.DataArray:
    """Return quantiles from one read, each block sorted."""
    stack = operands[0]
    order = [str(d) for d in stack.dims]
    dtype = float_of(stack.dtype)
    kernel = partial(
        kernels.sorted_quantiles, axes=tuple(order.index(d) for d in dims), quantiles=quantiles,
        skipna=skipna, scalar=scalar,
    )  # fmt: skip
    kept = tuple(d for d in order if d not in dims)
    return blockwise(
        kernel, *operands, core=dims, out=kept if scalar else (*kept, "quantile"),
        sizes=None if scalar else {"quantile": len(quantiles.q)}, dtype=dtype,
        scratch=2.0 * dtype.itemsize + 3, title="quantile",
    )  # fmt: skip


def _selected(
    operands: tuple[xr.DataArray, ...],
    dims: tuple[str, ...],
    quantiles: Quantiles,
    scalar: bool,
    skipna: bool,
) -> xr.DataArray:
    """Return quantiles from one fold for each digit, which takes prefixes and ranks of the last."""
    stack = operands[0]
    outputs: dict[str, xr.DataArray] = {}
    value_count: tuple[xr.DataArray, ...] = ()
    ranks = len(quantiles.q)
    for n, digit in enumerate(_digits(stack, dims, ranks)):
        prefixes = [outputs[f"{part}_{i}"] for i in range(ranks) for part in ("prefix", "rank")
                    if not digit.is_first]  # fmt: skip
        spec = _digit_fold(stack, dims, digit, quantiles, scalar, skipna, len(operands) > 1)
        counts = value_count if digit.is_last else ()
        title = f"quantile-{n + 1}"
        outputs = fold(spec, *operands, *prefixes, *counts, dims=dims, title=title)
        if digit.is_first and not digit.is_last:
            value_count = (outputs["n"],)
    return outputs["quantile"]


def _digits(stack: xr.DataArray, dims: Sequence[str], ranks: int) -> list[Digit]:
    """Return the widest digits whose counts fit ``COUNT_BYTES`` and are no more than the values."""
    n = prod(stack.sizes[d] for d in dims)
    kept = stack.size // max(1, n)
    item = max(1, kept * ranks * kernels.count_dtype(n).itemsize)
    fewest, most = DIGIT_BITS
    bits = min(max(1, COUNT_BYTES // item), max(1, n)).bit_length() - 1
    return list(kernels.digits(8 * stack.dtype.itemsize, min(most, max(fewest, bits))))


def _digit_fold(
    stack: xr.DataArray,
    dims: Sequence[str],
    digit: Digit,
    quantiles: Quantiles,
    scalar: bool,
    skipna: bool,
    masked: bool,
) -> Fold:
    """Return the fold that counts one digit of the values and finds the next prefixes."""
    key = kernels.key_dtype(stack.dtype)
    count = kernels.count_dtype(prod(stack.sizes[d] for d in dims))
    ranks = len(quantiles.q)
    outputs = _outputs(digit, ranks, scalar, key, count, float_of(stack.dtype))
    return Fold(
        start=partial(kernels.start, digit=digit, ranks=ranks, key=key, count=count),
        update=partial(kernels.update, digit=digit, masked=masked),
        combine=kernels.combine,
        finish=partial(
            kernels.finish, digit=digit, quantiles=quantiles, skipna=skipna, data=stack.dtype,
            scalar=scalar,
        ),
        outputs=outputs,
        state_bytes=kernels.state_bytes(digit, ranks, key, count),
        finish_bytes=sum(prod(o.sizes) * o.dtype.itemsize for o in outputs.values()),
        scratch=layout_scratch(stack, dims, masked),
    )  # fmt: skip


def _outputs(
    digit: Digit,
    ranks: int,
    scalar: bool,
    key: np.dtype[Any],
    count: np.dtype[Any],
    result: np.dtype[Any],
) -> dict[str, Output]:
    """Return the outputs of a fold: the quantiles after the last digit, else prefixes and ranks."""
    if digit.is_last:
        extra = ((), ()) if scalar else (("quantile",), (ranks,))
        return {"quantile": Output(result, *extra)}
    outputs = {"n": Output(count)} if digit.is_first else {}
    for i in range(ranks):
        outputs |= {f"prefix_{i}": Output(key), f"rank_{i}": Output(count)}
    return outputs

"""How grey levels are taken through the distribution of a stack, or of each particle."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import isfinite, prod
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.intensity import equalize as kernels
from lazyvol.kernels.intensity.equalize import Ends
from lazyvol.ops import stats
from lazyvol.ops.stats import _distribution
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import dims_of, float_of, require_mask, spatial_dims, with_units

Per = Literal["stack", "particle"]


def dims_per(stack: xr.DataArray, per: Per) -> tuple[str, ...]:
    """Dims whose voxels share a distribution."""
    if per not in ("stack", "particle"):
        raise LabelError(f"per is 'stack' or 'particle', got {per!r}")
    dims = dims_of(stack, None) if per == "stack" else spatial_dims(stack)
    if not dims:
        raise LabelError(f"a particle has some of the dims z, y, x, got {stack.dims}")
    return dims


def operands(op: str, stack: xr.DataArray, mask: xr.DataArray | None) -> tuple[xr.DataArray, ...]:
    """The stack, and its mask where there is one."""
    if mask is None:
        return (stack,)
    require_same_grid(stack, require_mask(f"{op}: mask", mask))
    return (stack, mask)


def values_of(exclude: float | Iterable[float]) -> tuple[float, ...]:
    """Values that do not count."""
    found = (exclude,) if np.ndim(exclude) == 0 else tuple(exclude)  # type: ignore[arg-type]
    try:
        return tuple(v if isinstance(v, int) else float(v) for v in found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise LabelError(f"exclude is some numbers, got {exclude!r}") from None


def pair_of(low: float, high: float) -> Ends:
    """Ends of the range of a result."""
    if not (isfinite(low) and isfinite(high)):
        raise LabelError(f"the ends of a range are finite, got {low=} and {high=}")
    return float(low), float(high)


def display(
    stack: xr.DataArray,
    limits: tuple[float, float] | None,
    percentiles: tuple[float, float],
    per: Per,
    mask: xr.DataArray | None,
) -> xr.DataArray:
    """Grey levels from 0 to 255 between given limits, or two percentiles of what counts."""
    dims = dims_per(stack, per)
    given = operands("display", stack, mask)
    if limits is None:
        found = stats.quantile(stack, _quantiles(percentiles), dims, skipna=True, mask=mask)
        ends = [found.isel(quantile=n, drop=True) for n in (0, 1)]
    else:
        ends = [xr.DataArray(np.float64(v)) for v in _limits(limits)]
    made = blockwise(
        kernels.display, given[0], *ends, dtype=np.dtype(np.uint8),
        scratch=_spare(stack.dtype), title="display",
    )  # fmt: skip
    return _without_unit(made)


def _quantiles(percentiles: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(p) for p in percentiles)
    except (TypeError, ValueError):
        low = high = np.nan
    if not 0 <= low < high <= 100:
        raise LabelError(f"percentiles are two numbers that rise from 0 to 100, got {percentiles}")
    return low / 100, high / 100


def _limits(limits: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in limits)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (isfinite(low) and isfinite(high) and low <= high):
        raise LabelError(f"limits are two finite numbers, low <= high, got {limits}")
    return low, high


def gaussian_stretch(
    stack: xr.DataArray,
    n: float,
    ends: Ends,
    exclude: tuple[float, ...],
    per: Per,
    mask: xr.DataArray | None,
) -> xr.DataArray:
    """Shares of a normal distribution whose mean and deviation one pass finds."""
    dims = dims_per(stack, per)
    if not (isfinite(n) and n > 0):
        raise LabelError(f"n is a number of standard deviations above 0, got {n=}")
    given = operands("gaussian_stretch", stack, mask)
    flags = _counted(given, exclude) if exclude else mask
    counted = (stack,) if flags is None else (stack, flags)
    spec = stats.statistics_fold(
        ("mean", "std"), stack.dtype, prod(stack.sizes[d] for d in dims), counted=True,
        skipna=True, result=np.dtype(np.float64),
    )  # fmt: skip
    found = fold(spec, *counted, dims=dims, title="mean-std")
    dtype = float_of(stack.dtype)
    kernel = partial(kernels.gaussian, n=float(n), exclude=exclude, ends=ends, dtype=dtype)
    made = blockwise(
        kernel, stack, found["mean"], found["std"], *given[1:], dtype=dtype,
        scratch=_spare(stack.dtype), title="gaussian_stretch",
    )  # fmt: skip
    return _without_unit(made)


def equalise(
    stack: xr.DataArray,
    bins: int,
    extent: tuple[float, float] | None,
    ends: Ends,
    exclude: tuple[float, ...],
    per: Per,
    mask: xr.DataArray | None,
) -> xr.DataArray:
    """Values through the cumulated histogram of what counts."""
    dims, bins = dims_per(stack, per), _distribution.bins_of(bins)
    extent = _levels(stack.dtype, bins) if extent is None else extent
    limits = None if extent is None else _distribution.range_of(extent, bins)
    given, dtype = operands("equalise", stack, mask), float_of(stack.dtype)
    options: dict[str, Any] = {"exclude": exclude, "ends": ends, "dtype": dtype}
    if per == "stack":
        flags = _counted(given, exclude) if exclude or mask is not None else None
        found = stats.histogram(stack, bins=bins, range=limits, mask=flags)
        return _looked_up(partial(kernels.equalised, **options), given, found)
    kernel = partial(
        kernels.equalised_particles, bins=bins, extent=limits, **options,
        axes=tuple(sorted(stack.dims.index(d) for d in dims)),
    )  # fmt: skip
    made = blockwise(
        kernel, *given, core=dims, dtype=dtype, scratch=_spare(stack.dtype), title="equalise"
    )
    return _without_unit(made)


def _levels(dtype: np.dtype[Any], bins: int) -> Ends | None:
    """The range in which 256 bins are the values of 8-bit integers."""
    if bins != 256 or dtype.kind not in "iu" or dtype.itemsize > 1:
        return None
    info = np.iinfo(dtype)
    return info.min - 0.5, info.max + 0.5


def _counted(given: tuple[xr.DataArray, ...], exclude: tuple[float, ...]) -> xr.DataArray:
    """Which voxels count, as a stack of its own."""
    kernel = partial(kernels.counted, exclude=exclude)
    return blockwise(kernel, *given, dtype=np.dtype(bool), scratch=1.0, title="counted")


def _looked_up(
    kernel: Callable[..., Any], given: tuple[xr.DataArray, ...], histogram: xr.Dataset
) -> xr.DataArray:
    """``kernel(block, counts, edges, mask)``: every block with all of a histogram."""
    stack, curve = given[0], (histogram.counts.drop_vars("bin", errors="ignore"), histogram.edges)
    made = blockwise(
        kernel, stack, *curve, *given[1:], core=("bin", "edge"),
        out=tuple(str(d) for d in stack.dims), dtype=float_of(stack.dtype),
        scratch=_spare(stack.dtype), title="equalise",
    )  # fmt: skip
    return _without_unit(made)


def _spare(dtype: np.dtype[Any]) -> float:
    """Bytes per voxel of flags of what counts, and of values in a row."""
    return 3.0 + (12.0 if dtype == np.float16 else dtype.itemsize)


def _without_unit(made: xr.DataArray) -> xr.DataArray:
    made.attrs = {**with_units(made, 0)}
    return made

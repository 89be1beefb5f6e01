"""Grey levels by the distribution of the values of a stack, or of each particle."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import isfinite, prod
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.intensity import equalize as kernels
from lazyvol.kernels.intensity.equalize import Limits
from lazyvol.ops import stats
from lazyvol.ops._checks import bin_count
from lazyvol.ops.stats._histogram import bin_limits
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import dims_of, float_of, require_mask, spatial_dims, with_units

Per = Literal["stack", "particle"]


def _dims_of_distribution(op: str, stack: xr.DataArray, per: Per) -> tuple[str, ...]:
    """Return the dims over which voxels share a distribution."""
    dims = dims_of(stack, None) if per == "stack" else spatial_dims(stack)
    if not dims:
        raise LabelError(
            f"{op}: stack must have some of the dims z, y, x for per='particle', got "
            f"{stack.dims}; rename them, or pass per='stack'"
        )
    return dims


def _operands(op: str, stack: xr.DataArray, mask: xr.DataArray | None) -> tuple[xr.DataArray, ...]:
    if mask is None:
        return (stack,)
    require_same_grid(stack, require_mask(f"{op}: mask", mask))
    return (stack, mask)


def excluded_values(op: str, exclude: float | Iterable[float]) -> tuple[float, ...]:
    """Return the values that do not count as Python's numbers."""
    values = (exclude,) if np.ndim(exclude) == 0 else tuple(exclude)  # type: ignore[arg-type]
    try:
        return tuple(v if isinstance(v, int) else float(v) for v in values)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise LabelError(f"{op}: exclude must be one or more numbers, got {exclude!r}") from None


def finite_limits(op: str, low: float, high: float) -> Limits:
    """Return both limits of a result as floats; raise LabelError unless they are finite."""
    if not (isfinite(low) and isfinite(high)):
        raise LabelError(f"{op}: low and high must be finite, got {low=} and {high=}")
    return float(low), float(high)


def display(
    stack: xr.DataArray,
    limits: tuple[float, float] | None,
    percentiles: tuple[float, float],
    per: Per,
    mask: xr.DataArray | None,
) -> xr.DataArray:
    """Return grey levels from 0 to 255 between limits, or two percentiles of the values."""
    dims = _dims_of_distribution("display", stack, per)
    _operands("display", stack, mask)
    if limits is None:
        q = _quantiles(percentiles)
        levels = stats.quantile(stack, q, dims, skipna=True, mask=mask)
        ends = [levels.isel(quantile=n, drop=True) for n in (0, 1)]
    else:
        ends = [xr.DataArray(np.float64(v)) for v in _display_limits(limits)]
    grey = blockwise(
        kernels.display, stack, *ends, dtype=np.dtype(np.uint8), scratch=_scratch(stack.dtype),
        title="display",
    )  # fmt: skip
    return _without_unit(grey)


def _quantiles(percentiles: Sequence[float]) -> tuple[float, float]:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise LabelError(
            f"display: percentiles must be two rising numbers in [0, 100], got {percentiles}"
        )
    return low / 100, high / 100


def _display_limits(limits: Sequence[float]) -> tuple[float, float]:
    low, high = limits
    if not low <= high:
        raise LabelError(f"display: limits must be two numbers, low <= high, got {limits}")
    return low, high


def gaussian_stretch(
    stack: xr.DataArray,
    n: float,
    limits: Limits,
    exclude: tuple[float, ...],
    per: Per,
    mask: xr.DataArray | None,
) -> xr.DataArray:
    """Return values through the normal distribution of the mean and deviation from one read."""
    dims = _dims_of_distribution("gaussian_stretch", stack, per)
    if not n > 0:
        raise LabelError(
            f"gaussian_stretch: n must be a number of standard deviations above 0, got {n=}"
        )
    operands = _operands("gaussian_stretch", stack, mask)
    flags = _counted(operands, exclude) if exclude else mask
    spec = stats.statistics_fold(
        "gaussian_stretch", ("mean", "std"), stack.dtype, prod(stack.sizes[d] for d in dims),
        counted=True, skipna=True, result=np.dtype(np.float64),
    )  # fmt: skip
    counted = (stack,) if flags is None else (stack, flags)
    moments = fold(spec, *counted, dims=dims, title="mean-std")
    dtype = float_of(stack.dtype)
    kernel = partial(
        kernels.gaussian_stretch, n=float(n), exclude=exclude, limits=limits, dtype=dtype
    )
    stretched = blockwise(
        kernel, stack, moments["mean"], moments["std"], *operands[1:], dtype=dtype,
        scratch=_scratch(stack.dtype), title="gaussian_stretch",
    )  # fmt: skip
    return _without_unit(stretched)


def equalise(
    stack: xr.DataArray,
    bins: int,
    extent: tuple[float, float] | None,
    limits: Limits,
    exclude: tuple[float, ...],
    per: Per,
    mask: xr.DataArray | None,
) -> xr.DataArray:
    """Return values through the cumulative histogram of those that count."""
    dims = _dims_of_distribution("equalise", stack, per)
    bins = bin_count("equalise", bins)
    extent = _eight_bit_extent(stack.dtype, bins) if extent is None else extent
    bounds = None if extent is None else bin_limits("equalise", extent, bins)
    operands, dtype = _operands("equalise", stack, mask), float_of(stack.dtype)
    options: dict[str, Any] = {"exclude": exclude, "limits": limits, "dtype": dtype}
    if per == "stack":
        flags = _counted(operands, exclude) if exclude or mask is not None else None
        histogram = stats.histogram(stack, bins=bins, range=bounds, mask=flags)
        return _by_histogram(partial(kernels.equalize, **options), operands, histogram)
    kernel = partial(
        kernels.equalize_particles, bins=bins, extent=bounds, **options,
        axes=tuple(sorted(stack.dims.index(d) for d in dims)),
    )  # fmt: skip
    equalized = blockwise(
        kernel, *operands, core=dims, dtype=dtype, scratch=_scratch(stack.dtype), title="equalise"
    )
    return _without_unit(equalized)


def _eight_bit_extent(dtype: np.dtype[Any], bins: int) -> Limits | None:
    """Return the limits between which 256 bins are the values of an 8-bit integer type."""
    if bins != 256 or dtype.kind not in "iu" or dtype.itemsize > 1:
        return None
    info = np.iinfo(dtype)
    return info.min - 0.5, info.max + 0.5


def _counted(operands: tuple[xr.DataArray, ...], exclude: tuple[float, ...]) -> xr.DataArray:
    """Return True for each voxel that counts."""
    kernel = partial(kernels.counted, exclude=exclude)
    return blockwise(kernel, *operands, dtype=np.dtype(bool), scratch=1.0, title="counted")


def _by_histogram(
    kernel: Callable[..., Any], operands: tuple[xr.DataArray, ...], histogram: xr.Dataset
) -> xr.DataArray:
    """Return ``kernel(block, counts, edges, mask)``: every block with the whole histogram."""
    stack, counts = operands[0], histogram.counts.drop_vars("bin", errors="ignore")
    equalized = blockwise(
        kernel, stack, counts, histogram.edges, *operands[1:], core=("bin", "edge"),
        out=tuple(str(d) for d in stack.dims), dtype=float_of(stack.dtype),
        scratch=_scratch(stack.dtype), title="equalise",
    )  # fmt: skip
    return _without_unit(equalized)


def _scratch(dtype: np.dtype[Any]) -> float:
    """Return bytes per voxel of flags and of contiguous values."""
    return 3.0 + (12.0 if dtype == np.float16 else dtype.itemsize)


def _without_unit(result: xr.DataArray) -> xr.DataArray:
    result.attrs = with_units(result, 0)
    return result

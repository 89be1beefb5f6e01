"""Filters over stacks that continue beyond their border, in memory that a short axis bounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels import arrays
from lazyvol.kernels.filters import wide_windows
from lazyvol.kernels.filters.wide_windows import FilterPass, Reach
from lazyvol.kernels.geometry.splines import BoundaryMode
from lazyvol.plan.verbs import blockwise, stencil

Array = np.ndarray[Any, np.dtype[Any]]
Mode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap", "valid"]

#: bytes per voxel of whole volumes in float64 with one axis padded threefold
WHOLE = 8.0 * 5


@dataclass(frozen=True)
class Boundary:
    """A mode of scipy.ndimage beyond the border, with its constant, or ``"valid"``."""

    mode: Mode = "reflect"
    fill: float = 0.0

    def require(self, op: str, stack: xr.DataArray, reach: Sequence[Reach]) -> None:
        """Raise LabelError if ``fill`` or the length of an axis does not suit the mode."""
        if self.mode == "constant" and not _holds(stack.dtype, self.fill):
            raise LabelError(
                f"{op}: fill must be a value of dtype {stack.dtype}, got {self.fill}; convert the "
                f"stack first, e.g. with .astype('float32')"
            )
        window = {str(d): sum(r) + 1 for d, r in zip(stack.dims, reach, strict=True)}
        short = {d: stack.sizes[d] for d, n in window.items() if stack.sizes[d] < n}
        if self.mode == "valid" and short:
            raise LabelError(
                f"{op}: mode must not be 'valid' where the stack is shorter than the window "
                f"{ {d: window[d] for d in short} }, got lengths {short}; choose another mode or a "
                f"smaller window"
            )

    def is_wide(self, stack: xr.DataArray, reach: Sequence[Reach]) -> bool:
        """Return True if volumes padded along all axes at once would take too much memory."""
        return self.mode != "valid" and wide_windows.is_wide(stack.shape, reach)


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Return True if a float dtype holds a value to rounding, or another dtype exactly."""
    if dtype.kind == "f":
        return not np.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(np.isfinite(value)) and value == round(value) and low <= value <= high


def filter_blocks(
    op: str,
    kernel: Callable[..., Array],
    stack: xr.DataArray,
    reach: Sequence[Reach],
    boundary: Boundary,
    dtype: np.dtype[Any],
    scratch: float,
    *,
    accepts_out: bool = False,
) -> xr.DataArray:
    """Apply ``kernel(padded) -> valid part`` to a stack, in blocks with a halo.

    Where the halo would take too much memory, blocks are whole along the axes that have a reach.
    """
    scratch += _conversion_bytes(stack.dtype) + _conversion_bytes(dtype)
    if boundary.is_wide(stack, reach):
        growth = prod(1 + sum(r) / max(1, n) for r, n in zip(reach, stack.shape, strict=True))
        passes = (FilterPass(kernel, tuple(reach), boundary.fill),)
        scratch = (scratch + stack.dtype.itemsize) * growth
        return _apply_passes(op, passes, stack, boundary, dtype, scratch)
    depth = {str(d): r for d, r in zip(stack.dims, reach, strict=True)}
    return stencil(
        kernel, stack, depth=depth, mode=boundary.mode, fill=boundary.fill, dtype=dtype,
        scratch=scratch, accepts_out=accepts_out, title=op,
    )  # fmt: skip


def filter_axis_by_axis(
    op: str,
    axis_kernel: Callable[[int], tuple[Callable[..., Array], float]],
    stack: xr.DataArray,
    reach: Sequence[Reach],
    boundary: Boundary,
    dtype: np.dtype[Any],
) -> xr.DataArray:
    """Apply a kernel along every axis that has a reach, padded along one axis at a time.

    ``axis_kernel(axis)`` returns the kernel and the factor by which it scales a constant.
    """
    passes, fill = [], boundary.fill
    for axis in range(stack.ndim):
        kernel, factor = axis_kernel(axis)
        axis_reach = tuple(r if a == axis else (0, 0) for a, r in enumerate(reach))
        if axis_reach[axis] != (0, 0) or factor != 1:
            passes.append(FilterPass(kernel, axis_reach, fill))
            fill = fill * factor if factor != 1 else fill
    return _apply_passes(op, passes, stack, boundary, dtype, WHOLE)


def _apply_passes(
    op: str,
    passes: Sequence[FilterPass],
    stack: xr.DataArray,
    boundary: Boundary,
    dtype: np.dtype[Any],
    scratch: float,
) -> xr.DataArray:
    """Apply passes to blocks that are whole along the axes that have a reach."""
    axes = tuple(a for a in range(stack.ndim) if any(p.reach[a] != (0, 0) for p in passes))
    kernel = partial(
        wide_windows.apply_passes, passes=tuple(passes), axes=axes,
        mode=cast(BoundaryMode, boundary.mode), dtype=dtype,
    )  # fmt: skip
    core = [str(stack.dims[a]) for a in axes]
    return blockwise(kernel, stack, core=core, dtype=dtype, scratch=scratch, title=op)


def _conversion_bytes(dtype: np.dtype[Any]) -> float:
    """Return bytes per voxel of a copy in the dtype of kernels; 0 if it needs no copy."""
    converted = arrays.kernel_float(dtype)
    return 0.0 if converted == dtype else float(converted.itemsize)

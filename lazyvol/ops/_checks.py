"""Checks of arguments that several topics share.

``operation`` has already refused stacks that do not hold real numbers, and options of a wrong type.
"""

from collections.abc import Iterable
from operator import index
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError
from lazyvol.stack import Size, per_dim, spatial_dims

#: voxels along a dim above which a length is refused, because its unit must be wrong
MAX_VOXELS = 2**20
#: bins that a histogram may have: edges and counts of 256 MiB
MAX_BINS = 2**24


def whole_number(op: str, param: str, value: Any, least: int = 1) -> int:
    """Return ``value`` as an int; raise LabelError unless it is whole and at least ``least``."""
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise LabelError(f"{op}: {param} must be a whole number of {least} or more, got {value!r}")
    return number


def bin_count(op: str, bins: Any) -> int:
    """Return a number of bins as an int; raise unless it is whole and from 1 to ``MAX_BINS``."""
    number = whole_number(op, "bins", bins)
    if number > MAX_BINS:
        raise OptionError(f"{op}: bins must be {MAX_BINS} or fewer, got {number}; join values")
    return number


def lengths_in_voxels(op: str, stack: xr.DataArray, size: Size) -> dict[str, int]:
    """Return the lengths of a block or window by dim, for all spatial dims or those it names."""
    lengths = per_dim(size, spatial_dims(stack), "size", known=stack.dims)
    return {dim: whole_number(op, "size", length) for dim, length in lengths.items()}


def require_window(op: str, name: str, voxels: float, most: int = MAX_VOXELS) -> None:
    """Raise OptionError for windows that are longer than any volume."""
    if not voxels <= most:
        raise OptionError(
            f"{op}: {name} must reach {most} voxels or less along a dim, got {voxels:g}; give "
            f"lengths in the unit of the coordinates and sizes in voxels"
        )


def require_held(op: str, dtype: np.dtype[Any], fill: float) -> None:
    """Raise LabelError unless a dtype holds the value beyond the border."""
    if not _holds(dtype, fill):
        raise LabelError(
            f"{op}: fill must be a value of dtype {dtype}, got {fill}; convert the stack first, "
            f"e.g. with .astype('float32')"
        )


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Return True if a float dtype holds a value to rounding, or another dtype exactly."""
    if dtype.kind == "f":
        return not np.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(np.isfinite(value)) and value == round(value) and low <= value <= high


def require_spatial(subject: str, stack: xr.DataArray) -> tuple[str, ...]:
    """Return the spatial dims of a stack; raise LabelError if it has none."""
    dims = spatial_dims(stack)
    if not dims:
        raise LabelError(
            f"{subject} must have some of the dims z, y, x, got {stack.dims}; rename them"
        )
    return dims


def require_voxels(subject: str, stack: xr.DataArray, dims: Iterable[str]) -> None:
    """Raise LabelError for a stack of length 0 along ``dims``; ``subject`` starts the message."""
    dims = tuple(dims)
    empty = {d: 0 for d in dims if stack.sizes[d] == 0}
    if empty:
        raise LabelError(
            f"{subject} must have one voxel or more along {dims}, got {empty}; select a non-empty "
            "part"
        )


def require_new_dim(stack: xr.DataArray, dim: str, op: str) -> None:
    """Raise LabelError if ``stack`` already has the dim that the result adds."""
    if dim in stack.dims:
        raise LabelError(
            f"{op}: stack must not have the dim {dim!r} of the result, got {stack.dims}; rename it"
        )

"""Checks of arguments that several topics share.

The door has already refused stacks that do not hold real numbers, and options of a wrong type.
"""

from collections.abc import Iterable
from operator import index
from typing import Any

import xarray as xr

from lazyvol.errors import LabelError, OptionError
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import Size, per_dim, spatial_dims


def whole_number(op: str, param: str, value: Any, least: int = 1) -> int:
    """Return ``value`` as an int; raise LabelError unless it is whole and at least ``least``."""
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise LabelError(f"{op}: {param} must be a whole number of {least} or more, got {value!r}")
    return number


def lengths_in_voxels(op: str, stack: xr.DataArray, size: Size) -> dict[str, int]:
    """Return the lengths of a block or window by dim, for all spatial dims or those it names."""
    lengths = per_dim(size, spatial_dims(stack), "size", known=stack.dims)
    return {dim: whole_number(op, "size", length) for dim, length in lengths.items()}


def degrees_of_freedom(op: str, ddof: int, n: int | None) -> int:
    """Return ``ddof``; raise OptionError if ``n`` values leave no degree of freedom."""
    if ddof < 0:
        raise OptionError(
            f"{op}: ddof must be a whole number of 0 or more, got {ddof!r}; pass 0 or 1"
        )
    if n is not None and ddof > 0 and n <= ddof:
        raise OptionError(
            f"{op}: ddof must be less than the number of values, got {ddof=} of {n}; reduce a "
            f"longer dim or pass ddof=0"
        )
    return ddof


def require_voxels(subject: str, stack: xr.DataArray, dims: Iterable[str]) -> None:
    """Raise LabelError for a stack of length 0 along ``dims``; ``subject`` starts the message."""
    dims = tuple(dims)
    empty = {d: 0 for d in dims if stack.sizes[d] == 0}
    if empty:
        raise LabelError(
            f"{subject} must have one voxel or more along {dims}, got {empty}; select a non-empty "
            "part"
        )


def require_extremes(op: str, stack: xr.DataArray, dims: Iterable[str], n: int) -> None:
    """Raise LabelError for an extreme of zero integers, because integers have no missing value."""
    if not n and stack.dtype.kind != "f":
        raise LabelError(
            f"{op}: dim must hold a value, got length 0 along {tuple(dims)} of "
            f"{dict(stack.sizes)}; select something, or reduce floats, which give NaN"
        )


def require_mask_dims(op: str, array: xr.DataArray, mask: xr.DataArray) -> None:
    """Raise LabelError unless ``mask`` has dims of ``array``, at equal positions."""
    require_same_grid(array, mask)
    extra = [d for d in mask.dims if d not in array.dims]
    if extra:
        raise LabelError(
            f"{op}: mask must have dims of the array {array.dims}, got also {extra}; select "
            f"or reduce these"
        )

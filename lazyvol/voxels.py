"""What a voxel may hold: numbers that compiled kernels know, none of them masked."""

from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError


def unlabelled(array: Any) -> Any:
    """What is labelled: a duck array of numbers that compiled kernels know, nothing masked."""
    if isinstance(array, xr.DataArray | xr.Dataset | xr.Variable):
        raise LabelError(
            f"as_stack: array must be unlabelled, got a {type(array).__name__} with dims "
            f"{tuple(array.dims)}; use it as it is, or label its .data"
        )
    if array is None or isinstance(array, str | bytes | PathLike):
        raise LabelError(
            f"as_stack: array must be an array of numbers, got {array!r}; open a file with "
            f"lazyvol.open(path)"
        )
    if not all(hasattr(array, name) for name in ("shape", "dtype", "ndim")):
        array = _listed(array)
    return filled_with_nan(_native(array), "as_stack: array")


def _listed(array: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Numbers in lists as an array."""
    try:
        return np.asarray(array)
    except (ValueError, TypeError) as fault:
        raise LabelError(
            f"as_stack: array must be an array of numbers, got {type(array).__name__} of unequal "
            f"parts; stack volumes of one shape with numpy.stack"
        ) from fault


def _native(array: Any) -> Any:
    """The array in this machine's byte order, the only one that compiled kernels know."""
    require_numbers(array.dtype, "as_stack: array")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def require_numbers(dtype: Any, what: str) -> None:
    """Refuse a type that is none of numbers, or of numbers that no kernel knows."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc":
        raise LabelError(
            f"{what} must hold numbers, got dtype={dtype}; convert it, e.g. with .astype('float32')"
        )
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        known = "float64" if dtype.kind == "f" else "complex128"
        raise LabelError(
            f"{what} must hold numbers of at most 64 bits, got dtype={dtype}; convert it with "
            f".astype({known!r})"
        )


def is_masked(array: Any) -> bool:
    """Whether an array, or every block of a lazy one, is a ``numpy.ma.MaskedArray``."""
    return isinstance(getattr(array, "_meta", array), np.ma.MaskedArray)


def mask_of(array: Any) -> Any:
    """Where a masked array is masked, lazy where the array is."""
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.getmaskarray(array)
    return array.map_blocks(np.ma.getmaskarray, dtype=bool, meta=np.empty((), bool))


def data_of(array: Any) -> Any:
    """The numbers of a masked array, those under its mask included."""
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.getdata(array)
    return array.map_blocks(np.ma.getdata, dtype=array.dtype, meta=np.empty((), array.dtype))


def filled_with_nan(array: Any, what: str) -> Any:
    """An array without a mask: what was masked is NaN, in the float type of the values."""
    if not is_masked(array):
        return array
    if isinstance(array, np.ma.MaskedArray) and not np.ma.getmaskarray(array).any():
        return np.ma.getdata(array)
    if array.dtype == bool:
        raise LabelError(
            f"{what} must have no masked flags, as a flag cannot be NaN, got a masked array; fill "
            f"it, e.g. with .filled(False)"
        )
    dtype = float_of(array.dtype)
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.filled(array.astype(dtype), np.nan)
    return array.map_blocks(_nan_for_masked, dtype=dtype, meta=np.empty((), dtype))


def _nan_for_masked(block: Any) -> Any:
    return np.ma.filled(block.astype(float_of(block.dtype)), np.nan)


def float_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Float type of a result: a float's own, float64 for integers and booleans."""
    return dtype if dtype.kind in "fc" else np.dtype(np.float64)

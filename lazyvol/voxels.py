"""Element types of stacks: numbers that compiled kernels support, without masked values."""

from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError


def plain_array(array: Any) -> Any:
    """Return an array of supported numbers without labels or masked values, as ``as_stack`` needs.

    Lists become arrays; raise LabelError for labelled arrays, paths and anything but numbers.
    """
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
        array = _from_lists(array)
    require_numbers(array.dtype, "as_stack: array")
    return filled_with_nan(native(array), "as_stack: array")


def _from_lists(array: Any) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        return np.asarray(array)
    except (ValueError, TypeError) as error:
        raise LabelError(
            f"as_stack: array must be an array of numbers, got {type(array).__name__} of unequal "
            f"parts; stack volumes of one shape with numpy.stack"
        ) from error


def native(array: Any) -> Any:
    """Return an array in this machine's byte order, the only one that compiled kernels support."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def require_numbers(dtype: Any, what: str) -> None:
    """Raise LabelError for an element type that is no number, or wider than kernels support."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc":
        raise LabelError(
            f"{what} must hold numbers, got dtype={dtype}; convert it, e.g. with .astype('float32')"
        )
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        widest = "float64" if dtype.kind == "f" else "complex128"
        raise LabelError(
            f"{what} must hold numbers of at most 64 bits, got dtype={dtype}; convert it with "
            f".astype({widest!r})"
        )


def is_masked(array: Any) -> bool:
    """Return True for a ``numpy.ma.MaskedArray``, or a dask array whose blocks are such arrays."""
    return isinstance(getattr(array, "_meta", array), np.ma.MaskedArray)


def mask_of(array: Any) -> Any:
    """Return the boolean mask of a masked array, lazy if the array is."""
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.getmaskarray(array)
    return array.map_blocks(np.ma.getmaskarray, dtype=bool, meta=np.empty((), bool))


def data_of(array: Any) -> Any:
    """Return the values of a masked array, including those under its mask."""
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.getdata(array)
    return array.map_blocks(np.ma.getdata, dtype=array.dtype, meta=np.empty((), array.dtype))


def filled_with_nan(array: Any, what: str) -> Any:
    """Return an array without a mask: masked values are NaN, in the float type of the values."""
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
        return _nan_for_masked(array)
    return array.map_blocks(_nan_for_masked, dtype=dtype, meta=np.empty((), dtype))


def _nan_for_masked(block: Any) -> Any:
    return np.ma.filled(block.astype(float_of(block.dtype)), np.nan)


def float_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the float type of a result: that of a float, float64 for integers and booleans."""
    return dtype if dtype.kind in "fc" else np.dtype(np.float64)

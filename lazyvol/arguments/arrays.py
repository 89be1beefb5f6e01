"""Array arguments of operations: plain ones are labelled, and anything but numbers is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments.rules import show_value
from lazyvol.errors import LabelError
from lazyvol.stack import (
    as_stack,
    data_array,
    data_of,
    default_dims,
    filled_with_nan,
    is_masked,
    mask_of,
    native,
    require_known_sizes,
    require_numbers,
    require_stack,
    spatial_dims,
)

DimNames = tuple[str, ...]
#: element types that every kernel supports; complex ones are for some operations
REAL = {np.dtype(kind) for kind in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2",
                                    "f4", "f8")}  # fmt: skip


@dataclass(frozen=True)
class ArrayParameter:
    """Rules of an array parameter of an operation.

    ``subject`` names operation and parameter in messages, ``alternatives`` names the other values
    that are allowed. ``named`` lists the dims of a plain array by its number of axes; without it, a
    plain array gets those of ``as_stack``, and any but the first those of the first stack. A
    ``sibling`` has all dims of the first stack, but its own lengths and labels.
    """

    subject: str
    alternatives: str = ""
    complex: bool = False
    named: tuple[DimNames, ...] = ()
    sibling: bool = False

    def labelled(self, value: Any, first: xr.DataArray | None) -> xr.DataArray:
        """Return a plain array as a labelled one that operations can read."""
        plain = self._plain(value)
        dims = self._dims_beside(first, plain.shape)
        plain = filled_with_nan(plain, self.subject)
        if dims is not None and first is not None:
            return self.readable(data_array(plain, _coords_of(plain.shape, dims, first), dims))
        names = default_dims(plain.shape, self.subject) if dims is None else dims
        return self.readable(as_stack(plain, dims=names))

    def _dims_beside(self, first: xr.DataArray | None, shape: Sequence[int]) -> DimNames | None:
        """Return the dims of a plain array, from its parameter or the first stack, else None."""
        dims = {len(names): names for names in self.named}.get(len(shape))
        if dims is not None or first is None:
            return dims
        if self.sibling and len(shape) == first.ndim:
            return tuple(map(str, first.dims))
        return None if self.named else self._matching_dims(shape, first)

    def readable(self, array: xr.DataArray) -> xr.DataArray:
        """Return a labelled array without masked values; refuse types and chunks that no
        operation reads."""
        if array.dtype not in REAL:
            self._require_type(array)
        data = array.data
        if type(data) is np.ndarray:
            return array
        if is_masked(data):
            array = array.copy(data=filled_with_nan(data, self.subject))
        elif not _is_array(data):
            raise LabelError(
                f"{self.subject} must hold a numpy or dask array, got {type(data).__name__}; take "
                f"its plain values, without units and other wrappers"
            )
        require_known_sizes(array.shape, self.subject)
        whole = _without_empty_blocks(array.data)
        return array if whole is array.data else array.copy(data=whole)

    def _require_type(self, array: xr.DataArray) -> None:
        require_numbers(array.dtype, self.subject)
        require_stack(array)
        if array.dtype.kind == "c" and not self.complex:
            raise LabelError(
                f"{self.subject} must hold real numbers, got dtype={array.dtype}; take its .real "
                f"and .imag, or abs() of it"
            )

    def _plain(self, value: Any) -> Any:
        """Return a plain array of numbers, or nested lists of them as one; refuse the rest."""
        if isinstance(value, list | tuple) and value and not _holds_arrays(value):
            value = _from_lists(value)
        if not _is_array(value):
            raise LabelError(
                f"{self.subject} must be a labelled array{self.alternatives}, got "
                f"{_with_remedy(value)}"
            )
        require_numbers(value.dtype, self.subject)
        require_known_sizes(value.shape, self.subject)
        return _without_empty_blocks(native(value))

    def _matching_dims(self, shape: Sequence[int], first: xr.DataArray) -> DimNames:
        """Return the dims of the first stack that a plain array has, if only one choice fits.

        They are all dims, the last ones, the spatial ones, or of one axis the first dim (a number
        for each particle).
        """
        dims, n = tuple(map(str, first.dims)), len(shape)
        candidates = [dims[len(dims) - n :]] if 0 < n <= len(dims) else []
        spatial = tuple(d for d in dims if d in spatial_dims(first))
        candidates += [spatial] if len(spatial) == n else []
        candidates += [dims[:1]] if n == 1 else []
        lengths = {str(d): m for d, m in first.sizes.items()}
        fits = [c for c in dict.fromkeys(candidates) if tuple(lengths[d] for d in c) == (*shape,)]
        if len(fits) == 1:
            return fits[0]
        how = f"fits {' and '.join(map(str, fits))}" if fits else "fits none of them"
        raise LabelError(
            f"{self.subject} must have the shape of the stack, of its last dims or of a volume in "
            f"it, got shape {tuple(shape)} for a stack with {lengths}, which {how}; name its dims "
            f"by lazyvol.as_stack(array, dims=...)"
        )


def _coords_of(shape: Sequence[int], dims: DimNames, first: xr.DataArray) -> dict[str, xr.Variable]:
    """Return the coordinates of the first stack along dims of equal length."""
    return {
        d: first.coords[d].variable
        for d, n in zip(dims, shape, strict=True)
        if d in first.coords and first.sizes.get(d) == n
    }


def _without_empty_blocks(array: Any) -> Any:
    """Return an array in which no axis of length 1 has empty blocks, as a dask mask leaves them.

    Dask takes the blocks of such an axis for one each: ``x + 1`` of the chunks (1, 0) has 2 values.
    """
    chunks = getattr(array, "chunks", None) or ()
    divided = {a: 1 for a, c in enumerate(chunks) if len(c) > 1 and sum(c) == 1}
    return array.rechunk(divided) if divided else array


def _is_array(value: Any) -> bool:
    """Return True for numpy arrays, and for dask arrays by their attributes."""
    if isinstance(value, np.ndarray):
        return True
    if not isinstance(getattr(value, "dtype", None), np.dtype):  # a Delayed has any attribute
        return False
    return all(hasattr(value, n) for n in ("dask", "chunks", "shape", "map_blocks"))


def _holds_arrays(values: Sequence[Any]) -> bool:
    return any(isinstance(v, xr.DataArray | xr.Dataset) or hasattr(v, "dask") for v in values)


def _from_lists(values: Sequence[Any]) -> Any:
    """Return nested lists of numbers as an array, and other lists unchanged."""
    masked = any(isinstance(v, np.ma.MaskedArray) for v in values)
    try:
        array = np.ma.asarray(values) if masked else np.asarray(values)
    except (ValueError, TypeError):
        return values
    return array if array.dtype.kind in "biufc" else values


def _with_remedy(value: Any) -> str:
    """Return a refused value in words, with the remedy for it."""
    if isinstance(value, str | bytes) or hasattr(value, "__fspath__"):
        return f"{show_value(value)}; open a file with lazyvol.open(path)"
    if isinstance(value, xr.Dataset):
        return f"{show_value(value)}; pick one of its variables, e.g. dataset['name']"
    if isinstance(value, Mapping):
        return f"{show_value(value)}; pass one of its values"
    if isinstance(value, list | tuple) and _holds_arrays(value):
        return f"a {type(value).__name__} of arrays; join them with xarray.concat(arrays, 'k')"
    if value is None:
        return "None; pass a stack"
    kind = type(value).__name__
    return f"{show_value(value)} ({kind}); label numbers with lazyvol.as_stack(array)"


def split_masked(value: Any) -> tuple[Any, Any]:
    """Return the values and the mask of a masked array, labelled or plain.

    Masked values become NaN where the type has one: an operation may use values outside the mask of
    a particle, as an average of all particles does.
    """
    if isinstance(value, xr.DataArray):
        values, masked = split_masked(value.data)
        return value.copy(data=values), masked
    visible = data_of(value) if value.dtype == bool else filled_with_nan(value, "stack")
    return visible, mask_of(value)

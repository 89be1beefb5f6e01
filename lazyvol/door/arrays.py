"""What operations are given for a labelled array: labelled, of numbers, or refused in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.door.words import shown
from lazyvol.errors import LabelError
from lazyvol.stack import as_stack, require_no_colours, require_stack, spatial_dims
from lazyvol.voxels import data_of, filled_with_nan, is_masked, mask_of, require_numbers

Names = tuple[str, ...]
#: types that every kernel knows; complex ones are for some operations
REAL = {np.dtype(kind) for kind in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2",
                                    "f4", "f8")}  # fmt: skip


@dataclass(frozen=True)
class Operand:
    """An array parameter of an operation.

    ``what`` names both in messages. ``named`` are the dims that a plain array of so many axes
    gets; without them those of ``as_stack``, or for any but the first those of the first stack.
    ``sibling`` tells that all dims of the first are meant, in lengths and labels of its own.
    ``others`` are words for what else than an array may be given.
    """

    what: str
    others: str = ""
    complex: bool = False
    named: tuple[Names, ...] = ()
    sibling: bool = False

    def labelled(self, value: Any, first: xr.DataArray | None) -> xr.DataArray:
        """A value as a labelled array that the operation can read."""
        if isinstance(value, xr.DataArray):
            return self.readable(value)
        plain = self._plain(value)
        dims = {len(names): names for names in self.named}.get(plain.ndim)
        if dims is None and first is not None and self.sibling and plain.ndim == first.ndim:
            dims = tuple(map(str, first.dims))
        if dims is None and first is not None and not self.named:
            dims = self._fitting(plain.shape, first)
        plain = filled_with_nan(plain, self.what)
        if dims is not None and first is not None:
            return self.readable(xr.DataArray(plain, _places(plain.shape, dims, first), dims))
        if dims is None:
            require_no_colours(plain.shape, self.what)
            self._require_axes(plain.shape)
        return self.readable(as_stack(plain, dims=dims))

    def readable(self, array: xr.DataArray) -> xr.DataArray:
        """A labelled array with a type and chunks that operations can read; masked is NaN."""
        if array.dtype not in REAL:
            self._require_type(array)
        data = array.data
        if type(data) is np.ndarray:
            return array
        if is_masked(data):
            array = array.copy(data=filled_with_nan(data, self.what))
        if any(n != n for n in array.shape):
            raise LabelError(
                f"{self.what} must have chunks of known sizes, got {array.shape}; call "
                f"compute_chunk_sizes() on its dask array first"
            )
        return array

    def _require_type(self, array: xr.DataArray) -> None:
        require_numbers(array.dtype, self.what)
        require_stack(array)
        if array.dtype.kind == "c" and not self.complex:
            raise LabelError(
                f"{self.what} must hold real numbers, got dtype={array.dtype}; take its .real and "
                f".imag, or abs() of it"
            )

    def _plain(self, value: Any) -> Any:
        """A plain array, or numbers in lists as one; anything else is refused."""
        if isinstance(value, list | tuple) and value and not _holds_arrays(value):
            value = _listed(value)
        if not _is_array(value):
            raise LabelError(
                f"{self.what} must be a labelled array{self.others}, got {_found(value)}"
            )
        require_numbers(value.dtype, self.what)
        if any(n != n for n in value.shape):
            raise LabelError(
                f"{self.what} must have chunks of known sizes, got shape {value.shape}; call "
                f"compute_chunk_sizes() on it first"
            )
        return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))

    def _require_axes(self, shape: Sequence[int]) -> None:
        if not 1 <= len(shape) <= 4:
            raise LabelError(
                f"{self.what} must have 1 to 4 axes or names for them, got shape {tuple(shape)}; "
                f"label it by lazyvol.as_stack(array, dims=...)"
            )

    def _fitting(self, shape: Sequence[int], first: xr.DataArray) -> Names:
        """The dims of the first stack that a plain array has: all, the last, or the spatial ones.

        An array with one axis may also have the first dim, a number for each particle.
        """
        own, n = tuple(map(str, first.dims)), len(shape)
        candidates = [own[len(own) - n :]] if 0 < n <= len(own) else []
        spatial = tuple(d for d in own if d in spatial_dims(first))
        candidates += [spatial] if len(spatial) == n else []
        candidates += [own[:1]] if n == 1 else []
        lengths = {str(d): m for d, m in first.sizes.items()}
        found = [c for c in dict.fromkeys(candidates) if tuple(lengths[d] for d in c) == (*shape,)]
        if len(found) == 1:
            return found[0]
        how = f"fits {' and '.join(map(str, found))}" if found else "fits none of them"
        raise LabelError(
            f"{self.what} must have the shape of the stack, of its last dims or of a volume in it, "
            f"got shape {tuple(shape)} for a stack with {lengths}, which {how}; name its dims by "
            f"lazyvol.as_stack(array, dims=...)"
        )


def _places(shape: Sequence[int], dims: Names, first: xr.DataArray) -> dict[str, xr.Variable]:
    """Coordinates along dims that the first stack has in that length; none of a crop."""
    return {
        d: first.coords[d].variable
        for d, n in zip(dims, shape, strict=True)
        if d in first.coords and first.sizes.get(d) == n
    }


def _is_array(value: Any) -> bool:
    """numpy arrays, and dask's by what they can do."""
    if isinstance(value, np.ndarray):
        return True
    return all(hasattr(value, n) for n in ("dask", "chunks", "dtype", "shape", "map_blocks"))


def _holds_arrays(values: Sequence[Any]) -> bool:
    return any(isinstance(v, xr.DataArray | xr.Dataset) or hasattr(v, "dask") for v in values)


def _listed(values: Sequence[Any]) -> Any:
    """Numbers in nested lists as an array, or the lists themselves."""
    try:
        found = np.ma.asarray(values) if _has_masked(values) else np.asarray(values)
    except (ValueError, TypeError):
        return values
    return found if found.dtype.kind in "biufc" else values


def _has_masked(values: Sequence[Any]) -> bool:
    return any(isinstance(v, np.ma.MaskedArray) for v in values)


def _found(value: Any) -> str:
    """What was given for an array, and what to do about it."""
    if isinstance(value, str | bytes) or hasattr(value, "__fspath__"):
        return f"{shown(value)}; open a file with lazyvol.open(path)"
    if isinstance(value, xr.Dataset):
        return f"{shown(value)}; pick one of its variables, e.g. dataset['name']"
    if isinstance(value, Mapping):
        return f"{shown(value)}; pass one of its values"
    if isinstance(value, list | tuple) and _holds_arrays(value):
        return f"a {type(value).__name__} of arrays; join them with xarray.concat(arrays, 'k')"
    if value is None:
        return "None; pass a stack"
    return f"{shown(value)} ({type(value).__name__}); label numbers with lazyvol.as_stack(array)"


def parted(value: Any) -> tuple[Any, Any]:
    """A masked array, labelled or plain, as its numbers and where they are masked."""
    if isinstance(value, xr.DataArray):
        return value.copy(data=data_of(value.data)), mask_of(value.data)
    return data_of(value), mask_of(value)

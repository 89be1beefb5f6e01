"""The labels of a result as files hold them; large coordinates are stored as arrays."""

from collections.abc import Hashable

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io.positions import dims_given_by_spacing, spacing_and_origin
from lazyvol.io.zarr.layout import LargeCoord, Variable
from lazyvol.io.zarr.texts import SIZED, is_text
from lazyvol.stack import SPATIAL, unit_of

#: coordinates with more bytes are stored as arrays of their own
LARGE_COORD_BYTES = 1 << 20


def variable_of(array: xr.DataArray, *, separate_large: bool = True) -> Variable:
    """Return the labels of an array in the form of files; large coordinates may be separate."""
    sizes, origin = spacing_and_origin(array)
    units = {unit_of(array, d) for d in sizes}
    if len(units) > 1:
        raise LabelError(
            f"save: positions must be in one unit, got {sorted(units)}; convert the coordinates"
        )
    unit = units.pop() if units else "voxel"
    regular = dims_given_by_spacing(array, sizes, unit, origin)
    named = {require_text(n): coord for n, coord in array.coords.items() if n not in regular}
    large = large_coords(array) if separate_large else {}
    dims = tuple(require_text(d) for d in array.dims)
    return Variable(
        shape=array.shape,
        dtype=array.dtype,
        dims=dims,
        voxel_size=sizes,
        unit=unit,
        origin=origin,
        coords={n: (_coord_dims(c), np.asarray(c.values), c.attrs) for n, c in named.items()
                if n not in large},
        attrs=dict(array.attrs),
        name=None if array.name is None else require_text(array.name),
        without_coords=tuple(d for d in SPATIAL if d in dims and d not in array.coords),
        large_coords={n: LargeCoord(c.shape, c.dtype, tuple(map(require_text, c.dims)), c.attrs)
                      for n, c in large.items()},
    )  # fmt: skip


def large_coords(array: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return the coordinates of numbers, times or texts that are too large for the metadata."""
    large = {}
    for name, coord in array.coords.items():
        itemsize = SIZED.itemsize if coord.dtype.kind in "OT" else coord.dtype.itemsize
        if coord.size * itemsize > LARGE_COORD_BYTES and name not in SPATIAL:
            if coord.dtype.kind in "biufmM":
                large[str(name)] = coord
            elif is_text(coord.variable.data):
                large[str(name)] = coord.astype(object) if coord.dtype.kind == "T" else coord
    return large


def shared_labels(data_set: xr.Dataset) -> xr.DataArray:
    """Return an array of zeros with the attributes and coordinates that no variable has."""
    of_variables = {name for array in data_set.values() for name in array.coords}
    coords = {n: c.variable for n, c in data_set.coords.items() if n not in of_variables}
    dims = tuple(dict.fromkeys(d for c in coords.values() for d in c.dims))
    zeros = np.broadcast_to(np.int8(0), tuple(data_set.sizes[d] for d in dims))
    return xr.DataArray(zeros, coords, dims, attrs=data_set.attrs)


def channel_names(array: xr.DataArray) -> list[str]:
    """Return the names of the channels, or that of the array."""
    if "channel" in array.coords and array.coords["channel"].dims == ("channel",):
        return [str(name) for name in array.coords["channel"].values]
    return [] if "channel" in array.dims else [str(array.name or "volume")]


def _coord_dims(coord: xr.DataArray) -> str | tuple[str, ...]:
    """Return the only dim of a coordinate, or the tuple of its dims."""
    dims = tuple(require_text(d) for d in coord.dims)
    return dims[0] if len(dims) == 1 else dims


def require_text(name: Hashable) -> str:
    """Return a name; raise LabelError if it is not text, the only type that files restore."""
    if not isinstance(name, str):
        raise LabelError(f"save: a name must be text, got {name!r}; rename it")
    return name

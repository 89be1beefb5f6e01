"""Turn results into table columns along one dim; other dims with text labels are spread."""

from collections.abc import Collection, Iterator
from itertools import product

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.stack import STACK

#: dim of the rows of results without dims
ROW = "row"


def table_columns(
    table: xr.DataArray | xr.Dataset, where: str
) -> tuple[str, dict[str, xr.DataArray]]:
    """Return the dim of the rows and the columns along it, coordinates before variables.

    Other dims, which have text labels, become one column per label: ``shift`` over (k, axis)
    becomes ``shift_z``, ``shift_y``, ``shift_x``. Codes become their names (``with_names``). Of a
    contiguous ragged Dataset the rows are the observations, each with the coordinates of its frame.

    Raises
    ------
    LabelError
        A variable has other dims, or two columns have equal names.

    Examples
    --------
    >>> moved = xr.DataArray([[1.0, 2.0]], {"axis": ["y", "x"]}, ("k", "axis"), name="shift")
    >>> list(table_columns(moved, "a.csv")[1])
    ['shift_y', 'shift_x']
    """
    data_set = _as_dataset(table)
    rows = data_set if data_set.sizes else data_set.expand_dims(ROW)
    dim = _row_dim(rows, where)
    columns: dict[str, xr.DataArray] = {}
    for name in (*(c for c in rows.coords if c != dim), *rows.data_vars):
        for label, column in _spread(rows, str(name), dim, where):
            if label in columns or label == dim:
                raise LabelError(f"{where}: columns must differ, got {label!r} twice; rename one")
            columns[label] = with_names(column)
    return dim, columns


def with_names(column: xr.DataArray) -> xr.DataArray:
    """Return a column of codes as the names that its CF attributes give them.

    A lazy column keeps its codes until it is computed.

    Examples
    --------
    >>> names = {"flag_values": [0, 1], "flag_meanings": "found unclear"}
    >>> with_names(xr.DataArray([1, 0], dims="k", attrs=names)).values.tolist()
    ['unclear', 'found']
    """
    if "flag_meanings" not in column.attrs:
        return column
    plain = column.copy(deep=False)
    plain.attrs = {n: v for n, v in column.attrs.items() if not str(n).startswith("flag_")}
    if column.chunks is not None:
        return plain
    codes = np.atleast_1d(column.attrs["flag_values"]).tolist()
    names = dict(zip(codes, str(column.attrs["flag_meanings"]).split(), strict=True))
    return plain.copy(data=np.array([names.get(c, str(c)) for c in column.values.tolist()]))


def _as_dataset(array: xr.DataArray | xr.Dataset) -> xr.Dataset:
    if isinstance(array, xr.Dataset):
        return _observations(array)
    name = "value" if array.name is None or array.name in array.coords else array.name
    return array.to_dataset(name=name)


def _observations(data_set: xr.Dataset) -> xr.Dataset:
    """Return the rows of a contiguous ragged Dataset; any other Dataset as it is.

    Rows that were selected or sorted no longer fit the sizes, and lose coordinates of frames.
    """
    sizes = next((a for a in data_set.values() if "sample_dimension" in a.attrs), None)
    if sizes is None or sizes.ndim != 1:
        return data_set
    dim, frame = sizes.attrs["sample_dimension"], sizes.dims[0]
    frames = {str(n): c for n, c in data_set.coords.items() if c.dims == (frame,)}
    rows = data_set.drop_vars([n for n, v in data_set.variables.items() if frame in v.dims])
    count = np.asarray(sizes.values, np.int64)
    if count.sum() != rows.sizes.get(dim):
        return rows
    return rows.assign_coords({n: (dim, np.repeat(c.values, count)) for n, c in frames.items()})


def _row_dim(rows: xr.Dataset, where: str) -> str:
    """Return ``k``, or the only dim that all variables share."""
    arrays = list(rows.data_vars.values())
    if STACK in rows.dims:
        return STACK
    shared = [d for d in rows.dims if all(d in a.dims for a in arrays)]
    dims = [d for d in shared if not _has_text_labels(rows, str(d))] if len(shared) > 1 else shared
    if len(dims) != 1:
        raise LabelError(
            f"{where}: a table must have values along one dim, got {dict(rows.sizes)}; save a .zarr"
        )
    return str(dims[0])


def _has_text_labels(rows: xr.Dataset, dim: str) -> bool:
    return dim in rows.coords and rows[dim].dtype.kind in "UOT"


def _spread(
    rows: xr.Dataset, name: str, dim: str, where: str
) -> Iterator[tuple[str, xr.DataArray]]:
    """Yield the columns of a variable or coordinate; a coordinate without the dim has none."""
    array = rows[name]
    others = [str(d) for d in array.dims if d != dim]
    if dim in array.dims and all(_has_text_labels(rows, d) for d in others):
        labels = [[str(label) for label in rows[d].values] for d in others]
        for index in product(*(range(len(n)) for n in labels)):
            words = [name, *(n[i] for n, i in zip(labels, index, strict=True))]
            yield "_".join(words), array.isel(dict(zip(others, index, strict=True)))
    elif name in rows.data_vars:
        raise LabelError(
            f"{where}: a table must have values along one dim, {dim!r}, and others with text "
            f"labels alone, got {name!r} with dims {array.dims}; leave it out, or save a .zarr"
        )


def lost_labels(
    table: xr.DataArray | xr.Dataset, columns: dict[str, xr.DataArray], kept: Collection[str]
) -> list[str]:
    """List the coordinates, attributes and units of a table that its columns do not hold.

    The file holds the attributes named in ``kept`` and the units of the columns named there.
    """
    data_set = _as_dataset(table)
    dims = {str(d) for name in data_set.variables for d in data_set[name].dims}
    others = [str(n) for n in data_set.coords if str(n) not in {*columns, *dims}]
    coords = [n for n in others if not any(label.startswith(f"{n}_") for label in columns)]
    attrs = {str(a) for labelled in (data_set, *columns.values()) for a in labelled.attrs}
    units = [n for n, column in columns.items() if "units" in column.attrs and n not in kept]
    losses = {
        "coordinates": coords,
        "attributes": sorted(attrs - {"units", *kept}),
        "units of": units,
    }
    return [f"{label} {', '.join(names)}" for label, names in losses.items() if names]

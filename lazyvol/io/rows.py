"""Turn results into table columns along one dim; a second dim with text labels is spread."""

from collections.abc import Collection, Iterator

import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.stack import STACK

#: dim of the rows of results without dims
ROW = "row"


def table_columns(
    table: xr.DataArray | xr.Dataset, where: str
) -> tuple[str, dict[str, xr.DataArray]]:
    """Return the dim of the rows and the columns along it, coordinates before variables.

    An array with one dim more, which has text labels, becomes one column per label: ``shift``
    over (k, axis) becomes ``shift_z``, ``shift_y``, ``shift_x``.

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
            columns[label] = column
    return dim, columns


def _as_dataset(array: xr.DataArray | xr.Dataset) -> xr.Dataset:
    if isinstance(array, xr.Dataset):
        return array
    name = "value" if array.name is None or array.name in array.coords else array.name
    return array.to_dataset(name=name)


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
    if dim in array.dims and not others:
        yield name, array
    elif dim in array.dims and len(others) == 1 and _has_text_labels(rows, others[0]):
        for n, label in enumerate(rows[others[0]].values):
            yield f"{name}_{label}", array.isel({others[0]: n})
    elif name in rows.data_vars:
        raise LabelError(
            f"{where}: a table must have values along one dim, {dim!r}, and at most one more with "
            f"text labels, got {name!r} with dims {array.dims}; leave it out, or save a .zarr"
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

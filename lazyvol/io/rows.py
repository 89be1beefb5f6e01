"""Results as rows of a table: what is along one dim, a column each; short labelled dims spread."""

from collections.abc import Collection, Iterator

import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.stack import STACK

#: dim of a table of results that have none
ROW = "row"


def columns(table: xr.DataArray | xr.Dataset, where: str) -> tuple[str, dict[str, xr.DataArray]]:
    """The dim of the rows, and every column along it, coordinates before variables.

    What has one dim more, with labels of text, becomes a column for each label: ``shift`` over
    (k, axis) ``shift_z``, ``shift_y``, ``shift_x``.

    Raises
    ------
    LabelError
        A variable has other dims, or two columns would have one name.

    Examples
    --------
    >>> moved = xr.DataArray([[1.0, 2.0]], {"axis": ["y", "x"]}, ("k", "axis"), name="shift")
    >>> list(columns(moved, "a.csv")[1])
    ['shift_y', 'shift_x']
    """
    found = table if isinstance(table, xr.Dataset) else _data_set(table)
    rows = found if found.sizes else found.expand_dims(ROW)
    dim = _row_dim(rows, where)
    made: dict[str, xr.DataArray] = {}
    for name in (*(c for c in rows.coords if c != dim), *rows.data_vars):
        for label, part in _spread(rows, str(name), dim, where):
            if label in made or label == dim:
                raise LabelError(f"{where}: columns must differ, got {label!r} twice; rename one")
            made[label] = part
    return dim, made


def _data_set(array: xr.DataArray) -> xr.Dataset:
    name = "value" if array.name is None or array.name in array.coords else array.name
    return array.to_dataset(name=name)


def _row_dim(rows: xr.Dataset, where: str) -> str:
    """The stack axis, or the dim that all variables have in common, the only one."""
    arrays = list(rows.data_vars.values())
    if STACK in rows.dims:
        return STACK
    shared = [d for d in rows.dims if all(d in a.dims for a in arrays)]
    free = [d for d in shared if not _labelled(rows, str(d))] if len(shared) > 1 else shared
    if len(free) != 1:
        raise LabelError(
            f"{where}: a table must list what is along one dim, got {dict(rows.sizes)}; save a "
            ".zarr"
        )
    return str(free[0])


def _labelled(rows: xr.Dataset, dim: str) -> bool:
    return dim in rows.coords and rows[dim].dtype.kind in "UOT"


def _spread(
    rows: xr.Dataset, name: str, dim: str, where: str
) -> Iterator[tuple[str, xr.DataArray]]:
    """The columns of one variable or coordinate; coordinates without the dim have none."""
    array = rows[name]
    others = [str(d) for d in array.dims if d != dim]
    if dim in array.dims and not others:
        yield name, array
    elif dim in array.dims and len(others) == 1 and _labelled(rows, others[0]):
        for n, label in enumerate(rows[others[0]].values):
            yield f"{name}_{label}", array.isel({others[0]: n})
    elif name in rows.data_vars:
        raise LabelError(
            f"{where}: a table must list what is along one dim, {dim!r}, or has one more with "
            f"labels of text, got {name!r} with dims {array.dims}; leave it out, or save a .zarr"
        )


def lost(
    table: xr.DataArray | xr.Dataset, made: dict[str, xr.DataArray], kept: Collection[str]
) -> list[str]:
    """What of a table is in no column: other coordinates, attributes, and units.

    Attributes called ``kept`` have a place, and units of columns called so.
    """
    found = table if isinstance(table, xr.Dataset) else _data_set(table)
    spread = {str(d) for name in found.variables for d in found[name].dims}
    rest = [str(n) for n in found.coords if str(n) not in {*made, *spread}]
    gone = [n for n in rest if not any(label.startswith(f"{n}_") for label in made)]
    attrs = {str(a) for part in (found, *made.values()) for a in part.attrs}
    units = [n for n, part in made.items() if "units" in part.attrs and n not in kept]
    parts = {"coordinates": gone, "attributes": sorted(attrs - {"units", *kept}), "units of": units}
    return [f"{what} {', '.join(names)}" for what, names in parts.items() if names]

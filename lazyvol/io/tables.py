"""Write results as tables: columns along one dim, as the text of CSV and STAR files."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io import commas, star
from lazyvol.io.atomic import new_file
from lazyvol.io.particle_lists import (
    DIM_NAMES,
    INDEX_LABEL,
    OPTICS,
    OTHER_BLOCKS,
    RELION,
    standard_units,
)
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


def star_text(table: xr.DataArray | xr.Dataset, where: str = "a .star file") -> str:
    """Return the columns of a table as a RELION STAR file, under RELION labels where they exist.

    Raises
    ------
    LabelError
        A variable has other dims, a column has another unit than in RELION, a name has white
        space, or a value cannot be written.
    """
    dim, columns = table_columns(table, where)
    if dim in table.coords:
        index = f"list_{dim}" if dim in DIM_NAMES else dim
        columns = {INDEX_LABEL if dim == STACK else index: table[dim], **columns}
    shift_unit = _shift_unit(columns, where)
    labels = {n: _relion_label(n, c, shift_unit, where) for n, c in columns.items()}
    bad = [label for label in labels.values() if not label or set(label) & set(star.WHITE)]
    if bad or len({*labels.values()}) != len(labels):
        raise LabelError(
            f"{where}: columns must have different names without spaces, got "
            f"{bad or sorted(labels)}; rename them"
        )
    attrs = (table.attrs, *(c.attrs for c in columns.values()))
    blocks = dict(_mapping(OTHER_BLOCKS, attrs))
    optics = _mapping(OPTICS, attrs)
    blocks |= {OPTICS: optics} if optics else {}
    blocks["particles"] = {labels[n]: c.values for n, c in columns.items()}
    return star.text(blocks.items())


def _mapping(key: str, attrs: Iterable[Mapping[Any, Any]]) -> Mapping[str, Any]:
    """Return the first mapping under a key of several sets of attributes."""
    found = (a[key] for a in attrs if isinstance(a.get(key), Mapping))
    return next(found, {})


def _shift_unit(columns: Mapping[str, xr.DataArray], where: str) -> str:
    """Return the common unit of all shifts; RELION has labels for voxel and angstrom."""
    shifts = [n for n in columns if n.startswith("shift_") and n[6:] in ("x", "y", "z")]
    units = {str(columns[n].attrs.get("units", "voxel")) for n in shifts} or {"voxel"}
    if len(units) > 1 or not units <= {"voxel", "angstrom"}:
        raise LabelError(
            f"{where}: shifts must all be in voxel or all in angstrom, got {sorted(units)}; "
            "convert them and set attrs['units']"
        )
    return units.pop()


def _relion_label(name: str, column: xr.DataArray, shift_unit: str, where: str) -> str:
    """Return the RELION label of a column; raise LabelError if its unit is not that of RELION."""
    expected = standard_units(shift_unit).get(name)
    unit = column.attrs.get("units", expected)
    if expected is not None and unit != expected:
        raise LabelError(
            f"{where}: {name} must be in {expected}, got {unit}; convert it and set "
            "attrs['units'], or rename it"
        )
    labels = [label for label, its_name in RELION.items() if its_name == name]
    if name.startswith("shift_") and labels:
        in_angstrom = shift_unit == "angstrom"
        labels = [label for label in labels if label.endswith("Angst") == in_angstrom]
    label = labels[0] if labels else name
    # RELION reads columns such as rlnTomoName as text, so numbers keep their own name
    return name if star.NAMES.fullmatch(label) and column.dtype.kind not in "UOT" else label


def csv_text(table: xr.DataArray | xr.Dataset, where: str = "a .csv file") -> str:
    """Return the columns of a table as CSV text: the index, coordinates, variables.

    A column name is followed by ``[unit]`` if `particles` would assume another unit.

    Examples
    --------
    >>> print(csv_text(xr.Dataset({"ncc": ("k", [0.5, 0.25])})), end="")
    k,ncc
    0,0.5
    1,0.25
    """
    dim, columns = table_columns(table, where)
    count = next((len(column) for column in columns.values()), 0)
    index = table[dim].values if dim in table.coords else np.arange(count)
    return commas.text({dim: index} | {_title(n, c): c.values for n, c in columns.items()})


def _title(name: str, column: xr.DataArray) -> str:
    """Return the name of a column, with its unit where it is not the standard one."""
    unit = column.attrs.get("units")
    standard = standard_units("voxel").get(name)
    return f"{name} [{unit}]" if standard and unit and unit != standard else name


def write_text(path: str | os.PathLike[str], content: str, *, overwrite: bool = False) -> None:
    """Write a text file in UTF-8 that appears under its name when it is complete on disk."""
    write_bytes(path, content.encode("utf-8"), overwrite=overwrite)


def write_bytes(path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False) -> None:
    """Write a file that appears under its name when it is complete on disk."""
    with new_file(path, overwrite) as file:
        file.write(content)


@contextmanager
def written_last(path: str, content: str, overwrite: bool) -> Iterator[None]:
    """Write a text file that appears under its name when the context ends without an error."""
    with new_file(path, overwrite) as file:
        file.write(content.encode("utf-8"))
        yield

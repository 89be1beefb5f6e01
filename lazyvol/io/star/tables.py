"""Write tables of particles as STAR files, under the labels of RELION where they exist."""

from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io import star
from lazyvol.io.particle_lists import (
    DIM_NAMES,
    INDEX_LABEL,
    OPTICS,
    OTHER_BLOCKS,
    RELION,
    standard_units,
)
from lazyvol.io.rows import table_columns
from lazyvol.stack import STACK


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

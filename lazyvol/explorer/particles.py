"""The table of particles: scores and labels along k, flags, and its export."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lazyvol.arguments.rules import show_value
from lazyvol.errors import LabelError
from lazyvol.io import save
from lazyvol.stack import STACK

#: name of the column that says which particles are flagged
FLAG = "flagged"
#: name of the column of indices along k
PARTICLE = "particle"
#: suffixes of the formats of an exported table
FORMATS = (".csv", ".star")


class Particles:
    """Columns along k, in memory, with a flag per particle that may be changed.

    Parameters
    ----------
    stack
        Particles (k, ...), whose coordinates along k become columns.
    table
        Dataset or DataArray along k, such as the result of ``scores.screen``, or None. A boolean
        column ``flagged`` sets the first flags. Variables along more dims are left out.

    Raises
    ------
    LabelError
        If ``table`` has another length along k than the stack.
    """

    def __init__(self, stack: xr.DataArray, table: xr.DataArray | xr.Dataset | None = None) -> None:
        count = stack.sizes[STACK]
        if table is not None and not isinstance(table, xr.DataArray | xr.Dataset):
            raise LabelError(
                f"explore: particles must be a DataArray or a Dataset along k, got "
                f"{show_value(table)}; make one of a table with xarray.Dataset.from_dataframe"
            )
        if table is not None and table.sizes.get(STACK) != count:
            raise LabelError(
                f"explore: particles must have one row per particle, got sizes "
                f"{dict(table.sizes)} for {count} particles; select the rows of this stack"
            )
        columns = {} if table is None else _columns(table)
        for name, coord in stack.coords.items():
            if coord.dims == (STACK,) and name != STACK:
                columns.setdefault(str(name), coord.variable)
        flags = columns.pop(FLAG, None)
        self.flags = np.zeros(count, bool) if flags is None else np.asarray(flags.values, bool)
        self.table = xr.Dataset(
            columns, {STACK: stack.coords[STACK]} if STACK in stack.coords else {}
        )
        self.count = count

    @property
    def flagged(self) -> list[int]:
        """Indices along k of the flagged particles."""
        return [int(k) for k in np.flatnonzero(self.flags)]

    def set_flags(self, indices: Iterable[int], value: bool) -> None:
        """Flag particles, or lift their flags."""
        self.flags[list(indices)] = value

    def frame(self) -> pd.DataFrame:
        """Return the table for the screen: one row per particle, its index and its flag first.

        Numbers have four significant digits.
        """
        columns: dict[str, Any] = {PARTICLE: np.arange(self.count), FLAG: self.flags.copy()}
        columns |= {str(n): _rounded(column.values) for n, column in self.table.data_vars.items()}
        return pd.DataFrame(columns)

    def export(self, suffix: str) -> bytes:
        """Return the table with the flags as the bytes of a ``.csv`` or ``.star`` file."""
        table = self.table.assign({FLAG: (STACK, self.flags)})
        if STACK not in table.coords:
            table = table.assign_coords({STACK: np.arange(self.count)})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"particles{suffix}"
            save(table, path)
            return path.read_bytes()


def _rounded(values: Any) -> Any:
    """Return floats with four significant digits, and other values as they are."""
    if values.dtype.kind != "f":
        return values
    return np.array([float(f"{value:.4g}") for value in values.ravel()]).reshape(values.shape)


def _columns(table: xr.DataArray | xr.Dataset) -> dict[str, xr.Variable]:
    """Return the variables and coordinates along k of a table, computed, by name."""
    rows = table if isinstance(table, xr.Dataset) else table.to_dataset(name=table.name or "value")
    along = rows[[n for n, v in rows.variables.items() if v.dims == (STACK,) and n != STACK]]
    return {str(n): v for n, v in along.compute().variables.items() if n != STACK}

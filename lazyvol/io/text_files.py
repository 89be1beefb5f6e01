"""Write tables as CSV text, and text files that appear only when they are complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import xarray as xr

from lazyvol.io import commas
from lazyvol.io.atomic import new_file
from lazyvol.io.particle_lists import standard_units
from lazyvol.io.rows import table_columns


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

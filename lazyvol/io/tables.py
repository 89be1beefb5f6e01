"""Text files of results: tables as comma-separated values, complete or not there."""

import csv
import io
import os
from typing import BinaryIO

import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io.atomic import write_file


def csv_text(table: xr.Dataset) -> str:
    """A dataset over one dim, or none, as comma-separated values: labels, coordinates, variables.

    Examples
    --------
    >>> print(csv_text(xr.Dataset({"ncc": ("k", [0.5, 0.25])})), end="")
    k,ncc
    0,0.5
    1,0.25
    """
    if len(table.sizes) > 1:
        raise LabelError(
            f"a .csv file holds results over one dim, got {dict(table.sizes)}; write a .zarr"
        )
    rows = table if table.sizes else table.expand_dims("row")
    dim = next(iter(rows.sizes))
    labels = rows[dim].values.tolist() if dim in rows.coords else range(rows.sizes[dim])
    others = [*(c for c in rows.coords if c != dim and rows[c].dims == (dim,)), *rows]
    columns = {str(dim): labels} | {str(name): rows[name].values.tolist() for name in others}
    memory = io.StringIO(newline="")
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return memory.getvalue()


def write_text(path: str | os.PathLike[str], content: str, *, overwrite: bool = False) -> None:
    """Write a text file that gets its name only when it is complete and on disk."""
    write_file(path, overwrite, lambda file: _write(file, content))


def _write(file: BinaryIO, content: str) -> None:
    file.write(content.encode("utf-8"))

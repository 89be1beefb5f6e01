"""Text files of results: tables as comma-separated values, complete or not there."""

import os
from typing import BinaryIO

import numpy as np
import xarray as xr

from lazyvol.io import commas
from lazyvol.io.atomic import write_file
from lazyvol.io.particle_lists import units
from lazyvol.io.rows import columns


def csv_text(table: xr.DataArray | xr.Dataset, where: str = "a .csv file") -> str:
    """What is along one dim as comma-separated values: labels, coordinates, variables.

    A fact in another unit than `particles` would take it for has it in brackets.

    Examples
    --------
    >>> print(csv_text(xr.Dataset({"ncc": ("k", [0.5, 0.25])})), end="")
    k,ncc
    0,0.5
    1,0.25
    """
    dim, found = columns(table, where)
    count = next((len(a) for a in found.values()), 0)
    labels = table[dim].values if dim in table.coords else np.arange(count)
    return commas.text({dim: labels} | {_titled(n, a): a.values for n, a in found.items()})


def _titled(name: str, values: xr.DataArray) -> str:
    own = values.attrs.get("units")
    usual = units("voxel").get(name)
    return f"{name} [{own}]" if usual and own and own != usual else name


def write_text(path: str | os.PathLike[str], content: str, *, overwrite: bool = False) -> None:
    """Write a text file that gets its name only when it is complete and on disk."""
    write_file(path, overwrite, lambda file: _write(file, content))


def _write(file: BinaryIO, content: str) -> None:
    file.write(content.encode("utf-8"))

"""Particle lists of a screening: that of the input, and those of kept and flagged particles."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io import particles, write_selection
from lazyvol.io.tables import star_text, table_columns, write_text
from lazyvol.stack import STACK

#: names of the lists, and suffixes of their formats
NAMES, SUFFIXES = ("kept", "flagged"), (".star", ".csv", ".tbl", ".em")


def with_facts(stack: xr.DataArray, source: str | os.PathLike[str]) -> xr.DataArray:
    """Return a stack with the columns of its particle list as coordinates along k."""
    listed = particles(source).drop_vars(STACK, errors="ignore")
    n, rows = stack.sizes[STACK], listed.sizes.get(STACK, 0)
    if rows != n:
        raise LabelError(
            f"screen: particles must list the {n} particles of the stack in its order, got {rows} "
            f"rows in {os.fspath(source)}; select the same particles in both"
        )
    return stack.assign_coords(listed.coords)


def write_lists(
    folder: Path, table: xr.Dataset, source: str | None, *, overwrite: bool
) -> tuple[str, ...]:
    """Write the kept and the flagged particles in the format of ``source``; return the files.

    Their rows and columns are those of ``source``, followed by the results in ``table``. Without a
    source they are STAR files of the table.
    """
    flagged = table["flagged"].values
    suffix = ".star" if source is None else PurePath(source).suffix.lower()
    files: list[str] = []
    for name, rows in zip(NAMES, (~flagged, flagged), strict=True):
        target = str(folder / f"{name}{suffix}")
        if source is None:
            write_text(target, list_text(table, np.flatnonzero(rows)), overwrite=overwrite)
            files.append(target)
        else:
            results = result_columns(table)
            files += write_selection(source, rows, results, target, overwrite=overwrite)
    return tuple(files)


def result_columns(table: xr.Dataset) -> dict[str, np.ndarray]:
    """Return the results of a table, without facts about particles, as columns."""
    plain = table.drop_vars([n for n, c in table.coords.items() if c.dims == (STACK,)])
    return {n: c.values for n, c in table_columns(plain, "screen")[1].items()}


def list_text(table: xr.Dataset, positions: Sequence[int] | np.ndarray) -> str:
    """Return rows of a table as the text of a STAR file, with their positions along k."""
    return star_text(star_table(table).isel({STACK: np.asarray(positions, np.intp)}))


def star_table(table: xr.Dataset) -> xr.Dataset:
    """Return a table with an index along k, under names without white space."""
    named = table.rename(
        {n: re.sub(r"\s+", "_", str(n)) for n in table.variables if re.search(r"\s", str(n))}
    )
    if STACK in named.coords:
        return named
    return named.assign_coords({STACK: np.arange(named.sizes[STACK])})

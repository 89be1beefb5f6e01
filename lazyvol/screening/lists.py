"""Particle lists of a screening: the kept and the flagged particles."""

import re
from collections.abc import Sequence

import numpy as np
import xarray as xr

from lazyvol.io.particle_lists import star_text
from lazyvol.stack import STACK


def list_text(table: xr.Dataset, positions: Sequence[int]) -> str:
    """Return rows of a table as the text of a STAR file, with their positions along k."""
    return star_text(star_table(table).isel({STACK: np.asarray(positions, np.intp)}))


def star_table(table: xr.Dataset) -> xr.Dataset:
    """Return a table with an index along k, under names without white space."""
    indexed = (
        table if STACK in table.coords else table.assign_coords(k=np.arange(table.sizes[STACK]))
    )
    return indexed.rename({n: re.sub(r"\s+", "_", str(n)) for n in indexed.variables
                           if re.search(r"\s", str(n))})  # fmt: skip

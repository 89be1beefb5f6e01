"""Particles, some without signal, and the result of their screening, for tests of reports."""

from functools import cache

import numpy as np
import xarray as xr

import lazyvol as lv
from lazyvol.screening import ScreenResult

SHAPE = (9, 11, 13)
N, BAD = 60, 5


def stack() -> xr.DataArray:
    """Return particles of three tomograms, the first ``BAD`` of which have no signal."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=SHAPE)
    values = signal + rng.normal(size=(N, *SHAPE))
    values[:BAD] = rng.normal(size=(BAD, *SHAPE))
    particles = lv.as_stack(values.astype(np.float32), voxel_size=(4.0, 4.0, 5.0), unit="angstrom")
    names = {"file": ("k", [f"p{n}.mrc" for n in range(N)]),
             "tomogram": ("k", [f"TS_{n % 3}" for n in range(N)])}  # fmt: skip
    return particles.assign_coords(names)


@cache
def result() -> ScreenResult:
    """Return the result of the screening of ``stack``."""
    return lv.screening.screen(
        stack(), name="particles.zarr", command="lazyvol screen particles.zarr", memory="1GiB"
    )

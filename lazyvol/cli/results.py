"""Output files of commands."""

from typing import Any

import numpy as np
import xarray as xr

from lazyvol.cli.options import Resuming, say
from lazyvol.client import progress_bar
from lazyvol.errors import OptionError
from lazyvol.io.particle_files import is_image_stack
from lazyvol.io.save_plan import explain
from lazyvol.io.save_result import TABLES, save
from lazyvol.io.single_files import EXPORTS, suffix_of


def require_format(out: str, usage: str = "") -> None:
    """Raise OptionError for a file whose suffix is unknown, before anything is read."""
    known = [".zarr", *EXPORTS, *TABLES]
    if suffix_of(out) not in known:
        raise OptionError(f"out must end in one of {', '.join(known)}, got {out!r}{usage}")


def converted(result: Any, dtype: str) -> xr.DataArray:
    """Return a lazy result in another type, as numpy converts it."""
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    if wanted.kind not in "biufc":
        raise OptionError(
            f"--dtype must be a type of numbers, got {dtype!r}; e.g. float32, int16 or uint8"
        )
    if not isinstance(result, xr.DataArray):
        raise OptionError(
            f"--dtype must be left out for a result of several arrays, got {dtype!r}; save a .zarr"
        )
    return result.astype(wanted)


def write_result(result: Any, out: str, options: Resuming, column: str = "value") -> None:
    """Print the plan of a result, compute and save it; ``column`` is its name in a table.

    With ``--explain`` only the plan is printed.
    """
    result = result if options.dtype is None else converted(result, options.dtype)
    plan = explain(result, out, memory=options.memory, workers=options.workers)
    say(str(plan))
    if options.explain:
        return
    with progress_bar("computing", nbytes=plan.bytes_read, shown=options.shown):
        saved = result
        is_table = suffix_of(out) in TABLES and not is_image_stack(result)
        if is_table and isinstance(result, xr.DataArray):
            saved = result.to_dataset(name=column)
        save(
            saved, out, resume=options.resume, overwrite=options.overwrite, memory=options.memory,
            pyramid=options.pyramid,
        )  # fmt: skip
    say(f"wrote       {out}")

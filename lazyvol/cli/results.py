"""Output files of commands."""

from typing import Any

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


def write_result(result: Any, out: str, options: Resuming, column: str = "value") -> None:
    """Print the plan of a result, compute and save it; ``column`` is its name in a table.

    With ``--explain`` only the plan is printed.
    """
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

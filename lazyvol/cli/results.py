"""Where the result of a command goes."""

from pathlib import Path
from typing import Any

import xarray as xr

from lazyvol.cli.options import Resuming, say
from lazyvol.client import progress_bar
from lazyvol.errors import LabelError
from lazyvol.io.saving import save
from lazyvol.io.tables import csv_text, write_text
from lazyvol.plan.explain import explain


def write_result(result: Any, out: Path, options: Resuming, column: str = "value") -> None:
    """Print the plan of a result, compute it and store it; ``column`` names it in a table."""
    say(str(explain(result, memory=options.memory, workers=options.workers)))
    with progress_bar("computing", shown=options.shown):
        if out.suffix == ".csv":
            _write_table(result, out, options, column)
        else:
            save(
                result, out, resume=options.resume, overwrite=options.overwrite,
                memory=options.memory,
            )  # fmt: skip
    say(f"wrote       {out}")


def _write_table(
    result: xr.DataArray | xr.Dataset, out: Path, options: Resuming, column: str
) -> None:
    if options.resume:
        raise LabelError(f"a .zarr can be resumed, a .csv is written anew, got {out}")
    found = result.compute()
    named = found.to_dataset(name=column) if isinstance(found, xr.DataArray) else found
    write_text(out, csv_text(named), overwrite=options.overwrite)

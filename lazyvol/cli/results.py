"""Output files of commands."""

from pathlib import Path
from typing import Any

import xarray as xr

from lazyvol.cli.options import Resuming, say
from lazyvol.client import progress_bar
from lazyvol.errors import OptionError
from lazyvol.io.save_result import EXPORTS, TABLES, save
from lazyvol.plan.explain import explain


def require_format(out: Path, usage: str = "") -> None:
    """Raise OptionError for a file whose suffix is unknown, before anything is read."""
    known = [".zarr", *EXPORTS, *TABLES]
    if out.suffix.lower() not in known:
        raise OptionError(f"out must end in one of {', '.join(known)}, got {str(out)!r}{usage}")


def write_result(result: Any, out: Path, options: Resuming, column: str = "value") -> None:
    """Print the plan of a result, compute it and save it; ``column`` is its name in a table."""
    say(str(explain(result, memory=options.memory, workers=options.workers)))
    with progress_bar("computing", shown=options.shown):
        saved = result
        if out.suffix in TABLES and isinstance(result, xr.DataArray):
            saved = result.to_dataset(name=column)
        save(saved, out, resume=options.resume, overwrite=options.overwrite, memory=options.memory)
    say(f"wrote       {out}")

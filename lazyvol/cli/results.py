"""Output files of commands."""

import os
from typing import Any

import xarray as xr

from lazyvol.cli.options import Resuming, say
from lazyvol.client import progress_bar
from lazyvol.errors import OptionError
from lazyvol.io.save_result import EXPORTS, TABLES, save
from lazyvol.plan.explain import explain


def require_format(out: str, usage: str = "") -> None:
    """Raise OptionError for a file whose suffix is unknown, before anything is read."""
    known = [".zarr", *EXPORTS, *TABLES]
    if suffix_of(out) not in known:
        raise OptionError(f"out must end in one of {', '.join(known)}, got {out!r}{usage}")


def suffix_of(out: str) -> str:
    """Return the suffix of a path or URL in lower case."""
    return os.path.splitext(out)[1].lower()


def write_result(result: Any, out: str, options: Resuming, column: str = "value") -> None:
    """Print the plan of a result, compute it and save it; ``column`` is its name in a table."""
    say(str(explain(result, memory=options.memory, workers=options.workers)))
    with progress_bar("computing", shown=options.shown):
        saved = result
        if suffix_of(out) in TABLES and isinstance(result, xr.DataArray):
            saved = result.to_dataset(name=column)
        save(saved, out, resume=options.resume, overwrite=options.overwrite, memory=options.memory)
    say(f"wrote       {out}")

"""Commands on whole files: info, convert, explain."""

import warnings
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any

import xarray as xr
from cyclopts import App, Parameter

from lazyvol.cli.options import RESUMING, RUNNING, Resuming, Running, running, say
from lazyvol.cli.results import write_result
from lazyvol.cli.verbs import Verb
from lazyvol.errors import LabelError
from lazyvol.facts import Source
from lazyvol.io import open as open_stack
from lazyvol.plan.budget import show_bytes
from lazyvol.plan.explain import explain
from lazyvol.stack import STACK

LEADING = Parameter(allow_leading_hyphen=True)


def info(path: str) -> None:
    """Tell what a file holds: dims, voxel size, type, size. No voxel is read.

    Parameters
    ----------
    path
        File, folder or pattern.
    """
    with warnings.catch_warnings(record=True) as noted:
        facts = facts_of(open_stack(path), path)
    for name, value in (*facts.items(), *(("note", str(each.message)) for each in noted)):
        say(f"{name:<12}{value}")


def facts_of(stack: xr.DataArray, path: str) -> dict[str, str]:
    """Labelled facts of an opened stack."""
    facts = Source.of(stack, path).facts()
    blocks = stack.data.npartitions
    largest = prod(stack.data.chunksize) * stack.dtype.itemsize
    facts["blocks"] = f"{blocks:,} of up to {show_bytes(largest)}, each one task"
    along = [str(n) for n, c in stack.coords.items() if c.dims == (STACK,) and n != STACK]
    if along:
        facts["along k"] = ", ".join(along)
    return facts | {str(n): _short(v) for n, v in stack.attrs.items()}


def _short(value: object, most: int = 200) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]} …"


def convert(path: str, out: Path, *, options: Resuming = RESUMING) -> None:
    """Write a stack in another format, checksummed where the format can be.

    Parameters
    ----------
    path
        File, folder or pattern to read.
    out
        What to write: .zarr, or .mrc, .tif, .npy.
    """
    with running(options):
        write_result(open_stack(path), out, options)


def explainer(app: App, verbs: Mapping[tuple[str, str], Verb]) -> Any:
    """The command ``explain``, which knows the others."""

    def explain_plan(
        path: str,
        topic: str,
        /,
        *rest: Annotated[str, LEADING],
        options: Running = RUNNING,
    ) -> None:
        """Print what an operation would read, write and hold. Nothing is computed.

        Parameters
        ----------
        path
            File, folder or pattern.
        topic
            Topic of the operation, e.g. stats; or screen.
        rest
            Name of the operation, and its other inputs and options.
        """
        with running(options):
            if topic == "screen":
                from lazyvol.cli.screen import say_plans

                say_plans(open_stack(path), options)
                return
            result = planned(app, verbs, [topic, *rest[:1], path, *rest[1:]])
            say(str(explain(result, memory=options.memory, workers=options.workers)))

    return explain_plan


def planned(app: App, verbs: Mapping[tuple[str, str], Verb], tokens: list[str]) -> Any:
    """The lazy result of an operation given as on the command line, without its output."""
    verb = verbs.get((tokens[0], tokens[1]))
    if len(tokens) < 3 or verb is None:
        known = ", ".join(" ".join(key) for key in verbs)
        raise LabelError(f"an operation is a topic and a name, got {tokens[:2]}; there are {known}")
    _, bound, _ = app.parse_args([*tokens, "--out", "nowhere"])
    return verb.result(bound.arguments)

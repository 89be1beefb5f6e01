"""Commands on whole files: info, convert, explain."""

import warnings
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any

import xarray as xr
from cyclopts import App, Parameter

from lazyvol.cli.options import RESUMING, RUNNING, Dims, Resuming, Running, open_first, running, say
from lazyvol.cli.results import require_format, write_result
from lazyvol.cli.verbs import Verb
from lazyvol.errors import LabelError
from lazyvol.plan.budget import show_bytes
from lazyvol.plan.explain import explain
from lazyvol.stack import STACK
from lazyvol.summary import Source

LEADING = Parameter(allow_leading_hyphen=True)


def info(path: str, *, dims: Dims = None) -> None:
    """Tell what a file holds: dims, voxel size, type, size. No voxel is read.

    Parameters
    ----------
    path
        File, folder or pattern.
    """
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        found = open_first(path, dims)
    if isinstance(found, xr.DataArray):
        say_facts(facts_of(found, path))
    else:
        for name, array in found.items():
            say_facts(facts_of(array, f"{path}/{name}"))
            say("")
        say_facts({"facts": ", ".join(map(str, found.coords)), **_attrs(found)})
    for each in noted:
        say_facts({"note": str(each.message)})


def say_facts(facts: Mapping[str, str]) -> None:
    """A line for each fact that there is."""
    for name, value in facts.items():
        if value:
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
    return facts | _attrs(stack)


def _attrs(found: xr.DataArray | xr.Dataset) -> dict[str, str]:
    return {str(n): _short(v) for n, v in found.attrs.items()}


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
        require_format(out)
        write_result(open_first(path, options.dims), out, options)


def explainer(app: App, verbs: Mapping[tuple[str, str], Verb]) -> Any:
    """The command ``explain``, which knows the others."""

    def explain_plan(
        path: str,
        topic: str,
        /,
        *rest: Annotated[str, LEADING],
        dims: Dims = None,
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

                say_plans(open_first(path, dims), options)
                return
            named = [] if dims is None else ["--dims", dims]
            result = planned(app, verbs, [topic, *rest[:1], path, *rest[1:], *named])
            say(str(explain(result, memory=options.memory, workers=options.workers)))

    return explain_plan


def planned(app: App, verbs: Mapping[tuple[str, str], Verb], tokens: list[str]) -> Any:
    """The lazy result of an operation given as on the command line, without its output."""
    verb = verbs.get((tokens[0], tokens[1]))
    if len(tokens) < 3 or verb is None:
        names = [name for topic, name in verbs if topic == tokens[0]]
        known = ", ".join(names or sorted({topic for topic, _ in verbs}))
        raise LabelError(
            f"an operation is a topic and a name, got {' '.join(tokens[:2])!r}; there are {known}"
        )
    _, bound, _ = app.parse_args(
        [*tokens, "--out", "nowhere"], exit_on_error=False, print_error=False
    )
    return verb.result(bound.arguments)

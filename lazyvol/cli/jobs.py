"""The commands ``info``, ``convert``, ``verify`` and ``explain``."""

import os
import warnings
from collections.abc import Mapping
from importlib import import_module
from math import prod
from typing import Annotated, Any

import xarray as xr
from cyclopts import App, Parameter

from lazyvol.cli.operations import operations_of
from lazyvol.cli.options import RESUMING, RUNNING, Dims, Resuming, Running, open_first, running, say
from lazyvol.cli.results import require_format, write_result
from lazyvol.cli.words import command_name, topic_names
from lazyvol.errors import ChecksumError, LabelError, OptionError
from lazyvol.io import verify as verify_store
from lazyvol.io.inputs import sources_of
from lazyvol.io.save_plan import explain
from lazyvol.plan.budget import show_bytes
from lazyvol.stack import STACK
from lazyvol.summary import StackSummary

LEADING = Parameter(allow_leading_hyphen=True)


def info(path: str, *, dims: Dims = None) -> None:
    """Print dims, voxel size, data type and size of a file. No voxel is read.

    Parameters
    ----------
    path
        File, folder or glob pattern.

    Examples
    --------
    lazyvol info particles.mrc
    """
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        opened = open_first(path, dims)
    if isinstance(opened, xr.DataArray):
        say_facts(facts_of(opened, path))
    else:
        for name, array in opened.items():
            say_facts(facts_of(array, f"{path}/{name}"))
            say("")
        say_facts({"coordinates": ", ".join(map(str, opened.coords)), **_attrs(opened)})
    for note in notes:
        say_facts({"note": str(note.message)})


def say_facts(facts: Mapping[str, str]) -> None:
    """Print a line for each fact that is not empty."""
    for name, value in facts.items():
        if value:
            say(f"{name:<12}{value}")


def facts_of(stack: xr.DataArray, path: str) -> dict[str, str]:
    """Return the summary of an opened stack as text by name."""
    facts = StackSummary.of(stack, path).facts()
    blocks = stack.data.npartitions
    largest = prod(stack.data.chunksize) * stack.dtype.itemsize
    facts["blocks"] = f"{blocks:,} of up to {show_bytes(largest)}, each one task"
    sources = [s for s in sources_of([stack.data]) if hasattr(s, "manifest")]
    if sources:
        listed = all(source.manifest is not None for source in sources)
        facts["manifest"] = "yes" if listed else "none: chunks that were exchanged go unnoticed"
    per_particle = [str(n) for n, c in stack.coords.items() if c.dims == (STACK,) and n != STACK]
    if per_particle:
        facts["along k"] = ", ".join(per_particle)
    return facts | _attrs(stack)


def _attrs(opened: xr.DataArray | xr.Dataset) -> dict[str, str]:
    return {str(n): _one_line(v) for n, v in opened.attrs.items()}


def _one_line(value: object, limit: int = 200) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else f"{text[:limit]} …"


def convert(path: str, out: str, *, options: Resuming = RESUMING) -> None:
    """Write a stack in another format, with checksums if the format has them.

    Parameters
    ----------
    path
        File, folder or glob pattern to read.
    out
        File to write: .zarr, .mrc, .mrcs, .em, .nii, .nii.gz, .tif or .npy; .star for a file per
        particle and their list.

    Examples
    --------
    lazyvol convert particles.star particles.zarr --memory 2GiB
    """
    with running(options):
        require_format(out)
        write_result(open_first(path, options.dims, options.select), out, options)


def verify(path: str) -> None:
    """Read everything in a zarr store; name what is damaged, missing, swapped or stale.

    The exit code is 1 if anything is.

    Parameters
    ----------
    path
        Folder, URL or archive of a zarr store.

    Examples
    --------
    lazyvol verify particles.zarr
    """
    found = verify_store(path)
    say(str(found))
    if not found.ok:
        raise ChecksumError(
            f"{path}: {len(found.faults)} of {found.files:,} files are not as they were written; "
            "restore them, or write the store again"
        )


def explain_plan(
    path: str,
    topic: str,
    /,
    *rest: Annotated[str, LEADING],
    dims: Dims = None,
    options: Running = RUNNING,
) -> None:
    """Print the plan of an operation: reads, writes, tasks and memory. Nothing is computed.

    The plan is that of a result saved as .zarr.

    Parameters
    ----------
    path
        File, folder or glob pattern.
    topic
        Topic of the operation, e.g. stats; or screen.
    rest
        Name of the operation, then its other inputs and options.

    Examples
    --------
    lazyvol explain particles.zarr filters gaussian --sigma 12 --memory 2GiB
    """
    if path in topic_names() and not os.path.exists(path):
        raise OptionError(
            f"explain: the file must come first, got {path!r}; write lazyvol explain FILE {path} "
            f"{topic}"
        )
    with running(options):
        if topic == "screen":
            from lazyvol.cli.screen import print_plans

            print_plans(open_first(path, dims), options)
            return
        dims_option = [] if dims is None else ["--dims", dims]
        result = lazy_result([topic, *rest[:1], path, *rest[1:], *dims_option])
        say(str(explain(result, "result.zarr", memory=options.memory, workers=options.workers)))


def lazy_result(tokens: list[str]) -> Any:
    """Return the lazy result of a command line without its output."""
    topic, name, *rest = tokens
    found = (
        {o.name: o for o in operations_of(import_module(f"lazyvol.ops.{topic}"))}
        if topic in topic_names()
        else {}
    )
    operation = found.get(name.replace("-", "_"))
    if not rest or operation is None:
        known = ", ".join(map(command_name, found)) or ", ".join(topic_names())
        raise LabelError(
            f"explain: an operation must be a topic and a name, got {' '.join(tokens[:2])!r}; "
            f"choose from {known}"
        )
    app = App(result_action="return_value")
    app.command(operation.command(), name=command_name(name))
    _, bound, _ = app.parse_args(
        [command_name(name), *rest, "--out", "nowhere"], exit_on_error=False, print_error=False
    )
    return operation.result(bound.arguments)

"""Options shared by commands, and the limits and clusters they set up."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token, convert

from lazyvol.cli.words import WORDS
from lazyvol.client import connect
from lazyvol.errors import OptionError
from lazyvol.io import open as open_stack
from lazyvol.io.zarr.run_plan import COMMAND
from lazyvol.plan.budget import limits_of
from lazyvol.plan.execution import single_blas_thread

RUN = Group("Run", sort_key=10)


def whole_number(kind: Any, tokens: Sequence[Token]) -> Any:
    """Convert the word of an option; cyclopts would round numbers with a point."""
    if "." in tokens[0].value:
        raise ValueError(f"must be a whole number, got {tokens[0].value}")
    return convert(kind, tokens)


Memory = Annotated[
    str | None,
    Parameter(help="Memory limit of the run besides the interpreter, e.g. 2GiB; no limit by "
                   "default."),
]  # fmt: skip
Workers = Annotated[
    int | None,
    Parameter(help="Tasks that run at a time; by default one per core.", converter=whole_number),
]
Scheduler = Annotated[
    str | None,
    Parameter(help="Dask cluster to run on: tcp://host:port, tls://host:port or a scheduler file."),
]
Dashboard = Annotated[
    bool,
    Parameter(
        negative="", help="Run on a local Dask cluster and print the address of its dashboard."
    ),
]
Insecure = Annotated[
    bool,
    Parameter(negative="", help="Accept a scheduler on another machine by tcp://, where all in "
                                "the network can run code."),
]  # fmt: skip
Overwrite = Annotated[bool, Parameter(negative="", help="Replace existing results.")]
Progress = Annotated[
    bool | None,
    Parameter(help="Show progress; by default if standard error is a terminal."),
]
Resume = Annotated[
    bool,
    Parameter(negative="", help="Complete the output of an interrupted run of the same command "
                                "(.zarr, and the folder of a screening)."),
]  # fmt: skip
Pyramid = Annotated[
    bool,
    Parameter(negative="", help="Write levels of lower resolution too, for viewers (.zarr)."),
]
Explain = Annotated[
    bool, Parameter(negative="", help="Print the plan alone; nothing is computed or written.")
]
Dims = Annotated[
    str | None,
    Parameter(help="Names of all axes of the first file, e.g. kyx or k,y,x, if the file names them "
                   "wrongly or not at all."),
]  # fmt: skip
Select = Annotated[
    str | None,
    Parameter(help="Part of the first file by indices from 0, e.g. k=3 or k=0:10,z=20; a single "
                   "index drops its dim."),
]  # fmt: skip
Dtype = Annotated[
    str | None,
    Parameter(help="Type of the saved values, e.g. float32; whole numbers drop fractions."),
]


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class Running:
    """Options of a command that runs."""

    memory: Memory = None
    workers: Workers = None
    scheduler: Scheduler = None
    dashboard: Dashboard = False
    insecure: Insecure = False


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class Writing(Running):
    """Options of a command that runs and writes."""

    overwrite: Overwrite = False
    progress: Progress = None

    @property
    def shown(self) -> bool:
        """True if progress is shown."""
        return sys.stderr.isatty() if self.progress is None else self.progress


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class Continuing(Writing):
    """Options of a command that writes results that can be resumed."""

    resume: Resume = False


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class Resuming(Continuing):
    """Options of a command that reads a file and writes results that can be resumed."""

    explain: Explain = False
    dims: Dims = None
    select: Select = None
    dtype: Dtype = None
    pyramid: Pyramid = False


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class Drawing(Running):
    """Options of a command that reads a file and draws a picture."""

    overwrite: Overwrite = False
    dims: Dims = None
    select: Select = None


RUNNING, WRITING, CONTINUING = Running(), Writing(), Continuing()
RESUMING, DRAWING = Resuming(), Drawing()


def open_first(path: str, dims: str | None, select: str | None = None) -> Any:
    """Open the first file of a command, or the part that ``select`` names.

    ``dims`` are letters, or words separated by commas.
    """
    words = [] if dims is None else [d.strip() for d in dims.split(",")]
    opened = open_stack(path, dims=words if len(words) > 1 else dims)
    return opened if select is None else opened.isel(_indexers(select, opened.sizes), drop=True)


def _indexers(select: str, sizes: Mapping[Any, int]) -> dict[str, int | slice]:
    """Return indices and slices by dim from text such as ``k=3,z=10:20``."""
    indexers: dict[str, int | slice] = {}
    for part in select.split(","):
        match = re.fullmatch(r"(\w+)=(?:(-?\d{1,18})|(-?\d{0,18}):(-?\d{0,18}))", part.strip())
        if match is None or match[1] not in sizes:
            raise OptionError(
                f"select must give indices along {', '.join(map(str, sizes))}, got {select!r}; "
                f"write DIM=INDEX or DIM=FROM:TO, separated by commas"
            )
        dim, index = match[1], match[2]
        if index is None:
            indexers[dim] = slice(*(int(n) if n else None for n in match.groups()[2:]))
        elif -sizes[dim] <= int(index) < sizes[dim]:
            indexers[dim] = int(index)
        else:
            raise OptionError(
                f"select must be from 0 to {sizes[dim] - 1} along {dim}, got {index}; negative "
                f"indices count from the end"
            )
    return indexers


@contextmanager
def running(options: Running) -> Iterator[None]:
    """Apply the memory limit, threads and cluster of a command."""
    if options.workers is not None and options.workers < 1:
        raise OptionError(f"workers must be 1 or more, got {options.workers}")
    with ExitStack() as stack:
        stack.callback(COMMAND.reset, COMMAND.set(WORDS.get()))
        stack.enter_context(limits_of(options.memory, options.workers))
        stack.enter_context(single_blas_thread())
        if options.scheduler is not None:
            client = stack.enter_context(connect(options.scheduler, insecure=options.insecure))
            say(f"scheduler   {client.scheduler.address}")
            say(f"dashboard   {client.dashboard_link}")
        elif options.dashboard:
            client = stack.enter_context(connect(threads=options.workers))
            say(f"dashboard   {client.dashboard_link}")
        yield


def say(text: str) -> None:
    """Write a line to standard output and flush it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()

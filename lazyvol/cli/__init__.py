"""The command line: ``lazyvol demo | convert | verify | resume | … | <topic> <operation>``."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cyclopts import App, CycloptsError, UnusedCliTokensError

from lazyvol.cli import jobs
from lazyvol.cli.docs import description, docstring_of, shell_words
from lazyvol.cli.operations import add_topics, operations, with_hyphens
from lazyvol.cli.options import Resuming
from lazyvol.cli.resume import resume_command
from lazyvol.errors import LabelError, LazyvolError, LossWarning, OptionError
from lazyvol.io.zarr.run_plan import COMMAND

__all__ = ["main", "make_app", "run"]

ABOUT = "Labelled, lazy analysis of stacks of volumes that do not fit in memory."
#: options of ``screen`` beside those of the operations
SCREENING = ("particles", "fdr", "angles", "wedge", "orientations", "templates")
INTERRUPTED = 130
PLOTS = "Pictures of volumes, scores, curves and trees."
CLUSTER = "Recipes of clusters: SLURM, PBS, Kubernetes, SSH."
#: commands whose modules are imported when they run: module and function by name
DEFERRED = {"demo": ("lazyvol.cli.demo", "demo"), "screen": ("lazyvol.cli.screen", "screen_stack"),
            "explore": ("lazyvol.cli.explore", "explore_stack")}  # fmt: skip


def make_app() -> App:
    """Return the command line with all its commands."""
    app = App(
        name="lazyvol", help=ABOUT, version=_version, help_format="plaintext",
        suppress_keyboard_interrupt=False, result_action="return_value",
    )  # fmt: skip
    known = operations()
    for name, (module, function) in DEFERRED.items():
        text = description(docstring_of(module, function))
        app.command(f"{module}:{function}", name=name, help=text)
    explain = jobs.explain_command(app, known)
    plain = {"info": jobs.info, "convert": jobs.convert, "verify": jobs.verify, "explain": explain}
    plain["resume"] = resume_command(lambda words: run_words(app, words))
    for name, job in plain.items():
        app.command(job, name=name, help=description(job))
    app.command("lazyvol.cli.cluster:app", name="cluster", help=CLUSTER)
    add_topics(app, known)
    app.command("lazyvol.cli.plots:app", name="plots", group="Topics", help=PLOTS)
    return app


def run() -> None:
    """Run the command line of this process, and end it.

    After Ctrl-C it ends at once: tasks at work cannot be stopped, and may take minutes. They write
    nothing that is not atomic.
    """
    code = main()
    if code == INTERRUPTED:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0; 1 if the work failed (files, memory, clusters); 2 if the command is wrong (options, dims);
    130 after Ctrl-C; 141 if the reader of standard output is gone. Errors are one line on standard
    error.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  closed by the shell: >&-
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        with losses_on_stderr():
            run_words(make_app(), sys.argv[1:] if tokens is None else tokens)
            sys.stdout.flush()
    except UnusedCliTokensError as error:
        return report_error(f"too many arguments: {' '.join(error.unused_tokens or ())}", 2)
    except CycloptsError as error:
        return report_error(str(error), 2)
    except (LabelError, OptionError) as error:
        return report_error(in_shell_words(error), 2)
    except LazyvolError as error:
        return report_error(in_shell_words(error), 1)
    except (BrokenPipeError, SystemExit):  # rich, which prints help, exits on a broken pipe
        _discard_output()
        return 141
    except KeyboardInterrupt as error:
        sys.stderr.write("\n")
        notes = [shell_words(note, option_names()) for note in getattr(error, "__notes__", ())]
        return report_error("; ".join(["interrupted", *notes]), INTERRUPTED)
    except MemoryError:
        return report_error("MemoryError: out of memory; set a limit with --memory", 1)
    except Exception as error:  # a bug here or in a library: no traceback in a shell
        return report_error(f"{type(error).__name__}: {error}", 1)
    return 0


def run_words(app: App, words: Sequence[str]) -> None:
    """Run a command line, which the plan of what it writes records."""
    token = COMMAND.set(tuple(words))
    try:
        app(with_hyphens(words), exit_on_error=False, print_error=False)
    finally:
        COMMAND.reset(token)


def in_shell_words(error: Exception) -> str:
    """Return the class and message of an error, parameters written as options."""
    return f"{type(error).__name__}: {shell_words(str(error), option_names())}"


def report_error(message: str, code: int) -> int:
    """Write a message as one line on standard error; return the exit code."""
    with suppress(OSError):
        sys.stderr.write(f"lazyvol: {' '.join(message.split())}\n")
        sys.stderr.flush()
    return code


@contextmanager
def losses_on_stderr() -> Iterator[None]:
    """Write each LossWarning as a line on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LossWarning)
        default = warnings.showwarning

        def show(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if issubclass(category, LossWarning):
                report_error(f"warning: {shell_words(str(message), option_names())}", 0)
            else:
                default(message, category, *args, **kwargs)

        warnings.showwarning = show
        yield


def option_names() -> set[str]:
    """Return the parameter names of all options; ``stack`` is a file without an option."""
    shared = {"out", *(f.name for f in fields(Resuming)), *SCREENING, "results", "overlay", "port"}
    names = {a.name for operation in operations().values() for a in operation.arguments}
    return (shared | names) - {"stack"}


def _discard_output() -> None:
    """Redirect standard output, so that the interpreter can flush it at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    try:
        return version("lazyvol")
    except PackageNotFoundError:
        return "not installed"

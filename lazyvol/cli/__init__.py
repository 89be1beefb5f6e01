"""The command line: ``lazyvol demo | info | convert | explain | screen | <topic> <operation>``."""

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
from lazyvol.cli.docs import shell_words
from lazyvol.cli.options import Resuming
from lazyvol.cli.verbs import add_topics, verbs
from lazyvol.errors import LabelError, LazyvolError, LossWarning, OptionError

__all__ = ["main", "make_app"]

ABOUT = "Labelled, lazy analysis of stacks of volumes that do not fit in memory."


def make_app() -> App:
    """The command line with all its commands."""
    app = App(
        name="lazyvol", help=ABOUT, version=_version, help_format="plaintext",
        suppress_keyboard_interrupt=False, result_action="return_value",
    )  # fmt: skip
    found = verbs()
    app.command("lazyvol.cli.demo:demo", name="demo")
    app.command(jobs.info)
    app.command(jobs.convert)
    app.command("lazyvol.cli.screen:screen_stack", name="screen")
    app.command(jobs.explainer(app, found), name="explain")
    add_topics(app, found)
    return app


def main(tokens: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0; 1 where the work failed (files, memory, clusters), 2 where the command is wrong (options,
    dims), 130 after Ctrl-C, 141 where nobody reads the output any more. Refusals are one line on
    standard error.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  closed by the shell: >&-
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        with telling_losses():
            make_app()(tokens, exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except UnusedCliTokensError as error:
        return refused(f"too many arguments: {' '.join(error.unused_tokens or ())}", 2)
    except CycloptsError as error:
        return refused(str(error), 2)
    except (LabelError, OptionError) as error:
        return refused(f"{type(error).__name__}: {shell_words(str(error), option_names())}", 2)
    except LazyvolError as error:
        return refused(f"{type(error).__name__}: {shell_words(str(error), option_names())}", 1)
    except (BrokenPipeError, SystemExit):  # rich, which prints help, ends so on a broken pipe
        _nobody_reads()
        return 141
    except KeyboardInterrupt:
        sys.stderr.write("\nlazyvol: interrupted\n")
        return 130
    except MemoryError:
        return refused("MemoryError: the memory is used up; give --memory a limit", 1)
    except Exception as error:  # a fault of ours or of a library: still no traceback in a shell
        return refused(f"{type(error).__name__}: {error}", 1)
    return 0


def refused(message: str, code: int) -> int:
    """A line on standard error, and the exit code."""
    with suppress(OSError):
        sys.stderr.write(f"lazyvol: {' '.join(message.split())}\n")
        sys.stderr.flush()
    return code


@contextmanager
def telling_losses() -> Iterator[None]:
    """Context in which warnings of what a file will not hold are lines on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LossWarning)
        usual = warnings.showwarning

        def tell(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, LossWarning):
                refused(f"warning: {shell_words(str(message), option_names())}", 0)
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = tell
        yield


def option_names() -> set[str]:
    """Names of all options, as functions have them."""
    own = {"out", *(f.name for f in fields(Resuming)), "fdr", "angles", "wedge", "templates"}
    return own | {a.name for verb in verbs().values() for a in verb.arguments}


def _nobody_reads() -> None:
    """Let the interpreter flush standard output into nothing when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    try:
        return version("lazyvol")
    except PackageNotFoundError:
        return "not installed"

"""The command line: ``lazyvol demo | convert | verify | resume | … | <topic> <operation>``."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError

from lazyvol.cli.docs import docstring_of, headline, help_of, shell_words
from lazyvol.cli.words import WORDS, command_name, topic_names, with_hyphens
from lazyvol.errors import LabelError, LazyvolError, LossWarning, OptionError, shortened

__all__ = ["main", "make_app", "run"]

ABOUT = """Labelled, lazy analysis of stacks of volumes that do not fit in memory.

lazyvol COMMAND --help describes a command, lazyvol TOPIC --help lists the operations of a topic.
"""
EXIT_CODES = (
    "Exit codes: 0 done; 1 the work failed (files, memory, clusters); 2 the command is wrong; 130 "
    "interrupted by Ctrl-C; 141 the reader of the output is gone."
)
#: options of ``screen`` beside those of the operations
SCREENING = ("particles", "fdr", "angles", "wedge", "orientations", "templates")
INTERRUPTED = 130
#: names of the first file of operations, which no option gives
FILES = {"stack", "array", "volume"}
#: commands by module and function; these are imported when a command is used, which takes 2 s
COMMANDS = {
    "demo": "demo:demo", "screen": "screen:screen_stack", "explore": "explore:explore_stack",
    "info": "jobs:info", "convert": "jobs:convert", "verify": "jobs:verify",
    "explain": "jobs:explain_plan", "resume": "resume:resume_command",
    "completion": "completion:completion",
}  # fmt: skip


def make_app() -> App:
    """Return the command line with all its commands, whose modules are not imported yet."""
    app = App(
        name="lazyvol", help=ABOUT, help_epilogue=EXIT_CODES, version=_version,
        help_format="plaintext", suppress_keyboard_interrupt=False, result_action="return_value",
    )  # fmt: skip
    for name, place in COMMANDS.items():
        module, _, function = place.partition(":")
        text = help_of(docstring_of(f"lazyvol.cli.{module}", function))
        app.command(f"lazyvol.cli.{place}", name=name, help=text)
    app.command("lazyvol.cli.cluster:app", name="cluster", help=headline("lazyvol.cli.cluster"))
    for topic in topic_names():
        text = headline(f"lazyvol.ops.{topic}")
        app.command(f"lazyvol.cli.topics:{topic}", name=topic, group="Topics", help=text)
    plots = headline("lazyvol.plots")
    app.command("lazyvol.cli.plots:app", name="plots", group="Topics", help=plots)
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
    except MissingArgumentError as error:
        from lazyvol.cli.refusals import missing_argument

        return report_error(missing_argument(error), 2)
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
    token = WORDS.set(tuple(words))
    try:
        words = ["--help" if n == 0 and w == "help" else w for n, w in enumerate(words)]
        words = with_hyphens(words)
        require_command(words)
        app(words, exit_on_error=False, print_error=False)
    finally:
        WORDS.reset(token)


def require_command(words: Sequence[str]) -> None:
    """Raise OptionError for an unknown command; cyclopts would import every command to say so."""
    from lazyvol.cli.refusals import operation_words, unknown_command, unknown_operation

    topics = [*topic_names(), "plots"]
    known = [*COMMANDS, "cluster", *topics]
    if words and not words[0].startswith("-") and words[0] not in known:
        raise OptionError(unknown_command(words[0], known))
    topic, operation, *_ = [*words, "", ""]
    is_word = topic in topics and operation and not operation.startswith("-")
    if is_word and command_name(operation) not in operation_words(topic):
        raise OptionError(unknown_operation(topic, operation))


def in_shell_words(error: Exception) -> str:
    """Return the class and message of an error, parameters written as options."""
    started = "lazyvol.cli.operations" in sys.modules  # otherwise no parameter is meant
    text = shell_words(str(error), option_names()) if started else str(error)
    return f"{type(error).__name__}: {text}"


def report_error(message: str, code: int) -> int:
    """Write a message as one line on standard error; return the exit code."""
    with suppress(OSError):
        sys.stderr.write(f"lazyvol: {shortened(' '.join(message.split()))}\n")
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
    """Return the parameter names of all options, without those of the first files.

    Only topics that are imported count: others have raised no error.
    """
    from lazyvol.cli.operations import operations_of
    from lazyvol.cli.options import Resuming

    run = {f.name for f in fields(Resuming)} - {"dtype"}  # which messages about values name, too
    shared = {"out", *run, *SCREENING, "results", "overlay", "port"}
    modules = [sys.modules.get(f"lazyvol.ops.{topic}") for topic in topic_names()]
    known = [operation for module in modules if module for operation in operations_of(module)]
    return (shared | {a.name for operation in known for a in operation.arguments}) - FILES


def _discard_output() -> None:
    """Redirect standard output, so that the interpreter can flush it at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    try:
        return version("lazyvol")
    except PackageNotFoundError:
        return "not installed"

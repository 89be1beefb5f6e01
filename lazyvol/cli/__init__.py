"""The command line: ``lazyvol demo | info | convert | explain | screen | <topic> <operation>``."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App

from lazyvol.cli import jobs
from lazyvol.cli.verbs import add_topics, verbs
from lazyvol.errors import LazyvolError

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
    """Run a command line and return its exit code: 0, 2 after a refusal, 130 after Ctrl-C."""
    try:
        make_app()(tokens)
    except LazyvolError as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"lazyvol: {type(error).__name__}: {message}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nlazyvol: interrupted\n")
        return 130
    return 0


def _version() -> str:
    try:
        return version("lazyvol")
    except PackageNotFoundError:
        return "not installed"

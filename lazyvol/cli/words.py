"""Words of a command line: names of topics, operations and options, without importing topics."""

from collections.abc import Sequence
from contextvars import ContextVar
from importlib.util import find_spec
from pkgutil import iter_modules

#: the command line that runs
WORDS: ContextVar[Sequence[str]] = ContextVar("words of the command line", default=())


def topic_names() -> list[str]:
    """Return the names of the topics of public operations."""
    spec = find_spec("lazyvol.ops")
    folders = spec.submodule_search_locations if spec else None
    return [info.name for info in iter_modules(folders) if not info.name.startswith("_")]


def command_name(name: str) -> str:
    """Return the name of an operation as a word of the command line."""
    return name.replace("_", "-")


def option_of(name: str) -> str:
    """Return the option of a parameter, e.g. ``--max-shift``."""
    return f"--{command_name(name)}"


def with_hyphens(tokens: Sequence[str]) -> list[str]:
    """Return a command line whose option names and operations have hyphens for underscores.

    Examples
    --------
    >>> with_hyphens(["registration", "align", "my_stack.zarr", "o.zarr", "--max_shift=a_b"])
    ['registration', 'align', 'my_stack.zarr', 'o.zarr', '--max-shift=a_b']
    """
    tokens = list(tokens)
    for n, token in enumerate(tokens):
        if token.startswith("--"):
            option, equals, value = token.partition("=")
            tokens[n] = command_name(option) + equals + value
    if len(tokens) > 1 and tokens[0] in (*topic_names(), "plots"):
        tokens[1] = command_name(tokens[1])
    return tokens

"""Messages for commands that are not complete, or that do not exist, with what was meant."""

import inspect
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from lazyvol.cli.docs import public_names
from lazyvol.cli.words import command_name, option_of, topic_names

if TYPE_CHECKING:
    from cyclopts import MissingArgumentError

#: operations that are named at most, where a word is one of several topics
MOST = 3


def missing_argument(error: "MissingArgumentError") -> str:
    """Return the message for a command without a required file or option."""
    chain = " ".join(error.command_chain or ())
    argument: Any = error.argument
    name = argument.field_info.name
    options = [word.partition("=")[0] for word in error.unused_tokens or () if word[0] == "-"]
    near = get_close_matches(option_of(name), options, 1)
    remedy = f"write {option_of(name)} instead of {near[0]}, " if near else ""
    needed = dict(_required(error.target))
    return (
        f"{chain}: {needed.get(name, option_of(name))} must be given; {remedy}the command is "
        f"lazyvol {' '.join([chain, *needed.values()])}"
    )


def _required(function: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of required parameters, and how a command line gives them."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                yield name, f"{option_of(name)} {name.upper()}"
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                yield name, name.upper()


def unknown_command(word: str, commands: Sequence[str]) -> str:
    """Return the message for a word that is no command: operations of that name, or a near one."""
    topics = [*topic_names(), "plots"]
    named = [f"{t} {word}" for t in topics if command_name(word) in operation_words(t)]
    meant = named[:MOST] or get_close_matches(word, commands, 1)
    remedy = f"did you mean lazyvol {' or '.join(meant)}?" if meant else "see lazyvol --help"
    return f"the command must be one that lazyvol --help lists, got {word!r}; {remedy}"


def unknown_operation(topic: str, word: str) -> str:
    """Return the message for a word that is no operation of a topic."""
    words = operation_words(topic)
    near = get_close_matches(command_name(word), words, 1)
    others = [f"{t} {word}" for t in topic_names() if command_name(word) in operation_words(t)]
    meant = [f"{topic} {near[0]}"] if near else others[:MOST]
    remedy = (
        f"did you mean lazyvol {' or '.join(meant)}?" if meant else f"see lazyvol {topic} --help"
    )
    return f"{topic}: the operation must be one of {', '.join(words)}, got {word!r}; {remedy}"


def operation_words(topic: str) -> list[str]:
    """Return the words for the operations of a topic, without importing it."""
    module = "lazyvol.plots" if topic == "plots" else f"lazyvol.ops.{topic}"
    return [command_name(name) for name in public_names(module)]

"""A shell line for every operation, from the first example of its docstring that fits."""

import ast
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lazyvol.cli.words import command_name, option_of

if TYPE_CHECKING:
    from lazyvol.cli.operations import Argument

CODE = re.compile(r"^\s*(?:>>>|\.\.\.) ?(.*)$", re.MULTILINE)
#: what an example gives a required option whose value it computes
NUMBER = "1"


def shell_line(
    topic: str,
    function: Callable[..., Any],
    arguments: Sequence["Argument"],
    out: str = "result.zarr",
) -> str:
    """Return a command that does what an example of the function's docstring does.

    Arrays of the example become files named as the parameters.
    """
    name = function.__name__
    call = next(_calls(function.__doc__ or "", name), None)
    given = {} if call is None else _given(call, arguments)
    inputs = [_file(a, given.get(a.name)) for a in arguments if a.positional]
    words = ["lazyvol", topic, command_name(name), *inputs, out]
    for argument in arguments:
        if not argument.positional and (argument.name in given or argument.required):
            words += _option(argument, given.get(argument.name))
    return shlex.join(words)


def _calls(docstring: str, name: str) -> Iterator[ast.Call]:
    """Yield the calls of a function in the examples of a docstring."""
    for line in CODE.findall(docstring):
        try:
            tree = ast.parse(line.strip())
        except SyntaxError:  # the first line of several
            continue
        for node in ast.walk(tree):
            function = node.func if isinstance(node, ast.Call) else None
            if isinstance(function, ast.Attribute) and function.attr == name:
                yield node  # type: ignore[misc]


def _given(call: ast.Call, arguments: Sequence["Argument"]) -> dict[str, ast.expr]:
    """Return the expressions of a call by parameter."""
    by_place = {a.name: value for a, value in zip(arguments, call.args, strict=False)}
    return by_place | {word.arg: word.value for word in call.keywords if word.arg}


def _file(argument: "Argument", expression: ast.expr | None) -> str:
    """Return the words for an input: a file, or a shape that the example gives."""
    try:
        value = None if expression is None else ast.literal_eval(expression)
    except ValueError:
        value = None
    is_shape = isinstance(value, tuple) and all(type(n) is int for n in value)
    return "x".join(map(str, value)) if is_shape and value else f"{argument.name}.zarr"


def _option(argument: "Argument", expression: ast.expr | None) -> list[str]:
    """Return the words for an option; none for a value that the shell cannot write."""
    option = option_of(argument.name)
    try:
        value = None if expression is None else ast.literal_eval(expression)
    except ValueError:
        value = None
    if isinstance(value, bool):
        return [option if value else option_of(f"no_{argument.name}")]
    text = _text(value)
    if text is None and argument.array and expression is not None:
        text = f"{argument.name}.zarr"
    if text is None and argument.required:
        text = NUMBER
    if text is None:
        return []
    return [f"{option}={text}"] if text.startswith("-") else [option, text]


def _text(value: Any) -> str | None:
    """Return a literal as the command line reads it, or None."""
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, tuple | list) and all(isinstance(v, str | int | float) for v in value):
        return ",".join(map(str, value))
    return None

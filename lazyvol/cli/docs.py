"""Help texts out of docstrings: summaries, and what is said of each parameter."""

import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)


def about(thing: Callable[..., Any] | ModuleType) -> str:
    """What a docstring says before its first section, as flowing text."""
    text = SECTION.split(inspect.cleandoc(thing.__doc__ or ""))[0]
    return "\n\n".join(_flowing(p) for p in text.strip().split("\n\n"))


def headline(module: ModuleType) -> str:
    """First sentence of a module's docstring."""
    return _flowing(inspect.cleandoc(module.__doc__ or "").split("\n\n")[0])


def parameter_texts(function: Callable[..., Any], module: ModuleType) -> dict[str, str]:
    """Text for each parameter: of the function's own docstring, else of its module's."""
    shared = dict(_definitions(inspect.cleandoc(module.__doc__ or "")))
    sections = SECTION.split(inspect.cleandoc(function.__doc__ or ""))
    own = dict(zip(sections[1::2], sections[2::2], strict=True)).get("Parameters", "")
    return shared | dict(_definitions(own))


def _definitions(text: str) -> Iterator[tuple[str, str]]:
    """Names and texts of a definition list: names on a line, the text indented below."""
    for found in re.finditer(r"^([\w`, ]+)\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))+)", text, re.MULTILINE):
        for name in found[1].replace("`", "").split(","):
            yield name.strip(), _flowing(inspect.cleandoc("\n" + found[2]))


def _flowing(paragraph: str) -> str:
    return " ".join(paragraph.replace("``", "").split())

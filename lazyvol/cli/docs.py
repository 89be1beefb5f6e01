"""Help texts out of docstrings: summaries, and what is said of each parameter."""

import inspect
import re
from collections.abc import Callable, Collection, Iterator
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


def shell_words(message: str, names: Collection[str]) -> str:
    """A message in the words of the shell: options ``names`` as they are typed.

    Examples
    --------
    >>> shell_words("a.npy: pass overwrite=True, or dims=('y', 'x')", {"overwrite", "dims"})
    'a.npy: pass --overwrite, or --dims y,x'
    >>> shell_words("masks.sphere: max_shift must be above 0, got -1", {"max_shift"})
    'masks.sphere: --max-shift must be above 0, got -1'
    >>> shell_words("var: ddof must be a whole number; see help(lazyvol.ops.stats.var)", {"ddof"})
    'var: --ddof must be a whole number; see lazyvol stats var --help'
    """
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    told = re.sub(rf"(?<![\w./-])({known})=True\b", lambda m: _option(m[1]), message)
    told = re.sub(rf"(?<![\w./-])({known})=(?=[\w('\"\[{{.-])", lambda m: f"{_option(m[1])} ", told)
    told = re.sub(rf"(?<![\w./-])({known})=(?!=)", lambda m: _option(m[1]), told)
    told = re.sub(r"; see help\(lazyvol\.(?:ops\.)?(\w+)\.(\w+)\)$", _help, told)
    told = re.sub(rf"^((?:[\w.]+: )?)({known})(?= (?:must|is|are|gives|names)\b)",
                  lambda m: m[1] + _option(m[2]), told)  # fmt: skip
    return re.sub(r"(--\S+) \(([^()]*)\)", lambda m: f"{m[1]} {_items(m[2])}", told)


def _help(found: re.Match[str]) -> str:
    topic, operation = (name.replace("_", "-") for name in found.groups())
    return f"; see lazyvol {topic} {operation} --help"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _items(text: str) -> str:
    return ",".join(part.strip(" '\"") for part in text.split(",") if part.strip())


def _definitions(text: str) -> Iterator[tuple[str, str]]:
    """Names and texts of a definition list: names on a line, the text indented below."""
    for found in re.finditer(r"^([\w`, ]+)\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))+)", text, re.MULTILINE):
        for name in found[1].replace("`", "").split(","):
            yield name.strip(), _flowing(inspect.cleandoc("\n" + found[2]))


def _flowing(paragraph: str) -> str:
    return " ".join(paragraph.replace("``", "").split())

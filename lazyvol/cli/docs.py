"""Help texts and messages of the command line, from docstrings and errors of the library."""

import ast
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from lazyvol.cli.words import command_name, option_of

#: text of a parameter that is described at another function of the topic
REFERENCE = re.compile(r"As for `{0,2}(\w+)`{0,2}\.")
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)


def description(source: Callable[..., Any] | str) -> str:
    """Return a docstring, or that of a function, up to its first section, lines joined."""
    docstring = source if isinstance(source, str) else source.__doc__ or ""
    text = SECTION.split(inspect.cleandoc(docstring))[0]
    return "\n\n".join(_joined(p) for p in text.strip().split("\n\n"))


def help_of(docstring: str) -> str:
    """Return the help of a command: its description, and the shell line of its examples."""
    sections = SECTION.split(inspect.cleandoc(docstring))
    examples = dict(zip(sections[1::2], sections[2::2], strict=True)).get("Examples", "")
    lines = [f"Example: {line}" for line in examples.split("\n") if line.startswith("lazyvol ")]
    return "\n\n".join([description(docstring), *lines])


def docstring_of(module: str, function: str) -> str:
    """Return the docstring of a function without importing its module."""
    functions = (n for n in _parsed(module).body if isinstance(n, ast.FunctionDef))
    return next((ast.get_docstring(f) or "" for f in functions if f.name == function), "")


def headline(module: str) -> str:
    """Return the first paragraph of a module's docstring, without importing the module."""
    return _joined((ast.get_docstring(_parsed(module)) or "").split("\n\n")[0])


def public_names(module: str) -> list[str]:
    """Return the names in ``__all__`` of a module, without importing the module."""
    for node in _parsed(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def _parsed(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    spec = find_spec(module)
    source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    try:
        return ast.parse(source)
    except SystemError:  # seen once in Python 3.11.7: "AST constructor recursion depth mismatch"
        return ast.parse(source)


def parameter_texts(function: Callable[..., Any], module: ModuleType) -> dict[str, str]:
    """Return the text of each parameter, from the function's docstring or else the module's."""
    shared = dict(_definitions(inspect.cleandoc(module.__doc__ or "")))
    sections = SECTION.split(inspect.cleandoc(function.__doc__ or ""))
    parameters = dict(zip(sections[1::2], sections[2::2], strict=True)).get("Parameters", "")
    texts = shared | dict(_definitions(parameters))
    return {name: _resolved(name, text, module) for name, text in texts.items()}


def _resolved(name: str, text: str, module: ModuleType) -> str:
    """Return the text of a parameter, that of another function where it only refers to it."""
    reference = REFERENCE.fullmatch(text)
    other = getattr(module, reference[1], None) if reference else None
    return parameter_texts(other, module).get(name, text) if other else text


def shell_words(message: str, names: Collection[str]) -> str:
    """Return a message with the parameters ``names`` written as options of the command line.

    Examples
    --------
    >>> shell_words("a.npy: pass overwrite=True, or dims=('y', 'x')", {"overwrite", "dims"})
    'a.npy: pass --overwrite, or --dims y,x'
    >>> shell_words("masks.sphere: max_shift must be above 0, got -1", {"max_shift"})
    'masks.sphere: --max-shift must be above 0, got -1'
    >>> shell_words("mrc files hold floats; convert it, e.g. with astype('float32')", ())
    'mrc files hold floats; convert it, e.g. with --dtype float32'
    >>> shell_words("stack must be a volume; select along k, e.g. with .isel(k=0)", {"k"})
    'stack must be a volume; select along k, e.g. with --select k=0'
    >>> shell_words("memory must be 1 GiB; raise memory", {"memory"})
    '--memory must be 1 GiB; raise --memory'
    >>> shell_words("fsc: a and b must have two dims", {"a", "b"})
    'fsc: --a and --b must have two dims'
    >>> shell_words("var: ddof must be a whole number; see help(lazyvol.ops.stats.var)", {"ddof"})
    'var: --ddof must be a whole number; see lazyvol stats var --help'
    """
    text = re.sub(r"\bwith astype\('(\w+)'\)", r"with --dtype \1", message)
    text = re.sub(r"\.astype\('(\w+)'\)", r"lazyvol convert IN OUT --dtype \1", text)
    selections = re.compile(r"(?<=with )\.isel\((\w+)=(\w+)\)")
    if selection := selections.search(text):
        before, after = text[: selection.start()], text[selection.end() :]
        chosen = f"--select {selection[1]}={selection[2]}"
        return shell_words(before, names) + chosen + shell_words(after, names)
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or r"\b\B"
    text = re.sub(rf"(?<![\w./-])({known})=True\b", lambda m: option_of(m[1]), text)
    text = re.sub(rf"\b(raise|use fewer) ({known})\b", lambda m: f"{m[1]} {option_of(m[2])}", text)
    text = re.sub(
        rf"(?<![\w./-])({known})=(?=[\w('\"\[{{.-])", lambda m: f"{option_of(m[1])} ", text
    )
    text = re.sub(rf"(?<![\w./-])({known})=(?!=)", lambda m: option_of(m[1]), text)
    text = re.sub(r"; see help\(lazyvol\.(?:ops\.)?(\w+)\.(\w+)\)$", _help_command, text)
    text = re.sub(
        rf"^((?:[^\s:]+: ){{0,2}})((?:{known})(?:(?:, | and )(?:{known}))*)"
        r"(?= (?:must|is|are|gives|names)\b)",
        lambda m: m[1] + re.sub(r"(?!and\b)\b[a-z]\w*", lambda n: option_of(n[0]), m[2]), text,
    )  # fmt: skip
    return re.sub(r"(--\S+) \(([^()]*)\)", lambda m: f"{m[1]} {_comma_list(m[2])}", text)


def _help_command(match: re.Match[str]) -> str:
    """Return the command that shows the help of a topic's operation."""
    topic, operation = map(command_name, match.groups())
    return f"; see lazyvol {topic} {operation} --help"


def _comma_list(text: str) -> str:
    """Return the items of a tuple as the command line takes them."""
    return ",".join(part.strip(" '\"") for part in text.split(",") if part.strip())


def _definitions(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and texts of a definition list: names on a line, the text indented below."""
    for match in re.finditer(r"^([\w`, ]+)\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))+)", text, re.MULTILINE):
        for name in match[1].replace("`", "").split(","):
            yield name.strip(), _joined(inspect.cleandoc("\n" + match[2]))


def _joined(paragraph: str) -> str:
    """Return a paragraph as one line without literal marks."""
    return " ".join(paragraph.replace("``", "").split())

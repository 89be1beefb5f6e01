"""Commands made from the public operations: name, options and help are those of the function."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import xarray as xr
from cyclopts import App, Parameter

import lazyvol.ops
from lazyvol.cli.docs import about, headline, parameter_texts
from lazyvol.cli.options import RESUMING, Resuming, open_first, running
from lazyvol.cli.results import require_format, write_result
from lazyvol.errors import LazyvolError, OptionError
from lazyvol.io import open as open_stack

PLAIN = (bool, int, float, str, type(None))
SHAPE = re.compile(r"\d+([x,]\d+)*")


@dataclass(frozen=True)
class Argument:
    """One parameter of an operation, and what the command line takes for it.

    ``placed`` arguments have a place, the others a name. ``opens`` tells that the text may be a
    path, ``sets`` that its file may hold several arrays, ``parses`` that it stands for something
    else than text, ``several`` that one value is still a sequence.
    """

    name: str
    placed: bool
    opens: bool
    sets: bool
    parses: bool
    several: bool
    hint: Any
    default: Any
    text: str

    @classmethod
    def of(cls, parameter: inspect.Parameter, hint: Any, text: str) -> "Argument":
        """The argument for a parameter with a resolved type and its text of help."""
        kinds = set(_members(hint))
        required = parameter.default is inspect.Parameter.empty
        placed = required and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        opens = bool({xr.DataArray, xr.Dataset} & kinds)
        text = f"{text} A file." if opens and not placed else text
        parses = not all(k in PLAIN or get_origin(k) is Literal for k in kinds)
        single = {str, int, float} & kinds
        several = Sequence in {get_origin(k) for k in kinds} and not single
        hint = str if parses else hint
        return cls(
            parameter.name, placed, opens, xr.Dataset in kinds, parses, several, hint,
            parameter.default, text,
        )  # fmt: skip

    def parameter(self) -> inspect.Parameter:
        """The command's parameter; a default that text cannot say is left to the operation."""
        by_place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        kind = by_place if self.placed else inspect.Parameter.KEYWORD_ONLY
        hint, default = self.hint, self.default
        if default is not inspect.Parameter.empty and not _fits(default, hint):
            hint, default = hint | None, None
        shown: Any = Annotated[hint, Parameter(help=self.text or None)]
        return inspect.Parameter(self.name, kind, default=default, annotation=shown)

    def value(self, given: Any, opener: Callable[[str], Any] = open_stack) -> Any:
        """What the operation gets for what the command line gave."""
        if not self.parses or given is None:
            return given
        if self.opens:
            found = _opened(given, self.placed, opener)
            if isinstance(found, xr.Dataset) and not self.sets:
                raise OptionError(
                    f"{self.name} must be one array, {given} is a set of "
                    f"{', '.join(map(str, found))}; name one, e.g. {given}/{next(iter(found), '')}"
                )
            return found
        value = parsed(given)
        return (value,) if self.several and not isinstance(value, tuple | dict) else value


@dataclass(frozen=True)
class Verb:
    """An operation as a command."""

    topic: str
    name: str
    function: Callable[..., Any]
    arguments: tuple[Argument, ...]

    @classmethod
    def of(cls, module: ModuleType, name: str) -> "Verb":
        """The command for a public function of a topic."""
        function = getattr(module, name)
        hints, texts = get_type_hints(function), parameter_texts(function, module)
        parameters = inspect.signature(function).parameters.values()
        arguments = tuple(Argument.of(p, hints[p.name], texts.get(p.name, "")) for p in parameters)
        return cls(topic_name(module), name, function, arguments)

    def result(self, given: Mapping[str, Any]) -> Any:
        """The operation's lazy result for the texts and values of a command line."""
        options = given.get("options") or RESUMING
        first = partial(open_first, dims=options.dims)
        values = dict[str, Any]()
        for n, a in enumerate(self.arguments):
            if a.name in given:
                values[a.name] = a.value(given[a.name], open_stack if n else first)
        placed = [values.pop(a.name) for a in self.arguments if a.placed]
        try:
            return self.function(*placed, **values)
        except LazyvolError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise OptionError(
                f"an argument of {self.topic} {self.name} does not fit: {error}; the command is "
                f"{self._usage()}"
            ) from error

    def _usage(self) -> str:
        placed = " ".join(a.name.upper() for a in self.arguments if a.placed)
        return f"lazyvol {self.topic} {self.name} {placed} OUT"

    def command(self) -> Callable[..., None]:
        """The function that the command line calls."""

        def run(*placed: Any, **named: Any) -> None:
            given = dict(zip((p.name for p in signature.parameters.values()), placed, strict=False))
            self._run(given | named)

        signature = inspect.Signature(self._parameters())
        run.__name__ = self.name
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return run

    def _run(self, given: Mapping[str, Any]) -> None:
        options = given.get("options") or RESUMING
        require_format(given["out"], f"; the command is {self._usage()}")
        with running(options):
            write_result(self.result(given), given["out"], options, self.name)

    def _parameters(self) -> list[inspect.Parameter]:
        first = [a.parameter() for a in self.arguments if a.placed]
        rest = [a.parameter() for a in self.arguments if not a.placed]
        by_place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        target = Annotated[Path, Parameter(help="Where the result goes: .zarr, .mrc, .tif, .npy; "
                                                ".csv for a table.")]  # fmt: skip
        out = inspect.Parameter("out", by_place, annotation=target)
        options = inspect.Parameter(
            "options", inspect.Parameter.KEYWORD_ONLY, default=RESUMING, annotation=Resuming
        )
        return [*first, out, *rest, options]


def topics() -> Iterator[ModuleType]:
    """Topic modules of public operations."""
    for found in iter_modules(lazyvol.ops.__path__):
        module = import_module(f"lazyvol.ops.{found.name}")
        if hasattr(module, "__all__"):
            yield module


def verbs() -> dict[tuple[str, str], Verb]:
    """Every public operation, by topic and name."""
    made = (Verb.of(module, name) for module in topics() for name in module.__all__)
    return {(verb.topic, verb.name): verb for verb in made}


def topic_name(module: ModuleType) -> str:
    """Name of a topic module on the command line."""
    return module.__name__.rpartition(".")[2]


def add_topics(app: App, all_verbs: Mapping[tuple[str, str], Verb]) -> None:
    """A command for each topic, with a command for each of its operations."""
    for module in topics():
        topic = topic_name(module)
        below = App(name=topic, help=headline(module), help_format="plaintext", group="Topics")
        for (own, name), verb in all_verbs.items():
            if own == topic:
                below.command(verb.command(), name=name, help=about(verb.function))
        app.command(below)


def parsed(text: str) -> Any:
    """A value from text: ``1.5``, ``z,y``, ``z=1.5,y=2``, ``all`` (None) or a word.

    Examples
    --------
    >>> parsed("4"), parsed("z,y"), parsed("z=1.5,y=2"), parsed("all"), parsed("reflect")
    (4, ('z', 'y'), {'z': 1.5, 'y': 2}, None, 'reflect')
    """
    if text in ("all", "None"):
        return None
    if "=" in text:
        pairs = (item.partition("=") for item in text.split(","))
        return {key.strip(): _number(value.strip()) for key, _, value in pairs}
    if "," in text:
        return tuple(_number(item.strip()) for item in text.split(",") if item.strip())
    return _number(text)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _opened(text: str, placed: bool, opener: Callable[[str], Any]) -> Any:
    """An array from its path, or a shape such as ``64x64x64``; an optional word stays a word."""
    if not Path(text).exists() and not SHAPE.fullmatch(text) and _numeric(value := parsed(text)):
        return value
    if Path(text).exists() or (not SHAPE.fullmatch(text) and (placed or "." in text)):
        return opener(text)
    if SHAPE.fullmatch(text):
        return tuple(int(n) for n in re.split("[x,]", text))
    return text


def _numeric(value: Any) -> bool:
    """Whether numbers: ``90.5``, ``1.5,2`` or ``x=2``."""
    own = value.values() if isinstance(value, dict) else value
    listed = tuple(own) if isinstance(value, dict | tuple) else (own,)
    return bool(listed) and all(isinstance(v, int | float) for v in listed)


def _members(hint: Any) -> tuple[Any, ...]:
    """Members of a union, else the type itself."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(m for part in get_args(hint) for m in _members(part))
    return (hint,)


def _fits(default: Any, hint: Any) -> bool:
    """Whether a default may stand as it is behind a type of the command line."""
    kinds = _members(hint)
    named = [v for k in kinds if get_origin(k) is Literal for v in get_args(k)]
    return default in named or isinstance(default, tuple(k for k in kinds if isinstance(k, type)))

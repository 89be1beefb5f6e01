"""Commands generated from public operations: name, options and help are those of the function."""

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import xarray as xr
from cyclopts import App, Parameter

from lazyvol.arguments.rules import REFUSED
from lazyvol.cli.docs import description, headline, parameter_texts
from lazyvol.cli.examples import shell_line
from lazyvol.cli.options import RESUMING, open_first, running, whole_number
from lazyvol.cli.results import require_format, write_result
from lazyvol.cli.words import command_name, option_of, topic_names
from lazyvol.errors import LazyvolError, OptionError
from lazyvol.io import open as open_stack

PLAIN_TYPES = (bool, int, float, str, type(None))
#: lengths of axes, which fit 64 bits
SHAPE = re.compile(r"\d{1,18}([x,]\d{1,18})*")


@dataclass(frozen=True)
class Argument:
    """One parameter of an operation, and how the command line reads it.

    ``required`` arguments have no default; ``positional`` ones are inputs, which are given by
    their place. ``array``: the text may be a path; ``dataset``: the file may hold several arrays;
    ``word``: it may be a word; ``parsed``: the text is parsed to another type; ``sequence``: a
    single value becomes a tuple.
    """

    name: str
    required: bool
    positional: bool
    array: bool
    dataset: bool
    word: bool
    parsed: bool
    sequence: bool
    hint: Any
    default: Any
    text: str

    @classmethod
    def of(cls, parameter: inspect.Parameter, hint: Any, text: str) -> "Argument":
        """Return the argument for a parameter with its resolved type and help text."""
        types = set(_union_members(hint))
        required = parameter.default is inspect.Parameter.empty
        array = bool({xr.DataArray, xr.Dataset} & types)
        required = required and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        positional = required and array
        text = text.replace("None", "all" if parameter.name == "dim" else "none")
        text = f"{text} A file." if array and not positional else text
        parsed = not all(t in PLAIN_TYPES or get_origin(t) is Literal for t in types)
        sequence = Sequence in {get_origin(t) for t in types} and not {str, int, float} & types
        hint = str if parsed else hint
        return cls(
            parameter.name, required, positional, array, xr.Dataset in types, str in types, parsed,
            sequence, hint, parameter.default, text,
        )  # fmt: skip

    def parameter(self) -> inspect.Parameter:
        """Return the parameter of the command; defaults that are not text become None."""
        positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
        kind = positional if self.positional else inspect.Parameter.KEYWORD_ONLY
        hint, default = self.hint, self.default
        if default is not inspect.Parameter.empty and not _fits(default, hint):
            hint, default = hint | None, None
        whole = int in _union_members(hint) and float not in _union_members(hint)
        converter = whole_number if whole else None
        annotation: Any = Annotated[hint, Parameter(help=self.text or None, converter=converter)]
        return inspect.Parameter(self.name, kind, default=default, annotation=annotation)

    def value(self, text: Any, opener: Callable[[str], Any] = open_stack) -> Any:
        """Return the value that the operation gets for the text, or value, of the command line."""
        if not self.parsed or text is None:
            return text
        if self.array:
            with self._named():
                opened = _opened(text, self.positional and not self.word, opener)
            return opened if self.dataset else one_array(opened, self.name, text)
        with self._named():
            value = parse(text)
        return (value,) if self.sequence and not isinstance(value, tuple | dict) else value

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the option in errors; those of an input file name the file alone."""
        try:
            yield
        except LazyvolError as error:
            if not self.positional or isinstance(error, OptionError):
                error.args = (f"{option_of(self.name)} {error}", *error.args[1:])
            raise


@dataclass(frozen=True)
class Operation:
    """A public operation as a command."""

    topic: str
    name: str
    function: Callable[..., Any]
    arguments: tuple[Argument, ...]
    #: options of the run, by default
    options: ClassVar[Any] = RESUMING
    #: an output file of an example
    target: ClassVar[str] = "result.zarr"
    #: help of the output file
    output: ClassVar[str] = (
        "File for the result: .zarr, .mrc, .em, .nii, .tif, .npy; .csv for a table; or the URL of "
        "a .zarr."
    )

    @classmethod
    def of(cls, module: ModuleType, name: str) -> Self:
        """Return the command of a public function of a topic."""
        function = getattr(module, name)
        hints, texts = get_type_hints(function), parameter_texts(function, module)
        parameters = inspect.signature(function).parameters.values()
        arguments = tuple(Argument.of(p, hints[p.name], texts.get(p.name, "")) for p in parameters)
        return cls(topic_name(module), name, function, arguments)

    def _open(self, name: str, path: str) -> Any:
        """Open the file of an argument; NPY files are read as plain arrays are in Python."""
        checks = self.function.checks  # type: ignore[attr-defined]
        rule, named = checks.parameters[name].rule, checks.declaration.dims.get(name, ())
        with suppress(OSError, ValueError):  # which opening the file reports
            if path.endswith(".npy"):
                plain = np.load(path, mmap_mode="r")
                if rule is not None and rule.admit(plain) is not REFUSED:
                    return np.array(plain)
                return open_stack(path, dims=next((d for d in named if len(d) == plain.ndim), None))
        return open_stack(path)

    def result(self, texts: Mapping[str, Any]) -> Any:
        """Return the lazy result for the texts and values of a command line."""
        options = texts.get("options") or self.options
        first_opener = partial(open_first, dims=options.dims, select=options.select)
        values = dict[str, Any]()
        for n, a in enumerate(self.arguments):
            if a.name in texts:
                opener = partial(self._open, a.name) if n else first_opener
                values[a.name] = a.value(texts[a.name], opener)
        positional = [values.pop(a.name) for a in self.arguments if a.required]
        try:
            return self.function(*positional, **values)
        except LazyvolError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise OptionError(
                f"{self.topic} {self.name}: an argument does not fit: {error}; the command is "
                f"{self._usage()}"
            ) from error

    def _usage(self) -> str:
        inputs = [a.name.upper() for a in self.arguments if a.positional]
        options = [
            f"{option_of(a.name)} {a.name.upper()}"
            for a in self.arguments if a.required and not a.positional
        ]  # fmt: skip
        words = ["lazyvol", self.topic, command_name(self.name), *inputs, "OUT", *options]
        return " ".join(words)

    @property
    def example(self) -> str:
        """A shell line of an example."""
        return shell_line(self.topic, self.function, self.arguments, self.target)

    def command(self) -> Callable[..., None]:
        """Return the function that the command line calls."""

        def run(*positional: Any, **named: Any) -> None:
            self._run(dict(zip(signature.parameters, positional, strict=False)) | named)

        signature = inspect.Signature(self._parameters())
        run.__name__ = self.name
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return run

    def _run(self, texts: Mapping[str, Any]) -> None:
        options = texts.get("options") or self.options
        require_format(texts["out"], f"; the command is {self._usage()}")
        with running(options):
            write_result(self.result(texts), texts["out"], options, self.name)

    def _parameters(self) -> list[inspect.Parameter]:
        positional = [a.parameter() for a in self.arguments if a.positional]
        named = [a.parameter() for a in self.arguments if not a.positional]
        path = Annotated[str, Parameter(help=self.output)]
        out = inspect.Parameter("out", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=path)
        options = inspect.Parameter(
            "options", inspect.Parameter.KEYWORD_ONLY, default=self.options,
            annotation=type(self.options),
        )  # fmt: skip
        return [*positional, out, *named, options]


def one_array(opened: Any, name: str, path: str) -> Any:
    """Return what was opened; raise OptionError if it is a Dataset. ``name`` is the argument."""
    if isinstance(opened, xr.Dataset):
        raise OptionError(
            f"{name} must be one array, got {path} with the arrays "
            f"{', '.join(map(str, opened))}; name one, e.g. {path}/{next(iter(opened), '')}"
        )
    return opened


def topics() -> Iterator[ModuleType]:
    """Yield the topic modules of public operations."""
    return (import_module(f"lazyvol.ops.{name}") for name in topic_names())


def operations() -> dict[tuple[str, str], Operation]:
    """Return every public operation by topic and name."""
    every = (operation for module in topics() for operation in operations_of(module))
    return {(operation.topic, operation.name): operation for operation in every}


def operations_of(module: ModuleType) -> list[Operation]:
    """Return the operations of a topic."""
    return [Operation.of(module, name) for name in module.__all__]


def topic_name(module: ModuleType) -> str:
    """Return the name of a topic module on the command line."""
    return module.__name__.rpartition(".")[2]


def topic_app(module: ModuleType, operations: Iterable[Operation]) -> App:
    """Return the command of a topic, with a command for each of its operations."""
    text = headline(module.__name__)
    app = App(name=topic_name(module), help=text, help_format="plaintext")
    for operation in operations:
        text = f"{description(operation.function)}\n\nExample: {operation.example}"
        app.command(operation.command(), name=command_name(operation.name), help=text)
    return app


def parse(text: str) -> Any:
    """Return a value from text: ``1.5``, ``z,y``, ``z=1.5,y=2``, ``all`` (None) or a word.

    Examples
    --------
    >>> parse("4"), parse("z,y"), parse("z=1.5,y=2"), parse("all"), parse("reflect")
    (4, ('z', 'y'), {'z': 1.5, 'y': 2}, None, 'reflect')
    """
    if text.lower() in ("all", "none"):
        return None
    if "=" in text:
        pairs = [item.partition("=") for item in text.split(",")]
        values = {key.strip(): _number(value.strip()) for key, _, value in pairs}
        if len(values) < len(pairs):
            raise OptionError(f"must name each dim once, got {text!r}")
        return values
    if "," in text:
        return tuple(_number(item.strip()) for item in text.split(",") if item.strip())
    return _number(text)


def _number(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _opened(text: str, is_file: bool, opener: Callable[[str], Any]) -> Any:
    """Return an opened file, a shape such as ``64x64x64``, numbers, or an option's word."""
    if not os.path.exists(text) and not SHAPE.fullmatch(text) and _is_numeric(value := parse(text)):
        return value
    if os.path.exists(text) or (not SHAPE.fullmatch(text) and (is_file or "." in text)):
        return opener(text)
    if SHAPE.fullmatch(text):
        return tuple(int(n) for n in re.split("[x,]", text))
    return text


def _is_numeric(value: Any) -> bool:
    """Return True for numbers: ``90.5``, ``1.5,2`` or ``x=2``."""
    items = value.values() if isinstance(value, dict) else value
    numbers = tuple(items) if isinstance(value, dict | tuple) else (items,)
    return bool(numbers) and all(isinstance(n, int | float) for n in numbers)


def _union_members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(m for part in get_args(hint) for m in _union_members(part))
    return (hint,)


def _fits(default: Any, hint: Any) -> bool:
    """Return True if a default has a type that the command line can show."""
    types = _union_members(hint)
    literals = [v for t in types if get_origin(t) is Literal for v in get_args(t)]
    classes = tuple(t for t in types if isinstance(t, type))
    return default in literals or isinstance(default, classes)

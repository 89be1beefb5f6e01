"""Rules of option values, derived from the type hints of operations; values in messages."""

import collections.abc as abc
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import xarray as xr

from lazyvol.stack import Vector, filled_with_nan, is_masked

#: returned by a rule for a value that breaks it
REFUSED: Any = object()
#: bound of Python integers that fit 64 bits
MAX_WHOLE = 2**63


@dataclass(frozen=True)
class Rule:
    """A rule of values, named in the singular and plural for messages.

    ``admit`` returns a value as the operation takes it (numpy scalars as Python's, sequences as
    tuples), or ``REFUSED``.
    """

    singular: str
    plural: str
    admit: Callable[[Any], Any]


def rule_of(hint: Any, *, finite: bool = True) -> Rule:
    """Return the rule of a type hint; with ``finite`` its numbers exclude NaN and infinities."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _any_of([rule_of(kind, finite=finite) for kind in _union_members(inner)])
    if origin is Literal:
        return _literal(inner)
    if origin is tuple:
        return _tuple_of([rule_of(kind, finite=finite) for kind in inner])
    if origin is abc.Sequence and inner == (Any,):
        return Rule("nested sequences of numbers", "nested sequences of numbers", _nested_sequence)
    if origin in (abc.Sequence, abc.Iterable):
        return _sequence_of(rule_of(inner[0], finite=finite))
    if origin is abc.Mapping:
        return _mapping_of(rule_of(inner[1], finite=finite))
    if hint is float:
        return FINITE if finite else NUMBER
    if origin is abc.Callable:
        return Rule("a function", "functions", lambda v: v if callable(v) else REFUSED)
    return BY_TYPE.get(origin or hint) or _instance(origin or hint)


def _union_members(kinds: Sequence[Any]) -> list[Any]:
    """Return the members of nested unions, None last; arrays with one axis are sequences."""
    members: list[Any] = []
    for kind in kinds:
        nested = get_origin(kind) in (Union, UnionType)
        members += _union_members(get_args(kind)) if nested else [kind]
    members = [m for m in members if m != Vector]
    return sorted(dict.fromkeys(members), key=lambda kind: kind is NoneType)


def _as_python(value: Any) -> Any:
    """Return a numpy scalar or 0-dimensional array in memory as a Python object."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, xr.DataArray) and value.ndim == 0 and value.chunks is None:
        return value.item()
    if type(value) is np.ndarray and value.ndim == 0:
        return value.item()
    return value


def _number(value: Any) -> Any:
    number = _as_python(value)
    if isinstance(number, bool) or not isinstance(number, Real):
        return REFUSED
    if isinstance(number, int) and -MAX_WHOLE <= number < 2 * MAX_WHOLE:
        return number
    try:
        return float(number)
    except OverflowError:
        return REFUSED


def _finite(value: Any) -> Any:
    number = _number(value)
    return number if number is not REFUSED and isfinite(number) else REFUSED


def _whole(value: Any) -> Any:
    number = _as_python(value)
    if isinstance(number, bool) or not isinstance(number, Integral):
        return REFUSED
    number = int(number)
    return number if -MAX_WHOLE <= number < MAX_WHOLE else REFUSED


def _flag(value: Any) -> Any:
    flag = _as_python(value)
    return flag if isinstance(flag, bool) else REFUSED


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, str) else REFUSED


def _anything(value: Any) -> Any:
    return value


def _none(value: Any) -> Any:
    return None if value is None else REFUSED


def _array(value: Any) -> Any:
    """Admit numpy and dask arrays of numbers; masked values become NaN."""
    dtype = getattr(value, "dtype", None)
    is_numeric = isinstance(dtype, np.dtype) and dtype.kind in "biufc"
    if not is_numeric or isinstance(value, np.generic):
        return REFUSED
    return filled_with_nan(value, "an array") if is_masked(value) else value


def _nested_sequence(value: Any) -> Any:
    """Admit nested sequences of numbers, as an array."""
    if not isinstance(value, list | tuple):
        return REFUSED
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return REFUSED
    return array if array.dtype.kind in "biufc" else REFUSED


def _dtype(value: Any) -> Any:
    """Admit a numpy type, as its name."""
    if not isinstance(value, str | type | np.dtype):
        return REFUSED
    try:
        return np.dtype(value).name
    except (TypeError, ValueError):
        return REFUSED


FINITE = Rule("a finite number", "finite numbers", _finite)
NUMBER = Rule("a number", "numbers", _number)
DTYPE = Rule("a float type, e.g. 'float32'", "types", _dtype)
BY_TYPE: dict[Any, Rule] = {
    int: Rule("a whole number", "whole numbers", _whole),
    bool: Rule("True or False", "flags", _flag),
    str: Rule("a text", "texts", _text),
    NoneType: Rule("None", "None", _none),
    Hashable: Rule("a name", "names", _text),
    Any: Rule("anything", "anything", _anything),
    np.ndarray: Rule("an array of numbers", "arrays of numbers", _array),
}


def _any_of(rules: Sequence[Rule]) -> Rule:
    def admit(value: Any) -> Any:
        for rule in rules:
            admitted = rule.admit(value)
            if admitted is not REFUSED:
                return admitted
        return REFUSED

    singulars = list(dict.fromkeys(r.singular for r in rules))
    plurals = list(dict.fromkeys(r.plural for r in rules))
    return Rule(_alternatives(singulars), _alternatives(plurals), admit)


def _alternatives(texts: Sequence[str]) -> str:
    """Return texts joined as "a, b or c"."""
    *first, last = texts
    return f"{', '.join(first)} or {last}" if first else last


def _literal(values: Sequence[Any]) -> Rule:
    """Return the rule of a Literal: one of a few texts and numbers; 1.0 and True are not 1."""

    def admit(value: Any) -> Any:
        plain = str(value) if isinstance(value, str) else _as_python(value)
        return next((v for v in values if type(v) is type(plain) and v == plain), REFUSED)

    choices = ", ".join(map(repr, values))
    text = f"one of {choices}" if len(values) > 1 else choices
    return Rule(text, text, admit)


def _items(value: Any) -> Any:
    """Return the elements of an ordered collection with one axis, else ``REFUSED``."""
    if isinstance(value, str | bytes | abc.Mapping | abc.Set | xr.Dataset):
        return REFUSED
    if isinstance(value, np.ma.MaskedArray):
        return REFUSED
    if isinstance(value, np.ndarray) or (isinstance(value, xr.DataArray) and value.chunks is None):
        return tuple(np.asarray(value).tolist()) if value.ndim == 1 else REFUSED
    if hasattr(value, "dtype") or not isinstance(value, abc.Iterable):
        return REFUSED
    return tuple(value)


def _sequence_of(element: Rule) -> Rule:
    def admit(value: Any) -> Any:
        items = _items(value)
        if items is REFUSED:
            return REFUSED
        admitted = tuple(element.admit(item) for item in items)
        return REFUSED if any(item is REFUSED for item in admitted) else admitted

    return Rule(f"a sequence of {element.plural}", f"sequences of {element.plural}", admit)


def _tuple_of(elements: Sequence[Rule]) -> Rule:
    def admit(value: Any) -> Any:
        items = _items(value)
        if items is REFUSED or len(items) != len(elements):
            return REFUSED
        admitted = tuple(rule.admit(item) for rule, item in zip(elements, items, strict=True))
        return REFUSED if any(item is REFUSED for item in admitted) else admitted

    text = f"{len(elements)} {elements[0].plural}"
    return Rule(text, f"groups of {text}", admit)


def _mapping_of(element: Rule) -> Rule:
    def admit(value: Any) -> Any:
        if not isinstance(value, abc.Mapping) or isinstance(value, xr.Dataset):
            return REFUSED
        admitted = {_text(key): element.admit(item) for key, item in value.items()}
        if REFUSED in admitted or any(item is REFUSED for item in admitted.values()):
            return REFUSED
        return admitted

    text = f"from dims to {element.plural}"
    return Rule(f"a mapping {text}", f"mappings {text}", admit)


def _instance(kind: Any) -> Rule:
    name = getattr(kind, "__name__", str(kind))
    article = "an" if name[:1] in "AEIOU" else "a"
    return Rule(f"{article} {name}", f"{name}s", lambda v: v if isinstance(v, kind) else REFUSED)


#: characters of a value in a message
MAX_CHARACTERS = 60


def show_value(value: Any) -> str:
    """Return a value as text for a message."""
    if isinstance(value, xr.DataArray):
        return f"a DataArray with dims {tuple(map(str, value.dims))}"
    if isinstance(value, xr.Dataset):
        return f"a Dataset of {sorted(map(str, value.data_vars))}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"an array of shape {shape}"
    text = " ".join(repr(value).split())
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}... ({type(value).__name__})"

"""Rules that options are held to, made of the types that operations declare."""

import collections.abc as abc
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import xarray as xr

from lazyvol.voxels import filled_with_nan, is_masked

#: what a rule answers for a value that breaks it
NO: Any = object()
#: numbers of Python that fit 64 bits, and a float
WHOLE, LARGEST = 2**63, 2**1023


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words for one and for many, and the value as it is passed on.

    ``admit`` answers ``NO`` for a value that breaks the rule. Numbers and texts of numpy become
    Python's own, sequences become tuples.
    """

    words: str
    many: str
    admit: Callable[[Any], Any]


def rule_of(hint: Any, *, finite: bool = True) -> Rule:
    """The rule for values of a type; ``finite`` keeps NaN and infinities out of its numbers."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _either([rule_of(kind, finite=finite) for kind in _flat(inner)])
    if origin is Literal:
        return _one_of(inner)
    if origin is tuple:
        return _exactly([rule_of(kind, finite=finite) for kind in inner])
    if origin is abc.Sequence and inner == (Any,):
        return Rule("nested sequences of numbers", "nested sequences of numbers", _table)
    if origin in (abc.Sequence, abc.Iterable):
        return _several(rule_of(inner[0], finite=finite))
    if origin is abc.Mapping:
        return _mapping(rule_of(inner[1], finite=finite))
    if hint is float:
        return FINITE if finite else NUMBER
    if origin is abc.Callable:
        return Rule("a function", "functions", lambda v: v if callable(v) else NO)
    return PLAIN.get(origin or hint) or _instance(origin or hint)


def _flat(kinds: Sequence[Any]) -> list[Any]:
    """Members of nested unions, None last."""
    found: list[Any] = []
    for kind in kinds:
        nested = get_origin(kind) in (Union, UnionType)
        found += _flat(get_args(kind)) if nested else [kind]
    return sorted(dict.fromkeys(found), key=lambda kind: kind is NoneType)


def _bare(value: Any) -> Any:
    """A scalar of numpy, or an array in memory without axes, as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, xr.DataArray) and value.ndim == 0 and value.chunks is None:
        return value.item()
    if type(value) is np.ndarray and value.ndim == 0:
        return value.item()
    return value


def _number(value: Any) -> Any:
    found = _bare(value)
    if isinstance(found, bool) or not isinstance(found, Real):
        return NO
    return found if isinstance(found, int | float) else float(found)


def _finite(value: Any) -> Any:
    found = _number(value)
    if found is NO:
        return NO
    fits = abs(found) < LARGEST if isinstance(found, int) else isfinite(found)
    return found if fits else NO


def _whole(value: Any) -> Any:
    found = _bare(value)
    if isinstance(found, bool) or not isinstance(found, Integral):
        return NO
    number = int(found)
    return number if -WHOLE <= number < WHOLE else NO


def _flag(value: Any) -> Any:
    found = _bare(value)
    return found if isinstance(found, bool) else NO


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, str) else NO


def _anything(value: Any) -> Any:
    return value


def _none(value: Any) -> Any:
    return None if value is None else NO


def _plain_array(value: Any) -> Any:
    """numpy or dask arrays of numbers."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if not kind or kind not in "biufc" or isinstance(value, np.generic):
        return NO
    return filled_with_nan(value, "an array") if is_masked(value) else value


def _table(value: Any) -> Any:
    """Nested sequences of numbers as an array."""
    if not isinstance(value, list | tuple):
        return NO
    try:
        found = np.asarray(value)
    except (ValueError, TypeError):
        return NO
    return found if found.dtype.kind in "biufc" else NO


def _type(value: Any) -> Any:
    """A numpy type by name."""
    if not isinstance(value, str | type | np.dtype):
        return NO
    try:
        return np.dtype(value).name
    except (TypeError, ValueError):
        return NO


FINITE = Rule("a finite number", "finite numbers", _finite)
NUMBER = Rule("a number", "numbers", _number)
TYPE = Rule("a float type, e.g. 'float32'", "types", _type)
PLAIN: dict[Any, Rule] = {
    int: Rule("a whole number", "whole numbers", _whole),
    bool: Rule("True or False", "flags", _flag),
    str: Rule("a text", "texts", _text),
    NoneType: Rule("None", "None", _none),
    Hashable: Rule("a name", "names", _text),
    Any: Rule("anything", "anything", _anything),
    np.ndarray: Rule("an array of numbers", "arrays of numbers", _plain_array),
}


def _either(rules: Sequence[Rule]) -> Rule:
    def admit(value: Any) -> Any:
        for rule in rules:
            found = rule.admit(value)
            if found is not NO:
                return found
        return NO

    words = list(dict.fromkeys(r.words for r in rules))
    many = list(dict.fromkeys(r.many for r in rules))
    return Rule(joined(words), joined(many), admit)


def joined(words: Sequence[str]) -> str:
    """Alternatives in words."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _one_of(values: Sequence[Any]) -> Rule:
    """One of a few texts and numbers; 1.0 and True are no 1."""

    def admit(value: Any) -> Any:
        found = str(value) if isinstance(value, str) else _bare(value)
        return next((v for v in values if type(v) is type(found) and v == found), NO)

    listed = joined([repr(v) for v in values])
    words = f"one of {', '.join(map(repr, values))}" if len(values) > 1 else listed
    return Rule(words, words, admit)


def _items(value: Any) -> Any:
    """Elements of an ordered collection with one axis; ``NO`` where it is none."""
    if isinstance(value, str | bytes | abc.Mapping | abc.Set | xr.Dataset):
        return NO
    if isinstance(value, np.ma.MaskedArray):
        return NO
    if isinstance(value, np.ndarray) or (isinstance(value, xr.DataArray) and value.chunks is None):
        return tuple(np.asarray(value).tolist()) if value.ndim == 1 else NO
    if hasattr(value, "dtype") or not isinstance(value, abc.Iterable):
        return NO
    return tuple(value)


def _several(each: Rule) -> Rule:
    def admit(value: Any) -> Any:
        items = _items(value)
        found = NO if items is NO else tuple(each.admit(item) for item in items)
        return NO if found is NO or any(item is NO for item in found) else found

    words = f"a sequence of {each.many}"
    return Rule(words, words.replace("a sequence", "sequences", 1), admit)


def _exactly(each: Sequence[Rule]) -> Rule:
    def admit(value: Any) -> Any:
        items = _items(value)
        if items is NO or len(items) != len(each):
            return NO
        found = tuple(rule.admit(item) for rule, item in zip(each, items, strict=True))
        return NO if any(item is NO for item in found) else found

    words = f"{len(each)} {each[0].many}"
    return Rule(words, f"groups of {words}", admit)


def _mapping(each: Rule) -> Rule:
    def admit(value: Any) -> Any:
        if not isinstance(value, abc.Mapping) or isinstance(value, xr.Dataset):
            return NO
        found = {_text(key): each.admit(item) for key, item in value.items()}
        return NO if NO in found or any(item is NO for item in found.values()) else found

    words = f"a mapping from dims to {each.many}"
    return Rule(words, words.replace("a mapping", "mappings", 1), admit)


def _instance(kind: Any) -> Rule:
    name = getattr(kind, "__name__", str(kind))
    article = "an" if name[:1] in "AEIOU" else "a"
    return Rule(f"{article} {name}", f"{name}s", lambda v: v if isinstance(v, kind) else NO)

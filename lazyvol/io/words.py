"""Convert values to the words of a text file and back; text is restored as text.

The type of a column follows from its words: integers, floats, ``True`` or ``False``, or times in
ISO 8601 with seconds. One quoted word makes the whole column text, and so do integers with leading
zeros, which are identifiers.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lazyvol.errors import LabelError, LimitExceeded
from lazyvol.plan.recipes.base import Array

#: bytes of a text array, in which each element is as long as the longest
MAX_TEXT = 1 << 30
#: digits of the largest unsigned 64-bit integer; longer numbers are identifiers
MAX_DIGITS = 20
INTEGER = "[+-]?[0-9]+"
NUMBER = r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:nan|inf(?:inity)?))"
FLAG = "True|False"
TIME = (
    r"-?[0-9]{4,}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
    r"(?:\.[0-9]{3}|\.[0-9]{6}|\.[0-9]{9})?|NaT"
)
#: any of these types, in upper or lower case
NOT_TEXT = re.compile(f"{NUMBER}|{FLAG}|{TIME}", re.I)
#: columns of these types, each word followed by a line break and none of them an integer with
#: leading zeros; 100,000 floats take 72 ms, and by a match of every word 125 ms
INTEGERS, NUMBERS, FLAGS, TIMES = (
    re.compile(f"(?:(?![+-]?0[0-9]+\n)(?:{word})\n)*+") for word in (INTEGER, NUMBER, FLAG, TIME)
)
#: unit of times by the number of decimals of their seconds
TIME_UNITS = {0: "s", 3: "ms", 6: "us", 9: "ns"}


def is_text(word: str) -> bool:
    """Return True if an unquoted word is read as text."""
    return NOT_TEXT.fullmatch(word) is None


def parse_column(words: Sequence[str], where: str, *, text: bool = False) -> Array:
    """Return the words of a column as integers, floats, booleans, times, or as text.

    Examples
    --------
    >>> parse_column(["1", "2"], "a"), parse_column(["1", "nan"], "a")
    (array([1, 2]), array([ 1., nan]))
    >>> parse_column(["01", "2"], "a").tolist()
    ['01', '2']
    """
    lines = "\n".join([*words, ""])
    if text or lines.count("\n") > len(words):
        return text_array(words, where)
    if INTEGERS.fullmatch(lines):
        return _integers(words, where)
    if NUMBERS.fullmatch(lines):
        return np.array([*map(float, words)], np.float64)
    if FLAGS.fullmatch(lines):
        return np.array([word == "True" for word in words], bool)
    return _times(words) if TIMES.fullmatch(lines) else text_array(words, where)


def _integers(words: Sequence[str], where: str) -> Array:
    """Return int64 if it fits, otherwise uint64; larger integers as text, floats would round."""
    if max(map(len, words), default=0) > MAX_DIGITS:
        return text_array(words, where)
    values = [*map(int, words)]
    low, high = min(values, default=0), max(values, default=0)
    for dtype in (np.int64, np.uint64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.array(values, dtype)
    return text_array(words, where)


def _times(words: Sequence[str]) -> Array:
    """Return times in the unit of their decimals."""
    digits = max(len(w.partition(".")[2]) for w in words)
    return np.array(words, f"M8[{TIME_UNITS[digits]}]")


def text_array(words: Sequence[str], where: str, max_bytes: int | None = None) -> Array:
    """Return words as an array; raise LimitExceeded if one long word makes it too large."""
    longest = max(map(len, words), default=1)
    if 4 * longest * len(words) > (max_bytes or MAX_TEXT):
        raise LimitExceeded(f"{where}: {len(words)} texts of up to {longest} characters; split it")
    return np.array(words, dtype=str)


def format_column(values: Any, name: str) -> tuple[list[str], bool]:
    """Return the values of a column as words, and whether they are text.

    Numbers have the fewest digits that restore them exactly.

    Raises
    ------
    LabelError
        Values are not text, real numbers, booleans or times, or are of several types.

    Examples
    --------
    >>> format_column(np.array([0.5, 2.0]), "x"), format_column(["a", "1"], "who")
    ((['0.5', '2.0'], False), (['a', '1'], True))
    """
    array = _of_one_type(np.asarray(values), name)
    kind = array.dtype.kind
    if kind == "U":
        words = array.tolist()
        _require_unicode(words, name)
        return words, True
    if kind == "M":
        return np.datetime_as_string(_at_least_seconds(array, name)).tolist(), False
    if kind in "biu" or (kind == "f" and array.dtype.itemsize <= 8):
        return [repr(v) for v in array.tolist()], False
    raise LabelError(
        f"{name}: a table must hold text, real numbers, booleans or times, got {array.dtype}; "
        "convert it"
    )


def _of_one_type(array: Array, name: str) -> Array:
    """Return Python objects as an array of their type; raise LabelError if they differ."""
    if array.dtype.kind == "T":
        return array.astype(object).astype(str)  # numpy refuses to find the length
    if array.dtype.kind != "O":
        return array
    values = array.tolist()
    types = {type(v) for v in values}
    if types - {float, int} and len(types) > 1:
        names = sorted(t.__name__ for t in types)
        raise LabelError(
            f"{name}: values of a column must be of one type, got {', '.join(names)}; convert them"
        )
    return np.array(values) if types else array.astype(str)


def _at_least_seconds(array: Array, name: str) -> Array:
    """Return times in s, ms, us or ns, the units that their words can express."""
    unit = np.datetime_data(array.dtype)[0]
    if unit in ("ps", "fs", "as", "generic"):
        raise LabelError(f"{name}: times must be in ns or longer units, got {unit}; convert them")
    return array.astype(f"M8[{unit if unit in TIME_UNITS.values() else 's'}]")


def _require_unicode(words: Iterable[str], name: str) -> None:
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise LabelError(f"{name}: text must be Unicode, but: {error}; repair it") from error

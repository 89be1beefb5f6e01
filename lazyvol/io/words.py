"""Values as words of a text file, and back: what was text is text again, whatever it looks like.

Bare words that are all whole numbers, numbers, ``True`` or ``False``, or times in ISO 8601 with
seconds make a column of that kind; one word that was quoted makes its column text. Whole numbers
with leading zeros are names.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lazyvol.errors import LabelError, LimitExceeded
from lazyvol.plan.recipes.base import Array

#: a column of text takes its longest for each
MAX_TEXT = 1 << 30
#: digits of the largest unsigned integer of 64 bits; longer numbers are names
DIGITS = 20
WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf(inity)?)", re.I)
FLAG = re.compile(r"True|False")
TIME = re.compile(
    r"-?[0-9]{4,}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3}|\.[0-9]{6}|\.[0-9]{9})?|"
    "NaT"
)
#: any of them, in any case
ANY = re.compile("|".join(f"(?:{kind.pattern})" for kind in (NUMBER, FLAG, TIME)), re.I)
#: unit of times by the digits behind their seconds
TIME_UNITS = {0: "s", 3: "ms", 6: "us", 9: "ns"}


def is_text(word: str) -> bool:
    """Whether a bare word is text and nothing else."""
    return ANY.fullmatch(word) is None


def column(words: Sequence[str], where: str, *, text: bool = False) -> Array:
    """Words of one column as integers, floats, flags, times, or, unless they fit, as text.

    Examples
    --------
    >>> column(["1", "2"], "a"), column(["1", "nan"], "a"), column(["01", "2"], "a").tolist()
    (array([1, 2]), array([ 1., nan]), ['01', '2'])
    """
    if text:
        return texts(words, where)
    if _all(NUMBER, words):
        return _numbers(words, where)
    if _all(FLAG, words):
        return np.array([w == "True" for w in words], bool)
    return _times(words) if _all(TIME, words) else texts(words, where)


def _numbers(words: Sequence[str], where: str) -> Array:
    if any(_padded(w) for w in words):
        return texts(words, where)
    if _all(WHOLE, words):
        return _integers(words, where)
    return np.array([float(w) for w in words], np.float64)


def _all(kind: re.Pattern[str], words: Sequence[str]) -> bool:
    return all(map(kind.fullmatch, words))


def _padded(word: str) -> bool:
    plain = word.lstrip("+-")
    return plain[0] == "0" and len(plain) > 1 and plain.isdigit()


def _integers(words: Sequence[str], where: str) -> Array:
    """Integers of 64 bits, signed if they can be; longer ones are names, a float would round."""
    if any(len(w) > DIGITS for w in words):
        return texts(words, where)
    values = [int(w) for w in words]
    low, high = min(values, default=0), max(values, default=0)
    for dtype in (np.int64, np.uint64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.array(values, dtype)
    return texts(words, where)


def _times(words: Sequence[str]) -> Array:
    digits = max(len(w.partition(".")[2]) for w in words)
    return np.array(words, f"M8[{TIME_UNITS[digits]}]")


def texts(words: Sequence[str], where: str) -> Array:
    """Texts as an array, unless one long one among many would blow it up."""
    longest = max(map(len, words), default=1)
    if 4 * longest * len(words) > MAX_TEXT:
        raise LimitExceeded(f"{where}: {len(words)} texts of up to {longest} characters; split it")
    return np.array(words, dtype=str)


def words_of(values: Any, what: str) -> tuple[list[str], bool]:
    """Values of a column as words, numbers as short as they are read back, and if they are texts.

    Raises
    ------
    LabelError
        Values that are no text, real numbers, flags or times, or not all of one kind.

    Examples
    --------
    >>> words_of(np.array([0.5, 2.0]), "x"), words_of(["a", "1"], "who")
    ((['0.5', '2.0'], False), (['a', '1'], True))
    """
    array = _of_one_kind(np.asarray(values), what)
    kind = array.dtype.kind
    if kind == "U":
        found = array.tolist()
        _require_unicode(found, what)
        return found, True
    if kind == "M":
        return np.datetime_as_string(_at_least_seconds(array, what)).tolist(), False
    if kind in "biu" or (kind == "f" and array.dtype.itemsize <= 8):
        return [repr(v) for v in array.tolist()], False
    raise LabelError(
        f"{what}: a table must hold text, real numbers, flags or times, got {array.dtype}; "
        "convert it"
    )


def _of_one_kind(array: Array, what: str) -> Array:
    """Python objects of one type as an array of that type."""
    if array.dtype.kind == "T":
        return array.astype(str)
    if array.dtype.kind != "O":
        return array
    values = array.tolist()
    kinds = {type(v) for v in values}
    if kinds - {float, int} and len(kinds) > 1:
        names = sorted(kind.__name__ for kind in kinds)
        raise LabelError(
            f"{what}: values of a column must be of one kind, got {', '.join(names)}; convert them"
        )
    return np.array(values) if kinds else array.astype(str)


def _at_least_seconds(array: Array, what: str) -> Array:
    unit = np.datetime_data(array.dtype)[0]
    if unit in ("ps", "fs", "as", "generic"):
        raise LabelError(f"{what}: times must be in ns or longer units, got {unit}; convert them")
    known = unit in TIME_UNITS.values()
    return array.astype("M8[s]") if not known else array.astype(f"M8[{unit}]")


def _require_unicode(words: Iterable[str], what: str) -> None:
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise LabelError(f"{what}: text must be Unicode, but: {error}; repair it") from error

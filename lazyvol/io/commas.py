"""Comma-separated values, as spreadsheets read them and as they are read back.

Numbers, flags and times are bare, texts that look like one of them are quoted: a column with a
quoted word is text. A text that a spreadsheet would run as a formula, one that begins with ``=``,
``+``, ``-``, ``@``, a tab or a line's end, gets an apostrophe before it, which spreadsheets take
for "this is text"; it is taken off again where the file is read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

import numpy as np

from lazyvol.errors import FormatError
from lazyvol.io.star import text_of
from lazyvol.io.words import column, is_text, words_of
from lazyvol.plan.recipes.base import Array

#: texts that are formulas to a spreadsheet, full-width signs included, also behind apostrophes
FORMULA = re.compile("'*[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")
FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n][^,\r\n]*|))(,|\r\n|\n|\r|\Z)')
NEEDS_QUOTES = re.compile(r"[,\"\r\n\t]|^\s|\s$|^$|^#")


def text(columns: Mapping[str, object]) -> str:
    """Columns as the text of a file, names first.

    Examples
    --------
    >>> print(text({"k": [0, 1], "who": ["=a", "b,c"]}), end="")
    k,who
    0,"'=a"
    1,"b,c"
    """
    words = []
    for name, values in columns.items():
        found, texts = words_of(np.asarray(values), name)
        words.append(map(_field, found) if texts else found)
    lines = [",".join(map(_field, columns)), *(",".join(row) for row in zip(*words, strict=True))]
    return "\n".join([*lines, ""])


def _field(word: str) -> str:
    if FORMULA.match(word):
        word = f"'{word}"
    elif is_text(word) and not NEEDS_QUOTES.search(word):
        return word
    return '"' + word.replace('"', '""') + '"'


def read(path: str) -> dict[str, Array]:
    """Columns of a file with a line of names.

    Raises
    ------
    FormatError
        It is no text, a row has another number of values than there are names, or names repeat.
    """
    records = _records(text_of(path), path)
    names = [word for word, _ in next(records, (0, []))[1]]
    if not names or len(set(names)) != len(names) or "" in names:
        raise FormatError(f"{path}: a .csv file must begin with names that differ, found {names}")
    rows = []
    for number, row in records:
        if len(row) != len(names):
            raise FormatError(
                f"{path}, row {number}: {len(names)} values are expected here, found {len(row)}"
            )
        rows.append(row)
    fields = zip(*rows, strict=True) if rows else repeat((), len(names))
    return {n: _column(part, path) for n, part in zip(names, fields, strict=True)}


Fields = list[tuple[str, bool]]


def _records(content: str, path: str) -> Iterator[tuple[int, Fields]]:
    """Number of every row, counted from 0 for the names, and its words, quoted or not."""
    at, number, row = 0, 0, Fields()
    while at < len(content) or row:
        match = FIELD.match(content, at)
        if match is None:
            raise FormatError(
                f"{path}, row {number}: a quote must be closed and a comma must follow, found "
                f"{content[at : at + 40]!r}"
            )
        at = match.end()
        row.append(_word(match))
        if match[3] != ",":
            if row != [("", False)]:
                yield number, row
                number += 1
            row = []


def _word(match: re.Match[str]) -> tuple[str, bool]:
    if match[1] is None:
        return match[2], False
    word = match[1].replace('""', '"')
    return word[1:] if word[:1] == "'" and FORMULA.match(word) else word, True


def _column(fields: Sequence[tuple[str, bool]], path: str) -> Array:
    return column([w for w, _ in fields], path, text=any(quoted for _, quoted in fields))

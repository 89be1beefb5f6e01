"""Write and read CSV files so that types survive and spreadsheets run no formulas.

Numbers, booleans and times are not quoted; text that looks like one of them is, and a column with
a quoted word is text. Text that a spreadsheet would run as a formula, which begins with ``=``,
``+``, ``-``, ``@``, a tab or a line break, is written with a leading apostrophe, the mark of text
in spreadsheets; reading removes it. (pandas does not return which fields were quoted.)
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

import numpy as np

from lazyvol.errors import FormatError
from lazyvol.io.star import text_of
from lazyvol.io.words import format_column, is_text, parse_column
from lazyvol.plan.recipes.base import Array

#: text that spreadsheets take for a formula, also with full-width signs and after apostrophes
FORMULA = re.compile("'*[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")
FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n][^,\r\n]*|))(,|\r\n|\n|\r|\Z)')
NEEDS_QUOTES = re.compile(r"[,\"\r\n\t]|^\s|\s$|^$|^#")


def text(columns: Mapping[str, object]) -> str:
    """Return columns as CSV text with a header line.

    Examples
    --------
    >>> print(text({"k": [0, 1], "who": ["=a", "b,c"]}), end="")
    k,who
    0,"'=a"
    1,"b,c"
    """
    fields = []
    for name, values in columns.items():
        words, are_text = format_column(np.asarray(values), name)
        fields.append(map(_text_field, words) if are_text else words)
    header = ",".join(map(_text_field, columns))
    return "\n".join([header, *(",".join(row) for row in zip(*fields, strict=True)), ""])


def _text_field(word: str) -> str:
    """Return a text as a CSV field, quoted where it is not plain."""
    if FORMULA.match(word):
        word = f"'{word}"
    elif is_text(word) and not NEEDS_QUOTES.search(word):
        return word
    return '"' + word.replace('"', '""') + '"'


def read(path: str) -> dict[str, Array]:
    """Return the columns of a CSV file by name.

    Raises
    ------
    FormatError
        The file is not text, a row has more or fewer values than the header, or names repeat.
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
    return {n: _column(column, path) for n, column in zip(names, fields, strict=True)}


Fields = list[tuple[str, bool]]


def _records(content: str, path: str) -> Iterator[tuple[int, Fields]]:
    """Yield the number of every row, 0 for the header, and its words; True marks quoted ones."""
    position, number, row = 0, 0, Fields()
    while position < len(content) or row:
        match = FIELD.match(content, position)
        if match is None:
            raise FormatError(
                f"{path}, row {number}: a quote must be closed and a comma must follow, found "
                f"{content[position : position + 40]!r}"
            )
        position = match.end()
        row.append(_word(match))
        if match[3] != ",":
            if row != [("", False)]:
                yield number, row
                number += 1
            row = []


def _word(match: re.Match[str]) -> tuple[str, bool]:
    """Return a matched field without quotes and apostrophe, and whether it was quoted."""
    if match[1] is None:
        return match[2], False
    word = match[1].replace('""', '"')
    return word[1:] if word[:1] == "'" and FORMULA.match(word) else word, True


def _column(fields: Sequence[tuple[str, bool]], path: str) -> Array:
    return parse_column([w for w, _ in fields], path, text=any(quoted for _, quoted in fields))

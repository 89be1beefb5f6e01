"""Read and write STAR files of RELION, STOPGAP and Warp: blocks of single values or loops.

The package ``starfile`` reads them too, but needs pyarrow (55 MB). Names lose their underscore.
`lazyvol.io.words` defines the type of a column; columns of names and paths in RELION, such as
``rlnMicrographName``, are always text.

A row is one line. A quoted word is a value, and a quote ends before white space. By the STAR
standard an unquoted word that begins with ``data_`` starts a block, and one that begins with ``#``
a comment, anywhere; but RELION writes micrographs such as ``data_1.mrc`` without quotes. So an
unquoted ``data_`` word starts a block if it is alone on its line, and is the first value of a row
if the line has as many words as the loop has columns, two or more. Refused are rows that begin
with an unquoted ``_`` or ``loop_``, and in a loop of one column an unquoted ``data_`` word that no
block follows.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazyvol.errors import FormatError, LabelError, LimitExceeded
from lazyvol.io.flat_file import read_error, stored_file
from lazyvol.io.words import format_column, is_text, parse_column
from lazyvol.plan.recipes.base import Array

#: about a million particles; parsing takes about ten times the bytes of the text
MAX_STAR = 256 << 20
#: white space of STAR; that of Python has more characters, e.g. the no-break space
WHITE = " \t\r\f\v"
#: a quote ends before a space or the end of the line
TOKEN = re.compile(rf"'(.*?)'(?=[{WHITE}]|$)|\"(.*?)\"(?=[{WHITE}]|$)|([^{WHITE}]+)")
#: lines with these characters need `TOKEN`, others are split at white space
QUOTES_AND_COMMENTS = re.compile("['\"#]")
#: labels of RELION columns that always hold text
NAMES = re.compile(r"rln\w*(Name|Image|File|Label)")
#: words that have another meaning without quotes
RESERVED = re.compile(r"(data_|save_|loop_$|stop_$|global_$|[_#;'\"$\[\]]|[?.]$)", re.I)


@dataclass(frozen=True)
class Block:
    """A block ``data_name``: columns of one length, or single values (length 1)."""

    name: str
    columns: Mapping[str, Array]
    loop: bool

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)


def read(path: str | os.PathLike[str]) -> list[Block]:
    """Return all blocks of a STAR file.

    Raises
    ------
    FormatError
        The file is not text, or its lines break the rules of STAR.
    LimitExceeded
        The file is larger than 256 MiB.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.star")
    ...     _ = file.write_text("data_a\\nloop_\\n_x\\n_name\\n1 'a b'\\n2 c\\n")
    ...     block = read(file)[0]
    >>> block.name, block.columns["x"].tolist(), block.columns["name"].tolist()
    ('a', [1, 2], ['a b', 'c'])
    """
    where = os.fspath(path)
    lines = text_of(where).replace("\r\n", "\n").split("\n")
    return [_block(name, body, where) for name, body in _blocks(lines, where)]


def text_of(where: str) -> str:
    """Return the text of a file; raise LimitExceeded if it is too large."""
    file = stored_file(where)
    if file.size > MAX_STAR:
        raise LimitExceeded(f"{where}: text may have {MAX_STAR} bytes, found {file.size}; split it")
    try:
        return file.head(file.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: it must be text in UTF-8, but: {error}") from error
    except OSError as error:
        raise read_error(where, error) from error


Lines = list[tuple[int, str]]


def _blocks(lines: Sequence[str], where: str) -> Iterator[tuple[str, Lines]]:
    """Yield the name and the numbered lines of every block, without comment lines."""
    name, body, width = None, list[tuple[int, str]](), 0
    stripped = [(n, line.strip(WHITE)) for n, line in enumerate(lines, 1)]
    content = [(n, line) for n, line in stripped if line and line[0] != "#"]
    for index, (number, line) in enumerate(content):
        if line[:5].lower() == "data_" and _begins_block(content, index, width, where):
            if name is not None:
                yield name, body
            name, body, width = _words(line, number, where)[0][0][5:], [], 0
        elif name is None or lines[number - 1].startswith(";"):
            raise FormatError(
                f"{where}, line {number}: a STAR file must consist of blocks data_NAME without "
                f"texts of several lines, found {line[:60]!r}"
            )
        else:
            body.append((number, line))
            in_header = line[0] == "_" and width == len(body) - 2
            width += bool(in_header and body[0][1].lower() == "loop_")
    if name is None:
        raise FormatError(f"{where}: a STAR file must have a block data_NAME, found none")
    yield name, body


def _begins_block(content: Lines, index: int, width: int, where: str) -> bool:
    """Return True if a line that begins with ``data_`` is no row of a loop of ``width`` columns."""
    number, line = content[index]
    count = len(_words(line, number, where)[0])
    if count > 1:
        if count != width:
            raise FormatError(
                f"{where}, line {number}: a block data_NAME must be alone on its line, and a row "
                f"of this loop has {width} values, found {line[:60]!r}"
            )
        return False
    following = content[index + 1][1] if index + 1 < len(content) else ""
    if width == 1 and following[:1] != "_" and following.lower() != "loop_":
        raise FormatError(
            f"{where}, line {number}: {line[:60]!r} may be a value or a block without content; "
            "quote it if it is a value"
        )
    return True


def _block(name: str, body: Lines, where: str) -> Block:
    """Return the columns of a loop, or the single values of a block without one."""
    loop = bool(body) and body[0][1].lower() == "loop_"
    if not loop:
        rows = [_words(line, number, where) for number, line in body]
        _require_width(rows, 2, body, where)
        names = [_name(line, number, where, 1) for number, line in body]
        values = [([v], 1 in quoted) for (_, v), quoted in rows]
        return Block(name, _columns(names, values, where), False)
    count = next((n for n, (_, line) in enumerate(body[1:]) if line[0] != "_"), len(body) - 1)
    names = [_name(line, number, where) for number, line in body[1 : count + 1]]
    body = body[count + 1 :]
    rows = [_words(line, number, where) for number, line in body]
    _require_width(rows, count, body, where)
    _require_values(rows, body, where)
    table = zip(*(words for words, _ in rows), strict=True) if rows else [()] * count
    quoted = frozenset[int]().union(*(q for _, q in rows))
    columns = [(values, n in quoted) for n, values in enumerate(table)]
    return Block(name, _columns(names, columns, where), True)


def _name(text: str, number: int, where: str, values: int = 0) -> str:
    """Return the name at the start of a line; a column's may be followed by its number only."""
    first, *rest = text.split()
    if first[0] != "_" or (not values and rest and not rest[0].lstrip("#").isdigit()):
        raise FormatError(
            f"{where}, line {number}: a name _NAME is expected here, found {text[:60]!r}"
        )
    return first[1:]


#: words of a line, and the positions of those that were quoted
Row = tuple[Sequence[str], frozenset[int]]
NONE_QUOTED: frozenset[int] = frozenset()


def _words(text: str, number: int, where: str) -> Row:
    """Split a line into words without its comment."""
    if text.isascii() and not QUOTES_AND_COMMENTS.search(text):
        return text.split(), NONE_QUOTED
    words, quoted = list[str](), list[int]()
    for match in TOKEN.finditer(text):
        if match[3] is None:
            quoted.append(len(words))
        elif match[3][0] == "#":
            break
        elif match[3][0] in "'\"":
            raise FormatError(f"{where}, line {number}: a quote must be closed: {text[:60]!r}")
        words.append(match[match.lastindex or 3])
    return words, frozenset(quoted)


def _require_width(rows: Sequence[Row], count: int, body: Lines, where: str) -> None:
    """Raise FormatError if a row does not have ``count`` words."""
    for (words, _), (number, text) in zip(rows, body, strict=True):
        if len(words) != count:
            raise FormatError(
                f"{where}, line {number}: {count} values are expected here, found {len(words)}: "
                f"{text[:60]!r}"
            )


def _require_values(rows: Sequence[Row], body: Lines, where: str) -> None:
    """Raise FormatError if a row begins with a word that is reserved in STAR."""
    for (words, quoted), (number, text) in zip(rows, body, strict=True):
        first = words[0]
        reserved = first[:1] == "_" or (first[:1] in "lL" and first.lower() == "loop_")
        if reserved and 0 not in quoted:
            raise FormatError(
                f"{where}, line {number}: a value that begins with '_' or is 'loop_' must be "
                f"quoted, and a block has one loop, found {text[:60]!r}"
            )


def _columns(
    names: Sequence[str], table: Sequence[tuple[Sequence[str], bool]], where: str
) -> dict[str, Array]:
    """Return words as typed columns; the flag of a column is True if it has quoted words."""
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise FormatError(f"{where}: names of a block must differ, found {sorted(twice)[:3]} twice")
    return {
        n: parse_column(words, where, text=quoted or bool(NAMES.fullmatch(n)))
        for n, (words, quoted) in zip(names, table, strict=True)
    }


def text(blocks: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Return loops as the text of a STAR file.

    Examples
    --------
    >>> print(text([("particles", {"x": [0.5, 2.0], "who": ["a b", "c"]})]))
    data_particles
    <BLANKLINE>
    loop_
    _x #1
    _who #2
    0.5 "a b"
    2.0 c
    <BLANKLINE>
    """
    parts = []
    for name, columns in blocks:
        header = [f"_{label} #{n}" for n, label in enumerate(columns, 1)]
        words = [_column_words(label, values) for label, values in columns.items()]
        rows = [" ".join(row) for row in zip(*words, strict=True)]
        parts.append("\n".join([f"data_{name}", "", "loop_", *header, *rows, ""]))
    return "\n".join(parts)


def _column_words(label: str, values: Any) -> list[str]:
    """Return the values of a column as words; booleans under RELION labels as 0 and 1."""
    words, are_text = format_column(values, label)
    if are_text:
        return [_quoted(word, label, row) for row, word in enumerate(words, 1)]
    flags = label.startswith("rln") and words and words[0] in ("True", "False")
    return [str(int(word == "True")) for word in words] if flags else words


def _quoted(word: str, label: str, row: int) -> str:
    """Return a text in quotes, or without them if it is one word without another meaning."""
    plain = word.isprintable() and " " not in word and not RESERVED.match(word)
    if word and plain and is_text(word):
        return word
    for quote in "\"'":
        ends = re.search(rf"{quote}[{WHITE}]", word)
        if not ends and not any(sign in word for sign in "\n\r\0"):
            return f"{quote}{word}{quote}"
    raise LabelError(
        f"{label}, row {row}: text in a .star file must be one line and must not have both "
        f"kinds of quotes before white space, got {word[:60]!r}; change it, or save a .csv or .zarr"
    )

"""STAR files: blocks of named values and of loops, as RELION, STOPGAP and Warp write them.

The package ``starfile`` reads them too, but needs pyarrow (55 MB). Names come without their
underscore. What kind a column is of stands in `lazyvol.io.words`; columns that RELION gives names
to (``rlnMicrographName``) are text always.

A row is one line. Quoted words are values whatever they begin with, and a quote ends where white
space follows. Of bare words, STAR takes one that begins with ``data_`` for a block and one that
begins with ``#`` for a comment, at any place; RELION writes micrographs ``data_1.mrc`` bare. So a
bare ``data_`` word begins a block where it stands alone on its line, and is the first value where
the line has as many words as the loop has columns, two or more. A row that begins with a bare
``_`` or ``loop_`` is refused, as is, in a loop of one column, a bare ``data_`` word without a block
behind it.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazyvol.errors import FormatError, LabelError, LimitExceeded
from lazyvol.io.flat_file import stored_file, unreadable
from lazyvol.io.words import column, is_text, words_of
from lazyvol.plan.recipes.base import Array

#: about a million particles; text takes some ten times its bytes while it is read
MAX_STAR = 256 << 20
#: white space of STAR; Python's has more, e.g. that which does not break
WHITE = " \t\r\f\v"
#: a quote ends where a space or the line's end follows
TOKEN = re.compile(rf"'(.*?)'(?=[{WHITE}]|$)|\"(.*?)\"(?=[{WHITE}]|$)|([^{WHITE}]+)")
#: what makes words more than what stands between white space
MARKS = re.compile("['\"#]")
#: columns that hold names in every file of RELION
NAMES = re.compile(r"rln\w*(Name|Image|File|Label)")
#: words that mean something else where they are bare
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
    """All blocks of a STAR file.

    Raises
    ------
    FormatError
        It is no text, or its lines are no blocks.
    LimitExceeded
        It is larger than 256 MiB.

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
    """Text of a file of bounded size."""
    file = stored_file(where)
    if file.size > MAX_STAR:
        raise LimitExceeded(f"{where}: text may have {MAX_STAR} bytes, found {file.size}; split it")
    try:
        return file.head(file.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: it must be text in UTF-8, but: {error}") from error
    except OSError as error:
        raise unreadable(where, error) from error


Lines = list[tuple[int, str]]


def _blocks(lines: Sequence[str], where: str) -> Iterator[tuple[str, Lines]]:
    """Name and numbered lines of every block, without comments."""
    name, body, width = None, list[tuple[int, str]](), 0
    content = [(n, line.strip(WHITE)) for n, line in enumerate(lines, 1)]
    content = [(n, plain) for n, plain in content if plain and plain[0] != "#"]
    for at, (number, plain) in enumerate(content):
        if plain[:5].lower() == "data_" and _begins_block(content, at, width, where):
            if name is not None:
                yield name, body
            name, body, width = _words(plain, number, where)[0][0][5:], [], 0
        elif name is None or lines[number - 1].startswith(";"):
            raise FormatError(
                f"{where}, line {number}: a STAR file consists of blocks data_NAME without texts "
                f"of several lines, found {plain[:60]!r}"
            )
        else:
            body.append((number, plain))
            in_header = plain[0] == "_" and width == len(body) - 2
            width += bool(in_header and body[0][1].lower() == "loop_")
    if name is None:
        raise FormatError(f"{where}: a STAR file has a block data_NAME, found none")
    yield name, body


def _begins_block(content: Lines, at: int, width: int, where: str) -> bool:
    """Whether a line whose first word begins with ``data_`` is no row of a loop's ``width``."""
    number, plain = content[at]
    count = len(_words(plain, number, where)[0])
    if count > 1:
        if count != width:
            raise FormatError(
                f"{where}, line {number}: a block data_NAME must stand alone, and a row of this "
                f"loop has {width} values, found {plain[:60]!r}"
            )
        return False
    after = content[at + 1][1] if at + 1 < len(content) else ""
    if width == 1 and after[:1] != "_" and after.lower() != "loop_":
        raise FormatError(
            f"{where}, line {number}: {plain[:60]!r} may be a value or a block without content; "
            "quote it if it is a value"
        )
    return True


def _block(name: str, body: Lines, where: str) -> Block:
    loop = bool(body) and body[0][1].lower() == "loop_"
    if not loop:
        rows = [_words(t, number, where) for number, t in body]
        _require_width(rows, 2, body, where)
        names = [_name(t, number, where, 1) for number, t in body]
        values = [([v], 1 in quoted) for (_, v), quoted in rows]
        return Block(name, _columns(names, values, where), False)
    count = next((n for n, (_, t) in enumerate(body[1:]) if t[0] != "_"), len(body) - 1)
    names = [_name(t, number, where) for number, t in body[1 : count + 1]]
    body = body[count + 1 :]
    rows = [_words(t, number, where) for number, t in body]
    _require_width(rows, count, body, where)
    _require_values(rows, body, where)
    table = zip(*(words for words, _ in rows), strict=True) if rows else [()] * count
    quoted = frozenset[int]().union(*(q for _, q in rows))
    loops = [(values, n in quoted) for n, values in enumerate(table)]
    return Block(name, _columns(names, loops, where), True)


def _name(text: str, number: int, where: str, values: int = 0) -> str:
    """Name that a line begins with; behind that of a column only its number may stand."""
    first, *rest = text.split()
    if first[0] != "_" or (not values and rest and not rest[0].lstrip("#").isdigit()):
        raise FormatError(
            f"{where}, line {number}: a name _NAME is expected here, found {text[:60]!r}"
        )
    return first[1:]


Row = tuple[Sequence[str], frozenset[int]]
BARE: frozenset[int] = frozenset()


def _words(text: str, number: int, where: str) -> Row:
    """Words of a line without its comment, and which of them were quoted."""
    if text.isascii() and not MARKS.search(text):
        return text.split(), BARE
    found, quoted = list[str](), list[int]()
    for match in TOKEN.finditer(text):
        if match[3] is None:
            quoted.append(len(found))
        elif match[3][0] == "#":
            break
        elif match[3][0] in "'\"":
            raise FormatError(f"{where}, line {number}: a quote must be closed: {text[:60]!r}")
        found.append(match[match.lastindex or 3])
    return found, frozenset(quoted)


def _require_width(rows: Sequence[Row], count: int, body: Lines, where: str) -> None:
    for (words, _), (number, text) in zip(rows, body, strict=True):
        if len(words) != count:
            raise FormatError(
                f"{where}, line {number}: {count} values are expected here, found {len(words)}: "
                f"{text[:60]!r}"
            )


def _require_values(rows: Sequence[Row], body: Lines, where: str) -> None:
    """Refuse rows that STAR takes for something else."""
    for (words, quoted), (number, text) in zip(rows, body, strict=True):
        first = words[0]
        begins = first[:1] == "_" or (first[:1] in "lL" and first.lower() == "loop_")
        if begins and 0 not in quoted:
            raise FormatError(
                f"{where}, line {number}: a value that begins with '_' or is 'loop_' must be "
                f"quoted, and a block has one loop, found {text[:60]!r}"
            )


def _columns(
    names: Sequence[str], table: Sequence[tuple[Sequence[str], bool]], where: str
) -> dict[str, Array]:
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise FormatError(f"{where}: names of a block must differ, found {sorted(twice)[:3]} twice")
    return {
        n: column(words, where, text=quoted or bool(NAMES.fullmatch(n)))
        for n, (words, quoted) in zip(names, table, strict=True)
    }


def text(blocks: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Loops as the text of a STAR file; numbers as short as they can be read back exactly.

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
    words, texts = words_of(values, label)
    if texts:
        return [_quoted(word, label, row) for row, word in enumerate(words, 1)]
    flags = label.startswith("rln") and words and words[0] in ("True", "False")
    return [str(int(word == "True")) for word in words] if flags else words


def _quoted(word: str, label: str, row: int) -> str:
    """A text as STAR has it: bare where it is one word that means nothing else."""
    plain = word.isprintable() and " " not in word and not RESERVED.match(word)
    if word and plain and is_text(word):
        return word
    for quote in "\"'":
        ends = re.search(rf"{quote}[{WHITE}]", word)
        if not ends and not any(sign in word for sign in "\n\r\0"):
            return f"{quote}{word}{quote}"
    raise LabelError(
        f"{label}, row {row}: text in a .star file must be of one line and must not have both "
        f"kinds of quotes before white space, got {word[:60]!r}; change it, or save a .csv or .zarr"
    )

"""STAR files: blocks of named values and of loops, as RELION, STOPGAP and Warp write them.

The package ``starfile`` reads them too, but needs pyarrow (55 MB). Names come without their
underscore. A column of whole numbers is int64 (unless one has leading zeros: then it is text), of
numbers float64, else text.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded
from lazyvol.io.raw import stored_file, unreadable
from lazyvol.plan.recipe import Array

#: about a million particles; text takes some ten times its bytes while it is read
MAX_STAR = 256 << 20
#: a column of text takes its longest for each
MAX_TEXT = 1 << 30
#: a quote ends where a space or the line's end follows
TOKEN = re.compile(r"'(.*?)'(?=\s|$)|\"(.*?)\"(?=\s|$)|(\S+)")


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
    lines = text_of(where).split("\n")
    return [_block(name, body, where) for name, body in _blocks(lines, where)]


def text_of(where: str) -> str:
    """Text of a file of bounded size."""
    file = stored_file(where)
    if file.size > MAX_STAR:
        raise LimitExceeded(f"{where}: text may have {MAX_STAR} bytes, found {file.size}; split it")
    try:
        return file.head(file.size).decode("utf-8").replace("\r", "")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: it must be text in UTF-8, but: {error}") from error
    except OSError as error:
        raise unreadable(where, error) from error


Lines = list[tuple[int, str]]


def _blocks(lines: Sequence[str], where: str) -> Iterator[tuple[str, Lines]]:
    """Name and numbered lines of every block, without comments."""
    name, body = None, list[tuple[int, str]]()
    for number, line in enumerate(lines, 1):
        plain = line.strip()
        if not plain or plain.startswith("#"):
            continue
        if plain.startswith("data_"):
            if name is not None:
                yield name, body
            name, body = plain[5:], []
        elif name is None or line.startswith(";"):
            raise FormatError(
                f"{where}, line {number}: a STAR file consists of blocks data_NAME without texts "
                f"of several lines, found {plain[:60]!r}"
            )
        else:
            body.append((number, plain))
    if name is None:
        raise FormatError(f"{where}: a STAR file has a block data_NAME, found none")
    yield name, body


def _block(name: str, body: Lines, where: str) -> Block:
    if body and body[0][1].lower() == "loop_":
        count = next((n for n, (_, t) in enumerate(body[1:]) if t[0] != "_"), len(body) - 1)
        names = [_name(t) for _, t in body[1 : count + 1]]
        rows = [_row(t, len(names), number, where) for number, t in body[count + 1 :]]
        table = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        return Block(name, _columns(names, table, where), True)
    pairs = [_row(t, 2, number, where) for number, t in body]
    return Block(
        name, _columns([_name(k) for k, _ in pairs], [(v,) for _, v in pairs], where), False
    )


def _name(text: str) -> str:
    return text.split()[0].removeprefix("_")


def _row(text: str, count: int, number: int, where: str) -> Sequence[str]:
    quoted = "'" in text or '"' in text
    found = [a or b or c for a, b, c in TOKEN.findall(text)] if quoted else text.split()
    if len(found) != count:
        raise FormatError(
            f"{where}, line {number}: {count} values are expected here, found {len(found)}: "
            f"{text[:60]!r}"
        )
    return found


def _columns(names: Sequence[str], table: Sequence[Sequence[str]], where: str) -> dict[str, Array]:
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise FormatError(f"{where}: names of a block must differ, found {sorted(twice)[:3]} twice")
    return {n: column(values, where) for n, values in zip(names, table, strict=True)}


def column(values: Sequence[str], where: str) -> Array:
    """Values of one column as integers, floats or text."""
    padded = any(len(v) > 1 and v.lstrip("+-")[:1] == "0" and v.isdigit() for v in values)
    for dtype in (np.int64, np.float64):
        if padded or any(v == "" or "_" in v for v in values):
            break
        try:
            return np.array([dtype(v) for v in values], dtype)
        except (ValueError, OverflowError):
            continue
    longest = max(map(len, values), default=1)
    if 4 * longest * len(values) > MAX_TEXT:
        raise LimitExceeded(f"{where}: {len(values)} texts of up to {longest} characters; split it")
    return np.array(values, dtype=str)


def text(blocks: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Loops as the text of a STAR file; numbers as short as they can be read back exactly.

    Examples
    --------
    >>> print(text([("particles", {"x": np.array([0.5, 2.0]), "who": np.array(["a b", "c"])})]))
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
        words = [[_word(v) for v in np.asarray(values).tolist()] for values in columns.values()]
        rows = [" ".join(row) for row in zip(*words, strict=True)]
        parts.append("\n".join([f"data_{name}", "", "loop_", *header, *rows, ""]))
    return "\n".join(parts)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str):
        return repr(value)
    plain = " ".join(value.split("\n"))
    bare = plain and not re.search(r"\s", plain) and plain[0] not in "_#;'\"$["
    bare = bare and not plain.lower().startswith(("data_", "loop_"))
    return plain if bare else f"'{plain}'" if '"' in plain else f'"{plain}"'

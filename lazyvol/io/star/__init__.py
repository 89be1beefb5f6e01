"""Read and write STAR files of RELION, STOPGAP and Warp: blocks of single values or loops.

The parser is that of ``gemmi``, a reader of CIF, the dialect of STAR in crystallography; the
package ``starfile`` needs pyarrow (55 MB). Names lose their underscore. `lazyvol.io.words` defines
the type of a column; columns of names and paths in RELION, such as ``rlnMicrographName``, are
always text.

RELION writes micrographs such as ``data_1.mrc`` without quotes, which begin a block in CIF. So a
line that begins with ``data_`` and has more words begins with a value, and a word ``data_NAME``
after other words without quotes is a value. Refused are blocks with
more than one loop or with a loop and single values, texts of several lines, save frames, and a
block without content after a loop of one column, as its name may be a value of that loop.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from gemmi import cif

from lazyvol.errors import FormatError, LabelError, LimitExceeded
from lazyvol.io.faults import library_errors
from lazyvol.io.flat_file import stored_file
from lazyvol.io.words import format_column, is_text, parse_column, text_array
from lazyvol.plan.recipes.base import Array

#: about a million particles; parsing takes about ten times the bytes of the text
MAX_STAR = 256 << 20
#: characters that no name may hold
WHITE = " \t\r\n\f\v"
#: first word of a line that is no block, because another word follows
BARE_DATA_VALUE = re.compile(r"^[ \t]*(data_\S*)(?=[ \t]+[^\s#])", re.MULTILINE | re.IGNORECASE)
#: last word of that kind after other words without quotes
LATER_DATA_VALUE = re.compile(
    r"^([^\n'\"#;]*[^\s'\"#;][ \t]+)(data_\S*)", re.MULTILINE | re.IGNORECASE
)
MULTILINE_TEXT = re.compile("^;", re.MULTILINE)
#: labels of RELION columns that always hold text
NAMES = re.compile(r"rln\w*(Name|Image|File|Label)")
#: words that have another meaning without quotes
RESERVED = re.compile(r"(data_|save_|loop_$|stop_$|global_|[_#;'\"$\[\]]|[?.]$)", re.I)


@dataclass(frozen=True)
class Block:
    """A block ``data_name`` of the file ``where``: a loop, or single values.

    ``words`` holds the words of every column as they are written, single values as one word.
    """

    name: str
    words: Mapping[str, Sequence[str]]
    loop: bool
    where: str = ""

    def __len__(self) -> int:
        return max(map(len, self.words.values()), default=0)

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Return the columns as arrays; those of single values have length 1."""
        return {label: _column(words, label, self.where) for label, words in self.words.items()}

    @property
    def plain(self) -> dict[str, Any]:
        """Return the columns of a loop as lists, and single values as such."""
        values = {label: column.tolist() for label, column in self.columns.items()}
        return values if self.loop else {label: value[0] for label, value in values.items()}


def read(path: str | os.PathLike[str]) -> list[Block]:
    """Return all blocks of a STAR file.

    Raises
    ------
    FormatError
        The file is not text, or its content breaks the rules of STAR.
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
    content = _quoted_data_values(text_of(where))
    if MULTILINE_TEXT.search(content):
        raise FormatError(f"{where}: text must be one line, found a line that begins with ';'")
    escaped = not content.isascii()
    if escaped:  # gemmi takes no other characters outside quotes
        content = content.replace("\\", "\\\\").encode("ascii", "backslashreplace").decode()
    with library_errors(where, "the content must be STAR, but"):
        document = cif.read_string(content)
    blocks = [_block(block, where, escaped) for block in document]
    if not blocks:
        raise FormatError(f"{where}: a STAR file must have a block data_NAME, found none")
    for before, block in pairwise(blocks):
        if before.loop and len(before.words) == 1 and not block.words:
            raise FormatError(
                f"{where}: 'data_{block.name}' may be a value or a block without content; quote it "
                "if it is a value"
            )
    return blocks


def text_of(where: str) -> str:
    """Return the text of a file; raise LimitExceeded if it is too large."""
    file = stored_file(where)
    if file.size > MAX_STAR:
        raise LimitExceeded(f"{where}: text may have {MAX_STAR} bytes, found {file.size}; split it")
    try:
        return file.head(file.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: it must be text in UTF-8, but: {error}") from error


def _block(block: Any, where: str, escaped: bool) -> Block:
    """Return a block of gemmi; ``escaped`` words hold other characters as escapes of Python."""
    items = list(block)
    loops = [item.loop for item in items if item.loop is not None]
    pairs = [item.pair for item in items if item.pair is not None]
    if len(loops) + bool(pairs) > 1 or len(loops) + len(pairs) < len(items):
        raise FormatError(
            f"{where}: a block must have one loop or single values, 'data_{block.name.strip()}' "
            f"has {len(loops)} loops, {len(pairs)} single values and "
            f"{len(items) - len(loops) - len(pairs)} frames"
        )
    if loops:
        values, width = list(loops[0].values), loops[0].width()
        words = {tag[1:]: values[n::width] for n, tag in enumerate(loops[0].tags)}
    else:
        words = {tag[1:]: [word] for tag, word in pairs}
    name = block.name.strip()
    if escaped:
        name = _unescaped(name)
        words = {_unescaped(label): [*map(_unescaped, column)] for label, column in words.items()}
    return Block(name, words, bool(loops), where)


def _unescaped(word: str) -> str:
    return word.encode().decode("unicode_escape") if "\\" in word else word


def _column(words: Sequence[str], label: str, where: str) -> Array:
    """Return words as a typed column; it is text if one of them is quoted."""
    if not NAMES.fullmatch(label):
        column = parse_column(words, where)
        if column.dtype.kind != "U":
            return column
    return text_array([word[1:-1] if word[:1] in ("'", '"') else word for word in words], where)


def text(blocks: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Return blocks as the text of a STAR file: columns as loops, single values as pairs.

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
    texts = []
    for name, columns in blocks:
        is_list = [isinstance(c, list | tuple | np.ndarray) for c in columns.values()]
        loop = any(is_list) or not columns
        words = {n: column_words(n, c if loop else [c]) for n, c in columns.items()}
        texts.append(words_text(name, words, loop))
    return "\n".join(texts)


def words_text(name: str, words: Mapping[str, Sequence[str]], loop: bool) -> str:
    """Return the text of a block; RELION needs one row per line and an empty line at the end."""
    if not loop:
        pairs = [f"_{label} {column[0]}" for label, column in words.items()]
        return "\n".join([f"data_{name}", "", *pairs, ""])
    header = [f"_{label} #{n}" for n, label in enumerate(words, 1)]
    rows = map(" ".join, zip(*words.values(), strict=True))
    return "\n".join([f"data_{name}", "", "loop_", *header, *rows, ""])


def column_words(label: str, values: Any) -> list[str]:
    """Return the values of a column as words; booleans under RELION labels as 0 and 1."""
    words, are_text = format_column(values, label)
    if are_text:
        return [_quoted(word, label, row) for row, word in enumerate(words, 1)]
    flags = label.startswith("rln") and words and words[0] in ("True", "False")
    return [str(int(word == "True")) for word in words] if flags else words


def _quoted_data_values(content: str) -> str:
    """Return the text of a file with quotes around values that would begin a block."""
    more = bool(re.search("[ \t]data_", content, re.IGNORECASE))
    while more:  # the last of each line in each turn
        content, found = LATER_DATA_VALUE.subn(r"\1'\2'", content)
        more = found > 0
    return BARE_DATA_VALUE.sub(r"'\1'", content)


def _quoted(word: str, label: str, row: int) -> str:
    """Return a text in quotes, or without them if it is one word without another meaning."""
    plain = word.isprintable() and " " not in word and not RESERVED.match(word)
    if word and plain and is_text(word):
        return word
    for quote in "\"'":
        ends = re.search(rf"{quote}[{WHITE}#]", word)
        if not ends and not any(sign in word for sign in "\n\r\0"):
            return f"{quote}{word}{quote}"
    raise LabelError(
        f"{label}, row {row}: text in a .star file must be one line and must not have both "
        f"kinds of quotes before white space or '#', got {word[:60]!r}; change it, or save a .csv "
        "or .zarr"
    )

"""Chunks of a zarr array that are not stored: how many, by the names of its files alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lazyvol.io.safe_folder import Place
from lazyvol.io.zarr.metadata import ArrayMeta


@dataclass(frozen=True)
class Absent:
    """``number`` of the ``total`` files of an array that are not there.

    There may be more where not all folders were looked at, so that ``whole`` is false.
    """

    number: int
    total: int
    whole: bool = True
    word: str = "chunks"

    def __str__(self) -> str:
        least = "" if self.whole else "at least "
        return f"{least}{self.number:,} of {self.total:,} {self.word}"

    def __bool__(self) -> bool:
        return self.number > 0 or not self.whole


def absent_files(folder: Place, key: str, meta: ArrayMeta) -> Absent:
    """How many files of the array in folder ``key`` are not there; none is opened."""
    grid = [-(-n // c) for n, c in zip(meta.shape, meta.files, strict=True)]
    total, word = prod(grid), "shards" if meta.index else "chunks"
    if not total:
        return Absent(0, 0, word=word)
    if not grid or meta.separator == ".":
        present = sum(1 for _ in _flat(folder, key, meta, grid))
        return Absent(total - present, total, word=word)
    walk = _Walk(folder, grid)
    number = walk.absent(f"{key}{meta.prefix}/" if meta.prefix else key, 0)
    return Absent(number, total, walk.left >= 0, word)


def _flat(folder: Place, key: str, meta: ArrayMeta, grid: list[int]) -> Iterator[str]:
    """Names of chunks that lie in one folder."""
    alone = meta.key(())
    start = f"{meta.prefix}{meta.separator}" if meta.prefix else ""
    for name in folder.names(key):
        if not grid:
            if name == alone:
                yield name
        elif name.startswith(start):
            words = name[len(start) :].split(meta.separator)
            if len(words) == len(grid) and all(map(_inside, words, grid)):
                yield name


def _inside(word: str, count: int) -> bool:
    """Whether a word is an index of an axis, written as zarr writes it."""
    return word.isdecimal() and int(word) < count and word == str(int(word))


@dataclass
class _Walk:
    """Nested folders, an axis each, looked at until `max_names` of the place were seen."""

    folder: Place
    grid: list[int]

    def __post_init__(self) -> None:
        self.left = self.folder.max_names

    def absent(self, key: str, axis: int) -> int:
        """Files that are not there below ``key``, a folder of the indices along ``axis``."""
        if self.left < 0:
            return 0
        names = [name for name in self.folder.names(key) if _inside(name, self.grid[axis])]
        self.left -= len(names)
        missing = (self.grid[axis] - len(names)) * prod(self.grid[axis + 1 :])
        if axis + 1 == len(self.grid):
            return missing
        return missing + sum(self.absent(f"{key}{name}/", axis + 1) for name in names)

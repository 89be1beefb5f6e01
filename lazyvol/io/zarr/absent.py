"""Count the chunks of a zarr array that are not stored, from the names of its files."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lazyvol.io.places import Place
from lazyvol.io.zarr.metadata import ArrayMeta


@dataclass(frozen=True)
class AbsentFiles:
    """The number of absent files of an array; a lower bound if ``complete`` is false."""

    count: int
    total: int
    complete: bool = True
    noun: str = "chunks"

    def __str__(self) -> str:
        bound = "" if self.complete else "at least "
        return f"{bound}{self.count:,} of {self.total:,} {self.noun}"

    def __bool__(self) -> bool:
        return self.count > 0 or not self.complete


def absent_files(folder: Place, key: str, meta: ArrayMeta) -> AbsentFiles:
    """Count the absent files of the array in folder ``key``; no file is opened."""
    grid = [-(-n // c) for n, c in zip(meta.shape, meta.files, strict=True)]
    total, noun = prod(grid), "shards" if meta.index else "chunks"
    if not total:
        return AbsentFiles(0, 0, noun=noun)
    if not grid or meta.separator == ".":
        present = sum(1 for _ in _files_in_one_folder(folder, key, meta, grid))
        return AbsentFiles(total - present, total, noun=noun)
    walk = _FolderWalk(folder, grid)
    count = walk.count_absent(f"{key}{meta.prefix}/" if meta.prefix else key, 0)
    return AbsentFiles(count, total, walk.remaining >= 0, noun)


def _files_in_one_folder(
    folder: Place, key: str, meta: ArrayMeta, grid: list[int]
) -> Iterator[str]:
    """Yield the names of the chunk files of an array whose chunks are in one folder."""
    only = meta.key(())
    start = f"{meta.prefix}{meta.separator}" if meta.prefix else ""
    for name in folder.names(key):
        if not grid:
            if name == only:
                yield name
        elif name.startswith(start):
            words = name[len(start) :].split(meta.separator)
            if len(words) == len(grid) and all(map(_is_index, words, grid)):
                yield name


def _is_index(word: str, count: int) -> bool:
    """Return True if a word is an index below ``count`` without leading zeros."""
    return word.isdecimal() and int(word) < count and word == str(int(word))


@dataclass
class _FolderWalk:
    """Walk through nested folders, one level per axis, for at most `Place.max_names` names."""

    folder: Place
    grid: list[int]

    def __post_init__(self) -> None:
        self.remaining = self.folder.max_names

    def count_absent(self, key: str, axis: int) -> int:
        """Count the absent files below ``key``, whose names are indices along ``axis``."""
        if self.remaining < 0:
            return 0
        names = [name for name in self.folder.names(key) if _is_index(name, self.grid[axis])]
        self.remaining -= len(names)
        missing = (self.grid[axis] - len(names)) * prod(self.grid[axis + 1 :])
        if axis + 1 == len(self.grid):
            return missing
        return missing + sum(self.count_absent(f"{key}{name}/", axis + 1) for name in names)

"""Read files inside one folder; refuse links and paths that lead outside."""

import errno
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from stat import S_ISREG
from typing import Any, ClassVar, TypeVar

import numpy as np

from lazyvol.errors import (
    FormatError,
    LimitExceeded,
    UnsafeSourceError,
)
from lazyvol.io.faults import read_error, read_errors
from lazyvol.io.flat_file import file_stamp, read_available
from lazyvol.io.zarr.codecs import Bytes, scratch

#: larger metadata files are refused: parsing JSON takes about ten times their bytes
MAX_JSON = 64 << 20
#: do not follow a link at the end of the path, and do not block on a pipe
FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
LINK = (errno.ELOOP, errno.EMLINK)
ABSENT = (FileNotFoundError, NotADirectoryError)
#: version of a file that does not exist
ABSENT_FILE = "absent"


@dataclass(frozen=True)
class JsonFile:
    """Content and bytes of a metadata file, and a stamp that changes when it is rewritten."""

    content: dict[str, Any]
    raw: bytes
    stamp: str


def parse_json(raw: bytes, stamp: str, path: str) -> JsonFile:
    """Return the JSON object in the bytes of a file.

    Raises
    ------
    FormatError
        The bytes are no JSON object.
    LimitExceeded
        There are more than `MAX_JSON`.
    """
    if len(raw) > MAX_JSON:
        raise LimitExceeded(
            f"{path}: metadata must have at most {MAX_JSON} bytes, found more; move large "
            "attributes into arrays"
        )
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: it must be JSON, but: {str(error)[:120]}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: it must hold a JSON object, found {type(content).__name__}")
    return JsonFile(content, raw, stamp)


@dataclass(frozen=True)
class Stored:
    """A part of a file."""

    offset: int
    length: int


T = TypeVar("T", bound=Stored)


@dataclass
class LocalFile:
    """An open local file."""

    handle: FileIO
    size: int | None

    def version(self) -> str:
        """Return the stamp of the file as it is now."""
        return file_stamp(os.fstat(self.handle.fileno()))

    def __enter__(self) -> "LocalFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.close()

    def edge(self, length: int, at_start: bool) -> Bytes:
        """Return the first or the last bytes, fewer if the file is shorter."""
        target = np.empty(length, np.uint8)
        return target[: self.fill(0 if at_start else max(0, (self.size or 0) - length), target)]

    def fetched(self, parts: Iterable[T]) -> Iterable[T]:
        """Return the parts: they are read by `take` and `fill`."""
        return parts

    def take(self, offset: int, length: int, max_length: int) -> Bytes:
        """Return bytes in a buffer of this thread that holds ``max_length``, fewer at the end."""
        target = scratch("stored", max(max_length, length))[:length]
        return target[: self.fill(offset, target)]

    def fill(self, offset: int, target: Bytes) -> int:
        """Read bytes into ``target``; return their number."""
        return read_available(self.handle, offset, target.data)


@dataclass
class SafeFolder:
    """A folder by its real path; nothing outside it is read.

    Keys are relative paths with ``/``, those of folders with one at the end or "". Each folder
    below it is checked once, by one system call of 1 us.
    """

    #: names that are listed to count absent chunks: 100,000 in 11,000 folders take 0.4 s
    max_names: ClassVar[int] = 1_000_000
    #: files are read when they are requested, and none is held in memory
    reads_in_place: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    #: files of an array whose stamps are taken when it is opened: 3 us each on a local disk
    max_stamped: ClassVar[int] = 1024

    root: str
    _checked: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return os.path.basename(self.root)

    def fresh(self) -> "SafeFolder":
        """Return this folder without its record of checks."""
        return SafeFolder(self.root)

    def above(self) -> "SafeFolder | None":
        """Return the parent folder; None at the root of the file system."""
        parent = os.path.dirname(self.root)
        return None if parent == self.root else SafeFolder(parent)

    def path(self, key: str) -> str:
        """Return the path of ``key``."""
        return f"{self.root}/{key}" if key else self.root

    def open(self, key: str, first: tuple[str, int]) -> LocalFile | None:
        """Open a file; return None if it does not exist."""
        found = self._open(key)
        return None if found is None else LocalFile(found[0], found[1].st_size)

    def fetch(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Bytes | None]:
        """Return ranges (start, stop) of a file, shorter at its end; None if it is absent."""
        file = self.open(key, ("head", 0))
        if file is None:
            return [None] * len(ranges)
        parts = [(start, np.empty(stop - start, np.uint8)) for start, stop in ranges]
        with read_errors(self.path(key)), file:
            return [target[: file.fill(start, target)] for start, target in parts]

    def _open(self, key: str) -> tuple[FileIO, os.stat_result] | None:
        """Open a regular file unbuffered, with its status; return None if it does not exist.

        Raises
        ------
        UnsafeSourceError
            The file is outside the folder after links are followed, or is not a regular file.
        StoreError
            The operating system refuses to open it.
        """
        path = self.path(key)
        try:
            self._check(key.rpartition("/")[0])
            try:
                return _open_regular(path)
            except OSError as error:
                if error.errno not in LINK:
                    raise
            return _open_regular(self._resolve(path))
        except ABSENT:
            return None
        except OSError as error:
            raise read_error(path, error) from error

    def names(self, key: str) -> list[str]:
        """Return the names in a folder; [] if it does not exist."""
        path = self.path(key.rstrip("/"))
        with read_errors(path), suppress(*ABSENT):
            self._check(key.rstrip("/"))
            return os.listdir(path)
        return []

    def json(self, key: str) -> JsonFile | None:
        """Return a file that holds a JSON object; None if it does not exist."""
        found = self._open(key)
        if found is None:
            return None
        handle, info = found
        with read_errors(self.path(key)), handle:
            raw = handle.read(min(info.st_size, MAX_JSON + 1))
        return parse_json(raw, file_stamp(info), self.path(key))

    def stamp(self, key: str) -> str:
        """Return a stamp that changes when the file is rewritten; "" if it is absent."""
        path = self.path(key)
        with read_errors(path), suppress(*ABSENT):
            return file_stamp(os.stat(path))
        return ""

    def versions(self, keys: Sequence[str]) -> list[str]:
        """Return the stamps of files, which begin with their size, or "absent"."""
        return [self.stamp(key) or ABSENT_FILE for key in keys]

    def _check(self, key: str) -> None:
        """Raise UnsafeSourceError if a folder is a link to a place outside the root."""
        if not key or key in self._checked:
            return
        self._check(key.rpartition("/")[0])
        if os.path.islink(self.path(key)):
            self._resolve(self.path(key))
        self._checked.add(key)

    def _resolve(self, path: str) -> str:
        """Return the real path; raise UnsafeSourceError if it is outside the root."""
        real = os.path.realpath(path)
        if os.path.commonpath([self.root, real]) != self.root:
            raise UnsafeSourceError(
                f"{path}: all files must be inside {self.root}, this link leads to "
                f"{real}; copy the data into the store instead of linking them"
            )
        return real


def _open_regular(path: str) -> tuple[FileIO, os.stat_result]:
    handle = FileIO(path, "rb", opener=lambda name, _: os.open(name, FLAGS))
    info = os.fstat(handle.fileno())
    if not S_ISREG(info.st_mode):
        handle.close()
        raise UnsafeSourceError(f"{path}: only regular files are read, this is a pipe or device")
    return handle, info

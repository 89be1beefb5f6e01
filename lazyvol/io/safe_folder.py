"""Reading inside one folder: no link, pipe or path leads out of it."""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from stat import S_ISREG
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lazyvol.errors import (
    FormatError,
    LazyvolError,
    LimitExceeded,
    StoreError,
    UnsafeSourceError,
)
from lazyvol.io.buffers import Bytes, scratch

#: metadata beyond this are refused: parsing JSON takes some ten times its bytes
MAX_JSON = 64 << 20
#: names of chunks that are counted: 100,000 in 11,000 folders take 0.4 s
MAX_NAMES = 1_000_000
#: a link in the last place is refused by the system, and a pipe does not block
FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
ABSENT = (errno.ENOENT, errno.ENOTDIR)
LINKED = (errno.ELOOP, errno.EMLINK)


@dataclass(frozen=True)
class Json:
    """A metadata file: what it says, its bytes, and a mark that changes when it is rewritten."""

    content: dict[str, Any]
    raw: bytes
    mark: str


def identity(info: os.stat_result) -> str:
    """Mark of a file that a rewritten or replaced one does not have."""
    return f"{info.st_ino} {info.st_mtime_ns} {info.st_size}"


class Stored(Protocol):
    """One stored object that is open for reading. ``size`` is None where asking costs a request."""

    size: int | None

    def __enter__(self) -> "Stored": ...
    def __exit__(self, *error: object) -> None: ...
    def edge(self, length: int, at_start: bool) -> Bytes:
        """Return the first or the last bytes, fewer where the object is shorter."""

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Read ranges (offset, length) that `take` and `fill` are asked for next."""

    def take(self, offset: int, length: int, most: int) -> Bytes:
        """Return bytes, fewer where the object ends; they are valid until the next call."""

    def fill(self, offset: int, target: Bytes) -> int:
        """Read bytes into ``target``; return how many there were."""


class Place(Protocol):
    """What holds the files of a zarr store; keys are relative to it, with ``/``."""

    root: str

    @property
    def max_names(self) -> int:
        """Largest number of names of chunks that are counted when a store is opened."""

    @property
    def reads_in_place(self) -> bool:
        """Return True if files are read where they are asked for, and none is held in memory."""

    @property
    def lists(self) -> bool:
        """Return True if the place can tell the names that it holds."""

    @property
    def name(self) -> str:
        """Last part of its path."""

    def fresh(self) -> "Place":
        """Return the place for one read, which remembers nothing of others."""

    def path(self, key: str) -> str:
        """Return the name of ``key`` in messages."""

    def above(self) -> "Place | None":
        """Return the folder that holds this one; None where there is none to read."""

    def open(self, key: str, first: tuple[str, int]) -> Stored | None:
        """Open an object of which the ``first`` bytes are read next: ("all", most), ("head", n) or
        ("tail", n); None where it is absent."""

    def names(self, key: str) -> list[str]:
        """Return the names in a folder ("" or with a trailing slash)."""

    def json(self, key: str) -> Json | None:
        """Return the content of a JSON file that holds an object; None where it is absent."""

    def identity(self, key: str) -> str:
        """Return a mark that a rewritten object does not have; "" where it is absent."""

    def ages(self, keys: Sequence[str]) -> list[str]:
        """Return marks of the versions of objects, "absent" where there are none."""


@dataclass
class OnDisk:
    """An open file."""

    handle: FileIO
    size: int | None

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.close()

    def edge(self, length: int, at_start: bool) -> Bytes:
        """Return the first or the last bytes, fewer where the file is shorter."""
        target = np.empty(length, np.uint8)
        offset = 0 if at_start else max(0, (self.size or 0) - length)
        return target[: fill(self.handle, offset, target)]

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Files are read when they are asked."""

    def take(self, offset: int, length: int, most: int) -> Bytes:
        """Return bytes in memory of this thread, which holds ``most``."""
        target = scratch("stored", max(most, length))[:length]
        return target[: fill(self.handle, offset, target)]

    def fill(self, offset: int, target: Bytes) -> int:
        """Read bytes into ``target``; return how many there were."""
        return fill(self.handle, offset, target)


@dataclass
class Confined:
    """A folder, given by its real path, for one read or one probe.

    Folders below it are looked at once each, one system call of 1 us.
    """

    root: str
    _inside: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return os.path.basename(self.root)

    @property
    def max_names(self) -> int:
        """Largest number of names of chunks that are counted when a store is opened."""
        return MAX_NAMES

    @property
    def reads_in_place(self) -> bool:
        """Files are read in the calling thread."""
        return True

    @property
    def lists(self) -> bool:
        """Folders can be listed."""
        return True

    def fresh(self) -> "Place":
        """Return the same folder, of which nothing was looked at."""
        return Confined(self.root)

    def above(self) -> "Place | None":
        """Return the folder that holds this one; None at the root of the file system."""
        parent = os.path.dirname(self.root)
        return None if parent == self.root else Confined(parent)

    def open(self, key: str, first: tuple[str, int]) -> Stored | None:
        """Open a file; None where there is none."""
        handle = self.handle(key)
        return None if handle is None else OnDisk(handle, os.fstat(handle.fileno()).st_size)

    def identity(self, key: str) -> str:
        """Return a mark that a rewritten file does not have; "" where it is absent."""
        path = self.path(key)
        try:
            return identity(os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise _refused(path, error) from error

    def ages(self, keys: Sequence[str]) -> list[str]:
        """Return sizes and times of files, "absent" where there are none."""
        return [_age(self.path(key)) for key in keys]

    def path(self, key: str) -> str:
        """Path of ``key``, a relative path with ``/``."""
        return f"{self.root}/{key}" if key else self.root

    def handle(self, key: str) -> FileIO | None:
        """Handle of a regular file, unbuffered; None where there is none.

        Raises
        ------
        UnsafeSourceError
            The file lies outside the folder once links are followed, or is no regular file.
        StoreError
            The operating system refuses to open it.
        """
        path = self.path(key)
        try:
            self._check(key.rpartition("/")[0])
            handle = _opened(path)
        except LazyvolError:
            raise
        except ValueError as error:
            raise FormatError(f"{path!r}: no file can have this name: {error}") from error
        except OSError as error:
            if error.errno in ABSENT:
                return None
            if error.errno in LINKED:
                return self._followed(path)
            raise _refused(path, error) from error
        return handle

    def names(self, key: str) -> list[str]:
        """Names in folder ``key`` ("" or with a trailing slash); none where there is no folder."""
        path = self.path(key.rstrip("/"))
        try:
            self._check(key.rstrip("/"))
            return os.listdir(path)
        except OSError as error:
            if isinstance(error, LazyvolError):
                raise
            if error.errno in ABSENT:
                return []
            raise _refused(path, error) from error

    def _followed(self, path: str) -> FileIO | None:
        try:
            return _opened(self._resolved(path))
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise _refused(path, error) from error

    def _check(self, key: str) -> None:
        """Refuse a folder that a link takes out of the root; links that stay inside are fine."""
        if not key or key in self._inside:
            return
        self._check(key.rpartition("/")[0])
        if os.path.islink(self.path(key)):
            self._resolved(self.path(key))
        self._inside.add(key)

    def _resolved(self, path: str) -> str:
        real = os.path.realpath(path)
        if os.path.commonpath([self.root, real]) != self.root:
            raise UnsafeSourceError(
                f"{path}: everything that is read must lie inside {self.root}, this leads to "
                f"{real}; copy the data into the store instead of linking them"
            )
        return real

    def json(self, key: str) -> Json | None:
        """Content of a JSON file that holds an object; None where there is no file."""
        handle = self.handle(key)
        if handle is None:
            return None
        path = self.path(key)
        with handle:
            info = os.fstat(handle.fileno())
            if info.st_size > MAX_JSON:
                raise LimitExceeded(
                    f"{path}: metadata may have {MAX_JSON} bytes, found {info.st_size}"
                )
            raw = _all(handle, info.st_size, path)
        return Json(parsed(raw, path), raw, identity(info))


def _opened(path: str) -> FileIO:
    handle = FileIO(path, "rb", opener=lambda name, _: os.open(name, FLAGS))
    if not S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise UnsafeSourceError(f"{path}: only regular files are read, this is a pipe or device")
    return handle


def _refused(path: str, error: OSError) -> Exception:
    if isinstance(error, IsADirectoryError):
        return FormatError(f"{path}: a file is expected here, found a folder")
    return StoreError(f"{path}: the operating system refused to read it: {error}")


def _all(handle: FileIO, size: int, path: str) -> bytes:
    try:
        return handle.read(size)
    except OSError as error:
        raise StoreError(f"{path}: the operating system refused to read it: {error}") from error


def _age(path: str) -> str:
    try:
        info = os.stat(path)
    except OSError:
        return "absent"
    return f"{info.st_size} {info.st_mtime_ns}"


def parsed(raw: bytes, path: str) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: it must be JSON, but: {str(error)[:120]}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: it must hold a JSON object, found {type(content).__name__}")
    return content


def fill(handle: FileIO, position: int, view: npt.NDArray[np.uint8]) -> int:
    """Read bytes from ``position`` into a contiguous uint8 array; how many there were."""
    target = view.data
    handle.seek(position)
    done = 0
    while done < len(target):
        got = handle.readinto(target[done:])
        if not got:
            break
        done += got
    return done

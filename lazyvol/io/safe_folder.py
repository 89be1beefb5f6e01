"""Read files inside one folder; refuse links and paths that lead outside."""

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

#: larger metadata files are refused: parsing JSON takes about ten times their bytes
MAX_JSON = 64 << 20
#: do not follow a link at the end of the path, and do not block on a pipe
FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
#: names that are listed to count absent chunks: 100,000 in 11,000 folders take 0.4 s
MAX_NAMES = 1_000_000
ABSENT = (errno.ENOENT, errno.ENOTDIR)
LINK = (errno.ELOOP, errno.EMLINK)


@dataclass(frozen=True)
class JsonFile:
    """Content and bytes of a metadata file, and a stamp that changes when it is rewritten."""

    content: dict[str, Any]
    raw: bytes
    stamp: str


def file_stamp(info: os.stat_result) -> str:
    """Return inode, modification time and size, which differ for a rewritten file."""
    return f"{info.st_ino} {info.st_mtime_ns} {info.st_size}"


class OpenObject(Protocol):
    """A stored object that is open for reading; ``size`` is None if asking costs a request."""

    size: int | None

    def __enter__(self) -> "OpenObject": ...
    def __exit__(self, *error: object) -> None: ...
    def edge(self, length: int, at_start: bool) -> Bytes:
        """Return the first or the last bytes, fewer if the object is shorter."""

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Read the ranges (offset, length) that `take` and `fill` return next."""

    def take(self, offset: int, length: int, max_length: int) -> Bytes:
        """Return bytes, fewer if the object ends; they are valid until the next call."""

    def fill(self, offset: int, target: Bytes) -> int:
        """Read bytes into ``target``; return their number."""


class Place(Protocol):
    """Storage of the files of a zarr store; keys are relative to it and separated by ``/``."""

    root: str

    @property
    def max_names(self) -> int:
        """Return the number of names that are listed at most, to count absent chunks."""

    @property
    def reads_in_place(self) -> bool:
        """Return True if files are read when they are requested and none is held in memory."""

    @property
    def lists(self) -> bool:
        """Return True if names can be listed."""

    @property
    def name(self) -> str:
        """Return the last part of the path."""

    def fresh(self) -> "Place":
        """Return the place without the state of earlier reads."""

    def path(self, key: str) -> str:
        """Return the path of ``key`` for messages."""

    def above(self) -> "Place | None":
        """Return the parent folder; None if it cannot be read."""

    def open(self, key: str, first: tuple[str, int]) -> OpenObject | None:
        """Open an object; return None if it is absent.

        ``first`` is the part that is read next: ("all", max_length), ("head", n) or ("tail", n).
        """

    def names(self, key: str) -> list[str]:
        """Return the names in a folder, "" or with a trailing slash."""

    def json(self, key: str) -> JsonFile | None:
        """Return a file that holds a JSON object; None if it is absent."""

    def stamp(self, key: str) -> str:
        """Return a stamp that changes when the object is rewritten; "" if it is absent."""

    def versions(self, keys: Sequence[str]) -> list[str]:
        """Return stamps of objects, or "absent"."""


@dataclass
class LocalFile:
    """An open local file."""

    handle: FileIO
    size: int | None

    def __enter__(self) -> OpenObject:
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.close()

    def edge(self, length: int, at_start: bool) -> Bytes:
        """Return the first or the last bytes, fewer if the file is shorter."""
        target = np.empty(length, np.uint8)
        offset = 0 if at_start else max(0, (self.size or 0) - length)
        return target[: read_available(self.handle, offset, target)]

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Do nothing: files are read by `take` and `fill`."""

    def take(self, offset: int, length: int, max_length: int) -> Bytes:
        """Return bytes in a buffer of this thread that holds ``max_length``."""
        target = scratch("stored", max(max_length, length))[:length]
        return target[: read_available(self.handle, offset, target)]

    def fill(self, offset: int, target: Bytes) -> int:
        """Read bytes into ``target``; return their number."""
        return read_available(self.handle, offset, target)


@dataclass
class SafeFolder:
    """A folder by its real path; nothing outside it is read.

    Each folder below it is checked once, by one system call of 1 us.
    """

    root: str
    _checked: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return os.path.basename(self.root)

    @property
    def max_names(self) -> int:
        """Return the number of names that are listed at most."""
        return MAX_NAMES

    @property
    def reads_in_place(self) -> bool:
        """Return True: files are read in the calling thread."""
        return True

    @property
    def lists(self) -> bool:
        """Return True: folders can be listed."""
        return True

    def fresh(self) -> "Place":
        """Return this folder without its record of checks."""
        return SafeFolder(self.root)

    def above(self) -> "Place | None":
        """Return the parent folder; None at the root of the file system."""
        parent = os.path.dirname(self.root)
        return None if parent == self.root else SafeFolder(parent)

    def open(self, key: str, first: tuple[str, int]) -> OpenObject | None:
        """Open a file; return None if it does not exist."""
        handle = self.handle(key)
        return None if handle is None else LocalFile(handle, os.fstat(handle.fileno()).st_size)

    def stamp(self, key: str) -> str:
        """Return a stamp that changes when the file is rewritten; "" if it is absent."""
        path = self.path(key)
        try:
            return file_stamp(os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise _read_error(path, error) from error

    def versions(self, keys: Sequence[str]) -> list[str]:
        """Return size and modification time of files, or "absent"."""
        return [_size_and_time(self.path(key)) for key in keys]

    def path(self, key: str) -> str:
        """Return the path of ``key``, a relative path with ``/``."""
        return f"{self.root}/{key}" if key else self.root

    def handle(self, key: str) -> FileIO | None:
        """Open a regular file unbuffered; return None if it does not exist.

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
            return _open_regular(path)
        except LazyvolError:
            raise
        except ValueError as error:
            raise FormatError(f"{path!r}: no file can have this name: {error}") from error
        except OSError as error:
            if error.errno in ABSENT:
                return None
            if error.errno in LINK:
                return self._open_link(path)
            raise _read_error(path, error) from error

    def names(self, key: str) -> list[str]:
        """Return the names in a folder, "" or with a trailing slash; [] if it does not exist."""
        path = self.path(key.rstrip("/"))
        try:
            self._check(key.rstrip("/"))
            return os.listdir(path)
        except OSError as error:
            if isinstance(error, LazyvolError):
                raise
            if error.errno in ABSENT:
                return []
            raise _read_error(path, error) from error

    def _open_link(self, path: str) -> FileIO | None:
        try:
            return _open_regular(self._resolve(path))
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise _read_error(path, error) from error

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

    def json(self, key: str) -> JsonFile | None:
        """Return a file that holds a JSON object; None if it does not exist."""
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
            raw = _read_bytes(handle, info.st_size, path)
        return JsonFile(parse_json(raw, path), raw, file_stamp(info))


def _open_regular(path: str) -> FileIO:
    handle = FileIO(path, "rb", opener=lambda name, _: os.open(name, FLAGS))
    if not S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise UnsafeSourceError(f"{path}: only regular files are read, this is a pipe or device")
    return handle


def _read_error(path: str, error: OSError) -> Exception:
    if isinstance(error, IsADirectoryError):
        return FormatError(f"{path}: a file is expected here, found a folder")
    return StoreError(f"{path}: the operating system refused to read it: {error}")


def _read_bytes(handle: FileIO, size: int, path: str) -> bytes:
    try:
        return handle.read(size)
    except OSError as error:
        raise StoreError(f"{path}: the operating system refused to read it: {error}") from error


def _size_and_time(path: str) -> str:
    try:
        info = os.stat(path)
    except OSError:
        return "absent"
    return f"{info.st_size} {info.st_mtime_ns}"


def parse_json(raw: bytes, path: str) -> dict[str, Any]:
    """Return the JSON object in the bytes of a file; raise FormatError if it is none."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: it must be JSON, but: {str(error)[:120]}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: it must hold a JSON object, found {type(content).__name__}")
    return content


def read_available(handle: FileIO, position: int, out: npt.NDArray[np.uint8]) -> int:
    """Fill a contiguous uint8 array from byte ``position`` on; return the bytes that were read."""
    target = out.data
    handle.seek(position)
    done = 0
    while done < len(target):
        got = handle.readinto(target[done:])
        if not got:
            break
        done += got
    return done

"""Reading inside one folder: no link, pipe or path leads out of it."""

import errno
import json
import os
from dataclasses import dataclass, field
from io import FileIO
from stat import S_ISREG
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvol.errors import (
    FormatError,
    LazyvolError,
    LimitExceeded,
    StoreError,
    UnsafeSourceError,
)

#: metadata beyond this are refused: parsing JSON takes some ten times its bytes
MAX_JSON = 64 << 20
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


@dataclass
class Confined:
    """A folder, given by its real path, for one read or one probe.

    Folders below it are looked at once each, one system call of 1 us.
    """

    root: str
    _inside: set[str] = field(default_factory=set)

    def path(self, key: str) -> str:
        """Path of ``key``, a relative path with ``/``."""
        return f"{self.root}/{key}" if key else self.root

    def open(self, key: str) -> FileIO | None:
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
        handle = self.open(key)
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
        return Json(_parsed(raw, path), raw, identity(info))


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


def _parsed(raw: bytes, path: str) -> dict[str, Any]:
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

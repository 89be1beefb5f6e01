"""Files that are whole or not there: written aside, synced, and put in place by a rename."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO
from uuid import uuid4

from lazyvol.errors import LazyvolError, StoreError, TargetExistsError

PathLike = str | os.PathLike[str]

REMEDIES = {
    errno.ENOSPC: "free some space, or choose another disk, and run again",
    errno.EDQUOT: "the quota is used up; free some space and run again",
    errno.EACCES: "check the permissions of the folder",
    errno.EPERM: "check the permissions of the folder",
    errno.EROFS: "the disk is read-only; choose another",
    errno.ENOENT: "create the folder first; a target that was published or discarded is gone",
}


@contextmanager
def storing(path: PathLike) -> Iterator[None]:
    """Context in which what the operating system refuses becomes a `StoreError` with a remedy."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LazyvolError):
            raise
        remedy = REMEDIES.get(error.errno or 0, "check the disk and run again")
        raise StoreError(
            f"{os.fspath(path)}: it could not be written: {error.strerror or error}; {remedy}"
        ) from error


def sync_folder(path: PathLike) -> None:
    """Make the names in a folder outlive a power cut, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folders(root: str, key: str) -> None:
    """Folder ``key`` below ``root``, which must be there, and the ones between; names synced."""
    path = root
    for part in key.split("/") if key else ():
        parent, path = path, f"{path}/{part}"
        with suppress(FileExistsError):
            os.mkdir(path)
            sync_folder(parent)


@contextmanager
def replacing(path: str, partial: str) -> Iterator[BinaryIO]:
    """Open file for the bytes of ``path``; it gets its name once they are safely on disk.

    They are written to a new file in folder ``partial`` on the same disk. Where anything goes
    wrong, that file is removed and ``path`` is as it was.
    """
    aside = f"{partial}/{uuid4().hex}"
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(os.path.dirname(path))
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise


def require_free(path: PathLike, overwrite: bool) -> str:
    """Absolute path of a file that may be written; refused where something is stored under it."""
    target = os.path.abspath(path)
    if os.path.isdir(target) or (os.path.lexists(target) and not overwrite):
        raise TargetExistsError(
            f"{target}: something is stored here; choose another name, or pass overwrite=True to "
            "replace a file"
        )
    return target


def write_file(path: PathLike, overwrite: bool, write: Callable[[BinaryIO], None]) -> None:
    """A single file that ``write`` fills, in place only when it is complete.

    Raises
    ------
    TargetExistsError
        Something is stored under ``path`` and ``overwrite`` is not set, or it is a folder.
    StoreError
        The operating system refuses; nothing is left under ``path``.
    """
    target = require_free(path, overwrite)
    aside = f"{target}.lazyvol-tmp-{uuid4().hex}"
    with storing(target):
        try:
            with open(aside, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
            sync_folder(os.path.dirname(target))
        except BaseException:
            with suppress(OSError):
                os.unlink(aside)
            raise

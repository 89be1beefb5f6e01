"""Write files atomically: into a temporary file, synced, then renamed."""

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape, glob
from typing import BinaryIO
from uuid import uuid4

from lazyvol.errors import LazyvolError, StoreError, TargetExistsError
from lazyvol.io import run_lock

PathLike = str | os.PathLike[str]

#: end of the name of a file that is not complete
TEMPORARY = ".lazyvol-tmp-"

REMEDIES = {
    errno.ENOSPC: "free some space, or choose another disk, and run again",
    errno.EDQUOT: "the quota is used up; free some space and run again",
    errno.EACCES: "check the permissions of the folder",
    errno.EPERM: "check the permissions of the folder",
    errno.EROFS: "the disk is read-only; choose another",
    errno.ENOENT: "create the folder first",
}


@contextmanager
def store_errors(path: PathLike) -> Iterator[None]:
    """Turn an OSError inside the context into a StoreError with a remedy."""
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
    """Sync a folder, so that its file names survive a power cut; does nothing on Windows."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folders(root: str, key: str) -> None:
    """Make folder ``key`` and its parents below the existing folder ``root``, and sync them."""
    path = root
    for part in key.split("/") if key else ():
        parent, path = path, f"{path}/{part}"
        with suppress(FileExistsError):
            os.mkdir(path)
            sync_folder(parent)


@contextmanager
def atomic_file(path: str, temporary: str) -> Iterator[BinaryIO]:
    """Open a file whose bytes replace ``path`` when they are synced to disk.

    They are written to the file ``temporary``, on the disk of ``path``. On any error it is removed,
    and ``path`` is unchanged.
    """
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(os.path.dirname(path))
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


#: flags of renameat2 on Linux
AT_FDCWD = -100
RENAME_EXCHANGE = 2


def exchange(first: str, second: str) -> bool:
    """Exchange two names in one step; return False if the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # glibc before 2.28
        return False
    names = os.fsencode(first), os.fsencode(second)
    if rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), second)


def replace_folder(new: str, path: str, former: str) -> None:
    """Give the folder ``new`` the name ``path``; a folder of that name becomes ``new``.

    There is no moment at which nothing has the name, unless the file system cannot exchange two
    names: then the replaced folder becomes ``former``, or keeps its name if an error occurs.
    """
    if not os.path.lexists(path):
        os.rename(new, path)
    elif not exchange(new, path):
        os.rename(path, former)
        try:
            os.rename(new, path)
        except OSError:
            with suppress(OSError):
                os.rename(former, path)
            raise
    sync_folder(os.path.dirname(path))


def temporary_name(folder: str) -> str:
    """Return a path in a folder that no other file has."""
    return f"{folder}/{uuid4().hex}"


def require_free(path: PathLike, overwrite: bool) -> str:
    """Return the absolute path; raise TargetExistsError if something there must not be replaced."""
    target = os.path.abspath(path)
    if os.path.isdir(target) or (os.path.lexists(target) and not overwrite):
        raise TargetExistsError(
            f"{target}: something is stored here; choose another name, or pass overwrite=True to "
            "replace a file"
        )
    return target


@contextmanager
def new_file(path: PathLike, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a file whose bytes get the name ``path`` when the context ends without an error.

    Until then it has no name where the system has such files: a process that is killed leaves
    nothing. Elsewhere the next call for the same path removes what is left.

    Raises
    ------
    TargetExistsError
        Something is stored under ``path`` and ``overwrite`` is not set, or it is a folder.
    StoreError
        The operating system refuses; ``path`` is unchanged.
    """
    target = require_free(path, overwrite)
    with store_errors(target):
        for name in glob(f"{escape(target)}{TEMPORARY}*"):
            if os.path.isfile(name) and not run_lock.is_locked(name):
                os.unlink(name)
        temporary = f"{target}{TEMPORARY}{uuid4().hex}"
        handle = _nameless_file(os.path.dirname(target))
        if handle is None:
            with atomic_file(target, temporary) as file:
                run_lock.lock_file(file.fileno())
                yield file
            return
        with open(handle, "wb") as file:
            run_lock.lock_file(handle)
            yield file
            file.flush()
            os.fsync(handle)
            _name(handle, temporary if os.path.lexists(target) else target)
            if os.path.lexists(temporary):
                os.replace(temporary, target)
            sync_folder(os.path.dirname(target))


def _nameless_file(folder: str) -> int | None:
    """Open a file that has no name; return None if the system or the file system cannot."""
    flag = getattr(os, "O_TMPFILE", 0)
    with suppress(OSError):
        return os.open(folder, flag | os.O_WRONLY, 0o666) if flag else None
    return None


def _name(handle: int, path: str) -> None:
    """Give a file without a name its name; the descriptor makes Python follow the link in /proc."""
    os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle, follow_symlinks=True)

"""One run per path: a lock that a dead process does not hold."""

import errno
import os
from contextlib import suppress

from lazyvol.errors import TargetExistsError

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows: runs are kept apart by their folders alone
    flock = None  # type: ignore[assignment]

LOCK = "lock"
#: errors of file systems without locks, such as some parallel ones
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
#: open locks by folder and run
_HELD: dict[tuple[str, str], int] = {}


def acquire(folder: str, run: str, path: str) -> None:
    """Lock a folder for a run that writes ``path``; make the folder, readable by its owner alone.

    The operating system releases the lock when the process ends, however it ends. Runs on a file
    system without locks are kept apart by the folder that each has.

    Raises
    ------
    TargetExistsError
        Another run holds the lock.
    OSError
        The operating system refuses to make the folder.
    """
    while True:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        try:
            handle = os.open(f"{folder}/{LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:  # the run before removed the folder
            if not os.path.isdir(os.path.dirname(folder)):
                raise
            continue
        try:
            _lock(handle, path)
            if _is_current(handle, folder):
                _HELD[folder, run] = handle
                return
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def release(folder: str, run: str) -> None:
    """Release the lock of a run, if it holds one, and remove the folder if it is empty."""
    handle = _HELD.pop((folder, run), None)
    if handle is None:
        return
    with suppress(OSError):
        os.unlink(f"{folder}/{LOCK}")
        os.rmdir(folder)
    os.close(handle)


def lock_file(handle: int) -> None:
    """Lock an open file, where files have locks."""
    with suppress(OSError):
        if flock is not None:
            flock(handle, LOCK_EX | LOCK_NB)


def is_locked(path: str) -> bool:
    """Return True if another open file has the lock of a file, or may have it."""
    if flock is None:
        return True
    try:
        with open(path, "rb") as file:
            flock(file.fileno(), LOCK_EX | LOCK_NB)
    except OSError:
        return True
    return False


def _lock(handle: int, path: str) -> None:
    try:
        if flock is not None:
            flock(handle, LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        raise TargetExistsError(
            f"{path}: one run at a time may write a store, another run is writing this one now; "
            "wait until it ends, or stop it"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _is_current(handle: int, folder: str) -> bool:
    """Return True if the locked file still has its name; the run before may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(f"{folder}/{LOCK}"))
    except FileNotFoundError:
        return False

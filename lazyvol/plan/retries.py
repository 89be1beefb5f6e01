"""Retries of reads and writes after transient errors of disks, networks and object stores."""

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

#: mean seconds before each further try; a server that restarts is back within 10 s
PAUSES = (0.1, 0.4, 1.6, 6.4)
#: transient errors of the operating system
TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "EREMOTEIO", "ECONNRESET",
        "ECONNREFUSED", "ECONNABORTED", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH",
        "EPIPE", "ENOTCONN",
    )
    if hasattr(errno, name)
)  # fmt: skip


def retried(action: Callable[[], Result]) -> Result:
    """Return the result of an idempotent action; repeat it after a transient error."""
    for pause in PAUSES:
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))
    return action()


def is_transient(error: BaseException | None) -> bool:
    """Return True if an error, or one that caused it, is transient; causes may form a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            return True
        if isinstance(error, TimeoutError | ConnectionError) or _is_of_object_store(error):
            return True
        error = error.__cause__
    return False


def _is_of_object_store(error: BaseException) -> bool:
    """Return True for errors of a server or of its connection; refusals have other classes."""
    kind = type(error)
    return kind.__module__.startswith("obstore") and kind.__name__ == "GenericError"

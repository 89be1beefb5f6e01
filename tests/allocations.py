"""The memory that an action allocates."""

import tracemalloc
from collections.abc import Callable
from typing import Any


def least_peak(action: Callable[[], Any], tries: int = 5) -> int:
    """Return the bytes that an action needs at a time, the least of several tries.

    Threads that other tests left, of event loops and clusters, allocate memory too.
    """
    peaks = []
    for _ in range(tries):
        tracemalloc.start()
        try:
            action()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(peaks)

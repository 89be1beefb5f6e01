"""Steps of a long computation, whose results a caller may keep so that it can be repeated soon.

A step is a pure function of the input and of the steps before it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: what a step returns: arrays that are not overwritten later
Results: TypeAlias = Mapping[str, Array]
#: ``each(name, count, step)`` yields ``step(0)`` to ``step(count - 1)``, or what was kept of them
Each: TypeAlias = Callable[[str, int, Callable[[int], Results]], Iterator[Results]]


def computed(name: str, count: int, step: Callable[[int], Results]) -> Iterator[Results]:
    """Yield the results of all steps; none are kept."""
    return map(step, range(count))


def none_kept(*inputs: Array) -> Each:
    """Return the steps of a computation of which nothing is kept."""
    return computed


def once(each: Each, name: str, step: Callable[[], Results]) -> Results:
    """Return the results of one step, or what was kept of them."""
    return next(each(name, 1, lambda _: step()))

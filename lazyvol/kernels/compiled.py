"""Defaults of every compiled kernel.

Compiled on first use (a signature list costs 0.7 s at import, this 0.0002 s), without the GIL so
that dask's threads run side by side, cached on disk, never ``parallel`` (numba's own threads
abort the process under dask) and never ``fastmath`` (it would break the exact sums).
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """``function`` compiled by numba with the house's defaults."""
    return cast(F, numba.njit(nogil=True, cache=True, fastmath=False)(function))

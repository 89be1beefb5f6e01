"""Defaults of every compiled kernel.

Compiled on first use (a signature list costs 0.7 s at import, this 0.0002 s), without the GIL so
that dask's threads run side by side, cached on disk, never ``parallel`` (numba's own threads
abort the process under dask).
"""

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numba

Kernel: TypeAlias = Callable[..., Any]


def compiled(function: Kernel) -> Kernel:
    """``function`` compiled to do its arithmetic as written: exact sums rest on that."""
    return cast(Kernel, numba.njit(nogil=True, cache=True, fastmath=False)(function))


def compiled_sums(function: Kernel) -> Kernel:
    """``function`` compiled with sums free to be taken in vector lanes and by fused products.

    For sums of centred values, where any order is as good: 10 GB/s of float32 against 2. NaN and
    infinities keep their meaning (no other freedom is given).
    """
    freedom = {"reassoc", "contract"}
    return cast(Kernel, numba.njit(nogil=True, cache=True, fastmath=freedom)(function))


def compiled_products(function: Kernel) -> Kernel:
    """``function`` compiled with products fused into sums, which are taken in the order written.

    Twice as fast as ``compiled`` for weighted sums, and a result does not depend on where in a
    block it is made.
    """
    return cast(Kernel, numba.njit(nogil=True, cache=True, fastmath={"contract"})(function))

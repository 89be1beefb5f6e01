"""Defaults of every compiled kernel.

Compiled on first use (a signature list costs 0.7 s at import, this 0.0002 s), without the GIL so
that dask's threads run side by side, cached on disk, never ``parallel`` (numba's own threads
abort the process under dask).
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numba

Kernel: TypeAlias = Callable[..., Any]

#: whether it was said already that kernels cannot be cached
_warned: set[str] = set()


def compiled(function: Kernel) -> Kernel:
    """``function`` compiled to do its arithmetic as written: exact sums rest on that."""
    return _cached(function, fastmath=False)


def compiled_sums(function: Kernel) -> Kernel:
    """``function`` compiled with sums free to be taken in vector lanes and by fused products.

    For sums of centred values, where any order is as good: 10 GB/s of float32 against 2. NaN and
    infinities keep their meaning (no other freedom is given).
    """
    return _cached(function, fastmath={"reassoc", "contract"})


def compiled_products(function: Kernel) -> Kernel:
    """``function`` compiled with products fused into sums, which are taken in the order written.

    Twice as fast as ``compiled`` for weighted sums, and a result does not depend on where in a
    block it is made.
    """
    return _cached(function, fastmath={"contract"})


def _cached(function: Kernel, *, fastmath: Any) -> Kernel:
    """Compile ``function`` and cache it on disk; in memory alone where no place is writable."""
    try:
        return cast(Kernel, numba.njit(nogil=True, cache=True, fastmath=fastmath)(function))
    except RuntimeError as error:  # numba found no folder that it may write to
        if not _warned:
            _warned.add(str(error))
            warnings.warn(
                "no folder is writable for compiled kernels, so every process compiles them anew; "
                "set NUMBA_CACHE_DIR to a folder that is",
                RuntimeWarning,
                stacklevel=2,
            )
        return cast(Kernel, numba.njit(nogil=True, fastmath=fastmath)(function))

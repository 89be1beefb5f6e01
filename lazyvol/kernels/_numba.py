"""Numba defaults of every compiled kernel.

Kernels are compiled on first use (a signature list costs 0.7 s at import, this 0.0002 s), release
the GIL so that dask's threads run in parallel, and are cached on disk. They are never ``parallel``:
numba's own threads abort the process under dask.
"""

import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import numba

Kernel: TypeAlias = Callable[..., Any]

#: non-empty after the warning that kernels cannot be cached
_warned: set[str] = set()


class _FileNames:
    """Names of cache files that no other process chooses.

    numba counts the files of a kernel. Two processes that compile it for different types at once
    choose one name, and each type then loads the machine code of either: wrong values, silently.
    """

    def __init__(self, kernel: str, folder: str, source: str) -> None:
        self.kernel = kernel
        self._folder, self._source = Path(folder), Path(source)

    def format(self, number: int) -> str:
        """Return the name of file ``number`` of this process, and remove outdated files."""
        remove_outdated(self._folder, self._source)
        return f"{self.kernel}.{os.getpid()}-{time.time_ns()}-{number}.nbc"


@cache
def remove_outdated(folder: Path, source: Path) -> None:
    """Remove the files of kernels in ``folder`` that are older than the ``source`` of the kernels.

    numba never reads or removes them: each upgrade or edit would leave a set behind. A process that
    still runs the older version compiles again the kernels that it has not loaded yet.
    """
    with suppress(OSError):  # a folder on a slow disk, or another process that removes them
        changed = source.stat().st_mtime
        for file in folder.glob(f"{source.stem}.*.nb[ic]"):
            if file.stat().st_mtime < changed:
                file.unlink(missing_ok=True)


def compiled(function: Kernel) -> Kernel:
    """Compile ``function`` without fast-math: exact sums rely on the arithmetic as written."""
    return _cached(function, fastmath=False)


def compiled_sums(function: Kernel) -> Kernel:
    """Compile ``function`` with sums that may be reordered and fused with products.

    For sums of centred values, which are as accurate in any order: 10 GB/s of float32 instead of
    2. NaN and infinities keep their meaning (no other fast-math flag is set).
    """
    return _cached(function, fastmath={"reassoc", "contract"})


def compiled_products(function: Kernel) -> Kernel:
    """Compile ``function`` with fused multiply-add, summed in the order written.

    Twice as fast as ``compiled`` for weighted sums; a result does not depend on its position in
    the block.
    """
    return _cached(function, fastmath={"contract"})


def inlined(function: Kernel) -> Kernel:
    """Copy ``function`` into the compiled functions that call it, before these are compiled.

    For functions that only select others, or loop over them. LLVM optimises a function once more
    with each that calls it: the Gaussian, five calls deep, took 8.5 s to compile, and takes 4.
    """
    return cast(Kernel, numba.njit(nogil=True, inline="always")(function))


def _cached(function: Kernel, *, fastmath: Any) -> Kernel:
    """Compile ``function`` with an on-disk cache, or without one where no folder is writable."""
    try:
        kernel = numba.njit(nogil=True, cache=True, fastmath=fastmath)(function)
        if not numba.config.DISABLE_JIT:  # else the kernel is the function itself
            files = kernel._cache._cache_file
            name = files._index_name.removesuffix(".nbi")
            source = function.__code__.co_filename
            files._data_name_pattern = _FileNames(name, files._cache_path, source)
        return cast(Kernel, kernel)
    except RuntimeError as error:  # numba has no writable cache folder
        if not _warned:
            _warned.add(str(error))
            warnings.warn(
                "no cache folder for compiled kernels is writable, so every process compiles them "
                "again; set NUMBA_CACHE_DIR to a writable folder",
                RuntimeWarning,
                stacklevel=2,
            )
        return cast(Kernel, numba.njit(nogil=True, fastmath=fastmath)(function))

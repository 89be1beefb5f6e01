"""A user's function of the values in every window of a block."""

from collections.abc import Callable
from math import prod
from typing import Any

import numba
import numpy as np

from lazyvol.kernels.arrays import DOUBLE

Array = np.ndarray[Any, np.dtype[Any]]

#: values of the windows that are gathered at once for a Python function: 1.5 MiB with positions
MAX_GATHERED = 2**16


def apply(
    block: Array, *, function: Callable[[Array], float], footprint: Array, dtype: np.dtype[Any]
) -> Array:
    """Return ``function(values)`` of every window within the block, in ``dtype``.

    It gets the values where the footprint is not 0, as a float64 array with one axis.
    """
    kept = tuple(max(0, n - w + 1) for n, w in zip(block.shape, footprint.shape, strict=True))
    out = np.empty(kept, DOUBLE)
    if out.size:
        values = np.ascontiguousarray(block, DOUBLE)
        offsets = np.ravel_multi_index(np.nonzero(footprint), block.shape)
        index = np.indices(kept[:-1]).reshape(len(kept) - 1, prod(kept[:-1]))
        rows = np.ravel_multi_index((*index, np.zeros(index.shape[1], np.int64)), block.shape)
        fill = _fill_compiled if numba.extending.is_jitted(function) else _fill
        fill(function, values.reshape(-1), rows, offsets, out.reshape(len(rows), kept[-1]))
    return out.astype(dtype, copy=False)


def _fill(
    function: Callable[[Array], float], values: Array, rows: Array, offsets: Array, out: Array
) -> None:
    gathered = max(1, MAX_GATHERED // offsets.size)
    for first in range(0, out.shape[1], gathered):
        along = np.arange(first, min(first + gathered, out.shape[1]))[:, None] + offsets
        for row, line in zip(rows, out, strict=True):
            for x, window in enumerate(values[along + row], first):
                line[x] = function(window)


@numba.njit(nogil=True)  # not cached: numba keeps machine code when a user's function changes
def _fill_compiled(function, values, rows, offsets, out):  # type: ignore[no-untyped-def]
    window = np.empty(offsets.size)
    for i in range(rows.size):
        for x in range(out.shape[1]):
            for j in range(offsets.size):
                window[j] = values[rows[i] + x + offsets[j]]
            out[i, x] = function(window)

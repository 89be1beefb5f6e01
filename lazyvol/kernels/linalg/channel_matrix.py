"""Small matrices along one axis of a block, and their inverses."""

from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: values that are taken together, so that their float64 copies stay in the cache: 4 million
#: pixels of 3 float32 channels take 22 ms a core, 54 ms as one product, 23 ms in compiled loops
SLAB = 2**16


def inverse(matrix: Array, rcond: float | None) -> tuple[Array, float, int]:
    """Inverse or pseudo-inverse of (component, channel), its condition number and its rank."""
    values = np.linalg.svd(matrix, compute_uv=False)
    least = max(matrix.shape) * np.finfo(np.float64).eps if rcond is None else rcond
    rank = int((values > least * values[0]).sum())
    condition = float(values[0] / values[-1]) if values[-1] > 0 else np.inf
    regular = matrix.shape[0] == matrix.shape[1] == rank
    found = np.linalg.inv(matrix) if regular else np.linalg.pinv(matrix, rcond=least)
    return found, condition, rank


def applied(block: Array, *, table: Array, axis: int, dtype: np.dtype[Any]) -> Array:
    """``block @ table`` along one axis, in float64, as ``dtype``."""
    shape = (*block.shape[:axis], table.shape[1], *block.shape[axis + 1 :])
    found = np.empty(shape, dtype)
    before, after = prod(block.shape[:axis]), prod(block.shape[axis + 1 :])
    values = block.reshape(before, block.shape[axis], after)
    out = found.reshape(before, table.shape[1], after)
    with np.errstate(invalid="ignore", over="ignore"):
        if after == 1:
            _rows(values[..., 0], table, out[..., 0])
        else:
            for index in range(before):
                _rows(values[index].T, table, out[index].T)
    return found


def _rows(values: Array, table: Array, out: Array) -> None:
    """Rows of components to rows of channels, in place."""
    step = max(1, SLAB // max(values.shape[1], table.shape[1]))
    for at in range(0, len(values), step):
        part = values[at : at + step].astype(np.float64)
        out[at : at + step] = part @ table

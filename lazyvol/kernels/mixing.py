"""Small matrices along one axis of a block, and their inverses."""

from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: values that are taken together, so that their float64 copies stay in the cache: 16 million
#: pixels of 3 float32 channels take 0.3 s, 0.6 s as one product
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
    cut = (prod(block.shape[:axis]), -1, prod(block.shape[axis + 1 :]))
    values = block.reshape(cut[0], block.shape[axis], cut[2])
    out = found.reshape(cut[0], table.shape[1], cut[2])
    with np.errstate(invalid="ignore", over="ignore"):
        if cut[2] == 1:
            _rows(values[..., 0], table, out[..., 0])
        else:
            for index in range(cut[0]):
                _rows(values[index].T, table, out[index].T)
    return found


def _rows(values: Array, table: Array, out: Array) -> None:
    """Rows of components to rows of channels, in place."""
    step = max(1, SLAB // max(values.shape[1], table.shape[1]))
    for at in range(0, len(values), step):
        part = values[at : at + step].astype(np.float64)
        out[at : at + step] = part @ table

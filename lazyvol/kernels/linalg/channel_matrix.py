"""Small matrices applied along one axis of a block, and their inverses."""

from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: values that are multiplied together, so that their float64 copies stay in the cache: 4 million
#: pixels of 3 float32 channels take 22 ms a core, 54 ms as one product, 23 ms in compiled loops
SLAB = 2**16


def inverse(matrix: Array, rcond: float | None) -> tuple[Array, float, int]:
    """Return the inverse or pseudo-inverse of a matrix, its condition number and its rank."""
    singular = np.linalg.svd(matrix, compute_uv=False)
    cutoff = max(matrix.shape) * np.finfo(np.float64).eps if rcond is None else rcond
    rank = int((singular > cutoff * singular[0]).sum())
    condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else np.inf
    is_regular = matrix.shape[0] == matrix.shape[1] == rank
    result = np.linalg.inv(matrix) if is_regular else np.linalg.pinv(matrix, rcond=cutoff)
    return result, condition, rank


def multiply_axis(block: Array, *, matrix: Array, axis: int, dtype: np.dtype[Any]) -> Array:
    """Return ``block @ matrix`` along one axis, computed in float64, as ``dtype``."""
    before, after = prod(block.shape[:axis]), prod(block.shape[axis + 1 :])
    result = np.empty((*block.shape[:axis], matrix.shape[1], *block.shape[axis + 1 :]), dtype)
    values = block.reshape(before, block.shape[axis], after)
    out = result.reshape(before, matrix.shape[1], after)
    with np.errstate(invalid="ignore", over="ignore"):
        if after == 1:
            _multiply_rows(values[..., 0], matrix, out[..., 0])
        else:
            for index in range(before):
                _multiply_rows(values[index].T, matrix, out[index].T)
    return result


def _multiply_rows(values: Array, matrix: Array, out: Array) -> None:
    """Write ``values @ matrix`` to ``out``, a slab of rows at a time."""
    step = max(1, SLAB // max(values.shape[1], matrix.shape[1]))
    for start in range(0, len(values), step):
        slab = values[start : start + step].astype(np.float64)
        out[start : start + step] = slab @ matrix

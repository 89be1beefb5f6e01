"""What lies outside a mask is replaced."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def outside(
    block: Array, mask: Array, level: Array | None = None, *, fill: float, dtype: np.dtype[Any]
) -> Array:
    """A block where the mask is 1, ``fill`` or the level of its particle where it is 0.

    Between them, on a soft edge, it is mixed; what has no weight has no say, NaN included.
    """
    other = dtype.type(fill) if level is None else level.astype(dtype)
    if mask.dtype == bool:
        return np.where(mask, block.astype(dtype, copy=False), other)
    weight = mask.astype(np.float64)
    values = block.astype(np.float64)
    mixed = values * weight + other * (1.0 - weight)
    mixed = np.where(weight == 0, other, mixed)
    return np.where(weight == 1, values, mixed).astype(dtype)

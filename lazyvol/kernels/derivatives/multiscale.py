"""One measure at several scales."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def of_scales(
    block: Array,
    *halo: Any,
    kernels: Sequence[Callable[..., Array]],
    trims: Sequence[Sequence[int]],
    apart: bool,
) -> Array:
    """Results of several kernels: the largest of them, or all ``apart`` along the last axis.

    The halo is that of the widest; ``trims`` are the voxels of it that each does not need.
    """
    found: list[Array] = []
    for kernel, trim in zip(kernels, trims, strict=True):
        part = block[tuple(slice(t, n - t) for n, t in zip(block.shape, trim, strict=True))]
        made = kernel(part, *halo)
        if apart or not found:
            found.append(made[..., None] if apart and made.ndim == block.ndim else made)
        else:
            np.maximum(found[0], made, out=found[0])
    return found[0] if len(found) == 1 else np.concatenate(found, axis=-1)


def relative_vesselness(parts: Array, *most: Array, dtype: np.dtype[Any]) -> Array:
    """The largest vesselness, out of the shape and the norm at every scale.

    They follow each other along the last axis of ``parts``. c is half of the largest norm, given
    by ``most``; where that is 0 nothing is a ridge.
    """
    found = np.zeros(parts.shape[:-1])
    for n, norm in enumerate(most):
        c = 0.5 * norm[..., 0].astype(np.float64)
        measure = np.divide(parts[..., 2 * n + 1], np.where(c == 0, np.inf, c))
        np.multiply(measure, measure, out=measure)
        np.multiply(measure, -0.5, out=measure)
        np.negative(np.expm1(measure, out=measure), out=measure)
        measure *= parts[..., 2 * n]
        np.maximum(found, measure, out=found)
    return found.astype(dtype, copy=False)

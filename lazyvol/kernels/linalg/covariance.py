"""Sums of products over the samples of a stack, one tile at a time: covariances, weighted sums."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from scipy.linalg.blas import dsyrk

from lazyvol.errors import RangeError
from lazyvol.kernels.arrays import as_three_axes
from lazyvol.kernels.magnitude import LEAST, require_exact

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: values converted to float64 at a time: a copy of 8 MiB
SLAB_VALUES = 2**20


def start_products(shape: tuple[int, ...]) -> State:
    """Return zero sums of products between all features, which have ``shape``."""
    return {"gram": np.zeros((*shape, prod(shape))), "sums": np.zeros(shape)}


def update_products(state: State, axes: Sequence[int], block: Array, shift: Array) -> None:
    """Add the samples of a block, numbered along ``axes``, after subtracting ``shift``.

    All tiles use one shift (a sample), so that states can be added and a covariance
    loses no more digits to cancellation than that sample differs from the mean. Only the upper
    triangle is computed: 36 GFlop/s on one core, 23 for the full product.
    """
    feature_axes = [a for a in range(block.ndim) if a not in axes]
    transposed = block.transpose([*axes, *feature_axes])
    samples = transposed.reshape(prod(transposed.shape[: len(axes)]), -1)
    require_exact("covariance", samples)
    origin = np.asarray(shift, np.float64).reshape(1, -1)
    gram = state["gram"].reshape(samples.shape[1], samples.shape[1])
    step = max(1, SLAB_VALUES // max(1, samples.shape[1]))
    for start in range(0, len(samples), step):
        slab = samples[start : start + step] - origin
        state["sums"] += slab.sum(0).reshape(state["sums"].shape)
        dsyrk(1.0, slab.T, beta=1.0, c=gram.T, lower=1, overwrite_c=1)


def combine(a: State, b: State) -> State:
    """Add the state ``b`` to ``a`` in place."""
    for name in a:
        a[name] += b[name]
    return a


def finish_products(state: State) -> State:
    """Return the sums unchanged; raise RangeError if the products have left float64."""
    sums = state["sums"].reshape(-1)
    power = float(np.trace(state["gram"].reshape(sums.size, -1)))
    if np.isfinite(sums).all() and (power == np.inf or (power < LEAST**2 and sums.any())):
        raise RangeError(
            f"covariance: values must differ by 1e-140 to 1e150, so that float64 holds their "
            f"products, got a sum of squares of {power:.3g}; divide the stack by its largest value"
        )
    return state


def finish(state: State) -> State:
    """Return the sums unchanged."""
    return state


def start_weighted(shape: tuple[int, ...], *, count: int) -> State:
    """Return ``count`` zero sums for each voxel."""
    return {"sums": np.zeros((*shape, count))}


def update_weighted(
    state: State, axes: Sequence[int], block: Array, *tables: Array, masked: bool
) -> None:
    """Add the samples along ``axes``, multiplied by their weight in each sum.

    ``tables`` holds one array of weights per sum and, if ``masked``, a boolean mask last; sums
    outside the mask stay 0.
    """
    weights = np.stack([np.ravel(w) for w in (tables[:-1] if masked else tables)], 1)
    values = as_three_axes(block, axes)
    sums = state["sums"].reshape(values.shape[0], values.shape[2], weights.shape[1])
    mask = _mask_of_sums(tables[-1], block.shape, axes, sums.shape) if masked else None
    step = max(1, SLAB_VALUES // max(1, values.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for outer in range(values.shape[0]):
            for start in range(0, values.shape[2], step):
                slab = slice(start, start + step)
                products = values[outer, :, slab].T.astype(np.float64) @ weights
                if mask is not None:
                    products[~mask[outer, slab]] = 0.0
                sums[outer, slab] += products


def _mask_of_sums(
    mask: Array, block_shape: Sequence[int], axes: Sequence[int], sums_shape: Sequence[int]
) -> Array:
    """Return the mask of a block in the layout of its sums, (before, after)."""
    voxels = [1 if a in axes else n for a, n in enumerate(block_shape)]
    return np.broadcast_to(mask, voxels).reshape(sums_shape[:2])

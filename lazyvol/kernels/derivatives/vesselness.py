"""Frangi's vesselness: from eigenvalues of one scale, and over several scales.

For bright ridges the eigenvalues change their sign, so that a ridge has two large positive ones,
m0 >= m1, and a small one, m2. V = (1 - exp(-Ra^2 / 2 alpha^2)) exp(-Rb^2 / 2 beta^2)
(1 - exp(-S^2 / 2 c^2)), Ra = m1 / m0, Rb = |m2| / sqrt(m0 m1), S^2 = m0^2 + m1^2 + m2^2, where
the two of largest magnitude are positive, else 0. In a plane the factor of Ra is 1.

Loops over the rows of ``eigenvalues`` have no library call, so that they are vectorized.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled, inlined
from lazyvol.kernels.derivatives.eigenvalues import STRIDE, safe_scale

Array = np.ndarray[Any, np.dtype[Any]]

#: adding and subtracting it rounds to the nearest integer, which is in the sum's low bits
ROUNDER = 6755399441055744.0
LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10


@compiled
def one_minus_exp(x: float) -> float:
    """Return 1 - exp(-x) for x >= 0, to 3 ulps; 1.1 ns in a vectorized loop, ``expm1`` 10."""
    y = 700.0 if x > 700.0 else x
    shifted = ROUNDER - y * LOG2_E
    k = shifted - ROUNDER
    r = (-y - k * LN2_HIGH) - k * LN2_LOW
    p = ((r / 479001600.0 + 1 / 39916800.0) * r + 1 / 3628800.0) * r + 1 / 362880.0
    p = (((p * r + 1 / 40320.0) * r + 1 / 5040.0) * r + 1 / 720.0) * r + 1 / 120.0
    p = ((((p * r + 1 / 24.0) * r + 1 / 6.0) * r + 0.5) * r + 1.0) * r
    bits = (np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)
    power = np.int64(bits).view(np.float64)
    return (1.0 - power) - power * p


@inlined
def vesselness(s: Array, n: int, planar: bool, sign: float, a: float, b: float, c: float) -> None:
    """Replace the first row by V, of 1 / 2 alpha^2, 1 / 2 beta^2 and 1 / 2 c^2."""
    shape_factor(s, n, planar, sign, a, b)
    for i in range(n):
        unscale = s[3 * STRIDE + i]
        s[i] = s[i] * one_minus_exp(s[STRIDE + i] * unscale * c * unscale)


@inlined
def shape_factor(s: Array, n: int, planar: bool, sign: float, a: float, b: float) -> None:
    """Replace the first row by the factors of V without c, the second by S^2 of values that are
    scaled, so that it does not vanish or overflow, and the fourth by the inverse of the scale."""
    if planar:
        _shape_factor_2d(s, n, sign, b)
    else:
        _shape_factor_3d(s, n, sign, a, b)


@compiled
def _shape_factor_3d(s: Array, n: int, sign: float, a: float, b: float) -> None:
    for i in range(n):
        high, mid, low = s[i], s[STRIDE + i], s[2 * STRIDE + i]
        m0, m1, m2 = (high, mid, low) if sign > 0.0 else (-low, -mid, -high)
        no_ridge = m1 <= 0.0 or abs(m2) > m1
        # ratios instead of squares of eigenvalues, which may vanish or overflow
        flatness, roundness = np.divide(m1, m0), np.divide(m2, m0)
        blobness = np.divide(roundness * roundness, flatness)
        factor = one_minus_exp(flatness * flatness * a) * (1.0 - one_minus_exp(blobness * b))
        s[i] = 0.0 if no_ridge else factor
        scale, s[3 * STRIDE + i] = safe_scale(max(abs(high), abs(low)))
        high, mid, low = high * scale, mid * scale, low * scale
        s[STRIDE + i] = high * high + mid * mid + low * low


@compiled
def _shape_factor_2d(s: Array, n: int, sign: float, b: float) -> None:
    for i in range(n):
        high, low = s[i], s[STRIDE + i]
        m0, m1 = (high, low) if sign > 0.0 else (-low, -high)
        no_ridge = m0 <= 0.0 or abs(m1) > m0
        blobness = np.divide(m1, m0)
        factor = 1.0 - one_minus_exp(blobness * blobness * b)
        s[i] = 0.0 if no_ridge else factor
        scale, s[3 * STRIDE + i] = safe_scale(max(abs(high), abs(low)))
        high, low = high * scale, low * scale
        s[STRIDE + i] = high * high + low * low


def over_scales(
    block: Array,
    *halo: Any,
    kernels: Sequence[Callable[..., Array]],
    trims: Sequence[Sequence[int]],
    keep_scales: bool,
) -> Array:
    """Return the maximum of the kernels' results, or all of them along the last axis.

    There is one kernel per scale. The halo is that of the widest scale; ``trims`` are the halo
    voxels per axis that each kernel does not need.
    """
    results: list[Array] = []
    for kernel, trim in zip(kernels, trims, strict=True):
        part = block[tuple(slice(t, n - t) for n, t in zip(block.shape, trim, strict=True))]
        result = kernel(part, *halo)
        if keep_scales or not results:
            is_scalar = result.ndim == block.ndim
            results.append(result[..., None] if keep_scales and is_scalar else result)
        else:
            np.maximum(results[0], result, out=results[0])
    return results[0] if len(results) == 1 else np.concatenate(results, axis=-1)


def vesselness_from_parts(parts: Array, *largest_norms: Array, dtype: np.dtype[Any]) -> Array:
    """Return the maximum vesselness over scales, with c half of each volume's largest norm.

    The last axis of ``parts`` holds the shape factor and the norm of the first scale, then those
    of the next ones. Where the largest norm is 0 nothing is a ridge.
    """
    maximum = np.zeros(parts.shape[:-1])
    for n, largest in enumerate(largest_norms):
        c = 0.5 * largest[..., 0].astype(np.float64)
        measure = np.divide(parts[..., 2 * n + 1], np.where(c == 0, np.inf, c))
        np.multiply(measure, measure, out=measure)
        np.multiply(measure, -0.5, out=measure)
        np.negative(np.expm1(measure, out=measure), out=measure)
        measure *= parts[..., 2 * n]
        np.maximum(maximum, measure, out=maximum)
    return maximum.astype(dtype, copy=False)

"""Frangi's vesselness of eigenvalues, in the rows that ``eigen`` leaves, without a call in a loop.

For bright ridges the eigenvalues change their sign, so that a ridge has two large positive ones,
m0 >= m1, and a small one, m2. V = (1 - exp(-Ra^2 / 2 alpha^2)) exp(-Rb^2 / 2 beta^2)
(1 - exp(-S^2 / 2 c^2)), Ra = m1 / m0, Rb = |m2| / sqrt(m0 m1), S^2 = m0^2 + m1^2 + m2^2, where
the two of largest magnitude are positive, else 0. In a plane Ra is without end.
"""

from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.derivatives.eigenvalues import STRIDE

Array = np.ndarray[Any, np.dtype[Any]]

#: added and taken away again it leaves the nearest integer, in the low bits of the sum
ROUNDER = 6755399441055744.0
LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10


@compiled
def risen(x: float) -> float:
    """1 - exp(-x) for x >= 0, to 3 ulps; 1.1 ns, as part of a row, against 10 of a library's."""
    y = 700.0 if x > 700.0 else x
    shifted = ROUNDER - y * LOG2_E
    k = shifted - ROUNDER
    r = (-y - k * LN2_HIGH) - k * LN2_LOW
    p = ((r / 479001600.0 + 1 / 39916800.0) * r + 1 / 3628800.0) * r + 1 / 362880.0
    p = (((p * r + 1 / 40320.0) * r + 1 / 5040.0) * r + 1 / 720.0) * r + 1 / 120.0
    p = ((((p * r + 1 / 24.0) * r + 1 / 6.0) * r + 0.5) * r + 1.0) * r
    bits = (np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)
    two = np.int64(bits).view(np.float64)
    return (1.0 - two) - two * p


@compiled
def vesselness(s: Array, n: int, planar: bool, sign: float, a: float, b: float, c: float) -> None:
    """V into the first row. ``a``, ``b``, ``c`` are 1 / 2 alpha^2, 1 / 2 beta^2, 1 / 2 c^2."""
    shape(s, n, planar, sign, a, b)
    for i in range(n):
        s[i] = s[i] * risen(s[STRIDE + i] * c)


@compiled
def shape(s: Array, n: int, planar: bool, sign: float, a: float, b: float) -> None:
    """What of V does not depend on c into the first row, S^2 into the second."""
    if planar:
        _planar(s, n, sign, b)
    else:
        _solid(s, n, sign, a, b)


@compiled
def _solid(s: Array, n: int, sign: float, a: float, b: float) -> None:
    for i in range(n):
        high, mid, low = s[i], s[STRIDE + i], s[2 * STRIDE + i]
        m0, m1, m2 = (high, mid, low) if sign > 0.0 else (-low, -mid, -high)
        none = m1 <= 0.0 or abs(m2) > m1
        # ratios, not squares of eigenvalues: these may vanish or overflow
        flat, round_ = np.divide(m1, m0), np.divide(m2, m0)
        blob = np.divide(round_ * round_, flat)
        found = risen(flat * flat * a) * (1.0 - risen(blob * b))
        s[i] = 0.0 if none else found
        s[STRIDE + i] = high * high + mid * mid + low * low


@compiled
def _planar(s: Array, n: int, sign: float, b: float) -> None:
    for i in range(n):
        high, low = s[i], s[STRIDE + i]
        m0, m1 = (high, low) if sign > 0.0 else (-low, -high)
        none = m0 <= 0.0 or abs(m1) > m0
        blob = np.divide(m1, m0)
        found = 1.0 - risen(blob * blob * b)
        s[i] = 0.0 if none else found
        s[STRIDE + i] = high * high + low * low

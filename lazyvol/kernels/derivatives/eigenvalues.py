"""Eigenvalues of many symmetric 3x3 and 2x2 matrices, in closed form.

Matrices are stored in one flat buffer with a row for each of the elements zz, zy, zx, yy, yx, xx
(the last three for 2x2); rows begin ``STRIDE`` apart. Eigenvalues, in decreasing order, replace the
first rows. Loops have no branch and no library call, so that they are vectorized: 2.1 ns per 3x3
matrix for float32 results and 5.9 for float64, 700 with ``numpy.linalg.eigvalsh``. ``STRIDE`` is a
compile-time constant, so loops need no checks for overlapping rows.

With m the mean of the eigenvalues and p^2 a sixth of the squared norm of A - m, the eigenvalues
are m + 2 p cos(phi + 2 pi j / 3), cos(3 phi) = r = det((A - m) / p) / 2. The cosine farthest from
the other two is 1 - u(w), u = w g(w), w = 1 - |r|, where g is smooth: a polynomial. The other two
differ by a gap proportional to the square root of u, so their error is that of w. Computed from r,
w loses half of its digits where two eigenvalues meet (3e-8 of the norm). The float64 kernel takes w
from the discriminant, 108 (1 - r^2), as a sum of squares (of the 2x2 minors of the deviators of A
and A^2), which loses none.
"""

from typing import Any

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]

#: matrices per row of the buffer, and distance between the starts of rows
WIDTH = 256
STRIDE = WIDTH + 8

#: exact powers of two, by which matrices of norm below SMALL or above LARGE are scaled so that
#: their squares neither overflow nor vanish
SCALE_UP, SCALE_DOWN = 2.0**700, 2.0**-700
SMALL, LARGE = 1e-120, 1e120
#: lower bounds of p^2, which is 0 where all eigenvalues are equal
P_SQUARED_FLOAT32, P_SQUARED_FLOAT64 = 1e-180, 1e-290

THIRD, SIXTH = 1.0 / 3.0, 1.0 / 6.0
HALF_ROOT_3, ROOT_THIRD = np.sqrt(0.75).item(), np.sqrt(1.0 / 3.0).item()


def _polynomial_of_g(degree: int) -> tuple[float, ...]:
    """Return coefficients of g(w) = (1 - cos(arccos(1 - w) / 3)) / w on [0, 1], highest first."""

    def g(x: Array) -> Array:
        w = (x.astype(np.longdouble) + 1) / 2
        return np.asarray(2 * np.sin(np.arcsin(np.sqrt(w / 2)) / 3) ** 2 / w, np.float64)

    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    coefficients: Array = np.zeros(1)
    power: Array = np.ones(1)
    for c in chebyshev.cheb2poly(chebyshev.chebfit(nodes, g(nodes), degree)):
        coefficients = polynomial.polyadd(coefficients, c * power)
        power = polynomial.polymul(power, [-1.0, 2.0])
    return tuple(coefficients[::-1].tolist())


#: polynomials with errors of 1e-10 and of 1e-16
G_FLOAT32, G_FLOAT64 = _polynomial_of_g(9), _polynomial_of_g(19)


@compiled
def safe_scale(largest: float) -> tuple[float, float]:
    """Return a factor for values up to ``largest`` that makes squares safe, and its inverse."""
    if largest < SMALL:
        return SCALE_UP, SCALE_DOWN
    if largest > LARGE:
        return SCALE_DOWN, SCALE_UP
    return 1.0, 1.0


@compiled
def eigenvalues_3x3_float32(s: Array, n: int) -> None:
    """Replace ``n`` 3x3 matrices of elements within 1e±90 by eigenvalues, to 3e-8 of the norm."""
    for i in range(n):
        zz, zy, zx = s[i], s[STRIDE + i], s[2 * STRIDE + i]
        yy, yx, xx = s[3 * STRIDE + i], s[4 * STRIDE + i], s[5 * STRIDE + i]
        m = (zz + yy + xx) * THIRD
        a, b, c = zz - m, yy - m, xx - m
        pp = (a * a + b * b + c * c) * SIXTH + (zy * zy + zx * zx + yx * yx) * THIRD
        pp = P_SQUARED_FLOAT32 if pp < P_SQUARED_FLOAT32 else pp
        p = np.sqrt(pp)
        det = a * (b * c - yx * yx) - zy * (zy * c - zx * yx) + zx * (zy * yx - b * zx)
        r = np.divide(0.5 * det, pp * p)
        w = 1.0 - abs(r)
        w = 0.0 if w < 0.0 else w
        u = w * _g_float32(w)
        t, gap = p * (1.0 - u), p * np.sqrt(3.0 * u * (2.0 - u))
        s[i] = m + (2.0 * t if r >= 0.0 else t + gap)
        s[STRIDE + i] = m + (gap - t if r >= 0.0 else t - gap)
        s[2 * STRIDE + i] = m - (t + gap if r >= 0.0 else 2.0 * t)


@compiled
def eigenvalues_3x3_float64(s: Array, n: int) -> None:
    """Replace ``n`` 3x3 matrices by eigenvalues, to 5e-15 of the norm; NaN if not finite."""
    for i in range(n):
        zz, zy, zx = s[i], s[STRIDE + i], s[2 * STRIDE + i]
        yy, yx, xx = s[3 * STRIDE + i], s[4 * STRIDE + i], s[5 * STRIDE + i]
        largest = max(max(max(abs(zz), abs(yy)), max(abs(xx), abs(zy))), max(abs(zx), abs(yx)))
        scale, unscale = safe_scale(largest)
        m = (zz * scale + yy * scale + xx * scale) * THIRD
        a, b, c = zz * scale - m, yy * scale - m, xx * scale - m
        d, e, f = zy * scale, zx * scale, yx * scale
        pp = (a * a + b * b + c * c) * SIXTH + (d * d + e * e + f * f) * THIRD
        pp = P_SQUARED_FLOAT64 if pp < P_SQUARED_FLOAT64 else pp
        p = np.sqrt(pp)
        q = np.divide(1.0, p)
        a, b, c, d, e, f = a * q, b * q, c * q, d * q, e * q, f * q
        r = 0.5 * (a * (b * c - f * f) - d * (d * c - e * f) + e * (d * f - b * e))
        w = np.divide(_one_minus_r_squared(a, b, c, d, e, f), 1.0 + abs(r))
        w = 1.0 if w > 1.0 else w
        u = w * _g_float64(w)
        t, gap = p * (1.0 - u), p * np.sqrt(3.0 * u * (2.0 - u))
        s[i] = (m + (2.0 * t if r >= 0.0 else t + gap)) * unscale
        s[STRIDE + i] = (m + (gap - t if r >= 0.0 else t - gap)) * unscale
        s[2 * STRIDE + i] = (m - (t + gap if r >= 0.0 else 2.0 * t)) * unscale


@compiled
def _one_minus_r_squared(a: float, b: float, c: float, d: float, e: float, f: float) -> Any:
    """Return 1 - r^2 of a deviator of squared norm 6: diagonal a, b, c and elements d, e, f."""
    aa, bb, cc = a * a + d * d + e * e, d * d + b * b + f * f, e * e + f * f + c * c
    g, h, k = d * (a + b) + e * f, e * (a + c) + d * f, f * (b + c) + d * e
    # five coordinates of the deviator and of that of its square, each of length sqrt(2)
    x, y = 0.5 * (a - b), HALF_ROOT_3 * c
    u, v = 0.5 * (aa - bb), ROOT_THIRD * (cc - 0.5 * (aa + bb))
    m0, m1, m2, m3 = x * v - y * u, x * g - d * u, x * h - e * u, x * k - f * u
    m4, m5, m6 = y * g - d * v, y * h - e * v, y * k - f * v
    m7, m8, m9 = d * h - e * g, d * k - f * g, e * k - f * h
    first = (m0 * m0 + m1 * m1 + m2 * m2 + m3 * m3) + (m4 * m4 + m5 * m5 + m6 * m6)
    return (first + (m7 * m7 + m8 * m8 + m9 * m9)) * (1.0 / 9.0)


@compiled
def _g_float32(w: float) -> float:
    """Return g to 1e-10, by Horner's rule; a loop would not be vectorized."""
    p = ((G_FLOAT32[0] * w + G_FLOAT32[1]) * w + G_FLOAT32[2]) * w + G_FLOAT32[3]
    p = ((p * w + G_FLOAT32[4]) * w + G_FLOAT32[5]) * w + G_FLOAT32[6]
    return ((p * w + G_FLOAT32[7]) * w + G_FLOAT32[8]) * w + G_FLOAT32[9]


@compiled
def _g_float64(w: float) -> float:
    """Return g to 1e-16."""
    p = ((G_FLOAT64[0] * w + G_FLOAT64[1]) * w + G_FLOAT64[2]) * w + G_FLOAT64[3]
    p = (((p * w + G_FLOAT64[4]) * w + G_FLOAT64[5]) * w + G_FLOAT64[6]) * w + G_FLOAT64[7]
    p = (((p * w + G_FLOAT64[8]) * w + G_FLOAT64[9]) * w + G_FLOAT64[10]) * w + G_FLOAT64[11]
    p = (((p * w + G_FLOAT64[12]) * w + G_FLOAT64[13]) * w + G_FLOAT64[14]) * w + G_FLOAT64[15]
    p = ((p * w + G_FLOAT64[16]) * w + G_FLOAT64[17]) * w + G_FLOAT64[18]
    return p * w + G_FLOAT64[19]


@compiled
def eigenvalues_2x2(s: Array, n: int) -> None:
    """Replace the first two rows by eigenvalues of ``n`` 2x2 matrices, to 4e-16 of the norm."""
    for i in range(n):
        yy, yx, xx = s[3 * STRIDE + i], s[4 * STRIDE + i], s[5 * STRIDE + i]
        largest = max(max(abs(yy), abs(xx)), abs(yx))
        scale, unscale = safe_scale(largest)
        m, x, y = 0.5 * scale * yy + 0.5 * scale * xx, 0.5 * scale * yy, 0.5 * scale * xx
        x, y = x - y, scale * yx
        gap = np.sqrt(x * x + y * y)
        s[i] = (m + gap) * unscale
        s[STRIDE + i] = (m - gap) * unscale

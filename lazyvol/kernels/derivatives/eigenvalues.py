"""Eigenvalues of symmetric 3x3 and 2x2 matrices in closed form, many at once.

Matrices come as rows of one flat buffer, a row for each of their elements zz, zy, zx, yy, yx, xx
(the last three for 2x2), ``STRIDE`` apart; eigenvalues, in decreasing order, replace the first.
There is no branch and no call of a library in a loop, so that it runs in vector lanes: 2.1 ns per
matrix ``rough``, 5.9 ``exact``, against 700 with ``numpy.linalg.eigvalsh``. A distance between
rows that is known when compiling spares the loops their checks for overlap.

With the mean m of the eigenvalues and p^2 a sixth of the squared norm of A - m, the eigenvalues
are m + 2 p cos(phi + 2 pi j / 3), cos(3 phi) = r = det((A - m) / p) / 2. The cosine that lies
apart from the others is 1 - u(w), u = w g(w), w = 1 - |r|: g is smooth, a polynomial. The other
two are a gap apart that goes with the square root of u, so they are as good as w is. From r it
has lost half of its digits where they meet (3e-8 of the norm); ``exact`` takes it from the
discriminant, 108 (1 - r^2), as a sum of squares (of the 2x2 minors of the deviators of A and
A^2), which loses none.
"""

from typing import Any

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]

#: matrices that are worked on together, and from one row of the buffer to the next
WIDTH = 256
STRIDE = WIDTH + 8

#: exact powers of two that bring any matrix to where squares neither overflow nor vanish
UP, DOWN = 2.0**700, 2.0**-700
SMALL, LARGE = 1e-120, 1e120
#: least p^2: where it is 0 all eigenvalues are equal, and r is not asked for
LEAST_ROUGH, LEAST_EXACT = 1e-180, 1e-290

THIRD, SIXTH = 1.0 / 3.0, 1.0 / 6.0
HALF_ROOT_3, ROOT_THIRD = np.sqrt(0.75).item(), np.sqrt(1.0 / 3.0).item()


def _apart(degree: int) -> tuple[float, ...]:
    """Coefficients of g(w) = (1 - cos(arccos(1 - w) / 3)) / w on [0, 1], the highest first."""

    def g(x: Array) -> Array:
        w = (x.astype(np.longdouble) + 1) / 2
        return np.asarray(2 * np.sin(np.arcsin(np.sqrt(w / 2)) / 3) ** 2 / w, np.float64)

    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    found: Array = np.zeros(1)
    power: Array = np.ones(1)
    for c in chebyshev.cheb2poly(chebyshev.chebfit(nodes, g(nodes), degree)):
        found = polynomial.polyadd(found, c * power)
        power = polynomial.polymul(power, [-1.0, 2.0])
    return tuple(found[::-1].tolist())


#: to 1e-10 and to 1e-16
ROUGH, EXACT = _apart(9), _apart(19)


@compiled
def rough(s: Array, n: int) -> None:
    """3x3, right to 3e-8 of their norm: for results in float32, of elements within 1e±90."""
    for i in range(n):
        zz, zy, zx = s[i], s[STRIDE + i], s[2 * STRIDE + i]
        yy, yx, xx = s[3 * STRIDE + i], s[4 * STRIDE + i], s[5 * STRIDE + i]
        m = (zz + yy + xx) * THIRD
        a, b, c = zz - m, yy - m, xx - m
        pp = (a * a + b * b + c * c) * SIXTH + (zy * zy + zx * zx + yx * yx) * THIRD
        pp = LEAST_ROUGH if pp < LEAST_ROUGH else pp
        p = np.sqrt(pp)
        det = a * (b * c - yx * yx) - zy * (zy * c - zx * yx) + zx * (zy * yx - b * zx)
        r = np.divide(0.5 * det, pp * p)
        w = 1.0 - abs(r)
        w = 0.0 if w < 0.0 else w
        u = w * _smooth_rough(w)
        t, gap = p * (1.0 - u), p * np.sqrt(3.0 * u * (2.0 - u))
        s[i] = m + (2.0 * t if r >= 0.0 else t + gap)
        s[STRIDE + i] = m + (gap - t if r >= 0.0 else t - gap)
        s[2 * STRIDE + i] = m - (t + gap if r >= 0.0 else 2.0 * t)


@compiled
def exact(s: Array, n: int) -> None:
    """3x3, right to 5e-15 of their norm, of any finite elements; others give NaN."""
    for i in range(n):
        zz, zy, zx = s[i], s[STRIDE + i], s[2 * STRIDE + i]
        yy, yx, xx = s[3 * STRIDE + i], s[4 * STRIDE + i], s[5 * STRIDE + i]
        most = max(max(max(abs(zz), abs(yy)), max(abs(xx), abs(zy))), max(abs(zx), abs(yx)))
        scale = UP if most < SMALL else (DOWN if most > LARGE else 1.0)
        back = DOWN if most < SMALL else (UP if most > LARGE else 1.0)
        m = (zz * scale + yy * scale + xx * scale) * THIRD
        a, b, c = zz * scale - m, yy * scale - m, xx * scale - m
        d, e, f = zy * scale, zx * scale, yx * scale
        pp = (a * a + b * b + c * c) * SIXTH + (d * d + e * e + f * f) * THIRD
        pp = LEAST_EXACT if pp < LEAST_EXACT else pp
        p = np.sqrt(pp)
        q = np.divide(1.0, p)
        a, b, c, d, e, f = a * q, b * q, c * q, d * q, e * q, f * q
        r = 0.5 * (a * (b * c - f * f) - d * (d * c - e * f) + e * (d * f - b * e))
        w = np.divide(_apartness(a, b, c, d, e, f), 1.0 + abs(r))
        w = 1.0 if w > 1.0 else w
        u = w * _smooth_exact(w)
        t, gap = p * (1.0 - u), p * np.sqrt(3.0 * u * (2.0 - u))
        s[i] = (m + (2.0 * t if r >= 0.0 else t + gap)) * back
        s[STRIDE + i] = (m + (gap - t if r >= 0.0 else t - gap)) * back
        s[2 * STRIDE + i] = (m - (t + gap if r >= 0.0 else 2.0 * t)) * back


@compiled
def _apartness(a: float, b: float, c: float, d: float, e: float, f: float) -> Any:
    """1 - r^2 of a deviator with diagonal a, b, c and d, e, f beside it, of squared norm 6."""
    aa, bb, cc = a * a + d * d + e * e, d * d + b * b + f * f, e * e + f * f + c * c
    g, h, k = d * (a + b) + e * f, e * (a + c) + d * f, f * (b + c) + d * e
    # five coordinates of a deviator, all of length sqrt(2), and of that of its square
    x, y = 0.5 * (a - b), HALF_ROOT_3 * c
    u, v = 0.5 * (aa - bb), ROOT_THIRD * (cc - 0.5 * (aa + bb))
    m0, m1, m2, m3 = x * v - y * u, x * g - d * u, x * h - e * u, x * k - f * u
    m4, m5, m6 = y * g - d * v, y * h - e * v, y * k - f * v
    m7, m8, m9 = d * h - e * g, d * k - f * g, e * k - f * h
    first = (m0 * m0 + m1 * m1 + m2 * m2 + m3 * m3) + (m4 * m4 + m5 * m5 + m6 * m6)
    return (first + (m7 * m7 + m8 * m8 + m9 * m9)) * (1.0 / 9.0)


@compiled
def _smooth_rough(w: float) -> float:
    """g to 1e-10, by Horner's rule; a loop would keep the rows out of vector lanes."""
    p = ((ROUGH[0] * w + ROUGH[1]) * w + ROUGH[2]) * w + ROUGH[3]
    p = ((p * w + ROUGH[4]) * w + ROUGH[5]) * w + ROUGH[6]
    return ((p * w + ROUGH[7]) * w + ROUGH[8]) * w + ROUGH[9]


@compiled
def _smooth_exact(w: float) -> float:
    """g to 1e-16."""
    p = ((EXACT[0] * w + EXACT[1]) * w + EXACT[2]) * w + EXACT[3]
    p = (((p * w + EXACT[4]) * w + EXACT[5]) * w + EXACT[6]) * w + EXACT[7]
    p = (((p * w + EXACT[8]) * w + EXACT[9]) * w + EXACT[10]) * w + EXACT[11]
    p = (((p * w + EXACT[12]) * w + EXACT[13]) * w + EXACT[14]) * w + EXACT[15]
    return (((p * w + EXACT[16]) * w + EXACT[17]) * w + EXACT[18]) * w + EXACT[19]


@compiled
def plane(s: Array, n: int) -> None:
    """2x2, of the rows yy, yx, xx, right to 4e-16 of their norm; the first row and the second."""
    for i in range(n):
        yy, yx, xx = s[3 * STRIDE + i], s[4 * STRIDE + i], s[5 * STRIDE + i]
        most = max(max(abs(yy), abs(xx)), abs(yx))
        scale = UP if most < SMALL else (DOWN if most > LARGE else 1.0)
        back = DOWN if most < SMALL else (UP if most > LARGE else 1.0)
        m, x, y = 0.5 * scale * yy + 0.5 * scale * xx, 0.5 * scale * yy, 0.5 * scale * xx
        x, y = x - y, scale * yx
        gap = np.sqrt(x * x + y * y)
        s[i] = (m + gap) * back
        s[STRIDE + i] = (m - gap) * back

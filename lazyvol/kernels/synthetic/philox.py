"""Random numbers by position: Philox 4x32-10 and the Box-Muller transform.

Philox (Salmon et al., SC11) maps a counter of four 32-bit words and a key of two words to four
random words. The counter is the position of four neighbouring voxels (x // 4, y, z, number of the
volume), the key is the seed and the stream: any region has its numbers in any order of computation,
without a state. All operations are rounded exactly under IEEE 754 (logarithm and sine are
polynomials), so numbers are equal on every machine.

One core generates 240 million normal float32 per second in rows of 200, 200 million in rows of 32;
numpy's ziggurat 100 million. Loops are short and separate because only those are vectorized.
"""

from collections.abc import Sequence
from math import pi
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]

#: number of seeds: a seed is one word of the key
N_SEEDS = 2**32
#: groups of four voxels computed together: 24 kB of memory, within the first-level cache
QUADS = 256

U = np.uint64
LOW, HALF = U(0xFFFFFFFF), U(32)
#: multipliers and key steps of Philox 4x32
MULTIPLY = (U(0xD2511F53), U(0xCD9E8D57))
STEP = (U(0x9E3779B9), U(0xBB67AE85))

#: these bits with an integer below 2**52 are the float64 of 2**52 plus that integer
TWO52_BITS, TWO52 = U(0x4330000000000000), 4503599627370496.0
MANTISSA, ONE = U(0x000FFFFFFFFFFFFF), U(0x3FF0000000000000)
#: added to a float64, it carries mantissas above sqrt(2) into the exponent
SQRT2_CARRY = U(0x00095F619980C433)
LN2 = 0.6931471805599453
#: radians of one step of a 30-bit angle within a quadrant
ANGLE = pi / 2 / 2**30


@compiled
def _set_counters(
    words: Array, at: int, m: int, quad: int, y: int, z: int, lead: np.uint64
) -> None:
    """Set the counters of ``m`` neighbouring quads of one row."""
    for j in range(m):
        words[0, at + j], words[1, at + j] = U(quad + j), U(y)
        words[2, at + j], words[3, at + j] = U(z), lead


@compiled
def philox(words: Array, m: int, key0: np.uint64, key1: np.uint64) -> None:
    """Replace the first ``m`` counters by random words: ten rounds of Philox 4x32."""
    m0, m1 = MULTIPLY
    s0, s1 = STEP
    for j in range(m):
        a, b, c, d = words[0, j], words[1, j], words[2, j], words[3, j]
        k0, k1 = key0, key1
        for _ in range(10):
            p, q = m0 * a, m1 * c
            a, b, c, d = (q >> HALF) ^ b ^ k0, q & LOW, (p >> HALF) ^ d ^ k1, p & LOW
            k0, k1 = (k0 + s0) & LOW, (k1 + s1) & LOW
        words[0, j], words[1, j], words[2, j], words[3, j] = a, b, c, d


@compiled
def _radii(out: Array, words: Array) -> None:
    """Compute sqrt(-2 ln u) for u = (word + 1/2) / 2**32, with fdlibm's logarithm."""
    for j in range(words.size):
        x = U(words[j] | TWO52_BITS).view(np.float64) - TWO52 + 0.5
        t = np.float64(x).view(np.uint64) + SQRT2_CARRY
        exponent = U((t >> U(52)) | TWO52_BITS).view(np.float64) - TWO52 - 1023.0
        f = U((t & MANTISSA) + ONE - SQRT2_CARRY).view(np.float64) - 1.0
        s = np.divide(f, 2.0 + f)
        z = s * s
        p = 1.818357216161805012e-01 + z * (1.531383769920937332e-01 + z * 1.479819860511658591e-01)
        p = 2.857142874366239149e-01 + z * (2.222219843214978396e-01 + z * p)
        p = 6.666666666666735130e-01 + z * (3.999999999940941908e-01 + z * p)
        log = exponent * LN2 + (f - s * (f - z * p))
        out[j] = np.sqrt(2.0 * (32.0 * LN2 - log))


@compiled
def _rotate(first: Array, second: Array, radii: Array, words: Array) -> None:
    """Compute both coordinates of points at ``radii`` and random angles, with fdlibm's sine and
    cosine."""
    for j in range(words.size):
        word = words[j]
        x = (U((word & U(0x3FFFFFFF)) | TWO52_BITS).view(np.float64) - TWO52 - 536870911.5) * ANGLE
        z = x * x
        p = -2.50507602534068634195e-08 + z * 1.58969099521155010221e-10
        p = -1.98412698298579493134e-04 + z * (2.75573137070700676789e-06 + z * p)
        p = -1.66666666666666324348e-01 + z * (8.33333333332248946124e-03 + z * p)
        sine = x + x * z * p
        p = 2.08757232129817482790e-09 + z * -1.13596475577881948265e-11
        p = 2.48015872894767294178e-05 + z * (-2.75573143513906633035e-07 + z * p)
        p = 4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 + z * p)
        cosine = 1.0 - 0.5 * z + z * z * p
        is_odd_quadrant = (word & U(0x40000000)) != U(0)
        r = -radii[j] if (word & U(0x80000000)) != U(0) else radii[j]
        first[j] = r * (sine if is_odd_quadrant else cosine)
        second[j] = r * (cosine if is_odd_quadrant else -sine)


@compiled
def _fractions(out: Array, words: Array) -> None:
    """Map words to numbers between 0 and 1, both excluded."""
    for j in range(words.size):
        out[j] = (U(words[j] | TWO52_BITS).view(np.float64) - TWO52 + 0.5) * 2.0**-32


@compiled
def _interleave(line: Array, values: Array, quads: int) -> None:
    """Write four rows of values as neighbouring voxels."""
    for j in range(quads):
        for i in range(4):
            line[4 * j + i] = values[i, j]


@compiled
def _store(row: Array, line: Array, scale: float) -> None:
    """Write scaled numbers into a row of the result."""
    for j in range(row.size):
        row[j] = line[j] * scale


@compiled
def _transform(values: Array, radii: Array, words: Array, m: int, normal: bool) -> None:
    """Convert words to normal or uniform numbers, two rows at a time."""
    for pair in (0, 2):
        a, b = words[pair, :m], words[pair + 1, :m]
        if normal:
            _radii(radii[:m], a)
            _rotate(values[pair, :m], values[pair + 1, :m], radii[:m], b)
        else:
            _fractions(values[pair, :m], a)
            _fractions(values[pair + 1, :m], b)


@compiled
def _fill(
    out: Array, leads: Array, z0: int, y0: int, x0: int, key: Array, scale: float, normal: bool
) -> None:
    """Fill (lead, z, y, x), in groups of rows of up to ``QUADS`` quads or in parts of one row."""
    words, values = np.empty((4, QUADS), np.uint64), np.empty((4, QUADS))
    radii, line = np.empty(QUADS), np.empty(4 * QUADS)
    depth, height, n = out.shape[1:]
    rows, quad, quads = len(leads) * depth * height, x0 // 4, (x0 + n + 3) // 4 - x0 // 4
    together = max(1, QUADS // max(1, quads))
    for r in range(0, rows, together):
        for s in range(0, quads, QUADS):
            m, n_rows = min(QUADS, quads - s), min(together, rows - r)
            for i in range(n_rows):
                v, z, y = _row_position(r + i, depth, height)
                _set_counters(words, i * m, m, quad + s, y0 + y, z0 + z, leads[v])
            filled = n_rows * m
            philox(words, filled, key[0], key[1])
            _transform(values, radii, words, filled, normal)
            _interleave(line, values, filled)
            first, last = max(x0, 4 * (quad + s)), min(x0 + n, 4 * (quad + s + m))
            for i in range(n_rows):
                v, z, y = _row_position(r + i, depth, height)
                at = 4 * i * m + first - 4 * (quad + s)
                _store(out[v, z, y, first - x0 : last - x0], line[at : at + last - first], scale)


@compiled
def _row_position(row: int, depth: int, height: int) -> tuple[int, int, int]:
    """Return the volume, z and y of a row."""
    return row // height // depth, row // height % depth, row % height


def numbers(
    region: Region,
    *,
    shape: Sequence[int],
    seed: int,
    stream: int = 0,
    normal: bool = True,
    scale: float = 1.0,
    dtype: np.dtype[Any] | str = "float32",
) -> Array:
    """Return the random numbers of one region of an array of ``shape``.

    They are normal with standard deviation ``scale``, or uniform between 0 and ``scale``. The last
    three axes are z, y, x; volumes are numbered along those before. A uniform number takes 32
    random bits, a pair of normal ones 64: none is beyond 6.7 standard deviations.
    """
    lengths = tuple(s.stop - s.start for s in region)
    out = np.empty(lengths, np.promote_types(dtype, np.float32))
    space = (slice(0, 1),) * (3 - len(region)) + tuple(region[-3:])
    leads = volume_numbers(region[:-3], shape[:-3])
    first = (s.start for s in space)
    key = np.array([seed, stream], np.uint64)
    view = out.reshape(len(leads), *(s.stop - s.start for s in space))
    _fill(view, leads, *first, key, float(scale), normal)
    return out.astype(dtype, copy=False)


def volume_numbers(region: Region, shape: Sequence[int]) -> Array:
    """Return the C-order number of every volume of a region of the leading axes."""
    numbers = np.zeros(1, np.uint64)
    for span, n in zip(region, shape, strict=True):
        index = np.arange(span.start, span.stop, dtype=np.uint64)
        numbers = (numbers[:, None] * np.uint64(n) + index).reshape(-1)
    return numbers


def draws(start: int, stop: int, *, seed: int, stream: int) -> Array:
    """Return four uniform numbers for each particle from ``start`` to ``stop``: (particle, 4)."""
    region = (slice(start, stop), slice(0, 1), slice(0, 1), slice(0, 4))
    uniform = numbers(
        region, shape=(stop, 1, 1, 4), seed=seed, stream=stream, normal=False, dtype="float64"
    )
    return uniform.reshape(-1, 4)

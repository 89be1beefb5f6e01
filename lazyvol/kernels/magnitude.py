"""Checks that values and their squares are within the range of float64; scaling by powers of 2."""

from typing import Any

import numpy as np

from lazyvol.errors import RangeError
from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]

#: sums of squares of values between these limits neither underflow nor overflow float64
LEAST, MOST = 2.0**-480, 2.0**480
#: sums of 2**24 values up to this limit do not overflow float64
MOST_SUMMED = 2.0**1000
#: whole numbers up to this are exact in float64
MOST_EXACT = 2**53
#: ratio of the magnitude to the range of whole numbers above which rounding them matters
NARROW = 2**20


def largest(values: Array) -> float:
    """Return the largest magnitude of the finite values, 0 without any."""
    top = _extent(values)
    if np.isfinite(top):
        return top
    return float(np.abs(values).max(initial=0.0, where=np.isfinite(values)))


def exponent(values: Array) -> int:
    """Return the exponent e for which max(abs(values)) / 2**e is in [1/2, 1); 0 without one."""
    top = _extent(values)
    return int(np.frexp(top)[1]) if 0 < top < np.inf else 0


def _extent(values: Array) -> float:
    """Return the largest magnitude of all values, without a temporary array."""
    return max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))


def require_squares(op: str, top: float, least: float = LEAST) -> None:
    """Raise RangeError if the square of ``top``, the largest magnitude, over- or underflows."""
    if not top or least <= top <= MOST:
        return
    rule = f"at most {MOST:.0e}" if top > MOST else f"0 or at least {least:.0e}"
    raise RangeError(
        f"{op}: values must be {rule} in magnitude, whose squares float64 can hold, got "
        f"{top:.3g}; divide the stack by {top:.0e}, or leave missing values out by mask="
    )


def are_large(sums: Array) -> bool:
    """Return True if a sum is near or beyond the largest float64.

    NaN in sums takes a second pass over the sums, not over the values.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return not abs(sums.sum()) < MOST_SUMMED and bool((np.abs(sums) >= MOST_SUMMED).any())


def require_summable(op: str, values: Array, flags: Array | None = None) -> None:
    """Raise RangeError if sums of the finite counted values may overflow float64."""
    top = largest(values if flags is None else np.where(flags, values, 0.0))
    if top > MOST_SUMMED:
        raise RangeError(
            f"{op}: values must be at most {MOST_SUMMED:.0e} in magnitude, whose sums float64 can "
            f"hold, got {top:.3g}; divide the stack by {top:.0e}"
        )


def near_one(values: Array) -> tuple[Array, float]:
    """Return values with a factor that restores them: a power of 2 for the largest, else 1."""
    top = largest(values) if values.dtype == np.float64 else 0.0
    if top < MOST_SUMMED:
        return values, 1.0
    factor = 2.0 ** (np.frexp(top)[1] - 1)
    return values / factor, factor


def require_exact(op: str, values: Array, flags: Array | None = None) -> None:
    """Raise RangeError for counted 64-bit integers whose differences float64 rounds away."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not values.size:
        return
    counted = values if flags is None else values[np.broadcast_to(flags, values.shape)]
    if not counted.size:
        return
    low, high = int(counted.min()), int(counted.max())
    top = max(high, -low)
    if top > MOST_EXACT and 0 < (high - low) * NARROW < top:
        raise RangeError(
            f"{op}: whole numbers must be at most 2**53 in magnitude, which float64 holds exactly, "
            f"got {high if high == top else low}; subtract an offset from the stack first"
        )


@compiled
def has_faint(values: Array, limit: float) -> bool:
    """Return True if a value other than 0 is smaller than ``limit``."""
    for v in values:  # noqa: SIM110 (numba compiles no generators)
        if v != 0.0 and abs(v) < limit:
            return True
    return False

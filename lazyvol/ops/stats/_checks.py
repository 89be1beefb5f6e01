"""What a reduction refuses before it reads: too few values for what is asked of them."""

from collections.abc import Iterable
from numbers import Integral

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError


def freedom_of(op: str, ddof: int, n: int | None) -> int:
    """``ddof`` as a whole number, less than the ``n`` values that it is taken from."""
    number = isinstance(ddof, Integral | float | np.floating)
    if not (number and ddof >= 0 and ddof % 1 == 0):
        raise OptionError(
            f"{op}: ddof must be a whole number of 0 or more, got {ddof!r}; pass 0 or 1"
        )
    if n is not None and ddof > 0 and n <= ddof:
        raise OptionError(
            f"{op}: ddof must be less than the number of values, got {ddof=} of {n}; reduce a "
            f"longer dim or pass ddof=0"
        )
    return int(ddof)


def require_ends(op: str, stack: xr.DataArray, dims: Iterable[str], n: int) -> None:
    """Refuse an extreme of no integers: no value of their type says that there is none."""
    if not n and stack.dtype.kind != "f":
        raise LabelError(
            f"{op}: dim must hold a value, got length 0 along {tuple(dims)} of "
            f"{dict(stack.sizes)}; select something, or reduce floats, which give NaN"
        )

"""Thresholds of the neighbourhood of every voxel."""

from collections.abc import Sequence
from math import prod

import xarray as xr

from lazyvol.kernels.filters.wide_windows import Reach
from lazyvol.ops.filters import _derivatives, _windows
from lazyvol.ops.filters._windows import Boundary
from lazyvol.stack import float_of


def threshold_local(
    stack: xr.DataArray, reach: Sequence[Reach], method: str, offset: float, boundary: Boundary
) -> xr.DataArray:
    """Return the Gaussian average, mean or median of every window, minus ``offset``."""
    op = "threshold_local"
    sizes = [before + 1 + after for before, after in reach]
    if method == "gaussian":
        boundary.require(op, stack, reach)
        averages = _derivatives.gaussian(op, stack, [(n - 1) / 6 for n in sizes], boundary)
    elif method == "mean":
        averages = _windows.uniform(op, stack, reach, boundary)
    else:
        averages = _windows.rank(op, stack, reach, prod(sizes) // 2, boundary)
    averages = averages.astype(float_of(stack.dtype))
    return averages.copy(data=averages.data - offset)

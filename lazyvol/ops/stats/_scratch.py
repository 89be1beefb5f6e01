"""Memory of kernels that bring tiles into another layout."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lazyvol.stack import reduces_split_axes


def layout_scratch(stack: xr.DataArray, dims: Sequence[str], masked: bool) -> float:
    """Return bytes per voxel of a mask and the values it keeps, and of copies of the values.

    float16 is copied to float32; reduced axes that are not adjacent are moved together.
    """
    item = stack.dtype.itemsize
    wider = 4.0 if stack.dtype == np.float16 else 0.0
    return (1.0 + item) * masked + wider + item * reduces_split_axes(stack, dims)

"""Distances in masks."""

from functools import partial
from math import isfinite

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.morphology import distances
from lazyvol.ops.masks._morphology import volume_dims
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.stack import require_one_unit, spacing, unit_of, with_units


@operation
def distance_transform(mask: xr.DataArray, *, limit: float | None = None) -> xr.DataArray:
    """Distance of every voxel of a mask to the nearest voxel outside it, 0 outside.

    It is the exact Euclidean distance of voxel centres. The border of a volume is not outside.

    Parameters
    ----------
    mask
        Boolean, over some of z, y, x, which make one volume, and any other dims.
    limit
        Longest distance, in the unit of the coordinates: voxels farther inside have this one.
        Volumes are then computed in blocks that read this far beyond themselves. By default there
        is no limit, and a task holds whole volumes, with 17 bytes of memory per voxel.

    Returns
    -------
    xarray.DataArray
        float64, with the mask's dims and coordinates, in the unit of these. Infinite in a volume
        without a voxel outside the mask.

    Raises
    ------
    LabelError
        If the mask is not boolean or has none of z, y, x, their units differ, or ``limit`` is not
        above 0.
    OptionError
        If ``limit`` has a wrong type.

    References
    ----------
    ``scipy.ndimage.distance_transform_edt`` with ``sampling``, the voxel size. The algorithm:
    Felzenszwalb and Huttenlocher, Theory of Computing 8, 415 (2012).

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0, 1, 1, 1, 1, 0]]]) > 0, voxel_size=2.0, unit="nm")
    >>> lv.masks.distance_transform(row).values
    array([[[0., 2., 4., 4., 2., 0.]]])
    >>> lv.masks.distance_transform(row, limit=3.0).values
    array([[[0., 2., 3., 3., 2., 0.]]])
    """
    dims = volume_dims("distance_transform", mask)
    require_one_unit(mask, dims, "distance_transform: mask")
    steps = tuple(abs(spacing(mask, d)) for d in dims)
    axes = tuple(mask.dims.index(d) for d in dims)
    dtype = np.dtype(np.float64)
    if limit is None:
        kernel = partial(distances.distances, axes=axes, step=steps)
        result = blockwise(
            kernel, mask, core=dims, dtype=dtype, scratch=9.0, title="distance_transform"
        )
    else:
        if not (isfinite(limit) and limit > 0):
            raise LabelError(
                f"distance_transform: limit must be a length above 0, got {limit}; leave it out "
                f"for all distances"
            )
        bounded = partial(distances.distances_to, axes=axes, step=steps, limit=float(limit))
        depth = {d: min(int(limit / s), mask.sizes[d]) for d, s in zip(dims, steps, strict=True)}
        result = stencil(
            bounded, mask, depth=depth, mode="clip", dtype=dtype, scratch=17.0,
            title="distance_transform",
        )  # fmt: skip
    result.attrs = {**with_units(mask, 0), "units": unit_of(mask, dims[-1])}
    return result

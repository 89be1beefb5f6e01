"""Solids by formula, with soft edges: lazy volumes and masks of any size."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import solids
from lazyvol.ops._grid import (
    Axis,
    Like,
    Place,
    centre_voxel,
    float_dtype,
    generate_array,
    kernel_dims,
    non_negative,
    spatial_grid,
    unit_vector,
    voxel_steps,
)
from lazyvol.stack import SPATIAL, Sigma, per_dim, spatial_dims


@operation
def cylinder(
    like: Like,
    *,
    radius: float,
    length: float,
    axis: Axis = "z",
    tilt: float = 0.0,
    centre: Place | None = None,
    soft: float = 0.0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Volume with a cylinder: 1 inside, 0 outside.

    Parameters
    ----------
    like
        Shape (z, y, x) or fewer, or a stack whose spatial dims and positions are taken.
    radius, length
        Radius and length of the cylinder, in the unit of the positions; 0 or more.
    axis
        Dim that the cylinder's axis is parallel to, or components of a vector by dim, e.g.
        ``{"z": 1, "x": 0.5}``.
    tilt
        Degrees by which the axis is tilted towards x (towards z if ``axis`` is x).
    centre
        Position of the centre: one number for each spatial dim in the order z, y, x, or by dim.
        Voxel ``n // 2`` along dims not named.
    soft
        Width of the edge outside the surface, over which values fall to 0 along a raised cosine.
    dtype
        Float dtype by name.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If a length is negative, a dim is missing, or ``like`` has no spatial dims.
    OptionError
        If an option has the wrong type.

    Examples
    --------
    >>> import lazyvol as lv
    >>> volume = lv.synthetic.cylinder((9, 9, 9), radius=2.2, length=5)
    >>> volume[:, 4, 4].values
    array([0., 0., 1., 1., 1., 1., 1., 0., 0.], dtype=float32)
    """
    grid = spatial_grid(like)
    kernel = partial(
        solids.cylinder, step=voxel_steps(grid), along=unit_vector(grid, axis, tilt),
        radius=non_negative("radius", radius), length=non_negative("length", length),
    )  # fmt: skip
    return _solid(kernel, grid, centre, soft, dtype, "cylinder")


@operation
def sphere(
    like: Like,
    *,
    radius: float,
    centre: Place | None = None,
    soft: float = 0.0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Volume with a ball: 1 inside, 0 outside; a disc on a grid of two dims.

    Parameters
    ----------
    like, centre, soft, dtype
        As for ``cylinder``.
    radius
        Radius of the ball, in the unit of the positions; 0 or more.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If a length is negative, a dim is missing, or ``like`` has no spatial dims.
    OptionError
        If an option has the wrong type.

    Examples
    --------
    >>> import lazyvol as lv
    >>> lv.synthetic.sphere((7, 7, 7), radius=2)[3, 3].values
    array([0., 1., 1., 1., 1., 1., 0.], dtype=float32)
    """
    grid = spatial_grid(like)
    kernel = partial(solids.ball, step=voxel_steps(grid), radius=non_negative("radius", radius))
    return _solid(kernel, grid, centre, soft, dtype, "sphere")


@operation
def circle(
    like: Like,
    *,
    radius: float,
    axis: str = "z",
    centre: Place | None = None,
    soft: float = 0.0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Volume with an infinite rod: equal discs in all slices normal to ``axis``.

    Parameters
    ----------
    like, centre, soft, dtype
        As for ``cylinder``.
    radius
        Radius of the disc, in the unit of the positions; 0 or more.
    axis
        Dim that the rod is parallel to.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If a length is negative, a dim is missing, or ``like`` has no spatial dims.
    OptionError
        If an option has the wrong type.

    Examples
    --------
    >>> import lazyvol as lv
    >>> lv.synthetic.circle((5, 5), radius=1).values
    array([[0., 0., 0., 0., 0.],
           [0., 0., 1., 0., 0.],
           [0., 1., 1., 1., 0.],
           [0., 0., 1., 0., 0.],
           [0., 0., 0., 0., 0.]], dtype=float32)
    """
    if axis not in SPATIAL:
        raise LabelError(f"circle: axis must be one of {SPATIAL}, got {axis!r}")
    grid = spatial_grid(like)
    kernel = partial(
        solids.ball, step=voxel_steps(grid, axis), radius=non_negative("radius", radius)
    )
    return _solid(kernel, grid, centre, soft, dtype, "circle")


@operation
def box(
    like: Like,
    *,
    size: Sigma,
    centre: Place | None = None,
    soft: float = 0.0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Volume with a box: 1 inside, 0 outside.

    Parameters
    ----------
    like, centre, soft, dtype
        As for ``cylinder``.
    size
        Length of the sides, in the unit of the positions: one number, one for each dim in the
        order z, y, x, or by dim; infinite along dims not named.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If a length is negative, a dim is missing, or ``like`` has no spatial dims.
    OptionError
        If an option has the wrong type.

    Examples
    --------
    >>> import lazyvol as lv
    >>> int(lv.synthetic.box((9, 9, 9), size={"z": 3, "y": 5, "x": 7}).sum())
    105
    """
    grid = spatial_grid(like)
    sides = per_dim(size, spatial_dims(grid), "size")
    z, y, x = (
        non_negative("size", sides[d]) / 2 if d in sides else np.inf for d in kernel_dims(grid)
    )
    kernel = partial(solids.box, step=voxel_steps(grid), half=(z, y, x))
    return _solid(kernel, grid, centre, soft, dtype, "box")


def _solid(
    kernel: Callable[..., Any],
    grid: xr.DataArray,
    centre: Place | None,
    soft: float,
    dtype: str,
    title: str,
) -> xr.DataArray:
    """Return a lazy solid with the options that all solids have."""
    with_options = partial(
        kernel, centre=centre_voxel(grid, centre), soft=non_negative("soft", soft),
        dtype=float_dtype(dtype),
    )  # fmt: skip
    return generate_array(with_options, grid, dtype, title)

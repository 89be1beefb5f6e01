"""Solids by formula, with soft edges: volumes and masks, lazily and of any size."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import solids
from lazyvol.ops._grid import (
    Axis,
    Like,
    Place,
    direction,
    float_dtype,
    made,
    middle,
    not_negative,
    order,
    space,
    steps,
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
        Shape (z, y, x), or a stack whose spatial dims and positions to take.
    radius, length
        Of the cylinder, in the unit of the positions.
    axis
        Dim it stands along, or components by dim, e.g. ``{"z": 1, "x": 0.5}``.
    tilt
        Degrees by which it then leans towards x (towards z where the axis is x).
    centre
        Position along each spatial dim that is there in the order z, y, x, or by dim; for dims
        not named it is that of voxel ``n // 2``.
    soft
        Width over which the edge falls to 0 outside, along a raised cosine.
    dtype
        A float type.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If a length is negative, or a dim is not there.

    Examples
    --------
    >>> import lazyvol as lv
    >>> volume = lv.synthetic.cylinder((9, 9, 9), radius=2.2, length=5)
    >>> volume[:, 4, 4].values
    array([0., 0., 1., 1., 1., 1., 1., 0., 0.], dtype=float32)
    """
    where = space(like)
    kernel = partial(
        solids.cylinder, step=steps(where), along=direction(where, axis, tilt),
        radius=not_negative("radius", radius), length=not_negative("length", length),
    )  # fmt: skip
    return _solid(kernel, where, centre, soft, dtype, "cylinder")


@operation
def sphere(
    like: Like,
    *,
    radius: float,
    centre: Place | None = None,
    soft: float = 0.0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Volume with a ball: 1 inside, 0 outside. Options as those of ``cylinder``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> lv.synthetic.sphere((7, 7, 7), radius=2)[3, 3].values
    array([0., 1., 1., 1., 1., 1., 0.], dtype=float32)
    """
    where = space(like)
    kernel = partial(solids.ball, step=steps(where), radius=not_negative("radius", radius))
    return _solid(kernel, where, centre, soft, dtype, "sphere")


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
    """The same disc in every slice across ``axis``. Options as those of ``cylinder``.

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
        raise LabelError(f"axis is one of {SPATIAL}, got {axis!r}")
    where = space(like)
    kernel = partial(solids.ball, step=steps(where, axis), radius=not_negative("radius", radius))
    return _solid(kernel, where, centre, soft, dtype, "circle")


@operation
def box(
    like: Like,
    *,
    size: Sigma,
    centre: Place | None = None,
    soft: float = 0.0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Volume with a box: 1 inside, 0 outside. Options as those of ``cylinder``.

    ``size`` is the length of its sides: one number, one for each dim in the order z, y, x, or by
    dim; it has no end along dims not named.

    Examples
    --------
    >>> import lazyvol as lv
    >>> int(lv.synthetic.box((9, 9, 9), size={"z": 3, "y": 5, "x": 7}).sum())
    105
    """
    where = space(like)
    sides = per_dim(size, spatial_dims(where), "size")
    a, b, c = (not_negative("size", sides[d]) / 2 if d in sides else np.inf for d in order(where))
    kernel = partial(solids.box, step=steps(where), half=(a, b, c))
    return _solid(kernel, where, centre, soft, dtype, "box")


def _solid(
    kernel: Callable[..., Any],
    where: xr.DataArray,
    centre: Place | None,
    soft: float,
    dtype: str,
    title: str,
) -> xr.DataArray:
    bound = partial(
        kernel, centre=middle(where, centre), soft=not_negative("soft", soft),
        dtype=float_dtype(dtype),
    )  # fmt: skip
    return made(bound, where, dtype, title)

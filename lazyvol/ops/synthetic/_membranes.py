"""Membranes, grids of lines and missing wedges by formula: lazy volumes of any size."""

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Literal

import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import membranes_and_wedges
from lazyvol.ops._grid import (
    Axis,
    Like,
    Place,
    centre_voxel,
    float_dtype,
    generate_array,
    in_kernel_order,
    non_negative,
    spatial_grid,
    unit_vector,
    voxel_steps,
)
from lazyvol.stack import (
    SPATIAL,
    Dims,
    Sigma,
    dims_of,
    is_number,
    per_dim,
    require_one_unit,
    spacing,
)

#: whether a right-handed rotation about ``axis`` moves ``beam`` towards the third dim (1) or away
#: from it (-1), by (beam, axis)
ROTATION_SIGN = {
    ("z", "y"): 1, ("x", "z"): 1, ("y", "x"): 1, ("z", "x"): -1, ("x", "y"): -1, ("y", "z"): -1,
}  # fmt: skip


@operation
def membrane(
    like: Like,
    *,
    thickness: float,
    radius: float | None = None,
    leaflet: float | None = None,
    axis: Axis = "z",
    centre: Place | None = None,
    soft: float = 0.0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Volume with a flat membrane or the shell of a vesicle: 1 inside, 0 outside.

    Parameters
    ----------
    like
        Shape (z, y, x) or fewer, or a stack whose spatial dims and positions are taken.
    thickness
        Distance between the outer faces of the two leaflets, in the unit of the positions.
    radius
        Radius of the vesicle to the middle of its membrane; None: a flat membrane. A curved sheet
        is part of a large vesicle whose ``centre`` is outside the volume.
    leaflet
        Thickness of each leaflet; None: the leaflets fill the membrane.
    axis
        Normal of a flat membrane: a dim, or components of a vector by dim.
    centre
        Position of the centre of the vesicle or of a point of the flat membrane: one number for
        each spatial dim in the order z, y, x, or by dim. Voxel ``n // 2`` along dims not named.
    soft
        Width of the edge outside the faces, over which values fall to 0 along a raised cosine.
    dtype
        Float dtype by name.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If a length is negative or the leaflets are thicker than the membrane.
    OptionError
        If an option has the wrong type.

    Examples
    --------
    Two leaflets of one voxel, one voxel apart:

    >>> import lazyvol as lv
    >>> lv.synthetic.membrane((9, 3, 3), thickness=3, leaflet=0.5)[:, 1, 1].values
    array([0., 0., 0., 1., 0., 1., 0., 0., 0.], dtype=float32)
    """
    grid = spatial_grid(like)
    total = non_negative("thickness", thickness)
    leaflet_thickness = total / 2 if leaflet is None else non_negative("leaflet", leaflet)
    if leaflet_thickness > total / 2:
        raise LabelError(
            f"membrane: leaflet must be at most half of thickness, got {leaflet=} and {thickness=}"
        )
    kernel = partial(
        membranes_and_wedges.membrane, step=voxel_steps(grid), along=unit_vector(grid, axis),
        radius=inf if radius is None else non_negative("radius", radius), thickness=total,
        leaflet=leaflet_thickness, centre=centre_voxel(grid, centre),
        soft=non_negative("soft", soft), dtype=float_dtype(dtype),
    )  # fmt: skip
    return generate_array(kernel, grid, dtype, "membrane")


@operation
def grid_lines(
    like: Like,
    spacing: Sigma,
    thickness: float,
    *,
    dim: Dims = ("y", "x"),
    centre: Place | None = None,
    soft: float = 0.0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Volume with a regular grid of lines, to show deformations: 1 on lines, 0 between.

    Parameters
    ----------
    like
        Shape (z, y, x) or fewer, or a stack whose spatial dims and positions are taken.
    spacing
        Distance between lines, in the unit of the positions: one number, or by dim; above 0.
    thickness
        Thickness of the lines, in the unit of the positions.
    dim
        Dims along which lines repeat. With y and x all slices show one grid; with z there are also
        walls normal to z.
    centre
        Position of a crossing of lines: one number for each spatial dim in the order z, y, x, or
        by dim. Voxel ``n // 2`` along dims not named.
    soft
        Width of the edge outside the lines, over which values fall to 0 along a raised cosine.
    dtype
        Float dtype by name.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If the spacing is not positive, or of a dim that is missing.
    OptionError
        If an option has the wrong type.

    Examples
    --------
    >>> import lazyvol as lv
    >>> lv.synthetic.grid_lines((5, 7), 3, 1).values
    array([[1., 0., 0., 1., 0., 0., 1.],
           [1., 0., 0., 1., 0., 0., 1.],
           [1., 1., 1., 1., 1., 1., 1.],
           [1., 0., 0., 1., 0., 0., 1.],
           [1., 0., 0., 1., 0., 0., 1.]], dtype=float32)
    """
    grid = spatial_grid(like)
    across = dims_of(grid, dim)
    periods = per_dim(spacing, across, "spacing")
    bad = {d: p for d, p in periods.items() if not (is_number(p) and 0 < p < inf)}
    if bad:
        raise LabelError(f"grid_lines: spacing must be lengths above 0 along {across}, got {bad}")
    kernel = partial(
        membranes_and_wedges.grid_lines, centre=centre_voxel(grid, centre), step=voxel_steps(grid),
        spacing=in_kernel_order(grid, periods), half=non_negative("thickness", thickness) / 2,
        soft=non_negative("soft", soft), dtype=float_dtype(dtype),
    )  # fmt: skip
    return generate_array(kernel, grid, dtype, "grid_lines")


@operation
def wedge(
    like: Like,
    tilts: Sequence[float] = (-60.0, 60.0),
    *,
    axis: str = "y",
    beam: str = "z",
    layout: Literal["fft", "centred"] = "fft",
    dtype: str = "float32",
) -> xr.DataArray:
    """Mask of the frequencies that a tilt series measures: 1, and 0 in the missing wedge.

    A specimen rotated by t degrees about ``axis``, right-handed, shows the frequencies with ``f_z
    = tan(t) f_x`` (for the beam z and the axis y), in cycles per unit of length; voxels need not
    be cubes.

    Parameters
    ----------
    like
        Shape (z, y, x), or a stack whose spatial dims and positions are taken.
    tilts
        Lowest and highest tilt in degrees, from -90 to 90.
    axis, beam
        Dims of the tilt axis and of the beam.
    layout
        ``"fft"``: frequency 0 is voxel 0, the mask multiplies ``numpy.fft.fftn(volume)``.
        ``"centred"``: frequency 0 is voxel ``n // 2``, as after ``numpy.fft.fftshift``.
    dtype
        Float dtype by name.

    Returns
    -------
    xarray.DataArray
        Lazy, over the dims and with the positions of the volume; ``attrs`` hold ``layout``,
        ``tilts``, ``tilt_axis`` and ``beam``.

    Raises
    ------
    LabelError
        If ``like`` lacks a spatial dim, or tilts, axis or beam are not as above.
    OptionError
        If an option has the wrong type or ``layout`` is unknown.

    Examples
    --------
    >>> import lazyvol as lv
    >>> mask = lv.synthetic.wedge((64, 64, 64), (-60, 60))
    >>> round(float(mask.mean()), 2)  # a third of the angles is missing
    0.71
    """
    grid = spatial_grid(like)
    across = [d for d in SPATIAL if d not in (axis, beam)]
    if set(grid.dims) != set(SPATIAL) or {axis, beam} - set(SPATIAL) or len(across) != 1:
        raise LabelError(
            f"wedge: axis and beam must be two of the dims {SPATIAL} of a volume, got dims "
            f"{grid.dims}, {axis=} and {beam=}"
        )
    require_one_unit(grid, SPATIAL, "wedge: like")
    low, high = _checked_tilts(tilts)
    if ROTATION_SIGN[beam, axis] < 0:
        low, high = -high, -low
    kernel = partial(
        membranes_and_wedges.wedge, shape=grid.shape, beam=SPATIAL.index(beam),
        step=tuple(abs(spacing(grid, d)) for d in SPATIAL), across=SPATIAL.index(across[0]),
        tilts=(low, high), centred=layout == "centred", dtype=float_dtype(dtype),
    )  # fmt: skip
    attrs = {"layout": layout, "tilts": tuple(map(float, tilts)), "tilt_axis": axis, "beam": beam}
    return generate_array(kernel, grid, dtype, "wedge").assign_attrs(attrs)


def _checked_tilts(tilts: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and highest tilt; refuse others than two rising angles."""
    angles = tuple(map(float, tilts))
    if len(angles) != 2 or not -90 <= angles[0] <= angles[1] <= 90:
        raise LabelError(
            f"wedge: tilts must be two rising angles from -90 to 90 degrees, got {tilts!r}"
        )
    return angles[0], angles[1]

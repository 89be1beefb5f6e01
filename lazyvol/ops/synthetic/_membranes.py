"""Membranes, grids of lines and missing wedges by formula, lazily and of any size."""

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Literal

import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import membranes_and_wedges
from lazyvol.ops._grid import (
    Axis,
    Like,
    Place,
    direction,
    float_dtype,
    made,
    middle,
    not_negative,
    space,
    steps,
    triple,
)
from lazyvol.stack import SPATIAL, Dims, Sigma, dims_of, is_number, per_dim, spacing


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
    """Volume with a membrane: 1 inside, 0 outside; a flat sheet, or the shell of a vesicle.

    Parameters
    ----------
    like
        Shape (z, y, x), or a stack whose spatial dims and positions to take.
    thickness
        From the outer face of one leaflet to that of the other, in the unit of the positions.
    radius
        Of the vesicle, to the middle of its membrane. A sheet that is a little curved is part of
        a large vesicle whose ``centre`` lies outside the volume. None: flat.
    leaflet
        Thickness of each of the two leaflets; None: they fill the membrane.
    axis
        Dim or direction that a flat sheet lies across.
    centre
        Position by dim, of the vesicle or of a point of the sheet; for dims not named it is that
        of voxel ``n // 2``.
    soft
        Width over which faces fall to 0 outside, along a raised cosine.
    dtype
        A float type.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If a length is negative or the leaflets are thicker than the membrane.

    Examples
    --------
    Two leaflets of one voxel with one between them:

    >>> import lazyvol as lv
    >>> lv.synthetic.membrane((9, 3, 3), thickness=3, leaflet=0.5)[:, 1, 1].values
    array([0., 0., 0., 1., 0., 1., 0., 0., 0.], dtype=float32)
    """
    where = space(like)
    most = not_negative("thickness", thickness)
    leaf = most / 2 if leaflet is None else not_negative("leaflet", leaflet)
    if leaf > most / 2:
        raise LabelError(
            f"two leaflets fit a membrane, each at most half of it thick, got {leaflet=} and "
            f"{thickness=}"
        )
    kernel = partial(
        membranes_and_wedges.membrane, step=steps(where), along=direction(where, axis),
        radius=inf if radius is None else not_negative("radius", radius), thickness=most,
        leaflet=leaf, centre=middle(where, centre), soft=not_negative("soft", soft),
        dtype=float_dtype(dtype),
    )  # fmt: skip
    return made(kernel, where, dtype, "membrane")


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
    """Volume with a regular grid: 1 on its lines, 0 between; to see how it is deformed.

    Parameters
    ----------
    like
        Shape (z, y, x) or fewer from the left, or a stack whose spatial dims and positions to
        take.
    spacing
        Distance from line to line in the unit of the positions: one number, or by dim.
    thickness
        Of the lines.
    dim
        Dims across which the lines follow each other. With y and x every slice shows the same
        grid; with z too it is cut by walls.
    centre
        Position by dim where lines cross; that of voxel ``n // 2`` for dims not named.
    soft
        Width over which lines fall to 0, along a raised cosine.
    dtype
        A float type.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims.

    Raises
    ------
    LabelError
        If the spacing is not positive, or of a dim that is not there.

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
    where = space(like)
    across = dims_of(where, dim)
    periods = per_dim(spacing, across, "spacing")
    bad = {d: p for d, p in periods.items() if not (is_number(p) and 0 < p < inf)}
    if bad:
        raise LabelError(f"spacing gives lengths above 0 along {across}, got {bad}")
    kernel = partial(
        membranes_and_wedges.grid_lines, centre=middle(where, centre), step=steps(where),
        spacing=triple(where, periods), half=not_negative("thickness", thickness) / 2,
        soft=not_negative("soft", soft), dtype=float_dtype(dtype),
    )  # fmt: skip
    return made(kernel, where, dtype, "grid_lines")


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

    A specimen turned by t degrees about ``axis``, right-handed, shows the frequencies with
    ``f_z = tan(t) f_x`` (for a beam along z and the axis y), in cycles per unit of length: voxels
    that are no cubes are accounted for.

    Parameters
    ----------
    like
        Shape (z, y, x), or a stack whose spatial dims and positions to take.
    tilts
        Lowest and highest tilt in degrees, between -90 and 90.
    axis, beam
        Dims of the tilt axis and of the beam.
    layout
        ``"fft"``: frequency 0 is voxel 0, to multiply ``numpy.fft.fftn(volume)`` with.
        ``"centred"``: it is voxel ``n // 2``, as after ``numpy.fft.fftshift``.
    dtype
        A float type.

    Returns
    -------
    xarray.DataArray
        Lazy, over the dims and with the positions of the volume whose transform it masks;
        ``attrs`` tell the layout, the tilts, the axis and the beam.

    Raises
    ------
    LabelError
        If an option is none of these.

    Examples
    --------
    >>> import lazyvol as lv
    >>> mask = lv.synthetic.wedge((64, 64, 64), (-60, 60))
    >>> round(float(mask.mean()), 2)  # a third of the angles is missing
    0.71
    """
    where = space(like)
    across = [d for d in SPATIAL if d not in (axis, beam)]
    if set(where.dims) != set(SPATIAL) or {axis, beam} - set(SPATIAL) or len(across) != 1:
        raise LabelError(
            f"a wedge lies in the dims {SPATIAL}, its axis and beam are two of them; got dims "
            f"{where.dims}, {axis=} and {beam=}"
        )
    low, high = _tilts(tilts)
    if layout not in ("fft", "centred"):
        raise LabelError(f"layout is 'fft' or 'centred', got {layout!r}")
    if SIGNS[beam, axis] < 0:
        low, high = -high, -low
    kernel = partial(
        membranes_and_wedges.wedge, shape=where.shape, beam=SPATIAL.index(beam),
        step=tuple(abs(spacing(where, d)) for d in SPATIAL), across=SPATIAL.index(across[0]),
        tilts=(low, high), centred=layout == "centred", dtype=float_dtype(dtype),
    )  # fmt: skip
    facts = {"layout": layout, "tilts": tuple(map(float, tilts)), "tilt_axis": axis, "beam": beam}
    return made(kernel, where, dtype, "wedge").assign_attrs(facts)


#: a right-handed turn about ``axis`` takes ``beam`` to the third dim (1) or away from it (-1)
SIGNS = {
    ("z", "y"): 1, ("x", "z"): 1, ("y", "x"): 1, ("z", "x"): -1, ("x", "y"): -1, ("y", "z"): -1,
}  # fmt: skip


def _tilts(tilts: Sequence[float]) -> tuple[float, float]:
    found = tuple(map(float, tilts))
    if len(found) != 2 or not -90 <= found[0] <= found[1] <= 90:
        raise LabelError(f"tilts are two angles from -90 to 90 degrees, rising, got {tilts!r}")
    return found[0], found[1]

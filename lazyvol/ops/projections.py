"""Projections of volumes, or of slabs of them, along a spatial dim.

Each is the statistic of its name in ``lazyvol.stats`` along one dim, and reads the data once.
"""

from typing import Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.ops import stats
from lazyvol.stack import SPATIAL, position_values, spatial_dims, unit_of

__all__ = ["max", "mean", "min", "slab", "std", "sum"]

Reduce = Literal["sum", "mean", "max", "min", "std"]


@operation
def sum(
    stack: xr.DataArray, dim: str = "z", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Sum along ``dim``: the projection of a transmission microscope.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    dim
        Spatial dim to project along: "z", "y" or "x".
    skipna
        Leave NaN out. By default one NaN makes its projection NaN.
    mask
        Boolean, over any dims of the stack: only voxels where it is True count. All by default.

    Returns
    -------
    xarray.DataArray
        Without ``dim``; other dims, coordinates and the unit of the stack stay.
        0 where nothing counts.

    Raises
    ------
    LabelError
        If ``dim`` is no spatial dim of the stack, or the mask is not boolean or does not fit.

    References
    ----------
    ``numpy.sum``; ``lazyvol.stats.sum``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> lv.projections.sum(lv.synthetic.sphere((7, 7, 7), radius=2), "x")[3].values
    array([0., 1., 3., 5., 3., 1., 0.], dtype=float32)
    """
    return stats.sum(stack, _spatial("sum", stack, dim), skipna=skipna, mask=mask)


@operation
def mean(
    stack: xr.DataArray, dim: str = "z", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Average along ``dim``.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``sum``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``; other dims, coordinates and the unit of the stack stay.
        NaN where nothing counts.

    Raises
    ------
    LabelError
        If ``dim`` is no spatial dim of the stack, or the mask is not boolean or does not fit.

    References
    ----------
    ``numpy.mean``; ``lazyvol.stats.mean``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.projections.mean(lv.as_stack(np.arange(8.0).reshape(2, 2, 2))).values
    array([[2., 3.],
           [4., 5.]])
    """
    return stats.mean(stack, _spatial("mean", stack, dim), skipna=skipna, mask=mask)


@operation
def max(
    stack: xr.DataArray, dim: str = "z", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Maximum along ``dim``: maximum intensity projection.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``sum``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``; other dims, coordinates and the unit of the stack stay.
        As ``lazyvol.stats.max`` where nothing counts.

    Raises
    ------
    LabelError
        If ``dim`` is no spatial dim of the stack, or the mask is not boolean or does not fit.

    References
    ----------
    ``numpy.max``; ``lazyvol.stats.max``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.projections.max(lv.as_stack(np.arange(8).reshape(2, 2, 2)), "y").values
    array([[2, 3],
           [6, 7]])
    """
    return stats.max(stack, _spatial("max", stack, dim), skipna=skipna, mask=mask)


@operation
def min(
    stack: xr.DataArray, dim: str = "z", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Minimum along ``dim``: minimum intensity projection.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``sum``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``; other dims, coordinates and the unit of the stack stay.
        As ``lazyvol.stats.min`` where nothing counts.

    Raises
    ------
    LabelError
        If ``dim`` is no spatial dim of the stack, or the mask is not boolean or does not fit.

    References
    ----------
    ``numpy.min``; ``lazyvol.stats.min``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.projections.min(lv.as_stack(np.arange(8).reshape(2, 2, 2)), "x").values
    array([[0, 2],
           [4, 6]])
    """
    return stats.min(stack, _spatial("min", stack, dim), skipna=skipna, mask=mask)


@operation
def std(
    stack: xr.DataArray,
    dim: str = "z",
    *,
    ddof: int = 0,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Standard deviation along ``dim``.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``sum``.
    ddof
        Degrees of freedom to subtract from the number of voxels, 0 or more.

    Returns
    -------
    xarray.DataArray
        Without ``dim``; other dims, coordinates and the unit of the stack stay.
        NaN where nothing counts.

    Raises
    ------
    LabelError
        If ``dim`` is no spatial dim of the stack, or the mask is not boolean or does not fit.
    OptionError
        If ``ddof`` is negative or not less than the number of voxels.

    References
    ----------
    ``numpy.std``; ``lazyvol.stats.std``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.projections.std(lv.as_stack(np.arange(8.0).reshape(2, 2, 2))).values
    array([[2., 2.],
           [2., 2.]])
    """
    return stats.std(stack, _spatial("std", stack, dim), ddof=ddof, skipna=skipna, mask=mask)


@operation(unbounded=("start", "stop"))
def slab(
    stack: xr.DataArray,
    dim: str,
    start: float,
    stop: float,
    reduce: Reduce = "mean",
    *,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Projection of the voxels whose centres lie between ``start`` and ``stop`` along ``dim``.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``sum``.
    start, stop
        First and last position, both included, in the unit of the coordinate of ``dim``.
    reduce
        ``"sum"``, ``"mean"``, ``"max"``, ``"min"`` or ``"std"``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``, whose middle position stays as a coordinate. Only the slab is read.

    Raises
    ------
    LabelError
        If the slab contains no voxel centre, ``dim`` is no spatial dim of the stack, or the mask is
        not boolean or does not fit.

    References
    ----------
    The projections of this module.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(5.0).reshape(5, 1, 1), voxel_size=2.0, unit="nm")
    >>> projection = lv.projections.slab(volume, "z", 2.0, 6.0)
    >>> projection.item(), projection.z.item(), projection.z.attrs["units"]
    (2.0, 4.0, 'nm')
    """
    positions = _positions(stack, _spatial("slab", stack, dim))
    inside = np.flatnonzero((positions >= start) & (positions <= stop))
    if not inside.size:
        first, last = positions.min(initial=np.inf), positions.max(initial=-np.inf)
        raise LabelError(
            f"slab: start and stop must enclose a voxel centre along {dim!r}, got {start=} and "
            f"{stop=}; positions run from {first:g} to {last:g} {unit_of(stack, dim)}"
        )
    part = {dim: slice(int(inside[0]), int(inside[-1]) + 1)}
    if mask is not None and dim in mask.dims:
        mask = mask.isel(part)
    projection = REDUCTIONS[reduce](stack.isel(part), dim, skipna=skipna, mask=mask)
    middle = (positions[inside[0]] + positions[inside[-1]]) / 2
    return projection.assign_coords({dim: ((), middle, {"units": unit_of(stack, dim)})})


REDUCTIONS = {"sum": sum, "mean": mean, "max": max, "min": min, "std": std}


def _spatial(op: str, stack: xr.DataArray, dim: str) -> str:
    """Return ``dim``; raise LabelError unless it is a spatial dim of the stack."""
    if dim not in SPATIAL:
        raise LabelError(
            f"{op}: dim must be one of {SPATIAL}, got {dim=}; lazyvol.stats reduces other dims"
        )
    if dim not in stack.dims:
        raise LabelError(
            f"{op}: dim must be a dim of the stack, got {dim=} for {stack.dims}; name one of "
            f"{spatial_dims(stack)}, or reduce images over others with lazyvol.stats"
        )
    return dim


def _positions(stack: xr.DataArray, dim: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the positions of the voxel centres; their indices if there is no coordinate."""
    if dim in stack.coords:
        return position_values(stack, dim)
    return np.arange(stack.sizes[dim], dtype=np.float64)

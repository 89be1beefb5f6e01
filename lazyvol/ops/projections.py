"""Projections of volumes along a spatial dim, and of slabs cut out of them.

Each is the statistic of the same name in ``lazyvol.stats``, along ``"z"`` by default: it takes the
same ``skipna`` and ``mask``, keeps the other dims with their positions, and reads the data once.
"""

from typing import Literal

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.ops import stats
from lazyvol.stack import SPATIAL, require_stack, spatial_dims, unit_of

__all__ = ["max", "mean", "min", "slab", "std", "sum"]

Reduce = Literal["sum", "mean", "max", "min", "std"]


@operation
def sum(
    stack: xr.DataArray, dim: str = "z", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Sum of the voxels along ``dim``: the projection of a transmission microscope.

    Examples
    --------
    >>> import lazyvol as lv
    >>> lv.projections.sum(lv.synthetic.sphere((7, 7, 7), radius=2), "x")[3].values
    array([0., 1., 3., 5., 3., 1., 0.], dtype=float32)
    """
    return stats.sum(stack, _spatial(stack, dim), skipna=skipna, mask=mask)


@operation
def mean(
    stack: xr.DataArray, dim: str = "z", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Average of the voxels along ``dim``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.projections.mean(lv.as_stack(np.arange(8.0).reshape(2, 2, 2))).values
    array([[2., 3.],
           [4., 5.]])
    """
    return stats.mean(stack, _spatial(stack, dim), skipna=skipna, mask=mask)


@operation
def max(
    stack: xr.DataArray, dim: str = "z", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Greatest voxel along ``dim``: maximum intensity projection.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.projections.max(lv.as_stack(np.arange(8).reshape(2, 2, 2)), "y").values
    array([[2, 3],
           [6, 7]])
    """
    return stats.max(stack, _spatial(stack, dim), skipna=skipna, mask=mask)


@operation
def min(
    stack: xr.DataArray, dim: str = "z", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Least voxel along ``dim``: minimum intensity projection.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.projections.min(lv.as_stack(np.arange(8).reshape(2, 2, 2)), "x").values
    array([[0, 2],
           [4, 6]])
    """
    return stats.min(stack, _spatial(stack, dim), skipna=skipna, mask=mask)


@operation
def std(
    stack: xr.DataArray,
    dim: str = "z",
    *,
    ddof: int = 0,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Standard deviation of the voxels along ``dim``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.projections.std(lv.as_stack(np.arange(8.0).reshape(2, 2, 2))).values
    array([[2., 2.],
           [2., 2.]])
    """
    return stats.std(stack, _spatial(stack, dim), ddof=ddof, skipna=skipna, mask=mask)


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
    """Projection of the voxels whose centres lie from ``start`` to ``stop`` along ``dim``.

    Parameters
    ----------
    stack
        Stack or volume.
    dim
        Spatial dim to cut and to project along.
    start, stop
        Positions in the unit of the coordinate of ``dim``, both included.
    reduce
        ``"sum"``, ``"mean"``, ``"max"``, ``"min"`` or ``"std"``.
    skipna, mask
        As in ``lazyvol.stats``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``; its middle position stays as a coordinate. Only the slab is read.

    Raises
    ------
    LabelError
        If no voxel lies in the slab, or ``dim`` is not a spatial dim of the stack.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(5.0).reshape(5, 1, 1), voxel_size=2.0, unit="nm")
    >>> found = lv.projections.slab(volume, "z", 2.0, 6.0)
    >>> found.item(), found.z.item(), found.z.attrs["units"]
    (2.0, 4.0, 'nm')
    """
    if reduce not in REDUCTIONS:
        raise LabelError(f"reduce is one of {tuple(REDUCTIONS)}, got {reduce!r}")
    require_stack(stack)
    where = _positions(stack, _spatial(stack, dim))
    inside = np.flatnonzero((where >= start) & (where <= stop))
    if not inside.size:
        ends = (where.min(initial=np.inf), where.max(initial=-np.inf))
        raise LabelError(
            f"no voxel lies from {start=} to {stop=} along {dim!r}, whose positions run from "
            f"{ends[0]:g} to {ends[1]:g} {unit_of(stack, dim)}"
        )
    part = {dim: slice(int(inside[0]), int(inside[-1]) + 1)}
    cut = None if mask is None or dim not in mask.dims else mask.isel(part)
    found = REDUCTIONS[reduce](
        stack.isel(part), dim, skipna=skipna, mask=mask if cut is None else cut
    )
    middle = (where[inside[0]] + where[inside[-1]]) / 2
    return found.assign_coords({dim: ((), middle, {"units": unit_of(stack, dim)})})


REDUCTIONS = {"sum": sum, "mean": mean, "max": max, "min": min, "std": std}


def _spatial(stack: xr.DataArray, dim: str) -> str:
    if dim not in SPATIAL:
        raise LabelError(
            f"a projection is along one of {SPATIAL}, got {dim=}; lazyvol.stats reduces any dims"
        )
    if dim not in require_stack(stack).dims:
        raise LabelError(
            f"dim must be a dim of the stack, got {dim=} for {tuple(stack.dims)}; name one of "
            f"{spatial_dims(stack)}, or reduce images over others with lazyvol.stats"
        )
    return dim


def _positions(stack: xr.DataArray, dim: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Positions of the voxel centres; their numbers where the stack has no coordinate."""
    if dim in stack.coords:
        return np.asarray(stack.coords[dim].values, np.float64)
    return np.arange(stack.sizes[dim], dtype=np.float64)

"""Points brought to the cells of a grid, and gathered there."""

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import point_histogram as kernels
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.stack import SPATIAL, float_of, spacing, unit_of, with_units

#: dims of positions: one row for each point, one column for each of its coordinates
POINT, AXIS = "point", "axis"


def gathered(
    positions: xr.DataArray, weights: xr.DataArray | None, grid: xr.DataArray, linear: bool
) -> xr.DataArray:
    """Sums of weights, or numbers of points, in the voxels of a grid."""
    where = _located(positions)
    counted = () if weights is None else (_counted(weights, where),)
    spec = _fold(grid, linear, *counted)
    found = fold(spec, _cells(where, grid), *counted, dims=(POINT, AXIS), title="points")["sum"]
    found.attrs = {**(with_units(where, 0) if weights is None else weights.attrs)}
    return found.assign_coords({str(n): c.variable for n, c in grid.coords.items()})


def _located(positions: xr.DataArray) -> xr.DataArray:
    """Positions with their dims in the order (..., point, axis)."""
    if positions.ndim == 2 and not {POINT, AXIS} & set(positions.dims):
        names = dict(zip(positions.dims, (POINT, AXIS), strict=True))
        positions = positions.drop_vars(names, errors="ignore").rename(names)
    if not {POINT, AXIS} <= set(positions.dims):
        raise LabelError(
            f"positions have the dims {POINT!r} and {AXIS!r}, got {positions.dims}; rename them"
        )
    return positions.transpose(..., POINT, AXIS)


def _counted(weights: xr.DataArray, where: xr.DataArray) -> xr.DataArray:
    """Weights over dims of the positions."""
    if weights.ndim == 1 and weights.dims[0] not in where.dims:
        name = str(weights.dims[0])
        weights = weights.drop_vars(name, errors="ignore").rename({name: POINT})
    wrong = [d for d in weights.dims if d not in where.dims or d == AXIS]
    if wrong:
        raise LabelError(f"weights are over dims of the points, {where.dims[:-1]}, got {wrong}")
    return weights


def _cells(where: xr.DataArray, grid: xr.DataArray) -> xr.DataArray:
    """Positions in voxels of the grid, along its axes."""
    dims = tuple(str(d) for d in grid.dims)
    taken = [d for d in dims if d in where.dims]
    if taken:
        raise LabelError(f"the grid has its own {taken}, the positions have them too; rename them")
    unit = where.attrs.get("units")
    for d in dims:
        if unit is not None and "voxel" not in (unit, own := unit_of(grid, d)) and unit != own:
            raise LabelError(f"positions are in {unit}, the grid's {d!r} in {own}; convert one")
    kernel = partial(
        kernels.cells, order=_components(where, dims), step=[spacing(grid, d) for d in dims],
        first=[float(grid.coords[d][0]) if d in grid.coords else 0.0 for d in dims],
    )  # fmt: skip
    return blockwise(
        kernel, where, core=(AXIS,), out=tuple(map(str, where.dims)), sizes={AXIS: kernels.AXES},
        dtype=np.dtype(np.float64), scratch=8.0, title="cells",
    )  # fmt: skip


def _components(where: xr.DataArray, dims: Sequence[str]) -> tuple[int, ...]:
    """Column of the positions along each dim of the grid."""
    if AXIS in where.coords and where.coords[AXIS].dtype.kind in "UOT":
        names = [str(n) for n in where.coords[AXIS].values]
        if len(set(names)) == len(names) and set(dims) <= set(names):
            return tuple(names.index(d) for d in dims)
        raise LabelError(f"components of the positions cover the grid's {dims}, got {names}")
    if where.sizes[AXIS] != len(dims):
        raise LabelError(
            f"positions have a component for each dim of the grid, {dims}, got "
            f"{where.sizes[AXIS]}; name them in a coordinate {AXIS!r}"
        )
    order = sorted(dims, key=SPATIAL.index)
    return tuple(order.index(d) for d in dims)


def _fold(grid: xr.DataArray, linear: bool, weights: xr.DataArray | None = None) -> Fold:
    """The fold that adds points to a grid."""
    whole = weights is None and not linear
    dtype = np.dtype(np.int64 if whole else np.float64)
    result = dtype if weights is None else float_of(weights.dtype)
    dims, shape = tuple(str(d) for d in grid.dims), tuple(grid.shape)
    return Fold(
        start=partial(kernels.start, grid=shape, exact=whole),
        update=partial(kernels.update, grid=shape, linear=linear),
        combine=kernels.combine,
        finish=kernels.finish,
        outputs={"sum": Output(result, dims, shape)},
        state_bytes=prod(shape) * (8 if whole else 16),
        finish_bytes=prod(shape) * (result.itemsize + 8 * (not whole)),
        scratch=8.0,
    )

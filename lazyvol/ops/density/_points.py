"""Points converted to cells of a grid, and their histogram."""

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

#: dims of positions: one row per point, one column per coordinate
POINT, AXIS = "point", "axis"


def histogram(
    positions: xr.DataArray, weights: xr.DataArray | None, grid: xr.DataArray, linear: bool
) -> xr.DataArray:
    """Return sums of weights, or numbers of points, in the voxels of a grid."""
    positions = _with_point_dims(positions)
    tables = () if weights is None else (_over_points(weights, positions),)
    cells = _to_cells(positions, grid)
    spec = _fold(grid, linear, *tables)
    sums = fold(spec, cells, *tables, dims=(POINT, AXIS), title="points")["sum"]
    sums.attrs = {**(with_units(positions, 0) if weights is None else weights.attrs)}
    return sums.assign_coords({str(n): c.variable for n, c in grid.coords.items()})


def _with_point_dims(positions: xr.DataArray) -> xr.DataArray:
    """Return positions with the dims (..., point, axis)."""
    if positions.ndim == 2 and not {POINT, AXIS} & set(positions.dims):
        names = dict(zip(positions.dims, (POINT, AXIS), strict=True))
        positions = positions.drop_vars(names, errors="ignore").rename(names)
    if not {POINT, AXIS} <= set(positions.dims):
        raise LabelError(
            f"points: positions must have the dims {POINT!r} and {AXIS!r}, got {positions.dims}; "
            f"rename them"
        )
    return positions.transpose(..., POINT, AXIS)


def _over_points(weights: xr.DataArray, positions: xr.DataArray) -> xr.DataArray:
    """Return weights over dims of the positions; one dim of another name is renamed."""
    if weights.ndim == 1 and weights.dims[0] not in positions.dims:
        name = str(weights.dims[0])
        weights = weights.drop_vars(name, errors="ignore").rename({name: POINT})
    wrong = [d for d in weights.dims if d not in positions.dims or d == AXIS]
    if wrong:
        raise LabelError(
            f"points: weights must have dims of the points, {positions.dims[:-1]}, got {wrong}; "
            f"rename or leave them out"
        )
    return weights


def _to_cells(positions: xr.DataArray, grid: xr.DataArray) -> xr.DataArray:
    """Return positions in voxels of the grid, along its axes."""
    dims = tuple(str(d) for d in grid.dims)
    shared = [d for d in dims if d in positions.dims]
    if shared:
        raise LabelError(
            f"points: positions must not have dims of the grid, got {shared}; rename them"
        )
    unit = positions.attrs.get("units")
    for d in dims:
        grid_unit = unit_of(grid, d)
        if unit not in (None, grid_unit):
            raise LabelError(
                f"points: positions must be in the unit of the grid's {d!r}, {grid_unit}, got "
                f"{unit}; convert one of them"
            )
    kernel = partial(
        kernels.to_cells, order=_columns(positions, dims), step=[spacing(grid, d) for d in dims],
        first=[float(grid.coords[d][0]) if grid.sizes[d] and d in grid.coords else 0.0
               for d in dims],
    )  # fmt: skip
    return blockwise(
        kernel, positions, core=(AXIS,), out=tuple(map(str, positions.dims)),
        sizes={AXIS: kernels.AXES}, dtype=np.dtype(np.float64), scratch=8.0, title="cells",
    )  # fmt: skip


def _columns(positions: xr.DataArray, dims: Sequence[str]) -> tuple[int, ...]:
    """Return the column of the positions for each dim of the grid."""
    if AXIS in positions.coords and positions.coords[AXIS].dtype.kind in "UOT":
        names = [str(n) for n in positions.coords[AXIS].values]
        if len(set(names)) == len(names) and set(dims) <= set(names):
            return tuple(names.index(d) for d in dims)
        raise LabelError(
            f"points: positions must have one column for each dim of the grid, {dims}, got "
            f"{names}; change their coordinate {AXIS!r}"
        )
    if positions.sizes[AXIS] != len(dims):
        raise LabelError(
            f"points: positions must have one column for each dim of the grid, {dims}, got "
            f"{positions.sizes[AXIS]}; name them in a coordinate {AXIS!r}"
        )
    order = sorted(dims, key=SPATIAL.index)
    return tuple(order.index(d) for d in dims)


def _fold(grid: xr.DataArray, linear: bool, weights: xr.DataArray | None = None) -> Fold:
    """Return the fold that adds points to a grid."""
    exact = weights is None and not linear
    dtype = np.dtype(np.int64 if exact else np.float64)
    result = dtype if weights is None else float_of(weights.dtype)
    dims, shape = tuple(str(d) for d in grid.dims), tuple(grid.shape)
    return Fold(
        start=partial(kernels.start, grid=shape, exact=exact),
        update=partial(kernels.update, grid=shape, linear=linear),
        combine=kernels.combine,
        finish=kernels.finish,
        outputs={"sum": Output(result, dims, shape)},
        state_bytes=prod(shape) * (8 if exact else 16),
        finish_bytes=prod(shape) * (result.itemsize + 8 * (not exact)),
        scratch=8.0,
    )

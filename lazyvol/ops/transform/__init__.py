"""Transforms: volumes on other grids, at other positions, at other voxel sizes.

Values between voxels are those of a B-spline of order 0 (the nearest voxel) to 5, 1 (linear) by
default, as in ``scipy.ndimage``. Every transform is a map along the spatial dims of the stack, one
for all particles or one for each. It is a map of positions, in the unit of the coordinates. For a
stack of voxel size 1 whose positions begin at 0 these are voxels, as in scipy.

``mode`` continues a volume beyond its border by the names of scipy: ``"constant"`` (``fill``
beyond the outermost voxel centres), ``"grid-constant"`` (``fill``, interpolated), ``"nearest"``,
``"mirror"``, ``"reflect"``, ``"grid-wrap"`` (periodic) and ``"wrap"`` (periodic with the first and
last voxel at one place).

Rotations of particles about their centre, and shifts, are in ``registration``.

Each block reads the box of the volume that it comes from. Coefficients of splines of order 2 and
more depend on the whole volume: the box is extended by 14 to 45 voxels (order 3: 14 for float32, 31
for float64), so that the error is below the rounding of the result.

Floats keep their dtype, other numbers give float64; with order 0 any dtype is kept. NaN spreads to
the values interpolated from it: with order 2 and more to the whole box.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.kernels.geometry import resampling
from lazyvol.kernels.geometry.resampling import AffineSampling, Mode, Spline
from lazyvol.ops import filters
from lazyvol.ops._checks import require_held
from lazyvol.ops._grid import Like
from lazyvol.ops.transform import _grids
from lazyvol.plan.resampled import on_grid, resample
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import STACK, Sigma, float_of, spacing

__all__ = ["affine", "map_coordinates", "rescale", "zoom"]

Order: TypeAlias = Literal[0, 1, 2, 3, 4, 5]
Numbers: TypeAlias = xr.DataArray | np.ndarray[Any, np.dtype[Any]] | Sequence[Any]
FilterMode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap"]
#: the transforms' name for each mode of the filters
GRID_MODES: dict[str, Mode] = {"constant": "grid-constant", "wrap": "grid-wrap"}


@operation(siblings=("like",), unbounded=("fill",))
def affine(
    stack: xr.DataArray,
    matrix: Numbers,
    offset: Sequence[float] | float = 0.0,
    *,
    like: Like | None = None,
    order: Order = 1,
    mode: Mode = "constant",
    fill: float = 0.0,
) -> xr.DataArray:
    """Volumes under an affine map: the value at position q is that of the stack at M q + offset.

    A single map is applied block by block. A map for each particle needs whole volumes in a task.
    ``transform.affine(stack, numpy.eye(3), like=other)`` resamples a stack on the grid of another.

    Parameters
    ----------
    stack
        Volumes (z, y, x), images (y, x) or profiles, with any other dims.
    matrix
        The matrix M for positions in the order z, y, x: (n, n) for n spatial dims, its diagonal
        (n,), or with the offset as last column (n, n + 1), or homogeneous (n + 1, n + 1); of
        matrices with a leading axis (k, ...), one for each particle.
    offset
        Position of the stack at position 0 of the result for ``M q = 0``: one number for all dims,
        or one for each, or (k, n).
    like
        Grid of the result: a stack whose positions along the spatial dims are taken, or the
        lengths of the result, from the first voxel of the stack on. By default the stack's own.
    order
        Order of the spline, 0 to 5.
    mode
        Values beyond the border, as in ``scipy.ndimage``: ``"constant"``, ``"grid-constant"``,
        ``"nearest"``, ``"mirror"``, ``"reflect"``, ``"grid-wrap"`` or ``"wrap"``.
    fill
        Value beyond the border in the constant modes.

    Returns
    -------
    xarray.DataArray
        Same dims and unit, at the positions of ``like``.

    Raises
    ------
    LabelError
        If matrix, offset or ``like`` do not fit the spatial dims of the stack, or ``fill`` does not
        suit the dtype.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    The counterpart of ``scipy.ndimage.affine_transform`` and
    ``dask_image.ndinterp.affine_transform``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]), dims=("y", "x"))
    >>> lv.transform.affine(image, [[0, 1], [1, 0]], like=(3, 2)).values
    array([[0., 3.],
           [1., 4.],
           [2., 5.]])
    """
    dims = _grids.volume_dims("affine", stack)
    spline, dtype = _spline("affine", stack, order, mode, fill)
    grid = _grids.target_grid("affine", stack, dims, like)
    rows = _grids.maps_in_positions("affine", stack, dims, matrix, offset)
    voxels = _grids.maps_in_voxels("affine", stack, dims, grid, rows)
    if voxels.ndim == 2:
        return _resampled("affine", stack, dims, grid, voxels, spline, dtype)
    return _each_resampled(stack, dims, grid, voxels, spline, dtype)


@operation(unbounded=("fill", "coordinates"), siblings=("coordinates",), dims={
    "coordinates": (("axis",), ("axis", "point"), ("axis", "y", "x"), ("axis", "z", "y", "x")),
})  # fmt: skip
def map_coordinates(
    stack: xr.DataArray,
    coordinates: xr.DataArray,
    *,
    order: Order = 1,
    mode: Mode = "constant",
    fill: float = 0.0,
) -> xr.DataArray:
    """Values of every volume at given positions, on voxels or between them.

    A task holds whole volumes and all positions.

    Parameters
    ----------
    stack, order, mode, fill
        As for ``affine``.
    coordinates
        Positions (axis, ...) in the unit of the stack, one row for each spatial dim in the order z,
        y, x, with any other dims: of points, a curve, a surface or a deformed grid.

    Returns
    -------
    xarray.DataArray
        The dims of the stack that are not spatial, then those of ``coordinates`` without ``axis``;
        in the unit of the stack. NaN at positions that are not finite; ``fill`` where the dtype has
        no NaN.

    Raises
    ------
    LabelError
        If ``coordinates`` have no ``axis`` of the length of the spatial dims, or share other dims
        with the stack, or ``fill`` does not suit the dtype.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    The counterpart of ``scipy.ndimage.map_coordinates``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.array([[0.0, 1.0], [2.0, 3.0]]), voxel_size=2.0, dims=("y", "x"))
    >>> lv.transform.map_coordinates(image, [[0.0, 1.0], [2.0, 0.5]]).values
    array([1.  , 1.25])
    """
    dims = _grids.volume_dims("map_coordinates", stack)
    spline, dtype = _spline("map_coordinates", stack, order, mode, fill)
    points = _grids.points("map_coordinates", stack, dims, coordinates)
    lead = [str(d) for d in stack.dims if d not in dims]
    lengths = {str(d): n for d, n in points.sizes.items() if d != _grids.AXIS}
    first, step = _grids.first_and_step(stack, dims, {})
    kernel = partial(
        resampling.sample_points, axes=tuple(stack.dims.index(d) for d in dims),
        origin=tuple(first.tolist()), step=tuple(step.tolist()), spline=spline, dtype=dtype,
    )  # fmt: skip
    plain = stack.drop_vars([n for n, c in stack.coords.items() if set(c.dims) & set(dims)])
    values = blockwise(
        kernel, plain, tables=(points,), core=dims, out=(*lead, *lengths), sizes=lengths,
        dtype=dtype, title="map_coordinates",
        scratch=_scratch(stack, dims, spline, resampling.batch_bytes(len(dims))),
    )  # fmt: skip
    own = {n: c for n, c in points.coords.items() if n != _grids.AXIS and _grids.AXIS not in c.dims}
    return values.assign_coords(own)


@operation(unbounded=("fill",))
def zoom(
    stack: xr.DataArray,
    factor: Sigma,
    *,
    order: Order = 1,
    mode: Mode = "constant",
    fill: float = 0.0,
    grid_mode: bool = False,
) -> xr.DataArray:
    """Volumes with more or fewer voxels over an unchanged extent, without smoothing.

    Parameters
    ----------
    stack, order, mode, fill
        As for ``affine``.
    factor
        Voxels of the result per voxel, rounded to a whole length: one number for all spatial dims,
        one for each in the order z, y, x, or a mapping by dim (1 for dims not named).
    grid_mode
        False: the extent is that between the centres of the first and the last voxel, whose
        positions are kept. True: it includes the voxels' halves beyond these, as for
        ``transform.rescale``.

    Returns
    -------
    xarray.DataArray
        Same dims and unit, at positions of the new voxel size.

    Raises
    ------
    LabelError
        If ``factor`` is not above 0 or names another dim, or ``fill`` does not suit the dtype.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    The counterpart of ``scipy.ndimage.zoom``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0.0, 4.0, 8.0]]]), voxel_size=2.0)
    >>> finer = lv.transform.zoom(row, {"x": 5 / 3})
    >>> finer.values, finer.x.values
    (array([[[0., 2., 4., 6., 8.]]]), array([0., 1., 2., 3., 4.]))
    """
    dims = _grids.volume_dims("zoom", stack)
    spline, dtype = _spline("zoom", stack, order, mode, fill)
    scale = _grids.factors("zoom", "factor", stack, dims, factor)
    return _zoomed("zoom", stack, dims, scale, spline, dtype, bool(grid_mode))


@operation(unbounded=("fill",))
def rescale(
    stack: xr.DataArray,
    scale: Sigma,
    *,
    order: Order = 1,
    mode: FilterMode = "reflect",
    fill: float = 0.0,
    anti_aliasing: bool = True,
) -> xr.DataArray:
    """Volumes with more or fewer voxels over an unchanged box, smoothed before a reduction.

    Parameters
    ----------
    stack
        Volumes (z, y, x), images (y, x) or profiles, with any other dims.
    scale
        Voxels of the result per voxel, rounded to a whole length: one number for all spatial dims,
        one for each in the order z, y, x, or a mapping by dim (1 for dims not named).
    order
        Order of the spline, 0 to 5; 0 and masks are not smoothed.
    mode
        Values beyond the border, as in the filters: ``"reflect"``, ``"mirror"``, ``"nearest"``,
        ``"constant"`` or ``"wrap"``.
    fill
        Value beyond the border for ``mode="constant"``.
    anti_aliasing
        Whether to smooth by a Gaussian first, along dims that become shorter: of standard deviation
        (1 / scale - 1) / 2 voxels. Without it, detail finer than the new voxels turns into noise.

    Returns
    -------
    xarray.DataArray
        Same dims and unit, at the centres of voxels of the new size.

    Raises
    ------
    LabelError
        If ``scale`` is not above 0 or names another dim, or ``fill`` does not suit the dtype.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    The counterpart of ``skimage.transform.rescale`` with ``clip=False``. For the means of blocks
    of whole voxels see ``density.block_mean``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0.0, 2.0, 4.0, 6.0]]]))
    >>> half = lv.transform.rescale(row, {"x": 0.5}, anti_aliasing=False)
    >>> half.values, half.x.values
    (array([[[1., 5.]]]), array([0.5, 2.5]))
    """
    dims = _grids.volume_dims("rescale", stack)
    scales = _grids.factors("rescale", "scale", stack, dims, scale)
    spline, dtype = _spline("rescale", stack, order, GRID_MODES.get(mode, mode), fill)
    lengths = _lengths("rescale", "scale", stack, dims, scales)
    smooth = {
        d: max(0.0, (stack.sizes[d] / n - 1) / 2) * abs(spacing(stack, d))
        for d, n in zip(dims, lengths, strict=True)
    }
    if anti_aliasing and order and stack.dtype != bool and max(smooth.values()) > 0:
        stack = filters.gaussian(stack, smooth, mode=mode, fill=fill)
    return _zoomed("rescale", stack, dims, scales, spline, dtype, True)


# parts --------------------------------------------------------------------------------------------


def _spline(
    op: str, stack: xr.DataArray, order: int, mode: Any, fill: float
) -> tuple[Spline, np.dtype[Any]]:
    """Return the spline, and the dtype of the result."""
    dtype = stack.dtype if order == 0 else float_of(stack.dtype)
    require_held(op, dtype, fill)
    return Spline(order, mode, float(fill)), dtype


def _lengths(
    op: str, param: str, stack: xr.DataArray, dims: Sequence[str], scale: Sequence[float]
) -> list[int]:
    """Return the lengths of a scaled result."""
    products = (stack.sizes[d] * s for d, s in zip(dims, scale, strict=True))
    wanted = (max(1, round(min(n, 2.0**62))) for n in products)
    return [_grids.require_length(op, param, n) for n in wanted]


def _zoomed(
    op: str,
    stack: xr.DataArray,
    dims: Sequence[str],
    scale: Sequence[float],
    spline: Spline,
    dtype: np.dtype[Any],
    grid_mode: bool,
) -> xr.DataArray:
    """Return a stack of other lengths, over the extent of its voxels or of their centres."""
    grid: _grids.Grid = {}
    rows = np.zeros((len(dims), len(dims) + 1))
    for row, d in enumerate(dims):
        n, m = stack.sizes[d], _lengths(op, "factor", stack, [d], [scale[row]])[0]
        step = n / m if grid_mode else (n - 1) / max(1, m - 1)
        start = 0.5 * step - 0.5 if grid_mode else 0.0
        rows[row, row], rows[row, -1] = step, start
        if m != n:
            grid[d] = _grids.positions(stack, d, start, step or 1.0, m)
    return _resampled(op, stack, dims, grid, rows, spline, dtype)


def _resampled(
    op: str,
    stack: xr.DataArray,
    dims: Sequence[str],
    grid: _grids.Grid,
    rows: np.ndarray[Any, Any],
    spline: Spline,
    dtype: np.dtype[Any],
) -> xr.DataArray:
    """Return a stack under one map of its voxels, block by block."""
    sampling = AffineSampling(
        axes=tuple(stack.dims.index(d) for d in dims),
        shape=tuple(stack.sizes[d] for d in dims),
        matrix=tuple(map(tuple, rows[:, :-1].tolist())),
        offset=tuple(rows[:, -1].tolist()),
        spline=spline,
        dtype=dtype,
    )
    return resample(sampling, stack, grid=grid, dtype=dtype, title=op)


def _each_resampled(
    stack: xr.DataArray,
    dims: Sequence[str],
    grid: _grids.Grid,
    rows: np.ndarray[Any, Any],
    spline: Spline,
    dtype: np.dtype[Any],
) -> xr.DataArray:
    """Return every particle resampled by its own map."""
    numbers = [
        xr.DataArray(column.copy(), dims=(STACK,))
        for column in rows.reshape(len(rows), prod(rows.shape[1:])).T
    ]
    lengths = {d: grid[d].size if d in grid else stack.sizes[d] for d in dims}
    kernel = partial(
        resampling.sample_particles, axes=tuple(stack.dims.index(d) for d in dims),
        shape=tuple(lengths.values()), spline=spline, dtype=dtype,
    )  # fmt: skip
    values = blockwise(
        kernel, stack, *numbers, core=dims, out=[str(d) for d in stack.dims], sizes=lengths,
        dtype=dtype, title="affine",
        scratch=_scratch(stack, dims, spline, spline.batch_bytes(list(lengths.values()))),
    )  # fmt: skip
    return on_grid(stack, grid).copy(data=values.data) if grid else values


def _scratch(stack: xr.DataArray, dims: Sequence[str], spline: Spline, batch: int) -> float:
    """Return bytes per voxel of whole volumes for coefficients and a batch of positions."""
    lengths = [stack.sizes[d] for d in dims]
    return (resampling.spline_bytes(spline, lengths) + batch) / prod(lengths)

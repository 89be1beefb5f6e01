"""Densities: share of nonzero voxels in blocks and windows, blocks reduced, histograms of points.

Sizes are in voxels: one number for all spatial dims of the array, one for each in the order z, y,
x, or a mapping from dims to numbers; dims that are not named are not reduced. A voxel counts as
full if it is not 0; NaN is full, as in ``numpy.count_nonzero``. To count voxels above a level pass
``array > level``. Shares are in [0, 1] and have no unit.
"""

from collections.abc import Mapping
from functools import partial as bound
from math import prod
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.filters import window_fill
from lazyvol.kernels.reductions import block_mean as block_kernels
from lazyvol.kernels.reductions import block_reduce as reduce_kernels
from lazyvol.ops._checks import lengths_in_voxels, require_window
from lazyvol.ops._grid import Like, spatial_grid
from lazyvol.ops.density import _points
from lazyvol.ops.filters import _windows
from lazyvol.ops.filters._windows import Boundary, Mode
from lazyvol.plan.verbs import stencil
from lazyvol.stack import Size, data_array, float_of, with_units

__all__ = ["block_mean", "block_reduce", "blocks", "local", "points"]

Partial = Literal["error", "trim", "keep"]
Method = Literal["nearest", "linear"]


@operation
def blocks(array: xr.DataArray, size: Size, *, partial: Partial = "error") -> xr.DataArray:
    """Share of nonzero voxels in every block of ``size``.

    Parameters
    ----------
    array
        Stack or volume of real numbers or booleans, any dims.
    size
        Voxels of a block along the spatial dims: one number, one for each in the order z, y, x, or
        a mapping from dims to numbers.
    partial
        Treatment of lengths that ``size`` does not divide: ``"error"`` refuses, ``"trim"`` drops
        the rest, ``"keep"`` makes it a smaller block.

    Returns
    -------
    xarray.DataArray
        One value per block, at the block's centre; a smaller last block is placed as if it were
        whole, so that centres are equally spaced. Other coordinates along reduced dims are dropped.
        Floats keep their dtype, others become float64; no unit.

    Raises
    ------
    LabelError
        If ``size`` names a dim that the array lacks, is not 1 or more, or does not divide a length
        with ``partial="error"``.
    OptionError
        If an option has the wrong type.

    References
    ----------
    The counterpart of ``skimage.measure.block_reduce`` of ``array != 0`` with ``numpy.mean``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(16).reshape(1, 4, 4) % 3, voxel_size=2.0, unit="nm")
    >>> density = lv.density.blocks(volume, {"y": 2, "x": 2})
    >>> density.values
    array([[[0.75, 0.5 ],
            [0.5 , 0.75]]])
    >>> density.x.values
    array([1., 5.])
    """
    kernel = bound(block_kernels.block_fill, dtype=float_of(array.dtype))
    shares = _reduce_blocks("blocks", kernel, array, size, partial, accepts_out=True)
    shares.attrs = {**with_units(array, 0)}
    return shares


@operation
def block_mean(array: xr.DataArray, size: Size, *, partial: Partial = "error") -> xr.DataArray:
    """Mean of every block of ``size``: the stack binned.

    Parameters
    ----------
    array, size, partial
        As for ``blocks``.

    Returns
    -------
    xarray.DataArray
        One value per block, at the block's centre, in the array's unit; NaN where a block holds a
        NaN. Sums are in float64. Floats keep their dtype, others become float64.

    Raises
    ------
    LabelError, OptionError
        As for ``blocks``.

    References
    ----------
    The counterpart of ``skimage.measure.block_reduce`` with ``numpy.mean``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(10.0).reshape(1, 1, 10))
    >>> lv.density.block_mean(volume, {"x": 4}, partial="keep").values
    array([[[1.5, 5.5, 8.5]]])
    >>> lv.density.block_mean(volume, {"x": 4}, partial="trim").x.values
    array([1.5, 5.5])
    """
    kernel = bound(block_kernels.block_mean, dtype=float_of(array.dtype))
    return _reduce_blocks("block_mean", kernel, array, size, partial, accepts_out=True)


@operation
def block_reduce(
    array: xr.DataArray,
    size: Size,
    reduce: Literal["max", "min", "sum", "median"],
    *,
    partial: Partial = "error",
) -> xr.DataArray:
    """Maximum, minimum, sum or median of every block of ``size``; for means see ``block_mean``.

    Parameters
    ----------
    array
        Stack or volume of real numbers or booleans, any dims.
    size
        Voxels of a block along the spatial dims: one number, one for each in the order z, y, x, or
        a mapping from dims to numbers.
    reduce
        ``"max"``, ``"min"``, ``"sum"`` or ``"median"``.
    partial
        Treatment of lengths that ``size`` does not divide: ``"error"`` refuses, ``"trim"`` drops
        the rest, ``"keep"`` makes it a smaller block. (``scikit-image`` fills it up with zeros.)

    Returns
    -------
    xarray.DataArray
        One value per block, at the block's centre, in the array's unit; NaN where a block holds a
        NaN. Extremes keep the dtype; sums (in float64) and medians keep that of floats, others
        become float64.

    Raises
    ------
    LabelError
        If ``size`` names a dim that the array lacks, is not 1 or more, or does not divide a length
        with ``partial="error"``.
    OptionError
        If an option has the wrong type.

    References
    ----------
    The counterpart of ``skimage.measure.block_reduce`` with ``numpy.max``, ``min``, ``sum`` or
    ``median``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(10).reshape(1, 1, 10) % 4)
    >>> lv.density.block_reduce(volume, {"x": 4}, "max", partial="keep").values
    array([[[3, 3, 1]]])
    >>> lv.density.block_reduce(volume, {"x": 5}, "median").values
    array([[[1., 1.]]])
    """
    dtype = array.dtype if reduce in ("max", "min") else float_of(array.dtype)
    kernel = bound(reduce_kernels.block_reduce, reduce=reduce, dtype=dtype)
    joined = 16.0 if reduce == "median" else float(dtype.itemsize)
    return _reduce_blocks("block_reduce", kernel, array, size, partial, scratch=joined)


@operation
def local(array: xr.DataArray, size: Size, *, mode: Mode = "valid") -> xr.DataArray:
    """Share of nonzero voxels in the window of ``size`` around every voxel.

    Exact, in a time that does not depend on the size. For means of a window see
    ``filters.uniform``.

    Parameters
    ----------
    array
        Stack or volume of real numbers or booleans, any dims.
    size
        Voxels of a window along the spatial dims: one number, one for each in the order z, y, x, or
        a mapping from one to three dims to numbers.
    mode
        ``"valid"`` keeps the windows inside the array. Others give one value per voxel,
        with the array continued as in ``scipy.ndimage``: ``"reflect"``, ``"mirror"``,
        ``"nearest"``, ``"wrap"``, or ``"constant"`` (0 beyond the border); windows of even size
        then have one voxel more before their centre than after it.

    Returns
    -------
    xarray.DataArray
        Same dims; positions of ``"valid"`` windows are their centres. Floats keep their dtype,
        others become float64; no unit.

    Raises
    ------
    LabelError
        If ``size`` names a dim that the array lacks, is not 1 or more, or is above 1 along more
        than three dims.
    OptionError
        If an option has the wrong type or ``mode`` is none of these.

    References
    ----------
    The counterpart of ``scipy.ndimage.uniform_filter`` of ``array != 0``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[1, 0, 2, 3, 0, 0]]]))
    >>> density = lv.density.local(volume, {"x": 2})
    >>> density.values, density.x.values
    (array([[[0.5, 0.5, 1. , 0.5, 0. ]]]), array([0.5, 1.5, 2.5, 3.5, 4.5]))
    >>> lv.density.local(volume, {"x": 3}, mode="constant").values.round(2)
    array([[[0.33, 0.67, 0.67, 0.67, 0.33, 0.  ]]])
    """
    sizes = lengths_in_voxels("local", array, size)
    if sum(n > 1 for n in sizes.values()) > window_fill.MAX_AXES:
        raise LabelError(
            f"local: size must be above 1 along one to three dims, got {sizes}; leave dims out"
        )
    require_window("local", "size", max(sizes.values()))
    valid, dtype = mode == "valid", float_of(array.dtype)
    window, boundary = tuple(sizes.get(str(d), 1) for d in array.dims), Boundary(mode)
    reach = [(n // 2, n // 2) for n in window]
    # counts are int32
    if not valid and (prod(window) >= 2**31 or boundary.is_wide(array, reach)):
        centred = _windows.placed("local", array, window)
        shares = _windows.uniform("local", array != 0, centred, boundary).astype(dtype)
    else:
        kernel = window_fill.fill_valid if valid else window_fill.fill_same
        shares = stencil(
            bound(kernel, sizes=window, dtype=dtype), array,
            depth={d: (n // 2, n - 1 - n // 2 if valid else n // 2) for d, n in sizes.items()},
            mode=mode, dtype=dtype, scratch=_copy_bytes(array.dtype), title="local",
        )  # fmt: skip
    shares.attrs = {**with_units(array, 0)}
    return _at_window_centres(shares, array, sizes) if valid else shares


@operation(
    dims={
        "positions": (("point", "axis"), ("k", "point", "axis")),
        "weights": (("point",), ("k", "point")),
        "like": (("y", "x"), ("z", "y", "x")),
    }
)
def points(
    positions: xr.DataArray,
    weights: xr.DataArray | None = None,
    *,
    like: Like,
    method: Method = "nearest",
) -> xr.DataArray:
    """Histogram of points on a grid: the number of points, or the sum of weights, in each voxel.

    Parameters
    ----------
    positions
        Coordinates of the points, dims (..., ``point``, ``axis``), in the unit of the grid's
        coordinates. Any other dims are kept: each has its own grid. A coordinate ``axis`` names the
        columns (``"x"``, ``"y"``, ``"z"`` in any order); without it they are the grid's dims in the
        order z, y, x. An array of two dims with other names is read as (point, axis).
    weights
        Weight of each point, over any dims of the positions but ``axis``; 1 by default.
    like
        Stack or volume whose spatial dims and positions define the grid, or a shape in voxels.
    method
        ``"nearest"`` adds a point to the voxel that contains it, as ``numpy.histogramdd`` does,
        ``"linear"`` to the voxels around it, weighted by distance (cloud in cell).

    Returns
    -------
    xarray.DataArray
        Kept dims and those of the grid. Counts are int64; sums have the weights' float dtype and
        unit. Points outside the grid, or with NaN, are left out: the missing part of the sum is
        their number. Sums do not depend on chunks.

    Raises
    ------
    LabelError
        If dims, columns or units of the positions, the weights and the grid do not fit.
    OptionError
        If an option has the wrong type or ``method`` is none of these.

    References
    ----------
    R. W. Hockney, J. W. Eastwood, Computer Simulation Using Particles, 1988, chapter 5.
    The counterpart of ``numpy.histogramdd``.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> where = xr.DataArray([[0.0, 0.9], [0.2, 1.1], [5.0, 0.0]], dims=("point", "axis"))
    >>> lv.density.points(where, like=(2, 3)).values
    array([[0, 2, 0],
           [0, 0, 0]])
    >>> lv.density.points(where[:1], like=(2, 3), method="linear").values
    array([[0.1, 0.9, 0. ],
           [0. , 0. , 0. ]])
    """
    return _points.histogram(positions, weights, spatial_grid(like), method == "linear")


def _reduce_blocks(
    op: str,
    kernel: bound[Any],
    array: xr.DataArray,
    size: Size,
    partial: Partial,
    *,
    scratch: float = 0.0,
    accepts_out: bool = False,
) -> xr.DataArray:
    """Reduce blocks by ``kernel``, bound to its dtype, labelled with their centres."""
    sizes = lengths_in_voxels(op, array, size)
    remainders = {d: array.sizes[d] % n for d, n in sizes.items() if array.sizes[d] % n}
    if remainders and partial == "error":
        lengths = {d: (array.sizes[d], sizes[d]) for d in remainders}
        raise LabelError(
            f"{op}: size must divide the lengths of its dims, got (length, size)={lengths}; "
            f"partial='trim' drops the rest, 'keep' makes it a smaller block"
        )
    if partial == "trim":
        array = array.isel({d: slice(0, array.sizes[d] - n) for d, n in remainders.items()})
    dims = tuple(str(d) for d in array.dims)
    result = stencil(
        bound(kernel, sizes=tuple(sizes.get(d, 1) for d in dims)), array,
        depth={}, step=sizes, dtype=kernel.keywords["dtype"], accepts_out=accepts_out,
        scratch=scratch + _copy_bytes(array.dtype), title=op,
    )  # fmt: skip
    return _at_block_centres(result, array, sizes)


def _copy_bytes(dtype: np.dtype[Any]) -> float:
    """Return bytes per voxel of a contiguous copy of a block; float16 is copied as float32."""
    return 4.0 if dtype == np.float16 else float(dtype.itemsize)


def _at_window_centres(
    shares: xr.DataArray, array: xr.DataArray, sizes: Mapping[str, int]
) -> xr.DataArray:
    """Return ``shares`` with the centres of the windows as positions."""
    centres = {
        d: (d, (values[: max(0, len(values) - n + 1)] + values[n - 1 :]) / 2, array.coords[d].attrs)
        for d, n in sizes.items()
        if d in shares.coords and (values := array.coords[d].values).dtype.kind in "iuf"
    }
    return shares.assign_coords(centres)


def _at_block_centres(
    result: xr.DataArray, array: xr.DataArray, sizes: Mapping[str, int]
) -> xr.DataArray:
    """Return ``result`` with the blocks' centres as positions; other reduced coords are dropped."""
    reduced, coords = {d for d, n in sizes.items() if n > 1}, array.coords.variables
    kept = {
        name: coord
        for name, coord in result.coords.variables.items()
        if not reduced & set(map(str, coords[name].dims))
    }
    centres = {
        d: (d, _block_centres(coords[d].values, sizes[d]), coords[d].attrs)
        for d in reduced
        if d in coords and coords[d].dtype.kind in "iuf"
    }
    # a new DataArray: assigning to ``result`` takes 0.2 ms more
    return data_array(
        result.data, kept | centres, tuple(map(str, result.dims)), result.name, result.attrs
    )


def _block_centres(positions: Any, size: int) -> Any:
    """Return the mean position of every block of ``size``, extrapolated beyond the last voxel."""
    values = np.asarray(positions, np.float64)
    missing = -len(values) % size
    step = values[-1] - values[-2] if len(values) > 1 else 1.0
    beyond = values[-1:] + step * np.arange(1, missing + 1)
    return np.concatenate([values, beyond]).reshape(-1, size).mean(1)

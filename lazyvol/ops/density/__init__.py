"""How much there is where: in blocks, in windows that slide, and of points.

Sizes are in voxels: one number for all spatial dims that are there, one for each of them in the
order z, y, x, or by name; dims not named are
left alone. A voxel counts as full where it is not 0, NaN included (as ``numpy.count_nonzero`` has
it; ``array > threshold`` is a stack to count, too). Shares run from 0 to 1 and have no unit.
"""

from collections.abc import Callable, Mapping
from functools import partial as bound
from math import prod
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.filters import wide_windows
from lazyvol.kernels.filters import window_fill as sliding
from lazyvol.kernels.reductions import block_mean as reducing
from lazyvol.ops._borders import Boundary
from lazyvol.ops._checks import lengths_in_voxels
from lazyvol.ops._grid import Like, space
from lazyvol.ops.density import _points
from lazyvol.ops.filters import _arguments
from lazyvol.plan.recipes.borders import MODES, Mode
from lazyvol.plan.verbs import stencil
from lazyvol.stack import Size, float_of, with_units

__all__ = ["block_mean", "blocks", "local", "points"]

Partial = Literal["error", "trim", "keep"]
Method = Literal["nearest", "linear"]


@operation
def blocks(array: xr.DataArray, size: Size, *, partial: Partial = "error") -> xr.DataArray:
    """Share of the voxels that are not 0 in every block of ``size``.

    Parameters
    ----------
    array
        Stack or volume.
    size
        Voxels of a block along the spatial dims, or along the dims of a mapping.
    partial
        What becomes of the last block where ``size`` does not divide a length: ``"error"``
        refuses, ``"trim"`` leaves its voxels out, ``"keep"`` takes the share of those there are.

    Returns
    -------
    xarray.DataArray
        One value for each block, at its centre (also of one that is not whole, so that centres
        have equal distances). Coordinates along a reduced dim other than its positions are
        dropped. Floats keep their type, the rest gives float64; no unit.

    Raises
    ------
    LabelError
        If ``size`` is not a whole number of 1 or more for dims of the stack, or does not divide
        a length where ``partial`` is ``"error"``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(16).reshape(1, 4, 4) % 3, voxel_size=2.0, unit="nm")
    >>> found = lv.density.blocks(volume, {"y": 2, "x": 2})
    >>> found.values
    array([[[0.75, 0.5 ],
            [0.5 , 0.75]]])
    >>> found.x.values
    array([1., 5.])
    """
    found = _per_block(reducing.fractions, array, size, partial, "density")
    found.attrs = {**with_units(array, 0)}
    return found


@operation
def block_mean(array: xr.DataArray, size: Size, *, partial: Partial = "error") -> xr.DataArray:
    """Mean of every block of ``size``: the stack binned, in its own unit.

    Parameters
    ----------
    array
        Stack or volume.
    size, partial
        As for ``blocks``.

    Returns
    -------
    xarray.DataArray
        One value for each block, at its centre; sums are in float64. NaN where a block has one.

    Raises
    ------
    LabelError
        As for ``blocks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(10.0).reshape(1, 1, 10))
    >>> lv.density.block_mean(volume, {"x": 4}, partial="keep").values
    array([[[1.5, 5.5, 8.5]]])
    >>> lv.density.block_mean(volume, {"x": 4}, partial="trim").x.values
    array([1.5, 5.5])
    """
    return _per_block(reducing.means, array, size, partial, "block_mean")


@operation
def local(array: xr.DataArray, size: Size, *, mode: Mode | str = "valid") -> xr.DataArray:
    """Share of the voxels that are not 0 in the window of ``size`` about every voxel.

    Exact, at a cost that does not depend on the size. (Means of a window: ``filters.uniform``.)

    Parameters
    ----------
    array
        Stack or volume.
    size
        Voxels of a window along the spatial dims, or along one to three dims of a mapping.
    mode
        ``"valid"``: windows that lie within the array. Else one value for each voxel, with the
        array continued as ``scipy.ndimage`` does: ``"reflect"``, ``"mirror"``, ``"nearest"``,
        ``"wrap"``, or ``"constant"`` (nothing beyond the border). Windows of an even size then
        have one voxel more before their own than after it.

    Returns
    -------
    xarray.DataArray
        Positions of ``"valid"`` windows are their centres. Floats keep their type, the rest gives
        float64; no unit.

    Raises
    ------
    LabelError
        If ``size`` is not a whole number of 1 or more for one to three dims of the stack, or
        ``mode`` is none of these.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[1, 0, 2, 3, 0, 0]]]))
    >>> found = lv.density.local(volume, {"x": 2})
    >>> found.values, found.x.values
    (array([[[0.5, 0.5, 1. , 0.5, 0. ]]]), array([0.5, 1.5, 2.5, 3.5, 4.5]))
    >>> lv.density.local(volume, {"x": 3}, mode="constant").values.round(2)
    array([[[0.33, 0.67, 0.67, 0.67, 0.33, 0.  ]]])
    """
    sizes = lengths_in_voxels("local", array, size)
    if mode not in (*MODES, "valid"):
        raise LabelError(f"mode is one of {(*MODES, 'valid')}, got {mode!r}")
    if sum(n > 1 for n in sizes.values()) > sliding.MOST:
        raise LabelError(f"a window has one to three dims, got {size=}")
    valid, dtype = mode == "valid", float_of(array.dtype)
    window = tuple(sizes.get(str(d), 1) for d in array.dims)
    reach = [(n // 2, n // 2) for n in window]
    if not valid and (prod(window) >= 2**31 or wide_windows.is_wide(array.shape, reach)):
        found = _arguments.averaged(array != 0, window, Boundary(mode), "local").astype(dtype)
        found.attrs = {**with_units(array, 0)}
        return found
    found = stencil(
        bound(sliding.fractions if valid else sliding.same, sizes=window, dtype=dtype), array,
        depth={d: (n // 2, n - 1 - n // 2 if valid else n // 2) for d, n in sizes.items()},
        mode=mode, dtype=dtype, scratch=_scratch(array.dtype), title="local",
    )  # fmt: skip
    found.attrs = {**with_units(array, 0)}
    return _between(found, array, sizes) if valid else found


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
    """Histogram of points on a grid: how many, or what sum of weights, each voxel holds.

    Parameters
    ----------
    positions
        Coordinates of the points, dims (..., ``point``, ``axis``), in the unit of the grid's
        coordinates; any other dims are kept, each with a grid of its own. A coordinate ``axis``
        names the components (``"x"``, ``"y"``, ``"z"`` in any order); without one they are those
        of the grid in the order z, y, x. An array of two dims of other names is taken as
        (point, axis).
    weights
        What each point counts, over any dims of the positions but ``axis``; 1 by default.
    like
        Stack or volume whose spatial dims and positions the grid has, or a shape in voxels.
    method
        ``"nearest"``: to the voxel a point lies in, as ``numpy.histogramdd`` counts. ``"linear"``:
        to the voxels about it by their nearness (cloud in cell).

    Returns
    -------
    xarray.DataArray
        Kept dims and those of the grid. Counts are int64; sums of weights have their float type
        and unit. Points outside the grid, or of NaN, are left out: what is missing from the sum
        is their number. Sums do not depend on chunks.

    Raises
    ------
    LabelError
        If dims, components or units of the positions, the weights and the grid do not fit.

    References
    ----------
    R. W. Hockney, J. W. Eastwood, Computer Simulation Using Particles, 1988, chapter 5.

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
    if method not in ("nearest", "linear"):
        raise LabelError(f"method is 'nearest' or 'linear', got {method!r}")
    return _points.gathered(positions, weights, space(like), method == "linear")


def _per_block(
    kernel: Callable[..., Any], array: xr.DataArray, size: Size, partial: Partial, title: str
) -> xr.DataArray:
    """A kernel of ``blocks`` on whole blocks, labelled with their centres."""
    sizes = lengths_in_voxels(title, array, size)
    if partial not in ("error", "trim", "keep"):
        raise LabelError(f"partial is 'error', 'trim' or 'keep', got {partial!r}")
    rest = {d: array.sizes[d] % n for d, n in sizes.items() if array.sizes[d] % n}
    if rest and partial == "error":
        lengths = {d: (array.sizes[d], sizes[d]) for d in rest}
        raise LabelError(
            f"blocks divide the lengths of their dims, got (length, size)={lengths}; "
            f"partial='trim' leaves the rest out, 'keep' makes a smaller block of it"
        )
    if partial == "trim":
        array = array.isel({d: slice(0, array.sizes[d] - n) for d, n in rest.items()})
    dtype = float_of(array.dtype)
    dims = tuple(str(d) for d in array.dims)
    made = stencil(
        bound(kernel, sizes=tuple(sizes.get(d, 1) for d in dims), dtype=dtype), array,
        depth={}, step=sizes, dtype=dtype, scratch=_scratch(array.dtype), accepts_out=True,
        title=title,
    )  # fmt: skip
    return _centred(made, array, sizes)


def _scratch(dtype: np.dtype[Any]) -> float:
    """Bytes per voxel of a block that is laid out anew; float16 is worked on as float32."""
    return 4.0 if dtype == np.float16 else float(dtype.itemsize)


def _between(found: xr.DataArray, array: xr.DataArray, sizes: Mapping[str, int]) -> xr.DataArray:
    """``found`` with the centres of the windows that lie within the array for positions."""
    middles = {
        d: (d, (values[: max(0, len(values) - n + 1)] + values[n - 1 :]) / 2, array.coords[d].attrs)
        for d, n in sizes.items()
        if d in found.coords and (values := array.coords[d].values).dtype.kind in "iuf"
    }
    return found.assign_coords(middles)


def _centred(made: xr.DataArray, array: xr.DataArray, sizes: Mapping[str, int]) -> xr.DataArray:
    """``made`` with the blocks' centres for positions; what has no centre is dropped."""
    reduced, given = {d for d, n in sizes.items() if n > 1}, array.coords.variables
    kept = {
        name: coord
        for name, coord in made.coords.variables.items()
        if not reduced & set(map(str, given[name].dims))
    }
    centres = {
        d: (d, _centres(given[d].values, sizes[d]), given[d].attrs)
        for d in reduced
        if d in given and given[d].dtype.kind in "iuf"
    }
    # made once: assigning to ``made`` takes 0.2 ms more
    return xr.DataArray(made.data, kept | centres, made.dims, name=made.name, attrs=made.attrs)


def _centres(positions: Any, size: int) -> Any:
    """Mean position in every block of ``size``; the steps go on beyond the last voxel."""
    values = np.asarray(positions, np.float64)
    missing = -len(values) % size
    step = values[-1] - values[-2] if len(values) > 1 else 1.0
    beyond = values[-1:] + step * np.arange(1, missing + 1)
    return np.concatenate([values, beyond]).reshape(-1, size).mean(1)

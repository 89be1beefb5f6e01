"""Masks: selections and statistics under them, their construction, and their morphology.

A mask is a boolean array over any dims of the array that it masks; True counts. Everything is lazy
but the counts of a lazy mask in ``select``.
"""

from functools import partial
from math import floor, isfinite
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.intensity import mask_fill, otsu
from lazyvol.ops import stats
from lazyvol.ops._checks import bin_count
from lazyvol.ops._grid import Axis, Like, Place
from lazyvol.ops.masks._components import fill_holes, propagate, remove_small_objects
from lazyvol.ops.masks._distances import distance_transform
from lazyvol.ops.masks._morphology import close, dilate, erode, label, open
from lazyvol.ops.masks._ragged import can_represent, frame, pad, select
from lazyvol.ops.synthetic import _solids
from lazyvol.plan.verbs import blockwise, computed_once
from lazyvol.same_grid import require_mask_dims
from lazyvol.stack import (
    Dims,
    Sigma,
    dims_of,
    float_of,
    require_mask,
    spatial_dims,
    with_units,
)

__all__ = [
    "apply", "box", "close", "cylinder", "dilate", "distance_transform", "erode", "fill_holes",
    "frame", "label", "mean", "open", "pad", "propagate", "remove_small_objects", "select",
    "sphere", "sum", "threshold", "var",
]  # fmt: skip


@operation
def mean(array: xr.DataArray, mask: xr.DataArray, dim: Dims = None) -> xr.DataArray:
    """Mean of the values under a mask, over the mask's dims by default: e.g. a mean colour.

    Parameters
    ----------
    array
        Image, volume or stack with the dims of the mask.
    mask
        Boolean, over any dims of ``array``; True counts.
    dim
        Dims to reduce; by default those of the mask. Other dims stay.

    Returns
    -------
    xarray.DataArray
        Over the dims that stay, in the unit of ``array``; floats keep their dtype, integers
        give float64. NaN under the mask gives NaN, as does an empty mask.

    Raises
    ------
    LabelError
        If the mask is not boolean, has other dims or positions than ``array``, or ``dim``
        names dims that ``array`` lacks.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``array[mask].mean(0)``; ``stats.mean`` with ``skipna=True`` leaves NaN out.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.arange(12.0).reshape(2, 2, 3), dims=("y", "x", "channel"))
    >>> lv.masks.mean(image, image[:, :, 0] > 4).values
    array([7.5, 8.5, 9.5])
    """
    return stats.mean(array, _reduced_dims("mean", array, mask, dim), mask=mask)


@operation
def var(
    array: xr.DataArray, mask: xr.DataArray, dim: Dims = None, *, ddof: int = 0
) -> xr.DataArray:
    """Variance of the values under a mask, over the mask's dims by default.

    Parameters
    ----------
    array
        Image, volume or stack with the dims of the mask.
    mask
        Boolean, over any dims of ``array``; True counts.
    dim
        Dims to reduce; by default those of the mask. Other dims stay.
    ddof
        Degrees of freedom subtracted from the number of values.

    Returns
    -------
    xarray.DataArray
        Over the dims that stay, in the unit of ``array`` squared; floats keep their dtype,
        integers give float64. NaN under the mask gives NaN, as do ``ddof`` values or fewer.

    Raises
    ------
    LabelError
        If the mask is not boolean, has other dims or positions than ``array``, or ``dim``
        names dims that ``array`` lacks.
    OptionError
        If an option has a wrong type, or ``ddof`` is negative.

    References
    ----------
    ``array[mask].var(0, ddof=ddof)``; ``stats.var`` with ``skipna=True`` leaves NaN out.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.arange(12.0).reshape(2, 2, 3), dims=("y", "x", "channel"))
    >>> lv.masks.var(image, image[:, :, 0] > 4).values
    array([2.25, 2.25, 2.25])
    """
    return stats.var(array, _reduced_dims("var", array, mask, dim), ddof=ddof, mask=mask)


@operation
def sum(array: xr.DataArray, mask: xr.DataArray, dim: Dims = None) -> xr.DataArray:
    """Sum of the values under a mask, over the mask's dims by default.

    Parameters
    ----------
    array
        Image, volume or stack with the dims of the mask.
    mask
        Boolean, over any dims of ``array``; True counts.
    dim
        Dims to reduce; by default those of the mask. Other dims stay.

    Returns
    -------
    xarray.DataArray
        Over the dims that stay, in the unit of ``array``; floats keep their dtype, integers
        give float64. NaN under the mask gives NaN, an empty mask gives 0.

    Raises
    ------
    LabelError
        If the mask is not boolean, has other dims or positions than ``array``, or ``dim``
        names dims that ``array`` lacks.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``array[mask].sum(0)``; ``stats.sum`` with ``skipna=True`` leaves NaN out.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.arange(12.0).reshape(2, 2, 3), dims=("y", "x", "channel"))
    >>> lv.masks.sum(image, image[:, :, 0] > 4).values
    array([15., 17., 19.])
    """
    return stats.sum(array, _reduced_dims("sum", array, mask, dim), mask=mask)


def _reduced_dims(op: str, array: xr.DataArray, mask: xr.DataArray, dim: Dims) -> tuple[str, ...]:
    """Return the dims to reduce: those of the mask by default."""
    require_mask_dims(op, array, mask)
    return dims_of(array, tuple(mask.dims) if dim is None else dim, subject=f"{op}: dim")


@operation(complex=True, unbounded=("fill",))
def apply(
    stack: xr.DataArray, mask: xr.DataArray, fill: float | Literal["mean"] = 0.0
) -> xr.DataArray:
    """Stack with the values outside a mask replaced, NaN included.

    Parameters
    ----------
    stack
        Stack, volume or any array with the dims of the mask.
    mask
        Boolean; or weights from 0 to 1, as of a ``sphere`` with a soft edge, by which the stack and
        ``fill`` are mixed.
    fill
        Value outside, in the stack's unit; or ``"mean"``, the mean of each volume where the mask is
        above 0, which takes a further read.

    Returns
    -------
    xarray.DataArray
        In the dtype of the stack if the mask is boolean and the dtype can represent ``fill``, else
        in the stack's float dtype.

    Raises
    ------
    LabelError
        If the mask has other dims or positions than the stack, or is neither boolean nor
        float.
    OptionError
        If ``fill`` is neither a number nor ``"mean"``.

    References
    ----------
    ``xarray.where``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(1.0, 5.0).reshape(1, 1, 4))
    >>> lv.masks.apply(volume, volume < 3).values
    array([[[1., 2., 0., 0.]]])
    >>> lv.masks.apply(volume, volume < 3, "mean").values
    array([[[1. , 2. , 1.5, 1.5]]])
    """
    require_mask_dims("apply", stack, mask)
    if mask.dtype.kind not in "bf":
        raise LabelError(
            f"apply: mask must be boolean or float weights, got dtype={mask.dtype}; compare it"
        )
    levels: tuple[xr.DataArray, ...] = ()
    if isinstance(fill, str):
        inside = mask if mask.dtype == bool else _above(mask, xr.DataArray(0.0))
        levels = (stats.mean(stack, spatial_dims(stack) or tuple(mask.dims), mask=inside),)
        number, keeps_dtype = 0.0, False
    else:
        number, keeps_dtype = fill, mask.dtype == bool and can_represent(fill, stack.dtype)
    dtype = stack.dtype if keeps_dtype else float_of(stack.dtype)
    kernel = partial(mask_fill.fill_outside, fill=number, dtype=dtype)
    scratch = 18.0 if mask.dtype != bool else float(dtype.itemsize)
    return blockwise(kernel, stack, mask, *levels, dtype=dtype, scratch=scratch, title="apply")


@operation(unbounded=("method",))
def threshold(
    stack: xr.DataArray,
    method: float | Literal["otsu"] = "otsu",
    *,
    bins: int = 256,
    per: Literal["stack", "particle"] = "stack",
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Mask of the values above a threshold: a number, or Otsu's.

    Otsu's threshold divides a histogram into the two classes with the largest variance between
    them. 8- and 16-bit integers have a bin for every value. A threshold of the stack takes one read
    for the histogram (of other dtypes another one before, for the range) and one to compare; one
    of every particle takes one read, by blocks of whole particles.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    method
        The threshold in the stack's unit, or ``"otsu"``.
    bins
        Number of bins, 1 or more, of dtypes other than 8- and 16-bit integers.
    per
        One threshold of the whole ``"stack"``, or one of each ``"particle"`` (z, y, x).
    mask
        Boolean, over any dims of the stack: the values that Otsu's threshold is computed from.

    Returns
    -------
    xarray.DataArray
        Boolean, with the stack's dims and coordinates: True above the threshold, False for NaN.

    Raises
    ------
    LabelError
        If the stack is boolean, the mask is not boolean or has other dims or positions, a
        particle has none of z, y, x, or ``bins`` is below 1.
    OptionError
        If an option has a wrong type.

    References
    ----------
    N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. Syst. Man
    Cybern. 9 (1), 62-66, 1979.

    ``skimage.filters.threshold_otsu``, in float64.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[1, 2, 1, 9, 8]]]))
    >>> lv.masks.threshold(volume).values
    array([[[False, False, False,  True,  True]]])
    >>> lv.masks.threshold(volume, 8).values
    array([[[False, False, False,  True, False]]])
    """
    if stack.dtype.kind not in "iuf":
        raise LabelError(
            f"threshold: stack must hold real numbers, got dtype={stack.dtype}; use it as a mask"
        )
    if method != "otsu":
        return _above(stack, xr.DataArray(_level(stack.dtype, method)))
    if mask is not None:
        require_mask_dims("threshold", stack, require_mask("threshold: mask", mask))
    number, ends = _bins_and_range(stack.dtype, bins)
    if per == "particle":
        return _above_own_threshold(stack, mask, number, ends)
    histogram = stats.histogram(stack, bins=number, range=ends, mask=mask)
    level = blockwise(
        otsu.otsu, histogram.counts.drop_vars("bin", errors="ignore"), tables=(histogram.edges,),
        core=("bin",), out=(), dtype=np.dtype(np.float64), title="otsu",
    )  # fmt: skip
    return _above(stack, computed_once(level))  # not in every task: 0.1 s for 10^6 bins


def _level(dtype: np.dtype[Any], level: float) -> Any:
    """Return a threshold as a number of 64 bits; for integers its whole part, exactly."""
    if dtype.kind == "f" or not isfinite(level):
        return np.float64(level)
    info = np.iinfo(dtype)
    whole = max(int(info.min) - 1, min(floor(level), int(info.max)))
    return np.float64(-np.inf) if whole < info.min else np.array(whole, dtype)


def _bins_and_range(dtype: np.dtype[Any], bins: int) -> tuple[int, tuple[float, float] | None]:
    """Return the number of bins and their range: one bin for each 8- or 16-bit integer."""
    if dtype.kind == "f" or dtype.itemsize > 2:
        return bin_count("threshold", bins), None
    info = np.iinfo(dtype)
    return int(info.max) - int(info.min) + 1, (info.min - 0.5, info.max + 0.5)


def _above(stack: xr.DataArray, level: xr.DataArray) -> xr.DataArray:
    """Return the mask of values above a level."""
    mask = blockwise(otsu.above, stack, level, dtype=np.dtype(bool), title="threshold")
    mask.attrs = {**with_units(stack, 0)}
    return mask


def _above_own_threshold(
    stack: xr.DataArray,
    mask: xr.DataArray | None,
    bins: int,
    ends: tuple[float, float] | None,
) -> xr.DataArray:
    """Return the mask of values above the threshold of their particle."""
    dims = spatial_dims(stack)
    if not dims:
        raise LabelError(
            f"threshold: stack must have some of the dims z, y, x for per='particle', got "
            f"{stack.dims}; rename them"
        )
    axes = tuple(stack.dims.index(d) for d in dims)
    above = blockwise(
        partial(otsu.above_otsu, axes=axes, bins=bins, limits=ends),
        *((stack,) if mask is None else (stack, mask)), core=dims, dtype=np.dtype(bool),
        scratch=stack.dtype.itemsize + 4.0, title="threshold",
    )  # fmt: skip
    above.attrs = {**with_units(stack, 0)}
    return above


@operation
def sphere(
    like: Like,
    *,
    radius: float,
    centre: Place | None = None,
    soft: float = 0.0,
) -> xr.DataArray:
    """Mask of a ball: True inside, or weights with a soft edge.

    Parameters
    ----------
    like
        Shape (z, y, x), or a stack whose spatial dims and coordinates the mask takes.
    radius
        Radius in the unit of the coordinates.
    centre
        Position of the centre along each spatial dim in the order z, y, x, or a mapping by dim, in
        the unit of the coordinates; along dims not named that of voxel ``n // 2``.
    soft
        Width over which the edge falls from 1 to 0 outside, along a raised cosine.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims: boolean, or float32 weights if ``soft`` is above 0.

    Raises
    ------
    LabelError
        If a length is negative, or a dim is not that of a volume.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``synthetic.sphere``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> lv.masks.sphere((5, 5), radius=1)[2].values
    array([False,  True,  True,  True, False])
    >>> lv.masks.sphere((5, 5), radius=1, soft=2)[2].values
    array([0.5, 1. , 1. , 1. , 0.5], dtype=float32)
    """
    return _as_mask(_solids.sphere(like, radius=radius, centre=centre, soft=soft), soft)


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
) -> xr.DataArray:
    """Mask of a cylinder: True inside, or weights with a soft edge.

    Parameters
    ----------
    like, radius, centre, soft
        As for ``sphere``.
    length
        Length in the unit of the coordinates.
    axis
        Dim along the cylinder, or a direction by dim.
    tilt
        Angle in degrees by which a cylinder along a dim leans towards x (towards z along x).

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims: boolean, or float32 weights if ``soft`` is above 0.

    Raises
    ------
    LabelError
        If a length is negative, or a dim is not that of a volume.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``synthetic.cylinder``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> int(lv.masks.cylinder((9, 9, 9), radius=1, length=5).sum())
    25
    """
    weights = _solids.cylinder(
        like, radius=radius, length=length, axis=axis, tilt=tilt, centre=centre, soft=soft
    )
    return _as_mask(weights, soft)


@operation
def box(
    like: Like,
    *,
    size: Sigma,
    centre: Place | None = None,
    soft: float = 0.0,
) -> xr.DataArray:
    """Mask of a box: True inside, or weights with a soft edge.

    Parameters
    ----------
    like, centre, soft
        As for ``sphere``.
    size
        Lengths of the sides in the unit of the coordinates: one number, one per dim, or a mapping
        by dim. The box has no end along dims not named.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims: boolean, or float32 weights if ``soft`` is above 0.

    Raises
    ------
    LabelError
        If a length is negative, or a dim is not that of a volume.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``synthetic.box``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> int(lv.masks.box((9, 9, 9), size={"z": 3, "y": 5, "x": 7}).sum())
    105
    """
    return _as_mask(_solids.box(like, size=size, centre=centre, soft=soft), soft)


def _as_mask(weights: xr.DataArray, soft: float) -> xr.DataArray:
    """Return booleans for a sharp edge, the weights for a soft one."""
    return weights if soft else weights.astype(bool)

"""Masks: what they choose, statistics under them, and how they are made and shaped.

A mask is a boolean array over any dims of what it masks: True counts. Nothing here is eager but
the counting of a lazy mask by ``select``.
"""

from functools import partial
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.intensity import mask_fill, otsu
from lazyvol.ops import stats
from lazyvol.ops._grid import Axis, Like, Place
from lazyvol.ops.masks._morphology import close, dilate, erode, label, open
from lazyvol.ops.masks._ragged import fitting, frame, pad, select
from lazyvol.ops.stats._distribution import bins_of
from lazyvol.ops.synthetic import _solids
from lazyvol.plan.verbs import blockwise
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import (
    Dims,
    Sigma,
    dims_of,
    float_of,
    require_mask,
    require_stack,
    spatial_dims,
    with_units,
)

__all__ = [
    "apply", "box", "close", "cylinder", "dilate", "erode", "frame", "label",
    "mean", "open", "pad", "select", "sphere", "sum", "threshold", "var",
]  # fmt: skip


@operation
def mean(array: xr.DataArray, mask: xr.DataArray, dim: Dims = None) -> xr.DataArray:
    """Average of what a mask counts, over the mask's dims by default; other dims stay.

    So the mean colour of an image (y, x, channel) under a mask (y, x) is (channel,). NaN under
    the mask gives NaN (``stats.mean`` with ``skipna`` leaves it out), as does a mask of nothing.

    Parameters
    ----------
    array
        Image, volume, stack: anything with the mask's dims.
    mask
        Boolean, over any dims of ``array``.
    dim
        Dims to reduce; by default those of the mask.

    Returns
    -------
    xarray.DataArray
        Over the other dims; float types keep theirs, integers give float64. Exact to rounding.

    Raises
    ------
    LabelError
        If the mask is not boolean, or a dim is not there.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.arange(12.0).reshape(2, 2, 3), dims=("y", "x", "channel"))
    >>> lv.masks.mean(image, image[:, :, 0] > 4).values
    array([7.5, 8.5, 9.5])
    """
    return stats.mean(array, _reduced(array, mask, dim), mask=mask)


@operation
def var(
    array: xr.DataArray, mask: xr.DataArray, dim: Dims = None, *, ddof: int = 0
) -> xr.DataArray:
    """Variance of what a mask counts, over the mask's dims by default; see ``mean``.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.arange(12.0).reshape(2, 2, 3), dims=("y", "x", "channel"))
    >>> lv.masks.var(image, image[:, :, 0] > 4).values
    array([2.25, 2.25, 2.25])
    """
    return stats.var(array, _reduced(array, mask, dim), ddof=ddof, mask=mask)


@operation
def sum(array: xr.DataArray, mask: xr.DataArray, dim: Dims = None) -> xr.DataArray:
    """Sum of what a mask counts, over the mask's dims by default; see ``mean``.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.arange(12.0).reshape(2, 2, 3), dims=("y", "x", "channel"))
    >>> lv.masks.sum(image, image[:, :, 0] > 4).values
    array([15., 17., 19.])
    """
    return stats.sum(array, _reduced(array, mask, dim), mask=mask)


def _reduced(array: xr.DataArray, mask: xr.DataArray, dim: Dims) -> tuple[str, ...]:
    """Dims to reduce: those of the mask where none are named."""
    _fit(array, mask)
    return dims_of(array, tuple(mask.dims) if dim is None else dim)


def _fit(array: xr.DataArray, mask: xr.DataArray) -> None:
    """Refuse a mask that is not of this array."""
    require_same_grid(require_stack(array), require_stack(mask))
    extra = [d for d in mask.dims if d not in array.dims]
    if extra:
        raise LabelError(f"a mask lies along dims of its array {array.dims}, got also {extra}")


@operation(complex=True, unbounded=("fill",))
def apply(
    stack: xr.DataArray, mask: xr.DataArray, fill: float | Literal["mean"] = 0.0
) -> xr.DataArray:
    """Stack with what lies outside a mask replaced; NaN there goes too.

    Parameters
    ----------
    stack
        Anything with the mask's dims.
    mask
        Boolean; or weights from 0 to 1, as a soft-edged ``sphere`` has them: between 0 and 1 the
        stack and ``fill`` are mixed.
    fill
        A number; or ``"mean"``: the average of each volume where the mask is above 0, which takes
        a read of its own.

    Returns
    -------
    xarray.DataArray
        Of the stack's type where it can hold ``fill`` as it is and the mask is boolean, else of
        its float type.

    Raises
    ------
    LabelError
        If the mask does not fit, is neither boolean nor float, or ``fill`` is another word.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(1.0, 5.0).reshape(1, 1, 4))
    >>> lv.masks.apply(volume, volume < 3).values
    array([[[1., 2., 0., 0.]]])
    >>> lv.masks.apply(volume, volume < 3, "mean").values
    array([[[1. , 2. , 1.5, 1.5]]])
    """
    _fit(stack, mask)
    if mask.dtype.kind not in "bf":
        raise LabelError(f"a mask is boolean or weights, got dtype={mask.dtype}; compare it")
    levels: tuple[xr.DataArray, ...] = ()
    if isinstance(fill, str):
        if fill != "mean":
            raise LabelError(f"fill is a number or 'mean', got {fill!r}")
        inside = mask if mask.dtype == bool else _above(mask, 0.0)
        levels = (stats.mean(stack, spatial_dims(stack) or tuple(mask.dims), mask=inside),)
    soft = mask.dtype != bool or bool(levels)
    dtype = float_of(stack.dtype) if soft else _holding(stack.dtype, fill)
    number = 0.0 if isinstance(fill, str) else fill
    kernel = partial(mask_fill.outside, fill=number, dtype=dtype)
    scratch = 18.0 if mask.dtype != bool else float(dtype.itemsize)
    return blockwise(kernel, stack, mask, *levels, dtype=dtype, scratch=scratch, title="apply")


def _holding(dtype: np.dtype[Any], fill: Any) -> np.dtype[Any]:
    """The type itself where it can hold a value, else its float type."""
    try:
        fitting(fill, dtype)
    except LabelError:
        return float_of(dtype)
    return dtype


@operation(unbounded=("method",))
def threshold(
    stack: xr.DataArray,
    method: float | Literal["otsu"] = "otsu",
    *,
    bins: int = 256,
    per: Literal["stack", "particle"] = "stack",
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Mask of what is above a threshold: a number, or Otsu's [1]_.

    Otsu's threshold divides a histogram into two classes with the largest variance between them,
    as ``skimage.filters.threshold_otsu`` (in float64): the values of 8- and 16-bit integers are
    their own bins. Of a whole stack it takes a read to count these and a read to compare; others
    need a third, first, for the range. Of every particle it takes one read, with blocks that hold
    particles whole.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    method
        The threshold in the stack's unit, or ``"otsu"``.
    bins
        Of the histogram, for other than 8- and 16-bit integers.
    per
        One threshold for all of the ``"stack"``, or one for each ``"particle"`` (z, y, x).
    mask
        Boolean, over any of the stack's dims: only these values make the threshold.

    Returns
    -------
    xarray.DataArray
        Boolean: above the threshold. NaN is not.

    Raises
    ------
    LabelError
        If the stack is boolean or complex, or an option is none of these.

    References
    ----------
    .. [1] N. Otsu, IEEE Trans. Syst. Man Cybern. 9 (1), 1979.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[1, 2, 1, 9, 8]]]))
    >>> lv.masks.threshold(volume).values
    array([[[False, False, False,  True,  True]]])
    >>> lv.masks.threshold(volume, 8).values
    array([[[False, False, False,  True, False]]])
    """
    if require_stack(stack).dtype.kind not in "iuf":
        raise LabelError(f"thresholds are of real numbers, got dtype={stack.dtype}")
    if method != "otsu":
        return _above(stack, _number(method))
    if mask is not None:
        _fit(stack, require_mask("threshold: mask", mask))
    if per not in ("stack", "particle"):
        raise LabelError(f"per is 'stack' or 'particle', got {per!r}")
    number, ends = _levels(stack.dtype, bins)
    if per == "particle":
        return _each(stack, mask, number, ends)
    found = stats.histogram(stack, bins=number, range=ends, mask=mask)
    counts = found.counts.drop_vars("bin", errors="ignore")
    level = blockwise(
        otsu.otsu, counts, tables=(found.edges,), core=("bin",), out=(), dtype=np.dtype(np.float64),
        title="otsu",
    )  # fmt: skip
    return _above(stack, level)


def _number(method: Any) -> float:
    try:
        return float(method)
    except (TypeError, ValueError):
        raise LabelError(f"method is a number or 'otsu', got {method!r}") from None


def _levels(dtype: np.dtype[Any], bins: int) -> tuple[int, tuple[float, float] | None]:
    """Bins and their range: small integers are their own bins."""
    if dtype.kind == "f" or dtype.itemsize > 2:
        return bins_of(bins), None
    info = np.iinfo(dtype)
    return int(info.max) - int(info.min) + 1, (info.min - 0.5, info.max + 0.5)


def _above(stack: xr.DataArray, level: float | xr.DataArray) -> xr.DataArray:
    """Flags of what is above a level, without a unit."""
    given = level if isinstance(level, xr.DataArray) else xr.DataArray(np.float64(level))
    made = blockwise(otsu.above, stack, given, dtype=np.dtype(bool), title="threshold")
    made.attrs = {**with_units(stack, 0)}
    return made


def _each(
    stack: xr.DataArray,
    mask: xr.DataArray | None,
    bins: int,
    ends: tuple[float, float] | None,
) -> xr.DataArray:
    """Every particle above its own threshold."""
    dims = spatial_dims(stack)
    if not dims:
        raise LabelError(f"a particle has some of the dims z, y, x, got {stack.dims}")
    axes = tuple(stack.dims.index(d) for d in dims)
    kernel = partial(otsu.above_otsu, axes=axes, bins=bins, ends=ends)
    operands = (stack,) if mask is None else (stack, mask)
    made = blockwise(
        kernel,
        *operands,
        core=dims,
        dtype=np.dtype(bool),
        scratch=stack.dtype.itemsize + 4.0,
        title="threshold",
    )
    made.attrs = {**with_units(stack, 0)}
    return made


@operation
def sphere(
    like: Like, *, radius: float, centre: Place | None = None, soft: float = 0.0
) -> xr.DataArray:
    """Mask of a ball: True inside; with a soft edge, weights from 1 inside to 0.

    Parameters
    ----------
    like
        Shape (z, y, x), or a stack whose spatial dims and positions to take.
    radius
        In the unit of the positions.
    centre
        Position along each spatial dim that is there in the order z, y, x, or by dim; for dims
        not named it is that of voxel ``n // 2``.
    soft
        Width over which the edge falls to 0 outside, along a raised cosine.

    Returns
    -------
    xarray.DataArray
        Lazy, over the spatial dims: boolean without a soft edge, else float32.

    Raises
    ------
    LabelError
        If a length is negative, or a dim is not there.

    Examples
    --------
    >>> import lazyvol as lv
    >>> lv.masks.sphere((5, 5), radius=1)[2].values
    array([False,  True,  True,  True, False])
    >>> lv.masks.sphere((5, 5), radius=1, soft=2)[2].values
    array([0.5, 1. , 1. , 1. , 0.5], dtype=float32)
    """
    return _mask(_solids.sphere(like, radius=radius, centre=centre, soft=soft), soft)


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
    """Mask of a cylinder, placed as by ``synthetic.cylinder``; see ``sphere``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> int(lv.masks.cylinder((9, 9, 9), radius=1, length=5).sum())
    25
    """
    made = _solids.cylinder(
        like, radius=radius, length=length, axis=axis, tilt=tilt, centre=centre, soft=soft
    )
    return _mask(made, soft)


@operation
def box(
    like: Like,
    *,
    size: Sigma,
    centre: Place | None = None,
    soft: float = 0.0,
) -> xr.DataArray:
    """Mask of a box of sides ``size``, one length, one for each dim or by dim; see ``sphere``.

    It has no end along dims not named.

    Examples
    --------
    >>> import lazyvol as lv
    >>> int(lv.masks.box((9, 9, 9), size={"z": 3, "y": 5, "x": 7}).sum())
    105
    """
    return _mask(_solids.box(like, size=size, centre=centre, soft=soft), soft)


def _mask(made: xr.DataArray, soft: float) -> xr.DataArray:
    """Flags where the edge is sharp, weights where it is soft."""
    return made if soft else made.astype(bool)

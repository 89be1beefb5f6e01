"""Intensities of every particle on a common scale.

All of them take ``dim``, the dims of one particle (the spatial ones by default), and ``mask``, a
boolean array over any of the stack's dims: statistics are of the voxels where it is True, every
voxel is changed. NaN is left out of the statistics and stays NaN; a particle of which nothing
counts (an empty mask, no voxel but NaN) becomes NaN. Floats keep their type, integers give float64;
arithmetic is in float64. Each particle is one piece of one task: blocks hold ``dim`` whole.

A constant particle becomes ``low`` by ``rescale``, of norm 1 by ``unit_norm`` (zeros stay), 0 by
``center``, ``standardize`` and ``contrast_normalise``, the middle by ``gaussian_stretch``, and 0 by
``display``. Under a mask ``gaussian_stretch`` and ``equalise`` change only its voxels, so that an
empty one leaves a particle as it is; ``display`` shows a stack of which nothing counts as 0.

``gaussian_stretch``, ``equalise`` and ``display`` go through the distribution of the values, that
of each particle or of the whole stack: one pass finds it, the next takes the voxels through it,
in any blocks.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import isfinite, prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.intensity import normalize
from lazyvol.ops.intensity import _equalize
from lazyvol.ops.intensity._equalize import Per
from lazyvol.ops.intensity._whiten import whiten, whitening
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import ALL_SPATIAL, Dims, dims_of, float_of, require_mask

__all__ = [
    "center",
    "contrast_normalise",
    "display",
    "equalise",
    "gaussian_stretch",
    "rescale",
    "standardize",
    "unit_norm",
    "whiten",
    "whitening",
]


@operation
def rescale(
    stack: xr.DataArray,
    low: float = 0.0,
    high: float = 1.0,
    *,
    dim: Dims = ALL_SPATIAL,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Every particle from ``low`` (its least value) to ``high`` (its greatest).

    A constant particle becomes ``low``.

    Parameters
    ----------
    stack
        Stack or volume.
    low, high
        Ends of the new range.
    dim, mask
        See above.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit.

    Raises
    ------
    LabelError
        If ``low`` or ``high`` is not finite, ``dim`` is not there or the mask does not fit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.intensity.rescale(lv.as_stack(np.array([[[2.0, 3.0, 6.0]]]))).values
    array([[[0.  , 0.25, 1.  ]]])
    """
    if not (isfinite(low) and isfinite(high)):
        raise LabelError(f"the ends of a range are finite, got {low=} and {high=}")
    kernel = partial(normalize.rescale, low=float(low), high=float(high))
    return _scaled(kernel, stack, dim, mask, "rescale")


@operation
def unit_norm(
    stack: xr.DataArray, *, dim: Dims = ALL_SPATIAL, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Every particle divided by its Euclidean norm; zeros stay zeros.

    Where nothing counts (an empty mask, nothing but NaN) the particle becomes NaN.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.intensity.unit_norm(lv.as_stack(np.array([[[3.0, 4.0]]]))).values
    array([[[0.6, 0.8]]])
    """
    return _scaled(normalize.unit_norm, stack, dim, mask, "unit_norm")


@operation
def center(
    stack: xr.DataArray, *, dim: Dims = ALL_SPATIAL, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Every particle without its mean, in its own unit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.intensity.center(lv.as_stack(np.array([[[1.0, 3.0, 5.0]]]))).values
    array([[[-2.,  0.,  2.]]])
    """
    return _scaled(normalize.center, stack, dim, mask, "center", unit=True)


@operation
def standardize(
    stack: xr.DataArray, *, dim: Dims = ALL_SPATIAL, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Every particle without its mean, over its standard deviation.

    The deviation counts as at least ``1 / sqrt(n)`` for n voxels, so that a constant particle
    becomes 0.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.intensity.standardize(lv.as_stack(np.array([[[1.0, 3.0, 5.0, 7.0]]]))).values.round(3)
    array([[[-1.342, -0.447,  0.447,  1.342]]])
    """
    return _scaled(normalize.standardize, stack, dim, mask, "standardize")


@operation
def contrast_normalise(
    stack: xr.DataArray,
    *,
    scale: float = 1.0,
    bias: float = 0.0,
    floor: float = 1e-8,
    dim: Dims = ALL_SPATIAL,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Global contrast normalisation: ``scale * (x - mean) / max(floor, sqrt(bias + variance))``.

    Parameters
    ----------
    stack
        Stack or volume.
    scale
        Deviation of every particle afterwards.
    bias
        Added to the variance, in the stack's unit squared, so that noise is not blown up.
    floor
        Least divisor, in the stack's unit.
    dim, mask
        See above.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit.

    Raises
    ------
    LabelError
        If ``scale`` or ``floor`` is not positive or ``bias`` is negative.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[1.0, 3.0, 5.0, 7.0]]]))
    >>> lv.intensity.contrast_normalise(volume, scale=2.0).values.round(3)
    array([[[-2.683, -0.894,  0.894,  2.683]]])
    """
    if not (0 < scale < np.inf and 0 <= bias < np.inf and 0 < floor < np.inf):
        raise LabelError(
            f"scale and floor are above 0 and bias is 0 or more, got {scale=}, {floor=}, {bias=}"
        )
    kernel = partial(normalize.contrast_normalise, scale=scale, bias=bias, floor=floor)
    return _scaled(kernel, stack, dim, mask, "contrast_normalise")


@operation(unbounded=("exclude",))
def gaussian_stretch(
    stack: xr.DataArray,
    low: float = 0.0,
    high: float = 1.0,
    *,
    n: float = 1.0,
    exclude: float | Iterable[float] = (),
    per: Per = "particle",
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Values through the normal distribution of their own mean and deviation.

    The mean becomes the middle of the range, and what is normally distributed is spread evenly
    over it: ``low + (high - low) * Phi((x - mean) / (n * std))``.

    Parameters
    ----------
    stack
        Stack or volume.
    low, high
        Ends of the new range, which only infinities reach.
    n
        Standard deviations that count as one: 1 for an even spread, more for a softer stretch
        (of 3, all within 3 deviations lies between 16 % and 84 % of the range).
    exclude
        Values that are left out of the statistics and stay as they are: no data.
    per
        ``"particle"``: over z, y, x, so that every channel and particle has its own statistics;
        ``"stack"``: over everything.
    mask
        Voxels to stretch; the others do not count and stay as they are.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit; NaN stays NaN. A constant becomes the middle;
        one with an infinite value has no mean or deviation and becomes NaN.

    Raises
    ------
    LabelError
        If ``n`` is not above 0, the range is not finite or the mask does not fit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.array([[[-9999.0, 1.0, 2.0, 3.0]]]))
    >>> lv.intensity.gaussian_stretch(image, 0, 100, exclude=-9999).values.round(1)
    array([[[-9999.,    11.,    50.,    89.]]])
    """
    ends, values = _equalize.pair_of(low, high), _equalize.values_of(exclude)
    return _equalize.gaussian_stretch(stack, n, ends, values, per, mask)


@operation(unbounded=("exclude",))
def equalise(
    stack: xr.DataArray,
    low: float = 0.0,
    high: float = 1.0,
    *,
    bins: int = 256,
    range: tuple[float, float] | None = None,
    exclude: float | Iterable[float] = (),
    per: Per = "stack",
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Values through the cumulated histogram: about as many voxels at every level.

    Each value becomes the share of voxels up to it, on straight lines between the centres of
    bins, as ``skimage.exposure.equalize_hist`` has it.

    Parameters
    ----------
    stack
        Stack or volume.
    low, high
        Ends of the new range.
    bins
        Bins of equal width; 256 bins of 8-bit integers are their 256 values.
    range
        Ends of the bins, the least and the greatest finite value by default (found in a read of
        its own). Voxels beyond take the value of the nearest bin.
    exclude
        Values that do not count and stay as they are, e.g. ``(0, 255)`` for clipped voxels.
    per
        ``"stack"``: one curve for everything; ``"particle"``: over z, y, x, each its own, for
        which blocks hold a particle whole.
    mask
        Voxels to equalise; the others do not count and stay as they are.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit; NaN stays NaN.

    Raises
    ------
    LabelError
        If ``bins`` or ``range`` make no bins, the new range is not finite or the mask does not
        fit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.array([[[0, 0, 10, 12, 12, 90, 255]]], np.uint8))
    >>> lv.intensity.equalise(image, 1, 255, exclude=(0, 255)).values.round(1)
    array([[[  0. ,   0. ,  64.5, 191.5, 191.5, 255. , 255. ]]])
    """
    ends, values = _equalize.pair_of(low, high), _equalize.values_of(exclude)
    return _equalize.equalise(stack, bins, range, ends, values, per, mask)


@operation
def display(
    stack: xr.DataArray,
    *,
    percentiles: tuple[float, float] = (1.0, 99.0),
    limits: tuple[float, float] | None = None,
    per: Per = "stack",
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Grey levels for pictures: uint8, 0 at the lower percentile, 255 at the upper one.

    Parameters
    ----------
    stack
        Stack or volume.
    percentiles
        Two percentiles of the values between which levels rise; beyond them they are 0 and 255.
    limits
        Values for 0 and 255, instead of percentiles; spares the reads that find them.
    per
        ``"stack"``: the same limits for everything, so that levels compare; ``"particle"``: over
        z, y, x, each its own.
    mask
        Voxels that the percentiles are of; all are shown.

    Returns
    -------
    xarray.DataArray
        uint8 with the same dims and coordinates, without a unit. NaN is 0; a constant is 0.

    Raises
    ------
    LabelError
        If ``percentiles`` or ``limits`` are not two rising numbers, or the mask does not fit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[-3.0, 0.0, 1.0, 2.0, 99.0]]]))
    >>> lv.intensity.display(volume, limits=(0, 2)).values
    array([[[  0,   0, 128, 255, 255]]], dtype=uint8)
    """
    return _equalize.display(stack, limits, percentiles, per, mask)


def _scaled(
    kernel: Callable[..., Any],
    stack: xr.DataArray,
    dim: Dims,
    mask: xr.DataArray | None,
    title: str,
    *,
    unit: bool = False,
) -> xr.DataArray:
    """A kernel of ``scaling`` on whole particles; without ``unit`` the result has none."""
    dims = dims_of(stack, dim)
    axes = tuple(sorted(stack.dims.index(d) for d in dims))
    dtype = float_of(stack.dtype)
    operands = (stack,) if mask is None else (stack, require_mask(f"{title}: mask", mask))
    found = blockwise(
        partial(kernel, axes=axes, dtype=dtype), *operands, core=dims, dtype=dtype,
        scratch=_scratch(stack.dtype, prod(stack.sizes[d] for d in dims)), title=title,
    )  # fmt: skip
    if not unit:
        found.attrs.pop("units", None)
    return found


def _scratch(dtype: np.dtype[Any], n: int) -> float:
    """Bytes per voxel of a particle of ``n`` voxels whose NaN are left out.

    Three flags, a copy, another layout; float16 is worked on as float32; 100 bytes of statistics.
    """
    return 3.0 + 2 * dtype.itemsize + (8.0 if dtype.itemsize == 2 else 0.0) + 100 / max(1, n)

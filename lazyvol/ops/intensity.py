"""Intensities of every particle on a common scale.

All of them take ``dim``, the dims of one particle (the spatial ones by default), and ``mask``, a
boolean array over any of the stack's dims: statistics are of the voxels where it is True, every
voxel is changed. NaN is left out of the statistics and stays NaN; a particle without any other
voxel becomes NaN. Floats keep their type, integers give float64; arithmetic is in float64.
Each particle is one piece of one task: blocks hold ``dim`` whole.
"""

from collections.abc import Callable
from functools import partial
from math import isfinite, prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels import scaling
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import SPATIAL, Dims, dims_of, float_of, require_stack

__all__ = ["center", "contrast_normalise", "rescale", "standardize", "unit_norm"]


def rescale(
    stack: xr.DataArray,
    low: float = 0.0,
    high: float = 1.0,
    *,
    dim: Dims = SPATIAL,
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
    kernel = partial(scaling.rescale, low=float(low), high=float(high))
    return _scaled(kernel, stack, dim, mask, "rescale")


def unit_norm(
    stack: xr.DataArray, *, dim: Dims = SPATIAL, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Every particle divided by its Euclidean norm; zeros stay zeros.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.intensity.unit_norm(lv.as_stack(np.array([[[3.0, 4.0]]]))).values
    array([[[0.6, 0.8]]])
    """
    return _scaled(scaling.unit_norm, stack, dim, mask, "unit_norm")


def center(
    stack: xr.DataArray, *, dim: Dims = SPATIAL, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Every particle without its mean, in its own unit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.intensity.center(lv.as_stack(np.array([[[1.0, 3.0, 5.0]]]))).values
    array([[[-2.,  0.,  2.]]])
    """
    return _scaled(scaling.center, stack, dim, mask, "center", unit=True)


def standardize(
    stack: xr.DataArray, *, dim: Dims = SPATIAL, mask: xr.DataArray | None = None
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
    return _scaled(scaling.standardize, stack, dim, mask, "standardize")


def contrast_normalise(
    stack: xr.DataArray,
    *,
    scale: float = 1.0,
    bias: float = 0.0,
    floor: float = 1e-8,
    dim: Dims = SPATIAL,
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
    kernel = partial(scaling.contrast_normalise, scale=scale, bias=bias, floor=floor)
    return _scaled(kernel, stack, dim, mask, "contrast_normalise")


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
    dims = dims_of(require_stack(stack), dim)
    if stack.dtype.kind == "c":
        raise LabelError(f"intensities are real numbers, got dtype={stack.dtype}; use .real")
    if mask is not None and require_stack(mask).dtype != bool:
        raise LabelError(f"a mask is boolean, got dtype={mask.dtype}; compare it, e.g. mask > 0")
    axes = tuple(sorted(stack.dims.index(d) for d in dims))
    dtype = float_of(stack.dtype)
    operands = (stack,) if mask is None else (stack, mask)
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

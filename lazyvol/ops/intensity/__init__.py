"""Intensities on a common scale, by the statistics or the distribution of each particle.

Statistics are of the voxels in the mask that are not NaN; results are computed in float64. Floats
keep their type, integers give float64. ``rescale``, ``unit_norm``, ``center``, ``standardize`` and
``contrast_normalise`` change all voxels of a particle, and a block holds each particle whole.
``gaussian_stretch`` and ``equalise`` leave voxels outside the mask unchanged.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
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
    """Every particle scaled linearly from ``low``, its minimum, to ``high``, its maximum.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    low, high
        Limits of the new range.
    dim
        Dims of one particle, which has its own statistics; the spatial ones by default.
    mask
        Boolean, over any dims of the stack: statistics are of the voxels where it is True, all
        voxels are changed. All count by default.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit. A constant particle becomes ``low``; NaN if no
        voxel counts.

    Raises
    ------
    LabelError
        If ``low`` or ``high`` is not finite, the stack lacks ``dim``, or the mask is not boolean or
        does not fit the stack.

    References
    ----------
    ``skimage.exposure.rescale_intensity``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.intensity.rescale(lv.as_stack(np.array([[[2.0, 3.0, 6.0]]]))).values
    array([[[0.  , 0.25, 1.  ]]])
    """
    low, high = _equalize.finite_limits("rescale", low, high)
    kernel = partial(normalize.rescale, low=low, high=high)
    return _scaled(kernel, stack, dim, mask, "rescale")


@operation
def unit_norm(
    stack: xr.DataArray, *, dim: Dims = ALL_SPATIAL, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Every particle divided by its Euclidean norm.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    dim, mask
        As for ``rescale``.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit; zeros stay zeros. NaN if no voxel counts.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, or the mask is not boolean or does not fit the stack.

    References
    ----------
    ``numpy.linalg.norm``; ``sklearn.preprocessing.normalize``.

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
    """Every particle minus its mean.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    dim, mask
        As for ``rescale``.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, in the stack's unit. NaN if no voxel counts.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, or the mask is not boolean or does not fit the stack.

    References
    ----------
    ``scipy.signal.detrend``, type "constant".

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
    """Every particle minus its mean, divided by its standard deviation.

    The divisor is at least ``1 / sqrt(n)`` for n voxels, so that a constant particle becomes 0.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    dim, mask
        As for ``rescale``.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit. NaN if no voxel counts.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, or the mask is not boolean or does not fit the stack.

    References
    ----------
    ``scipy.stats.zscore``; the bound as in TensorFlow's ``per_image_standardization``.

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
        Stack or volume of real numbers.
    scale
        Standard deviation of every particle in the result.
    bias
        Added to the variance, in the stack's unit squared: it limits the amplification of noise.
    floor
        Smallest divisor, in the stack's unit.
    dim, mask
        As for ``rescale``.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit; a constant particle becomes 0, NaN if no voxel
        counts.

    Raises
    ------
    LabelError
        If ``scale`` or ``floor`` is not positive, ``bias`` is negative, the stack lacks ``dim``, or
        the mask is not boolean or does not fit the stack.

    References
    ----------
    Goodfellow, I., Bengio, Y. and Courville, A. (2016), Deep Learning, MIT Press, section 12.2.1.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[1.0, 3.0, 5.0, 7.0]]]))
    >>> lv.intensity.contrast_normalise(volume, scale=2.0).values.round(3)
    array([[[-2.683, -0.894,  0.894,  2.683]]])
    """
    if not (0 < scale < np.inf and 0 <= bias < np.inf and 0 < floor < np.inf):
        raise LabelError(
            f"contrast_normalise: scale and floor must be above 0 and bias 0 or more, got "
            f"{scale=}, {floor=}, {bias=}"
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
    """Values mapped through the normal distribution of their mean and standard deviation.

    The result is ``low + (high - low) * Phi((x - mean) / (n * std))``: the mean becomes the middle
    of the range, and normally distributed values become uniformly distributed for ``n=1``.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    low, high
        Limits of the new range, which only infinities reach.
    n
        Width of the normal distribution in standard deviations. For 3, values within 3 deviations
        of the mean lie between 16 % and 84 % of the range.
    exclude
        Values that stand for missing data: they do not count and remain unchanged.
    per
        ``"particle"`` takes statistics over z, y, x, for every channel and particle separately,
        ``"stack"`` over all voxels.
    mask
        Boolean, over any dims of the stack: voxels where it is False do not count and remain
        unchanged.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit. A constant becomes the middle of the range. NaN
        stays NaN; an infinite value makes its particle NaN.

    Raises
    ------
    LabelError
        If ``n`` is not above 0, the limits are not finite, the stack has no spatial dim, or the
        mask is not boolean or does not fit the stack.

    References
    ----------
    ``scipy.stats.norm.cdf``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.array([[[-9999.0, 1.0, 2.0, 3.0]]]))
    >>> lv.intensity.gaussian_stretch(image, 0, 100, exclude=-9999).values.round(1)
    array([[[-9999.,    11.,    50.,    89.]]])
    """
    limits = _equalize.finite_limits("gaussian_stretch", low, high)
    values = _equalize.excluded_values("gaussian_stretch", exclude)
    return _equalize.gaussian_stretch(stack, n, limits, values, per, mask)


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
    """Values mapped through their cumulative histogram: about as many voxels at every level.

    Each value becomes the share of voxels up to it, interpolated between the centres of bins.

    Parameters
    ----------
    stack
        Stack or volume of real numbers.
    low, high
        Limits of the new range.
    bins
        Number of bins of equal width; 256 bins of 8-bit integers are their 256 values.
    range
        First and last edge of the bins, by default the smallest and the largest finite value,
        which takes another read. Voxels outside take the value of the nearest bin.
    exclude
        Values that do not count and remain unchanged, e.g. ``(0, 255)`` for clipped voxels.
    per
        ``"stack"`` takes one histogram of all voxels; ``"particle"`` one over z, y, x for every
        particle, which a block must hold whole.
    mask
        Boolean, over any dims of the stack: voxels where it is False do not count and remain
        unchanged.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit; NaN stays NaN.

    Raises
    ------
    LabelError
        If ``bins`` is less than 1, ``range`` is not finite and rising or too narrow for the bins,
        the limits are not finite, the stack has no spatial dim, or the mask is not boolean or does
        not fit the stack.

    References
    ----------
    ``skimage.exposure.equalize_hist``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.array([[[0, 0, 10, 12, 12, 90, 255]]], np.uint8))
    >>> lv.intensity.equalise(image, 1, 255, exclude=(0, 255)).values.round(1)
    array([[[  0. ,   0. ,  64.5, 191.5, 191.5, 255. , 255. ]]])
    """
    limits = _equalize.finite_limits("equalise", low, high)
    values = _equalize.excluded_values("equalise", exclude)
    return _equalize.equalise(stack, bins, range, limits, values, per, mask)


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
        Stack or volume of real numbers.
    percentiles
        Two percentiles of the values, mapped to 0 and 255.
    limits
        Two values to map to 0 and 255 instead, which saves the reads that find percentiles.
    per
        ``"stack"`` takes percentiles of all voxels, so that levels can be compared; ``"particle"``
        those over z, y, x of every particle.
    mask
        Boolean, over any dims of the stack: percentiles are of the voxels where it is True, all
        voxels are shown.

    Returns
    -------
    xarray.DataArray
        uint8 with the stack's dims and coordinates, without a unit. NaN and constants become 0, as
        does everything if no voxel counts.

    Raises
    ------
    LabelError
        If ``percentiles`` or ``limits`` are not two rising numbers, the stack has no spatial dim,
        or the mask is not boolean or does not fit the stack.

    References
    ----------
    ``skimage.exposure.rescale_intensity``.

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
    """Apply a kernel of ``normalize`` to whole particles; ``unit`` keeps the stack's unit."""
    dims = dims_of(stack, dim, subject=f"{title}: dim")
    if not dims:
        raise LabelError(
            f"{title}: dim must name one dim or more of {stack.dims}, got {dim!r}; name the dims "
            f"of a particle"
        )
    axes = tuple(sorted(stack.dims.index(d) for d in dims))
    dtype = float_of(stack.dtype)
    operands = (stack,) if mask is None else (stack, require_mask(f"{title}: mask", mask))
    scaled = blockwise(
        partial(kernel, axes=axes, dtype=dtype), *operands, core=dims, dtype=dtype,
        scratch=_scratch(stack.dtype, prod(stack.sizes[d] for d in dims)), title=title,
    )  # fmt: skip
    if not unit:
        scaled.attrs.pop("units", None)
    return scaled


def _scratch(dtype: np.dtype[Any], n: int) -> float:
    """Return bytes per voxel of a particle of ``n`` voxels with NaN.

    Three flags, a copy, another layout, float32 for float16, 100 bytes of statistics.
    """
    return 3.0 + 2 * dtype.itemsize + (8.0 if dtype.itemsize == 2 else 0.0) + 100 / max(1, n)

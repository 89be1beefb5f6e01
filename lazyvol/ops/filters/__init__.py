"""Neighbourhood filters: every voxel becomes a function of the voxels around it.

``sigma`` is in the unit of the coordinates, so that anisotropic voxels are filtered correctly;
``size`` is in voxels. Both are one number for all spatial dims of the stack, one for each in the
order z, y, x, or a mapping from dims to numbers. Dims that are not named are not filtered:
particles and colours stay separate.

``mode`` continues a stack beyond its border, by the names of ``scipy.ndimage``:
``"reflect"`` (d c b a | a b c d | d c b a), ``"mirror"`` (d c b | a b c d | c b a), ``"nearest"``
(a a a | a b c d | d d d), ``"wrap"`` (b c d | a b c d | a b c) and ``"constant"`` (``fill``, which
the stack's dtype must hold). ``"valid"`` keeps the voxels whose window is inside the stack.
Results are those of ``scipy.ndimage`` to rounding, for any chunks and any window; derivatives of
Gaussians have more exact weights (see ``gaussian_derivative``).

A voxel is NaN if its window holds a NaN, and no other voxel is. Averages and weighted sums are
computed in float64 and keep float dtypes, others become float64; minimum, maximum, ranks and the
grey morphology based on them keep any dtype.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.ops.filters import (
    _bandpass,
    _derivatives,
    _footprints,
    _generic,
    _windows,
)
from lazyvol.ops.filters._generic import Function
from lazyvol.ops.filters._grey import (
    black_tophat,
    grey_closing,
    grey_dilation,
    grey_erosion,
    grey_opening,
    morphological_gradient,
    morphological_laplace,
    reconstruct,
    white_tophat,
)
from lazyvol.ops.filters._windows import Boundary, Mode, Weights
from lazyvol.stack import ALL_SPATIAL, Dims, Sigma, Size, dims_of, float_of, spatial_dims

__all__ = [
    "bandpass",
    "black_tophat",
    "convolve",
    "correlate",
    "gaussian",
    "gaussian_derivative",
    "gaussian_gradient_magnitude",
    "gaussian_laplace",
    "generic",
    "grey_closing",
    "grey_dilation",
    "grey_erosion",
    "grey_opening",
    "laplace",
    "maximum",
    "median",
    "minimum",
    "morphological_gradient",
    "morphological_laplace",
    "percentile",
    "prewitt",
    "rank",
    "reconstruct",
    "sobel",
    "threshold_local",
    "uniform",
    "white_tophat",
]


@operation(unbounded=("fill",))
def gaussian(
    stack: xr.DataArray,
    sigma: Sigma,
    *,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
) -> xr.DataArray:
    """Gaussian average around every voxel.

    Parameters
    ----------
    stack
        Stack or volume of real numbers, any dims.
    sigma
        Standard deviation along the spatial dims, in the unit of the coordinates: one number, one
        for each in the order z, y, x, or a mapping from dims to numbers. A dim with 0 is not
        filtered.
    mode
        How the stack continues beyond its border, as in ``scipy.ndimage``: ``"reflect"``,
        ``"mirror"``, ``"nearest"``, ``"wrap"`` or ``"constant"``; ``"valid"`` keeps the voxels
        whose window is inside the stack.
    fill
        Value beyond the border for ``mode="constant"``; one that the stack's dtype holds.
    truncate
        Standard deviations at which the Gaussian is cut, rounded to a whole voxel.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError
        If ``sigma`` is negative, not finite or names a dim that the stack lacks, ``truncate`` is
        not above 0, ``fill`` does not suit the dtype, or the stack is shorter than a window of
        ``mode="valid"``.
    OptionError
        If an option has the wrong type, or the Gaussian reaches beyond 2**20 voxels.

    References
    ----------
    The counterpart of ``scipy.ndimage.gaussian_filter``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[0.0, 0.0, 8.0, 0.0, 0.0]]]), voxel_size=2.0, unit="nm")
    >>> lv.filters.gaussian(volume, {"x": 2.0}).values.round(2)
    array([[[0.47, 1.94, 3.19, 1.94, 0.47]]])
    """
    deviations = _windows.scales("gaussian", stack, sigma)
    return _derivatives.gaussian("gaussian", stack, deviations, Boundary(mode, fill), truncate)


@operation(unbounded=("fill",))
def uniform(
    stack: xr.DataArray,
    size: Size,
    *,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Mean of the window around every voxel; the time hardly depends on the size.

    Parameters
    ----------
    stack
        Stack or volume of real numbers, any dims.
    size
        Voxels of the window along the spatial dims: one number, one for each in the order z, y, x,
        or a mapping from dims to numbers. A window of even size has one voxel more before its
        centre than after it.
    origin
        Voxels by which the window is moved towards lower positions, as in ``scipy.ndimage``: one
        number for all dims of the window, one for each in the order z, y, x, or a mapping from
        dims to numbers.
    mode
        How the stack continues beyond its border, as in ``scipy.ndimage``: ``"reflect"``,
        ``"mirror"``, ``"nearest"``, ``"wrap"`` or ``"constant"``; ``"valid"`` keeps the voxels
        whose window is inside the stack.
    fill
        Value beyond the border for ``mode="constant"``; one that the stack's dtype holds.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``. Values do not depend on the
        chunks, to the last bit.

    Raises
    ------
    LabelError
        If ``size`` names a dim that the stack lacks or is not 1 or more, ``fill`` does not suit the
        dtype, or the stack is shorter than a window of ``mode="valid"``.
    OptionError
        If an option has the wrong type, or ``size`` is above 2**20.

    References
    ----------
    The counterpart of ``scipy.ndimage.uniform_filter``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[0, 3, 6, 0, 0, 9]]]))
    >>> lv.filters.uniform(volume, {"x": 3}).values
    array([[[1., 3., 3., 2., 3., 6.]]])
    """
    reach = _windows.windows("uniform", stack, size, origin)
    return _windows.uniform("uniform", stack, reach, Boundary(mode, fill))


@operation(unbounded=("fill",))
def minimum(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Minimum of the window around every voxel.

    Parameters
    ----------
    stack
        Stack or volume of real numbers, any dims.
    size
        Voxels of the window along the spatial dims: one number, one for each in the order z, y, x,
        or a mapping from dims to numbers. A window of even size has one voxel more before its
        centre than after it.
    radius
        Radius of a ball as the window instead, in the unit of the coordinates.
    footprint
        Any window instead, along the last of the spatial dims or the named dims of a DataArray: the
        voxels count where it is not 0. The centre of an even length n is its element n // 2.
    origin
        Voxels by which the window is moved towards lower positions, as in ``scipy.ndimage``: one
        number for all dims of the window, one for each in the order z, y, x, or a mapping from
        dims to numbers.
    mode
        How the stack continues beyond its border, as in ``scipy.ndimage``: ``"reflect"``,
        ``"mirror"``, ``"nearest"``, ``"wrap"`` or ``"constant"``; ``"valid"`` keeps the voxels
        whose window is inside the stack.
    fill
        Value beyond the border for ``mode="constant"``; one that the stack's dtype holds.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError
        If not one of ``size``, ``radius`` and ``footprint`` is given, one of them has a wrong dim
        or value, ``fill`` does not suit the dtype, or the stack is shorter than a window of
        ``mode="valid"``.
    OptionError
        If an option has the wrong type, or ``size`` is above 2**20.

    References
    ----------
    The counterpart of ``scipy.ndimage.minimum_filter``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.minimum(lv.as_stack(np.array([[[5, 3, 6, 7, 8, 9]]])), 3).values
    array([[[3, 3, 3, 6, 7, 8]]])
    """
    window = _footprints.window("minimum", stack, size, radius, footprint, origin, mode, fill)
    return window.minimum(stack)


@operation(unbounded=("fill",))
def maximum(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Maximum of the window around every voxel.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``minimum``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError, OptionError
        As for ``minimum``.

    References
    ----------
    The counterpart of ``scipy.ndimage.maximum_filter``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.maximum(lv.as_stack(np.array([[[5, 3, 6, 1, 2, 0]]])), 3).values
    array([[[5, 6, 6, 6, 2, 2]]])
    """
    window = _footprints.window("maximum", stack, size, radius, footprint, origin, mode, fill)
    return window.maximum(stack)


@operation(unbounded=("fill",))
def median(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Median of the window around every voxel; of an even number of values the upper one.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``minimum``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError, OptionError
        As for ``minimum``.

    References
    ----------
    The counterpart of ``scipy.ndimage.median_filter``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.median(lv.as_stack(np.array([[[5, 3, 99, 4, 2, 0]]])), {"x": 3}).values
    array([[[5, 5, 4, 4, 2, 0]]])
    """
    window = _footprints.window("median", stack, size, radius, footprint, origin, mode, fill)
    return window.rank(stack, window.count // 2)


@operation(unbounded=("fill",))
def percentile(
    stack: xr.DataArray,
    q: float,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Percentile of the window around every voxel.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``minimum``.
    q
        Percentage from 0 (the minimum) to 100 (the maximum). A value of the window is returned,
        without interpolation.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError
        If ``q`` is not in [0, 100], not one of ``size``, ``radius`` and ``footprint`` is given, one
        of them has a wrong dim or value, ``fill`` does not suit the dtype, or the stack is shorter
        than a window of ``mode="valid"``.
    OptionError
        If an option has the wrong type, or ``size`` is above 2**20.

    References
    ----------
    The counterpart of ``scipy.ndimage.percentile_filter``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.percentile(lv.as_stack(np.array([[[5, 3, 99, 4, 2, 0]]])), 25, {"x": 5}).values
    array([[[3, 4, 3, 2, 0, 0]]])
    """
    window = _footprints.window("percentile", stack, size, radius, footprint, origin, mode, fill)
    if not 0 <= q <= 100:
        raise LabelError(f"percentile: q must be in [0, 100], got {q}; it is a percentage")
    number = min(window.count - 1, int(window.count * float(q) / 100.0))
    return window.rank(stack, number)


@operation(unbounded=("fill",))
def rank(
    stack: xr.DataArray,
    number: int,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Value of rank ``number`` in the window around every voxel.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``minimum``.
    number
        Rank in ascending order from 0 (the minimum); negative numbers count from the maximum, -1.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError
        If the window has no such rank, not one of ``size``, ``radius`` and ``footprint`` is given,
        one of them has a wrong dim or value, ``fill`` does not suit the dtype, or the stack is
        shorter than a window of ``mode="valid"``.
    OptionError
        If an option has the wrong type, or ``size`` is above 2**20.

    References
    ----------
    The counterpart of ``scipy.ndimage.rank_filter``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.rank(lv.as_stack(np.array([[[5, 3, 99, 4, 2, 0]]])), -2, {"x": 3}).values
    array([[[5, 5, 4, 4, 2, 0]]])
    """
    window = _footprints.window("rank", stack, size, radius, footprint, origin, mode, fill)
    count = window.count
    if not -count <= number < count:
        raise LabelError(
            f"rank: number must be in [{-count}, {count - 1}] for a window of {count} voxels, got "
            f"{number}; for a part of the window use percentile"
        )
    return window.rank(stack, number % count)


@operation(unbounded=("fill",))
def convolve(
    stack: xr.DataArray,
    kernel: Weights,
    *,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Convolution with a kernel: weighted sum around every voxel, with the kernel flipped.

    A kernel that is an outer product of one row per dim is applied dim by dim; another one
    directly, or by Fourier transforms where these are faster. Results are equal to rounding.

    Parameters
    ----------
    stack
        Stack or volume of real numbers, any dims.
    kernel
        Weights: an array for the last of the spatial dims, or a DataArray with dims of the stack.
        Its centre is element ``n // 2`` of each dim. A lazy one is computed immediately.
    origin
        Voxels by which the kernel is moved towards lower positions, as in ``scipy.ndimage``: one
        number for all dims of the kernel, one for each in the order z, y, x, or a mapping from
        dims to numbers.
    mode
        How the stack continues beyond its border, as in ``scipy.ndimage``: ``"reflect"``,
        ``"mirror"``, ``"nearest"``, ``"wrap"`` or ``"constant"``; ``"valid"`` keeps the voxels
        whose window is inside the stack.
    fill
        Value beyond the border for ``mode="constant"``; one that the stack's dtype holds.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError
        If the kernel has a dim that the stack lacks, is empty or not finite, ``fill`` does not suit
        the dtype, or the stack is shorter than the kernel of ``mode="valid"``.
    OptionError
        If an option has the wrong type.

    References
    ----------
    The counterpart of ``scipy.ndimage.convolve``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[0.0, 0.0, 1.0, 0.0, 0.0]]]))
    >>> lv.filters.convolve(volume, [1.0, 2.0, 4.0]).values
    array([[[0., 1., 2., 4., 0.]]])
    """
    weights, reach = _windows.kernel_weights("convolve", stack, kernel, flip=True, origin=origin)
    return _windows.weighted("convolve", stack, weights, reach, Boundary(mode, fill))


@operation(unbounded=("fill",))
def correlate(
    stack: xr.DataArray,
    kernel: Weights,
    *,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Correlation with a kernel: weighted sum around every voxel.

    Parameters
    ----------
    stack, kernel, origin, mode, fill
        As for ``convolve``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError, OptionError
        As for ``convolve``.

    References
    ----------
    The counterpart of ``scipy.ndimage.correlate``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[0.0, 0.0, 1.0, 0.0, 0.0]]]))
    >>> lv.filters.correlate(volume, [1.0, 2.0, 4.0]).values
    array([[[0., 4., 2., 1., 0.]]])
    """
    weights, reach = _windows.kernel_weights("correlate", stack, kernel, flip=False, origin=origin)
    return _windows.weighted("correlate", stack, weights, reach, Boundary(mode, fill))


@operation(unbounded=("fill",))
def laplace(
    stack: xr.DataArray, *, dim: Dims = None, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Sum of second differences between neighbouring voxels.

    Differences are per voxel, not per length: ``derivatives.laplacian`` is the derivative in
    physical units.

    Parameters
    ----------
    stack, mode, fill
        As for ``gaussian``.
    dim
        Dims of the differences; the spatial dims by default.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError
        If ``dim`` names no dim or one that the stack lacks, ``fill`` does not suit the dtype, or
        the stack is shorter than 3 voxels for ``mode="valid"``.
    OptionError
        If an option has the wrong type.

    References
    ----------
    The counterpart of ``scipy.ndimage.laplace``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.laplace(lv.as_stack(np.array([[[0.0, 1.0, 4.0, 9.0, 9.0]]]))).values
    array([[[ 1.,  2.,  2., -5.,  0.]]])
    """
    dims = _derivatives.difference_dims("laplace", stack, dim)
    weights = _second_difference_weights([3 if d in dims else 1 for d in stack.dims])
    reach = [(n // 2, n // 2) for n in weights.shape]
    return _windows.weighted("laplace", stack, weights, reach, Boundary(mode, fill))


def _second_difference_weights(lengths: Sequence[int]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return weights of second differences, summed over the axes of length 3."""
    weights = np.zeros(lengths)
    centre: tuple[Any, ...] = tuple(n // 2 for n in lengths)
    for axis in (a for a, n in enumerate(lengths) if n == 3):
        weights[(*centre[:axis], slice(None), *centre[axis + 1 :])] += (1.0, -2.0, 1.0)
    return weights


@operation(unbounded=("fill",))
def sobel(
    stack: xr.DataArray,
    dim: Dims,
    *,
    smooth: Dims = ALL_SPATIAL,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Edges: the next voxel minus the previous one, summed across with weights 1, 2, 1.

    Weights are not normalised and differences are per voxel, as in ``scipy.ndimage.sobel``: a ramp
    of slope 1 along x gives 32 in a volume, 8 in an image. ``scikit-image`` divides by the sum of
    the weights across (16 and 4), and the norm by the square root of the number of dims.
    ``derivatives.gradient`` is the slope in physical units. With ``mode="constant"`` scipy
    continues the sums of each axis by ``fill``; here only the stack is continued.

    Parameters
    ----------
    stack
        Stack or volume of real numbers, any dims.
    dim
        Dim of the difference, e.g. ``"x"``. Several dims, e.g. ``"spatial"``, give the norm of
        their differences: the strength of edges in any direction.
    smooth
        Dims to sum across, besides those of ``dim``: by default the other spatial ones.
    mode
        How the stack continues beyond its border, as in ``scipy.ndimage``: ``"reflect"``,
        ``"mirror"``, ``"nearest"``, ``"wrap"`` or ``"constant"``; ``"valid"`` keeps the voxels
        whose window is inside the stack.
    fill
        Value beyond the border for ``mode="constant"``; one that the stack's dtype holds.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError
        If ``dim`` names no dim, a dim is one that the stack lacks, ``fill`` does not suit the
        dtype, or the stack is shorter than 3 voxels for ``mode="valid"``.
    OptionError
        If an option has the wrong type.

    References
    ----------
    The counterpart of ``scipy.ndimage.sobel``, and of ``generic_gradient_magnitude`` with it.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]))
    >>> lv.filters.sobel(image, "x").values
    array([[0., 4., 4., 0.],
           [0., 3., 3., 0.],
           [0., 1., 1., 0.]])
    """
    boundary = Boundary(mode, fill)
    return _derivatives.smoothed_differences("sobel", stack, dim, smooth, (1.0, 2.0, 1.0), boundary)


@operation(unbounded=("fill",))
def prewitt(
    stack: xr.DataArray,
    dim: Dims,
    *,
    smooth: Dims = ALL_SPATIAL,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Edges: the next voxel minus the previous one, summed across with weights 1, 1, 1.

    Weights are not normalised and differences are per voxel, as in ``scipy.ndimage.prewitt``: a
    ramp of slope 1 along x gives 18 in a volume, 6 in an image. ``scikit-image`` divides by the sum
    of the weights across (9 and 3), and the norm by the square root of the number of dims.
    ``derivatives.gradient`` is the slope in physical units. With ``mode="constant"`` scipy
    continues the sums of each axis by ``fill``; here only the stack is continued.

    Parameters
    ----------
    stack, dim, smooth, mode, fill
        As for ``sobel``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``.

    Raises
    ------
    LabelError, OptionError
        As for ``sobel``.

    References
    ----------
    The counterpart of ``scipy.ndimage.prewitt``, and of ``generic_gradient_magnitude`` with it.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]))
    >>> lv.filters.prewitt(image, "x").values
    array([[0., 3., 3., 0.],
           [0., 2., 2., 0.],
           [0., 1., 1., 0.]])
    """
    boundary = Boundary(mode, fill)
    return _derivatives.smoothed_differences(
        "prewitt", stack, dim, smooth, (1.0, 1.0, 1.0), boundary
    )


@operation(unbounded=("fill",))
def gaussian_derivative(
    stack: xr.DataArray,
    sigma: Sigma,
    order: Size,
    *,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
) -> xr.DataArray:
    """Derivatives of any order of the stack smoothed by a Gaussian.

    Derivatives are per voxel, as in scipy: ``derivatives.gradient`` and ``derivatives.hessian`` are
    per length. The weights sum to exactly the derivatives of constants, ramps and parabolas; those
    of scipy do not, because ``truncate`` cuts them off: at 4 they differ by up to 8e-3 of the
    largest weight, at 8 by 3e-12 (widths of 1.5 voxels or more).

    Parameters
    ----------
    stack, mode, fill, truncate
        As for ``gaussian``.
    sigma
        Standard deviation along the spatial dims, in the unit of the coordinates: one number, one
        for each in the order z, y, x, or a mapping from dims to numbers. Half a voxel or more where
        the order is above 0; a dim with 0 is not smoothed.
    order
        Order of the derivative, 0 (smoothed alone) to 4, along each dim: one number for all dims
        that are smoothed, one for each in the order z, y, x, or a mapping from dims to numbers.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``. Sums are in float64.

    Raises
    ------
    LabelError
        If ``sigma`` is below half a voxel or names a dim that the stack lacks, ``order`` is not
        from 0 to 4, ``truncate`` is not above 0, ``fill`` does not suit the dtype, or the stack is
        shorter than a window of ``mode="valid"``.
    OptionError
        If an option has the wrong type, or the Gaussian reaches beyond 2**20 voxels.

    References
    ----------
    The counterpart of ``scipy.ndimage.gaussian_filter`` with ``order=``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.arange(0.0, 36, 3).reshape(1, 1, 12))
    >>> lv.filters.gaussian_derivative(ramp, {"x": 1.0}, 1).values[0, 0, 4:8].round(9)
    array([3., 3., 3., 3.])
    """
    boundary = Boundary(mode, fill)
    return _derivatives.gaussian_derivative(
        "gaussian_derivative", stack, sigma, order, truncate, boundary
    )


@operation(unbounded=("fill",))
def gaussian_laplace(
    stack: xr.DataArray,
    sigma: Sigma,
    *,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
) -> xr.DataArray:
    """Laplacian of Gaussian: second derivatives of the smoothed stack, summed: blobs and edges.

    Derivatives are per voxel, as in scipy: ``derivatives.laplacian`` is per length. The weights sum
    to exactly the derivatives of constants, ramps and parabolas; those of scipy do not, because
    ``truncate`` cuts them off: at 4 they differ by up to 8e-3 of the largest weight, at 8 by 3e-12
    (widths of 1.5 voxels or more).

    Parameters
    ----------
    stack
        Stack or volume of real numbers, any dims.
    sigma
        Standard deviation along the spatial dims, in the unit of the coordinates: one number, one
        for each in the order z, y, x, or a mapping from dims to numbers. Half a voxel or more; a
        dim with 0, or not named, is neither smoothed nor differentiated.
    mode
        How the stack continues beyond its border, as in ``scipy.ndimage``: ``"reflect"``,
        ``"mirror"``, ``"nearest"``, ``"wrap"`` or ``"constant"``; ``"valid"`` keeps the voxels
        whose window is inside the stack.
    fill
        Value beyond the border for ``mode="constant"``; one that the stack's dtype holds.
    truncate
        Standard deviations at which the Gaussian is cut, rounded to a whole voxel.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``. Sums are in float64.

    Raises
    ------
    LabelError
        If ``sigma`` is below half a voxel or names a dim that the stack lacks, ``truncate`` is not
        above 0, ``fill`` does not suit the dtype, or the stack is shorter than a window of
        ``mode="valid"``.
    OptionError
        If an option has the wrong type, or the Gaussian reaches beyond 2**20 voxels.

    References
    ----------
    The counterpart of ``scipy.ndimage.gaussian_laplace``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> parabola = lv.as_stack(np.arange(12.0).reshape(1, 1, 12) ** 2)
    >>> lv.filters.gaussian_laplace(parabola, {"x": 1.0}).values[0, 0, 4:8].round(9)
    array([2., 2., 2., 2.])
    """
    boundary = Boundary(mode, fill)
    return _derivatives.derivatives_combined(
        "gaussian_laplace", stack, sigma, 2, truncate, boundary, norm=False
    )


@operation(unbounded=("fill",))
def gaussian_gradient_magnitude(
    stack: xr.DataArray,
    sigma: Sigma,
    *,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
) -> xr.DataArray:
    """Norm of the first derivatives of the stack smoothed by a Gaussian: strength of edges.

    Derivatives are per voxel, as in scipy: ``derivatives.gradient_magnitude`` is per length. The
    weights sum to exactly the derivatives of constants, ramps and parabolas; those of scipy do not,
    because ``truncate`` cuts them off: at 4 they differ by up to 8e-3 of the largest weight, at 8
    by 3e-12.

    Parameters
    ----------
    stack, sigma, mode, fill, truncate
        As for ``gaussian_laplace``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``. Sums are in float64.

    Raises
    ------
    LabelError, OptionError
        As for ``gaussian_laplace``.

    References
    ----------
    The counterpart of ``scipy.ndimage.gaussian_gradient_magnitude``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.add.outer(np.arange(0, 48, 4.0), np.arange(0, 36, 3)))
    >>> lv.filters.gaussian_gradient_magnitude(ramp, 1.0).values[5, 4:8].round(9)
    array([5., 5., 5., 5.])
    """
    boundary = Boundary(mode, fill)
    return _derivatives.derivatives_combined(
        "gaussian_gradient_magnitude", stack, sigma, 1, truncate, boundary, norm=True
    )


@operation(unbounded=("fill",))
def generic(
    stack: xr.DataArray,
    function: Function | str,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Any function of the values in the window around every voxel, called once per voxel.

    A Python function costs about 0.3 us per voxel besides its own time (``numpy.ptp`` 4 us), and
    threads do not help, because one call runs at a time; processes do (``lazyvol.connect``). One
    compiled by ``numba.njit`` runs on all threads: 0.1 us for the range of 27 values.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``minimum``.
    function
        Function from an array with one axis, the float64 values of a window in the order of the
        dims, to a number; or its name, ``"module:function"``, e.g. ``"numpy:ptp"``. Compiled by
        ``numba.njit`` it runs in compiled code. It is called once when the filter is built, with
        numbers from 0 to 1.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``. Floats keep their dtype,
        others become float64. The function also gets NaN.

    Raises
    ------
    LabelError
        If not one of ``size``, ``radius`` and ``footprint`` is given, one of them has a wrong dim
        or value, ``fill`` does not suit the dtype, or the stack is shorter than a window of
        ``mode="valid"``.
    OptionError
        If an option has the wrong type, ``size`` is above 2**20, or the function cannot be imported
        or gives no number.

    References
    ----------
    The counterpart of ``scipy.ndimage.generic_filter``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.generic(lv.as_stack(np.array([[[5, 3, 9, 4, 2, 0]]])), np.ptp, {"x": 3}).values
    array([[[2., 6., 6., 7., 4., 2.]]])
    """
    window = _footprints.window("generic", stack, size, radius, footprint, origin, mode, fill)
    return _generic.generic(stack, function, window)


@operation(unbounded=("fill",))
def threshold_local(
    stack: xr.DataArray,
    size: Size,
    *,
    method: Literal["gaussian", "mean", "median"] = "gaussian",
    offset: float = 0.0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Threshold of every voxel from its neighbourhood: an average minus ``offset``.

    ``stack > threshold_local(stack, size)`` is a mask that uneven background does not disturb.

    Parameters
    ----------
    stack, size, mode, fill
        As for ``uniform``.
    method
        ``"gaussian"``, an average with a standard deviation of a sixth of ``size - 1`` voxels;
        ``"mean"`` or ``"median"`` of the window. For other deviations see ``gaussian``.
    offset
        Value that is subtracted, in the stack's unit.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; shorter for ``mode="valid"``. Floats keep their dtype,
        others become float64.

    Raises
    ------
    LabelError, OptionError
        As for ``uniform``.

    References
    ----------
    The counterpart of ``skimage.filters.threshold_local``, which takes odd sizes alone.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.array([[[0.0, 1, 5, 3, 4, 5]]]))
    >>> threshold = lv.filters.threshold_local(ramp, {"x": 3}, method="median")
    >>> threshold.values, (ramp > threshold).values.astype(int)
    (array([[[0., 1., 3., 4., 4., 5.]]]), array([[[0, 0, 1, 0, 0, 0]]]))
    """
    op, boundary = "threshold_local", Boundary(mode, fill)
    reach = _windows.windows(op, stack, size)
    lengths = [before + 1 + after for before, after in reach]
    if method == "gaussian":
        boundary.require(op, stack, reach)
        averages = _derivatives.gaussian(op, stack, [(n - 1) / 6 for n in lengths], boundary)
    elif method == "mean":
        averages = _windows.uniform(op, stack, reach, boundary)
    else:
        averages = _windows.rank(op, stack, reach, prod(lengths) // 2, boundary)
    averages = averages.astype(float_of(stack.dtype))
    return averages.copy(data=averages.data - offset)


@operation
def bandpass(
    stack: xr.DataArray,
    shortest: float | None = None,
    longest: float | None = None,
    *,
    edge: float = 2.0,
    dim: Dims = None,
) -> xr.DataArray:
    """Volumes with only the wavelengths from ``shortest`` to ``longest``.

    As in electron microscopy: the Fourier transform of the whole volume is multiplied with a band
    whose soft edges pass half the amplitude at ``1 / shortest`` and ``1 / longest``. Volumes
    continue periodically. A NaN makes its whole volume NaN.

    Parameters
    ----------
    stack
        Stack or volume of real numbers, any dims; blocks hold ``dim`` whole.
    shortest
        Shortest wavelength (the resolution), in the unit of the coordinates; None for no limit.
    longest
        Longest wavelength, in the unit of the coordinates; the mean of a volume is removed. None
        for no limit, which keeps the mean.
    edge
        Width of the cosine edges in Fourier pixels (1 / length of the volume's shortest side); 0
        for a sharp cut. The edge at ``longest`` does not reach the mean.
    dim
        Dims of one volume, with one unit of length; the spatial dims by default.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; transforms are in float64.

    Raises
    ------
    LabelError
        If both wavelengths are None, they are not above 0 and ascending, ``edge`` is negative, or
        ``dim`` names no dim, one that the stack lacks, or dims of different units.
    OptionError
        If an option has the wrong type or is not finite.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> wave = np.cos(np.pi * np.arange(8) / 4) + np.cos(np.pi * np.arange(8)) + 3
    >>> volume = lv.as_stack(wave.reshape(1, 1, 8), voxel_size=2.0, unit="angstrom")
    >>> lv.filters.bandpass(volume, 8.0, 32.0, edge=0.0, dim="x").values.round(3)
    array([[[ 1.   ,  0.707,  0.   , -0.707, -1.   , -0.707, -0.   ,  0.707]]])
    """
    dims = spatial_dims(stack) if dim is None else dims_of(stack, dim)
    return _bandpass.bandpass(stack, dims, shortest, longest, edge)

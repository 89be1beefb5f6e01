"""Filters: every voxel out of its neighbours.

``sigma`` (in the unit of the coordinates, so that anisotropic voxels are right) and ``size`` (in
voxels) are one number for the spatial dims that the stack has, one for each of them in the order
z, y, x, or a mapping from dims to numbers.
Dims not named are untouched: particles stay apart, a colour stays a colour.

Beyond its border a stack goes on as ``mode`` says, in the words of ``scipy.ndimage``:
``"reflect"`` (d c b a | a b c d | d c b a), ``"mirror"`` (d c b | a b c d | c b a), ``"nearest"``
(a a a | a b c d | d d d), ``"wrap"`` (b c d | a b c d | a b c), ``"constant"`` (``fill``, a value
that the stack could have). ``"valid"`` keeps the voxels whose neighbours all lie in the stack.
Results are those of ``scipy.ndimage`` to rounding, whatever the chunks and however far a
neighbourhood reaches beyond them.

NaN and infinities reach as far as the neighbourhood, and no further: a voxel is NaN where its
neighbourhood (the box around it) has a NaN. Means and weighted sums keep float types, others give
float64, and are taken in float64; values picked from a window keep any type.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.ops._borders import Boundary
from lazyvol.ops.filters import _arguments
from lazyvol.stack import Dims, Sigma, Size, dims_of, spatial_dims

__all__ = [
    "bandpass",
    "convolve",
    "correlate",
    "gaussian",
    "laplace",
    "maximum",
    "median",
    "minimum",
    "percentile",
    "rank",
    "uniform",
]

Mode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap", "valid"]
Weights: TypeAlias = xr.DataArray | np.ndarray[Any, np.dtype[Any]] | Sequence[Any]


@operation(unbounded=("fill",))
def gaussian(
    stack: xr.DataArray,
    sigma: Sigma,
    *,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
) -> xr.DataArray:
    """Gaussian mean about every voxel.

    Parameters
    ----------
    stack
        Stack or volume.
    sigma
        Standard deviation in the unit of the coordinates; a dim of 0 is left alone.
    mode, fill
        What lies beyond the border; see the topic.
    truncate
        Standard deviations at which the Gaussian is cut, to a whole voxel.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit.

    Raises
    ------
    LabelError
        If ``sigma`` is negative or not finite, or a dim is not there.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[0.0, 0.0, 8.0, 0.0, 0.0]]]), voxel_size=2.0, unit="nm")
    >>> lv.filters.gaussian(volume, {"x": 2.0}).values.round(2)
    array([[[0.47, 1.94, 3.19, 1.94, 0.47]]])
    """
    return _arguments.smoothed(
        stack, _arguments.scales(stack, sigma), truncate, Boundary(mode, fill)
    )


@operation(unbounded=("fill",))
def uniform(
    stack: xr.DataArray, size: Size, *, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Mean of the window about every voxel; its cost hardly depends on the size.

    Parameters
    ----------
    stack
        Stack or volume.
    size
        Voxels of the window along each dim; of an even size one more lies before the voxel than
        after it.
    mode, fill
        What lies beyond the border; see the topic.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; the same bits for any chunks.

    Raises
    ------
    LabelError
        If ``size`` is not of whole numbers of 1 or more, or a dim is not there.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[0, 3, 6, 0, 0, 9]]]))
    >>> lv.filters.uniform(volume, {"x": 3}).values
    array([[[1., 3., 3., 2., 3., 6.]]])
    """
    windows = _arguments.windows("uniform", stack, size)
    return _arguments.averaged(stack, windows, Boundary(mode, fill))


@operation(unbounded=("fill",))
def minimum(
    stack: xr.DataArray, size: Size, *, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Least value in the window about every voxel; options as for ``uniform``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.minimum(lv.as_stack(np.array([[[5, 3, 6, 7, 8, 9]]])), 3).values
    array([[[3, 3, 3, 6, 7, 8]]])
    """
    windows = _arguments.windows("minimum", stack, size)
    return _arguments.extreme(stack, windows, Boundary(mode, fill), "minimum")


@operation(unbounded=("fill",))
def maximum(
    stack: xr.DataArray, size: Size, *, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Greatest value in the window about every voxel; options as for ``uniform``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.maximum(lv.as_stack(np.array([[[5, 3, 6, 1, 2, 0]]])), 3).values
    array([[[5, 6, 6, 6, 2, 2]]])
    """
    windows = _arguments.windows("maximum", stack, size)
    return _arguments.extreme(stack, windows, Boundary(mode, fill), "maximum")


@operation(unbounded=("fill",))
def median(
    stack: xr.DataArray, size: Size, *, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Median of the window about every voxel (of an even number the upper one); see ``uniform``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.median(lv.as_stack(np.array([[[5, 3, 99, 4, 2, 0]]])), {"x": 3}).values
    array([[[5, 5, 4, 4, 2, 0]]])
    """
    windows = _arguments.windows("median", stack, size)
    return _arguments.ranked(stack, windows, prod(windows) // 2, Boundary(mode, fill), "median")


@operation(unbounded=("fill",))
def percentile(
    stack: xr.DataArray, q: float, size: Size, *, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Value below which ``q`` per cent of the window about every voxel lie.

    Parameters
    ----------
    stack
        Stack or volume.
    q
        Percentage, 0 (the least value) to 100 (the greatest); values of the window are taken as
        they are, not interpolated.
    size, mode, fill
        As for ``uniform``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and type.

    Raises
    ------
    LabelError
        If ``q`` is not within 0 to 100, or ``size`` makes no window.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.percentile(lv.as_stack(np.array([[[5, 3, 99, 4, 2, 0]]])), 25, {"x": 5}).values
    array([[[3, 4, 3, 2, 0, 0]]])
    """
    windows = _arguments.windows("percentile", stack, size)
    if not 0 <= q <= 100:
        raise LabelError(f"q is a percentage, 0 to 100, got {q=}")
    number = min(prod(windows) - 1, int(prod(windows) * float(q) / 100.0))
    return _arguments.ranked(stack, windows, number, Boundary(mode, fill), "percentile")


@operation(unbounded=("fill",))
def rank(
    stack: xr.DataArray, number: int, size: Size, *, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Value of rank ``number``, in rising order from 0, in the window about every voxel.

    Negative numbers count from the greatest value, -1; other options as for ``uniform``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.rank(lv.as_stack(np.array([[[5, 3, 99, 4, 2, 0]]])), -2, {"x": 3}).values
    array([[[5, 5, 4, 4, 2, 0]]])
    """
    windows = _arguments.windows("rank", stack, size)
    count = prod(windows)
    if not -count <= number < count:
        raise LabelError(f"a window of {count} voxels has ranks up to {count - 1}, got {number=}")
    return _arguments.ranked(stack, windows, number % count, Boundary(mode, fill), "rank")


@operation(unbounded=("fill",))
def convolve(
    stack: xr.DataArray, kernel: Weights, *, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Convolution with a kernel: sums of neighbours with its weights, turned round.

    A kernel that is a product of one row per dim is taken dim by dim; another one product by
    product, or by Fourier transforms where those take less time. Results are the same to rounding.

    Parameters
    ----------
    stack
        Stack or volume.
    kernel
        Weights: an array for the last of the spatial dims, or with named dims of its own. It is
        small: a lazy one is computed here. Its middle is element ``n // 2`` of each dim.
    mode, fill
        What lies beyond the border; see the topic.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates (fewer voxels of ``mode="valid"``), in the stack's unit.

    Raises
    ------
    LabelError
        If the kernel's dims are not the stack's or its weights are not finite.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[0.0, 0.0, 1.0, 0.0, 0.0]]]))
    >>> lv.filters.convolve(volume, [1.0, 2.0, 4.0]).values
    array([[[0., 1., 2., 4., 0.]]])
    """
    weights, reach = _arguments.kernel_of(stack, kernel, turned=True)
    return _arguments.correlated(stack, weights, reach, Boundary(mode, fill), "convolve")


@operation(unbounded=("fill",))
def correlate(
    stack: xr.DataArray, kernel: Weights, *, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Correlation with a kernel: sums of neighbours with its weights; see ``convolve``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.array([[[0.0, 0.0, 1.0, 0.0, 0.0]]]))
    >>> lv.filters.correlate(volume, [1.0, 2.0, 4.0]).values
    array([[[0., 4., 2., 1., 0.]]])
    """
    weights, reach = _arguments.kernel_of(stack, kernel, turned=False)
    return _arguments.correlated(stack, weights, reach, Boundary(mode, fill), "correlate")


@operation(unbounded=("fill",))
def laplace(
    stack: xr.DataArray, *, dim: Dims = None, mode: Mode = "reflect", fill: float = 0.0
) -> xr.DataArray:
    """Sum of second differences between neighbours, per voxel and not per length.

    Of the neighbours before and after along each of ``dim`` (the spatial dims by default), twice
    the voxel itself taken away. ``derivatives.laplacian`` is the derivative in physical units.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.laplace(lv.as_stack(np.array([[[0.0, 1.0, 4.0, 9.0, 9.0]]]))).values
    array([[[ 1.,  2.,  2., -5.,  0.]]])
    """
    dims = spatial_dims(stack) if dim is None else dims_of(stack, dim)
    if not dims:
        raise LabelError(f"differences are along one dim or more, got {dim=} of {stack.dims}")
    weights = _cross([3 if d in dims else 1 for d in stack.dims])
    reach = [(n // 2, n // 2) for n in weights.shape]
    return _arguments.correlated(stack, weights, reach, Boundary(mode, fill), "laplace")


def _cross(lengths: Sequence[int]) -> np.ndarray[Any, np.dtype[Any]]:
    """Weights of second differences, summed over the axes of length 3."""
    weights = np.zeros(lengths)
    middle: tuple[Any, ...] = tuple(n // 2 for n in lengths)
    for axis in (a for a, n in enumerate(lengths) if n == 3):
        weights[(*middle[:axis], slice(None), *middle[axis + 1 :])] += (1.0, -2.0, 1.0)
    return weights


@operation
def bandpass(
    stack: xr.DataArray,
    shortest: float | None = None,
    longest: float | None = None,
    *,
    edge: float = 2.0,
    dim: Dims = None,
) -> xr.DataArray:
    """Every volume without wavelengths below ``shortest`` or above ``longest``.

    As in electron microscopy: the Fourier transform of the whole volume times a band with soft
    edges, which pass half at ``1 / shortest`` and ``1 / longest``. Volumes go on beyond their
    borders as copies of themselves. A NaN makes a NaN of its whole volume.

    Parameters
    ----------
    stack
        Stack or volume; blocks hold ``dim`` whole.
    shortest
        Least wavelength (the resolution) in the unit of the coordinates; None for all.
    longest
        Greatest wavelength; the mean of a volume is longer, and lost. None for all, the mean too.
    edge
        Width of the cosine edges in Fourier pixels (steps of frequency, 1 / length of the
        volume's shortest side); 0 for a sharp cut. The edge at ``longest`` ends before the mean.
    dim
        Dims of one volume, in one unit of length; the spatial dims by default.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; transforms are in float64.

    Raises
    ------
    LabelError
        If no wavelength is given, they are not positive and rising, or ``edge`` is negative.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> wave = np.cos(np.pi * np.arange(8) / 4) + np.cos(np.pi * np.arange(8)) + 3
    >>> volume = lv.as_stack(wave.reshape(1, 1, 8), voxel_size=2.0, unit="angstrom")
    >>> lv.filters.bandpass(volume, 8.0, 32.0, edge=0.0, dim="x").values.round(3)
    array([[[ 1.   ,  0.707,  0.   , -0.707, -1.   , -0.707, -0.   ,  0.707]]])
    """
    dims = spatial_dims(stack) if dim is None else dims_of(stack, dim)
    return _arguments.passed(stack, dims, shortest, longest, edge)

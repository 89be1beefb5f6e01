"""Grey morphology: flat structuring elements on stacks of numbers, and reconstruction.

With an element all are compositions of ``minimum`` and ``maximum``, one task per block.
"""

from functools import partial
from typing import Literal, TypeAlias

import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.morphology import reconstruction
from lazyvol.ops._ball import neighbourhood
from lazyvol.ops._checks import require_spatial
from lazyvol.ops.filters._footprints import window
from lazyvol.ops.filters._windows import Weights
from lazyvol.plan.verbs import blockwise
from lazyvol.same_grid import require_mask_dims
from lazyvol.stack import Size, float_of

Mode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap"]


def _difference(stack: xr.DataArray, a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Return ``a - b`` in the float dtype of a stack, with its labels."""
    dtype = float_of(stack.dtype)
    difference = a.astype(dtype) - b.astype(dtype)
    return difference.rename(stack.name).assign_attrs(stack.attrs)


@operation(unbounded=("fill",))
def grey_erosion(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Minimum over a structuring element around every voxel.

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
        Voxels by which the centre of the window is moved towards its end: one number for all dims
        of the window, one for each in the order z, y, x, or a mapping from dims to numbers.
    mode
        How the stack continues beyond its border, as in ``scipy.ndimage``: ``"reflect"``,
        ``"mirror"``, ``"nearest"``, ``"wrap"`` or ``"constant"``.
    fill
        Value beyond the border for ``mode="constant"``; one that the stack's dtype holds.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype.

    Raises
    ------
    LabelError
        If not one of ``size``, ``radius`` and ``footprint`` is given, one of them has a wrong dim
        or value, or ``fill`` does not suit the dtype.
    OptionError
        If an option has the wrong type, or ``size`` is above 2**20.

    References
    ----------
    The counterpart of ``scipy.ndimage.grey_erosion``; of masks see ``masks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.grey_erosion(lv.as_stack(np.array([[[5, 3, 6, 7, 8, 9]]])), 3).values
    array([[[3, 3, 3, 6, 7, 8]]])
    """
    element = window("grey_erosion", stack, size, radius, footprint, origin, mode, fill)
    return element.minimum(stack)


@operation(unbounded=("fill",))
def grey_dilation(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Maximum over a structuring element, mirrored at its centre, around every voxel.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``grey_erosion``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype.

    Raises
    ------
    LabelError, OptionError
        As for ``grey_erosion``.

    References
    ----------
    The counterpart of ``scipy.ndimage.grey_dilation``; of masks see ``masks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.grey_dilation(lv.as_stack(np.array([[[5, 3, 6, 1, 2, 0]]])), 3).values
    array([[[5, 6, 6, 6, 2, 2]]])
    """
    element = window("grey_dilation", stack, size, radius, footprint, origin, mode, fill)
    return element.dilated(stack)


@operation(unbounded=("fill",))
def grey_opening(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Stack without bright parts smaller than the structuring element: eroded, then dilated.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``grey_erosion``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype.

    Raises
    ------
    LabelError, OptionError
        As for ``grey_erosion``.

    References
    ----------
    The counterpart of ``scipy.ndimage.grey_opening``; of masks see ``masks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.grey_opening(lv.as_stack(np.array([[[1, 9, 1, 5, 5, 5]]])), 3).values
    array([[[1, 1, 1, 5, 5, 5]]])
    """
    element = window("grey_opening", stack, size, radius, footprint, origin, mode, fill)
    return element.dilated(element.minimum(stack))


@operation(unbounded=("fill",))
def grey_closing(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Stack without dark parts smaller than the structuring element: dilated, then eroded.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``grey_erosion``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates, unit and dtype.

    Raises
    ------
    LabelError, OptionError
        As for ``grey_erosion``.

    References
    ----------
    The counterpart of ``scipy.ndimage.grey_closing``; of masks see ``masks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.grey_closing(lv.as_stack(np.array([[[9, 1, 9, 5, 5, 5]]])), 3).values
    array([[[9, 9, 9, 5, 5, 5]]])
    """
    element = window("grey_closing", stack, size, radius, footprint, origin, mode, fill)
    return element.minimum(element.dilated(stack))


@operation(unbounded=("fill",))
def white_tophat(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Bright parts smaller than the structuring element: the stack minus its opening.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``grey_erosion``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; floats keep their dtype, others become float64.

    Raises
    ------
    LabelError, OptionError
        As for ``grey_erosion``.

    References
    ----------
    The counterpart of ``scipy.ndimage.white_tophat``; of masks see ``masks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.white_tophat(lv.as_stack(np.array([[[1, 9, 1, 5, 5, 5]]])), 3).values
    array([[[0., 8., 0., 0., 0., 0.]]])
    """
    element = window("white_tophat", stack, size, radius, footprint, origin, mode, fill)
    return _difference(stack, stack, element.dilated(element.minimum(stack)))


@operation(unbounded=("fill",))
def black_tophat(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Dark parts smaller than the structuring element: the closing of the stack minus it.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``grey_erosion``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; floats keep their dtype, others become float64.

    Raises
    ------
    LabelError, OptionError
        As for ``grey_erosion``.

    References
    ----------
    The counterpart of ``scipy.ndimage.black_tophat``; of masks see ``masks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.black_tophat(lv.as_stack(np.array([[[9, 1, 9, 5, 5, 5]]])), 3).values
    array([[[0., 8., 0., 0., 0., 0.]]])
    """
    element = window("black_tophat", stack, size, radius, footprint, origin, mode, fill)
    return _difference(stack, element.minimum(element.dilated(stack)), stack)


@operation(unbounded=("fill",))
def morphological_gradient(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Edges: the dilation of the stack minus its erosion.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``grey_erosion``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; floats keep their dtype, others become float64.

    Raises
    ------
    LabelError, OptionError
        As for ``grey_erosion``.

    References
    ----------
    The counterpart of ``scipy.ndimage.morphological_gradient``; of masks see ``masks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.morphological_gradient(lv.as_stack(np.array([[[1, 1, 1, 5, 5, 5]]])), 3).values
    array([[[0., 0., 4., 4., 0., 0.]]])
    """
    element = window("morphological_gradient", stack, size, radius, footprint, origin, mode, fill)
    return _difference(stack, element.dilated(stack), element.minimum(stack))


@operation(unbounded=("fill",))
def morphological_laplace(
    stack: xr.DataArray,
    size: Size | None = None,
    *,
    radius: float | None = None,
    footprint: Weights | None = None,
    origin: Size = 0,
    mode: Mode = "reflect",
    fill: float = 0.0,
) -> xr.DataArray:
    """Edges with their sides: the dilation and the erosion of the stack, minus it twice.

    Parameters
    ----------
    stack, size, radius, footprint, origin, mode, fill
        As for ``grey_erosion``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; floats keep their dtype, others become float64.

    Raises
    ------
    LabelError, OptionError
        As for ``grey_erosion``.

    References
    ----------
    The counterpart of ``scipy.ndimage.morphological_laplace``; of masks see ``masks``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.filters.morphological_laplace(lv.as_stack(np.array([[[1, 1, 1, 5, 5, 5]]])), 3).values
    array([[[ 0.,  0.,  4., -4.,  0.,  0.]]])
    """
    element = window("morphological_laplace", stack, size, radius, footprint, origin, mode, fill)
    outer = _difference(stack, element.dilated(stack), stack)
    return _difference(stack, outer, _difference(stack, stack, element.minimum(stack)))


@operation(counts=None)
def reconstruct(
    seed: xr.DataArray,
    mask: xr.DataArray,
    *,
    method: Literal["dilation", "erosion"] = "dilation",
    connectivity: int = 3,
) -> xr.DataArray:
    """Grey reconstruction: seeds dilated under a mask until nothing changes.

    ``reconstruct(stack - h, stack)`` cuts peaks down by h and keeps everything else;
    ``reconstruct(grey_opening(stack, 5), stack)`` opens without changing the shape of the remaining
    parts. A task holds whole volumes, with 25 to 40 bytes of memory per voxel.

    Parameters
    ----------
    seed
        Volumes (z, y, x), images or profiles, with any other dims. Values beyond the mask count as
        those of the mask.
    mask
        Volumes, images or profiles, over dims of the seed.
    method
        ``"dilation"`` of the seed under the mask, or ``"erosion"`` above it, which fills holes.
    connectivity
        Values spread to voxels that share a face (1), also an edge (2), also a corner (3).

    Returns
    -------
    xarray.DataArray
        In the dtype, dims, coordinates and unit of the seed; computed in float64, so that whole
        numbers beyond 2**53 are rounded. NaN where the mask is NaN, which blocks the dilation; NaN
        in the seed counts as the lowest value.

    Raises
    ------
    LabelError
        If the mask has other dims or positions than the seed, or another dtype, the seed has none
        of z, y, x, or ``connectivity`` is not 1, 2 or 3.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    ``skimage.morphology.reconstruction``. L. Vincent, IEEE Transactions on Image Processing 2, 176
    (1993). Of masks see ``masks.propagate``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0.0, 2.0, 1.0, 5.0, 4.0, 0.0]]]))
    >>> lv.filters.reconstruct(row - 1.5, row).values
    array([[[0. , 1. , 1. , 3.5, 3.5, 0. ]]])
    """
    dims = require_spatial("reconstruct: seed", seed)
    require_mask_dims("reconstruct", seed, mask)
    if mask.dtype != seed.dtype:
        raise LabelError(
            f"reconstruct: mask must have the dtype of the seed, {seed.dtype}, got {mask.dtype}; "
            f"convert one of them"
        )
    kernel = partial(
        reconstruction.reconstruct, axes=tuple(seed.dims.index(d) for d in dims),
        structure=neighbourhood("reconstruct", dims, connectivity), erodes=method == "erosion",
    )  # fmt: skip
    scratch = reconstruction.bytes_per_voxel([seed.sizes[d] for d in dims])
    return blockwise(kernel, seed, mask, core=dims, scratch=scratch, title="reconstruct")

"""Binary morphology and connected components of masks."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.morphology import binary, components_kept, connected_components
from lazyvol.ops._ball import ball, neighbourhood, with_axes_of
from lazyvol.ops._checks import require_spatial, whole_number
from lazyvol.ops.filters._windows import Weights, footprint_of, placed
from lazyvol.plan.connected_blocks import ConnectedKernels, connected_blockwise
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.same_grid import require_mask_dims
from lazyvol.stack import (
    Size,
    per_dim,
    require_mask,
    spatial_dims,
    with_units,
)

Array = np.ndarray[Any, np.dtype[Any]]
#: number of passes of the element over a mask; the halo is as wide for each
PASSES = {"dilate": 1, "erode": 1, "open": 2, "close": 2}
#: operations that may be repeated until nothing changes
CHANGES = ("dilate", "erode")


@operation
def dilate(
    mask: xr.DataArray,
    *,
    radius: float | None = None,
    size: Size | None = None,
    footprint: Weights | None = None,
    connectivity: int = 1,
    iterations: int = 1,
    border: bool = False,
    origin: Size = 0,
    within: xr.DataArray | None = None,
) -> xr.DataArray:
    """Mask dilated by a structuring element: all voxels that it covers, centred at a set voxel.

    Parameters
    ----------
    mask
        Boolean, over some of z, y, x, which make one volume, and any other dims.
    radius
        Radius of a ball as the structuring element, in the unit of the coordinates; voxels need
        not be cubes.
    size
        Lengths of a box as the structuring element, in voxels: one number, or a mapping by dim (1
        for dims not named).
    footprint
        Any structuring element, along the last of the spatial dims or the named dims of a
        DataArray: the voxels where it is not 0, seen from its centre, element n // 2 of a length n.
    connectivity
        Without a radius, a size and a footprint the element is a voxel and its neighbours that
        share a face (1), also an edge (2), also a corner (3).
    iterations
        Number of times; 0 until nothing changes, which needs whole volumes in a task.
    border
        Value beyond the border of the array.
    origin
        Voxels by which the centre of the element is moved towards its end: one number for all dims
        of the element, one for each in the order z, y, x, or a mapping by dim.
    within
        Boolean, over dims of the mask: the voxels that may be set; others keep their value.

    Returns
    -------
    xarray.DataArray
        Boolean, with the mask's dims and coordinates.

    Raises
    ------
    LabelError
        If the mask is not boolean or has none of z, y, x, more than one of radius,
        size and footprint are given, or an option is out of range.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``scipy.ndimage.binary_dilation``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[False, False, True, False, False]]]))
    >>> lv.masks.dilate(row).values
    array([[[False,  True,  True,  True, False]]])
    """
    element = _element("dilate", mask, radius, size, footprint, connectivity, origin)
    return _apply("dilate", binary.dilation, mask, element, iterations, border, within)


@operation
def erode(
    mask: xr.DataArray,
    *,
    radius: float | None = None,
    size: Size | None = None,
    footprint: Weights | None = None,
    connectivity: int = 1,
    iterations: int = 1,
    border: bool = False,
    origin: Size = 0,
    within: xr.DataArray | None = None,
) -> xr.DataArray:
    """Mask eroded by a structuring element: the voxels where it covers only set voxels.

    Parameters
    ----------
    mask, radius, size, footprint, connectivity, iterations, border, origin
        As for ``dilate``.
    within
        Boolean, over dims of the mask: the voxels that may be cleared; others keep their value.

    Returns
    -------
    xarray.DataArray
        Boolean, with the mask's dims and coordinates.

    Raises
    ------
    LabelError, OptionError
        As for ``dilate``.

    References
    ----------
    ``scipy.ndimage.binary_erosion``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.masks.erode(lv.as_stack(np.ones((1, 1, 4), bool)), size={"x": 3}).values
    array([[[False,  True,  True, False]]])
    """
    element = _element("erode", mask, radius, size, footprint, connectivity, origin)
    return _apply("erode", binary.erosion, mask, element, iterations, border, within)


@operation
def open(
    mask: xr.DataArray,
    *,
    radius: float | None = None,
    size: Size | None = None,
    footprint: Weights | None = None,
    connectivity: int = 1,
    iterations: int = 1,
    border: bool = False,
    origin: Size = 0,
) -> xr.DataArray:
    """Mask without parts smaller than the structuring element: eroded, then dilated.

    Parameters
    ----------
    mask, radius, size, footprint, connectivity, border, origin
        As for ``dilate``.
    iterations
        Number of times, 1 or more.

    Returns
    -------
    xarray.DataArray
        Boolean, with the mask's dims and coordinates.

    Raises
    ------
    LabelError, OptionError
        As for ``dilate``.

    References
    ----------
    ``scipy.ndimage.binary_opening``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0, 1, 0, 0, 1, 1, 1, 0]]]) > 0)
    >>> lv.masks.open(row, size={"x": 3}).values.astype(int)
    array([[[0, 0, 0, 0, 1, 1, 1, 0]]])
    """
    element = _element("open", mask, radius, size, footprint, connectivity, origin)
    return _apply("open", binary.opening, mask, element, iterations, border)


@operation
def close(
    mask: xr.DataArray,
    *,
    radius: float | None = None,
    size: Size | None = None,
    footprint: Weights | None = None,
    connectivity: int = 1,
    iterations: int = 1,
    border: bool = False,
    origin: Size = 0,
) -> xr.DataArray:
    """Mask without gaps smaller than the structuring element: dilated, then eroded.

    Parameters
    ----------
    mask, radius, size, footprint, connectivity, border, origin
        As for ``dilate``.
    iterations
        Number of times, 1 or more.

    Returns
    -------
    xarray.DataArray
        Boolean, with the mask's dims and coordinates.

    Raises
    ------
    LabelError, OptionError
        As for ``dilate``.

    References
    ----------
    ``scipy.ndimage.binary_closing``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0, 0, 1, 1, 0, 1, 1, 0, 0]]]) > 0)
    >>> lv.masks.close(row, size={"x": 3}).values.astype(int)
    array([[[0, 0, 1, 1, 1, 1, 1, 0, 0]]])
    """
    element = _element("close", mask, radius, size, footprint, connectivity, origin)
    return _apply("close", binary.closing, mask, element, iterations, border)


@operation
def label(mask: xr.DataArray, *, connectivity: int = 1) -> xr.DataArray:
    """Connected components of every volume, numbered from 1 in the order of their first voxels.

    Volumes are independent: each begins at 1. A volume that fits into a task is labelled whole, in
    one read. A larger one is read twice: to label blocks and merge components across their faces,
    and to write the numbers, which are those of the whole volume.

    Parameters
    ----------
    mask
        Boolean, over some of z, y, x, which make one volume, and any other dims.
    connectivity
        Voxels are connected if they share a face (1), also an edge (2), also a corner (3).

    Returns
    -------
    xarray.DataArray
        int32 (int64 if a volume has 2**31 voxels or more), 0 outside the mask, with the mask's dims
        and coordinates.

    Raises
    ------
    LabelError
        If the mask is not boolean or has none of z, y, x, or ``connectivity`` is not 1, 2 or 3.
    OptionError
        If ``connectivity`` has a wrong type.

    References
    ----------
    ``scipy.ndimage.label``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.masks.label(lv.as_stack(np.array([[[1, 1, 0, 1, 0]]]) > 0)).values
    array([[[1, 1, 0, 2, 0]]], dtype=int32)
    """
    dims = volume_dims("label", mask)
    structure = neighbourhood("label", dims, connectivity)
    dtype = np.dtype(np.int32 if prod(mask.sizes[d] for d in dims) < 2**31 else np.int64)
    kernels = ConnectedKernels(
        whole=partial(connected_components.label_volumes, structure=structure, dtype=dtype),
        inspect=partial(connected_components.summarize_block, structure=structure),
        combine=partial(connected_components.merge_components, structure=structure, dtype=dtype),
        compute=partial(connected_components.relabel_block, structure=structure),
        dtype=dtype,
        scratch=4.0,
    )
    labels = connected_blockwise(kernels, mask, dims=dims, title="label")
    labels.attrs = {**with_units(mask, 0)}
    return labels


def _apply(
    op: str,
    kernel: Callable[..., Any],
    mask: xr.DataArray,
    element: Array,
    iterations: int,
    border: bool,
    within: xr.DataArray | None = None,
) -> xr.DataArray:
    """Apply a kernel of morphology to every volume."""
    times = whole_number(op, "iterations", iterations, 0 if op in CHANGES else 1)
    if within is not None:
        require_mask_dims(op, mask, require_mask(f"{op}: within", within))
        mask = blockwise(
            components_kept.seed_code, mask, within, dtype=np.dtype(np.uint8), scratch=3.0,
            title="within",
        )  # fmt: skip
    if times == 0:
        return _until_stable(op, mask, element, border)
    bound = partial(kernel, element=element, iterations=times, border=bool(border))
    reach = (PASSES[op] * times * (n // 2) for n in element.shape)
    depth = dict(zip(map(str, mask.dims), reach, strict=True))
    result = stencil(
        bound, mask, depth=depth, mode="clip", dtype=np.dtype(bool), scratch=4.0 + PASSES[op],
        title=op,
    )  # fmt: skip
    result.attrs = {**with_units(mask, 0)}
    return result


def _until_stable(op: str, mask: xr.DataArray, element: Array, border: bool) -> xr.DataArray:
    """Dilate or erode whole volumes until nothing changes."""
    if not element[tuple(n // 2 for n in element.shape)]:
        raise LabelError(
            f"{op}: footprint must have its centre set for iterations=0, got an element without "
            f"it; set it, or give a number of iterations"
        )
    dims = spatial_dims(mask)
    kernel = partial(
        binary.until_stable, axes=tuple(mask.dims.index(d) for d in dims), element=element,
        border=bool(border), dilates=op == "dilate",
    )  # fmt: skip
    result = blockwise(kernel, mask, core=dims, dtype=np.dtype(bool), scratch=6.0, title=op)
    result.attrs = {**with_units(mask, 0)}
    return result


def volume_dims(op: str, mask: xr.DataArray) -> tuple[str, ...]:
    """Return the spatial dims of a mask; raise LabelError if it has none or is not boolean."""
    return require_spatial(f"{op}: mask", require_mask(f"{op}: mask", mask))


def _element(
    op: str,
    mask: xr.DataArray,
    radius: float | None,
    size: Size | None,
    footprint: Any,
    connectivity: int,
    origin: Size,
) -> Array:
    """Return the element with the axes of the mask, of odd lengths about its centre."""
    dims = volume_dims(op, mask)
    options = {"radius": radius, "size": size, "footprint": footprint}
    given = [f"{name}={value!r:.40}" for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise LabelError(
            f"{op}: {given[0].partition('=')[0]} must be None if another element is given, got "
            f"{' and '.join(given)}; pass one"
        )
    if footprint is not None:
        element = footprint_of(op, mask, footprint)
    elif radius is not None:
        element = with_axes_of(mask, ball(f"{op}: mask", mask, dims, radius), dims)
    elif size is not None:
        element = with_axes_of(mask, _box(op, mask, dims, size), dims)
    else:
        element = with_axes_of(mask, neighbourhood(op, dims, connectivity), dims)
    return binary.centred(element, placed(op, mask, element.shape, origin))


def _box(op: str, mask: xr.DataArray, dims: tuple[str, ...], size: Size) -> Array:
    sides = {d: whole_number(op, "size", n) for d, n in per_dim(size, dims, f"{op}: size").items()}
    # an element of twice the volume's length covers the whole volume from any voxel
    return np.ones([min(sides.get(d, 1), 2 * mask.sizes[d] + 1) for d in dims], bool)

"""Shapes of flags: grown, worn down, smoothed, and told apart."""

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.morphology import binary, connected_components
from lazyvol.ops._checks import whole_number
from lazyvol.plan.connected_blocks import ConnectedKernels, connected_blockwise
from lazyvol.plan.verbs import stencil
from lazyvol.stack import Size, per_dim, require_mask, spacing, spatial_dims, with_units

Array = np.ndarray[Any, np.dtype[Any]]


@operation
def dilate(
    mask: xr.DataArray,
    *,
    radius: float | None = None,
    size: Size | None = None,
    connectivity: int = 1,
    iterations: int = 1,
    border: bool = False,
) -> xr.DataArray:
    """Every volume's flags grown by a structuring element, as ``scipy.ndimage.binary_dilation``.

    Exact across chunks: a task reads its block with as much around it as the element reaches.

    Parameters
    ----------
    mask
        Boolean; z, y and x as far as they are there make one volume.
    radius
        The element is a ball of this radius, in the unit of the positions: voxels that are not
        cubes are taken as they are.
    size
        The element is a box of so many voxels, odd numbers: one, or by dim (1 where not named).
    connectivity
        Without either, the element is a voxel and its neighbours: 1, those that share a face;
        2, an edge too; 3, a corner too.
    iterations
        How often.
    border
        What lies beyond the border of the array.

    Returns
    -------
    xarray.DataArray
        Boolean, of the same dims and positions.

    Raises
    ------
    LabelError
        If the mask is not boolean or has no z, y or x, or an option is out of its range.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[False, False, True, False, False]]]))
    >>> lv.masks.dilate(row).values
    array([[[False,  True,  True,  True, False]]])
    """
    return _reshaped(
        binary.dilated, mask, radius, size, connectivity, iterations, border, 1, "dilate"
    )


@operation
def erode(
    mask: xr.DataArray,
    *,
    radius: float | None = None,
    size: Size | None = None,
    connectivity: int = 1,
    iterations: int = 1,
    border: bool = False,
) -> xr.DataArray:
    """Every volume's flags worn down, as ``scipy.ndimage.binary_erosion``; see ``dilate``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.masks.erode(lv.as_stack(np.ones((1, 1, 4), bool)), size={"x": 3}).values
    array([[[False,  True,  True, False]]])
    """
    return _reshaped(
        binary.eroded, mask, radius, size, connectivity, iterations, border, 1, "erode"
    )


@operation
def open(
    mask: xr.DataArray,
    *,
    radius: float | None = None,
    size: Size | None = None,
    connectivity: int = 1,
    iterations: int = 1,
    border: bool = False,
) -> xr.DataArray:
    """Flags without what is smaller than the element: eroded, then dilated; see ``dilate``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0, 1, 0, 0, 1, 1, 1, 0]]]) > 0)
    >>> lv.masks.open(row, size={"x": 3}).values.astype(int)
    array([[[0, 0, 0, 0, 1, 1, 1, 0]]])
    """
    return _reshaped(binary.opened, mask, radius, size, connectivity, iterations, border, 2, "open")


@operation
def close(
    mask: xr.DataArray,
    *,
    radius: float | None = None,
    size: Size | None = None,
    connectivity: int = 1,
    iterations: int = 1,
    border: bool = False,
) -> xr.DataArray:
    """Flags without gaps smaller than the element: dilated, then eroded; see ``dilate``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0, 0, 1, 1, 0, 1, 1, 0, 0]]]) > 0)
    >>> lv.masks.close(row, size={"x": 3}).values.astype(int)
    array([[[0, 0, 1, 1, 1, 1, 1, 0, 0]]])
    """
    return _reshaped(
        binary.closed, mask, radius, size, connectivity, iterations, border, 2, "close"
    )


def _reshaped(
    kernel: Callable[..., Any],
    mask: xr.DataArray,
    radius: float | None,
    size: Size | None,
    connectivity: int,
    iterations: int,
    border: bool,
    steps: int,
    title: str,
) -> xr.DataArray:
    """A kernel of morphology on every volume, with a halo for its ``steps``."""
    dims = _volume(title, mask)
    times = whole_number(title, "iterations", iterations)
    element = _element(title, mask, dims, radius, size, connectivity)
    depth = {
        str(d): steps * times * (n // 2) for d, n in zip(mask.dims, element.shape, strict=True)
    }
    bound = partial(kernel, element=element, iterations=times, border=bool(border))
    found = stencil(bound, mask, depth=depth, mode="clip", scratch=2.0 + steps, title=title)
    found.attrs = {**with_units(mask, 0)}
    return found


def _volume(op: str, mask: xr.DataArray) -> tuple[str, ...]:
    dims = spatial_dims(require_mask(f"{op}: mask", mask))
    if not dims:
        raise LabelError(f"a volume has some of the dims z, y, x, got {mask.dims}; rename them")
    return dims


def _element(
    op: str,
    mask: xr.DataArray,
    dims: tuple[str, ...],
    radius: float | None,
    size: Size | None,
    connectivity: int,
) -> Array:
    """The structuring element with the axes of the mask, of length 1 outside a volume."""
    if radius is not None and size is not None:
        raise LabelError(f"an element has a radius or a size, got {radius=} and {size=}")
    own: Array
    if radius is not None:
        own = _ball(mask, dims, radius)
    elif size is not None:
        own = _box(op, mask, dims, size)
    else:
        own = _neighbours(op, dims, connectivity)
    order = [dims.index(str(d)) for d in mask.dims if d in dims]
    turned = own.transpose(order)
    lengths = iter(turned.shape)
    return turned.reshape([next(lengths) if d in dims else 1 for d in mask.dims])


def _ball(mask: xr.DataArray, dims: tuple[str, ...], radius: float) -> Any:
    if not (isfinite(radius) and radius >= 0):
        raise LabelError(f"radius is a number of 0 or more, got {radius!r}")
    steps = [abs(spacing(mask, d)) for d in dims]
    most = [mask.sizes[d] for d in dims]
    reach = [min(int(radius / s * (1 + 1e-9)), n) for s, n in zip(steps, most, strict=True)]
    return binary.ball(reach, steps, radius)


def _box(op: str, mask: xr.DataArray, dims: tuple[str, ...], size: Size) -> Any:
    sides = per_dim(size, dims, "size")
    found = {d: whole_number(op, "size", n) for d, n in sides.items()}
    if any(n % 2 == 0 for n in found.values()):
        raise LabelError(f"size gives odd numbers of voxels along {dims}, got {size!r}")
    # what is further away than the volume is long lies beyond the border from everywhere
    return np.ones([min(found.get(d, 1), 2 * mask.sizes[d] + 1) for d in dims], bool)


def _neighbours(op: str, dims: tuple[str, ...], connectivity: int) -> Any:
    if not 1 <= whole_number(op, "connectivity", connectivity) <= 3:
        raise LabelError(f"connectivity is 1, 2 or 3, got {connectivity!r}")
    return connected_components.neighbours(len(dims), connectivity)


@operation
def label(mask: xr.DataArray, *, connectivity: int = 1) -> xr.DataArray:
    """Connected flags of every volume numbered from 1, as ``scipy.ndimage.label``; 0 elsewhere.

    Volumes are told apart: nothing is joined along k, and each begins at 1. A volume that fits a
    task is labelled whole. A larger one is read twice: blocks are labelled apart, what touches
    across their borders is joined, and the numbers are those of the whole volume, in the order of
    the first voxel of each (z slowest).

    Parameters
    ----------
    mask
        Boolean; z, y and x as far as they are there make one volume.
    connectivity
        What touches: 1, voxels that share a face; 2, an edge too; 3, a corner too.

    Returns
    -------
    xarray.DataArray
        int32 (int64 where a volume has 2**31 voxels or more), of the same dims and positions.

    Raises
    ------
    LabelError
        If the mask is not boolean or has no z, y or x, or ``connectivity`` is none of these.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.masks.label(lv.as_stack(np.array([[[1, 1, 0, 1, 0]]]) > 0)).values
    array([[[1, 1, 0, 2, 0]]], dtype=int32)
    """
    dims = _volume("label", mask)
    touching = _neighbours("label", dims, connectivity)
    voxels = int(np.prod([mask.sizes[d] for d in dims]))
    dtype = np.dtype(np.int32 if voxels < 2**31 else np.int64)
    kernels = ConnectedKernels(
        whole=partial(connected_components.volumes, touching=touching, dtype=dtype),
        inspect=partial(connected_components.look, touching=touching),
        combine=partial(connected_components.join, touching=touching, dtype=dtype),
        compute=partial(connected_components.numbered, touching=touching, dtype=dtype),
        dtype=dtype,
        scratch=4.0,
    )
    found = connected_blockwise(kernels, mask, dims=dims, title="label")
    found.attrs = {**with_units(mask, 0)}
    return found

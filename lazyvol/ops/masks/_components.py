"""Connected components of masks that are filled, removed, or reached from seeds."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.kernels.morphology import components_kept
from lazyvol.kernels.morphology.components_kept import Choice
from lazyvol.ops._ball import neighbourhood
from lazyvol.ops._checks import whole_number
from lazyvol.ops.masks._morphology import volume_dims
from lazyvol.plan.connected_blocks import ConnectedKernels, connected_blockwise
from lazyvol.plan.verbs import blockwise
from lazyvol.same_grid import require_mask_dims
from lazyvol.stack import require_mask, spatial_dims, with_units


@operation
def fill_holes(mask: xr.DataArray, *, connectivity: int = 1) -> xr.DataArray:
    """Mask with its holes filled: background that is not connected to the border of the volume.

    Exact for volumes in any blocks, which are then read twice, as for ``label``.

    Parameters
    ----------
    mask
        Boolean, over some of z, y, x, which make one volume, and any other dims.
    connectivity
        Voxels of the background are connected if they share a face (1), also an edge (2), also a
        corner (3).

    Returns
    -------
    xarray.DataArray
        Boolean, with the mask's dims and coordinates.

    Raises
    ------
    LabelError
        If the mask is not boolean or has none of z, y, x, or ``connectivity`` is not 1, 2 or 3.
    OptionError
        If ``connectivity`` has a wrong type.

    References
    ----------
    ``scipy.ndimage.binary_fill_holes``.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> ring = xr.DataArray(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]) > 0, dims=("y", "x"))
    >>> bool(lv.masks.fill_holes(ring)[1, 1])
    True
    """
    volume_dims("fill_holes", mask)
    return _chosen("fill_holes", mask, connectivity, components_kept.holes())


@operation
def remove_small_objects(
    mask: xr.DataArray, min_size: int, *, connectivity: int = 1
) -> xr.DataArray:
    """Mask without its connected components of fewer than ``min_size`` voxels.

    Exact for volumes in any blocks, which are then read twice, as for ``label``. For other
    conditions see ``measure.select``.

    Parameters
    ----------
    mask
        Boolean, over some of z, y, x, which make one volume, and any other dims.
    min_size
        Fewest voxels of a component that stays, 1 or more.
    connectivity
        Voxels are connected if they share a face (1), also an edge (2), also a corner (3).

    Returns
    -------
    xarray.DataArray
        Boolean, with the mask's dims and coordinates.

    Raises
    ------
    LabelError
        If the mask is not boolean or has none of z, y, x, or an option is out of range.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``skimage.morphology.remove_small_objects``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[1, 0, 1, 1, 0]]]) > 0)
    >>> lv.masks.remove_small_objects(row, 2).values.astype(int)
    array([[[0, 0, 1, 1, 0]]])
    """
    volume_dims("remove_small_objects", mask)
    least = whole_number("remove_small_objects", "min_size", min_size)
    return _chosen("remove_small_objects", mask, connectivity, components_kept.large(least))


@operation(counts=None)
def propagate(seeds: xr.DataArray, mask: xr.DataArray, *, connectivity: int = 1) -> xr.DataArray:
    """Mask of the voxels that are reached from seeds through a mask.

    This is the dilation of seeds within the mask until nothing changes. Exact for volumes in any
    blocks, which are then read twice, as for ``label``.

    Parameters
    ----------
    seeds
        Boolean, over some of z, y, x, which make one volume, and any other dims. Seeds outside
        the mask stay.
    mask
        Boolean, over dims of the seeds.
    connectivity
        Voxels are connected if they share a face (1), also an edge (2), also a corner (3).

    Returns
    -------
    xarray.DataArray
        Boolean, of the dims and coordinates of the seeds.

    Raises
    ------
    LabelError
        If seeds or mask are not boolean, the mask has other dims or positions, there are none of
        z, y, x, or ``connectivity`` is not 1, 2 or 3.
    OptionError
        If ``connectivity`` has a wrong type.

    References
    ----------
    ``scipy.ndimage.binary_propagation``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> seeds, mask = np.array([[[1, 0, 0, 0]]]) > 0, np.array([[[1, 1, 0, 1]]]) > 0
    >>> lv.masks.propagate(seeds, mask).values
    array([[[ True,  True, False, False]]])
    """
    volume_dims("propagate", seeds)
    require_mask_dims("propagate", seeds, require_mask("propagate: mask", mask))
    code = blockwise(
        components_kept.seed_code, seeds, mask, dtype=np.dtype(np.uint8), scratch=3.0, title="seeds"
    )
    return _chosen("propagate", code, connectivity, components_kept.seeded())


def _chosen(op: str, mask: xr.DataArray, connectivity: int, choice: Choice) -> xr.DataArray:
    """Return the mask of the components that a choice keeps."""
    dims = spatial_dims(mask)
    structure = neighbourhood(op, dims, connectivity)
    options: dict[str, Any] = {"structure": structure, "choice": choice}
    kernels = ConnectedKernels(
        whole=partial(components_kept.choose_in_volumes, **options),
        inspect=partial(components_kept.inspect, **options),
        combine=partial(components_kept.combine, **options),
        compute=partial(components_kept.choose_in_block, **options),
        dtype=np.dtype(bool),
        scratch=16.0,
    )
    chosen = connected_blockwise(kernels, mask, dims=dims, title=op)
    chosen.attrs = {**with_units(mask, 0)}
    return chosen

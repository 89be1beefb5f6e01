"""Filters in Fourier space: the transform of every volume, times a function, transformed back.

Volumes are periodic: values beyond one border are those at the opposite one, as with
``mode="wrap"`` of the other filters. The time does not depend on the width of a filter, and a task
holds whole volumes. Take ``filters`` for other borders, for large volumes in blocks, and for narrow
windows.

Stacks hold real values in space, not spectra. ``sigma`` and shifts are in the unit of the
coordinates, ``size`` is in voxels; both are one number for all spatial dims, one for each in the
order z, y, x, or a mapping by dim, of which the others are not filtered.

Transforms are in float64. Floats keep their dtype, other numbers give float64; NaN spreads to the
whole volume. See also ``filters.bandpass``.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.filters import transfer
from lazyvol.ops import registration
from lazyvol.ops._checks import lengths_in_voxels, require_voxels, require_window
from lazyvol.ops.filters._windows import scales
from lazyvol.ops.registration._poses import Shifts
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import Sigma, Size, float_of

__all__ = ["ellipsoid", "gaussian", "shift", "uniform"]

#: bytes per voxel: a volume in float64, its half spectrum, and the inverse transform
TRANSFORM_BYTES = 32.0


@operation
def gaussian(stack: xr.DataArray, sigma: Sigma) -> xr.DataArray:
    """Gaussian average around every voxel of periodic volumes, at a cost independent of width.

    Parameters
    ----------
    stack
        Volumes (z, y, x), images (y, x) or profiles, with any other dims.
    sigma
        Standard deviation in the unit of the coordinates. A dim with 0 is not filtered.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit.

    Raises
    ------
    LabelError
        If ``sigma`` is negative or names a dim that the stack lacks.
    OptionError
        If ``sigma`` has the wrong type, or is above 2**20 voxels.

    References
    ----------
    The counterpart of ``scipy.ndimage.fourier_gaussian`` and ``dask_image.ndfourier``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0.0, 0.0, 8.0, 0.0, 0.0, 0.0]]]), voxel_size=2.0)
    >>> lv.fourier.gaussian(row, {"x": 2.0}).values.round(2)
    array([[[0.42, 1.95, 3.18, 1.95, 0.42, 0.08]]])
    """
    deviations = dict(zip(map(str, stack.dims), scales("gaussian", stack, sigma), strict=True))
    require_window("gaussian", "sigma", max(deviations.values(), default=0.0))
    return _transferred("gaussian", stack, ndi.fourier_gaussian, deviations)


@operation
def uniform(stack: xr.DataArray, size: Size) -> xr.DataArray:
    """Mean over a box around every voxel of periodic volumes, by the sinc of its lengths.

    The box is one of continuous space: its ends weigh half voxels where a length is even, and the
    values between voxels are those of the Fourier series.

    Parameters
    ----------
    stack
        Volumes (z, y, x), images (y, x) or profiles, with any other dims.
    size
        Lengths of the box in voxels.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit.

    Raises
    ------
    LabelError
        If ``size`` is below 1 or names a dim that the stack lacks.
    OptionError
        If ``size`` has the wrong type, or is above 2**20.

    References
    ----------
    The counterpart of ``scipy.ndimage.fourier_uniform``; ``filters.uniform`` takes whole voxels.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[0.0, 0.0, 6.0, 0.0, 0.0, 0.0]]]))
    >>> lv.fourier.uniform(row, {"x": 3}).values.round(2)
    array([[[ 0.15,  1.85,  2.06,  1.85,  0.15, -0.06]]])
    """
    return _transferred("uniform", stack, ndi.fourier_uniform, _sizes("uniform", stack, size))


@operation
def ellipsoid(stack: xr.DataArray, size: Size) -> xr.DataArray:
    """Mean over an ellipsoid around every voxel of periodic volumes.

    Parameters
    ----------
    stack
        Volumes (z, y, x), images (y, x) or profiles, with any other dims.
    size
        Lengths of the axes of the ellipsoid, its diameters, in voxels.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit.

    Raises
    ------
    LabelError
        If ``size`` is below 1 or names a dim that the stack lacks.
    OptionError
        If ``size`` has the wrong type, or is above 2**20.

    References
    ----------
    The counterpart of ``scipy.ndimage.fourier_ellipsoid``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> image = lv.as_stack(np.zeros((8, 8)), dims=("y", "x"))
    >>> image[4, 4] = 100.0
    >>> lv.fourier.ellipsoid(image, 5).values[4].round(1)
    array([-0.2,  0.4,  4.7,  4.9,  5. ,  4.9,  4.7,  0.4])
    """
    return _transferred("ellipsoid", stack, ndi.fourier_ellipsoid, _sizes("ellipsoid", stack, size))


@operation(dims={"shifts": (("k", "axis"),)}, unbounded=("shifts",))
def shift(stack: xr.DataArray, shifts: Shifts) -> xr.DataArray:
    """Every periodic volume translated by its shift: a phase ramp, which keeps all frequencies.

    It is ``registration.shift`` with ``order="fourier"``.

    Parameters
    ----------
    stack
        Volumes (z, y, x), images (y, x) or profiles, with any other dims.
    shifts
        Lengths in the unit of the positions, for all particles or (k, axis), as for
        ``registration.shift``.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit. A particle whose shift is NaN becomes NaN.

    Raises
    ------
    LabelError
        If shifts do not fit the stack.
    OptionError
        If ``shifts`` have the wrong type.

    References
    ----------
    The counterpart of ``scipy.ndimage.fourier_shift``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> row = lv.as_stack(np.array([[[1.0, 0.0, 0.0, 0.0]]]), voxel_size=2.0)
    >>> lv.fourier.shift(row, {"x": 2.0}).values.round(12) + 0.0
    array([[[0., 1., 0., 0.]]])
    """
    return registration.shift(stack, shifts, order="fourier")


def _sizes(op: str, stack: xr.DataArray, size: Size) -> dict[str, float]:
    """Return checked lengths in voxels by dim."""
    lengths = lengths_in_voxels(op, stack, size)
    require_window(op, "size", max(lengths.values()))
    return {d: float(n) for d, n in lengths.items()}


def _transferred(
    op: str, stack: xr.DataArray, multiply: transfer.Multiply, sizes: Mapping[str, float]
) -> xr.DataArray:
    """Return a stack filtered along the dims that have a size."""
    dims = [str(d) for d in stack.dims if sizes.get(str(d), 0.0) > 0]
    dtype = float_of(stack.dtype)
    if not dims:
        return stack.astype(dtype)
    if len(dims) > 3:
        raise LabelError(f"{op}: at most three dims must be filtered, got {dims}; name three")
    require_voxels(f"{op}: stack", stack, dims)
    kernel: Any = partial(
        transfer.transferred, axes=tuple(stack.dims.index(d) for d in dims), multiply=multiply,
        sizes=tuple(sizes[d] for d in dims), dtype=dtype,
    )  # fmt: skip
    return blockwise(
        kernel, stack, core=dims, dtype=np.dtype(dtype), scratch=TRANSFORM_BYTES, title=op
    )

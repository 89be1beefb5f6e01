"""Shift and rotate particles."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import xarray as xr

from lazyvol.arguments import operation
from lazyvol.kernels.geometry import affine, splines
from lazyvol.kernels.geometry.splines import BoundaryMode
from lazyvol.ops._checks import require_held
from lazyvol.ops.registration._poses import (
    Rotations,
    Shifts,
    axes_of,
    euler_angles,
    particle_dims,
    shifts_in_voxels,
    zyx_spacing,
)
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import float_of

Order = Literal[1, 3]


@operation(dims={"shifts": (("k", "axis"),)}, unbounded=("shifts", "fill"))
def shift(
    stack: xr.DataArray,
    shifts: Shifts,
    *,
    order: Literal[1, 3, "fourier"] = 3,
    mode: BoundaryMode = "constant",
    fill: float = 0.0,
) -> xr.DataArray:
    """Every particle translated by its shift.

    Parameters
    ----------
    stack
        Volumes (z, y, x), images (y, x) or profiles, with any other dims.
    shifts
        Lengths in the unit of the positions: by dim for all particles; (n,), one for each spatial
        dim of the stack in the order z, y, x; or (k, n), a row for each particle, as returned by
        ``registration.shifts``. Arrays of numpy, or labelled (k, axis).
    order
        Order of the spline: 1 (linear) or 3 (cubic); or ``"fourier"``: a phase ramp, for periodic
        particles, which preserves all frequencies.
    mode
        Values beyond the border, as in the filters of ``scipy.ndimage``: ``constant`` (``fill``),
        ``nearest``, ``reflect``, ``mirror`` or ``wrap``. ``"fourier"`` is always periodic.
    fill
        Value beyond the border in mode ``constant``: one that the result's type holds.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; floats keep their dtype, integers give float64. Shifts by
        whole voxels are exact. A particle whose shift is NaN becomes NaN.

    Raises
    ------
    LabelError
        If shifts do not fit the stack, or an option is invalid.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    ``scipy.ndimage.shift`` and ``scipy.ndimage.fourier_shift``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(4.0).reshape(1, 1, 4), voxel_size=2.0, unit="nm")
    >>> lv.registration.shift(volume, {"x": 2.0}).values
    array([[[0., 0., 1., 2.]]])
    """
    dims = particle_dims(stack)
    distances = shifts_in_voxels(stack, shifts, dims)
    axes, dtype = axes_of(stack, dims), float_of(stack.dtype)
    if order == "fourier":
        kernel: Any = partial(affine.translate_particles_by_phase, axes=axes, dtype=dtype)
        scratch = 6.0 * (4 if stack.dtype.itemsize <= 4 and stack.dtype.kind == "f" else 8)
    else:
        require_held("shift", dtype, fill)
        kernel = partial(
            affine.translate_particles, axes=axes, order=order, mode=mode, fill=float(fill),
            dtype=dtype,
        )  # fmt: skip
        scratch = 8.0
    return blockwise(
        kernel, stack, *distances, core=dims, dtype=dtype, scratch=scratch, title="shift"
    )


@operation(dims={"rotations": (("k", "angle"),)}, unbounded=("rotations", "fill"))
def rotate(
    stack: xr.DataArray,
    rotations: Rotations,
    *,
    order: Order = 3,
    mode: BoundaryMode = "constant",
    fill: float = 0.0,
) -> xr.DataArray:
    """Every particle rotated about its voxel ``n // 2``, in the space of its positions.

    Parameters
    ----------
    stack
        Volumes (z, y, x) or images (y, x), with any other dims.
    rotations
        ``scipy.spatial.transform.Rotation``, one or one for each particle; or degrees: rot, tilt
        and psi (3,) for all particles or (k, 3) for each, of numpy or labelled (k, angle); or one
        angle about z, from x towards y, for all or labelled (k,). Images rotate about z alone: one
        angle for all or (k,), of numpy or labelled.
    order
        Order of the spline: 1 (linear) or 3 (cubic).
    mode
        Values beyond the border, as in the filters of ``scipy.ndimage``: ``constant`` (``fill``),
        ``nearest``, ``reflect``, ``mirror`` or ``wrap``.
    fill
        Value beyond the border in mode ``constant``: one that the result's type holds.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; floats keep their dtype, integers give float64. A particle
        whose rotation is NaN becomes NaN.

    Raises
    ------
    LabelError
        If rotations do not fit the stack, or an option is invalid.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    ``scipy.ndimage.affine_transform``. Euler angles: Heymann, Chagoyen and Belnap, J. Struct. Biol.
    151, 196 (2005).

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.zeros((1, 3, 3)))
    >>> volume[0, 1, 2] = 1.0  # on the x axis
    >>> lv.registration.rotate(volume, 90, order=1).values[0].round(12)
    array([[0., 0., 0.],
           [0., 0., 0.],
           [0., 1., 0.]])
    """
    dims = particle_dims(stack)
    angles = euler_angles(stack, rotations, dims)
    dtype = float_of(stack.dtype)
    require_held("rotate", dtype, fill)
    kernel = partial(
        affine.rotate_particles, axes=axes_of(stack, dims), step=zyx_spacing(stack, dims),
        order=order, mode=mode, fill=float(fill), dtype=dtype,
    )  # fmt: skip
    return blockwise(
        kernel, stack, *angles, core=dims, dtype=dtype, title="rotate",
        scratch=rotation_scratch(stack, dims, mode),
    )  # fmt: skip


def rotation_scratch(stack: xr.DataArray, dims: Sequence[str], mode: BoundaryMode) -> float:
    """Return the bytes per voxel of float64 coefficients and their padded copy."""
    margin = affine.PADDING + (splines.NEAREST_PADDING if mode == "nearest" else 0)
    lengths = [stack.sizes[d] for d in dims] + [1] * (3 - len(dims))
    padded = prod(n + 2 * margin for n in lengths) / max(1, prod(lengths))
    return 8.0 * padded + 8.0 * (padded if mode == "nearest" else 1.0) + 4.0

"""Particles moved and turned, one by one."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import affine, splines, translation
from lazyvol.kernels.geometry.splines import BoundaryMode
from lazyvol.ops.registration._poses import (
    Rotations,
    Shifts,
    axes_of,
    in_degrees,
    in_voxels,
    steps,
    whole_dims,
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
    """Every particle moved by its shift.

    Parameters
    ----------
    stack
        Particles.
    shifts
        Lengths in the unit of the coordinates: by name of the dim for all particles; (n,), one
        for each spatial dim that is there in the order z, y, x; or (k, n), a row for each
        particle, as ``shifts`` finds them. Arrays of numpy or labelled (k, axis).
    order
        1, 3 or ``"fourier"``: particles that are periodic and keep all their frequencies.
    mode, fill
        See above; ``"fourier"`` knows only the periodic one and takes no notice.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit. Shifts by whole voxels are exact.

    Raises
    ------
    LabelError
        If shifts or options do not fit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(4.0).reshape(1, 1, 4), voxel_size=2.0, unit="nm")
    >>> lv.registration.shift(volume, {"x": 2.0}).values
    array([[[0., 0., 1., 2.]]])
    """
    dims = whole_dims(stack)
    distances = in_voxels(stack, shifts, dims)
    axes, dtype = axes_of(stack, dims), float_of(stack.dtype)
    if order == "fourier":
        kernel: Any = partial(translation.moved_by_phase, axes=axes, dtype=dtype)
        scratch = 6.0 * (4 if stack.dtype.itemsize <= 4 and stack.dtype.kind == "f" else 8)
    else:
        require_between(order, mode)
        kernel = partial(
            translation.moved, axes=axes, order=order, mode=mode, fill=float(fill), dtype=dtype
        )
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
    """Every particle turned about its voxel ``n // 2``, in the space of its coordinates.

    Parameters
    ----------
    stack
        Particles.
    rotations
        ``scipy.spatial.transform.Rotation``, one or as many as particles; or degrees: the angles
        rot, tilt and psi (3,) for all particles or (k, 3) for each, of numpy or labelled
        (k, angle); or one angle about z, from x towards y, for all or labelled (k,). Images turn
        about z alone: one angle for all or (k,), of numpy or labelled.
    order, mode, fill
        See above.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit.

    Raises
    ------
    LabelError
        If rotations or options do not fit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.zeros((1, 3, 3)))
    >>> volume[0, 1, 2] = 1.0  # lies at x
    >>> lv.registration.rotate(volume, 90, order=1).values[0].round(12)
    array([[0., 0., 0.],
           [0., 0., 0.],
           [0., 1., 0.]])
    """
    dims = whole_dims(stack)
    require_between(order, mode)
    angles = in_degrees(stack, rotations, dims)
    dtype = float_of(stack.dtype)
    kernel = partial(
        affine.turned, axes=axes_of(stack, dims), step=steps(stack, dims), order=order,
        mode=mode, fill=float(fill), dtype=dtype,
    )  # fmt: skip
    return blockwise(
        kernel, stack, *angles, core=dims, dtype=dtype, title="rotate",
        scratch=turning_scratch(stack, dims, mode),
    )  # fmt: skip


def require_between(order: object, mode: str) -> None:
    if order not in (1, 3):
        raise LabelError(f"the order of a spline is 1 or 3, got {order=}")
    if mode not in splines.ENDS:
        raise LabelError(f"mode is one of {tuple(splines.ENDS)}, got {mode!r}")


def turning_scratch(stack: xr.DataArray, dims: Sequence[str], mode: BoundaryMode) -> float:
    """Bytes per voxel: coefficients in float64, and again continued beyond the border."""
    margin = affine.REACH + (splines.EDGE if mode == "nearest" else 0)
    lengths = [stack.sizes[d] for d in dims] + [1] * (3 - len(dims))
    grown = prod(n + 2 * margin for n in lengths) / max(1, prod(lengths))
    return 8.0 * grown + 8.0 * (grown if mode == "nearest" else 1.0) + 4.0

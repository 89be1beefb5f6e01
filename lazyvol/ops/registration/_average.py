"""Average particles in the frame of a reference."""

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.registration import subvolume_average
from lazyvol.kernels.registration.subvolume_average import ParticleLayout
from lazyvol.ops.registration._apply import Order, rotation_scratch
from lazyvol.ops.registration._poses import (
    Rotations,
    Shifts,
    Wedge,
    axes_of,
    euler_angles,
    measured_frequencies,
    particle_dims,
    particle_weights,
    shifts_in_voxels,
    zyx_spacing,
)
from lazyvol.ops.registration._whole_particles import fold_whole_particles
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.stack import STACK, dataset_of, float_of


@operation(
    dims={"shifts": (("k", "axis"),), "rotations": (("k", "angle"),)},
    unbounded=("shifts", "rotations"),
)
def average(
    stack: xr.DataArray,
    shifts: Shifts | None = None,
    rotations: Rotations | None = None,
    weights: xr.DataArray | Sequence[float] | None = None,
    *,
    wedge: Wedge | None = None,
    orientations: Rotations | None = None,
    order: Order = 3,
) -> xr.Dataset:
    """Weighted mean over k of the particles, each shifted and then rotated, in one read.

    Parameters
    ----------
    stack
        Volumes (k, z, y, x) or images (k, y, x), with any other dims.
    shifts, rotations
        Shift and rotation of every particle, as for ``registration.shift`` and
        ``registration.rotate``.
    weights
        Weight of every particle, (k,). A particle is left out if its weight is 0 or NaN, or its
        shift or rotation is NaN.
    wedge
        The measured frequencies: the lowest and highest tilt in degrees of a tilt series about y,
        or a mask or weights of the Fourier transform, for all particles or for each, as for
        ``scores.screen``. Each frequency is then averaged over the particles that measured it;
        frequencies measured by less than a tenth of them stay weak.
    orientations
        Rotation that every particle underwent between its measurement and this stack, in the form
        of ``rotations``. None: the stack holds particles as they were measured.
    order
        Order of the spline: 1 (linear) or 3 (cubic).

    Returns
    -------
    xarray.Dataset
        ``average``, and ``weight``: the sum of the weights of each voxel's particles. Voxels from
        outside a particle's box and NaN do not count; where none count the average is NaN.

    Raises
    ------
    LabelError
        If there is no dim k, or shifts, rotations, weights or wedge do not fit the stack.
    OptionError
        If an option has the wrong type or value.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> stack = lv.as_stack(np.array([[[[1.0, 2.0, 9.0]]], [[[0.0, 1.0, 2.0]]]]))
    >>> moves = xr.DataArray([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0]], dims=("k", "axis"))
    >>> result = lv.registration.average(stack, moves)
    >>> result.average.values[0, 0], result.weight.values[0, 0]
    (array([1., 2., 9.]), array([2., 2., 1.]))
    """
    dims = particle_dims(stack)
    if STACK not in stack.dims:
        raise LabelError(f"average: stack must have the dim {STACK!r}, got {stack.dims}")
    poses = [] if shifts is None else shifts_in_voxels(stack, shifts, dims)
    poses += [] if rotations is None else euler_angles(stack, rotations, dims)
    masks, since = measured_frequencies("average", stack, wedge, orientations, dims)
    layout = layout_of(
        stack, dims, order, shifted=shifts is not None, rotated=rotations is not None,
        has_wedge=bool(masks), oriented=bool(since),
    )  # fmt: skip
    own_weights = xr.DataArray(1.0) if weights is None else particle_weights(stack, weights)
    sizes, dtype = tuple(stack.sizes[d] for d in dims), float_of(stack.dtype)
    voxels = prod(sizes)
    spec = Fold(
        start=partial(subvolume_average.start, layout=layout),
        update=partial(subvolume_average.update, layout=layout),
        combine=subvolume_average.combine,
        finish=partial(subvolume_average.finish, sizes=sizes, dtype=dtype),
        outputs={
            "average": Output(dtype, dims, sizes),
            "weight": Output(np.dtype(np.float64), dims, sizes),
        },
        state_bytes=voxels * (16 + 5 * bool(masks)),
        finish_bytes=voxels * (24 + 32 * bool(masks)),
        scratch=rotation_scratch(stack, dims, "constant") + 8 if layout.rotated else 8.0,
    )
    outputs = fold_whole_particles(
        spec,
        stack,
        own_weights,
        *masks,
        *poses,
        *since,
        whole=dims,
        dims=(STACK, *dims),
        title="average",
    )
    outputs["weight"].attrs.pop("units", None)
    return dataset_of(outputs)


def layout_of(
    stack: xr.DataArray, dims: Sequence[str], order: int = 3, *, shifted: bool = False,
    rotated: bool = False, has_wedge: bool = False, oriented: bool = False,
) -> ParticleLayout:  # fmt: skip
    """Return the layout of the particles of a stack."""
    lead = [d for d in stack.dims if d not in dims]
    nz, ny, nx = [1] * (3 - len(dims)) + [stack.sizes[d] for d in dims]
    return ParticleLayout(
        axes_of(stack, dims), lead.index(STACK), (nz, ny, nx), zyx_spacing(stack, dims), order,
        shifted, rotated, has_wedge, oriented,
    )  # fmt: skip

"""The average of particles in the frame of a reference."""

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.registration import subvolume_average
from lazyvol.kernels.registration.subvolume_average import Layout
from lazyvol.ops.registration._apply import Order, require_between, turning_scratch
from lazyvol.ops.registration._poses import (
    Rotations,
    Shifts,
    Wedge,
    axes_of,
    frequencies,
    in_degrees,
    in_voxels,
    per_particle,
    steps,
    whole_dims,
)
from lazyvol.ops.registration._whole_particles import fold_wholes
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.stack import STACK, float_of


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
    order: Order = 3,
) -> xr.Dataset:
    """Mean over k of the particles, each shifted and turned on its way, from one read.

    Parameters
    ----------
    stack
        Particles.
    shifts, rotations
        As for ``shift`` and ``rotate``.
    weights
        Weight of every particle, over k. One of 0 or NaN, or with a shift or rotation that is
        NaN, is left out.
    wedge
        What of the particles' frequencies was measured: the lowest and highest tilt of a series
        about y, or a mask of their Fourier transform as ``synthetic.wedge`` makes it, of all
        particles or of each. Frequencies then have the mean of the particles that measured them;
        those that less than a tenth did stay weak.
    order
        See above.

    Returns
    -------
    xarray.Dataset
        ``average``, and ``weight``: of the particles that a voxel is the mean of. Voxels that
        come from outside of a particle's box or are NaN do not count; without any, the average
        is NaN.

    Raises
    ------
    LabelError
        If numbers or options do not fit.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> stack = lv.as_stack(np.array([[[[1.0, 2.0, 9.0]]], [[[0.0, 1.0, 2.0]]]]))
    >>> moves = xr.DataArray([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0]], dims=("k", "axis"))
    >>> found = lv.registration.average(stack, moves)
    >>> found.average.values[0, 0], found.weight.values[0, 0]
    (array([1., 2., 9.]), array([2., 2., 1.]))
    """
    dims = whole_dims(stack)
    if STACK not in stack.dims:
        raise LabelError(f"an average is over {STACK!r}, the stack has dims {stack.dims}")
    require_between(order, "constant")
    numbers = [] if shifts is None else in_voxels(stack, shifts, dims)
    numbers += [] if rotations is None else in_degrees(stack, rotations, dims)
    masks = [] if wedge is None else [frequencies(stack, wedge)]
    layout = layout_of(stack, dims, order, shifts is not None, rotations is not None, bool(masks))
    own = xr.DataArray(1.0) if weights is None else per_particle(stack, weights)
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
        scratch=turning_scratch(stack, dims, "constant") + 8 if layout.turned else 8.0,
    )
    found = fold_wholes(
        spec, stack, own, *masks, *numbers, whole=dims, dims=(STACK, *dims), title="average"
    )
    found["weight"].attrs.pop("units", None)
    return xr.Dataset(found)


def layout_of(
    stack: xr.DataArray, dims: Sequence[str], order: int, moved: bool, turned: bool, wedged: bool
) -> Layout:
    """How the particles of a stack lie in blocks and sums."""
    lead = [d for d in stack.dims if d not in dims]
    nz, ny, nx = [1] * (3 - len(dims)) + [stack.sizes[d] for d in dims]
    return Layout(
        axes_of(stack, dims), lead.index(STACK), (nz, ny, nx), steps(stack, dims), order, moved,
        turned, wedged,
    )  # fmt: skip

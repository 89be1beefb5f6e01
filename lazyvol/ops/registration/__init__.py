"""Registration: shifts and rotations of particles, determined and applied, and averages.

Particles extend over the spatial dims of a stack: volumes (z, y, x) or images (y, x). Lengths are
in the unit of the positions, angles in degrees. A shift moves the content of a particle by a length
along each dim. A rotation is right-handed about voxel ``n // 2`` and acts on vectors (x, y, z): a
value at v moves to R v. Euler angles are rot, tilt and psi as in RELION (``scipy``'s intrinsic
``"ZYZ"``): they rotate a particle into the frame of the reference. A particle with both is shifted
first, then rotated.

Floats keep their dtype, integers give float64; splines are evaluated in float64. NaN spreads to the
values interpolated from it: to neighbours with order 1, to the whole particle with order 3.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isfinite, prod
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.registration import masked_correlation, phase_correlation
from lazyvol.kernels.registration.phase_correlation import ShiftSearch
from lazyvol.ops._checks import whole_number
from lazyvol.ops._references import particles_besides
from lazyvol.ops.registration._align import align
from lazyvol.ops.registration._apply import rotate, shift
from lazyvol.ops.registration._average import average
from lazyvol.ops.registration._poses import (
    AXIS,
    axes_of,
    particle_dims,
    reference_of,
    zyx_spacing,
)
from lazyvol.ops.registration._whole_particles import fold_whole_particles
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import require_mask, unit_of

#: finest steps of a voxel of ``shifts``: float32 resolves about 100
MAX_UPSAMPLE = 1000

__all__ = ["align", "average", "rotate", "shift", "shifts"]


@operation
def shifts(
    stack: xr.DataArray,
    reference: xr.DataArray | str = "average",
    *,
    upsample: int = 10,
    max_shift: float | None = None,
    weighting: Literal["none", "phase"] = "none",
    mask: xr.DataArray | None = None,
    reference_mask: xr.DataArray | None = None,
    overlap: float = 0.3,
    leave_one_out: bool | None = None,
) -> xr.DataArray:
    """Shift that aligns every particle to the reference, (k, axis), for ``registration.shift``.

    It is the shift of the highest cross-correlation: on the voxels, then in steps of ``1 /
    upsample`` of a voxel around it. Without a mask particles are periodic and shifts are up to half
    a box. With a mask shifts are up to a whole box, and correlations are normalized over the voxels
    in both masks.

    Parameters
    ----------
    stack
        Volumes (z, y, x), images (y, x) or profiles, with any other dims.
    reference
        One particle, a stack of as many, or ``"average"``: the mean of the stack, which is read
        once more.
    upsample
        Number of steps per voxel, 1 or more; float32 resolves about 100. With a mask, the top of
        the parabola through the highest voxel and its neighbours is rounded to these steps.
    max_shift
        Longest shift, in the unit of the positions.
    weighting
        ``"none"``, or ``"phase"``: the phase correlation, which gives all frequencies equal weight.
        It has sharp peaks without noise, but frequencies of pure noise dominate it (error at a
        signal-to-noise ratio of 0.3: 0.14 voxels without, 0.44 with).
    mask
        Boolean: voxels of the particles that count, over any dims of the stack.
    reference_mask
        Boolean: voxels of the reference that count; by default those of ``mask``.
    overlap
        Smallest overlap of the masks at a shift, from 0 to 1 of their largest overlap.
    leave_one_out
        Whether the reference is the average of all particles and each particle is subtracted from
        it before it is compared: otherwise its noise correlates with itself, at no shift. By
        default only for ``"average"``.

    Returns
    -------
    xarray.DataArray
        The non-spatial dims of the stack, and ``axis``; float64, in the unit of the positions. NaN
        for a particle that is constant or has NaN where it counts.

    Raises
    ------
    LabelError
        If the grids of stack, reference and masks differ, a mask is not boolean, or an option is
        out of its range.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    Guizar-Sicairos, Thurman and Fienup, Optics Letters 33, 156 (2008); Padfield, IEEE
    Transactions on Image Processing 21, 2706 (2012). The counterpart is
    ``skimage.registration.phase_cross_correlation``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> ball = lv.synthetic.sphere((24, 24, 24), radius=6, soft=4).compute()
    >>> shifted = lv.registration.shift(ball, {"y": 2.3, "x": -1.0})
    >>> lv.registration.shifts(shifted, ball).values
    array([ 0. , -2.3,  1. ])
    """
    dims = particle_dims(stack)
    if leave_one_out is None:
        leave_one_out = isinstance(reference, str)
    template = reference_of("shifts", stack, reference, dims)
    leaves_out = leave_one_out and mask is None
    n_averaged = particles_besides("shifts", stack, template) if leaves_out else 0
    search = _search(stack, dims, upsample, max_shift, weighting, n_averaged)
    for param, array in (("mask", mask), ("reference_mask", reference_mask)):
        if array is not None:
            require_same_grid(stack, require_mask(f"shifts: {param}", array))
    particle_mask = reference_mask if mask is None else mask
    if particle_mask is None:
        return _periodic_shifts(stack, template, dims, search)
    template_mask = particle_mask if reference_mask is None else reference_mask
    if not 0 <= overlap <= 1:
        raise LabelError(f"shifts: overlap must be a fraction from 0 to 1, got {overlap}")
    if weighting != "none":
        raise LabelError(f"shifts: weighting must be 'none' with a mask, got {weighting!r}")
    return _masked_shifts(stack, template, particle_mask, template_mask, dims, search, overlap)


def _search(
    stack: xr.DataArray,
    dims: Sequence[str],
    upsample: int,
    max_shift: float | None,
    weighting: str,
    n_averaged: int,
) -> ShiftSearch:
    """Return the checked options of a search."""
    if max_shift is not None and not (isfinite(max_shift) and max_shift >= 0):
        raise LabelError(f"shifts: max_shift must be a length of 0 or more, got {max_shift}")
    limit = inf if max_shift is None else float(max_shift)
    steps = whole_number("shifts", "upsample", upsample)
    if steps > MAX_UPSAMPLE:
        raise OptionError(
            f"shifts: upsample must be {MAX_UPSAMPLE} steps per voxel or fewer, got {steps}; "
            f"noise hides finer steps"
        )
    return ShiftSearch(zyx_spacing(stack, dims), steps, limit, weighting == "phase", n_averaged)


def _is_single(*stacks: xr.DataArray) -> bool:
    """Return True if single precision holds all digits of the values."""
    return all(s.dtype.kind == "f" and s.dtype.itemsize <= 4 for s in stacks)


def _periodic_shifts(
    stack: xr.DataArray, reference: xr.DataArray, dims: tuple[str, ...], search: ShiftSearch
) -> xr.DataArray:
    """Return shifts by Fourier transforms of the box; the reference is transformed once."""
    single = _is_single(stack)
    item = 4 if single else 8
    spectra = blockwise(
        partial(phase_correlation.half_spectra, axes=axes_of(reference, dims), single=single),
        reference, core=dims, dtype=np.dtype(np.complex64 if single else np.complex128),
        scratch=4.0 * item, title="spectrum",
    )  # fmt: skip
    update = partial(phase_correlation.find_shifts, axes=axes_of(stack, dims), search=search)
    return _fold_shifts(stack, dims, update, 6.0 * item, spectra)


def _masked_shifts(
    stack: xr.DataArray,
    reference: xr.DataArray,
    mask: xr.DataArray,
    reference_mask: xr.DataArray,
    dims: tuple[str, ...],
    search: ShiftSearch,
    overlap: float,
) -> xr.DataArray:
    """Return shifts by the normalized correlation over the voxels in both masks."""
    lengths = tuple([1] * (3 - len(dims)) + [stack.sizes[d] for d in dims])
    reach = masked_correlation.longest_shifts(lengths, search)
    padded = prod(masked_correlation.padded_shape(lengths, reach))
    update = partial(
        masked_correlation.find_shifts, axes=axes_of(stack, dims), search=search, overlap=overlap
    )
    # 12 padded spectra and volumes at once, and three of float64 that are not padded
    item = 4 if _is_single(stack, reference) else 8
    scratch = 24.0 + 25.0 * item * padded / max(1, prod(lengths))
    return _fold_shifts(stack, dims, update, scratch, reference, mask, reference_mask)


def _fold_shifts(
    stack: xr.DataArray,
    dims: tuple[str, ...],
    update: Callable[..., Any],
    scratch: float,
    *operands: xr.DataArray,
) -> xr.DataArray:
    """Return the labelled shifts of all particles from one fold."""
    n = len(dims)
    spec = Fold(
        start=partial(phase_correlation.start, n=n), update=update,
        combine=phase_correlation.combine, finish=phase_correlation.finish,
        outputs={"shift": Output(np.dtype(np.float64), (AXIS,), (n,))}, state_bytes=8 * n,
        scratch=scratch,
    )  # fmt: skip
    outputs = fold_whole_particles(spec, stack, *operands, whole=dims, dims=dims, title="shifts")
    labelled = outputs["shift"].assign_coords({AXIS: (AXIS, list(dims))})
    labelled.attrs = {k: v for k, v in stack.attrs.items() if k != "units"}
    labelled.attrs["units"] = unit_of(stack, dims[-1])
    return labelled

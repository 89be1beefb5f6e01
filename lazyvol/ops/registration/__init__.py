"""Where particles lie and how they stand: shifts and rotations, found and applied.

Particles are the spatial dims of a stack, (z, y, x) or images (y, x). Lengths are in the unit of
the coordinates, angles in degrees. A shift moves a particle's content by so much along each dim; a
rotation turns it about voxel ``n // 2``: right-handed, of vectors (x, y, z), what is at v goes to
R v. Euler angles are rot, tilt and psi as in RELION: ``scipy``'s intrinsic ``"ZYZ"``, which
brings a particle into the frame of the reference. Where there are both, a particle is shifted
first, then turned.

``order`` is that of the spline between voxels, 1 (linear) or 3 (cubic); ``mode`` is what lies
beyond the border, as in the filters of ``scipy.ndimage``: ``constant`` (``fill``), ``nearest``,
``reflect``, ``mirror`` or ``wrap``. Floats keep their type, integers give float64; splines are
evaluated in float64. NaN reaches what is interpolated from it: a neighbour with order 1, with
order 3 everything. A particle whose shift or rotation is NaN becomes NaN.
"""

from collections.abc import Sequence
from functools import partial
from math import inf, isfinite, prod
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.registration import masked_correlation, phase_correlation
from lazyvol.kernels.registration.phase_correlation import Search
from lazyvol.ops._references import particles_besides
from lazyvol.ops.registration._align import align
from lazyvol.ops.registration._apply import rotate, shift
from lazyvol.ops.registration._average import average
from lazyvol.ops.registration._poses import AXIS, axes_of, reference_of, steps, whole_dims
from lazyvol.ops.registration._whole_particles import fold_wholes
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import require_mask, unit_of

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
    """Shift of every particle that lays it on the reference: (k, axis), for ``shift``.

    The highest cross-correlation, found on the voxels and then in steps of ``1 / upsample`` of a
    voxel around it. Particles are periodic, so shifts are of up to half a box, unless there is a
    mask: then they are of up to a whole one, and correlations normalised over the voxels that
    both have.

    Parameters
    ----------
    stack
        Particles.
    reference
        Volume, a stack of as many, or ``"average"``: that of the stack, read in a first pass.
    upsample
        Parts of a voxel that are told apart. Of float32 they are to be trusted up to about 100.
        Under a mask, by a parabola through the highest voxel and its neighbours.
    max_shift
        The longest shift that is looked for, in the unit of the coordinates.
    weighting
        ``"none"``, or ``"phase"``, which gives all frequencies the same weight. That makes peaks
        sharp where there is no noise; frequencies of nothing but noise drown them (error at a
        signal-to-noise ratio of 0.3: 0.14 voxels without, 0.44 with).
    mask
        Voxels of the particles that count, over any of the stack's dims.
    reference_mask
        Voxels of the reference that count; by default those of ``mask``.
    overlap
        Under a mask, least part of the largest overlap that a shift may leave, from 0 to 1.
    leave_one_out
        Whether the reference is the average of all particles, out of which each is taken before
        it is compared: noise agrees with itself, at no shift. By default only for ``"average"``.

    Returns
    -------
    xarray.DataArray
        The dims of the stack that are not spatial, and ``axis``; float64. NaN for a particle that
        is constant or has a NaN where it counts.

    Raises
    ------
    LabelError
        If grids, masks or options do not fit.

    References
    ----------
    Guizar-Sicairos, Thurman and Fienup, Optics Letters 33, 156 (2008); Padfield, IEEE
    Transactions on Image Processing 21, 2706 (2012).

    Examples
    --------
    >>> import lazyvol as lv
    >>> still = lv.synthetic.sphere((24, 24, 24), radius=6, soft=4).compute()
    >>> moved = lv.registration.shift(still, {"y": 2.3, "x": -1.0})
    >>> lv.registration.shifts(moved, still).values
    array([ 0. , -2.3,  1. ])
    """
    dims = whole_dims(stack)
    if leave_one_out is None:
        leave_one_out = isinstance(reference, str)
    against = reference_of("shifts", stack, reference, dims)
    omits = leave_one_out and mask is None
    others = particles_besides("shifts", stack, against) if omits else 0
    search = _search(stack, dims, upsample, max_shift, weighting, others)
    for param, array in (("mask", mask), ("reference_mask", reference_mask)):
        if array is not None:
            require_same_grid(stack, require_mask(f"shifts: {param}", array))
    flags = reference_mask if mask is None else mask
    if flags is None:
        return _periodic(stack, against, dims, search)
    allowed = flags if reference_mask is None else reference_mask
    if not 0 <= overlap <= 1:
        raise LabelError(f"overlap is a part from 0 to 1, got {overlap=}")
    if weighting != "none":
        raise LabelError(f"under a mask correlations are not weighted, got {weighting=}")
    return _masked(stack, against, flags, allowed, dims, search, overlap)


def _search(
    stack: xr.DataArray,
    dims: Sequence[str],
    upsample: int,
    max_shift: float | None,
    weighting: str,
    others: int,
) -> Search:
    if int(upsample) != upsample or upsample < 1:
        raise LabelError(f"upsample is a whole number of parts of a voxel, got {upsample=}")
    if max_shift is not None and not (isfinite(max_shift) and max_shift >= 0):
        raise LabelError(f"max_shift is a length of 0 or more, got {max_shift=}")
    if weighting not in ("none", "phase"):
        raise LabelError(f"weighting is 'none' or 'phase', got {weighting!r}")
    limit = inf if max_shift is None else float(max_shift)
    return Search(steps(stack, dims), int(upsample), limit, weighting == "phase", others)


def _is_single(*stacks: xr.DataArray) -> bool:
    """Whether single precision holds all digits of the values."""
    return all(s.dtype.kind == "f" and s.dtype.itemsize <= 4 for s in stacks)


def _periodic(
    stack: xr.DataArray, against: xr.DataArray, dims: tuple[str, ...], search: Search
) -> xr.DataArray:
    """Shifts by Fourier transforms of the particles as they are; the reference's, made once."""
    single = _is_single(stack)
    item = 4 if single else 8
    made = partial(phase_correlation.spectra, axes=axes_of(against, dims), single=single)
    spectra = blockwise(
        made, against, core=dims, dtype=np.dtype(np.complex64 if single else np.complex128),
        scratch=4.0 * item, title="spectrum",
    )  # fmt: skip
    find = partial(phase_correlation.find, axes=axes_of(stack, dims), search=search)
    return _found(stack, dims, find, 6.0 * item, spectra)


def _masked(
    stack: xr.DataArray,
    against: xr.DataArray,
    mask: xr.DataArray,
    reference_mask: xr.DataArray,
    dims: tuple[str, ...],
    search: Search,
    overlap: float,
) -> xr.DataArray:
    lengths = tuple([1] * (3 - len(dims)) + [stack.sizes[d] for d in dims])
    grown = prod(masked_correlation.padding(lengths, masked_correlation.reaches(lengths, search)))
    find = partial(
        masked_correlation.find, axes=axes_of(stack, dims), search=search, overlap=overlap
    )
    # 12 spectra and volumes at once, padded, and three of float64 that are not
    item = 4 if _is_single(stack, against) else 8
    scratch = 24.0 + 25.0 * item * grown / max(1, prod(lengths))
    return _found(stack, dims, find, scratch, against, mask, reference_mask)


def _found(
    stack: xr.DataArray,
    dims: tuple[str, ...],
    find: Any,
    scratch: float,
    *operands: xr.DataArray,
) -> xr.DataArray:
    n = len(dims)
    spec = Fold(
        start=partial(phase_correlation.start, n=n), update=find, combine=phase_correlation.combine,
        finish=phase_correlation.finish,
        outputs={"shift": Output(np.dtype(np.float64), (AXIS,), (n,))}, state_bytes=8 * n,
        scratch=scratch,
    )  # fmt: skip
    found = fold_wholes(spec, stack, *operands, whole=dims, dims=dims, title="shifts")["shift"]
    found.attrs = {k: v for k, v in stack.attrs.items() if k != "units"}
    found.attrs["units"] = unit_of(stack, dims[-1])
    return found.assign_coords({AXIS: (AXIS, list(dims))})

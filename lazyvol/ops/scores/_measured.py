"""Weights of the measured frequencies of particles, from tilt ranges, masks and volumes."""

from functools import partial
from math import prod
from typing import Literal

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.registration import subvolume_average
from lazyvol.kernels.screening import measured
from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.ops.registration._average import layout_of
from lazyvol.ops.registration._poses import (
    EULER,
    Rotations,
    Wedge,
    euler_angles,
    wedge_mask,
)
from lazyvol.ops.registration._whole_particles import fold_whole_particles
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import SPATIAL, STACK

#: dim of the frequencies of a band
FREQUENCY = "frequency"


def measured_weights(
    wedge: Wedge, orientations: Rotations | None, stack: xr.DataArray, band: Band
) -> xr.DataArray:
    """Return the weights of the frequencies of a band, (k, frequency) or (frequency,).

    Those of a tilt range are steps in one byte (``measured.Measured``); others are float32.
    """
    if isinstance(wedge, xr.DataArray):
        if orientations is not None:
            raise LabelError(
                "screen: orientations must be None with a wedge that is an array, got both; a mask "
                "is that of the particles as they are"
            )
        mask = wedge_mask("screen", stack, wedge)
        lead = [str(d) for d in mask.dims if d not in SPATIAL]
        return blockwise(
            partial(measured.at_frequencies, index=band.index), mask.transpose(*lead, *SPATIAL),
            core=SPATIAL, out=(*lead, FREQUENCY), sizes={FREQUENCY: len(band.index)},
            dtype=np.dtype(np.float32), scratch=0.0, title="weights",
        )  # fmt: skip
    low, high = (float(a) for a in wedge)
    if not -90 <= low < high <= 90:
        raise LabelError(
            f"screen: wedge must be a rising tilt range from -90 to 90 degrees, got {wedge}; pass "
            f"e.g. wedge=(-60.0, 60.0)"
        )
    angles = _orientations(stack, orientations)
    return blockwise(
        partial(measured.tilt_weights, tilts=(low, high), band=band), *angles,
        out=(*map(str, angles[0].dims), FREQUENCY), sizes={FREQUENCY: len(band.index)},
        dtype=np.dtype(np.uint8), scratch=0.0, title="weights",
    )  # fmt: skip


def coverage(
    stack: xr.DataArray,
    group: xr.DataArray,
    groups: int,
    wedge: Wedge | Literal["auto"] | None,
    orientations: Rotations | None,
) -> xr.DataArray | None:
    """Return the sum of the measured frequencies of each group of particles, from none of the data.

    ``group`` (k,) are numbers from 0, below ``groups``. The sums (group, fz, fy, fx) are half
    spectra. None if all particles have equal measured frequencies, or these are not known before a
    screening.
    """
    if wedge is None or isinstance(wedge, str):
        return None
    mask = wedge_mask("screen", stack, wedge)
    since = [] if isinstance(wedge, xr.DataArray) else _orientations(stack, orientations)
    if not any(STACK in operand.dims for operand in (mask, *since)):
        return None
    layout = layout_of(stack, SPATIAL, has_wedge=True, oriented=bool(since))
    sizes = (groups, *layout.half_spectrum)
    spec = Fold(
        start=partial(subvolume_average.start_coverage, groups=groups, layout=layout),
        update=partial(subvolume_average.update_coverage, layout=layout),
        combine=subvolume_average.combine,
        finish=dict,
        outputs={"coverage": Output(np.dtype(np.float64), ("group", "fz", "fy", "fx"), sizes)},
        state_bytes=8 * prod(sizes),
        finish_bytes=8 * prod(sizes),
    )
    ones = xr.DataArray(np.ones(stack.sizes[STACK], np.float32), dims=(STACK,))
    masks = (mask.reset_coords(drop=True).chunk() * ones.chunk({STACK: 8})).transpose(
        STACK, *SPATIAL
    )
    sums = fold_whole_particles(
        spec, masks, group, *since, whole=SPATIAL, dims=(STACK, *SPATIAL), title="coverage"
    )
    return sums["coverage"]


def _orientations(stack: xr.DataArray, orientations: Rotations | None) -> list[xr.DataArray]:
    """Return rot, tilt and psi, (k,), or of no dim if they are the same for all particles."""
    own = [stack.coords[a] for a in EULER if a in stack.coords]
    if orientations is None:
        is_table = len(own) == len(EULER) and all(a.dims == (STACK,) for a in own)
        angles = own if is_table else [xr.DataArray(0.0)] * len(EULER)
    else:
        angles = euler_angles(stack, orientations, SPATIAL)
    angles = [a.reset_coords(drop=True) for a in angles]
    unknown = [a for a in angles if a.chunks is None and not np.isfinite(a.values).all()]
    if unknown:
        bad = int(sum(np.count_nonzero(~np.isfinite(a.values)) for a in unknown))
        raise LabelError(
            f"screen: orientations must be finite angles, got {bad} NaN or infinite ones; leave "
            f"these particles out"
        )
    if any(STACK in a.dims for a in angles):
        zeros = xr.DataArray(np.zeros(stack.sizes[STACK]), dims=(STACK,))
        angles = [a if STACK in a.dims else a + zeros for a in angles]
    return angles

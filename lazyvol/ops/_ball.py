"""Balls and neighbourhoods as windows and structuring elements; voxels need not be cubes."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.morphology import binary, connected_components
from lazyvol.ops._checks import whole_number
from lazyvol.stack import require_one_unit, spacing

Array = np.ndarray[Any, np.dtype[Any]]


def ball(subject: str, stack: xr.DataArray, dims: Sequence[str], radius: float) -> Array:
    """Return the voxels within ``radius`` of a voxel, along ``dims``; ``subject`` is "op: param".

    The ball is cut at the length of a volume.
    """
    if not (isfinite(radius) and radius >= 0):
        op = subject.partition(":")[0]
        raise LabelError(f"{op}: radius must be 0 or more, got {radius!r}; pass a length")
    require_one_unit(stack, dims, subject)
    steps = [abs(spacing(stack, d)) for d in dims]
    lengths = [stack.sizes[d] for d in dims]
    reach = [min(int(radius / s * (1 + 1e-9)), n) for s, n in zip(steps, lengths, strict=True)]
    return binary.ball(reach, steps, radius)


def with_axes_of(stack: xr.DataArray, element: Array, dims: Sequence[str]) -> Array:
    """Return an element over ``dims`` with the axes of a stack, 1 long along its other dims."""
    named = xr.DataArray(element, dims=dims)
    own = named.transpose(*(d for d in stack.dims if d in dims))
    return own.values.reshape([named.sizes.get(d, 1) for d in stack.dims])


def neighbourhood(op: str, dims: Sequence[str], connectivity: int) -> Array:
    """Return a voxel and the neighbours that it is connected to, along ``dims``."""
    if not 1 <= whole_number(op, "connectivity", connectivity) <= 3:
        raise LabelError(f"{op}: connectivity must be 1, 2 or 3, got {connectivity!r}; pass 1")
    return connected_components.neighbourhood(len(dims), connectivity)

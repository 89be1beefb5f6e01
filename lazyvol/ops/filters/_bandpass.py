"""Band-pass filters of whole volumes, in the unit of their coordinates."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.filters import bandpass as kernels
from lazyvol.ops._checks import require_voxels
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import float_of, require_one_unit, spacing

#: bytes per voxel for the transform of a whole volume
BANDPASS_BYTES = 32.0


def bandpass(
    stack: xr.DataArray,
    dims: Sequence[str],
    shortest: float | None,
    longest: float | None,
    edge: float,
) -> xr.DataArray:
    """Filter whole volumes to a band of wavelengths."""
    steps = _spacing_in_one_unit(stack, dims)
    wavelengths = [w for w in (shortest, longest) if w is not None]
    low, high = shortest or 0.0, np.inf if longest is None else longest
    if not wavelengths or min(wavelengths) <= 0 or low >= high:
        raise LabelError(
            f"bandpass: shortest and longest must be wavelengths above 0 with shortest < longest, "
            f"one of them or both, got {shortest=} and {longest=}"
        )
    if edge < 0:
        raise LabelError(f"bandpass: edge must be 0 or more Fourier pixels, got {edge}")
    pixel = max(1 / (stack.sizes[d] * h) for d, h in zip(dims, steps, strict=True))
    dtype = float_of(stack.dtype)
    kernel = partial(
        kernels.bandpass, axes=tuple(stack.dims.index(d) for d in dims), spacing=steps,
        band=(1 / high, np.inf if shortest is None else 1 / shortest), edge=edge * pixel,
        dtype=dtype,
    )  # fmt: skip
    return blockwise(
        kernel, stack, core=dims, dtype=dtype, scratch=BANDPASS_BYTES, title="bandpass"
    )


def _spacing_in_one_unit(stack: xr.DataArray, dims: Sequence[str]) -> tuple[float, ...]:
    """Return the distances of voxels along ``dims``; raise LabelError if their units differ."""
    if not dims:
        raise LabelError(f"bandpass: dim must name one dim or more of {stack.dims}, got {dims}")
    require_voxels("bandpass: stack", stack, dims)
    require_one_unit(stack, dims, "bandpass: stack")
    return tuple(abs(spacing(stack, d)) for d in dims)

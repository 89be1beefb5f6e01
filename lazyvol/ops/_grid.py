"""Grids of operations that create arrays: dims, positions, directions; and checked options."""

from collections.abc import Callable, Mapping, Sequence
from math import cos, isfinite, radians, sin
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.geometry.solids import Triple
from lazyvol.kernels.synthetic.philox import N_SEEDS
from lazyvol.plan.verbs import generate
from lazyvol.stack import (
    SPATIAL,
    STACK,
    Sigma,
    Vector,
    as_stack,
    is_number,
    per_dim,
    require_one_unit,
    require_stack,
    spacing,
    spatial_dims,
)

#: a shape, or a stack whose dims and positions are taken
Like = xr.DataArray | Sequence[int]
#: a dim, or components of a vector by dim
Axis = str | Mapping[str, float]
#: a position by dim, or along each spatial dim of the grid in the order z, y, x
Place = Mapping[str, float] | Sequence[float] | Vector

#: particles of one result, whose poses take 32 bytes each while it is built
MAX_PARTICLES = 2**24


def grid_of(like: Like, voxel_size: Sigma = 1.0, unit: str = "voxel") -> xr.DataArray:
    """Return the dims and positions of a shape or stack, as a broadcast of one value."""
    if not isinstance(like, xr.DataArray):
        shape = tuple(int(n) for n in like)
        if not 1 <= len(shape) <= 4 or any(n < 0 for n in shape):
            raise LabelError(
                f"like must have 1 to 4 lengths of 0 or more, got {shape}; give a shape (z, y, x) "
                f"or a stack"
            )
        return as_stack(np.broadcast_to(np.int8(0), shape), voxel_size=voxel_size, unit=unit)
    require_stack(like)
    return _broadcast_grid({str(d): n for d, n in like.sizes.items()}, like)


def spatial_grid(like: Like) -> xr.DataArray:
    """Return the spatial dims of a grid."""
    grid = grid_of(like)
    dims = spatial_dims(grid)
    if not dims:
        raise LabelError(
            f"like must have at least one of the dims {SPATIAL}, got {grid.dims}; rename its dims"
        )
    return _broadcast_grid({d: grid.sizes[d] for d in dims}, grid)


def stacked_grid(grid: xr.DataArray, n: int) -> xr.DataArray:
    """Return ``n`` copies of a grid along k."""
    if not 0 <= n <= MAX_PARTICLES:
        raise LabelError(
            f"n must be a number of particles from 0 to {MAX_PARTICLES}, got {n}; join several "
            f"results"
        )
    return _broadcast_grid({STACK: n} | {str(d): m for d, m in grid.sizes.items()}, grid)


def _broadcast_grid(lengths: Mapping[str, int], like: xr.DataArray) -> xr.DataArray:
    """Broadcast one value to dims of the given lengths, at the positions of ``like``."""
    values = np.broadcast_to(np.int8(0), tuple(lengths.values()))
    coords = {d: like.coords[d].variable for d in lengths if d in like.coords}
    return xr.DataArray(values, coords, tuple(lengths))


def kernel_dims(grid: xr.DataArray) -> tuple[str, ...]:
    """Return the three spatial dims as kernels order them: missing ones, then those of the
    grid."""
    present = tuple(str(d) for d in grid.dims)
    return (*(d for d in SPATIAL if d not in present), *present)


def voxel_steps(grid: xr.DataArray, flat: str | None = None) -> Triple:
    """Return the spacing along the three axes; 0 along missing dims and ``flat``."""
    dims = [str(d) for d in grid.dims if d != flat]
    require_one_unit(grid, dims, "like")
    return in_kernel_order(grid, {d: spacing(grid, d) for d in dims})


def centre_voxel(grid: xr.DataArray, centre: Place | None) -> Triple:
    """Return the (fractional) voxel of a centre; ``n // 2`` along dims where it is not given."""
    voxel = {str(d): float(n // 2) for d, n in grid.sizes.items()}
    for d, position in _positions(grid, centre).items():
        first = float(grid.coords[d][0]) if d in grid.coords else 0.0
        voxel[d] = (float(position) - first) / spacing(grid, d)
    return in_kernel_order(grid, voxel)


def _positions(grid: xr.DataArray, centre: Place | None) -> dict[str, float]:
    """Return the finite positions of a centre by dim."""
    if centre is None or (isinstance(centre, Mapping) and not centre):
        return {}
    dims = spatial_dims(grid)
    if not isinstance(centre, Mapping) and np.ndim(centre) == 0 and len(dims) > 1:
        raise LabelError(
            f"centre must be a position for each of {dims}, got {centre!r}; give {len(dims)} "
            f"numbers in this order, or a mapping by dim"
        )
    positions = per_dim(centre, dims, "centre")
    bad = {d: p for d, p in positions.items() if not (is_number(p) and isfinite(p))}
    if bad:
        raise LabelError(f"centre must be finite positions, got {bad}; give numbers along {dims}")
    return positions


def unit_vector(grid: xr.DataArray, axis: Axis, tilt: float = 0.0) -> Triple:
    """Return the unit vector along ``axis``, tilted by degrees towards x (from x towards z)."""
    parts = dict.fromkeys((axis,), 1.0) if isinstance(axis, str) else dict(axis)
    length = float(np.sqrt(sum(float(v) ** 2 for v in parts.values())))
    if set(parts) - set(SPATIAL) or not isfinite(length) or length == 0:
        raise LabelError(
            f"axis must be one of {SPATIAL}, or finite components by dim, not all 0, got {axis!r}"
        )
    if tilt and not isinstance(axis, str):
        raise LabelError(f"tilt needs an axis given as a dim, got {axis=}; tilt its components")
    if tilt:
        parts = {str(axis): cos(radians(tilt)), "z" if axis == "x" else "x": sin(radians(tilt))}
        length = 1.0
    return in_kernel_order(grid, {d: float(v) / length for d, v in parts.items()})


def in_kernel_order(grid: xr.DataArray, values: Mapping[str, float]) -> Triple:
    """Return values by dim in the order of ``kernel_dims``; 0 for dims not named."""
    a, b, c = (float(values.get(d, 0.0)) for d in kernel_dims(grid))
    return a, b, c


def non_negative(name: str, value: float) -> float:
    """Return a finite number of 0 or more; refuse others."""
    if not (is_number(value) and isfinite(value) and value >= 0):
        raise LabelError(f"{name} must be a finite number of 0 or more, got {value!r}")
    return float(value)


def checked_seed(seed: int) -> int:
    """Return a seed that fits one word of the key of the random numbers; refuse others."""
    if not 0 <= seed < N_SEEDS:
        raise LabelError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    return int(seed)


def float_dtype(dtype: str) -> np.dtype[np.floating]:
    """Return a float dtype of up to 8 bytes by name; refuse others."""
    checked = np.dtype(dtype)
    if checked.kind != "f" or checked.itemsize > 8:
        raise LabelError(f"dtype must be float16, float32 or float64, got {dtype!r}")
    return checked


def generate_array(
    kernel: Callable[..., Any], grid: xr.DataArray, dtype: str, title: str
) -> xr.DataArray:
    """Return a lazy array on a grid, computed by a kernel block by block.

    Kernels compute float16 in float32.
    """
    checked = float_dtype(dtype)
    scratch = 4.0 if checked.itemsize < 4 else 0.0
    return generate(kernel, grid, dtype=checked, scratch=scratch, title=title).rename(title)

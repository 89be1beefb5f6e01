"""Where something is made: dims, positions and directions for ops that start from nothing."""

from collections.abc import Callable, Mapping, Sequence
from math import cos, isfinite, radians, sin
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.geometry.solids import Triple
from lazyvol.kernels.synthetic.philox import SEEDS
from lazyvol.plan.verbs import generate
from lazyvol.stack import (
    SPATIAL,
    STACK,
    Sigma,
    as_stack,
    is_number,
    per_dim,
    require_stack,
    spacing,
    spatial_dims,
)

Like = xr.DataArray | Sequence[int]
Axis = str | Mapping[str, float]
#: a position by dim, or along each spatial dim that is there in the order z, y, x
Place = Mapping[str, float] | Sequence[float] | np.ndarray[Any, np.dtype[Any]]


def canvas(like: Like, voxel_size: Sigma = 1.0, unit: str = "voxel") -> xr.DataArray:
    """Dims and positions of what is to be made, over one value that is repeated."""
    if not isinstance(like, xr.DataArray):
        shape = tuple(int(n) for n in like)
        if any(n < 0 for n in shape):
            raise LabelError(f"a shape is made of lengths of 0 or more, got {shape}")
        return as_stack(np.broadcast_to(np.int8(0), shape), voxel_size=voxel_size, unit=unit)
    require_stack(like)
    return _blank({str(d): n for d, n in like.sizes.items()}, like)


def space(like: Like) -> xr.DataArray:
    """The spatial dims of a canvas."""
    found = canvas(like)
    dims = spatial_dims(found)
    if not dims:
        raise LabelError(f"a shape lies in some of the dims {SPATIAL}, got {found.dims}")
    return _blank({d: found.sizes[d] for d in dims}, found)


def repeated(where: xr.DataArray, n: int) -> xr.DataArray:
    """``n`` canvases along k."""
    if n < 0:
        raise LabelError(f"the number of particles is 0 or more, got {n=}")
    return _blank({STACK: n} | {str(d): m for d, m in where.sizes.items()}, where)


def _blank(lengths: Mapping[str, int], like: xr.DataArray) -> xr.DataArray:
    """One value everywhere, at the positions of ``like``."""
    values = np.broadcast_to(np.int8(0), tuple(lengths.values()))
    places = {d: like.coords[d].variable for d in lengths if d in like.coords}
    return xr.DataArray(values, places, tuple(lengths))


def order(where: xr.DataArray) -> tuple[str, ...]:
    """The three spatial dims as kernels see them: those that are missing, then those there."""
    there = tuple(str(d) for d in where.dims)
    return (*(d for d in SPATIAL if d not in there), *there)


def steps(where: xr.DataArray, flat: str | None = None) -> Triple:
    """Distance between voxels along the three axes; 0 along missing ones and ``flat``."""
    return triple(where, {str(d): spacing(where, str(d)) for d in where.dims if d != flat})


def middle(where: xr.DataArray, centre: Place | None) -> Triple:
    """Voxel of a centre given by dim; that of ``n // 2`` where it is not."""
    found = {str(d): float(n // 2) for d, n in where.sizes.items()}
    for d, position in _positions(where, centre).items():
        first = float(where.coords[d][0]) if d in where.coords else 0.0
        found[d] = (float(position) - first) / spacing(where, d)
    return triple(where, found)


def _positions(where: xr.DataArray, centre: Place | None) -> dict[str, float]:
    """Finite positions of a centre by dim."""
    if centre is None or (isinstance(centre, Mapping) and not centre):
        return {}
    dims = spatial_dims(where)
    if not isinstance(centre, Mapping) and np.ndim(centre) == 0 and len(dims) > 1:
        raise LabelError(
            f"centre must be a position for each of {dims}, got {centre!r}; give {len(dims)} "
            f"numbers in this order, or a mapping by dim"
        )
    found = per_dim(centre, dims, "centre")
    bad = {d: p for d, p in found.items() if not (is_number(p) and isfinite(p))}
    if bad:
        raise LabelError(f"centre must be finite positions, got {bad}; give numbers along {dims}")
    return found


def direction(where: xr.DataArray, axis: Axis, tilt: float = 0.0) -> Triple:
    """Unit vector along ``axis``, leaning by ``tilt`` degrees towards x (or from x towards z)."""
    parts = dict.fromkeys((axis,), 1.0) if isinstance(axis, str) else dict(axis)
    size = float(np.sqrt(sum(float(v) ** 2 for v in parts.values())))
    if set(parts) - set(SPATIAL) or not isfinite(size) or size == 0:
        raise LabelError(f"axis is one of {SPATIAL} or components by dim, not all 0, got {axis!r}")
    if tilt and not isinstance(axis, str):
        raise LabelError(f"tilt is for an axis given as a dim, got {axis=}; tilt the components")
    if tilt:
        parts = {str(axis): cos(radians(tilt)), "z" if axis == "x" else "x": sin(radians(tilt))}
        size = 1.0
    return triple(where, {d: float(v) / size for d, v in parts.items()})


def triple(where: xr.DataArray, values: Mapping[str, float]) -> Triple:
    """Values by dim in the order of the axes; 0 for dims not named."""
    a, b, c = (float(values.get(d, 0.0)) for d in order(where))
    return a, b, c


def not_negative(name: str, value: float) -> float:
    """A finite number of 0 or more."""
    if not (is_number(value) and isfinite(value) and value >= 0):
        raise LabelError(f"{name} is a number of 0 or more, got {value!r}")
    return float(value)


def seed_of(seed: int) -> int:
    """A seed that fits its word of the random numbers' key."""
    if not 0 <= seed < SEEDS:
        raise LabelError(f"a seed is a whole number from 0 to 2**32 - 1, got {seed!r}")
    return int(seed)


def float_dtype(dtype: str) -> np.dtype[np.floating]:
    """A float type by name."""
    found = np.dtype(dtype)
    if found.kind != "f" or found.itemsize > 8:
        raise LabelError(f"dtype is float16, float32 or float64, got {dtype!r}")
    return found


def made(kernel: Callable[..., Any], where: xr.DataArray, dtype: str, title: str) -> xr.DataArray:
    """What a kernel makes; float16 is made in float32 and then rounded."""
    found = float_dtype(dtype)
    scratch = 4.0 if found.itemsize < 4 else 0.0
    return generate(kernel, where, dtype=found, scratch=scratch, title=title).rename(title)

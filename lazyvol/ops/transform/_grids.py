"""Grids of resampled stacks: positions, and the maps from their voxels to voxels of the stack."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments.rules import show_value
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry.resampling import FARTHEST
from lazyvol.ops._checks import MAX_VOXELS, require_spatial, require_voxels
from lazyvol.stack import (
    SPACING_ATTR,
    STACK,
    first_position,
    is_number,
    per_dim,
    require_one_unit,
    spacing,
    unit_of,
)

AXIS = "axis"
Array = np.ndarray[Any, np.dtype[Any]]
#: positions of the voxels along the dims of a result; empty if they are those of the stack
Grid = dict[str, xr.Variable]


def volume_dims(op: str, stack: xr.DataArray) -> tuple[str, ...]:
    """Return the spatial dims of a stack, which must have voxels along them."""
    dims = require_spatial(f"{op}: stack", stack)
    require_voxels(f"{op}: stack", stack, dims)
    return dims


def positions(stack: xr.DataArray, dim: str, start: float, step: float, n: int) -> xr.Variable:
    """Return ``n`` positions from voxel ``start`` of a stack in steps of ``step`` voxels."""
    size = spacing(stack, dim)
    attrs = dict(stack.coords[dim].attrs) if dim in stack.coords else {}
    attrs = {k: v for k, v in attrs.items() if k != SPACING_ATTR} | {"units": unit_of(stack, dim)}
    if n == 1 and step * size != 1:
        attrs[SPACING_ATTR] = abs(step * size)
    values = first_position(stack, dim) + (start + np.arange(n) * step) * size
    return xr.Variable((dim,), values, attrs)


def target_grid(
    op: str, stack: xr.DataArray, dims: Sequence[str], like: xr.DataArray | Sequence[int] | None
) -> Grid:
    """Return the grid of a result: that of ``like``, or of its shape from the stack's origin."""
    if like is None:
        return {}
    if not isinstance(like, xr.DataArray):
        lengths = [require_length(op, "like", n) for n in like]
        if len(lengths) != len(dims):
            raise LabelError(
                f"{op}: like must be a length for each of {tuple(dims)}, got {tuple(like)}; give "
                f"{len(dims)} of them, or a stack"
            )
        return {d: positions(stack, d, 0.0, 1.0, n) for d, n in zip(dims, lengths, strict=True)}
    missing = [d for d in dims if d not in like.dims]
    if missing:
        raise LabelError(
            f"{op}: like must have the dims {tuple(dims)}, got {like.dims}; add {missing}"
        )
    require_voxels(f"{op}: like", like, dims)
    units = {d: (unit_of(stack, d), unit_of(like, d)) for d in dims}
    wrong = {d: pair for d, pair in units.items() if pair[0] != pair[1]}
    if wrong:
        raise LabelError(
            f"{op}: like must have the units of the stack, got (stack, like) {wrong}; convert the "
            f"coordinates of one"
        )
    return {d: positions(like, d, 0.0, 1.0, like.sizes[d]) for d in dims}


def require_length(op: str, param: str, n: Any) -> int:
    """Return a number of voxels; raise LabelError unless it is from 1 to 2**20."""
    if not (isinstance(n, int | np.integer) and 1 <= n <= MAX_VOXELS):
        raise LabelError(
            f"{op}: {param} must be from 1 to {MAX_VOXELS} voxels along a dim, got {n!r}; check "
            f"the unit of lengths"
        )
    return int(n)


def first_and_step(
    stack: xr.DataArray, dims: Sequence[str], grid: Mapping[str, xr.Variable]
) -> tuple[Array, Array]:
    """Return the position of the first voxel of a result and its voxel size, along ``dims``."""
    if not grid:
        return (
            np.array([first_position(stack, d) for d in dims]),
            np.array([spacing(stack, d) for d in dims]),
        )
    labelled = xr.DataArray(np.broadcast_to(np.int8(0), [grid[d].size for d in dims]), grid, dims)
    return (
        np.array([float(grid[d].values[0]) for d in dims]),
        np.array([spacing(labelled, d) for d in dims]),
    )


def points(
    op: str, stack: xr.DataArray, dims: Sequence[str], coordinates: xr.DataArray
) -> xr.DataArray:
    """Return positions (axis, ...) with rows in the order of ``dims``."""
    n = len(dims)
    shared = [d for d in coordinates.dims if d in stack.dims and d not in dims]
    if coordinates.sizes.get(AXIS) != n or shared:
        raise LabelError(
            f"{op}: coordinates must have the dim {AXIS!r} of length {n} for {tuple(dims)}, and no "
            f"other dim of the stack, got {dict(coordinates.sizes)}; give one set of positions for "
            f"all particles"
        )
    ordered = coordinates.transpose(AXIS, ...)
    if AXIS not in coordinates.coords:
        return ordered
    names = [str(name) for name in coordinates.coords[AXIS].values]
    if sorted(names) != sorted(dims):
        raise LabelError(
            f"{op}: coordinates must have the labels {tuple(dims)} along {AXIS!r}, got {names}; "
            f"rename or drop them"
        )
    return ordered.isel({AXIS: [names.index(d) for d in dims]})


# maps ---------------------------------------------------------------------------------------------


def maps_in_positions(
    op: str, stack: xr.DataArray, dims: Sequence[str], matrix: Any, offset: Any
) -> Array:
    """Return the checked rows of a matrix and offset: (n, n + 1), or (k, n, n + 1) of particles."""
    n = len(dims)
    elements = _real(op, "matrix", matrix)
    if elements.ndim == 1:
        elements = np.diag(elements) if elements.size == n else elements
    if elements.shape[-2:] == (n + 1, n + 1):
        bottom = np.append(np.zeros(n), 1.0)
        if not (elements[..., n, :] == bottom).all():
            raise LabelError(
                f"{op}: matrix must end with the row {bottom.tolist()} if it is homogeneous, got "
                f"{elements[..., n, :].tolist()}; divide by its last element"
            )
        elements = elements[..., :n, :]
    per_particle = elements.ndim == 3 and elements.shape[0] == stack.sizes.get(STACK)
    if not (elements.ndim == 2 or per_particle) or elements.shape[-2:] not in {(n, n), (n, n + 1)}:
        raise LabelError(
            f"{op}: matrix must have the shape ({n}, {n}), ({n}, {n + 1}), ({n + 1}, {n + 1}) or "
            f"({n},) for the dims {tuple(dims)}, or a leading axis for the particles, got "
            f"{np.shape(matrix)}; give rows in the order of the dims"
        )
    return _with_offset(op, dims, elements, offset)


def _with_offset(op: str, dims: Sequence[str], elements: Array, offset: Any) -> Array:
    """Append the offset to the rows of a matrix that has none."""
    n = len(dims)
    if elements.shape[-1] == n + 1:
        if np.any(_real(op, "offset", offset)):
            raise LabelError(
                f"{op}: offset must be 0 with a matrix that has an offset, got {offset!r}; leave "
                f"it out"
            )
        return elements
    values = _real(op, "offset", offset)
    if values.shape not in {(), (n,), (*elements.shape[:-2], n)}:
        raise LabelError(
            f"{op}: offset must be one number or one for each of {tuple(dims)}, got the shape "
            f"{values.shape}; give them in the order of the dims"
        )
    column = np.broadcast_to(values, elements.shape[:-1])[..., None]
    return np.concatenate([elements, column], axis=-1)


def _real(op: str, param: str, numbers: Any) -> Array:
    """Return numbers as float64; raise LabelError unless they are real and finite."""
    try:
        values = np.asarray(numbers)
    except ValueError:  # rows of different lengths
        values = np.empty(0, object)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise LabelError(
            f"{op}: {param} must hold finite real numbers in rows of one length, got "
            f"{show_value(numbers)}; give nested sequences or an array"
        )
    return values.astype(np.float64)


def maps_in_voxels(
    op: str, stack: xr.DataArray, dims: Sequence[str], grid: Mapping[str, xr.Variable], rows: Array
) -> Array:
    """Return rows that map voxels of the result to voxels of the stack, from those of positions."""
    n = len(dims)
    if np.any(rows[..., :n] * (1 - np.eye(n))):
        require_one_unit(stack, dims, f"{op}: stack")
    first, step = first_and_step(stack, dims, grid)
    own_first, own_step = first_and_step(stack, dims, {})
    matrix = rows[..., :n] * step / own_step[:, None]
    offset = (rows[..., :n] @ first + rows[..., n] - own_first) / own_step
    voxels = np.concatenate([matrix, offset[..., None]], axis=-1)
    lengths = np.array([grid[d].size if d in grid else stack.sizes[d] for d in dims], np.float64)
    if not (np.abs(matrix) @ lengths + np.abs(offset)).max(initial=0.0) <= FARTHEST:
        raise LabelError(
            f"{op}: matrix and offset must map to positions near the stack, got voxels beyond "
            f"2**31; check the unit of the offset"
        )
    return voxels


def factors(op: str, param: str, stack: xr.DataArray, dims: Sequence[str], value: Any) -> Any:
    """Return a factor for each of ``dims``, 1 where there is none."""
    given = per_dim(value, dims, f"{op}: {param}")
    wrong = {d: f for d, f in given.items() if not (is_number(f) and isfinite(f) and f > 0)}
    if wrong:
        raise LabelError(
            f"{op}: {param} must be a factor above 0, got {wrong}; 2 gives twice as many voxels"
        )
    return [float(given.get(d, 1.0)) for d in dims]

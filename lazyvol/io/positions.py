"""Coordinates of an array: positions from voxel size and origin, and those a file stores."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io.zarr.labels import Labels
from lazyvol.plan.recipes.base import Source
from lazyvol.stack import SPATIAL, positions, spacing, unit_of

VoxelSize = float | Mapping[str, float] | None


def coordinates(
    opened: Labels,
    lengths: Mapping[str, int],
    voxel_size: VoxelSize,
    unit: str | None,
    lazy: Callable[[Source], Any],
) -> dict[Hashable, Any]:
    """Return the coordinates of an array; the user's voxel size and unit replace the file's.

    ``lazy`` makes an array of a source, for coordinates that are too large to read at once.
    """
    spatial = [d for d in SPATIAL if d in opened.dims]
    user_sizes = _by_dim(voxel_size, spatial)
    kept = {n: coord for n, coord in opened.coords.items() if n not in user_sizes}
    sizes = {d: s for d, s in opened.voxel_size.items() if d not in kept} | user_sizes
    wrong = {d for d, s in user_sizes.items() if d not in spatial or not s > 0}
    bad = {d: s for d, s in sizes.items() if d in wrong or not np.isfinite(s) or s == 0}
    if bad:
        raise LabelError(
            f"open: voxel_size must give positive numbers for dims {spatial}, got {bad}"
        )
    known_unit = unit or (opened.unit if opened.voxel_size else "voxel")
    regular = [
        d for d in spatial if d in user_sizes or (d not in opened.without_coords and d not in kept)
    ]
    coords: dict[Hashable, Any] = {}
    regular_lengths = {d: lengths[d] for d in regular}
    coords.update(regular_positions(regular_lengths, sizes, known_unit, opened.origin))
    for name, (dims, values, *attributes) in kept.items():
        attrs = dict(attributes[0]) if attributes else {}
        if unit and name in spatial:
            attrs["units"] = unit
        data = lazy(values) if hasattr(values, "read") else values
        coords[name] = xr.Variable(dims, data, attrs)
    return coords


def _by_dim(voxel_size: VoxelSize, spatial: list[str]) -> dict[str, float]:
    """Return a voxel size as a mapping by dim."""
    if voxel_size is None:
        return {}
    if isinstance(voxel_size, Mapping):
        return dict(voxel_size)
    return dict.fromkeys(spatial, voxel_size)


def regular_positions(
    lengths: Mapping[str, int], sizes: Mapping[str, float], unit: str, origin: Mapping[str, float]
) -> dict[str, xr.Variable]:
    """Return positions from voxel size and origin; in voxels along dims of unknown size."""
    variables = positions(lengths, sizes, unit, origin)
    for d in variables:
        if d not in sizes:
            variables[d].attrs["units"] = "voxel"
    return variables


def spacing_and_origin(array: xr.DataArray) -> tuple[dict[str, float], dict[str, float]]:
    """Return voxel size and origin of the spatial dims whose positions are regular and known.

    Decreasing positions have a negative size. Positions in voxels count as unknown if those along
    another dim have a unit.
    """
    sizes, origin = {}, {}
    for d in SPATIAL:
        if not _has_numbers(array, d):
            continue
        try:
            step = spacing(array, d)
        except LabelError:
            continue
        first = float(array.coords[d].values[0])
        if np.isfinite(step) and step and (unit_of(array, d) != "voxel" or (step, first) != (1, 0)):
            sizes[d], origin[d] = step, first
    measured = [d for d in sizes if unit_of(array, d) != "voxel"] or list(sizes)
    return {d: sizes[d] for d in measured}, {d: origin[d] for d in measured if origin[d]}


def _has_numbers(array: xr.DataArray, dim: str) -> bool:
    """Return True if the positions along a dim are finite numbers."""
    if dim not in array.dims or dim not in array.coords or not array.sizes[dim]:
        return False
    coord = array.coords[dim]
    is_numeric = coord.dims == (dim,) and coord.dtype.kind in "iuf"
    return bool(is_numeric and np.isfinite(coord.values).all())


def dims_given_by_spacing(
    array: xr.DataArray, sizes: Mapping[str, float], unit: str, origin: Mapping[str, float]
) -> set[str]:
    """Return the spatial dims whose coordinates follow exactly from voxel size and origin."""
    lengths = {d: n for d, n in array.sizes.items() if d in SPATIAL and d in array.coords}
    computed = regular_positions(lengths, sizes, unit, origin)
    return {
        d
        for d, variable in computed.items()
        if sizes.get(d, 1) > 0
        and variable.dtype == array.coords[d].dtype
        and variable.identical(array.coords[d].variable)  # type: ignore[no-untyped-call]
    }

"""Coordinates of an opened array: regular positions, and those that a store keeps as they were."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io.opened import Opened
from lazyvol.io.zarr.labels import Labels
from lazyvol.plan.recipes.base import Source
from lazyvol.stack import SPATIAL, positions, spacing, unit_of

VoxelSize = float | Mapping[str, float] | None


def coordinates(
    opened: Labels | Opened,
    lengths: Mapping[str, int],
    voxel_size: VoxelSize,
    unit: str | None,
    lazy: Callable[[Source], Any],
) -> dict[Hashable, Any]:
    """Coordinates of an array: what the file knows, replaced by what the user says.

    ``lazy`` makes an array of a source: of a coordinate that is too large to be read at once.
    """
    spatial = [d for d in SPATIAL if d in opened.dims]
    given = _given(voxel_size, spatial)
    kept = {n: coord for n, coord in opened.coords.items() if n not in given}
    sizes = {d: s for d, s in opened.voxel_size.items() if d not in kept} | given
    wrong = {d for d, s in given.items() if d not in spatial or not s > 0}
    bad = {d: s for d, s in sizes.items() if d in wrong or not np.isfinite(s) or s == 0}
    if bad:
        raise LabelError(f"voxel_size gives positive numbers for dims {spatial}, got {bad}")
    known = unit or (opened.unit if opened.voxel_size else "voxel")
    made = [d for d in spatial if d in given or (d not in opened.bare and d not in kept)]
    coords: dict[Hashable, Any] = {}
    coords.update(regular({d: lengths[d] for d in made}, sizes, known, opened.origin))
    for name, (dims, values, *rest) in kept.items():
        attrs = dict(rest[0]) if rest else {}
        if unit and name in spatial:
            attrs["units"] = unit
        data = lazy(values) if hasattr(values, "read") else values
        coords[name] = xr.Variable(dims, data, attrs)
    return coords


def _given(voxel_size: VoxelSize, spatial: list[str]) -> dict[str, float]:
    """What the user says, by dim."""
    if voxel_size is None:
        return {}
    if isinstance(voxel_size, Mapping):
        return dict(voxel_size)
    return dict.fromkeys(spatial, voxel_size)


def regular(
    lengths: Mapping[str, int], sizes: Mapping[str, float], unit: str, origin: Mapping[str, float]
) -> dict[str, xr.Variable]:
    """Positions by voxel size and origin; in voxels where the size is not known."""
    found = positions(lengths, sizes, unit, origin)
    for d in found:
        if d not in sizes:
            found[d].attrs["units"] = "voxel"
    return found


def spacing_and_origin(array: xr.DataArray) -> tuple[dict[str, float], dict[str, float]]:
    """Voxel size and origin of the spatial dims whose positions are regular and known.

    Positions that decrease have a negative size. Those in voxels are not known where others are
    in a unit.
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
    """Whether a dim has finite numbers for positions."""
    if dim not in array.dims or dim not in array.coords or not array.sizes[dim]:
        return False
    coord = array.coords[dim]
    numbers = coord.dims == (dim,) and coord.dtype.kind in "iuf"
    return bool(numbers and np.isfinite(coord.values).all())


def told_by_spacing(
    array: xr.DataArray, sizes: Mapping[str, float], unit: str, origin: Mapping[str, float]
) -> set[str]:
    """Spatial dims whose coordinates voxel size and origin give back to the bit, attributes too."""
    lengths = {d: n for d, n in array.sizes.items() if d in SPATIAL and d in array.coords}
    found = regular(lengths, sizes, unit, origin)
    return {
        d
        for d, made in found.items()
        if sizes.get(d, 1) > 0
        and made.dtype == array.coords[d].dtype
        and made.identical(array.coords[d].variable)  # type: ignore[no-untyped-call]
    }

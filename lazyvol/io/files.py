"""Join files along a new axis: each keeps its own source, and only those needed are read."""

import os
import re
from collections.abc import Mapping, Sequence
from math import isclose
from pathlib import Path

import numpy as np

from lazyvol.errors import LabelError
from lazyvol.io.opened import Opened
from lazyvol.io.region_source import StackedSource
from lazyvol.io.zarr.labels import Coord
from lazyvol.plan.recipes.base import Array
from lazyvol.stack import SPATIAL

#: relative; headers store spacings as float32, and programs round them
SPACING_TOLERANCE = 1e-3


def stack_files(
    paths: Sequence[str], opened: Sequence[Opened], name: str | None, new_dim: str | None = None
) -> Opened:
    """Join files of one volume or image each, along a first axis ``new_dim`` unless it is None.

    Planes (y, x) become sections of a volume along z. Volumes become (k, z, y, x). Image stacks
    (k, y, x), such as one tilt series per particle, become (k, frame, y, x). The coordinate
    ``file`` names every member; origins that differ become coordinates ``origin_z``, ``origin_y``
    and ``origin_x``.

    Raises
    ------
    LabelError
        Two files differ in dims, shape, dtype or spacing, or hold several volumes each.
    """
    for path, other in zip(paths, opened, strict=True):
        check_alike(paths[0], opened[0], path, other)
    first = opened[0]
    dim, dims, axis = new_dim or "", first.dims, 0
    if new_dim is None:
        dim = "z" if "z" not in first.dims and "k" not in first.dims else "k"
        dims = tuple("frame" if d == "k" else d for d in first.dims)
        check_single_volume(first, paths[0])
        axis = dims.index("y") if dim == "z" else 0
    origin, origin_coords = common_origin(opened, dim)
    file_names = np.array(short_names(paths))
    return Opened(
        source=StackedSource(tuple(o.source for o in opened), axis),
        dims=(*dims[:axis], dim, *dims[axis:]),
        voxel_size=first.voxel_size,
        unit=first.unit,
        origin=origin,
        coords={
            "file": (dim, file_names),
            **origin_coords,
            **common_positions(paths, opened),
            **common_channels(opened),
        },
        attrs=repairs(paths, opened) or first.attrs,
        name=name,
        without_coords=first.without_coords,
    )


def common_positions(paths: Sequence[str], opened: Sequence[Opened]) -> dict[str, Coord]:
    """Return the irregular positions of all files; raise LabelError if they differ."""
    expected = irregular_positions(opened[0])
    for path, positions in zip(paths, map(irregular_positions, opened), strict=True):
        if positions.keys() != expected.keys() or any(
            not np.array_equal(coord[1], positions[d][1]) for d, coord in expected.items()
        ):
            raise LabelError(
                f"files of a stack must be alike: {paths[0]} and {path} have other positions along "
                f"{', '.join(sorted(expected.keys() | positions.keys()))}; "
                "leave one out or convert it"
            )
    return expected


def common_channels(opened: Sequence[Opened]) -> dict[str, Coord]:
    """Return the names of the channels if they are those of every file."""
    first = opened[0].coords.get("channel")
    is_common = first is not None and all(
        "channel" in o.coords and np.array_equal(o.coords["channel"][1], first[1]) for o in opened
    )
    return {"channel": first} if first is not None and is_common else {}


def irregular_positions(opened: Opened) -> dict[str, Coord]:
    """Return the positions along the spatial dims without a voxel size."""
    dims = [d for d in SPATIAL if d in opened.dims and d not in opened.voxel_size]
    return {d: opened.coords[d] for d in dims if d in opened.coords}


def check_alike(path: str, first: Opened, other_path: str, other: Opened) -> None:
    """Raise LabelError if two files differ in dims, shape, dtype or spacing."""
    for quantity in ("dims", "shape", "dtype", "spacing"):
        a, b = value_of(first, quantity), value_of(other, quantity)
        if a != b and not (quantity == "spacing" and same_spacing(first, other)):
            raise LabelError(
                f"files of a stack must be alike: {path} has {quantity} {a}, {other_path} has "
                f"{quantity} {b}; leave one out or convert it"
            )


def value_of(opened: Opened, quantity: str) -> object:
    """Return one of the quantities in which the files of a stack must agree."""
    if quantity == "dims":
        return opened.dims
    if quantity == "spacing":
        return dict(opened.voxel_size), opened.unit
    return getattr(opened.source, quantity)


def same_spacing(a: Opened, b: Opened) -> bool:
    """Return True if spacings agree within the rounding of float32 headers."""
    return (
        a.unit == b.unit
        and a.voxel_size.keys() == b.voxel_size.keys()
        and all(
            isclose(v, b.voxel_size[d], rel_tol=SPACING_TOLERANCE) for d, v in a.voxel_size.items()
        )
    )


def check_single_volume(first: Opened, path: str) -> None:
    """Raise LabelError if a file holds a stack of volumes."""
    if "k" in first.dims and ("z" in first.dims or "frame" in first.dims):
        raise LabelError(
            f"files of a stack must hold one volume each, {path} has dims {first.dims}; open each "
            "file and join them with xarray.concat(..., dim='k')"
        )


def common_origin(
    opened: Sequence[Opened], dim: str
) -> tuple[Mapping[str, float], dict[str, tuple[str, Array]]]:
    """Return the common origin, or no origin and coordinates with that of every member."""
    first = opened[0].origin
    if all(dict(o.origin) == dict(first) for o in opened):
        return first, {}
    values = {d: [o.origin.get(d, np.nan) for o in opened] for d in first}
    return {}, {f"origin_{d}": (dim, np.array(v)) for d, v in values.items()}


def repairs(paths: Sequence[str], opened: Sequence[Opened]) -> dict[str, object]:
    """Return the attribute that lists the repairs of every file."""
    messages = [
        f"{path}: {fault}"
        for path, o in zip(paths, opened, strict=True)
        for fault in o.attrs.get("repairs", ())  # type: ignore[attr-defined]
    ]
    return {"repairs": tuple(messages)} if messages else {}


def short_names(paths: Sequence[str]) -> list[str]:
    """Return file names, with folders if two files share a name."""
    names = [Path(path).name for path in paths]
    if len(set(names)) == len(names):
        return names
    absolute = [os.path.abspath(path) for path in paths]
    return [os.path.relpath(path, os.path.commonpath(absolute)) for path in absolute]


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """Return a sort key that orders numbers in names by value: img2 before img10."""
    parts = re.split(r"(\d+)", path)
    return [(1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts]

"""Many files as one stack: each keeps its own source, only the ones asked for are read."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from lazyvol.errors import LabelError
from lazyvol.io.opened import Opened
from lazyvol.io.zarr.labels import Coord
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, lengths, size
from lazyvol.stack import SPATIAL

#: header words are float32, and programs round them
SPACING_TOLERANCE = 1e-3


@dataclass(eq=False)
class StackedSource:
    """Sources of the same shape and dtype along a new axis ``axis``.

    A region reads its members one after the other and leaves the others alone.
    """

    members: tuple[Source, ...]
    axis: int = 0
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        first = self.members[0]
        self.shape = insert(first.shape, self.axis, len(self.members))
        self.chunks = insert(first.chunks, self.axis, 1)
        self.dtype = first.dtype
        self.token = "-".join(("stacked", str(self.axis), digest(self.members)))

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        chosen, rest = self._split(region)
        for index, member in enumerate(chosen):
            if self.axis == 0:
                member.read(rest, out[index])
            else:
                out[(slice(None),) * self.axis + (index,)] = member.read(rest)
        return out

    @property
    def paths(self) -> tuple[str, ...]:
        """Files of all members."""
        return tuple(path for m in self.members for path in getattr(m, "paths", ()))

    def stored_bytes(self, region: Region) -> int:
        """Sum over the members."""
        chosen, rest = self._split(region)
        return sum(member.stored_bytes(rest) for member in chosen)

    def peak_bytes(self, region: Region) -> int:
        """Result, and what the hungriest member needs beside it."""
        chosen, rest = self._split(region)
        beside = size(rest) * self.dtype.itemsize if self.axis == 0 else 0
        largest = max((member.peak_bytes(rest) - beside for member in chosen), default=0)
        return size(region) * self.dtype.itemsize + largest

    def _split(self, region: Region) -> tuple[tuple[Source, ...], Region]:
        """Members of a region, and the region of each."""
        return self.members[region[self.axis]], region[: self.axis] + region[self.axis + 1 :]


def insert(values: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    """Values with one more at ``axis``."""
    return (*values[:axis], value, *values[axis:])


def digest(members: Sequence[Source]) -> str:
    """One name for the tokens of all members."""
    return blake2b(" ".join(m.token for m in members).encode(), digest_size=12).hexdigest()


def stacked(
    paths: Sequence[str], opened: Sequence[Opened], name: str | None, along: str | None = None
) -> Opened:
    """Files of one volume or image each as one stack, along a first axis ``along`` if it is named.

    Planes (y, x) become sections of a volume along z. Volumes become (k, z, y, x). Image stacks
    (k, y, x), such as one tilt series per particle, become (k, frame, y, x). The coordinate
    ``file`` names every member; positions that differ become coordinates ``origin_z`` ...

    Raises
    ------
    LabelError
        Two files differ in dims, shape, dtype or spacing, or hold several volumes each.
    """
    for path, other in zip(paths, opened, strict=True):
        check_alike(paths[0], opened[0], path, other)
    first = opened[0]
    dim, dims, axis = along or "", first.dims, 0
    if along is None:
        dim = "z" if "z" not in first.dims and "k" not in first.dims else "k"
        dims = tuple("frame" if d == "k" else d for d in first.dims)
        check_single(first, paths[0])
        axis = dims.index("y") if dim == "z" else 0
    origin, facts = origins(opened, dim)
    return Opened(
        source=StackedSource(tuple(o.source for o in opened), axis),
        dims=(*dims[:axis], dim, *dims[axis:]),
        voxel_size=first.voxel_size,
        unit=first.unit,
        origin=origin,
        coords={"file": (dim, np.array(short_names(paths))), **facts, **placed(paths, opened)},
        attrs=repairs(paths, opened) or first.attrs,
        name=name,
        bare=first.bare,
    )


def placed(paths: Sequence[str], opened: Sequence[Opened]) -> dict[str, Coord]:
    """Positions that no spacing tells, which the files must have in common."""
    first = uneven(opened[0])
    for path, other in zip(paths, map(uneven, opened), strict=True):
        if other.keys() != first.keys() or any(
            not np.array_equal(coord[1], other[d][1]) for d, coord in first.items()
        ):
            raise LabelError(
                f"files of a stack must be alike: {paths[0]} and {path} have other positions along "
                f"{', '.join(sorted(first.keys() | other.keys()))}; leave one out or convert it"
            )
    return first


def uneven(opened: Opened) -> dict[str, Coord]:
    """Positions of the spatial dims that have no known spacing."""
    places = [d for d in SPATIAL if d in opened.dims and d not in opened.voxel_size]
    return {d: opened.coords[d] for d in places if d in opened.coords}


def check_alike(path: str, first: Opened, other_path: str, other: Opened) -> None:
    """Refuse two files that do not fit into one array."""
    for fact in ("dims", "shape", "dtype", "spacing"):
        a, b = described(first, fact), described(other, fact)
        if a != b and not (fact == "spacing" and same_spacing(first, other)):
            raise LabelError(
                f"files of a stack must be alike: {path} has {fact} {a}, {other_path} has {fact} "
                f"{b}; leave one out or convert it"
            )


def described(opened: Opened, fact: str) -> object:
    """One of the facts in which the files of a stack agree."""
    if fact == "dims":
        return opened.dims
    if fact == "spacing":
        return dict(opened.voxel_size), opened.unit
    return getattr(opened.source, fact)


def same_spacing(a: Opened, b: Opened) -> bool:
    """Whether spacings agree as well as float32 headers tell."""
    return (
        a.unit == b.unit
        and a.voxel_size.keys() == b.voxel_size.keys()
        and all(
            isclose(v, b.voxel_size[d], rel_tol=SPACING_TOLERANCE) for d, v in a.voxel_size.items()
        )
    )


def check_single(first: Opened, path: str) -> None:
    """Refuse files that hold stacks of volumes."""
    if "k" in first.dims and ("z" in first.dims or "frame" in first.dims):
        raise LabelError(
            f"files of a stack must hold one volume each, {path} has dims {first.dims}; open each "
            "file and join them with xarray.concat(..., dim='k')"
        )


def origins(
    opened: Sequence[Opened], dim: str
) -> tuple[Mapping[str, float], dict[str, tuple[str, Array]]]:
    """The common origin, or the origin of every member as coordinates."""
    first = opened[0].origin
    if all(dict(o.origin) == dict(first) for o in opened):
        return first, {}
    places = {d: [o.origin.get(d, np.nan) for o in opened] for d in first}
    return {}, {f"origin_{d}": (dim, np.array(values)) for d, values in places.items()}


def repairs(paths: Sequence[str], opened: Sequence[Opened]) -> dict[str, object]:
    """What was repaired in which file."""
    found = [
        f"{path}: {fault}"
        for path, o in zip(paths, opened, strict=True)
        for fault in o.attrs.get("repairs", ())  # type: ignore[attr-defined]
    ]
    return {"repairs": tuple(found)} if found else {}


def short_names(paths: Sequence[str]) -> list[str]:
    """File names, with their folders where two files share a name."""
    names = [Path(path).name for path in paths]
    if len(set(names)) == len(names):
        return names
    whole = [os.path.abspath(path) for path in paths]
    return [os.path.relpath(path, os.path.commonpath(whole)) for path in whole]


def natural(path: str) -> list[tuple[int, int, str]]:
    """Key that sorts numbers in names by their value: img2 before img10."""
    parts = re.split(r"(\d+)", path)
    return [(1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts]

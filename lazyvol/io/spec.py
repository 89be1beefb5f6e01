"""What a reader hands over: a source of regions and the labels that go with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lazyvol.io.labels import Coords, Labels
from lazyvol.io.zarrabsent import Absent
from lazyvol.plan.recipe import Source


@dataclass(frozen=True)
class Opened:
    """A probed file: nothing of its data is read yet.

    ``dims`` names every axis of ``source``. ``voxel_size`` and ``origin`` hold the spacing and
    the position of the first voxel centre of each spatial dim in ``unit``; a dim that is absent
    from ``voxel_size`` has an unknown spacing. ``coords`` maps a name to ``(dims, values)`` or
    ``(dims, values, attrs)``, small and eager, typically facts per particle along ``k``; only large
    ones of our own stores are a source. ``bare`` are the spatial dims without positions. ``absent``
    says how many chunks are not stored.
    """

    source: Source
    dims: tuple[str, ...]
    voxel_size: Mapping[str, float] = field(default_factory=dict)
    unit: str = "voxel"
    origin: Mapping[str, float] = field(default_factory=dict)
    coords: Coords = field(default_factory=dict)
    attrs: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None
    bare: tuple[str, ...] = ()
    absent: Absent | None = None


@dataclass(frozen=True)
class DataSet:
    """A probed data set: its variables, and the labels that belong to none of them.

    ``shape`` are the lengths of the dims of these labels.
    """

    variables: Mapping[str, Opened]
    labels: Labels
    shape: tuple[int, ...]

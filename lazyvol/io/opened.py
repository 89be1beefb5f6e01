"""What a reader hands over: a source of regions and the labels that go with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lazyvol.errors import LabelError
from lazyvol.io.zarr.absent import Absent
from lazyvol.io.zarr.labels import Coord, Coords, Labels
from lazyvol.plan.recipes.base import Source
from lazyvol.stack import SPATIAL


@dataclass(frozen=True)
class Opened:
    """A probed file: nothing of its data is read yet.

    ``dims`` names every axis of ``source``. ``voxel_size`` and ``origin`` hold the spacing and
    the position of the first voxel centre of each spatial dim in ``unit``; a dim that is absent
    from ``voxel_size`` has an unknown spacing. ``coords`` maps a name to ``(dims, values)`` or
    ``(dims, values, attrs)``, small and eager, typically facts per particle along ``k``; only large
    ones of our own stores are a source. ``bare`` are the spatial dims without positions. ``absent``
    says how many chunks are not stored. ``doubt`` says why ``dims`` must not be a guess: it is
    raised unless the caller names the axes.
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
    doubt: LabelError | None = None

    def renamed(self, dims: Sequence[str], where: str) -> "Opened":
        """The same array with other names for its axes; sizes and positions stay with them.

        Raises
        ------
        LabelError
            ``dims`` does not name every axis once, or gives one the name of a coordinate.
        """
        dims = tuple(dims) if not isinstance(dims, str) else (dims,)
        if len(dims) != len(self.dims) or len(set(dims)) != len(dims):
            known = "" if self.doubt else f" ({', '.join(self.dims)})"
            raise LabelError(
                f"{where}: dims must name each of its {len(self.dims)} axes{known} once, got {dims}"
            )
        new = dict(zip(self.dims, dims, strict=True))
        return replace(
            self,
            dims=dims,
            voxel_size={new[d]: v for d, v in self.voxel_size.items() if new[d] in SPATIAL},
            origin={new[d]: v for d, v in self.origin.items() if new[d] in SPATIAL},
            coords=renamed_coords(self.coords, new, where),
            bare=tuple(new[d] for d in self.bare if d in new),
            doubt=None,
        )


def renamed_coords(coords: Coords, new: Mapping[str, str], where: str) -> Coords:
    """Coordinates along axes with new names; positions only where both names are of positions."""
    kept = {d for d, name in new.items() if (d in SPATIAL) == (name in SPATIAL)}
    found: dict[str, Coord] = {}
    for name, (along, *rest) in coords.items():
        if name in new and name not in kept:
            continue
        dims = (along,) if isinstance(along, str) else along
        own, over = new.get(name, name), tuple(new[d] for d in dims)
        if own in found or (name not in new and own in new.values() and over != (own,)):
            raise LabelError(
                f"{where}: dims must not name an axis like a coordinate of other axes, got {own!r} "
                f"of {tuple(new.values())}; choose another name"
            )
        found[own] = (over[0] if isinstance(along, str) else over, *rest)
    return found


@dataclass(frozen=True)
class DataSet:
    """A probed data set: its variables, and the labels that belong to none of them.

    ``shape`` are the lengths of the dims of these labels.
    """

    variables: Mapping[str, Opened]
    labels: Labels
    shape: tuple[int, ...]

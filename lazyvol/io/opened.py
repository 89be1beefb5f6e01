"""The result of a format reader: a source that reads regions, and the labels of its array."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lazyvol.errors import LabelError
from lazyvol.io.zarr.absent import AbsentFiles
from lazyvol.io.zarr.labels import Coord, Coords, Labels
from lazyvol.plan.recipes.base import Source
from lazyvol.stack import SPATIAL


@dataclass(frozen=True, kw_only=True)
class Opened(Labels):
    """A probed array with its labels; none of its values is read yet.

    Attributes
    ----------
    source
        Reads regions of the array.
    absent
        Number of chunks that are not stored, for zarr arrays.
    dims_error
        Error to raise unless the caller names the axes, where the file leaves them ambiguous.
    """

    source: Source
    absent: AbsentFiles | None = None
    dims_error: LabelError | None = None

    def with_dims(self, dims: Sequence[str], where: str) -> "Opened":
        """Return the array with other names for its axes; spacing and positions stay with them.

        Raises
        ------
        LabelError
            ``dims`` does not name every axis once, or gives one the name of a coordinate.
        """
        dims = tuple(dims) if not isinstance(dims, str) else (dims,)
        if len(dims) != len(self.dims) or len(set(dims)) != len(dims):
            known = "" if self.dims_error else f" ({', '.join(self.dims)})"
            raise LabelError(
                f"{where}: dims must name each of its {len(self.dims)} axes{known} once, got {dims}"
            )
        new = dict(zip(self.dims, dims, strict=True))
        return replace(
            self,
            dims=dims,
            voxel_size={new[d]: v for d, v in self.voxel_size.items() if new[d] in SPATIAL},
            origin={new[d]: v for d, v in self.origin.items() if new[d] in SPATIAL},
            coords=rename_coords(self.coords, new, where),
            without_coords=tuple(new[d] for d in self.without_coords if d in new),
            dims_error=None,
        )


def rename_coords(coords: Coords, new: Mapping[str, str], where: str) -> Coords:
    """Rename the dims of coordinates; keep positions only from one spatial dim to another."""
    kept = {d for d, name in new.items() if (d in SPATIAL) == (name in SPATIAL)}
    renamed: dict[str, Coord] = {}
    for old_name, (dims, *rest) in coords.items():
        if old_name in new and old_name not in kept:
            continue
        new_dims = tuple(new[d] for d in ((dims,) if isinstance(dims, str) else dims))
        name = new.get(old_name, old_name)
        is_axis_of_others = old_name not in new and name in new.values() and new_dims != (name,)
        if name in renamed or is_axis_of_others:
            raise LabelError(
                f"{where}: dims must not name an axis like a coordinate of other axes, got "
                f"{name!r} of {tuple(new.values())}; choose another name"
            )
        renamed[name] = (new_dims[0] if isinstance(dims, str) else new_dims, *rest)
    return renamed


@dataclass(frozen=True)
class DataSet:
    """A probed data set: its variables, and the labels that belong to none of them.

    ``shape`` holds the lengths of the dims of these labels.
    """

    variables: Mapping[str, Opened]
    labels: Labels
    shape: tuple[int, ...]

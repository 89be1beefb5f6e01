"""What a reader hands over: a source of regions and the labels that go with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lazyvol.errors import LabelError
from lazyvol.io.labels import Labels
from lazyvol.plan.recipe import Source
from lazyvol.stack import SPATIAL


@dataclass(frozen=True)
class Opened:
    """A probed file: nothing of its data is read yet.

    ``dims`` names every axis of ``source``. ``voxel_size`` and ``origin`` hold the spacing and
    the position of the first voxel centre of each spatial dim in ``unit``; a dim that is absent
    from ``voxel_size`` has an unknown spacing. ``coords`` maps a name to ``(dim, values)``,
    small and eager, typically facts per particle along ``k``. ``doubt`` says why ``dims`` must
    not be a guess: it is raised unless the caller names the axes.
    """

    source: Source
    dims: tuple[str, ...]
    voxel_size: Mapping[str, float] = field(default_factory=dict)
    unit: str = "voxel"
    origin: Mapping[str, float] = field(default_factory=dict)
    coords: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    attrs: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None
    doubt: LabelError | None = None

    def renamed(self, dims: Sequence[str], where: str) -> "Opened":
        """The same array with other names for its axes; sizes and positions stay with them.

        Raises
        ------
        LabelError
            ``dims`` does not name every axis once.
        """
        dims = tuple(dims) if not isinstance(dims, str) else (dims,)
        if len(dims) != len(self.dims) or len(set(dims)) != len(dims):
            known = "" if self.doubt else f" ({', '.join(self.dims)})"
            raise LabelError(
                f"{where}: dims must name each of its {len(self.dims)} axes{known} once, got {dims}"
            )
        new = dict(zip(self.dims, dims, strict=True))
        kept = {d for d, name in new.items() if (d in SPATIAL) == (name in SPATIAL)}
        coords = {
            new.get(n, n): (new[d], v)
            for n, (d, v) in self.coords.items()
            if n in kept or n not in new
        }
        units = self.attrs.get("coordinate_units")
        told = units if isinstance(units, Mapping) else {}
        attrs = {"coordinate_units": {new.get(n, n): u for n, u in told.items()}} if told else {}
        return replace(
            self,
            dims=dims,
            voxel_size={new[d]: v for d, v in self.voxel_size.items() if new[d] in SPATIAL},
            origin={new[d]: v for d, v in self.origin.items() if new[d] in SPATIAL},
            coords=coords,
            attrs={**self.attrs, **attrs},
            doubt=None,
        )


@dataclass(frozen=True)
class DataSet:
    """A probed data set: its variables, and the labels that belong to none of them.

    ``shape`` are the lengths of the dims of these labels.
    """

    variables: Mapping[str, Opened]
    labels: Labels
    shape: tuple[int, ...]

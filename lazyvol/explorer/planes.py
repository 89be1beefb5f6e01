"""Planes of a lazy array, read slab by slab and kept for the next step.

Stepping through slices must not decode a chunk once per slice. So a plane is cut from a slab, which
is read once and remembered: a whole volume if that is small, else as many slices of one layer of
chunks as fit into ``SLAB_BYTES``. The chunks below it are remembered for the next slab, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from typing import TypeAlias

import numpy as np
import xarray as xr

from lazyvol.explorer.recent import Recent, with_remembered_chunks
from lazyvol.plan.graph.lazy_array import recipe_of
from lazyvol.stack import spatial_dims

#: bytes of one read: a volume of 200^3 float32 takes 0.05 s from a local store
SLAB_BYTES = 64 << 20
#: voxels along the edges of a plane on the screen; larger planes are averaged in blocks
SCREEN = 1024

#: computes a lazy array
Compute: TypeAlias = Callable[[xr.DataArray], xr.DataArray]
#: how the slices of a thick plane are combined
REDUCTIONS = {"slice": None, "mean": np.nanmean, "max": np.nanmax}


@dataclass
class Planes:
    """Reader of planes of one array; any number of threads may share it.

    ``recent`` holds its slabs and the stored chunks below them, and may be shared by several.
    """

    array: xr.DataArray
    recent: Recent = field(default_factory=Recent)
    _name: object = field(default_factory=object)

    def __post_init__(self) -> None:
        self.array = with_remembered_chunks(self.array, self.recent)

    @property
    def dims(self) -> tuple[str, ...]:
        """The spatial dims: two of an image, three of a volume."""
        return spatial_dims(self.array)

    @property
    def normals(self) -> tuple[str, ...]:
        """The dims across which there are planes; z alone for an image, which has no such dim."""
        return self.dims if len(self.dims) == 3 else ("z",)

    def plane(
        self, normal: str, index: Mapping[str, int], thickness: int = 1, reduction: str = "slice",
        compute: Compute = xr.DataArray.compute,
    ) -> xr.DataArray:  # fmt: skip
        """Return the plane across ``normal`` through the voxel ``index``, in memory.

        ``thickness`` slices around it are combined by ``reduction``. Dims that the array has and
        ``index`` lacks stay. Slabs are computed by ``compute``.
        """
        if normal not in self.dims:
            return self._slab(index, None, compute)
        n, centre = self.array.sizes[normal], index[normal]
        reduce = REDUCTIONS[reduction]
        if reduce is None or thickness <= 1:
            slab = self._slab(index, normal, compute)
            return slab.isel({normal: centre - slab.attrs["first"]}, drop=True)
        first = max(0, min(centre - thickness // 2, n - thickness))
        slices = [
            self.plane(normal, {**index, normal: i}, compute=compute).astype(np.float32, copy=False)
            for i in range(first, min(n, first + thickness))
        ]
        return slices[0].copy(data=reduce(np.stack([s.values for s in slices]), axis=0))

    def _slab(self, index: Mapping[str, int], normal: str | None, compute: Compute) -> xr.DataArray:
        """Return the remembered slab that contains a plane; its ``first`` slice is an attribute."""
        others = {d: i for d, i in index.items() if d in self.array.dims and d not in self.dims}
        volume = self.array.isel(others, drop=True)
        span = slice(0, 0)
        if normal is not None:
            span = self._span(volume, normal, index[normal])
        whole = normal is None or span == slice(0, volume.sizes[normal])
        box = None if whole else (normal, span.start, span.stop)
        key = (self._name, *sorted(others.items()), box)
        remembered: xr.DataArray | None = self.recent.get(key)
        if remembered is not None:
            return remembered
        part = volume if whole or normal is None else volume.isel({normal: span})
        slab = compute(part).assign_attrs(first=span.start)
        self.recent.put(key, slab)
        return slab

    def _span(self, volume: xr.DataArray, normal: str, centre: int) -> slice:
        """Return the slices to read at once: whole volumes, or a part of one layer of chunks."""
        n = volume.sizes[normal]
        slice_bytes = max(1, volume.nbytes // max(1, n))
        if volume.nbytes <= SLAB_BYTES:
            return slice(0, n)
        layer = _chunk_length(volume, normal)
        thickness = max(1, min(layer, SLAB_BYTES // slice_bytes))
        first = centre // layer * layer
        first += (centre - first) // thickness * thickness
        return slice(first, min(n, first + thickness, (centre // layer + 1) * layer))


def _chunk_length(volume: xr.DataArray, dim: str) -> int:
    """Return the length of the stored chunks of a lazy array along ``dim``."""
    axis = volume.get_axis_num(dim)
    if volume.chunks is None:
        return volume.sizes[dim]
    return max(1, recipe_of(volume.data).preferred_chunk[axis])


def shown_on_screen(plane: xr.DataArray, most: int = SCREEN) -> xr.DataArray:
    """Return a plane averaged in blocks of n x n voxels, so that no edge exceeds ``most``.

    The blocks at the far edges may be smaller. Values become float32; NaN counts as missing.
    """
    edges = {str(d): ceil(plane.sizes[d] / most) for d in plane.dims if d in spatial_dims(plane)}
    plane = plane.astype(np.float32) if plane.dtype.kind in "biuf" else plane
    if prod(edges.values()) == 1:
        return plane
    return plane.coarsen(edges, boundary="pad").mean(keep_attrs=True)

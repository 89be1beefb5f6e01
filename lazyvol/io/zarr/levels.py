"""The levels of lower resolution of an image that was opened at its full resolution."""

from collections.abc import Iterator
from typing import Any

from lazyvol.io.zarr import ome
from lazyvol.io.zarr.nodes import below, load
from lazyvol.io.zarr.reader import open_array, parent_image
from lazyvol.io.zarr.source import ZarrSource
from lazyvol.plan.recipes.base import Source


def lower_levels(source: Any) -> Iterator[Source]:
    """Yield a source for each level below the first of an OME-Zarr image, the finest first.

    There are none of other sources, and of a level that is not the first of its image.
    """
    array = load(source.place, source.key) if isinstance(source, ZarrSource) else None
    found = None if array is None else parent_image(array)
    if found is None or not isinstance(source, ZarrSource):
        return
    group, path = found
    image = ome.multiscale(group.attributes, group.path)
    paths = [path] if image is None else ome.level_paths(image, group.path)
    for lower in paths[1:] if path == paths[0] else []:
        level = load(group.place, below(group.key, lower, group.path))
        if level is not None and level.kind == "array":
            missing = "fill" if source.fill_missing else "error"
            yield open_array(level, permissive=False, missing=missing).source

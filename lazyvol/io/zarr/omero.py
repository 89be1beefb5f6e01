"""Channel names and contrast limits of an image, by which viewers show it."""

import json
from itertools import product
from typing import Any

import numpy as np

from lazyvol.io.zarr.metadata import array_meta
from lazyvol.io.zarr.nodes import load
from lazyvol.io.zarr.source import zarr_source
from lazyvol.io.zarr.writer import Target
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region
from lazyvol.stack import SPATIAL

#: voxels along each axis of the coarsest level that are looked at, in its middle
EDGE = 128
#: colours of several channels; one alone is grey
COLORS = ("FF0000", "00FF00", "0000FF", "FF00FF", "00FFFF", "FFFF00")


def write_omero(target: Target, dims: tuple[str, ...], names: list[str]) -> None:
    """Add the channels to the metadata of an image, from its coarsest level.

    ``names`` are those of the channels, or the name of the image.
    """
    level = target.levels[-1][0] if target.levels else target
    axis = dims.index("channel") if "channel" in dims else None
    place = target.run.written
    node = load(place, level.key)
    assert node is not None  # it was written by this run
    source = zarr_source(node, array_meta(node.meta, node.path))
    channels = []
    for number in range(1 if axis is None else level.shape[axis]):
        values = np.concatenate([source.read(r).ravel() for r in _sample(level, dims, number)])
        channel: dict[str, Any] = {
            "label": names[number] if number < len(names) else f"{number}",
            "color": "FFFFFF" if axis is None else COLORS[number % len(COLORS)],
            "active": True,
        }
        if limits := contrast_limits(values):
            channel["window"] = limits
        channels.append(channel)
    document = json.loads(target.run.document(""))
    document["attributes"]["ome"]["omero"] = {"channels": channels}
    target.run.write_metadata("", document)


def _sample(level: Target, dims: tuple[str, ...], channel: int) -> list[Region]:
    """Return the middle of the first, middle and last particle of a channel."""
    spans = []
    for dim, n in zip(dims, level.shape, strict=True):
        if dim in SPATIAL:
            start = max(0, (n - EDGE) // 2)
            spans.append([slice(start, min(n, start + EDGE))])
        elif dim == "channel":
            spans.append([slice(channel, channel + 1)])
        else:
            spans.append([slice(i, i + 1) for i in sorted({0, n // 2, n - 1}) if n])
    return list(product(*spans))


def contrast_limits(values: Array) -> dict[str, float] | None:
    """Return range and contrast limits: the percentiles 1 and 99.9 of finite values."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size or finite.dtype.kind == "b":
        return None
    start, end = np.percentile(finite, (1, 99.9))
    numbers = {"min": finite.min(), "max": finite.max(), "start": start, "end": end}
    return {name: float(number) for name, number in numbers.items()}

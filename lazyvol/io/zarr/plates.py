"""Open the images of a plate of OME-Zarr as one stack along k, with the names of their wells."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded
from lazyvol.io.files import stack_files
from lazyvol.io.opened import Opened
from lazyvol.io.region_source import Section
from lazyvol.io.zarr import ome
from lazyvol.io.zarr.absent import AbsentFiles
from lazyvol.io.zarr.nodes import Node, below, load

#: images of a plate; each takes two metadata files to find and two to open
MAX_IMAGES = 100_000


def open_plate(node: Node, open_image: Callable[[Node], Opened], name: str) -> Opened:
    """Return all fields of all wells along k, in the order of the plate.

    The coordinates ``well`` (``"A1"``) and ``field`` name each. Images of one time point lose the
    axis of time, that of others is ``frame``.

    Raises
    ------
    FormatError
        The plate or a well lists no images, or one of them is not there.
    LabelError
        The images differ in shape, dtype, dims or voxel size.
    LimitExceeded
        The plate lists too many images.
    """
    wells, fields = list[str](), list[str]()
    images = list[Opened]()
    for well, field, image in _images(node):
        if len(images) == MAX_IMAGES:
            raise LimitExceeded(f"{node.path}: a plate may have {MAX_IMAGES} images, found more")
        wells.append(well)
        fields.append(field)
        images.append(_without_k(open_image(image)))
    if not images:
        raise FormatError(f"{node.path}: a plate must hold an image, found none")
    names = [f"{node.path}/{well}/{field}" for well, field in zip(wells, fields, strict=True)]
    stack = stack_files(names, images, name, "k")
    coords = {n: coord for n, coord in stack.coords.items() if n != "file"}
    facts = {
        "well": ("k", np.array([well.replace("/", "") for well in wells])),
        "field": ("k", np.array(fields)),
    }
    return replace(stack, coords={**coords, **facts}, absent=_absent(images))


def _absent(images: Sequence[Opened]) -> AbsentFiles | None:
    """Return the number of chunks that are absent from all images."""
    counts = [image.absent for image in images if image.absent is not None]
    if not counts:
        return None
    count, total = sum(c.count for c in counts), sum(c.total for c in counts)
    return AbsentFiles(count, total, all(c.complete for c in counts), counts[0].noun)


def _images(plate: Node) -> Iterator[tuple[str, str, Node]]:
    """Yield the path of the well, the path of the field in it, and the group of every image."""
    for well in _paths(ome.of(plate.attributes)["plate"].get("wells"), "wells", plate):
        node = _child(plate, well)
        images = ome.of(node.attributes).get("well")
        listed = images.get("images") if isinstance(images, dict) else None
        for field in _paths(listed, "images", node):
            yield well, field, _child(node, field)


def _paths(value: object, field: str, node: Node) -> list[str]:
    """Return the paths in a list of metadata."""
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and isinstance(item.get("path"), str) for item in value
    ):
        raise FormatError(f"{node.path}: {field} must list paths, found {value!r:.80}")
    return [item["path"] for item in value]


def _child(node: Node, path: str) -> Node:
    child = load(node.place, below(node.key, path, node.path))
    if child is None:
        raise FormatError(f"{node.path}: the plate lists {path!r}, which is not there")
    return child


def _without_k(opened: Opened) -> Opened:
    """Return an image without its axis of time, if it has one time point; otherwise as frames."""
    if opened.dims[0] != "k":
        return opened
    if opened.source.shape[0] == 1:
        return replace(opened, source=Section(opened.source, 0), dims=opened.dims[1:])
    return opened.with_dims(["frame" if d == "k" else d for d in opened.dims], opened.name or "")

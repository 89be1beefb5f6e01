"""Open the arrays of a group together: as coordinates, as variables, as images of a plate.

Other programs list coordinates by conventions of CF: a coordinate has the name of its only dim, or
is listed in the attribute ``coordinates`` of the array or its group.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import PurePath

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded, LossWarning, UnsafeSourceError
from lazyvol.io.files import stack_files
from lazyvol.io.opened import DataSet, Opened
from lazyvol.io.region_source import Section
from lazyvol.io.zarr import ome
from lazyvol.io.zarr.absent import AbsentFiles
from lazyvol.io.zarr.labels import RECORD_KEY, Coord, Labels
from lazyvol.io.zarr.nodes import Node, below, folder_above, load
from lazyvol.io.zarr.texts import equal_lengths
from lazyvol.plan import regions

#: attribute that lists coordinates, separated by spaces
LIST = "coordinates"
#: coordinates along several dims with more bytes stay in the store until they are needed
READ_BYTES = 1 << 20
#: names in an error message
SHOWN = 20
#: images of a plate; each takes two metadata files to find and two to open
MAX_IMAGES = 100_000


def dims_in_file(node: Node) -> tuple[str, ...]:
    """Return the names of the dims of an array in its file; () if they do not name each once."""
    names = node.meta.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    shape = node.meta.get("shape")
    if not isinstance(names, list) or not isinstance(shape, list):
        return ()
    is_text = all(isinstance(name, str) for name in names)
    return tuple(names) if is_text and len(set(names)) == len(names) == len(shape) else ()


def without_coordinates(group: Node, members: Sequence[Node]) -> list[Node]:
    """Return the arrays and images of a group that are no coordinates of the others.

    A data set of lazyvol keeps its labels elsewhere: all its arrays are variables.
    """
    if RECORD_KEY in group.attributes:
        return list(members)
    listed = {name for node in (group, *members) for name in _listed(node)}
    left = [m for m in members if dims_in_file(m) != (_name(m),) and _name(m) not in listed]
    return left or list(members)


def coordinates_beside(
    array: Node, dims: Sequence[str], shape: Sequence[int], open_array: Callable[[Node], Opened]
) -> Mapping[str, Coord]:
    """Return the coordinates of an array of a group by name.

    Parameters
    ----------
    array
        The array, whose dims may be named otherwise in the file.
    dims, shape
        Its dims and lengths.
    open_array
        Opens the array of a coordinate.
    """
    names = dims_in_file(array)
    group = _group_of(array) if names else None
    if group is None:
        return {}
    renamed = dict(zip(names, dims, strict=True))
    lengths = dict(zip(names, shape, strict=True))
    coords: dict[str, Coord] = {}
    for name in dict.fromkeys((*names, *_listed(array), *_listed(group))):
        node = load(group.place, f"{group.key}{name}/")
        if node is None or node.kind != "array" or not set(dims_in_file(node)) <= set(names):
            continue
        own = dims_in_file(node)
        try:
            opened = open_array(node)
            if opened.source.shape == tuple(lengths[d] for d in own):
                coords[renamed.get(name, name)] = _coord(tuple(renamed[d] for d in own), opened)
        except (FormatError, UnsafeSourceError) as error:
            warnings.warn(
                f"open: coordinate {name!r} is left out: {error}", LossWarning, stacklevel=2
            )
    return coords


def _coord(dims: tuple[str, ...], opened: Opened) -> Coord:
    source = opened.source
    is_small = prod(source.shape) * source.dtype.itemsize <= READ_BYTES
    named: str | tuple[str, ...] = dims[0] if len(dims) == 1 else dims
    if not is_small and len(dims) != 1:
        return named, source, dict(opened.attrs)
    values = source.read(regions.whole(source.shape))
    return named, equal_lengths(values) if values.dtype.kind == "O" else values, dict(opened.attrs)


def _group_of(array: Node) -> Node | None:
    """Return the group that an array is directly in; None if there is none."""
    upper = folder_above(array.place, array.key)
    group = None if upper is None else load(*upper[:2])
    return group if group is not None and group.kind == "group" else None


def _name(node: Node) -> str:
    return node.path.rpartition("/")[2]


def _listed(node: Node) -> list[str]:
    """Return the names that an array or a group lists as coordinates, in its own group."""
    names = node.attributes.get(LIST)
    words = names.split() if isinstance(names, str) else []
    return [w for w in words if w.isprintable() and w not in (".", "..") and "/" not in w]


def open_variables(
    group: Node,
    members: Sequence[Node],
    open_array: Callable[[Node], Opened],
    attrs: Mapping[str, object],
) -> DataSet:
    """Return the arrays of a group as a data set, each with its coordinates.

    Arrays of texts and times are left out with a warning.

    Raises
    ------
    FormatError
        The group holds images or groups, or its arrays do not name their dims or differ in their
        lengths: one of them must be chosen.
    """
    if not all(m.kind == "array" and dims_in_file(m) and _is_child(m, group) for m in members):
        raise _choice_error(group, members)
    opened = {}
    for member in members:
        name = PurePath(member.key).name
        try:
            opened[name] = open_array(member)
        except FormatError as error:
            warnings.warn(
                f"open: variable {name!r} is left out: {error}", LossWarning, stacklevel=2
            )
    files = [dims_in_file(m) for m in members if PurePath(m.key).name in opened]
    new = {
        old: dim
        for dims, array in zip(files, opened.values(), strict=True)
        for old, dim in zip(dims, array.dims, strict=True)
        if old != dim
    }
    variables = {name: _with_dims(array, new, group) for name, array in opened.items()}
    spans = {span for a in variables.values() for span in zip(a.dims, a.source.shape, strict=True)}
    if not variables or len(spans) > len(dict(spans)):
        raise _choice_error(group, members)
    kept = {name: value for name, value in attrs.items() if name != LIST}
    return DataSet(variables, Labels((), attrs=kept), ())


def _with_dims(array: Opened, new: Mapping[str, str], group: Node) -> Opened:
    """Rename the dims of an array as those of the others of its group."""
    dims = [new.get(dim, dim) for dim in array.dims]
    return array if dims == list(array.dims) else array.with_dims(dims, group.path)


def _is_child(member: Node, group: Node) -> bool:
    return "/" not in member.key[len(group.key) :].rstrip("/")


def _choice_error(group: Node, members: Sequence[Node]) -> FormatError:
    names = [member.key[len(group.key) :].rstrip("/") for member in members]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return FormatError(
        f"{group.path}: one array must be chosen unless all name their dims and agree in their "
        f"lengths, this group holds {', '.join(names[:SHOWN])}{more}; open one, e.g. "
        f"lazyvol.open({f'{group.path}/{names[0]}'!r})"
    )


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

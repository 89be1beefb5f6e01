"""Coordinates that xarray and other programs write as arrays beside a zarr array.

Of the CF conventions: a coordinate has the name of its only dim, or is listed in the attribute
``coordinates`` of the array or its group.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from math import prod

from lazyvol.errors import FormatError, LossWarning, UnsafeSourceError
from lazyvol.io.opened import Opened
from lazyvol.io.zarr.labels import RECORD_KEY, Coord
from lazyvol.io.zarr.nodes import Node, folder_above, load
from lazyvol.io.zarr.texts import equal_lengths
from lazyvol.plan import regions

#: attribute that lists coordinates, separated by spaces
LIST = "coordinates"
#: coordinates along several dims with more bytes stay in the store until they are needed
READ_BYTES = 1 << 20


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

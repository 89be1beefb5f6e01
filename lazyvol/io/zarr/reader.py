"""Zarr stores, v2 and v3, plain arrays and OME-Zarr images, read in place.

Chunks are read and decoded here, in the calling thread and straight into the result. Measured on
16 volumes of 160^3 float32 noise, zstd, 2 reading threads on 2 cores, best of five (GB/s):

=========================  =====  ==================  ==========
chunks                     here   zarr + zarrs 0.2.3  zarr 3.1.6
=========================  =====  ==================  ==========
whole volumes              1.58   1.13                0.89
(8, 32, 32, 32)            1.30   0.55                0.66
32^3                       1.09   0.85                0.25
32^3 in shards             1.17   0.93                0.32
(8, 32, 32, 32) in shards  1.34   0.44                0.49
=========================  =====  ==================  ==========

CPU time is 1.9 to 2.0 of wall time with two reading threads and 1.0 with one, where zarrs takes up
to 1.7; and what is absent, damaged or outside the store is known by name.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, MissingChunkError, SourceNotFoundError
from lazyvol.io import cf
from lazyvol.io.opened import DataSet, Opened
from lazyvol.io.places import is_place, place_of
from lazyvol.io.safe_folder import Confined, Place
from lazyvol.io.times import Times
from lazyvol.io.zarr import labels as record
from lazyvol.io.zarr import ome
from lazyvol.io.zarr.absent import Absent, absent_files
from lazyvol.io.zarr.chunks import undefined
from lazyvol.io.zarr.labels import Coord, Coords, Elsewhere, Labels, read_record
from lazyvol.io.zarr.metadata import ArrayMeta
from lazyvol.io.zarr.nodes import Node, array_meta, below, children, load
from lazyvol.io.zarr.source import ZarrSource, token
from lazyvol.plan.recipes.base import Source

PathLike = str | os.PathLike[str]

#: folders above an array in which its image is looked for
MAX_PARENTS = 3
#: folder of the array in a group of ours
OWN_LEVEL = "0"
#: attributes that labels are made from, not handed on
OWN_ATTRIBUTES = ("_ARRAY_DIMENSIONS", "multiscales", "ome", "omero", record.KEY)


def probe(
    path: Any,
    *,
    permissive: bool = False,
    missing: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
) -> Opened:
    """Array of a zarr store: metadata are read and checked, data are not.

    An array is itself; an OME-Zarr image is its level 0 (``path.zarr/1`` is another level); a
    group with a single array or image is that one. Anything with several refuses and names them:
    a collection of ``bioformats2raw``, a plate, a group of arrays, a data set of ours.

    Dims come from our own record, from the OME axes (time becomes ``k``, channel ``channel``),
    from dimension names, else from the number of axes: (y, x), (z, y, x), (k, z, y, x),
    (k, channel, z, y, x).

    Parameters
    ----------
    path
        Folder of an array or group on a local disk, its URL, a zip archive, or a store, array or
        group of zarr.
    storage_options
        Options of the store behind a URL, none of them secret.
    permissive
        Absent chunks of our own stores are read as the fill value too, and a scale that is no
        positive number means an unknown voxel size.
    missing
        Absent chunks of stores that others wrote, where they are legal: ``"fill"`` reads them as
        the fill value and counts them in ``Opened.absent``, ``"error"`` refuses them.

    Raises
    ------
    SourceNotFoundError
        Nothing is stored there.
    MissingChunkError
        Chunks are absent and ``missing`` is ``"error"``, or their value is not defined.
    FormatError
        It is no zarr, its metadata break the rules, or it holds several arrays.
    UnsafeSourceError
        A codec or dtype is off the allow-list, or a link leads out of the store.
    LimitExceeded
        Metadata or a chunk are too large.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     array = zarr.create_array(folder, data=np.ones((3, 5, 7, 11), "float32"))
    ...     opened = probe(folder)
    ...     total = opened.source.read((slice(1, 2), *[slice(0, 5)] * 3)).sum()
    >>> opened.dims, opened.source.shape, float(total)
    (('k', 'z', 'y', 'x'), (3, 5, 7, 11), 125.0)
    """
    folder = _folder(path, storage_options)
    return _opened(folder, _single(folder, _node(folder)), permissive, missing)


def probe_group(
    path: Any,
    *,
    permissive: bool = False,
    missing: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Opened]:
    """Every array and image of a group by name, such as the variables of a data set of ours.

    Raises
    ------
    FormatError
        The group holds none, or as `probe` for one of them.
    """
    folder = _folder(path, storage_options)
    return _arrays(folder, _node(folder), permissive, missing)


def _arrays(folder: Place, node: Node, permissive: bool, missing: str) -> dict[str, Opened]:
    """Arrays and images of a group by their names."""
    if _is_one(node):
        return {PurePath(folder.name).stem: _opened(folder, node, permissive, missing)}
    members = _members(folder, node)
    return {PurePath(m.key).name: _opened(folder, m, permissive, missing) for m in members}


def probe_set(
    path: Any,
    *,
    permissive: bool = False,
    missing: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
) -> DataSet | None:
    """Variables of a data set of ours, and the labels of all of it; None where it is none.

    Raises
    ------
    FormatError
        Its record does not fit what is there, or as `probe` for one of the variables.
    """
    folder = _folder(path, storage_options)
    node = _node(folder)
    own = node.attributes.get(record.KEY)
    if node.kind == "array" or not isinstance(own, dict) or own.get("kind") != record.DATA_SET:
        return None
    names, told = own.get("variables"), own.get("labels")
    found = _arrays(folder, node, permissive, missing) if names else {}
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(found):
        raise FormatError(
            f"{node.path}: its record names the variables {names!r:.200}, the folder holds "
            f"{sorted(found)}; restore what is missing"
        )
    ordered = {name: found[name] for name in names}
    if told is None:
        return DataSet(ordered, Labels(()), ())
    if not isinstance(told, dict) or not isinstance(told.get("shape"), list):
        raise FormatError(f"{node.path}: labels of a data set are a record, got {told!r:.200}")
    labels = read_record(told, told["shape"], np.dtype(np.int8), node.path)
    labels = replace(labels, coords=with_sources(folder, node, labels.coords, permissive))
    return DataSet(ordered, labels, tuple(told["shape"]))


def _folder(path: Any, storage_options: Mapping[str, Any] | None) -> Place:
    if is_place(path):
        return place_of(path, storage_options)
    text = os.fspath(path)
    if not os.path.lexists(text):
        raise SourceNotFoundError(f"{text}: nothing is stored here; check the path")
    if not os.path.isdir(text):
        raise FormatError(f"{text}: a zarr store is a folder, this is a file; unpack it")
    return Confined(os.path.realpath(text))


def _node(folder: Place) -> Node:
    node = load(folder)
    if node is None and not folder.reads_in_place:
        raise SourceNotFoundError(
            f"{folder.path('')}: a zarr store has zarr.json, .zarray or .zgroup, none is stored "
            "here; check the URL"
        )
    if node is None:
        raise FormatError(
            f"{folder.path('')}: a zarr store has zarr.json, .zarray or .zgroup, this one has none"
        )
    return node


def _image(node: Node) -> Mapping[str, Any] | None:
    return None if node.kind == "array" else ome.multiscale(node.attributes, node.path)


def _is_one(node: Node) -> bool:
    """Whether a node is an array, or the group of one: an image, or an array of ours."""
    return node.kind == "array" or _image(node) is not None or _recorded(node)


def _single(folder: Place, node: Node) -> Node:
    """The one array or image that a node is or holds."""
    if _is_one(node):
        return node
    members = _members(folder, node)
    if len(members) > 1:
        names = ", ".join(m.key.rstrip("/") for m in members[:20])
        more = f" and {len(members) - 20} more" if len(members) > 20 else ""
        raise FormatError(
            f"{node.path}: one array must be chosen, this group holds {names}{more}; open one, "
            f"e.g. {os.path.join(node.path, members[0].key.rstrip('/'))}"
        )
    return members[0]


def _members(folder: Place, node: Node) -> list[Node]:
    """Arrays and images in a group, those of the wells of a plate among them."""
    found = list(_below(folder, node, depth=3))
    if not found and not folder.lists:
        raise FormatError(
            f"{node.path}: a group on a web server must be an image, since its arrays cannot be "
            "listed; open one of its arrays by its own URL"
        )
    if not found:
        raise FormatError(f"{node.path}: a group must hold an array or an image, found none")
    return found


def _below(folder: Place, node: Node, depth: int) -> Iterator[Node]:
    for child in children(folder, node.key):
        if _is_one(child):
            yield child
        elif depth > 1 and PurePath(child.key).name not in ("labels", record.COORDINATES):
            yield from _below(folder, child, depth - 1)


def _opened(folder: Place, node: Node, permissive: bool, missing: str) -> Opened:
    array = node if node.kind == "array" else _level(folder, node)
    meta = array_meta(array)
    holder = _holder(folder, node, array)
    own = holder is not None and holder.attributes[record.KEY].get("empty_chunks") != "fill"
    legal = missing == "fill" and (permissive or not own)
    if permissive and meta.fill is None:
        meta = replace(meta, fill=0)
    counted = folder.lists and (legal or not own)
    absent = absent_files(folder, array.key, meta) if counted else None
    if absent:
        _check_absent(absent, array.path, meta, legal)
    plain = ZarrSource(
        place=folder,
        key=array.key,
        meta=meta,
        token=token(folder, (node, array), array.key, meta, legal),
        document=array.document,
        mark=array.marks[0],
        fill_missing=legal,
        option="permissive=True" if own else 'missing="fill"',
    )
    source: Source = plain
    if holder is not None:
        found = read_record(holder.attributes[record.KEY], meta.shape, meta.native, holder.path)
        coords = with_sources(holder.place, holder, found.coords, permissive)
        found = replace(found, coords=coords)
    else:
        found = _labels(folder, node, array, meta, permissive)
        packing = cf.packing(array, meta, named=_image(node) is None)
        source = cf.decoded(plain, packing, array.path)
        found = replace(found, attrs=cf.rest(found.attrs, packing))
    return Opened(
        source=source,
        dims=found.dims,
        voxel_size=found.voxel_size,
        unit=found.unit,
        origin=found.origin,
        coords=found.coords,
        attrs=found.attrs,
        name=found.name if holder is not None else found.name or _stem(node.path),
        bare=found.bare,
        absent=absent,
    )


def _check_absent(absent: Absent, path: str, meta: ArrayMeta, legal: bool) -> None:
    """Refuse absent chunks where they are not to be read, or have no value."""
    if not legal:
        raise MissingChunkError(
            f"{path}: with missing='error' every chunk must be stored, {absent} are absent; "
            "restore them, or pass missing='fill' to read them as the fill value"
        )
    if meta.fill is None and absent.number:
        raise undefined(path, str(absent))


def with_sources(folder: Place, node: Node, coords: Coords, permissive: bool) -> Coords:
    """Coordinates whose values are arrays of their own, as sources of these arrays."""
    return {name: _with_source(folder, node, coord, permissive) for name, coord in coords.items()}


def _with_source(folder: Place, node: Node, coord: Coord, permissive: bool) -> Coord:
    dims, values, *rest = coord
    if not isinstance(values, Elsewhere):
        return coord
    array = load(folder, below(node.key, values.path, node.path))
    if array is None or array.kind != "array":
        raise FormatError(f"{node.path}: coordinate {values.path!r} must be an array, found none")
    source = _opened(folder, array, permissive, "fill").source
    if source.shape != values.shape:
        raise FormatError(
            f"{array.path}: a coordinate must have shape {values.shape}, found {source.shape}"
        )
    if values.dtype.kind in "mM":
        source = Times(source, values.dtype.str)
    return (dims, source, *rest)  # type: ignore[return-value]


def _stem(path: str) -> str:
    return PurePath(path).stem.removesuffix(".ome")


def _level(folder: Place, node: Node) -> Node:
    """Array of level 0 of an image, or of a group of ours."""
    image = _image(node)
    path = OWN_LEVEL if image is None else ome.level_path(image, node.path)
    array = load(folder, below(node.key, path, node.path))
    if array is None or array.kind != "array":
        raise FormatError(f"{node.path}: level {path!r} of its image must be an array, found none")
    return array


def _labels(folder: Place, node: Node, array: Node, meta: ArrayMeta, permissive: bool) -> Labels:
    """What is known of an array of others: by the OME image it is of, by its names."""
    image = _image(node)
    if image is not None:
        path = array.key[len(node.key) : -1]
        return _named(image, path, node, meta, permissive)
    above = _above(folder, array)
    if above is not None:
        parent, path = above
        return _named(_image(parent) or {}, path, parent, meta, permissive)
    names = meta.names or _xarray_names(array.attributes)
    return Labels(ome.guessed_dims(names, len(meta.shape)), attrs=_others(array.attributes))


def _holder(folder: Place, node: Node, array: Node) -> Node | None:
    """The node with our record of an array: itself, its group, or the group above."""
    holder = next((n for n in (array, node) if _recorded(n)), None)
    if holder is not None:
        return holder
    above = _above(folder, array) if node is array else None
    return above[0] if above and _recorded(above[0]) else None


def _recorded(node: Node) -> bool:
    own = node.attributes.get(record.KEY)
    return isinstance(own, dict) and "dims" in own


def _named(
    image: Mapping[str, Any], path: str, node: Node, meta: ArrayMeta, permissive: bool
) -> Labels:
    found = ome.labels_of(image, path, len(meta.shape), node.path, permissive=permissive)
    return replace(found, attrs=_others(node.attributes), name=found.name or _stem(node.path))


def _above(folder: Place, array: Node) -> tuple[Node, str] | None:
    """The image that an array is a level of, and the name of the level in it."""
    place, key, name = array.place, array.key, ""
    for _ in range(MAX_PARENTS):
        if key:
            head, _, last = key.rstrip("/").rpartition("/")
            key = f"{head}/" if head else ""
        else:
            upper = place.above()
            if upper is None:
                return None
            place, last = upper, place.name
        name = f"{last}/{name}".rstrip("/")
        parent = load(place, key)
        if parent is None or parent.kind == "array":
            continue
        image = _image(parent)
        if image is not None and ome.level_named(image, name, parent.path):
            return parent, name
        if _recorded(parent) and name == OWN_LEVEL:
            return parent, name
    return None


def _xarray_names(attributes: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = attributes.get("_ARRAY_DIMENSIONS")
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if names and valid else None


def _others(attributes: Mapping[str, Any]) -> dict[str, object]:
    """Attributes of the user's own."""
    return {key: value for key, value in attributes.items() if key not in OWN_ATTRIBUTES}

"""Load the metadata of the arrays and groups of a zarr store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazyvol.errors import FormatError
from lazyvol.io.safe_folder import JsonFile, Place
from lazyvol.io.zarr import v2, v3
from lazyvol.io.zarr.metadata import ArrayMeta

#: children of a group that are read
MAX_CHILDREN = 10_000


@dataclass(frozen=True)
class Node:
    """An array or a group in folder ``key`` below the root, "" or with a trailing slash.

    ``raw`` and ``stamps`` are the bytes and the stamps of its metadata files.
    """

    place: Place
    key: str
    kind: str
    version: int
    meta: Mapping[str, Any]
    attributes: Mapping[str, Any]
    raw: tuple[bytes, ...]
    stamps: tuple[str, ...]

    @property
    def document(self) -> str:
        """Return the name of the metadata file of an array, the first of ``raw``."""
        return "zarr.json" if self.version == 3 else ".zarray"

    @property
    def path(self) -> str:
        """Return the path of the folder."""
        return self.place.path(self.key).rstrip("/")


def load(folder: Place, key: str = "") -> Node | None:
    """Load the node in folder ``key``; return None if it has no metadata files."""
    file = folder.json(f"{key}zarr.json")
    return _node_v3(folder, key, file) if file else _node_v2(folder, key)


def array_meta(node: Node) -> ArrayMeta:
    """Return the checked metadata of an array.

    Raises
    ------
    FormatError
        A field is missing or breaks the rules of zarr, or is not supported.
    UnsafeSourceError
        A codec or dtype is not on the allow-list.
    LimitExceeded
        A chunk or an index would take too much memory.
    """
    if node.version == 3:
        return v3.parse(node.meta, node.path)
    return v2.parse(node.meta, node.path)


def _node_v3(folder: Place, key: str, file: JsonFile) -> Node:
    meta, where = file.content, folder.path(f"{key}zarr.json")
    kind = meta.get("node_type")
    if meta.get("zarr_format") != 3 or kind not in ("array", "group"):
        raise FormatError(
            f"{where}: zarr_format must be 3 and node_type 'array' or 'group', found "
            f"{meta.get('zarr_format')!r:.40} and {kind!r:.40}"
        )
    attributes = _attributes(meta.get("attributes"), where)
    return Node(folder, key, kind, 3, meta, attributes, (file.raw,), (file.stamp,))


def _node_v2(folder: Place, key: str) -> Node | None:
    array = folder.json(f"{key}.zarray")
    group = None if array else folder.json(f"{key}.zgroup")
    attrs = folder.json(f"{key}.zattrs")
    files = [file for file in (array, group, attrs) if file]
    if not files:
        return None
    first = array or group
    if first and first.content.get("zarr_format") != 2:
        raise FormatError(
            f"{folder.path(key)}: zarr_format must be 2 in .zarray and .zgroup, found "
            f"{first.content.get('zarr_format')!r:.40}"
        )
    return Node(
        place=folder,
        key=key,
        kind="array" if array else "group",
        version=2,
        meta=array.content if array else {},
        attributes=attrs.content if attrs else {},
        raw=tuple(file.raw for file in files),
        stamps=tuple(file.stamp for file in files),
    )


def _attributes(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{where}: attributes must be an object, found {value!r:.80}")
    return value


def children(folder: Place, key: str = "") -> list[Node]:
    """Return the arrays and groups directly below ``key``, sorted by name."""
    names = sorted(n for n in folder.names(key) if n[0] != "." and n != "zarr.json")
    nodes = (load(folder, f"{key}{name}/") for name in names[:MAX_CHILDREN])
    return [node for node in nodes if node]


def below(key: str, path: object, where: str) -> str:
    """Return the key of a path in metadata, which is relative to ``key``."""
    parts = path.strip("/").split("/") if isinstance(path, str) else []
    if not parts or any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise FormatError(f"{where}: path must lead to a folder below, found {path!r:.80}")
    return f"{key}{'/'.join(parts)}/"

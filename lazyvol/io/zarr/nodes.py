"""Arrays and groups of a zarr store: what kind a folder is, and what it holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazyvol.errors import FormatError
from lazyvol.io.safe_folder import Json, Place
from lazyvol.io.zarr import v2, v3
from lazyvol.io.zarr.metadata import ArrayMeta

#: children of a plain group that are looked at
MAX_CHILDREN = 10_000


@dataclass(frozen=True)
class Node:
    """An array or a group. ``key`` is its folder below the root, "" or with a trailing slash."""

    place: Place
    key: str
    kind: str
    version: int
    meta: Mapping[str, Any]
    attributes: Mapping[str, Any]
    raw: tuple[bytes, ...]
    marks: tuple[str, ...]

    @property
    def document(self) -> str:
        """File with the metadata of an array; the first of ``raw`` and ``marks``."""
        return "zarr.json" if self.version == 3 else ".zarray"

    @property
    def path(self) -> str:
        """Where it is."""
        return self.place.path(self.key).rstrip("/")


def load(folder: Place, key: str = "") -> Node | None:
    """Node in folder ``key`` ("" or with a trailing slash); None where there is none."""
    found = folder.json(f"{key}zarr.json")
    return _node3(folder, key, found) if found else _node2(folder, key)


def array_meta(node: Node) -> ArrayMeta:
    """Checked metadata of an array.

    Raises
    ------
    FormatError
        A field is missing or breaks the rules of zarr, or is not supported.
    UnsafeSourceError
        A codec or dtype is off the allow-list.
    LimitExceeded
        A chunk or an index would take too much memory.
    """
    if node.version == 3:
        return v3.parse(node.meta, node.path)
    return v2.parse(node.meta, node.path)


def _node3(folder: Place, key: str, found: Json) -> Node:
    meta, where = found.content, folder.path(f"{key}zarr.json")
    kind = meta.get("node_type")
    if meta.get("zarr_format") != 3 or kind not in ("array", "group"):
        raise FormatError(
            f"{where}: zarr_format must be 3 and node_type 'array' or 'group', found "
            f"{meta.get('zarr_format')!r:.40} and {kind!r:.40}"
        )
    attributes = _attributes(meta.get("attributes"), where)
    return Node(folder, key, kind, 3, meta, attributes, (found.raw,), (found.mark,))


def _node2(folder: Place, key: str) -> Node | None:
    array = folder.json(f"{key}.zarray")
    group = None if array else folder.json(f"{key}.zgroup")
    attrs = folder.json(f"{key}.zattrs")
    files = [found for found in (array, group, attrs) if found]
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
        raw=tuple(found.raw for found in files),
        marks=tuple(found.mark for found in files),
    )


def _attributes(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{where}: attributes must be an object, found {value!r:.80}")
    return value


def children(folder: Place, key: str = "") -> list[Node]:
    """Arrays and groups directly below ``key``, by name."""
    names = sorted(n for n in folder.names(key) if n[0] != "." and n != "zarr.json")
    found = (load(folder, f"{key}{name}/") for name in names[:MAX_CHILDREN])
    return [node for node in found if node]


def below(key: str, path: object, where: str) -> str:
    """Key of the node that metadata call ``path``, relative to ``key``."""
    parts = path.strip("/").split("/") if isinstance(path, str) else []
    if not parts or any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise FormatError(f"{where}: path must lead to a folder below, found {path!r:.80}")
    return f"{key}{'/'.join(parts)}/"

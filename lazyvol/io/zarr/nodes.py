"""Read the metadata documents of the arrays and groups of a zarr store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazyvol.errors import FormatError
from lazyvol.io.places import Place

#: children of a group that are read
MAX_CHILDREN = 10_000


@dataclass(frozen=True)
class Node:
    """An array or a group in folder ``key`` below the root, "" or with a trailing slash.

    ``raw`` and ``stamps`` are the bytes and the stamps of its documents.
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
        """Return the name of the document of an array, the first of ``raw``."""
        return "zarr.json" if self.version == 3 else ".zarray"

    @property
    def path(self) -> str:
        """Return the path of the folder."""
        return self.place.path(self.key).rstrip("/")


def load(place: Place, key: str = "") -> Node | None:
    """Load the node in folder ``key``; return None if it has no documents.

    Raises
    ------
    FormatError
        A document is neither that of an array nor that of a group.
    """
    if file := place.json(f"{key}zarr.json"):
        files, version, meta = [file], 3, file.content
        kind, attributes = meta.get("node_type"), meta.get("attributes") or {}
    else:
        array = place.json(f"{key}.zarray")
        group = None if array else place.json(f"{key}.zgroup")
        attrs = place.json(f"{key}.zattrs")
        files = [file for file in (array, group, attrs) if file]
        version, kind = 2, "array" if array else "group"
        meta = next((file.content for file in (array, group) if file), {"zarr_format": 2})
        attributes = attrs.content if attrs else {}
    if not files:
        return None
    found = meta.get("zarr_format")
    if found != version or kind not in ("array", "group") or not isinstance(attributes, dict):
        raise FormatError(
            f"{place.path(key)}: a node must have zarr_format {version}, node_type 'array' or "
            f"'group' and attributes by name, found {found!r:.40}, {kind!r:.40} and "
            f"{attributes!r:.80}"
        )
    raw, stamps = tuple(file.raw for file in files), tuple(file.stamp for file in files)
    return Node(place, key, kind, version, meta, attributes, raw, stamps)


def children(place: Place, key: str = "") -> list[Node]:
    """Return the arrays and groups directly below ``key``, sorted by name."""
    names = sorted(n for n in place.names(key) if n[0] != "." and n != "zarr.json")
    nodes = (load(place, f"{key}{name}/") for name in names[:MAX_CHILDREN])
    return [node for node in nodes if node]


def folder_above(place: Place, key: str) -> tuple[Place, str, str] | None:
    """Return place and key of the folder above ``key``, and the name of ``key`` in it.

    The folder above the root of a place is in another place; None if that cannot be read.
    """
    if key:
        head, _, name = key.rstrip("/").rpartition("/")
        return place, f"{head}/" if head else "", name
    upper = place.above()
    return None if upper is None else (upper, "", place.name)


def below(key: str, path: object, where: str) -> str:
    """Return the key of a path in metadata, which is relative to ``key``."""
    parts = path.strip("/").split("/") if isinstance(path, str) else []
    if not parts or any(
        part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in parts
    ):
        raise FormatError(f"{where}: path must lead to a folder below, found {path!r:.80}")
    return f"{key}{'/'.join(parts)}/"

"""Read everything in a zarr store and name what is not as it was written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from os import PathLike
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.arguments import operation
from lazyvol.errors import LazyvolError
from lazyvol.io.places import OpenObject, Place
from lazyvol.io.zarr import manifest, ome
from lazyvol.io.zarr.chunks import ABSENT, StoredChunk
from lazyvol.io.zarr.codecs import Bytes, Damaged, Short, crc32c, strip_checksum
from lazyvol.io.zarr.labels import RECORD_KEY
from lazyvol.io.zarr.manifest import Checksums, Manifest, Row
from lazyvol.io.zarr.metadata import ArrayMeta, array_meta
from lazyvol.io.zarr.nodes import Node, below, children, load
from lazyvol.io.zarr.reader import load_root, place_of_store
from lazyvol.io.zarr.source import zarr_source

#: groups in groups that are searched for arrays
MAX_DEPTH = 6


@dataclass(frozen=True)
class Fault:
    """A file that is not as it was written.

    ``kind`` is ``"missing"``, ``"damaged"`` (its bytes changed), ``"swapped"`` (it holds what
    belongs elsewhere in the store) or ``"stale"`` (valid data of another run).
    """

    kind: str
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind:<8}{self.path}: {self.detail}"


@dataclass(frozen=True)
class Verification:
    """The number of files and bytes that were read of a store, and the faults that were found.

    ``unlisted`` counts the arrays without a manifest: they were decoded, but no checksum
    shows whether a chunk is in its place.
    """

    path: str
    files: int
    nbytes: int
    unlisted: int
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        """Return True if there are no faults."""
        return not self.faults

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults]
        lines += [f"{self.files:,} files, {self.nbytes:,} bytes, {len(lines)} faults"]
        if self.unlisted:
            lines += [f"{self.unlisted} arrays without a manifest: swapped chunks go unnoticed"]
        return "\n".join(lines)


@operation(unchecked=("path",))
def verify(
    path: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Verification:
    """Computes which files of a zarr store are damaged, missing, swapped or stale.

    Every byte that lazyvol wrote is compared with the manifest. Arrays of other programs have none;
    their chunks are decoded.

    Parameters
    ----------
    path
        Folder, URL or archive of a zarr store, or a store object of zarr.
    storage_options
        Options of the store behind a URL, as for ``lazyvol.open``.

    Returns
    -------
    Verification
        ``ok``, and ``faults``, each with its ``kind``, ``path`` and ``detail``.

    Raises
    ------
    SourceNotFoundError
        Nothing is stored under ``path``.
    FormatError
        It is no zarr store.
    StoreError
        The operating system or the store behind a URL refuses to read.

    Examples
    --------
    >>> import numpy as np, tempfile, lazyvol as lv
    >>> folder = tempfile.TemporaryDirectory()
    >>> lv.save(lv.as_stack(np.ones((2, 3, 4, 5))), f"{folder.name}/a.zarr")
    >>> lv.verify(f"{folder.name}/a.zarr").ok
    True
    >>> folder.cleanup()
    """
    place = place_of_store(path, storage_options)
    root = load_root(place)
    found = _Found()
    faults = dict.fromkeys(_node_faults(place, root.key, found))
    return Verification(place.path(""), len(found.files), found.nbytes, found.unlisted, (*faults,))


@dataclass
class _Found:
    """The files and bytes that were read so far."""

    files: set[str] = field(default_factory=set)
    nbytes: int = 0
    unlisted: int = 0

    def add(self, path: str, nbytes: int) -> None:
        """Count a file once."""
        if path not in self.files:
            self.files.add(path)
            self.nbytes += nbytes


def _node_faults(
    place: Place, key: str, found: _Found, depth: int = MAX_DEPTH, *, is_ours: bool = False
) -> Iterator[Fault]:
    """Yield the faults of an array, or of a group and everything in it.

    An array ``is_ours`` if a group of lazyvol names it.
    """
    try:
        node = load(place, key)
    except LazyvolError as error:
        yield Fault("damaged", place.path(key), str(error))
        return
    if node is None:
        yield Fault("missing", place.path(f"{key}zarr.json"), "the metadata are absent")
        return
    found.add(place.path(key + node.document), len(node.raw[0]))
    try:
        if node.kind == "array":
            yield from _array_faults(node, found, is_ours)
        elif depth:
            for name, is_named in _members(node).items():
                child = f"{key}{name}/"
                yield from _node_faults(place, child, found, depth - 1, is_ours=is_named)
    except LazyvolError as error:
        yield Fault("damaged", node.path, str(error))


def _members(node: Node) -> dict[str, bool]:
    """Return the arrays and groups in a group; true for those that a record of lazyvol names."""
    members = {PurePath(child.key).name: False for child in children(node.place, node.key)}
    record = node.attributes.get(RECORD_KEY)
    image = ome.multiscale(node.attributes, node.path)
    named = [d["path"] for d in image["datasets"]] if image else []
    if isinstance(record, dict):
        named += [*record.get("variables", []), *record.get("beside", [])]
    for name in named:
        below("", name, node.path)
    return members | dict.fromkeys(named, isinstance(record, dict))


def _array_faults(node: Node, found: _Found, is_ours: bool) -> Iterator[Fault]:
    meta = array_meta(node.meta, node.path)
    head = manifest.load(node.place, node.key)
    name = node.place.path(node.key + manifest.NAME)
    if head is None:
        if is_ours or RECORD_KEY in node.attributes:
            yield Fault("missing", name, "the manifest is absent")
        found.unlisted += 1
        yield from _decoding_faults(node, meta, found)
        return
    found.add(name, head.nbytes)
    size = node.place.versions([node.key + manifest.NAME])[0].split()[0]
    if size != f"{head.nbytes}":
        yield Fault("damaged", name, f"it must have {head.nbytes} bytes, found {size}")
    yield from _document_faults(node, head)
    if not head.fits(node, meta):
        yield Fault("damaged", node.path, "the metadata of the array changed")
        return
    files = zip(product(*map(range, head.grid)), head.rows(node.place, node.key), strict=True)
    for index, row in files:
        file = _File(node, meta, head, index, row)
        found.add(file.path, row.length)
        yield from file.faults()


def _document_faults(node: Node, head: Manifest) -> Iterator[Fault]:
    """Compare the metadata of an array and of the groups above it with its manifest."""
    parts = node.key.split("/")[:-1]
    for level, checksum in enumerate(head.documents[: len(parts) + 1]):
        key = "".join(f"{part}/" for part in parts[: len(parts) - level]) + "zarr.json"
        document = node.place.json(key)
        if document is None or crc32c(document.raw) != checksum:
            yield Fault("damaged", node.place.path(key), "the metadata changed")


def _decoding_faults(node: Node, meta: ArrayMeta, found: _Found) -> Iterator[Fault]:
    """Decode the chunks of an array without a manifest."""
    source = zarr_source(node, meta, fill_missing=True)
    steps = [range(0, n, c) for n, c in zip(meta.shape, meta.inner, strict=True)]
    for corner in product(*steps):
        spans = zip(corner, meta.inner, meta.shape, strict=True)
        region = tuple(slice(a, min(a + c, n)) for a, c, n in spans)
        file = meta.key([a // f for a, f in zip(corner, meta.files, strict=True)])
        try:
            block = source.read(region)
        except LazyvolError as error:
            yield Fault("damaged", node.place.path(node.key + file), str(error))
        else:
            found.files.add(node.place.path(node.key + file))
            found.nbytes += block.nbytes


@dataclass(frozen=True)
class _File:
    """A file at grid position ``index`` of an array, and its row of the manifest."""

    node: Node
    meta: ArrayMeta
    head: Manifest
    index: tuple[int, ...]
    row: Row

    @property
    def key(self) -> str:
        return self.node.key + self.meta.key(self.index)

    @property
    def path(self) -> str:
        return self.node.place.path(self.key)

    def faults(self) -> Iterator[Fault]:
        """Yield the first fault of the file, if it has one."""
        length = manifest.tail_bytes(self.head.chunks) if self.meta.index else self.row.length
        stored = self.node.place.open(self.key, ("tail", length))
        if stored is None:
            yield Fault("missing", self.path, "the file is absent")
            return
        with stored:
            try:
                end = stored.edge(length, False)
                length, found = self._checksums(stored, end)
            except (Damaged, Short, LazyvolError) as error:
                yield Fault("damaged", self.path, str(error))
                return
        if not np.array_equal(found, self.row.checksums):
            yield self._exchanged(found)
        elif length != self.row.length:
            yield Fault("damaged", self.path, f"{length} bytes, {self.row.length} were written")
        elif self.meta.index and not self._is_sealed(end):
            yield Fault("damaged", self.path, "the seal before its index changed")

    def _checksums(self, stored: OpenObject, end: Bytes) -> tuple[int, Checksums]:
        """Return the length and the checksums of the chunks; raise Damaged if one is wrong."""
        found, used = np.zeros(self.head.chunks, "<u4"), 0
        for chunk in stored.fetched(self._chunks(end)):
            data = stored.take(chunk.offset, chunk.length, self.meta.stored_bound)
            if data.size != chunk.length:
                raise Short(f"chunk {chunk.number} ends early")
            body = strip_checksum(data)
            found[chunk.number] = int.from_bytes(data[body.size :].tobytes(), "little")
            used += chunk.length
        used += end.size if self.meta.index else 0
        if stored.size not in (None, used):
            raise Damaged(f"its chunks and index take {used} of {stored.size} bytes")
        return used, found

    def _chunks(self, end: Bytes) -> Iterator[StoredChunk]:
        """Yield the chunks of the file, each with its place in it; raise Damaged for a long one."""
        if self.meta.index is None:
            yield StoredChunk(0, self.row.length, (), (0,) * len(self.head.chunks))
            return
        body = strip_checksum(end[-self.meta.index.nbytes :])
        entries = body.view("<u8").reshape(*self.head.chunks, 2)
        for place in product(*map(range, self.head.chunks)):
            offset, length = entries[place].tolist()
            if (offset, length) == (ABSENT, ABSENT):
                continue
            if length > self.meta.stored_bound:
                raise Damaged(f"chunk {place} has {length} bytes")
            yield StoredChunk(offset, length, (), place)

    def _is_sealed(self, end: Bytes) -> bool:
        depth = len(self.head.documents) - 1
        folders = "".join(f"{part}/" for part in self.node.path.split("/")[-depth:] if depth)
        key = folders + self.meta.key(self.index)
        row = manifest.sealed_row(end.tobytes(), self.head.plan, key, self.head.chunks)
        return row is not None and row.length == self.row.length

    def _exchanged(self, found: Checksums) -> Fault:
        """Return the fault of a file whose chunks are valid, but not those of its place."""
        if sorted(found.flat) == sorted(self.row.checksums.flat):
            return Fault("swapped", self.path, "the entries of its index were exchanged")
        rows = self.head.rows(self.node.place, self.node.key)
        for index, row in zip(product(*map(range, self.head.grid)), rows, strict=True):
            if np.array_equal(found, row.checksums):
                other = self.node.place.path(self.node.key + self.meta.key(index))
                return Fault("swapped", self.path, f"it holds the chunks of {other}")
        return Fault("stale", self.path, "it holds chunks of another run or array")

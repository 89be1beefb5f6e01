"""The manifest of an array: the checksum of every chunk by its place, and of the metadata.

A checksum inside a file finds damage, but not a file in the place of another, of an older version,
or an index whose entries were exchanged. The manifest knows which chunk belongs where. It is the
file ``lazyvol-manifest`` beside the metadata of the array, which other programs do not read:

* 8 bytes that identify the format, the length of the header (uint32), the header (JSON), and its
  CRC-32C: the plan of the run, the number of files and of chunks in a file along each axis, and the
  checksums of the metadata documents from that of the array up to that of the store;
* pages of about 64 KiB, each followed by its CRC-32C. A row of a page describes a file, in C order
  of the grid: its length (uint64), and the checksum of each of its chunks (uint32, 0 beyond the
  edge of the array).

A checksum is stored behind its chunk too, so comparing the two costs a reader no pass over the
data. A CRC-32C of a whole file would be of no use: after bytes and their own CRC the state is a
constant, hence that checksum depends on the lengths of the chunks alone.

A shard ends in a *seal* before its index, bytes that the index does not refer to: its place and
plan, and the checksums of its chunks. An interrupted run knows its finished shards by their seals.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvol.errors import ChecksumError
from lazyvol.io.places import Place
from lazyvol.io.zarr.codecs import Bytes, Damaged, append_checksum, crc32c
from lazyvol.io.zarr.labels import RECORD_KEY
from lazyvol.io.zarr.metadata import ArrayMeta
from lazyvol.io.zarr.nodes import Node

NAME = "lazyvol-manifest"
MAGIC = b"lazyvol\x01"
#: bytes that are read first; a header takes some 200
HEAD_BYTES = 4096
PAGE_BYTES = 1 << 16
#: pages that a process keeps, some 1 MiB
KEPT_PAGES = 16
PLACE_BYTES = 16

#: end of messages about data that may have been changed on purpose
PERMISSIVE = "permissive=True reads the array as it is"

Checksums = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Row:
    """Length of a file and the checksums of its chunks, in the shape of its inner grid."""

    length: int
    checksums: Checksums


@dataclass(frozen=True)
class Manifest:
    """The header of a manifest. Small and picklable; pages are read when they are needed.

    ``array`` is the checksum of the metadata of the array without its attributes, ``documents``
    are those of whole documents. ``start`` is the offset of the first page.
    """

    plan: str
    grid: tuple[int, ...]
    chunks: tuple[int, ...]
    array: int
    documents: tuple[int, ...]
    start: int = 0

    def fits(self, array: Node, meta: ArrayMeta) -> bool:
        """Return True if the metadata of an array are those that were written."""
        grid = tuple(-(-n // f) for n, f in zip(meta.shape, meta.files, strict=True))
        chunks = tuple(f // c for f, c in zip(meta.files, meta.inner, strict=True))
        found = (array_checksum(array.meta), grid, chunks)
        return found == (self.array, self.grid, self.chunks)

    @property
    def nbytes(self) -> int:
        """Return the length of the file."""
        files = prod(self.grid)
        return self.start + files * self.row_bytes + 4 * -(-files // self.rows_per_page)

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row."""
        return 8 + 4 * prod(self.chunks)

    @property
    def rows_per_page(self) -> int:
        """Return the number of rows of every page but the last."""
        return max(1, PAGE_BYTES // self.row_bytes)

    def row(self, place: Place, key: str, stamp: str, index: Sequence[int]) -> Row:
        """Return the row of the file at grid position ``index`` of the array in folder ``key``.

        ``stamp`` is that of the array; pages are kept for it.
        """
        number = int(np.ravel_multi_index(tuple(index), self.grid)) if self.grid else 0
        page, row = divmod(number, self.rows_per_page)
        name = (place.path(key), stamp, page)
        raw = _PAGES.get(name)
        if raw is None:
            if len(_PAGES) >= KEPT_PAGES:
                _PAGES.clear()
            raw = _PAGES[name] = self._read_page(place, key, page)
        return self._row(raw, row)

    def rows(self, place: Place, key: str) -> Iterator[Row]:
        """Yield the rows of all files in C order."""
        for page in range(-(-prod(self.grid) // self.rows_per_page)):
            raw = self._read_page(place, key, page)
            yield from (self._row(raw, n) for n in range(len(raw) // self.row_bytes))

    def _row(self, page: bytes, number: int) -> Row:
        start = number * self.row_bytes
        checksums = np.frombuffer(page, "<u4", prod(self.chunks), start + 8)
        length = int.from_bytes(page[start : start + 8], "little")
        return Row(length, checksums.reshape(self.chunks))

    def _read_page(self, place: Place, key: str, page: int) -> bytes:
        rows = min(self.rows_per_page, prod(self.grid) - page * self.rows_per_page)
        start = self.start + page * (self.rows_per_page * self.row_bytes + 4)
        stop = start + rows * self.row_bytes + 4
        (data,) = place.fetch(key + NAME, [(start, stop)])
        raw = b"" if data is None else data.tobytes()
        return _checked(raw, stop - start, place.path(key + NAME))


#: pages of manifests by path, stamp of the array and number
_PAGES: dict[tuple[str, str, int], bytes] = {}


def load(place: Place, key: str) -> Manifest | None:
    """Return the manifest of the array in folder ``key``; None if it has none.

    Raises
    ------
    ChecksumError
        The header is damaged.
    """
    (data,) = place.fetch(key + NAME, [(0, HEAD_BYTES)])
    if data is None:
        return None
    raw, where = data.tobytes(), place.path(key + NAME)
    length = int.from_bytes(raw[8:12], "little")
    if raw[:8] != MAGIC:
        raise _damaged(where)
    try:
        header = json.loads(_checked(raw[12 : 16 + length], length + 4, where))
        return Manifest(
            plan=str(header["plan"]),
            grid=tuple(map(int, header["grid"])),
            chunks=tuple(map(int, header["chunks"])),
            array=int(header["array"]),
            documents=tuple(map(int, header["documents"])),
            start=16 + length,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(where) from error


def manifest_of(
    array: Node, groups: Iterable[Node | None], meta: ArrayMeta, owner: Node | None = None
) -> Manifest | None:
    """Return the manifest of an array that is opened; None if another program wrote it.

    ``groups`` are the nodes that were read on the way to the array. A record has its own checksum;
    a node without one must have the bytes that were written, for its record may be lost. An array
    must be of the run of its ``owner``.

    Raises
    ------
    ChecksumError
        The manifest is absent, damaged or of another run, or the metadata are not those that were
        written.
    """
    nodes = {node.path: node for node in (array, *groups) if node is not None}
    plans = [plan for node in nodes.values() if (plan := _plan_of(node)) is not None]
    manifest = load(array.place, array.key)
    if manifest is None:
        if not plans and (owner is None or _plan_of(owner) is None):
            return None
        raise ChecksumError(
            f"{array.place.path(array.key + NAME)}: an array of lazyvol must have its manifest, it "
            "is absent; restore it, or read the array without it by permissive=True"
        )
    if not manifest.fits(array, meta):
        raise _changed_error(array)
    owned = () if owner is None else (_plan_of(owner),)
    if any(plan not in (None, manifest.plan) for plan in (*plans, *owned)):
        raise ChecksumError(
            f"{array.path}: an array and its metadata must be of one run, its manifest is of "
            f"another; restore the folder from one backup. {PERMISSIVE}"
        )
    for node in nodes.values():
        level = array.path[len(node.path) :].count("/")
        is_same = manifest.documents[level : level + 1] == (crc32c(node.raw[0]),)
        if _plan_of(node) is None and not is_same and (node is not array or not plans):
            raise _changed_error(node)
    return manifest


def require_checksum(encoded: Bytes, checksum: int | None) -> None:
    """Raise Damaged if an encoded chunk does not end in the checksum of the manifest."""
    found = int.from_bytes(encoded[-4:].tobytes(), "little")
    if checksum is not None and found != checksum:
        raise Damaged(
            f"its crc32c is {found:#010x}, that of the manifest {checksum:#010x}: it belongs "
            f"elsewhere, is older, or was changed by another program. {PERMISSIVE}"
        )


def _plan_of(node: Node) -> str | None:
    """Return the plan in the record of a node."""
    record = node.attributes.get(RECORD_KEY)
    plan = record.get("plan") if isinstance(record, dict) else None
    return None if plan is None else str(plan)


def _changed_error(node: Node) -> ChecksumError:
    return ChecksumError(
        f"{node.path}: the metadata must be those that were written, they were damaged or edited; "
        f"restore them. {PERMISSIVE}"
    )


def encode(manifest: Manifest, rows: Iterable[Row]) -> Iterator[bytes]:
    """Yield the bytes of a manifest: its header, then page after page."""
    fields = ("plan", "grid", "chunks", "array", "documents")
    header = json.dumps({name: getattr(manifest, name) for name in fields}).encode()
    yield MAGIC + len(header).to_bytes(4, "little") + append_checksum(header)
    page: list[bytes] = []
    for row in rows:
        page.append(row.length.to_bytes(8, "little") + row.checksums.astype("<u4").tobytes())
        if len(page) == manifest.rows_per_page:
            yield append_checksum(b"".join(page))
            page = []
    if page:
        yield append_checksum(b"".join(page))


def array_checksum(meta: Mapping[str, Any]) -> int:
    """Return the checksum of the metadata of an array, for any order of keys; not attributes."""
    content = {key: value for key, value in meta.items() if key != "attributes"}
    return crc32c(json.dumps(content, sort_keys=True).encode())


def _checked(raw: bytes, length: int, where: str) -> bytes:
    """Return the bytes before a trailing checksum; raise ChecksumError if it is not theirs."""
    if len(raw) != length or crc32c(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise _damaged(where)
    return raw[:-4]


def _damaged(where: str) -> ChecksumError:
    return ChecksumError(
        f"{where}: the manifest must match its own checksums, it is damaged; restore it, or read "
        "the array without it by permissive=True"
    )


# seals ------------------------------------------------------------------------------------------


def encode_seal(plan: str, key: str, checksums: Checksums) -> bytes:
    """Return the seal of the shard ``key``: its place and plan, and the checksums of its chunks."""
    return append_checksum(_place(plan, key) + checksums.astype("<u4").tobytes())


def tail_bytes(per_shard: Sequence[int]) -> int:
    """Return the bytes of the seal and of the index, which end a shard."""
    return PLACE_BYTES + 4 + 4 + 20 * prod(per_shard)


def sealed_row(tail: bytes, plan: str, key: str, per_shard: Sequence[int]) -> Row | None:
    """Return the row of a shard from its last bytes; None if it is damaged or of another place."""
    count = prod(per_shard)
    if len(tail) != tail_bytes(per_shard):
        return None
    try:
        seal = _checked(tail[: PLACE_BYTES + 4 + 4 * count], PLACE_BYTES + 4 + 4 * count, key)
        index = _checked(tail[-16 * count - 4 :], 16 * count + 4, key)
    except ChecksumError:
        return None
    if seal[:PLACE_BYTES] != _place(plan, key):
        return None
    entries = np.frombuffer(index, "<u8").reshape(-1, 2)
    stored = entries[entries[:, 0] != np.iinfo("u8").max]
    checksums = np.frombuffer(seal, "<u4", count, PLACE_BYTES).reshape(tuple(per_shard))
    return Row(int(stored[:, 1].sum()) + len(tail), checksums)


def _place(plan: str, key: str) -> bytes:
    return blake2b(f"{plan}\0{key}".encode(), digest_size=PLACE_BYTES).digest()

"""Read the chunks of a zarr array: find each in its file, verify it and decode it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvol.errors import (
    ChecksumError,
    LazyvolError,
    MissingChunkError,
    SourceChangedError,
    TruncatedError,
)
from lazyvol.io.faults import read_error
from lazyvol.io.places import OpenObject, Place
from lazyvol.io.safe_folder import ABSENT_FILE, LocalFile, Stored
from lazyvol.io.zarr.adapter import decode_chunk
from lazyvol.io.zarr.codecs import (
    DIRECT,
    Bytes,
    Damaged,
    Short,
    crc32c,
    decode,
    require_size,
    scratch,
    strip_checksum,
    unpack,
)
from lazyvol.io.zarr.manifest import Checksums, Manifest, require_checksum
from lazyvol.io.zarr.metadata import ArrayMeta, Index
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region

#: number for each file of an array, in the shape of its grid
Stamps = npt.NDArray[np.uint32]

ABSENT = (1 << 64) - 1
#: dictionary of an xz stream at its usual preset
LZMA_BYTES = 9 << 20


@dataclass(frozen=True)
class ChunkSlice:
    """Part of a region along one axis that is in chunk ``index``.

    ``in_chunk`` and ``in_result`` are its positions in the chunk and in the result; ``complete``
    is True if it is the whole chunk.
    """

    index: int
    in_chunk: slice
    in_result: slice
    complete: bool


#: a slice per axis
Slices = tuple[ChunkSlice, ...]


@dataclass(frozen=True)
class StoredChunk(Stored):
    """A chunk at grid position ``number``: its bytes in the file, and the slices to copy.

    ``checksum`` is that of the manifest; None if the array has none.
    """

    slices: Slices
    number: tuple[int, ...]
    checksum: int | None = None


def chunk_slices(span: slice, step: int, offset: int = 0) -> list[ChunkSlice]:
    """Split a span of an axis at multiples of ``step``; the result starts at ``offset``."""
    slices = []
    for index in range(span.start // step, -(-span.stop // step) if span.stop > span.start else 0):
        start, stop = max(span.start, index * step), min(span.stop, (index + 1) * step)
        in_chunk = slice(start - index * step, stop - index * step)
        in_result = slice(start - span.start + offset, stop - span.start + offset)
        slices.append(ChunkSlice(index, in_chunk, in_result, stop - start == step))
    return slices


def result_view(out: Array, slices: Slices) -> Array:
    """Return the view of the result that one chunk fills."""
    index: tuple[Any, ...] = (*(part.in_result for part in slices), ...)
    view: Array = out[index]
    return view


@dataclass(eq=False)
class ChunkReader:
    """Reads the chunks of the array in folder ``key`` of ``place``; nothing outside it is read.

    ``stamp`` is that of the metadata of the array when it was opened, ``stamps`` are those of its
    files. ``fill_missing`` reads absent chunks as the fill value; errors name ``option`` for that.
    With a ``manifest``, every chunk must be the one that was written in its place.
    """

    place: Place
    key: str
    meta: ArrayMeta
    stamp: str
    fill_missing: bool = False
    option: str = "permissive=True"
    manifest: Manifest | None = None
    stamps: Stamps | None = None

    def read_chunks(self, region: Region, out: Array) -> None:
        """Fill ``out``, which has the shape of the region and the native dtype of the array."""
        place = self.place.fresh()
        axes = [chunk_slices(span, n) for span, n in zip(region, self.meta.files, strict=True)]
        for slices in product(*axes):
            self._read_file(place, slices, out)

    def _read_file(self, place: Place, slices: Slices, out: Array) -> None:
        """Read the requested chunks of one file."""
        position = tuple(part.index for part in slices)
        key = self.key + self.meta.key(position)
        path = place.path(key)
        stored = place.open(key, self._first_part())
        if stored is None:
            name = f"the file at {position} of the grid"
            self._fill_absent(name, path, result_view(out, slices))
            self._require_stamp(position, ABSENT_FILE, path)
            return
        try:
            with stored:
                try:
                    checksums = None
                    if self.manifest is not None:
                        row = self.manifest.row(place, self.key, self.stamp, position)
                        checksums = row.checksums
                    for chunk in stored.fetched(
                        self._stored_chunks(stored, path, slices, checksums, out)
                    ):
                        self._read_chunk(stored, path, chunk, out)
                finally:  # a changed file is the cause of other errors
                    if isinstance(stored, LocalFile):
                        self._require_stamp(position, stored.version(), path)
        except OSError as error:
            if isinstance(error, LazyvolError):
                raise
            raise read_error(path, error) from error

    def _require_stamp(self, position: tuple[int, ...], version: str, path: str) -> None:
        """Raise SourceChangedError if a file is not the one that was there at opening."""
        if self.stamps is not None and self.stamps[position] != stamp_of(version):
            raise SourceChangedError(
                f"{path}: a chunk must not change after the array was opened, this one was "
                "rewritten, added or removed; open the array again"
            )

    def _first_part(self) -> tuple[str, int]:
        """Return the part of a file that is read first: the whole file, or its index."""
        index = self.meta.index
        if index is None:
            return "all", self.meta.stored_bound
        return "head" if index.at_start else "tail", index.nbytes

    def _stored_chunks(
        self,
        stored: OpenObject,
        path: str,
        slices: Slices,
        checksums: Checksums | None,
        out: Array,
    ) -> Iterator[StoredChunk]:
        """Yield the stored chunks of a file; fill absent ones, or raise MissingChunkError."""
        size, index = stored.size, self.meta.index
        if index is None:
            position = tuple(part.index for part in slices)
            checksum = None if checksums is None else int(checksums.item())
            yield StoredChunk(0, size or 0, slices, position, checksum)
            return
        entries = read_index(stored, index, path)
        axes = [
            chunk_slices(part.in_chunk, n, part.in_result.start)
            for part, n in zip(slices, self.meta.inner, strict=True)
        ]
        for inner in product(*axes):
            place = tuple(part.index for part in inner)
            offset, length = entries[place].tolist()
            number = tuple(
                s.index * n + c.index
                for s, c, n in zip(slices, inner, index.per_shard, strict=True)
            )
            if offset == length == ABSENT:
                self._fill_absent(f"chunk {number}", path, result_view(out, inner))
            elif size is not None and offset + length > size:
                raise TruncatedError(
                    f"{path}: chunk {number} must be in the file's {size} bytes, its index "
                    f"gives {length} bytes at {offset}; copy the store again"
                )
            else:
                checksum = None if checksums is None else int(checksums[place])
                yield StoredChunk(offset, length, inner, number, checksum)

    def _fill_absent(self, name: str, path: str, target: Array) -> None:
        """Fill the part of an absent chunk; raise MissingChunkError if that is not allowed."""
        if not self.fill_missing:
            fill = 0 if self.meta.fill is None else self.meta.fill
            raise MissingChunkError(
                f"{path}: every chunk must be stored, {name} is absent; restore it, or read absent "
                f"chunks as {fill!r} by {self.option}"
            )
        if self.meta.fill is None:
            raise undefined_fill_error(path, name)
        target[...] = self.meta.fill

    def _read_chunk(self, stored: OpenObject, path: str, chunk: StoredChunk, out: Array) -> None:
        """Decode one chunk and copy the requested part into ``out``."""
        target = result_view(out, chunk.slices)
        complete = all(part.complete for part in chunk.slices)
        try:
            if self.meta.plain and complete and target.flags.c_contiguous:
                self._decode(stored, chunk, target.reshape(-1).view(np.uint8))
            else:
                values = self._values(stored, chunk)
                target[...] = values[tuple(part.in_chunk for part in chunk.slices)]
        except (Damaged, Short) as error:
            error_class = TruncatedError if isinstance(error, Short) else ChecksumError
            raise error_class(
                f"{path}: chunk {chunk.number} ({chunk.length} bytes at {chunk.offset}) is "
                f"damaged: {error}; restore the file from its source"
            ) from error

    def _values(self, stored: OpenObject, chunk: StoredChunk) -> Array:
        """Return the decoded chunk with the axes of the array."""
        meta = self.meta
        if meta.rest:
            return self._decode_by_zarr(meta.rest, self._encoded(stored, chunk))
        decoded = scratch("decoded", meta.chunk_bytes)
        self._decode(stored, chunk, decoded)
        raw = decoded.view(meta.dtype) if meta.native.kind != "b" else decoded != 0
        values: Array = raw.reshape(meta.stored_shape).transpose(meta.axis_order)
        return values

    def _decode(self, stored: OpenObject, chunk: StoredChunk, decoded: Bytes) -> None:
        if self.meta.stages:
            decode(self.meta.stages, self._encoded(stored, chunk), decoded)
            return
        require_size(chunk.length, decoded.size, "found")
        require_size(stored.fill(chunk.offset, decoded), decoded.size, "found")

    def _encoded(self, stored: OpenObject, chunk: StoredChunk) -> Bytes:
        """Return the stored bytes of a chunk."""
        limit = self.meta.stored_bound
        if chunk.length > limit:
            raise Damaged(f"it has {chunk.length} bytes, at most {limit} are expected")
        encoded = stored.take(chunk.offset, chunk.length, limit)
        require_size(encoded.size, chunk.length, "found")
        require_checksum(encoded, chunk.checksum)
        return encoded

    def _decode_by_zarr(self, document: str, encoded: Bytes) -> Array:
        """Return the values of a chunk whose codecs only zarr knows."""
        data = unpack(self.meta.stages, encoded, self.meta.chunk_bytes)
        try:
            values = decode_chunk(document, data)
        except Exception as error:  # codecs of other packages share no base class
            raise Damaged(f"zarr cannot decode it: {str(error)[:300]}") from error
        if values.dtype.kind in "TU" and self.meta.native.kind == "O":
            values = values.astype(object)
        if values.shape != self.meta.inner or values.dtype.name != self.meta.native.name:
            raise Damaged(f"it decodes to {values.dtype} of shape {values.shape}")
        return values


def stamp_of(version: str) -> int:
    """Return a number that differs for another version of a file."""
    return crc32c(version.encode())


def undefined_fill_error(path: str, name: str) -> MissingChunkError:
    """Return the error for absent chunks without a fill value."""
    return MissingChunkError(
        f"{path}: every chunk must be stored where fill_value is null, but {name} is absent; "
        "permissive=True reads absent chunks as 0"
    )


def extra_decoder_bytes(meta: ArrayMeta) -> int:
    """Return the memory of decoders besides a stored and a decoded chunk.

    Decoders that write to ``out`` take none, others hold a chunk in pieces and once more whole.
    zarr holds a decoded chunk, and each of its codecs a result.
    """
    xz = LZMA_BYTES if "lzma" in meta.stages else 0
    if meta.rest:
        return 4 * meta.chunk_bytes + xz
    if not meta.stages or meta.stages[0] == "crc32c" or meta.stages[0] in DIRECT:
        return 0
    return 2 * meta.chunk_bytes + xz


def read_index(stored: OpenObject, index: Index, path: str) -> np.ndarray:
    """Return offset and length of each inner chunk as uint64, in the shape of the grid and 2."""
    raw = stored.edge(index.nbytes, index.at_start)
    if raw.size != index.nbytes:
        size = raw.size if stored.size is None else stored.size
        raise TruncatedError(
            f"{path}: a shard must have an index of {index.nbytes} bytes, the file has {size}; "
            "copy the store again"
        )
    try:
        body = strip_checksum(raw) if index.checked else raw
    except Damaged as error:
        raise ChecksumError(
            f"{path}: the index of the shard is damaged: {error}; restore the file from its source"
        ) from error
    return np.ascontiguousarray(body).view(f"{index.order}u8").reshape(*index.per_shard, 2)

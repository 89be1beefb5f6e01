"""Chunks of a zarr array in its files: where each lies, whether it is there, and its values."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from lazyvol.errors import (
    ChecksumError,
    LazyvolError,
    MissingChunkError,
    StoreError,
    TruncatedError,
)
from lazyvol.io.buffers import Bytes, scratch
from lazyvol.io.safe_folder import Place, Stored
from lazyvol.io.zarr.codecs import DIRECT, Damaged, Short, checked, decode
from lazyvol.io.zarr.metadata import ArrayMeta, Index
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region

ABSENT = (1 << 64) - 1
#: chunks of one file that are fetched together from a place other than a folder
FETCHED_BYTES = 64 << 20
FETCHED_PIECES = 4096
#: dictionary of an xz stream at its usual preset
LZMA_BYTES = 9 << 20


@dataclass(frozen=True)
class Cut:
    """Part of one axis that lies in one chunk: in the chunk, and in the result."""

    index: int
    inside: slice
    place: slice
    whole: bool


@dataclass(frozen=True)
class Piece:
    """A stored chunk: its bytes in the file, the cuts to take from it, its place in the grid."""

    offset: int
    length: int
    cuts: tuple[Cut, ...]
    number: tuple[int, ...]


def cuts(span: slice, step: int, offset: int = 0) -> list[Cut]:
    """``span`` of an axis cut at multiples of ``step``; the result starts at ``offset``."""
    found = []
    for index in range(span.start // step, -(-span.stop // step) if span.stop > span.start else 0):
        start, stop = max(span.start, index * step), min(span.stop, (index + 1) * step)
        inside = slice(start - index * step, stop - index * step)
        place = slice(start - span.start + offset, stop - span.start + offset)
        found.append(Cut(index, inside, place, stop - start == step))
    return found


def part(out: Array, chunk: Sequence[Cut]) -> Array:
    """View of the part of the result that comes from one chunk."""
    places: tuple[Any, ...] = (*(cut.place for cut in chunk), ...)
    view: Array = out[places]
    return view


@dataclass(frozen=True)
class Reader:
    """Reads chunks of one array. ``fill_missing`` makes absent chunks legal, as ``option`` does."""

    place: Place
    key: str
    meta: ArrayMeta
    fill_missing: bool
    option: str = "permissive=True"

    def read(self, region: Region, out: Array) -> None:
        """Fill ``out``, which has the region's shape and the array's native dtype."""
        axes = [cuts(span, n) for span, n in zip(region, self.meta.files, strict=True)]
        for box in product(*axes):
            self._file(box, out)

    def _file(self, box: Sequence[Cut], out: Array) -> None:
        key = self.key + self.meta.key([cut.index for cut in box])
        path = self.place.path(key)
        stored = self.place.open(key, self._first())
        if stored is None:
            what = f"the file at {tuple(cut.index for cut in box)} of the grid"
            self._absent(what, path, part(out, box))
            return
        with stored:
            try:
                for batch in batches(self._pieces(stored, path, box, out)):
                    stored.fetch([(piece.offset, piece.length) for piece in batch])
                    for piece in batch:
                        self._chunk(stored, path, piece, out)
            except OSError as error:
                if isinstance(error, LazyvolError):
                    raise
                raise StoreError(
                    f"{path}: the operating system failed to read it: {error}; "
                    "check the disk and read again"
                ) from error

    def _first(self) -> tuple[str, int]:
        """Return the part of a file that is read before all else: all of it, or its index."""
        index = self.meta.index
        if index is None:
            return "all", self.meta.stored_bound if self.meta.stages else self.meta.chunk_bytes
        return "head" if index.at_start else "tail", index.nbytes

    def _pieces(self, stored: Stored, path: str, box: Sequence[Cut], out: Array) -> Iterator[Piece]:
        """Chunks in one file that are there; those that are absent are filled or refused."""
        size = stored.size
        index = self.meta.index
        if index is None:
            yield Piece(0, size or 0, tuple(box), tuple(cut.index for cut in box))
            return
        entries = entries_of(stored, index, path)
        for chunk in self._inner(box):
            offset, length = entries[tuple(cut.index for cut in chunk)].tolist()
            number = tuple(
                b.index * n + c.index for b, c, n in zip(box, chunk, index.per_shard, strict=True)
            )
            if offset == length == ABSENT:
                self._absent(f"chunk {number}", path, part(out, chunk))
            elif size is not None and offset + length > size:
                raise TruncatedError(
                    f"{path}: chunk {number} must lie in the file's {size} bytes, its index "
                    f"gives {length} bytes at {offset}; copy the store again"
                )
            else:
                yield Piece(offset, length, chunk, number)

    def _inner(self, box: Sequence[Cut]) -> Iterator[tuple[Cut, ...]]:
        """Inner chunks of one shard that a box touches."""
        axes = [
            cuts(cut.inside, n, cut.place.start)
            for cut, n in zip(box, self.meta.inner, strict=True)
        ]
        yield from product(*axes)

    def _absent(self, what: str, path: str, target: Array) -> None:
        if not self.fill_missing:
            fill = 0 if self.meta.fill is None else self.meta.fill
            raise MissingChunkError(
                f"{path}: {what} is absent, and absent chunks are not legal here; restore it, or "
                f"read absent chunks as {fill} by {self.option}"
            )
        if self.meta.fill is None:
            raise undefined(path, what)
        target[...] = self.meta.fill

    def _chunk(self, stored: Stored, path: str, piece: Piece, out: Array) -> None:
        """Decode one chunk, and put the part that is asked for into ``out``."""
        target = part(out, piece.cuts)
        direct = self._direct(piece.cuts, target)
        size = self.meta.chunk_bytes
        whole = target.reshape(-1).view(np.uint8) if direct else scratch("decoded", size)
        try:
            self._decode(stored, piece, whole)
        except (Damaged, Short) as error:
            kind = TruncatedError if isinstance(error, Short) else ChecksumError
            raise kind(
                f"{path}: chunk {piece.number} ({piece.length} bytes at {piece.offset}) is "
                f"damaged: {error}; restore the file from its source"
            ) from error
        if not direct:
            target[...] = self._values(whole)[tuple(cut.inside for cut in piece.cuts)]

    def _direct(self, chunk: Sequence[Cut], target: Array) -> bool:
        return self.meta.plain and all(cut.whole for cut in chunk) and target.flags.c_contiguous

    def _decode(self, stored: Stored, piece: Piece, whole: Bytes) -> None:
        most = self.meta.stored_bound if self.meta.stages else whole.size
        if piece.length > most:
            raise Damaged(f"it has {piece.length} bytes, at most {most} are expected")
        if not self.meta.stages:
            _expect(stored.fill(piece.offset, whole), whole.size)
            return
        raw = stored.take(piece.offset, piece.length, most)
        _expect(raw.size, piece.length)
        decode(self.meta.stages, raw, whole)

    def _values(self, whole: Bytes) -> Array:
        """Decoded bytes as an array in the order of its axes."""
        meta = self.meta
        stored = whole.view(meta.dtype) if meta.native.kind != "b" else whole != 0
        values: Array = stored.reshape(meta.stored_shape).transpose(meta.back)
        return values


def undefined(path: str, what: str) -> MissingChunkError:
    """The error for chunks that are absent while nothing says which value they have."""
    return MissingChunkError(
        f"{path}: chunks must be there where fill_value is null, which leaves their values "
        f"undefined, but {what} is absent; permissive=True reads absent chunks as 0"
    )


def _expect(found: int, expected: int) -> None:
    if found != expected:
        raise Short(f"found {found} bytes, expected {expected}")


def batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Yield pieces of one file that are fetched together, in bounded memory."""
    batch: list[Piece] = []
    held = 0
    for piece in pieces:
        batch.append(piece)
        held += piece.length
        if held >= FETCHED_BYTES or len(batch) >= FETCHED_PIECES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def extra_decoder_bytes(meta: ArrayMeta) -> int:
    """Memory that decoders take beside a stored and a decoded chunk.

    Those that fill given memory take none; the others hold a chunk in pieces and once more whole,
    filters of v2 their result beside it (measured 2.0 and up to 2.4 chunks).
    """
    names = [stage.name for stage in meta.stages]
    xz = LZMA_BYTES if "lzma" in names else 0
    if "filter" in names:
        return (1 + min(len(names), 2)) * meta.chunk_bytes + xz
    if not names or names[0] == "crc32c" or names[0] in DIRECT:
        return 0
    return 2 * meta.chunk_bytes + xz


def entries_of(stored: Stored, index: Index, path: str) -> np.ndarray:
    """Offset and length of each inner chunk, uint64, shaped as the shard's grid and 2."""
    raw = stored.edge(index.nbytes, index.at_start)
    if raw.size != index.nbytes:
        size = raw.size if stored.size is None else stored.size
        raise TruncatedError(
            f"{path}: a shard must have an index of {index.nbytes} bytes, the file has {size}; "
            "copy the store again"
        )
    try:
        body = checked(raw) if index.checked else raw
    except Damaged as error:
        raise ChecksumError(
            f"{path}: the shard's index is damaged: {error}; restore the file from its source"
        ) from error
    return np.ascontiguousarray(body).view(f"{index.order}u8").reshape(*index.per_shard, 2)

"""Regions of a zarr array as a source of a stack."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lazyvol.errors import SourceChangedError
from lazyvol.io.safe_folder import Place
from lazyvol.io.zarr.chunks import FETCHED_BYTES, Reader, cuts, extra_decoder_bytes
from lazyvol.io.zarr.metadata import ArrayMeta
from lazyvol.io.zarr.nodes import Node
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size, touched

#: files whose age and size go into the token: all of a small array, a sample of a large one
SAMPLED = 64
#: state of decoders and allocator beside the buffers, measured 0.2 to 1.7 MiB
DECODER_BYTES = 2 << 20


@dataclass(eq=False)
class ZarrSource:
    """An array of a zarr store.

    ``place`` holds the store, and nothing is read outside of it; ``key`` is the array's folder in
    it. ``chunks`` is what is decoded at once, ``shards`` what one file holds.
    ``document`` is the array's metadata file and ``mark`` its identity when it was opened.
    ``fill_missing`` reads absent chunks as the fill value, else ``option`` is what would.
    """

    place: Place
    key: str
    meta: ArrayMeta
    token: str
    document: str
    mark: str
    fill_missing: bool = False
    option: str = "permissive=True"
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    shards: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.meta.shape
        self.dtype = self.meta.native
        self.chunks = _clipped(self.meta.inner, self.shape)
        self.shards = _clipped(self.meta.files, self.shape)

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given.

        Raises
        ------
        MissingChunkError
            A chunk is absent, and the store does not say that absent chunks are legal.
        ChecksumError, TruncatedError
            A chunk or the index of a shard is damaged.
        UnsafeSourceError
            A chunk lies outside the store.
        SourceChangedError
            The array's metadata are not those that were opened.
        """
        out = np.empty(lengths(region), self.dtype) if out is None else out
        reader = Reader(self.place.fresh(), self.key, self.meta, self.fill_missing, self.option)
        try:
            reader.read(region, out)
        finally:  # a store that was replaced is the error, whatever else it caused
            self.check()
        return out

    def check(self) -> None:
        """Refuse an array that was replaced or removed since it was opened.

        One system call of 1 us, after the values are read: a store that is replaced while it is
        read has other metadata by then.
        """
        found = self.place.identity(self.key + self.document)
        if found != self.mark:
            state = "was replaced or rewritten" if found else "is no longer there"
            raise SourceChangedError(
                f"{self.place.path(self.key + self.document)}: an array must stay what it was when "
                f"it was opened, this one {state}; open it again"
            )

    @property
    def paths(self) -> tuple[str, ...]:
        """Folder of the array."""
        return (self.place.path(self.key).rstrip("/"),)

    def stored_bytes(self, region: Region) -> int:
        """Decoded size of the touched inner chunks, an upper bound."""
        return touched(region, self.meta.inner) * self.dtype.itemsize

    def peak_bytes(self, region: Region) -> int:
        """Result, a chunk as stored and, unless decoded in place, one more as decoded.

        Measured at 262 MB of float32 noise, zstd: 0.94 to 1.0 of this for whole volumes,
        (8, 32, 32, 32) and 32^3, sharded or not, reading 1 or 8 volumes.
        """
        result = size(region) * self.dtype.itemsize
        if not result:
            return 0
        stored = self.meta.stored_bound if self.meta.stages else 0
        decoded = 0 if self._in_place(region) else self.meta.chunk_bytes
        booleans = self.meta.chunk_bytes if self.dtype.kind == "b" else 0
        index = self.meta.index.nbytes if self.meta.index else 0
        extra = extra_decoder_bytes(self.meta) + DECODER_BYTES + index
        return result + stored + decoded + booleans + extra + self._fetched()

    def _fetched(self) -> int:
        """Bytes of a file that are held at once, if it is fetched from elsewhere."""
        if self.place.reads_in_place:
            return 0
        chunks = prod(self.meta.index.per_shard) if self.meta.index else 1
        return min(chunks * self.meta.stored_bound, FETCHED_BYTES + self.meta.stored_bound)

    def _in_place(self, region: Region) -> bool:
        """Whether every chunk of a region is whole and lies in one piece of the result."""
        if not self.meta.plain:
            return False
        axes = [cuts(span, n) for span, n in zip(region, self.meta.inner, strict=True)]
        counts = lengths(region)
        first = next((i for i, n in enumerate(self.meta.inner) if n > 1), len(counts))
        return all(cut.whole for axis in axes for cut in axis) and all(
            n == m for n, m in zip(self.meta.inner[first + 1 :], counts[first + 1 :], strict=True)
        )


def _clipped(chunks: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, min(c, n)) for c, n in zip(chunks, shape, strict=True))


def token(folder: Place, nodes: Iterable[Node], key: str, meta: ArrayMeta, legal: bool) -> str:
    """Name of the stored data: metadata, their age, and the age and size of files with chunks."""
    seen = blake2b(repr((folder.path(key), legal, meta.fill)).encode(), digest_size=16)
    for node in nodes:
        for raw, mark in zip(node.raw, node.marks, strict=True):
            seen.update(raw + mark.encode())
    for age in folder.ages([key + file for file in _sampled(meta)]):
        seen.update(age.encode())
    return f"zarr-{seen.hexdigest()}"


def _sampled(meta: ArrayMeta) -> Iterator[str]:
    """Names of files, evenly spread over the grid."""
    grid = [-(-n // c) for n, c in zip(meta.shape, meta.files, strict=True)]
    total = prod(grid)
    if total <= SAMPLED:
        yield from (meta.key(index) for index in product(*map(range, grid)))
        return
    for number in range(SAMPLED):
        yield meta.key(np.unravel_index(number * (total - 1) // (SAMPLED - 1), grid))  # type: ignore[arg-type]

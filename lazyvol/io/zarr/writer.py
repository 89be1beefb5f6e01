"""Write the shards of a store, and publish it with its manifests when all are written."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice, product
from typing import Any, BinaryIO

import numpy as np
from numcodecs import blosc

from lazyvol.errors import LabelError, MissingChunkError
from lazyvol.io.zarr import manifest
from lazyvol.io.zarr.codecs import append_checksum, crc32c
from lazyvol.io.zarr.local_run import Tail
from lazyvol.io.zarr.manifest import Manifest, Row
from lazyvol.io.zarr.pyramid import Factors, level_values
from lazyvol.io.zarr.remote_run import Run
from lazyvol.io.zarr.texts import encode_texts
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Grid, Region, count, lengths, uniform_chunks, whole

#: shards whose ends are read together
BATCH = 1024
#: bytes of the file of a scalar, at most
SCALAR_BYTES = 4096
CODEC = "lz4"
LEVEL = 5


@dataclass
class Target:
    """An array that is being written, its metadata already on disk. Small and picklable.

    ``chunks`` is the shape of an inner chunk, ``shards`` that of a file, the unit of writing, and
    ``grid`` has the shard lengths along each axis. ``levels`` are those of lower resolution, with
    their factors.
    """

    run: Run
    key: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    levels: "tuple[tuple[Target, Factors], ...]" = ()
    grid: Grid = field(init=False)

    def __post_init__(self) -> None:
        self.grid = tuple(
            uniform_chunks(n, s) for n, s in zip(self.shape, self.shards, strict=True)
        )

    def write(self, region: Region, block: Array) -> None:
        """Write the values of whole shards; writing them again has no effect.

        Raises
        ------
        LabelError
            The region ends inside a shard, or the block has another shape or dtype.
        StoreError
            The operating system refuses; the shard is not written.
        """
        self._check(region, block)
        self._write_levels(region, block)
        for index in self._shards_in(region):
            box = tuple(
                slice(i * n - s.start, min((i + 1) * n, s.stop) - s.start)
                for i, n, s in zip(index, self.shards, region, strict=True)
            )
            self._write_shard(index, block[box] if box else block)

    def _write_levels(self, region: Region, block: Array) -> None:
        """Write the shards of lower resolution before that of level 0, which stands for all."""
        values = level_values(block, [factors for _, factors in self.levels]) if self.levels else ()
        for (level, factors), reduced in zip(self.levels, values, strict=True):
            starts = (s.start // f for s, f in zip(region, factors, strict=True))
            spans = zip(starts, reduced.shape, strict=True)
            level.write(tuple(slice(start, start + n) for start, n in spans), reduced)

    def _shards_in(self, region: Region) -> Iterator[tuple[int, ...]]:
        """Yield the grid positions of the shards that overlap a region."""
        return product(
            *(
                range(s.start // n, -(-s.stop // n))
                for s, n in zip(region, self.shards, strict=True)
            )
        )

    def _check(self, region: Region, block: Array) -> None:
        """Raise LabelError if a block does not cover whole shards."""
        spans = zip(region, self.shards, self.shape, strict=True)
        cut = [
            axis for axis, (s, n, length) in enumerate(spans) if not _ends_at_shards(s, n, length)
        ]
        if cut:
            raise LabelError(
                f"{self.run.path}: a block must cover whole shards {self.shards} of the array "
                f"{self.shape}, got {_text(region)}, which does not along axes {cut}; write blocks "
                "that are multiples of shards"
            )
        if block.shape != lengths(region) or block.dtype != np.dtype(self.dtype):
            raise LabelError(
                f"{self.run.path}: the block for {_text(region)} must be {lengths(region)} of "
                f"{self.dtype}, got {block.shape} of {block.dtype}"
            )

    def _write_shard(self, index: Sequence[int], values: Array) -> None:
        key = self.file(index)
        seal = partial(manifest.encode_seal, self.run.token, key)
        self.run.put(key, partial(_encode_shard, values, self.chunks, self.shards, seal))

    def file(self, index: Sequence[int]) -> str:
        """Return the name of the shard at grid position ``index``, below the store."""
        return "/".join((f"{self.key}c", *(str(i) for i in index)))

    @property
    def per_shard(self) -> tuple[int, ...]:
        """Return the number of inner chunks of a shard along each axis."""
        return tuple(s // c for s, c in zip(self.shards, self.chunks, strict=True))

    def rows(self) -> Iterator[tuple[tuple[int, ...], Row | None]]:
        """Yield the grid position of every shard, and its row of the manifest from its seal.

        The row is None for a shard that is absent, cut, damaged at its end, of another plan, or in
        the place of another.
        """
        return self._rows_in(whole(self.shape))

    def _rows_in(self, region: Region) -> Iterator[tuple[tuple[int, ...], Row | None]]:
        every = self._shards_in(region)
        length = manifest.tail_bytes(self.per_shard) if self.shape else SCALAR_BYTES
        while indices := list(islice(every, BATCH)):
            keys = [self.file(index) for index in indices]
            tails = self.run.tails(keys, length)
            yield from zip(indices, map(self._row, keys, tails), strict=True)

    def _row(self, key: str, tail: Tail | None) -> Row | None:
        if tail is None:
            return None
        data, size = tail
        if not self.shape:
            return _scalar_row(data)
        row = manifest.sealed_row(data, self.run.token, key, self.per_shard)
        return row if row is not None and size in (None, row.length) else None

    def has(self, region: Region) -> bool:
        """Return True if the shards of a region are written, completely."""
        return all(row is not None for _, row in self._rows_in(region))

    def file_of(self, region: Region) -> str:
        """Return the path of the first shard of a region, for messages."""
        return f"{self.run.path}/{self.file(next(self._shards_in(region)))}"

    def missing(self) -> list[tuple[int, ...]]:
        """Return the grid positions of the shards that are not written yet, completely."""
        levels = [set(level.missing()) for level, _ in self.levels]
        absent = set().union(*levels)
        return [index for index, row in self.rows() if row is None or index in absent]

    def write_manifest(self, document: Callable[[str], bytes]) -> None:
        """Write the manifest; raise MissingChunkError if shards are missing.

        ``document`` returns the stored metadata of a node by its key.
        """
        parts = self.key.split("/")[:-1]
        keys = ["".join(f"{part}/" for part in parts[:n]) for n in range(len(parts), -1, -1)]
        documents = [document(key) for key in keys]
        head = Manifest(
            plan=self.run.token,
            grid=tuple(-(-n // s) for n, s in zip(self.shape, self.shards, strict=True)),
            chunks=self.per_shard,
            array=manifest.array_checksum(json.loads(documents[0])),
            documents=tuple(map(crc32c, documents)),
        )
        pages = manifest.encode(head, self._complete_rows())
        self.run.put(self.key + manifest.NAME, lambda file: file.writelines(pages))

    def _complete_rows(self) -> Iterator[Row]:
        missing = []
        for index, row in self.rows():
            if row is not None:
                yield row
            else:
                missing.append(index)
        if missing:
            raise MissingChunkError(
                f"{self.run.path}: all {count(self.grid)} shards must be written before it is "
                f"published, {len(missing)} are missing, the first is {self.file(missing[0])}"
            )


@dataclass(frozen=True)
class TargetGroup:
    """A store that is being written: its variables by name, "" for that of a single array.

    ``large_coords`` are coordinates that are still to be written, ``small_coords`` are written.
    """

    run: Run
    variables: Mapping[str, Target]
    large_coords: tuple[Target, ...] = ()
    small_coords: tuple[Target, ...] = ()

    def publish(self) -> None:
        """Write the manifests and give the store its final name.

        Raises
        ------
        MissingChunkError
            Shards are missing.
        TargetExistsError
            Something was stored under the final name meanwhile.
        """
        document = cache(self.run.document)  # that of a group belongs to several manifests
        variables = self.variables.values()
        levels = (level for target in variables for level, _ in target.levels)
        for array in (*self.large_coords, *self.small_coords, *levels, *variables):
            array.write_manifest(document)
        self.run.publish()


def blosc_configuration(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the configuration of the blosc codec in the metadata."""
    shuffle = "bitshuffle" if dtype.itemsize == 1 else "shuffle"
    return {
        "typesize": dtype.itemsize,
        "cname": CODEC,
        "clevel": LEVEL,
        "shuffle": shuffle,
        "blocksize": 0,
    }


def _ends_at_shards(span: slice, shard: int, length: int) -> bool:
    """Return True if a span of an axis starts and stops at shard boundaries."""
    inside = 0 <= span.start <= span.stop <= length
    return inside and not span.start % shard and (span.stop == length or not span.stop % shard)


def _text(region: Region) -> str:
    return "(" + ", ".join(f"{s.start}:{s.stop}" for s in region) + ")"


def _scalar_row(data: bytes) -> Row | None:
    """Return the row of the file of a scalar; None if it is damaged."""
    body, stored = data[:-4], data[-4:]
    if crc32c(body) != int.from_bytes(stored, "little"):
        return None
    return Row(len(data), np.frombuffer(stored, "<u4").reshape(()))


def _encode_shard(
    values: Array,
    chunks: Sequence[int],
    shards: Sequence[int],
    seal: Callable[[Array], bytes],
    file: BinaryIO,
) -> None:
    """Write inner chunks, seal and index of a shard; chunks beyond the array stay absent."""
    if not shards:
        file.write(_encode_chunk(values, ()))
        return
    per_shard = [s // c for s, c in zip(shards, chunks, strict=True)]
    entries = np.full((*per_shard, 2), np.iinfo("u8").max, "<u8")
    checksums = np.zeros(per_shard, "<u4")
    offset = 0
    counts = [-(-n // c) for n, c in zip(values.shape, chunks, strict=True)]
    for index in product(*map(range, counts)):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
        encoded = _encode_chunk(values[box], chunks)
        file.write(encoded)
        entries[index] = offset, len(encoded)
        checksums[index] = int.from_bytes(encoded[-4:], "little")
        offset += len(encoded)
    file.write(seal(checksums) + append_checksum(entries.tobytes()))


def _encode_chunk(values: Array, chunk: Sequence[int]) -> bytes:
    """Pad values with zeros to the shape of a chunk, compress them and append the checksum."""
    if values.dtype.kind in "UO":
        padded = np.full(chunk, "", object)
        box: tuple[Any, ...] = (..., *(slice(0, n) for n in values.shape))
        padded[box] = values
        encoded = np.frombuffer(encode_texts(padded), np.uint8)
        return _encode_chunk(encoded, encoded.shape)
    dtype = values.dtype.newbyteorder("<")
    if values.shape == tuple(chunk):
        padded = np.ascontiguousarray(values, dtype)
    else:
        padded = np.zeros(chunk, dtype)
        padded[tuple(slice(0, n) for n in values.shape)] = values
    shuffle = blosc.BITSHUFFLE if dtype.itemsize == 1 else blosc.SHUFFLE
    data: bytes = blosc.compress(padded, CODEC.encode(), LEVEL, shuffle, typesize=dtype.itemsize)
    return append_checksum(data)

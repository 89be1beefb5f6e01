"""Write the shards of a store, and rename it to its final name when all are written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, BinaryIO

import numpy as np
from numcodecs import blosc

from lazyvol.errors import LabelError, MissingChunkError, StoreError, TargetExistsError
from lazyvol.io.atomic import (
    atomic_file,
    make_folders,
    store_errors,
    sync_folder,
    temporary_name,
)
from lazyvol.io.safe_folder import SafeFolder
from lazyvol.io.zarr.codecs import crc32c
from lazyvol.io.zarr.remote_run import RemoteRun
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Grid, Region, count, lengths, uniform_chunks, whole

TEMPORARY_SUFFIX = ".lazyvol-tmp"
CODEC = "lz4"
LEVEL = 5


@dataclass(frozen=True)
class LocalRun:
    """A run that writes a store in a temporary folder. Small and picklable.

    ``token`` identifies the computation: ``resume`` continues an interrupted run only if it had
    this token.
    """

    path: str
    overwrite: bool = False
    token: str = ""
    resume: bool = False

    @property
    def temporary(self) -> str:
        """Return the folder next to the final name that holds an incomplete store."""
        return self.path + TEMPORARY_SUFFIX

    @property
    def store(self) -> str:
        """Return the incomplete store."""
        return f"{self.temporary}/store"

    @property
    def partial(self) -> str:
        """Return the folder of files that are not complete."""
        return f"{self.temporary}/partial"

    @property
    def former(self) -> str:
        """Return the place of the replaced store until the new one has its name."""
        return f"{self.temporary}/former"

    def start(self) -> None:
        """Make the folders; raise before anything is written if something must not be replaced."""
        if os.path.lexists(self.path):
            self._check_replaceable()
        if os.path.lexists(self.former):
            raise StoreError(
                f"{self.temporary}: a run was interrupted while it replaced {self.path}; the "
                f"former store is {self.former}: move it, then remove {self.temporary}"
            )
        if os.path.lexists(self.temporary) and not self._can_resume():
            if not self.overwrite:
                raise TargetExistsError(
                    f"{self.temporary}: another run is writing {self.path}, or was interrupted; if "
                    "none is running, continue it by resume=True, or pass overwrite=True"
                )
            self.discard()
        folders = ((self.temporary, 0o700), (self.store, 0o777), (self.partial, 0o777))
        with store_errors(self.temporary):
            for path, mode in folders:
                with suppress(FileExistsError):
                    os.mkdir(path, mode)
            with atomic_file(self._token_file, temporary_name(self.partial)) as file:
                file.write(self.token.encode())

    @property
    def _token_file(self) -> str:
        """Return the file with the token of the run that made the folder."""
        return f"{self.temporary}/plan"

    def _can_resume(self) -> bool:
        """Return True to continue a run; raise TargetExistsError if it computed another result."""
        if not self.resume:
            return False
        with store_errors(self.temporary):
            try:
                with open(self._token_file, encoding="utf-8") as file:
                    token = file.read(1024)
            except FileNotFoundError:  # interrupted before it wrote anything else
                token = self.token
        if token != self.token:
            raise TargetExistsError(
                f"{self.temporary}: resume=True needs the same operation, parameters, input and "
                f"versions; the interrupted run has plan {token!r}, this one {self.token!r}; "
                "remove the folder, or pass overwrite=True without resume"
            )
        return True

    def _check_replaceable(self) -> None:
        if not self.overwrite:
            raise TargetExistsError(
                f"{self.path}: something is stored here; choose another name, or pass "
                "overwrite=True to replace it"
            )
        marks = ("zarr.json", ".zgroup", ".zarray")
        if os.path.islink(self.path) or not any(os.path.isfile(f"{self.path}/{m}") for m in marks):
            raise TargetExistsError(
                f"{self.path}: overwrite=True replaces zarr stores only, this is not one; "
                "remove it, or choose another name"
            )

    def write_metadata(self, key: str, content: Mapping[str, Any]) -> None:
        """Write ``zarr.json`` of the node in folder ``key``, "" or with a trailing slash."""
        document = f"{self.store}/{key}zarr.json"
        with store_errors(self.path):
            make_folders(self.store, key.rstrip("/"))
            with atomic_file(document, temporary_name(self.partial)) as file:
                file.write(json.dumps(content, indent=2, allow_nan=False).encode())

    def metadata(self, key: str) -> Mapping[str, Any] | None:
        """Return the metadata of a node that an interrupted run wrote; None if it did not."""
        file = SafeFolder(os.path.realpath(self.store)).json(f"{key}zarr.json")
        return None if file is None else file.content

    def put(self, key: str, write: Callable[[BinaryIO], None]) -> None:
        """Write a file atomically."""
        with store_errors(self.path):
            make_folders(self.store, key.rpartition("/")[0])
            with atomic_file(f"{self.store}/{key}", temporary_name(self.partial)) as file:
                write(file)

    def stored(self, keys: Sequence[str]) -> list[bool]:
        """Return for each key whether a file is stored."""
        return [os.path.isfile(f"{self.store}/{key}") for key in keys]

    def publish(self) -> None:
        """Rename the store to its final name; then remove the store that it replaces."""
        with store_errors(self.path):
            sync_folder(self.store)
            if os.path.lexists(self.path):
                self._check_replaceable()
                os.rename(self.path, self.former)
            try:
                os.rename(self.store, self.path)
            except OSError:
                with suppress(OSError):
                    os.rename(self.former, self.path)
                raise
            sync_folder(os.path.dirname(self.path))
        self.discard()

    def discard(self) -> None:
        """Remove the temporary folder."""
        with store_errors(self.temporary):
            if os.path.isdir(self.temporary):
                shutil.rmtree(self.temporary)


@dataclass
class Target:
    """An array that is being written, its metadata already on disk. Small and picklable.

    ``chunks`` is the shape of an inner chunk, ``shards`` that of a file, the unit of writing, and
    ``grid`` has the shard lengths along each axis. ``large_coords`` are the coordinates that are
    stored as arrays. ``alone`` is false for an array of a data set.
    """

    run: LocalRun | RemoteRun
    key: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    alone: bool = True
    large_coords: "tuple[Target, ...]" = ()
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
        for index in self._shards_in(region):
            box = tuple(
                slice(i * n - s.start, min((i + 1) * n, s.stop) - s.start)
                for i, n, s in zip(index, self.shards, region, strict=True)
            )
            self._write_shard(index, block[box] if box else block)

    def has(self, region: Region) -> bool:
        """Return True if every shard in a region is written."""
        return all(self.run.stored([self.file(index) for index in self._shards_in(region)]))

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
        write = partial(_encode_shard, values=values, chunks=self.chunks, shards=self.shards)
        self.run.put(self.file(index), write)

    def file(self, index: Sequence[int]) -> str:
        """Return the name of the shard at grid position ``index``, below the store."""
        return "/".join((f"{self.key}c", *(str(i) for i in index)))

    def missing(self) -> list[tuple[int, ...]]:
        """Return the grid positions of the shards that are not written yet."""
        every = list(self._shards_in(whole(self.shape)))
        stored = self.run.stored([self.file(index) for index in every])
        return [index for index, is_stored in zip(every, stored, strict=True) if not is_stored]

    def publish(self) -> None:
        """Rename the store to its final name.

        Raises
        ------
        MissingChunkError
            Shards are missing.
        TargetExistsError
            Something was stored under the final name meanwhile.
        """
        if not self.alone:
            raise LabelError(f"{self.run.path}: {self.key} is published with its data set")
        check_complete(self)
        self.run.publish()

    def discard(self) -> None:
        """Remove the incomplete store."""
        self.run.discard()


@dataclass(frozen=True)
class TargetGroup:
    """A data set that is being written: its variables by name, and its large coordinates."""

    run: LocalRun | RemoteRun
    variables: Mapping[str, Target]
    large_coords: tuple[Target, ...] = ()

    def publish(self) -> None:
        """Rename the data set to its final name; as `Target.publish`."""
        for target in (*self.variables.values(), *self.large_coords):
            check_complete(target)
        self.run.publish()

    def discard(self) -> None:
        """Remove the incomplete data set."""
        self.run.discard()


def check_complete(target: Target) -> None:
    """Raise MissingChunkError if shards of a target or its coordinates are missing."""
    for coord in target.large_coords:
        check_complete(coord)
    missing = target.missing()
    if missing:
        total = count(target.grid)
        raise MissingChunkError(
            f"{target.run.path}: all {total} shards must be written before it is published, "
            f"{len(missing)} are missing, the first is {target.file(missing[0])}"
        )


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


def _encode_shard(
    file: BinaryIO, values: Array, chunks: Sequence[int], shards: Sequence[int]
) -> None:
    """Write the inner chunks of a shard and their index; chunks beyond the array stay absent."""
    if not shards:
        file.write(_encode_chunk(values, ()))
        return
    per_shard = [s // c for s, c in zip(shards, chunks, strict=True)]
    entries = np.full((*per_shard, 2), np.iinfo("u8").max, "<u8")
    offset = 0
    counts = [-(-n // c) for n, c in zip(values.shape, chunks, strict=True)]
    for index in product(*map(range, counts)):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
        encoded = _encode_chunk(values[box], chunks)
        file.write(encoded)
        entries[index] = offset, len(encoded)
        offset += len(encoded)
    raw = entries.tobytes()
    file.write(raw + crc32c(raw).to_bytes(4, "little"))


def _encode_chunk(values: Array, chunk: Sequence[int]) -> bytes:
    """Pad values with zeros to the shape of a chunk, compress them and append the checksum."""
    dtype = values.dtype.newbyteorder("<")
    if values.shape == tuple(chunk):
        padded = np.ascontiguousarray(values, dtype)
    else:
        padded = np.zeros(chunk, dtype)
        padded[tuple(slice(0, n) for n in values.shape)] = values
    shuffle = blosc.BITSHUFFLE if dtype.itemsize == 1 else blosc.SHUFFLE
    data: bytes = blosc.compress(padded, CODEC.encode(), LEVEL, shuffle, typesize=dtype.itemsize)
    return data + crc32c(data).to_bytes(4, "little")

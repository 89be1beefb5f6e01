"""A store that is being written: shards one by one, and its name when all are there."""

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
from lazyvol.io.atomic import make_folders, replacing, storing, sync_folder
from lazyvol.io.safe_folder import Confined
from lazyvol.io.zarr.codecs import crc32c
from lazyvol.io.zarr.remote_run import RemoteRun
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Grid, Region, count, lengths, uniform_chunks, whole

SUFFIX = ".lazyvol-tmp"
CODEC = "lz4"
LEVEL = 5


@dataclass(frozen=True)
class Place:
    """Where a store grows, and the name it gets. Small and picklable.

    ``token`` names what is being computed: a stopped run is gone on with, where ``resume`` asks
    for it, only if it was computing the same.
    """

    path: str
    overwrite: bool = False
    token: str = ""
    resume: bool = False

    @property
    def folder(self) -> str:
        """Folder beside the final name that holds everything until it is complete."""
        return self.path + SUFFIX

    @property
    def store(self) -> str:
        """The growing store."""
        return f"{self.folder}/store"

    @property
    def partial(self) -> str:
        """Files that have no name yet."""
        return f"{self.folder}/partial"

    @property
    def former(self) -> str:
        """Where the store that is replaced waits until the new one is in place."""
        return f"{self.folder}/former"

    def start(self) -> None:
        """Make the folders; refuse what would be replaced unasked before anything is written."""
        if os.path.lexists(self.path):
            self._check_replaceable()
        if os.path.lexists(self.former):
            raise StoreError(
                f"{self.folder}: a run was stopped while it replaced {self.path}; the former store "
                f"is {self.former}: move it where you want it, then remove {self.folder}"
            )
        if os.path.lexists(self.folder) and not self._left_by_same():
            if not self.overwrite:
                raise TargetExistsError(
                    f"{self.folder}: another run is writing {self.path}, or one was stopped; if "
                    "none is running, go on with it by resume=True, or pass overwrite=True"
                )
            self.discard()
        with storing(self.folder):
            for path, mode in ((self.folder, 0o700), (self.store, 0o777), (self.partial, 0o777)):
                with suppress(FileExistsError):
                    os.mkdir(path, mode)
            with replacing(self._plan, self.partial) as file:
                file.write(self.token.encode())

    @property
    def _plan(self) -> str:
        """File with the token of the run that made the folder."""
        return f"{self.folder}/plan"

    def _left_by_same(self) -> bool:
        """Whether a stopped run of the same computation left its folder; refuse another's."""
        if not self.resume:
            return False
        with storing(self.folder):
            try:
                with open(self._plan, encoding="utf-8") as file:
                    left = file.read(1024)
            except FileNotFoundError:  # stopped before it wrote anything else
                left = self.token
        if left != self.token:
            raise TargetExistsError(
                f"{self.folder}: resume goes on with the same operation, parameters, input and "
                f"versions; the stopped run has plan {left!r}, this one {self.token!r}; "
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
                f"{self.path}: overwrite=True replaces zarr stores only, and this is none; "
                "remove it, or choose another name"
            )

    def write(self, key: str, content: Mapping[str, Any]) -> None:
        """Write ``zarr.json`` of the node in folder ``key``, "" or with a trailing slash."""
        with storing(self.path):
            make_folders(self.store, key.rstrip("/"))
            with replacing(f"{self.store}/{key}zarr.json", self.partial) as file:
                file.write(json.dumps(content, indent=2, allow_nan=False).encode())

    def document(self, key: str) -> Mapping[str, Any] | None:
        """Return the document of a node that a stopped run has written; None where it has not."""
        found = Confined(os.path.realpath(self.store)).json(f"{key}zarr.json")
        return None if found is None else found.content

    def put(self, key: str, fill: Callable[[BinaryIO], None]) -> None:
        """Store the file that ``fill`` writes: all of it, or nothing."""
        with storing(self.path):
            make_folders(self.store, key.rpartition("/")[0])
            with replacing(f"{self.store}/{key}", self.partial) as file:
                fill(file)

    def has(self, key: str) -> bool:
        """Return True if a file is stored."""
        return os.path.isfile(f"{self.store}/{key}")

    def publish(self) -> None:
        """Give the store its name; the store that was there before goes once it is in place."""
        with storing(self.path):
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
        """Remove the folder and all in it."""
        with storing(self.folder):
            if os.path.isdir(self.folder):
                shutil.rmtree(self.folder)


@dataclass
class Target:
    """An array that is being written. Small and picklable: tasks anywhere may write into it.

    Its labels are on disk already. ``chunks`` is decoded at once, ``shards`` is what one file
    holds and the unit of writing, ``grid`` all of them as dask writes chunks. ``aside`` are the
    coordinates that are arrays of their own.
    """

    place: Place | RemoteRun
    key: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    alone: bool = True
    aside: "tuple[Target, ...]" = ()
    grid: Grid = field(init=False)

    def __post_init__(self) -> None:
        self.grid = tuple(
            uniform_chunks(n, s) for n, s in zip(self.shape, self.shards, strict=True)
        )

    def write(self, region: Region, block: Array) -> None:
        """Write the values of whole shards; writing them again changes nothing.

        Raises
        ------
        LabelError
            The region cuts a shard, or the block has another shape or dtype.
        StoreError
            The operating system refuses; the shard that failed is not there.
        """
        self._check(region, block)
        for index in self._touched(region):
            box = tuple(
                slice(i * n - s.start, min((i + 1) * n, s.stop) - s.start)
                for i, n, s in zip(index, self.shards, region, strict=True)
            )
            self._write_shard(index, block[box] if box else block)

    def has(self, region: Region) -> bool:
        """Whether every shard that a region touches is written."""
        return all(self._there(index) for index in self._touched(region))

    def _touched(self, region: Region) -> Iterator[tuple[int, ...]]:
        """Grid positions of the shards that share elements with a region."""
        return product(
            *(
                range(s.start // n, -(-s.stop // n))
                for s, n in zip(region, self.shards, strict=True)
            )
        )

    def _there(self, index: Sequence[int]) -> bool:
        return self.place.has(self.file(index))

    def _check(self, region: Region, block: Array) -> None:
        spans = zip(region, self.shards, self.shape, strict=True)
        cut = [axis for axis, (s, n, length) in enumerate(spans) if not _whole(s, n, length)]
        if cut:
            raise LabelError(
                f"{self.place.path}: a block must cover whole shards {self.shards} of the array "
                f"{self.shape}, got {_text(region)}, which does not along axes {cut}; write blocks "
                "that are multiples of shards"
            )
        if block.shape != lengths(region) or block.dtype != np.dtype(self.dtype):
            raise LabelError(
                f"{self.place.path}: the block for {_text(region)} must be {lengths(region)} of "
                f"{self.dtype}, got {block.shape} of {block.dtype}"
            )

    def _write_shard(self, index: Sequence[int], values: Array) -> None:
        fill = partial(_encode, values=values, chunks=self.chunks, shards=self.shards)
        self.place.put(self.file(index), fill)

    def file(self, index: Sequence[int]) -> str:
        """Name of the shard at grid position ``index``, below the store."""
        return "/".join((f"{self.key}c", *(str(i) for i in index)))

    def missing(self) -> list[tuple[int, ...]]:
        """Grid positions of the shards that are not written yet."""
        return [index for index in self._touched(whole(self.shape)) if not self._there(index)]

    def publish(self) -> None:
        """Give the store its final name.

        Raises
        ------
        MissingChunkError
            Shards are missing.
        TargetExistsError
            Something took the name meanwhile.
        """
        if not self.alone:
            raise LabelError(f"{self.place.path}: {self.key} is published with its data set")
        check_complete(self)
        self.place.publish()

    def discard(self) -> None:
        """Remove what was written; the final name was never there."""
        self.place.discard()


@dataclass(frozen=True)
class TargetGroup:
    """A data set that is being written: its variables by name."""

    place: Place | RemoteRun
    variables: Mapping[str, Target]
    aside: tuple[Target, ...] = ()

    def publish(self) -> None:
        """Give the data set its final name; as `Target.publish`."""
        for target in (*self.variables.values(), *self.aside):
            check_complete(target)
        self.place.publish()

    def discard(self) -> None:
        """Remove what was written; the final name was never there."""
        self.place.discard()


def check_complete(target: Target) -> None:
    """Refuse a target with missing shards."""
    for each in target.aside:
        check_complete(each)
    missing = target.missing()
    if missing:
        total = count(target.grid)
        raise MissingChunkError(
            f"{target.place.path}: all {total} shards must be written before it gets its name, "
            f"{len(missing)} are missing, the first is {target.file(missing[0])}"
        )


def packing(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Configuration of the blosc codec, as the metadata say it."""
    shuffle = "bitshuffle" if dtype.itemsize == 1 else "shuffle"
    return {
        "typesize": dtype.itemsize,
        "cname": CODEC,
        "clevel": LEVEL,
        "shuffle": shuffle,
        "blocksize": 0,
    }


def _whole(span: slice, shard: int, length: int) -> bool:
    """Whether a span of an axis begins and ends where shards do."""
    inside = 0 <= span.start <= span.stop <= length
    return inside and not span.start % shard and (span.stop == length or not span.stop % shard)


def _text(region: Region) -> str:
    return "(" + ", ".join(f"{s.start}:{s.stop}" for s in region) + ")"


def _encode(file: BinaryIO, values: Array, chunks: Sequence[int], shards: Sequence[int]) -> None:
    """Write the inner chunks of a shard and their index; those beyond the array stay absent."""
    if not shards:
        file.write(_packed(values, ()))
        return
    per_shard = [s // c for s, c in zip(shards, chunks, strict=True)]
    entries = np.full((*per_shard, 2), np.iinfo("u8").max, "<u8")
    offset = 0
    counts = [-(-n // c) for n, c in zip(values.shape, chunks, strict=True)]
    for index in product(*map(range, counts)):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
        packed = _packed(values[box], chunks)
        file.write(packed)
        entries[index] = offset, len(packed)
        offset += len(packed)
    raw = entries.tobytes()
    file.write(raw + crc32c(raw).to_bytes(4, "little"))


def _packed(values: Array, chunk: Sequence[int]) -> bytes:
    """One inner chunk, filled up with zeros to its shape, as it is stored."""
    dtype = values.dtype.newbyteorder("<")
    if values.shape == tuple(chunk):
        whole = np.ascontiguousarray(values, dtype)
    else:
        whole = np.zeros(chunk, dtype)
        whole[tuple(slice(0, n) for n in values.shape)] = values
    shuffle = blosc.BITSHUFFLE if dtype.itemsize == 1 else blosc.SHUFFLE
    data: bytes = blosc.compress(whole, CODEC.encode(), LEVEL, shuffle, typesize=dtype.itemsize)
    return data + crc32c(data).to_bytes(4, "little")

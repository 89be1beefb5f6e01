"""Read regions of an uncompressed array in a file with few large reads."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from io import FileIO
from itertools import product
from math import prod
from stat import S_ISREG
from typing import Any

import numpy as np

from lazyvol.errors import (
    FormatError,
    SourceChangedError,
    TruncatedError,
)
from lazyvol.io.faults import Repairs, read_error, read_errors
from lazyvol.io.region_source import RegionSource
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size, starts

#: cost of one more read in bytes: 1.7 us for a cached file, in which 12 KiB are copied; a network
#: file system takes longer
SEEK_BYTES = 12 << 10
#: the largest buffer for rows that are read together with the gaps between them; it stays in the
#: cache of a core
SPAN_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """A regular file with its stamp when it was probed."""

    path: str
    stamp: str

    @property
    def size(self) -> int:
        """Size in bytes when the file was probed."""
        return int(self.stamp.partition(" ")[0])

    def open(self) -> FileIO:
        """Open the file unbuffered; raise SourceChangedError if it changed since the probe."""
        try:
            handle = FileIO(self.path, "rb")
        except OSError as error:
            raise read_error(self.path, error) from error
        try:
            self._compare(os.fstat(handle.fileno()))
        except SourceChangedError:
            handle.close()
            raise
        return handle

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Raise SourceChangedError if the file changes inside the context.

        This error replaces errors that the change caused. It takes one system call, 1 us.
        """
        try:
            yield
        finally:
            self.check()

    def check(self) -> None:
        """Raise SourceChangedError if the file changed since the probe."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise read_error(self.path, error) from error
        self._compare(status)

    def _compare(self, status: os.stat_result) -> None:
        if file_stamp(status) != self.stamp:
            raise SourceChangedError(
                f"{self.path}: a file must not change while it is in use; it had {self.size} bytes "
                f"when it was opened and has {status.st_size} now, or was rewritten; open it again"
            )

    def head(self, count: int) -> bytes:
        """Return the first ``count`` bytes, fewer if the file is shorter."""
        with read_errors(self.path), self.open() as handle:
            return handle.read(count)


def stored_file(path: str | os.PathLike[str]) -> StoredFile:
    """Return size and modification time of a regular file without reading it."""
    name = os.fspath(path)
    try:
        info = os.stat(name)
    except (OSError, ValueError) as error:
        raise read_error(name, error) from error
    if not S_ISREG(info.st_mode):
        raise FormatError(f"{name}: readers need a regular file, this is a folder, pipe or device")
    return StoredFile(os.path.abspath(name), file_stamp(info))


def file_stamp(info: os.stat_result) -> str:
    """Return size, modification time and inode, which differ for a rewritten file."""
    return f"{info.st_size} {info.st_mtime_ns} {info.st_ino}"


def stored_region(region: Region, order: Sequence[int]) -> Region:
    """Reorder a region of an opened array, whose axis ``i`` is stored axis ``order[i]``."""
    return tuple(region[order.index(axis)] for axis in range(len(order)))


@dataclass(frozen=True)
class Layout:
    """Layout of an array in a file: ``shape`` in C order, starting at byte ``offset``.

    ``dtype`` is the stored dtype with its byte order. Axis ``i`` of the opened array is stored
    axis ``order[i]``. A chunk has one index along each of the first ``split_axes`` stored axes,
    but at least a whole plane.
    """

    offset: int
    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    split_axes: int = 1

    @property
    def nbytes(self) -> int:
        """Return the bytes of the array."""
        return prod(self.shape) * self.itemsize

    @property
    def itemsize(self) -> int:
        """Return the bytes of one element."""
        return np.dtype(self.dtype).itemsize

    @property
    def native(self) -> np.dtype[Any]:
        """Return the dtype of the opened array, in native byte order."""
        return np.dtype(self.dtype).newbyteorder("=")

    @property
    def transposed(self) -> bool:
        """Return True if the axes are opened in another order than they are stored in."""
        return self.order != tuple(range(len(self.order)))

    def opened_order(self, values: Sequence[int]) -> tuple[int, ...]:
        """Reorder values per stored axis to the order of the opened array."""
        return tuple(values[axis] for axis in self.order)

    def stored_region(self, region: Region) -> Region:
        """Reorder a region of the opened array to the stored axes."""
        return stored_region(region, self.order)

    def chunks(self) -> tuple[int, ...]:
        """Return the preferred chunk: a single index of the leading axes, at least a plane."""
        split = min(self.split_axes, max(0, len(self.shape) - 2))
        return self.opened_order((1,) * split + self.shape[split:])


@dataclass(frozen=True)
class ReadPlan:
    """The reads of a box: spans of up to ``span`` bytes.

    A span holds ``group`` indices of axis ``depth``, and one of each axis before it. ``exact`` is
    true if it has no gaps.
    """

    depth: int
    group: int
    span: int
    reads: int
    exact: bool

    @property
    def cost(self) -> int:
        """Return the cost in bytes: a read costs `SEEK_BYTES` more, twice that if it has gaps."""
        return self.reads * (self.span + SEEK_BYTES * (1 if self.exact else 2))


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the elements from one index to the next along each axis of a C-order array."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def plan_reads(shape: Sequence[int], counts: Sequence[int], itemsize: int) -> ReadPlan:
    """Return the cheapest plan for a box of ``counts`` elements from a C-order array."""
    steps = strides(shape)

    def option(depth: int) -> ReadPlan:
        exact = tuple(counts[depth + 1 :]) == tuple(shape[depth + 1 :])
        deeper = zip(counts[depth + 1 :], steps[depth + 1 :], strict=True)
        inner = 1 + sum((n - 1) * s for n, s in deeper)
        fitting = 1 + max(0, SPAN_BYTES // itemsize - inner) // steps[depth]
        group = counts[depth] if exact else min(counts[depth], fitting)
        span = ((group - 1) * steps[depth] + inner) * itemsize
        return ReadPlan(
            depth, group, span, prod(counts[:depth]) * -(-counts[depth] // group), exact
        )

    # of equal options the deepest, which has the fewest gaps
    options = [option(depth) for depth in reversed(range(len(shape)))]
    return min((o for o in options if o.exact or o.span <= SPAN_BYTES), key=lambda o: o.cost)


def read_available(handle: FileIO, position: int, target: memoryview) -> int:
    """Fill ``target`` from byte ``position`` on; return the bytes that were read."""
    handle.seek(position)
    done = 0
    while done < len(target) and (count := handle.readinto(target[done:])):
        done += count
    return done


def read_exactly(handle: FileIO, position: int, target: memoryview, path: str) -> None:
    """Fill ``target`` from byte ``position`` on; raise TruncatedError if too few follow."""
    done = read_available(handle, position, target)
    if done < len(target):
        raise TruncatedError(
            f"{path}: expected {len(target)} bytes at offset {position}, found {done}; "
            "the file was cut after it was opened"
        )


def read_box(handle: FileIO, layout: Layout, region: Region, out: Array, path: str) -> None:
    """Fill ``out`` with a box of a stored array, in stored axis and byte order."""
    counts = lengths(region)
    plan = plan_reads(layout.shape, counts, layout.itemsize)
    steps = [step * layout.itemsize for step in strides(layout.shape)]
    first = layout.offset + sum(s * n for s, n in zip(starts(region), steps, strict=True))
    outer = zip(counts[: plan.depth], steps, strict=False)
    offsets = product(*(range(0, n * step, step) for n, step in outer))
    positions = (first + sum(offset) for offset in offsets)
    if plan.exact:
        target = out.reshape(-1).view(np.uint8).data
        for start, position in zip(range(0, out.nbytes, plan.span), positions, strict=True):
            read_exactly(handle, position, target[start : start + plan.span], path)
        return
    span = np.empty(plan.span, np.uint8)
    box = (plan.group, *counts[plan.depth + 1 :])
    rows = np.lib.stride_tricks.as_strided(span.view(layout.dtype), box, steps[plan.depth :])
    for part, position in zip(out.reshape(-1, *counts[plan.depth :]), positions, strict=True):
        for start in range(0, counts[plan.depth], plan.group):
            target = part[start : start + plan.group]
            surplus = (plan.group - len(target)) * steps[plan.depth]
            read_exactly(
                handle,
                position + start * steps[plan.depth],
                span.data[: plan.span - surplus],
                path,
            )
            target[...] = rows[: len(target)]


def token(file: StoredFile, *facts: object) -> str:
    """Return a hash of path, stamp and other facts."""
    content = repr((file.path, file.stamp, facts))
    return blake2b(content.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


@dataclass(eq=False)
class FileSource(RegionSource):
    """An array in a file."""

    file: StoredFile

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the file."""
        return (self.file.path,)


@dataclass(eq=False)
class FlatFileSource(FileSource):
    """An uncompressed array in a file; a region takes few reads."""

    layout: Layout

    def __post_init__(self) -> None:
        self.shape = self.layout.opened_order(self.layout.shape)
        self.dtype = self.layout.native
        self.chunks = self.layout.chunks()
        self.token = token(self.file, self.layout)

    def __reduce__(self) -> tuple[type["FlatFileSource"], tuple[StoredFile, Layout]]:
        """Pickle file and layout only: a stack holds thousands of sources."""
        return FlatFileSource, (self.file, self.layout)

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        box = self.layout.stored_region(region)
        values = np.empty(lengths(box), self.dtype) if self.layout.transposed else out
        raw = values.view(self.layout.dtype)
        path = self.file.path
        with read_errors(path), self.file.open() as handle, self.file.unchanged():
            read_box(handle, self.layout, box, raw, path)
        if not raw.dtype.isnative:
            raw.byteswap(inplace=True)
        if values is not out:
            out[...] = values.transpose(self.layout.order)

    def stored_bytes(self, region: Region) -> int:
        """Return the bytes that are read, including the gaps between the rows of a box."""
        plan = self._plan(region)
        return plan.reads * plan.span if plan else 0

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the result, of a transposed copy and of the buffer for gaps."""
        plan = self._plan(region)
        if plan is None:
            return 0
        result = size(region) * self.layout.itemsize
        return result * (2 if self.layout.transposed else 1) + (0 if plan.exact else plan.span)

    def _plan(self, region: Region) -> ReadPlan | None:
        if size(region) == 0:
            return None
        counts = lengths(self.layout.stored_region(region))
        return plan_reads(self.layout.shape, counts, self.layout.itemsize)


def check_dtype(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """Return the dtype; raise FormatError if it is not a real number of at most 8 bytes."""
    if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise FormatError(
            f"{where}: data must be real numbers, the file holds {dtype}; "
            "convert it to an integer or float type first"
        )
    return dtype


def check_extent(file: StoredFile, layout: Layout, repairs: Repairs) -> None:
    """Raise TruncatedError if the array exceeds the file; refuse bytes after it."""
    end = layout.offset + layout.nbytes
    if end > file.size:
        raise TruncatedError(
            f"{file.path}: the header promises {end} bytes (data at offset {layout.offset}, stored "
            f"shape {layout.shape}, {layout.dtype}), the file has {file.size}; copy it again"
        )
    if end < file.size:
        problem = f"the header promises {end} bytes, the file has {file.size}"
        repairs.assume(problem, "ignoring the bytes after the data")

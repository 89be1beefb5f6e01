"""Boxes of raw bytes: any region of a plain array in a file, in a few large reads."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from io import FileIO
from itertools import product
from math import prod
from stat import S_ISREG
from typing import Any

import numpy as np

from lazyvol.errors import (
    FormatError,
    LazyvolError,
    SourceChangedError,
    SourceNotFoundError,
    StoreError,
    TruncatedError,
)
from lazyvol.io.repairs import Repairs
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size, starts

#: one more read of a cached file costs 2 us and 3 us of loop, the time of 32 KiB at 6 GB/s;
#: a network file system pays more for a request
SEEK_BYTES = 64 << 10
#: a box with gaps is read whole and picked from a buffer no larger than this
SPAN_BYTES = 8 << 20


@dataclass(frozen=True)
class StoredFile:
    """A regular file as it was when it was probed."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    def open(self) -> FileIO:
        """Handle of the file, unbuffered; refused when the file changed since the probe."""
        try:
            handle = FileIO(self.path, "rb")
        except OSError as error:
            raise unreadable(self.path, error) from error
        try:
            self._compare(os.fstat(handle.fileno()))
        except SourceChangedError:
            handle.close()
            raise
        return handle

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Context in which the opened file is read: refused when it changed meanwhile.

        A change while it was read is the error, whatever else it caused. One system call, 1 us.
        """
        try:
            yield
        finally:
            self.check()

    def check(self) -> None:
        """Refuse a file that changed since the probe."""
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise unreadable(self.path, error) from error
        self._compare(now)

    def _compare(self, now: os.stat_result) -> None:
        if (now.st_size, now.st_mtime_ns, now.st_ino) != (self.size, self.mtime_ns, self.inode):
            raise SourceChangedError(
                f"{self.path}: a file must not change while it is in use; it had {self.size} bytes "
                f"when it was opened and has {now.st_size} now, or was rewritten; open it again"
            )

    def head(self, count: int) -> bytes:
        """First ``count`` bytes, fewer where the file is shorter."""
        try:
            with self.open() as handle:
                return handle.read(count)
        except OSError as error:
            raise unreadable(self.path, error) from error


def stored_file(path: str | os.PathLike[str]) -> StoredFile:
    """Size and age of a regular file, nothing of it read."""
    name = os.fspath(path)
    try:
        info = os.stat(name)
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error
    if not S_ISREG(info.st_mode):
        raise FormatError(f"{name}: readers need a regular file, this is a folder, pipe or device")
    return StoredFile(os.path.abspath(name), info.st_size, info.st_mtime_ns, info.st_ino)


def unreadable(path: str, error: Exception) -> Exception:
    """What to raise when the operating system refuses ``path``; errors of the tree pass."""
    if isinstance(error, LazyvolError):
        return error
    if isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError)):
        return SourceNotFoundError(f"{path}: no such file; check the path")
    return StoreError(f"{path}: the operating system refused to read it: {error}")


@dataclass(frozen=True)
class Layout:
    """Where an array lies: ``shape`` in C order from byte ``offset`` on.

    ``dtype`` is the stored one with its byte order. Axis ``i`` of the array that is handed over
    is stored axis ``order[i]``. The first ``lead`` stored axes are cut into single indices when
    the array is cut, but a plane stays whole.
    """

    offset: int
    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    lead: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return prod(self.shape) * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.dtype).itemsize

    @property
    def native(self) -> np.dtype[Any]:
        """Dtype of the array that is handed over."""
        return np.dtype(self.dtype).newbyteorder("=")

    @property
    def moved(self) -> bool:
        """Whether the axes change their order."""
        return self.order != tuple(range(len(self.order)))

    def presented(self, values: Sequence[int]) -> tuple[int, ...]:
        """One value per stored axis, in the order of the array that is handed over."""
        return tuple(values[axis] for axis in self.order)

    def stored(self, region: Region) -> Region:
        """Region of the array that is handed over, in stored axes."""
        return tuple(region[self.order.index(axis)] for axis in range(len(self.order)))

    def chunks(self) -> tuple[int, ...]:
        """Unit of a raw file: all but the leading axes, at least a plane."""
        lead = min(self.lead, max(0, len(self.shape) - 2))
        return self.presented((1,) * lead + self.shape[lead:])


@dataclass(frozen=True)
class Gather:
    """How to read a box: ``reads`` spans of ``span`` bytes, one per index of ``depth`` axes."""

    depth: int
    span: int
    reads: int
    exact: bool

    @property
    def cost(self) -> int:
        """Price in bytes, a read counted as `SEEK_BYTES`."""
        return self.reads * (self.span + SEEK_BYTES)


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements from one index to the next along each axis of a C-order array."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def gather(shape: Sequence[int], counts: Sequence[int], itemsize: int) -> Gather:
    """Cheapest way to read a box of ``counts`` out of a C-order array of ``shape``."""
    steps = strides(shape)

    def option(depth: int) -> Gather:
        span = 1 + sum((n - 1) * s for n, s in zip(counts[depth:], steps[depth:], strict=True))
        exact = tuple(counts[depth + 1 :]) == tuple(shape[depth + 1 :])
        return Gather(depth, span * itemsize, prod(counts[:depth]), exact)

    options = [option(depth) for depth in range(len(shape))]
    return min((o for o in options if o.exact or o.span <= SPAN_BYTES), key=lambda o: o.cost)


def fill(handle: FileIO, position: int, view: Array, path: str) -> None:
    """Fill a contiguous array from ``position`` on, or raise `TruncatedError`."""
    target = view.reshape(-1).view(np.uint8).data
    handle.seek(position)
    done = 0
    while done < len(target):
        got = handle.readinto(target[done:])
        if not got:
            raise TruncatedError(
                f"{path}: expected {len(target)} bytes at offset {position}, found {done}; "
                "the file was cut after it was opened"
            )
        done += got


def read_box(handle: FileIO, layout: Layout, region: Region, out: Array, path: str) -> None:
    """Fill ``out`` with a box of a stored array, in stored axes and byte order."""
    counts, steps = lengths(region), strides(layout.shape)
    plan = gather(layout.shape, counts, layout.itemsize)
    span, picked = (None, None) if plan.exact else bounce(layout, counts, plan)
    corner = sum(s * n for s, n in zip(starts(region), steps, strict=True))
    for index in product(*(range(n) for n in counts[: plan.depth])):
        at = corner + sum(i * s for i, s in zip(index, steps, strict=False))
        target = out[index] if span is None else span
        fill(handle, layout.offset + at * layout.itemsize, target, path)
        if picked is not None:
            out[index] = picked


def bounce(layout: Layout, counts: Sequence[int], plan: Gather) -> tuple[Array, Array]:
    """Buffer for one span of a box with gaps, and the view that picks the box out of it."""
    span = np.empty(plan.span // layout.itemsize, layout.dtype)
    gaps = [s * layout.itemsize for s in strides(layout.shape)[plan.depth :]]
    return span, np.lib.stride_tricks.as_strided(span, counts[plan.depth :], gaps)


def token(file: StoredFile, *facts: object) -> str:
    """Name of stored data: another path, age, size or layout gives another."""
    words = repr((file.path, file.mtime_ns, file.size, file.inode, facts))
    return blake2b(words.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


@dataclass(eq=False)
class RawSource:
    """Array stored as plain bytes; a region costs a few reads and the bytes between its ends."""

    file: StoredFile
    layout: Layout
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.layout.presented(self.layout.shape)
        self.dtype = self.layout.native
        self.chunks = self.layout.chunks()
        self.token = token(self.file, self.layout)

    def __reduce__(self) -> tuple[type["RawSource"], tuple[StoredFile, Layout]]:
        """Pickled without what follows from the rest: stacks hold thousands of these."""
        return RawSource, (self.file, self.layout)

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        if not out.size:
            return out
        box = self.layout.stored(region)
        direct = out if not self.layout.moved else np.empty(lengths(box), self.dtype)
        raw = direct.view(self.layout.dtype)
        try:
            with self.file.open() as handle, self.file.unchanged():
                read_box(handle, self.layout, box, raw, self.file.path)
        except OSError as error:
            raise unreadable(self.file.path, error) from error
        if not raw.dtype.isnative:
            raw.byteswap(inplace=True)
        if direct is not out:
            out[...] = direct.transpose(self.layout.order)
        return out

    @property
    def paths(self) -> tuple[str, ...]:
        """The file."""
        return (self.file.path,)

    def stored_bytes(self, region: Region) -> int:
        """Bytes read, the gaps between the rows of a narrow box included."""
        plan = self._plan(region)
        return plan.reads * plan.span if plan else 0

    def peak_bytes(self, region: Region) -> int:
        """Result, once more where axes move, and the buffer of a box with gaps."""
        plan = self._plan(region)
        if plan is None:
            return 0
        result = size(region) * self.layout.itemsize
        return result * (2 if self.layout.moved else 1) + (0 if plan.exact else plan.span)

    def _plan(self, region: Region) -> Gather | None:
        if size(region) == 0:
            return None
        counts = lengths(self.layout.stored(region))
        return gather(self.layout.shape, counts, self.layout.itemsize)


def check_dtype(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """The dtype, if it is a plain real number of at most 8 bytes."""
    if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise FormatError(
            f"{where}: data must be plain real numbers, the file holds {dtype}; "
            "convert it to an integer or float type first"
        )
    return dtype


def check_extent(file: StoredFile, layout: Layout, repairs: Repairs) -> None:
    """Refuse an array that the file is too small for, or bytes after it, unless permissive."""
    end = layout.offset + layout.nbytes
    if end > file.size:
        raise TruncatedError(
            f"{file.path}: the header promises {end} bytes (data at offset {layout.offset}, stored "
            f"shape {layout.shape}, {layout.dtype}), the file has {file.size}; copy it again"
        )
    if end < file.size:
        problem = f"the header promises {end} bytes, the file has {file.size}"
        repairs.need(problem, "ignoring what is after the data")

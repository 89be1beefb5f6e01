"""Arrays in gzip or bzip2 files, decoded whole and no further than their header promises."""

import bz2
import gzip
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import PurePath
from threading import Lock

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded, TruncatedError
from lazyvol.io.faults import Repairs, library_errors
from lazyvol.io.flat_file import (
    FileSource,
    FlatFileSource,
    Layout,
    StoredFile,
    check_extent,
    token,
)
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, size

#: largest ratio of decoded to stored bytes: bzip2 makes 45,899,235 bytes from a block of 39
MAX_RATIOS = {"gzip": 1032, "bzip2": 1_176_904}
#: every process decodes a file whole, so larger ones must be unpacked first
MAX_BYTES = 8 << 30
#: decoded arrays that a process keeps, so that slices do not decode again
CACHE_BYTES = 256 << 20
READ_BYTES = 1 << 20

#: including the method byte, so that no MRC file of a plausible width looks compressed
MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2"}
SUFFIXES = {".gz": "gzip", ".bz2": "bzip2"}


def codec_of(head: bytes) -> str | None:
    """Return the codec of a file that starts with ``head``; None if it is not compressed."""
    return next((codec for magic, codec in MAGIC.items() if head.startswith(magic)), None)


def unpacked_name(path: str) -> tuple[str, str]:
    """Return stem and lower-case suffix of a file name, without ``.gz`` or ``.bz2``."""
    name = PurePath(path)
    if name.suffix.lower() in SUFFIXES:
        name = name.with_suffix("")
    return name.stem, name.suffix.lower()


@contextmanager
def stream(file: StoredFile, codec: str) -> Iterator[BufferedIOBase]:
    """Open the decoded bytes of a file; turn decoding errors into lazyvol errors."""
    with (
        library_errors(
            file.path, f"not a valid {codec} stream", lambda error: isinstance(error, EOFError)
        ),
        file.open() as raw,
        file.unchanged(),
        gzip.GzipFile(fileobj=raw) if codec == "gzip" else bz2.BZ2File(raw) as decoded,
    ):
        yield decoded


def decoded_head(file: StoredFile, count: int) -> tuple[str | None, bytes]:
    """Return the codec of a file, and its first ``count`` decoded bytes, fewer if it is shorter."""
    first = file.head(count)
    codec = codec_of(first)
    if codec is None:
        return None, first
    with stream(file, codec) as decoded:
        return codec, decoded.read(count)


def check_promised_size(file: StoredFile, codec: str, count: int) -> None:
    """Raise if a header promises more bytes than the stream can decode to, or than is allowed."""
    if count > MAX_RATIOS[codec] * file.size:
        raise TruncatedError(
            f"{file.path}: the header promises {count} bytes, {file.size} bytes of {codec} cannot "
            "hold them; copy it again"
        )
    if count > MAX_BYTES:
        raise LimitExceeded(
            f"{file.path}: a compressed file is decoded whole and may hold {MAX_BYTES} bytes, this "
            f"one holds {count}; unpack it first"
        )


class DecodedCache:
    """Decoded arrays by token, at most ``limit`` bytes; a token is loaded by one thread only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[str, Array] = OrderedDict()
        self._loading: dict[str, Lock] = {}
        self._lock = Lock()

    def get(self, key: str, load: Callable[[], Array]) -> Array:
        """Return the array of ``key``; load it if it is not held."""
        with self._lock:
            loading = self._loading.setdefault(key, Lock())
        with loading:
            array = self._lookup(key)
            return self._store(key, load()) if array is None else array

    def _lookup(self, key: str) -> Array | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def _store(self, key: str, array: Array) -> Array:
        """Hold an array and drop the oldest ones beyond the limit."""
        with self._lock:
            self._held[key] = array
            self._held.move_to_end(key, last=array.nbytes <= self.limit)
            while sum(a.nbytes for a in self._held.values()) > self.limit:
                oldest, _ = self._held.popitem(last=False)
                self._loading.pop(oldest, None)
        return array


CACHE = DecodedCache(CACHE_BYTES)


@dataclass(eq=False)
class CompressedSource(FileSource):
    """Array in a compressed file: reading any region decodes the whole file, once per process.

    A process keeps up to `CACHE_BYTES` of decoded arrays; a larger array is decoded again for
    every region. Bytes after the array are refused, unless ``allow_trailing`` is true.
    """

    codec: str
    layout: Layout
    allow_trailing: bool = False

    def __post_init__(self) -> None:
        check_promised_size(self.file, self.codec, self.layout.offset + self.layout.nbytes)
        self.shape = self.layout.opened_order(self.layout.shape)
        self.dtype = self.layout.native
        self.chunks = self.shape
        self.token = token(self.file, self.codec, self.layout, self.allow_trailing)

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        self.file.check()  # the cache may hold the values of a file that changed since
        whole = CACHE.get(self.token, self._decoded)
        out[...] = whole.transpose(self.layout.order)[region]

    def stored_bytes(self, region: Region) -> int:
        """Return the bytes of the whole compressed file."""
        return self.file.size if size(region) else 0

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the decoded array and of the result."""
        return self.layout.nbytes + size(region) * self.layout.itemsize

    def _decoded(self) -> Array:
        """Decode the whole array in stored order, as a read-only array."""
        out = np.empty(self.layout.shape, self.layout.dtype)
        with stream(self.file, self.codec) as decoded:
            start = decoded.seek(self.layout.offset)
            if start < self.layout.offset:
                raise short_stream_error(self.file.path, self.layout.offset, start)
            read_into(decoded, out, self.file.path)
            if decoded.read(1) and not self.allow_trailing:
                raise FormatError(
                    f"{self.file.path}: the header promises {self.layout.offset + out.nbytes} "
                    "bytes, the stream goes on after them; permissive=True ignores the rest"
                )
        out.flags.writeable = False
        return out


def array_source(
    file: StoredFile, codec: str | None, layout: Layout, repairs: Repairs
) -> FlatFileSource | CompressedSource:
    """Return the source of the array of a file, which must be as long as its header promises."""
    if codec:
        return CompressedSource(file, codec, layout, allow_trailing=repairs.permissive)
    check_extent(file, layout, repairs)
    return FlatFileSource(file, layout)


def read_into(decoded: BufferedIOBase, out: Array, path: str) -> None:
    """Fill a contiguous array from a stream."""
    target = out.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(target):
        read = decoded.readinto(target[done : done + READ_BYTES])
        if not read:
            raise short_stream_error(path, len(target), done)
        done += read


def short_stream_error(path: str, expected: int, decoded: int) -> TruncatedError:
    """Return the error for a stream that is shorter than its header promises."""
    return TruncatedError(
        f"{path}: expected {expected} decoded bytes, found {decoded}; copy the file again"
    )

"""Arrays in gzip or bzip2 files: decoded whole, within the size the header promises."""

import bz2
import gzip
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedIOBase, FileIO
from pathlib import PurePath
from threading import Lock
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LazyvolError, LimitExceeded, TruncatedError
from lazyvol.io.flat_file import Layout, StoredFile, token, unreadable
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size

#: a stream can grow by this at most: deflate 1032, bzip2 45,899,235 bytes from a block of 39
RATIOS = {"gzip": 1032, "bzip2": 1_176_904}
#: every process decodes such a file whole, so larger ones have to be unpacked first
MAX_BYTES = 8 << 30
#: decoded arrays that a process keeps, so that slicing does not decode again and again
CACHE_BYTES = 256 << 20
SKIP_BYTES = 1 << 20

#: with the method byte, so that no MRC file of a plausible width looks packed
MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2"}
SUFFIXES = {".gz": "gzip", ".bz2": "bzip2"}


def codec_of(head: bytes) -> str | None:
    """Codec of a file that starts with ``head``."""
    return next((codec for magic, codec in MAGIC.items() if head.startswith(magic)), None)


def plain_name(path: str) -> tuple[str, str]:
    """Stem and lower-case suffix of a file name, those of the packed file where it is packed."""
    name = PurePath(path)
    if name.suffix.lower() in SUFFIXES:
        name = name.with_suffix("")
    return name.stem, name.suffix.lower()


@contextmanager
def stream(file: StoredFile, codec: str) -> Iterator[BufferedIOBase]:
    """Decoded bytes of a file; every failure to decode is an error of the tree."""
    try:
        with file.open() as raw, file.unchanged(), open_codec(raw, codec) as decoded:
            yield decoded
    except LazyvolError:
        raise
    except EOFError as error:
        raise TruncatedError(f"{file.path}: the {codec} stream is cut; copy it again") from error
    except (zlib.error, ValueError) as error:
        raise FormatError(f"{file.path}: not a sound {codec} stream: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise unreadable(file.path, error) from error
        raise FormatError(f"{file.path}: not a sound {codec} stream: {error}") from error


def open_codec(raw: FileIO, codec: str) -> BufferedIOBase:
    """Decoder on an open file."""
    return gzip.GzipFile(fileobj=raw) if codec == "gzip" else bz2.BZ2File(raw)


def head(file: StoredFile, codec: str, count: int) -> bytes:
    """First ``count`` decoded bytes, fewer where there are fewer."""
    with stream(file, codec) as decoded:
        return decoded.read(count)


def check_promise(file: StoredFile, codec: str, count: int) -> None:
    """Refuse a header that promises more bytes than the stream can hold or a process should."""
    if count > RATIOS[codec] * file.size:
        raise TruncatedError(
            f"{file.path}: the header promises {count} bytes, {file.size} bytes of {codec} cannot "
            "hold them; copy it again"
        )
    if count > MAX_BYTES:
        raise LimitExceeded(
            f"{file.path}: a packed file is decoded whole, so it may hold {MAX_BYTES} bytes; this "
            f"one holds {count}; unpack it first"
        )


class DecodedCache:
    """Arrays by token, the oldest dropped beyond ``limit`` bytes; one decoding per token."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[str, Array] = OrderedDict()
        self._busy: dict[str, Lock] = {}
        self._lock = Lock()

    def get(self, key: str, load: Callable[[], Array]) -> Array:
        """The array of ``key``, loaded if it is not held."""
        with self._lock:
            busy = self._busy.setdefault(key, Lock())
        with busy:
            found = self._found(key)
            return self._kept(key, load()) if found is None else found

    def _found(self, key: str) -> Array | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def _kept(self, key: str, array: Array) -> Array:
        with self._lock:
            self._held[key] = array
            self._held.move_to_end(key, last=array.nbytes <= self.limit)
            while sum(a.nbytes for a in self._held.values()) > self.limit:
                gone, _ = self._held.popitem(last=False)
                self._busy.pop(gone, None)
        return array


CACHE = DecodedCache(CACHE_BYTES)


@dataclass(eq=False)
class CompressedSource:
    """Array inside a packed file: reading any region decodes all of it, once per process.

    A process keeps up to `CACHE_BYTES` of decoded arrays; an array beyond that is decoded again
    for every region, so read it whole or unpack the file. Bytes after the array are refused,
    unless ``surplus`` is true.
    """

    file: StoredFile
    codec: str
    layout: Layout
    surplus: bool = False
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        check_promise(self.file, self.codec, self.layout.offset + self.layout.nbytes)
        self.shape = self.layout.presented(self.layout.shape)
        self.dtype = self.layout.native
        self.chunks = self.shape
        self.token = token(self.file, self.codec, self.layout, self.surplus)

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        if out.size:
            self.file.check()  # what the cache holds is of the file as it was
            whole = CACHE.get(self.token, self._decoded)
            out[...] = whole.transpose(self.layout.order)[region]
        return out

    @property
    def paths(self) -> tuple[str, ...]:
        """The file."""
        return (self.file.path,)

    def stored_bytes(self, region: Region) -> int:
        """All of the packed file."""
        return self.file.size if size(region) else 0

    def peak_bytes(self, region: Region) -> int:
        """The decoded array and the result."""
        return self.layout.nbytes + size(region) * self.layout.itemsize

    def _decoded(self) -> Array:
        """The whole array as it is stored, not to be written to."""
        out = np.empty(self.layout.shape, self.layout.dtype)
        with stream(self.file, self.codec) as decoded:
            skip(decoded, self.layout.offset, self.file.path)
            pour(decoded, out, self.file.path)
            if decoded.read(1) and not self.surplus:
                raise FormatError(
                    f"{self.file.path}: the header promises {self.layout.offset + out.nbytes} "
                    "bytes, the stream goes on after them; permissive=True ignores the rest"
                )
        out.flags.writeable = False
        return out


def skip(decoded: BufferedIOBase, count: int, path: str) -> None:
    """Read ``count`` bytes and forget them."""
    left = count
    while left:
        got = len(decoded.read(min(left, SKIP_BYTES)))
        if not got:
            raise ended(path, count, count - left)
        left -= got


def pour(decoded: BufferedIOBase, out: Array, path: str) -> None:
    """Fill a contiguous array from a stream."""
    target = out.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(target):
        got = decoded.readinto(target[done : done + SKIP_BYTES])
        if not got:
            raise ended(path, len(target), done)
        done += got


def ended(path: str, expected: int, found: int) -> TruncatedError:
    """The error for a stream that is shorter than its header says."""
    return TruncatedError(
        f"{path}: expected {expected} decoded bytes, found {found}; copy the file again"
    )

"""Pages of a TIFF file: found by their offsets, decoded within their declared size."""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lazyvol.errors import (
    FormatError,
    LazyvolError,
    LimitExceeded,
    MissingChunkError,
    TruncatedError,
    UnsafeSourceError,
)
from lazyvol.io.flat_file import StoredFile, strides, token, unreadable
from lazyvol.io.optional import library
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size

NONE, DEFLATE = 1, (8, 32946)
CODECS = {NONE: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "packbits", 32946: "deflate"}
ZSTD = {50000: "zstd", 34926: "zstd"}
#: a page may grow by this when it is decoded: deflate reaches 1032, LZW 1365
MAX_RATIO = 1400
#: a tile may be larger than its page by this factor, or up to this size
SEGMENT_PAGES, SEGMENT_BYTES = 4, 16 << 20
#: files of these kinds keep planes where the page chain does not tell
FOREIGN = ("stk", "ndpi", "eer", "lsm")
#: kinds that tifffile would read by rules of their own, at times from other files
OWN_RULES = (
    *("ome", "mmstack", "ndtiff", "fluoview", "sis", "svs", "scn", "qpi", "bif", "avs"),
    *("philips", "scanimage", "nih", "mdgel"),
)

_complaints: ContextVar[list[str] | None] = ContextVar("complaints", default=None)


def collect(record: logging.LogRecord) -> bool:
    """Keep what tifffile logs for the reader that runs, so that damage becomes an error."""
    kept = _complaints.get()
    if kept is not None and record.levelno >= logging.ERROR:
        kept.append(record.getMessage())
    return kept is None


@contextmanager
def opened(file: StoredFile) -> Iterator[tuple[Any, list[str]]]:
    """The file as tifffile sees it, and what tifffile finds wrong with it."""
    tifffile = library("tifffile", file.path, "pip install tifffile")
    logging.getLogger("tifffile").addFilter(collect)
    kept: list[str] = []
    mark = _complaints.set(kept)
    try:
        file.open().close()
        flags = dict.fromkeys((f"is_{kind}" for kind in OWN_RULES), False)
        with file.unchanged(), tifffile.TiffFile(file.path, _multifile=False, **flags) as tif:
            yield tif, kept
    except LazyvolError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise unreadable(file.path, error) from error
        raise FormatError(f"{file.path}: tifffile cannot read it: {error}") from error
    except Exception as error:  # damaged tags raise whatever the line that meets them raises
        raise FormatError(f"{file.path}: tifffile cannot read it: {error!r:.200}") from error
    finally:
        _complaints.reset(mark)


def check_codec(page: Any, where: str) -> None:
    """Refuse a compression that is not allowed or that is not installed."""
    code = int(page.compression)
    allowed = {**CODECS, **ZSTD}
    if code not in allowed:
        raise UnsafeSourceError(
            f"{where}: TIFF compression {code} is not allowed, only "
            f"{', '.join(sorted(set(allowed.values())))}; save the file with deflate"
        )
    if code not in (NONE, *DEFLATE):
        tifffile = library("tifffile", where, "pip install tifffile")
        try:
            tifffile.TIFF.DECOMPRESSORS[code]
        except KeyError as error:
            raise FormatError(
                f"{where}: {allowed[code]} compression needs imagecodecs; pip install imagecodecs"
            ) from error


def check_page(page: Any, file: StoredFile, number: int) -> int:
    """Stored bytes of a page, its segments being in the file, complete, and not a bomb."""
    stored = check_segments(page, file, number)
    where = f"{file.path}: TIFF page {number}"
    if page.nbytes > MAX_RATIO * stored:
        raise LimitExceeded(
            f"{where} declares {page.nbytes} bytes for {stored} stored, over {MAX_RATIO} to 1"
        )
    if segment_bytes(page) > max(SEGMENT_BYTES, SEGMENT_PAGES * page.nbytes):
        raise LimitExceeded(
            f"{where} of {page.nbytes} bytes declares tiles of {segment_bytes(page)} bytes"
        )
    if page.compression == NONE and stored * 8 < page.size * page.bitspersample:
        raise TruncatedError(f"{where} needs {page.nbytes} bytes, {stored} are stored")
    return stored


def segment_bytes(page: Any) -> int:
    """Decoded bytes of a strip or tile; tiles may stick out of their page."""
    return int(prod(page.chunks) * page.dtype.itemsize)


def check_segments(page: Any, file: StoredFile, number: int) -> int:
    """Stored bytes of the segments of a page, all of them in the file."""
    where = f"{file.path}: TIFF page {number}"
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = prod(page.chunked)
    if not len(offsets) == len(counts) == expected:
        raise FormatError(
            f"{where} needs {expected} segments, found {len(offsets)} offsets, {len(counts)} sizes"
        )
    if not all(offsets) or not all(counts):
        raise MissingChunkError(f"{where}: a segment has no data; save the file again")
    end = max(o + n for o, n in zip(offsets, counts, strict=True))
    if end > file.size:
        raise TruncatedError(f"{where} ends at byte {end}, the file has {file.size}; copy it again")
    return int(sum(counts))


def decoded(page: Any, file: StoredFile) -> Array:
    """Page in its own shape; deflate is inflated here, to no more than a segment can hold."""
    if page.compression not in DEFLATE:
        return np.asarray(page.asarray(maxworkers=1))
    page.compression = NONE
    out = np.empty(page.shaped, page.dtype)
    handle = page.parent.filehandle
    segments = zip(page.dataoffsets, page.databytecounts, strict=True)
    for index, (offset, count) in enumerate(segments):
        handle.seek(offset)
        box = page.decode(None, index)[2]
        data = inflated(handle.read(count), prod(box) * page.dtype.itemsize, file.path)
        segment, (s, d, h, w, _), _ = page.decode(data, index)
        room = out[s, d : d + box[0], h : h + box[1], w : w + box[2]]
        room[...] = segment[: room.shape[0], : room.shape[1], : room.shape[2]]
    return out.reshape(page.shape)


def inflated(data: bytes, limit: int, where: str) -> bytes:
    """Inflated segment, cut at the bytes it is declared to hold."""
    try:
        return zlib.decompressobj().decompress(data, limit)
    except zlib.error as error:
        raise FormatError(f"{where}: a TIFF segment is no sound deflate stream: {error}") from error


@dataclass(eq=False)
class PagedSource:
    """Array whose planes are TIFF pages; a page is decoded whole, pages not asked for are not.

    Stored axes are ``lead``, one page each in C order, then those of a page. Axis ``i`` that is
    handed over is stored axis ``order[i]``. ``page_bytes`` and ``segment_bytes`` are the stored
    size of the first page and the decoded size of its largest strip or tile.
    """

    file: StoredFile
    pages: tuple[int, ...]
    lead: tuple[int, ...]
    page_shape: tuple[int, ...]
    page_dtype: str
    page_bytes: int
    segment_bytes: int
    order: tuple[int, ...]
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        stored = self.lead + self.page_shape
        unit = (1,) * len(self.lead) + self.page_shape
        self.shape = tuple(stored[axis] for axis in self.order)
        self.chunks = tuple(unit[axis] for axis in self.order)
        self.dtype = np.dtype(self.page_dtype)
        self.token = token(self.file, stored, self.page_dtype, self.order)

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        if out.size:
            axes = [self.order.index(axis) for axis in range(len(self.order))]
            self._fill(out.transpose(axes), self._stored(region))
        return out

    @property
    def paths(self) -> tuple[str, ...]:
        """The file."""
        return (self.file.path,)

    def stored_bytes(self, region: Region) -> int:
        """Touched pages at the stored size of the first."""
        touched = prod(lengths(self._stored(region))[: len(self.lead)])
        return touched * self.page_bytes if size(region) else 0

    def peak_bytes(self, region: Region) -> int:
        """Result, and a page: stored, decoded, and a segment being decoded."""
        page = prod(self.page_shape) * self.dtype.itemsize
        result = size(region) * self.dtype.itemsize
        return result + self.page_bytes + page + 2 * self.segment_bytes

    def _stored(self, region: Region) -> Region:
        return tuple(region[self.order.index(axis)] for axis in range(len(self.order)))

    def _fill(self, out: Array, box: Region) -> None:
        lead = box[: len(self.lead)]
        steps = strides(self.lead)
        with opened(self.file) as (tif, _):
            for place in product(*(range(s.start, s.stop) for s in lead)):
                number = sum(i * s for i, s in zip(place, steps, strict=True))
                index = tuple(i - s.start for i, s in zip(place, lead, strict=True))
                out[index] = self._page(tif, number)[box[len(self.lead) :]]

    def _page(self, tif: Any, number: int) -> Array:
        """Decoded page, refused where it is not like the first."""
        tifffile = library("tifffile", self.file.path, "pip install tifffile")
        tif.filehandle.seek(self.pages[number])
        page = tifffile.TiffPage(tif, index=number)
        if page.shape != self.page_shape or page.dtype != self.dtype:
            raise FormatError(
                f"{self.file.path}: TIFF page {number} should be {self.page_shape} "
                f"{self.dtype}, found {page.shape} {page.dtype}; split the file"
            )
        check_codec(page, self.file.path)
        check_page(page, self.file, number)
        return decoded(page, self.file)

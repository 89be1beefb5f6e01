"""Decode the pages of a TIFF file, no further than their declared size."""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lazyvol.errors import (
    FormatError,
    LimitExceeded,
    MissingChunkError,
    TruncatedError,
    UnsafeSourceError,
)
from lazyvol.io.faults import library, library_errors
from lazyvol.io.flat_file import StoredFile, strides
from lazyvol.io.grid import GridSource, Part
from lazyvol.io.tiff.streams import check_jpeg, check_lzw
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region

NONE, LZW, JPEG, DEFLATE = 1, 5, 7, (8, 32946)
CODECS = {
    **{NONE: "none", LZW: "LZW", JPEG: "JPEG", 8: "deflate", 32773: "packbits", 32946: "deflate"},
    **{34926: "zstd", 50000: "zstd"},
}
#: largest ratio of decoded to stored bytes: deflate reaches 1032, LZW 1365
MAX_RATIO = 1400
#: a tile may be larger than its page by this factor, or have up to this many bytes
SEGMENT_PAGES, SEGMENT_BYTES = 4, 16 << 20
#: vendor files whose planes are not their pages
UNSUPPORTED = ("stk", "ndpi", "eer", "lsm")
#: kinds that tifffile reads by special rules, some of them from other files
SPECIAL_KINDS = (
    *("ome", "mmstack", "ndtiff", "fluoview", "sis", "svs", "scn", "qpi", "bif", "avs"),
    *("philips", "scanimage", "nih", "mdgel"),
)

_complaints: ContextVar[list[str] | None] = ContextVar("complaints", default=None)


def collect_errors(record: logging.LogRecord) -> bool:
    """Collect the errors that tifffile logs while a reader runs, as a filter of its logger."""
    messages = _complaints.get()
    if messages is not None and record.levelno >= logging.ERROR:
        messages.append(record.getMessage())
    return messages is None


@contextmanager
def open_tiff(file: StoredFile) -> Iterator[tuple[Any, list[str]]]:
    """Open a file with tifffile; yield it and the list of the errors that tifffile logs."""
    tifffile = library("tifffile", file.path, "pip install tifffile")
    logging.getLogger("tifffile").addFilter(collect_errors)
    messages: list[str] = []
    reset_token = _complaints.set(messages)
    flags = dict.fromkeys((f"is_{kind}" for kind in SPECIAL_KINDS), False)
    try:
        with (
            library_errors(file.path, "tifffile cannot read it"),
            file.unchanged(),
            tifffile.TiffFile(file.path, _multifile=False, **flags) as tif,
        ):
            yield tif, messages
    finally:
        _complaints.reset(reset_token)


def check_codec(page: Any, where: str) -> None:
    """Raise if the compression is not allowed or its codec is not installed."""
    code, predictor = int(page.compression), int(page.predictor)
    if code not in CODECS:
        raise UnsafeSourceError(
            f"{where}: TIFF compression {code} is not allowed, only "
            f"{', '.join(sorted(set(CODECS.values())))}; save the file with deflate"
        )
    tifffile = library("tifffile", where, "pip install tifffile")
    try:
        if code not in DEFLATE:  # which is decoded here
            tifffile.TIFF.DECOMPRESSORS[code]
        tifffile.TIFF.UNPREDICTORS[predictor]
    except KeyError as error:
        raise FormatError(
            f"{where}: {CODECS[code]} compression with predictor {predictor} needs imagecodecs; "
            'pip install "lazyvol[formats]"'
        ) from error


def check_page(page: Any, file: StoredFile, number: int) -> int:
    """Return the stored bytes of a page; raise if its data are missing or its size is false."""
    stored = check_segments(page, file, number)
    where = f"{file.path}: TIFF page {number}"
    if page.nbytes > MAX_RATIO * stored:
        raise LimitExceeded(
            f"{where} may decode to {MAX_RATIO} times its {stored} bytes, it declares {page.nbytes}"
        )
    if segment_bytes(page) > most_segment_bytes(page):
        raise LimitExceeded(
            f"{where} of {page.nbytes} bytes must have smaller tiles, it declares tiles of "
            f"{segment_bytes(page)} bytes"
        )
    if page.compression == NONE and stored * 8 < page.size * page.bitspersample:
        raise TruncatedError(
            f"{where} must have {page.nbytes} bytes, found {stored}; copy it again"
        )
    return stored


def segment_bytes(page: Any) -> int:
    """Return the decoded bytes of a strip or tile; tiles may be larger than their page."""
    return int(prod(page.chunks) * page.dtype.itemsize)


def most_segment_bytes(page: Any) -> int:
    """Return the bytes that a strip or tile may decode to."""
    return int(max(SEGMENT_BYTES, SEGMENT_PAGES * page.nbytes))


def check_segments(page: Any, file: StoredFile, number: int) -> int:
    """Return the stored bytes of the segments of a page; raise if one is not in the file."""
    where = f"{file.path}: TIFF page {number}"
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = prod(page.chunked)
    if not len(offsets) == len(counts) == expected:
        raise FormatError(
            f"{where} must have {expected} segments, found {len(offsets)} offsets and "
            f"{len(counts)} sizes"
        )
    if not all(offsets) or not all(counts):
        raise MissingChunkError(f"{where}: a segment has no data; save the file again")
    end = max(o + n for o, n in zip(offsets, counts, strict=True))
    if end > file.size:
        raise TruncatedError(f"{where} ends at byte {end}, the file has {file.size}; copy it again")
    return int(sum(counts))


def decode_page(page: Any, file: StoredFile) -> Array:
    """Return the values of a page; each segment is read once.

    Deflate is decoded here, with a limit on its size; LZW and JPEG are checked before.
    """
    compression = page.compression
    if compression not in (*DEFLATE, LZW, JPEG):
        return np.asarray(page.asarray(maxworkers=1))
    if compression in DEFLATE:
        page.compression = NONE
    out = np.empty(page.shaped, page.dtype)
    handle = page.parent.filehandle
    segments = zip(page.dataoffsets, page.databytecounts, strict=True)
    for index, (offset, count) in enumerate(segments):
        handle.seek(offset)
        data = handle.read(count)
        box = page.decode(None, index)[2]
        if compression in DEFLATE:
            data = inflate(data, prod(box) * page.dtype.itemsize, file.path)
        else:
            check_stream(data, page, file.path)
        segment, (s, d, h, w, _), _ = page.decode(data, index, jpegtables=page.jpegtables)
        view = out[s, d : d + box[0], h : h + box[1], w : w + box[2]]
        view[...] = segment[: view.shape[0], : view.shape[1], : view.shape[2]]
    return out.reshape(page.shape)


def check_stream(data: bytes, page: Any, where: str) -> None:
    """Raise if the decoder of LZW or JPEG could not bear a segment of a page."""
    if page.fillorder == 2:  # the bits of each byte are reversed
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        data = np.packbits(bits).tobytes()
    if page.compression == LZW:
        check_lzw(data, where)
    else:
        check_jpeg(data, most_segment_bytes(page), where)


def inflate(data: bytes, limit: int, where: str) -> bytes:
    """Decode a deflate segment, at most to its declared size."""
    with library_errors(where, "a TIFF segment must be a valid deflate stream, but"):
        return zlib.decompressobj().decompress(data, limit)


@dataclass(eq=False, kw_only=True)
class PagedSource(GridSource):
    """Array whose planes are TIFF pages, at the offsets ``pages``; each is decoded whole."""

    pages: tuple[int, ...]

    def read_parts(self, parts: Iterator[Part], box: Region) -> None:
        """Decode the pages, and copy ``box`` of each to the memory that comes with it."""
        steps = strides(self.grid)
        with open_tiff(self.file) as (tif, _):
            for position, target in parts:
                number = sum(i * s for i, s in zip(position, steps, strict=True))
                target[...] = self._read_page(tif, number)[box]

    def _read_page(self, tif: Any, number: int) -> Array:
        """Decode a page; raise FormatError if it differs from the first."""
        tifffile = library("tifffile", self.file.path, "pip install tifffile")
        tif.filehandle.seek(self.pages[number])
        page = tifffile.TiffPage(tif, index=number)
        if page.shape != self.part_shape or page.dtype != self.dtype:
            raise FormatError(
                f"{self.file.path}: TIFF page {number} must be {self.part_shape} "
                f"{self.dtype}, found {page.shape} {page.dtype}; split the file"
            )
        check_codec(page, self.file.path)
        check_page(page, self.file, number)
        return decode_page(page, self.file)


def paged_source(
    file: StoredFile,
    tif: Any,
    pages: tuple[int, ...],
    grid: tuple[int, ...],
    order: tuple[int, ...],
) -> PagedSource:
    """Return the source of pages that are equal to the first."""
    page = tif.pages.first
    stored = check_page(page, file, 0)
    return PagedSource(
        file=file,
        grid=grid,
        part_shape=page.shape,
        part_chunks=page.shape,
        part_dtype=np.dtype(page.dtype).str,
        order=order,
        part_bytes=stored,
        scratch=stored + int(page.nbytes) + 2 * segment_bytes(page),
        pages=pages,
    )

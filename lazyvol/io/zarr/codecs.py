"""Decode stored chunks to exactly the number of bytes that the metadata promise.

The codecs are those of numcodecs and of the standard library. They accept a frame that is too
short for the memory that they fill, and decode streams to any size, so sizes are checked before
decoding, and streams are stopped at a limit. zarr decodes what is not listed here (`adapter`).
"""

import bz2
import lzma
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc, lz4, zstd

Bytes = npt.NDArray[np.uint8]

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: memory that an xz stream may use: its strongest preset takes 65 MiB
LZMA_MEMORY = 128 << 20
#: between two stages a chunk may be this many times longer, as filters change the dtype
MAX_GROWTH = 16
#: each reading thread keeps buffers up to this size: new memory costs more than decoding (32^3 in
#: shards, 2 threads: 1.0 GB/s, without kept buffers 0.8)
KEPT_BYTES = 64 << 20

_kept = threading.local()


def scratch(name: str, size: int) -> Bytes:
    """Return a buffer of this thread; the next call with this name reuses it."""
    if size > KEPT_BYTES:
        return np.empty(size, np.uint8)
    buffer: Bytes | None = getattr(_kept, name, None)
    if buffer is None or buffer.size < size:
        setattr(_kept, name, None)
        buffer = np.empty(size, np.uint8)
        setattr(_kept, name, buffer)
    return buffer[:size]


class Damaged(Exception):
    """Stored bytes do not decode, or their checksum differs."""


class Short(Exception):
    """Stored bytes end early, or decode to fewer bytes than promised."""


class Decoder(Protocol):
    """Decodes one stage into ``out``, or, if it is None, returns at most ``limit`` bytes."""

    def __call__(self, data: Bytes, out: Bytes | None, limit: int) -> Any:
        """Return the decoded bytes, ``out`` itself if it was filled."""


def decode(stages: Sequence[str], data: Bytes, out: Bytes) -> None:
    """Fill ``out`` with the decoded bytes of ``data``; stages are in the order of encoding.

    Raises
    ------
    Damaged, Short
        The bytes are not those that the stages wrote.
    """
    if stages:
        data = unpack(stages[1:], data, out.size)
        data = _decode_stage(stages[0], data, out, out.size)
    if data is not out:
        require_size(data.size, out.size, "it decodes to")
        out[...] = data


def unpack(stages: Sequence[str], data: Bytes, size: int) -> Bytes:
    """Return the decoded bytes of a chunk of about ``size`` bytes, at most `MAX_GROWTH` times it.

    Raises
    ------
    Damaged, Short
        As `decode`.
    """
    for name in reversed(stages):
        data = _decode_stage(name, data, None, size * MAX_GROWTH + (1 << 16))
    return data


def _decode_stage(name: str, data: Bytes, out: Bytes | None, limit: int) -> Bytes:
    try:
        decoded = DECODERS[name](data, out, limit)
    except EOFError as error:
        raise Short(f"{name}: {error}") from error
    except (ValueError, RuntimeError, TypeError, OSError, zlib.error, lzma.LZMAError) as error:
        raise Damaged(f"{name}: {error}") from error
    return out if out is not None and decoded is out else np.frombuffer(decoded, np.uint8)


def require_size(size: int, expected: int, subject: str) -> None:
    """Raise Short or Damaged if a size is not the expected one."""
    if size != expected:
        error_class = Short if size < expected else Damaged
        raise error_class(f"{subject} {size} bytes, expected {expected}")


def _frame_decoder(
    decompress: Callable[..., Any], content_size: Callable[[Bytes], int | None]
) -> Decoder:
    """Return the decoder of a codec that fills given memory and stores the size in a header."""

    def decode_frame(data: Bytes, out: Bytes | None, limit: int) -> Any:
        size = content_size(data)
        if out is None and (size is None or size > limit):
            raise Damaged(f"its header gives {size} bytes, at most {limit} are expected")
        if out is not None and size is not None:
            require_size(size, out.size, "its header gives")
        decoded = decompress(data, out)
        return decoded if out is None else out

    return decode_frame


def _zstd_size(data: Bytes) -> int | None:
    head = data[:18].tobytes()
    if head[:4] != ZSTD_MAGIC or len(head) < 6:
        raise Damaged("it does not start with a zstd frame")
    flags = head[4]
    single_segment = flags >> 5 & 1
    start = 6 - single_segment + (0, 1, 2, 4)[flags & 3]
    width = (single_segment, 2, 4, 8)[flags >> 6]
    size = int.from_bytes(head[start : start + width], "little")
    return size + 256 * (width == 2) if width else None


def _blosc_size(data: Bytes) -> int:
    if data.size < 16:
        raise Short(f"a blosc header has 16 bytes, found {data.size}")
    size, _, stored = (int(n) for n in data[4:16].view("<u4"))
    require_size(data.size, stored, "the blosc chunk has")
    return size


def _stream_decoder(start: Callable[[], Any]) -> Decoder:
    """Return a decoder that uses a decompressor of the standard library up to the limit."""

    def decode_stream(data: Bytes, out: Bytes | None, limit: int) -> Any:
        stream = start()
        decoded = stream.decompress(data, limit + 1)
        if len(decoded) > limit:
            raise Damaged(f"it decodes to more than the {limit} bytes expected")
        if not stream.eof:
            raise Short(f"the stream ends early, after {len(decoded)} decoded bytes")
        return decoded

    return decode_stream


def crc32c(data: Any) -> int:
    """Return the CRC-32C of contiguous bytes, computed at 20 GB/s."""
    return int(google_crc32c.value(data))


def append_checksum(data: bytes) -> bytes:
    """Return bytes followed by their CRC-32C."""
    return data + crc32c(data).to_bytes(4, "little")


def strip_checksum(data: Bytes) -> Bytes:
    """Return the bytes before a trailing CRC-32C; raise Damaged if it is not theirs."""
    if data.size < 4:
        raise Short(f"a checksum has 4 bytes, found {data.size}")
    body, stored = data[:-4], int.from_bytes(data[-4:].tobytes(), "little")
    computed = crc32c(body)
    if computed != stored:
        raise Damaged(f"its crc32c is {computed:#010x}, stored is {stored:#010x}")
    return body


#: decoders by the name of their codec in numcodecs
DECODERS: Mapping[str, Decoder] = {
    "zstd": _frame_decoder(zstd.decompress, _zstd_size),
    "blosc": _frame_decoder(blosc.decompress, _blosc_size),
    "lz4": _frame_decoder(
        lz4.decompress, lambda data: int.from_bytes(data[:4].tobytes(), "little")
    ),
    "gzip": _stream_decoder(lambda: zlib.decompressobj(31)),
    "zlib": _stream_decoder(lambda: zlib.decompressobj(15)),
    "bz2": _stream_decoder(bz2.BZ2Decompressor),
    "lzma": _stream_decoder(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY)),
    "crc32c": lambda data, out, limit: strip_checksum(data),
}

#: stages whose decoder writes to the caller's memory
DIRECT = frozenset({"zstd", "blosc", "lz4"})


def is_bounded(name: str, configuration: Mapping[str, Any]) -> bool:
    """Return True if a codec with this configuration is decoded here, not by zarr."""
    usual = {"location": "end", "format": 1, "filters": None}
    return name in DECODERS and all(configuration.get(k, v) == v for k, v in usual.items())

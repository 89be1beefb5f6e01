"""Decode stored chunks to exactly the number of bytes that the metadata promise."""

import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import google_crc32c
import numcodecs
import numpy as np
import numpy.typing as npt
from numcodecs import blosc, lz4, zstd

Bytes = npt.NDArray[np.uint8]

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: memory that an xz stream may use: its strongest preset takes 65 MiB
LZMA_MEMORY = 128 << 20
#: between two stages a chunk may be this many times longer, as filters change the dtype
MAX_GROWTH = 16


class Damaged(Exception):
    """Stored bytes do not decode, or their checksum differs."""


class Short(Exception):
    """Stored bytes end early, or decode to fewer bytes than promised."""


@dataclass(frozen=True)
class Stage:
    """A codec from bytes to bytes; ``config`` is JSON."""

    name: str
    config: str = "{}"


class Decoder(Protocol):
    """Decodes one stage into ``out``, or, if it is None, returns at most ``limit`` bytes."""

    def __call__(self, data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
        """Return the decoded bytes, ``out`` itself if it was filled."""


def decode(stages: Sequence[Stage], data: Bytes, out: Bytes) -> None:
    """Fill ``out`` with the decoded bytes of ``data``; stages are in the order of encoding.

    Raises
    ------
    Damaged, Short
        The bytes are not those that the stages wrote.
    """
    for number in reversed(range(len(stages))):
        last = number == 0
        limit = out.size if last else out.size * MAX_GROWTH + (1 << 16)
        data = _decode_stage(stages[number], data, out if last else None, limit)
    if data is out:
        return
    if data.size != out.size:
        error_class = Short if data.size < out.size else Damaged
        raise error_class(f"it decodes to {data.size} bytes, expected {out.size}")
    out[...] = data


def _decode_stage(stage: Stage, data: Bytes, out: Bytes | None, limit: int) -> Bytes:
    try:
        decoded = DECODERS[stage.name](data, out, limit, stage.config)
    except (Damaged, Short):
        raise
    except EOFError as error:
        raise Short(f"{stage.name}: {error}") from error
    except (ValueError, RuntimeError, TypeError, OSError, zlib.error, lzma.LZMAError) as error:
        raise Damaged(f"{stage.name}: {error}") from error
    return out if out is not None and decoded is out else np.frombuffer(decoded, np.uint8)


def _require_size(size: int, expected: int, subject: str) -> None:
    if size != expected:
        error_class = Short if size < expected else Damaged
        raise error_class(f"{subject} {size} bytes, expected {expected}")


def zstd_content(data: Bytes) -> int | None:
    """Return the decoded size in the header of a zstd frame; None if it has none."""
    head = data[:18].tobytes()
    if head[:4] != ZSTD_MAGIC or len(head) < 6:
        raise Damaged("it does not start with a zstd frame")
    flags = head[4]
    single_segment = flags >> 5 & 1
    start = 6 - single_segment + (0, 1, 2, 4)[flags & 3]
    width = (single_segment, 2, 4, 8)[flags >> 6]
    size = int.from_bytes(head[start : start + width], "little")
    return size + 256 * (width == 2) if width else None


def _zstd(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    size = zstd_content(data)
    if out is None:
        if size is None or size > limit:
            raise Damaged(f"its zstd frame gives {size} bytes, at most {limit} are expected")
        return zstd.decompress(data)
    if size is not None:
        _require_size(size, out.size, "its zstd frame gives")
    zstd.decompress(data, out)
    return out


def _blosc(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    if data.size < 16:
        raise Short(f"a blosc header has 16 bytes, found {data.size}")
    size, _, stored = (int(n) for n in data[4:16].view("<u4"))
    _require_size(data.size, stored, "the blosc chunk has")
    if out is None:
        if size > limit:
            raise Damaged(f"its blosc header gives {size} bytes, at most {limit} are expected")
        return blosc.decompress(data)
    _require_size(size, out.size, "its blosc header gives")
    blosc.decompress(data, out)
    return out


def _lz4(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    size = int.from_bytes(data[:4].tobytes(), "little")
    if out is None:
        if size > limit:
            raise Damaged(f"its lz4 header gives {size} bytes, at most {limit} are expected")
        return lz4.decompress(data)
    _require_size(size, out.size, "its lz4 header gives")
    lz4.decompress(data, out)
    return out


def _stream_decoder(start: Callable[[], Any]) -> Decoder:
    """Return a decoder that uses a decompressor of the standard library up to the limit."""

    def decode_stream(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
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


def strip_checksum(data: Bytes) -> Bytes:
    """Return the bytes before a trailing CRC-32C; raise Damaged if it is not theirs."""
    if data.size < 4:
        raise Short(f"a checksum has 4 bytes, found {data.size}")
    body, stored = data[:-4], int.from_bytes(data[-4:].tobytes(), "little")
    computed = crc32c(body)
    if computed != stored:
        raise Damaged(f"its crc32c is {computed:#010x}, stored is {stored:#010x}")
    return body


def _crc32c(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    return strip_checksum(data)


def _filter(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    """Decode a filter of zarr v2, whose output length follows from the input length."""
    with np.errstate(all="ignore"):
        decoded = numcodecs.get_codec(json.loads(config)).decode(data)
    return np.ascontiguousarray(decoded).reshape(-1).view(np.uint8)


DECODERS: Mapping[str, Decoder] = {
    "zstd": _zstd,
    "blosc": _blosc,
    "lz4": _lz4,
    "gzip": _stream_decoder(lambda: zlib.decompressobj(31)),
    "zlib": _stream_decoder(lambda: zlib.decompressobj(15)),
    "bz2": _stream_decoder(bz2.BZ2Decompressor),
    "lzma": _stream_decoder(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY)),
    "crc32c": _crc32c,
    "filter": _filter,
}

#: stages whose decoder writes to the caller's memory
DIRECT = frozenset({"zstd", "blosc", "lz4"})

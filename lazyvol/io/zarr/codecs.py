"""Decoders of stored chunks. None gives more bytes than the metadata promise, or fewer."""

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
#: memory that an xz stream may ask for: its strongest preset takes 65 MiB
LZMA_MEMORY = 128 << 20
#: between two stages a chunk may be longer than in the end, as filters change the dtype
SPARE = 16


class Damaged(Exception):
    """Stored bytes that do not decode, or whose checksum differs."""


class Short(Exception):
    """Stored bytes that end early, or decode to fewer bytes than promised."""


@dataclass(frozen=True)
class Stage:
    """One step of encoding after the array became bytes; ``config`` is JSON."""

    name: str
    config: str = "{}"


class Decoder(Protocol):
    """Undoes one stage: fills ``out`` where that is given, else returns at most ``limit`` bytes."""

    def __call__(self, data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
        """Decoded bytes, ``out`` itself where it was filled."""


def decode(stages: Sequence[Stage], data: Bytes, out: Bytes) -> None:
    """Fill ``out`` with what ``stages``, in the order they were applied, made into ``data``.

    Raises
    ------
    Damaged, Short
        The bytes are not what the stages wrote.
    """
    for number in reversed(range(len(stages))):
        last = number == 0
        limit = out.size if last else out.size * SPARE + (1 << 16)
        data = _undo(stages[number], data, out if last else None, limit)
    if data is out:
        return
    if data.size != out.size:
        kind = Short if data.size < out.size else Damaged
        raise kind(f"it decodes to {data.size} bytes, expected {out.size}")
    out[...] = data


def _undo(stage: Stage, data: Bytes, out: Bytes | None, limit: int) -> Bytes:
    try:
        decoded = DECODERS[stage.name](data, out, limit, stage.config)
    except (Damaged, Short):
        raise
    except EOFError as error:
        raise Short(f"{stage.name}: {error}") from error
    except (ValueError, RuntimeError, TypeError, OSError, zlib.error, lzma.LZMAError) as error:
        raise Damaged(f"{stage.name}: {error}") from error
    return out if out is not None and decoded is out else np.frombuffer(decoded, np.uint8)


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        kind = Short if found < wanted else Damaged
        raise kind(f"{what} {found} bytes, expected {wanted}")


def zstd_content(data: Bytes) -> int | None:
    """Bytes that a zstd frame says it decodes to, None where it does not say."""
    head = data[:18].tobytes()
    if head[:4] != ZSTD_MAGIC or len(head) < 6:
        raise Damaged("it does not start with a zstd frame")
    flags = head[4]
    single = flags >> 5 & 1
    start = 6 - single + (0, 1, 2, 4)[flags & 3]
    width = (single, 2, 4, 8)[flags >> 6]
    size = int.from_bytes(head[start : start + width], "little")
    return size + 256 * (width == 2) if width else None


def _zstd(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    size = zstd_content(data)
    if out is None:
        if size is None or size > limit:
            raise Damaged(f"its zstd frame gives {size} bytes, at most {limit} are expected")
        return zstd.decompress(data)
    if size is not None:
        _expect(size, out.size, "its zstd frame gives")
    zstd.decompress(data, out)
    return out


def _blosc(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    if data.size < 16:
        raise Short(f"a blosc header has 16 bytes, found {data.size}")
    size, _, stored = (int(n) for n in data[4:16].view("<u4"))
    _expect(data.size, stored, "the blosc chunk has")
    if out is None:
        if size > limit:
            raise Damaged(f"its blosc header gives {size} bytes, at most {limit} are expected")
        return blosc.decompress(data)
    _expect(size, out.size, "its blosc header gives")
    blosc.decompress(data, out)
    return out


def _lz4(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    size = int.from_bytes(data[:4].tobytes(), "little")
    if out is None:
        if size > limit:
            raise Damaged(f"its lz4 header gives {size} bytes, at most {limit} are expected")
        return lz4.decompress(data)
    _expect(size, out.size, "its lz4 header gives")
    lz4.decompress(data, out)
    return out


def _streamed(start: Callable[[], Any]) -> Decoder:
    """Decoder made of a decompressor of the standard library, stopped beyond the limit."""

    def undo(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
        stream = start()
        decoded = stream.decompress(data, limit + 1)
        if len(decoded) > limit:
            raise Damaged(f"it decodes to more than the {limit} bytes expected")
        if not stream.eof:
            raise Short(f"the stream ends early, after {len(decoded)} decoded bytes")
        return decoded

    return undo


def crc32c(data: Any) -> int:
    """CRC-32C of contiguous bytes, at 20 GB/s."""
    return int(google_crc32c.value(data))


def checked(data: Bytes) -> Bytes:
    """Bytes before a trailing CRC-32C, which must be theirs."""
    if data.size < 4:
        raise Short(f"a checksum has 4 bytes, found {data.size}")
    body, stored = data[:-4], int.from_bytes(data[-4:].tobytes(), "little")
    found = crc32c(body)
    if found != stored:
        raise Damaged(f"its crc32c is {found:#010x}, stored is {stored:#010x}")
    return body


def _crc32c(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    return checked(data)


def _filter(data: Bytes, out: Bytes | None, limit: int, config: str) -> Any:
    """A filter of zarr v2: its length follows from its input's, so nothing can blow up."""
    with np.errstate(all="ignore"):
        decoded = numcodecs.get_codec(json.loads(config)).decode(data)
    return np.ascontiguousarray(decoded).reshape(-1).view(np.uint8)


DECODERS: Mapping[str, Decoder] = {
    "zstd": _zstd,
    "blosc": _blosc,
    "lz4": _lz4,
    "gzip": _streamed(lambda: zlib.decompressobj(31)),
    "zlib": _streamed(lambda: zlib.decompressobj(15)),
    "bz2": _streamed(bz2.BZ2Decompressor),
    "lzma": _streamed(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY)),
    "crc32c": _crc32c,
    "filter": _filter,
}

#: stages whose decoder fills the given memory itself
DIRECT = frozenset({"zstd", "blosc", "lz4"})

"""The chain of image directories of a TIFF file, walked before anything else trusts it."""

import struct
from dataclasses import dataclass

from lazyvol.errors import FormatError, LimitExceeded, TruncatedError
from lazyvol.io.flat_file import StoredFile

#: a million pages take 10 s to walk
MAX_PAGES = 1_000_000
MAX_TAGS = 4096
SUB_DIRECTORIES = 330


@dataclass(frozen=True)
class Dialect:
    """Byte order and word sizes: classic or BigTIFF."""

    order: str
    count: str
    offset: str
    entry: int
    first: int


def dialect(head: bytes, where: str) -> Dialect:
    """Dialect of a file by its first bytes."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise FormatError(f"{where}: a TIFF file starts with II or MM, found {head[:4]!r}")
    (version,) = struct.unpack_from(f"{order}H", head, 2)
    if version == 42:
        return Dialect(order, f"{order}H", f"{order}I", 12, 4)
    if version == 43:
        return Dialect(order, f"{order}Q", f"{order}Q", 20, 8)
    raise FormatError(f"{where}: TIFF version must be 42 or 43, found {version}")


def directories(file: StoredFile) -> tuple[int, ...]:
    """Offsets of all image directories; loops, cuts and excess are refused."""
    with file.open() as handle:
        kind = dialect(handle.read(16), file.path)

        def word(code: str, position: int) -> int:
            handle.seek(position)
            raw = handle.read(struct.calcsize(code))
            if len(raw) < struct.calcsize(code):
                raise cut(file, len(found), position)
            return int(struct.unpack(code, raw)[0])

        found: dict[int, None] = {}
        nested = 0
        offset = word(kind.offset, kind.first)
        while offset:
            check_directory(file, found, offset)
            found[offset] = None
            tags = word(kind.count, offset)
            if tags > MAX_TAGS:
                raise LimitExceeded(
                    f"{file.path}: a TIFF page may have {MAX_TAGS} tags, found {tags}"
                )
            start = offset + struct.calcsize(kind.count)
            handle.seek(start)
            nested += sub_directories(handle.read(tags * kind.entry), kind)
            if len(found) + nested > MAX_PAGES:
                raise LimitExceeded(f"{file.path}: a TIFF file may have {MAX_PAGES} pages")
            offset = word(kind.offset, start + tags * kind.entry)
    if not found:
        raise FormatError(f"{file.path}: a TIFF file needs a page, found none")
    return tuple(found)


def check_directory(file: StoredFile, found: dict[int, None], offset: int) -> None:
    """Refuse a directory that was met before or lies outside the file."""
    if offset in found:
        raise FormatError(
            f"{file.path}: TIFF pages must form a chain, page {len(found)} points back to offset "
            f"{offset}; save the file again"
        )
    if offset >= file.size:
        raise cut(file, len(found), offset)


def sub_directories(entries: bytes, kind: Dialect) -> int:
    """How many nested directories a page announces."""
    wide = kind.entry == 20
    record = f"{kind.order}HHQ8x" if wide else f"{kind.order}HHI4x"
    whole = entries[: len(entries) // kind.entry * kind.entry]
    return sum(n for tag, _, n in struct.iter_unpack(record, whole) if tag == SUB_DIRECTORIES)


def cut(file: StoredFile, page: int, offset: int) -> TruncatedError:
    """The error for a page that lies outside the file."""
    return TruncatedError(
        f"{file.path}: TIFF page {page} should be at offset {offset}, the file has {file.size} "
        "bytes; copy it again"
    )

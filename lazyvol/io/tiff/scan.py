"""Walk the chain of image directories of a TIFF file before any other code trusts it."""

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
    """Return the dialect of a file from its first bytes."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise FormatError(f"{where}: a TIFF file must start with II or MM, found {head[:4]!r}")
    (version,) = struct.unpack_from(f"{order}H", head, 2)
    if version == 42:
        return Dialect(order, f"{order}H", f"{order}I", 12, 4)
    if version == 43:
        return Dialect(order, f"{order}Q", f"{order}Q", 20, 8)
    raise FormatError(f"{where}: TIFF version must be 42 or 43, found {version}")


def page_offsets(file: StoredFile) -> tuple[int, ...]:
    """Return the offsets of all image directories; raise for loops, cut files and too many."""
    with file.open() as handle:
        kind = dialect(handle.read(16), file.path)

        def word(code: str, position: int) -> int:
            handle.seek(position)
            raw = handle.read(struct.calcsize(code))
            if len(raw) < struct.calcsize(code):
                raise page_outside_file(file, len(offsets), position)
            return int(struct.unpack(code, raw)[0])

        offsets: dict[int, None] = {}
        nested = 0
        offset = word(kind.offset, kind.first)
        while offset:
            check_directory(file, offsets, offset)
            offsets[offset] = None
            tags = word(kind.count, offset)
            if tags > MAX_TAGS:
                raise LimitExceeded(
                    f"{file.path}: a TIFF page may have {MAX_TAGS} tags, found {tags}"
                )
            start = offset + struct.calcsize(kind.count)
            handle.seek(start)
            nested += count_sub_directories(handle.read(tags * kind.entry), kind)
            if len(offsets) + nested > MAX_PAGES:
                raise LimitExceeded(f"{file.path}: a TIFF file may have {MAX_PAGES} pages")
            offset = word(kind.offset, start + tags * kind.entry)
    if not offsets:
        raise FormatError(f"{file.path}: a TIFF file must have a page, found none")
    return tuple(offsets)


def check_directory(file: StoredFile, offsets: dict[int, None], offset: int) -> None:
    """Raise if a directory was visited before or is outside the file."""
    if offset in offsets:
        raise FormatError(
            f"{file.path}: TIFF pages must form a chain, page {len(offsets)} points back to offset "
            f"{offset}; save the file again"
        )
    if offset >= file.size:
        raise page_outside_file(file, len(offsets), offset)


def count_sub_directories(entries: bytes, kind: Dialect) -> int:
    """Return the number of nested directories that the tags of a page announce."""
    wide = kind.entry == 20
    record = f"{kind.order}HHQ8x" if wide else f"{kind.order}HHI4x"
    complete = entries[: len(entries) // kind.entry * kind.entry]
    return sum(n for tag, _, n in struct.iter_unpack(record, complete) if tag == SUB_DIRECTORIES)


def page_outside_file(file: StoredFile, page: int, offset: int) -> TruncatedError:
    """Return the error for a page outside the file."""
    return TruncatedError(
        f"{file.path}: TIFF page {page} must be at offset {offset}, the file has {file.size} "
        "bytes; copy it again"
    )

"""Check LZW and JPEG segments of TIFF files before imagecodecs decodes them.

Its LZW decoder (2026.3.6) follows the first code after a CLEAR code into a table that is empty
then: a damaged file ends the process. So each of these codes must be a byte. Between two CLEAR
codes the bits of every code are known beforehand, as each code adds one entry to the table. JPEG
decoders reserve what the frame headers of a stream declare.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from lazyvol.errors import FormatError, LimitExceeded

CLEAR, END = 256, 257
#: codes between two CLEAR codes, by the 12 bits of the longest ones
CODES = 4096
#: encoders write a CLEAR code after 250 codes or more
BYTES_PER_CLEAR = 128
MARK = 0xFF
#: markers of a frame header, which declares the size of the picture
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: markers without content
ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))
#: start of the coded data, and end of the picture
SCAN, PICTURE_END = 0xDA, 0xD9


def check_lzw(data: bytes, where: str) -> None:
    """Raise unless a segment can be decoded without harm; the decoder finds what else is wrong.

    Raises
    ------
    FormatError
        The code after a CLEAR code is no byte.
    LimitExceeded
        CLEAR codes follow each other closely, which takes long to check.
    """
    old = data[:1] == b"\0" and bool(data[1:2]) and bool(data[1] & 1)  # the lowest bits come first
    stream = np.frombuffer(data + bytes(3), np.uint8).astype(np.uint32)
    position = 0
    for _ in range(8 + len(data) // BYTES_PER_CLEAR):
        codes, ends = _codes(stream, position, 8 * len(data), old)
        if codes.size and codes[0] > END:
            raise FormatError(
                f"{where}: an LZW segment must begin anew with a byte, got code {codes[0]} at bit "
                f"{position}; copy the file again"
            )
        clears = np.flatnonzero((codes == CLEAR) | (codes == END))
        if not clears.size or codes[clears[0]] == END:
            return
        position = int(ends[clears[0]])
    raise LimitExceeded(
        f"{where}: an LZW segment may have a CLEAR code per {BYTES_PER_CLEAR} bytes, it has more; "
        "save the file with deflate"
    )


def _codes(
    stream: npt.NDArray[np.uint32], position: int, bits: int, old: bool
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return the codes from bit ``position`` of a stream of ``bits``, and the end of each."""
    width, ends = _widths(old)
    ends = ends + position
    number = int(np.searchsorted(ends, bits, "right"))
    width, ends = width[:number], ends[:number]
    first, bit = np.divmod(ends - width, 8)
    a, b, c = stream[first], stream[first + 1], stream[first + 2]
    if old:
        words, shift = a | b << 8 | c << 16, bit
    else:
        words, shift = a << 16 | b << 8 | c, 24 - bit - width
    return words >> shift.astype(np.uint32) & ((1 << width) - 1).astype(np.uint32), ends


@cache
def _widths(old: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the bits of each code after a CLEAR code, and where it ends."""
    entries = CLEAR + 1 + np.arange(CODES)  # in the table when the code is read
    entries[0] += 1
    full = np.array([512, 1024, 2048]) - (not old)
    width = 9 + np.searchsorted(full, entries, "right")
    return width, np.cumsum(width)


def check_jpeg(data: bytes, most_bytes: int, where: str) -> None:
    """Raise LimitExceeded if a frame of a stream decodes to more than ``most_bytes``.

    Markers are found as libjpeg finds them: other bytes before one are skipped.
    """
    position = 0
    while (position := data.find(MARK, position)) >= 0:
        while position < len(data) and data[position] == MARK:
            position += 1
        marker = data[position] if position < len(data) else PICTURE_END
        position += 1
        if marker in (SCAN, PICTURE_END):
            return
        if marker in FRAMES:
            precision, height, width, components = _frame(data[position + 2 : position + 8])
            declared = height * width * components * (2 if precision > 8 else 1)
            if declared > most_bytes:
                raise LimitExceeded(
                    f"{where}: a JPEG segment may decode to {most_bytes} bytes, it declares "
                    f"{height} x {width} pixels of {components} samples; copy the file again"
                )
        if marker not in ALONE:
            position += int.from_bytes(data[position : position + 2])


def _frame(header: bytes) -> tuple[int, int, int, int]:
    """Return precision, height, width and components of a frame header, 0 where it is cut."""
    header = header.ljust(6, b"\0")
    size = int.from_bytes(header[1:3]), int.from_bytes(header[3:5])
    return header[0], *size, header[5]

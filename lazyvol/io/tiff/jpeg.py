"""Check JPEG segments of TIFF files: a decoder reserves what their own headers declare."""

from lazyvol.errors import LimitExceeded

MARK = 0xFF
#: markers of a frame header, which declares the size of the picture
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: markers without content
ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))
#: start of the coded data, and end of the picture
SCAN, END = 0xDA, 0xD9


def check_jpeg(data: bytes, most_bytes: int, where: str) -> None:
    """Raise LimitExceeded if a frame of a stream decodes to more than ``most_bytes``.

    Markers are found as libjpeg finds them: other bytes before one are skipped.
    """
    position = 0
    while (position := data.find(MARK, position)) >= 0:
        while position < len(data) and data[position] == MARK:
            position += 1
        marker = data[position] if position < len(data) else END
        position += 1
        if marker in (SCAN, END):
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

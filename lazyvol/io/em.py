"""EM files (TOM, AV3, PyTom): 512 bytes of header, then one plain array.

The header is a byte for the machine, two that mean nothing, one for the type, and three lengths;
it knows no voxel size. Nothing marks the format, so the file is known by its suffix and refused
where its size is not exactly what the header promises.
"""

import os
import struct
from pathlib import PurePath

from lazyvol.errors import FormatError, TruncatedError
from lazyvol.io.axes import arrange, elements
from lazyvol.io.flat_file import Layout, RawSource, check_extent, stored_file
from lazyvol.io.opened import Opened
from lazyvol.io.repairs import Repairs

SUFFIXES = (".em",)
HEADER_BYTES = 512
#: byte order by machine: OS-9, SGI, Sun and Mac wrote big-endian, VAX and PC little-endian
MACHINES = {0: ">", 1: "<", 2: ">", 3: ">", 4: ">", 5: ">", 6: "<"}
TYPES = {1: "i1", 2: "i2", 4: "i4", 5: "f4", 9: "f8"}


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Volume (z, y, x) or plane (y, x) in an EM file; its voxel size is not known.

    Parameters
    ----------
    path
        A file of type 1 (int8), 2 (int16), 4 (int32), 5 (float32) or 9 (float64).
    permissive
        Ignore bytes after the data.

    Raises
    ------
    FormatError
        The header breaks the rules.
    TruncatedError
        The file is shorter than its header promises.
    """
    file = stored_file(path)
    repairs = Repairs(file.path, permissive)
    dtype, shape = header(file.head(HEADER_BYTES), file.path)
    names = ("z", "y", "x") if shape[0] > 1 else ("y", "x")
    dims, order = arrange(names, file.path)
    layout = Layout(HEADER_BYTES, dtype, shape[-len(names) :], order)
    check_extent(file, layout, repairs)
    return Opened(
        source=RawSource(file, layout),
        dims=dims,
        attrs={"repairs": tuple(repairs.made)} if repairs.made else {},
        name=PurePath(file.path).stem,
    )


def header(first: bytes, where: str) -> tuple[str, tuple[int, int, int]]:
    """Stored type and lengths along z, y, x."""
    if len(first) < HEADER_BYTES:
        raise TruncatedError(
            f"{where}: an EM file begins with {HEADER_BYTES} bytes of header, found {len(first)}; "
            "copy the file again"
        )
    machine, kind = first[0], first[3]
    if machine not in MACHINES or kind not in TYPES:
        raise FormatError(
            f"{where}: an EM file has a machine from 0 to 6 and a type of {tuple(TYPES)}, found "
            f"{machine} and {kind}"
        )
    x, y, z = struct.unpack_from(f"{MACHINES[machine]}3i", first, 4)
    if min(x, y, z) < 1:
        raise FormatError(f"{where}: lengths are 1 or more, found x {x}, y {y} and z {z}")
    elements((z, y, x), where)
    return MACHINES[machine] + TYPES[kind], (z, y, x)

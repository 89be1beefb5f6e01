"""Read and write EM files of TOM, AV3 and PyTom.

A header of 512 bytes is followed by one uncompressed array. The header has one byte for the
machine, two unused bytes, one byte for the type and three lengths, but no voxel size. The format
has no magic bytes, so a file is recognized by its suffix and refused if its size is not exactly
that of the header.
"""

import os
import struct
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, TruncatedError
from lazyvol.io.axes import count_elements, order_axes
from lazyvol.io.compressed import array_source
from lazyvol.io.export import Form
from lazyvol.io.faults import Repairs
from lazyvol.io.flat_file import Layout, stored_file
from lazyvol.io.opened import Opened
from lazyvol.io.zarr.layout import Variable

SUFFIXES = (".em",)
HEADER_BYTES = 512
#: byte order by machine: OS-9, SGI, Sun and Mac write big-endian, VAX and PC little-endian
MACHINES = {0: ">", 1: "<", 2: ">", 3: ">", 4: ">", 5: ">", 6: "<"}
#: machine that new files get for a byte order: PC and Mac
PREFERRED_MACHINES = {"<": 6, ">": 5}
TYPES = {1: "i1", 2: "i2", 4: "i4", 5: "f4", 9: "f8"}
FORM = Form(
    "EM",
    [np.dtype(code).name for code in TYPES.values()],
    (("z", "y", "x"), ("y", "x")),
    decreasing=True,
)


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return the volume (z, y, x) or plane (y, x) of an EM file; its voxel size is unknown.

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
    dtype, shape = parse_header(file.head(HEADER_BYTES), file.path)
    names = ("z", "y", "x") if shape[0] > 1 else ("y", "x")
    dims, order = order_axes(names, file.path)
    layout = Layout(HEADER_BYTES, dtype, shape[-len(names) :], order)
    return Opened(
        source=array_source(file, None, layout, repairs),
        dims=dims,
        attrs=repairs.attrs,
        name=PurePath(file.path).stem,
    )


def parse_header(first: bytes, where: str) -> tuple[str, tuple[int, int, int]]:
    """Return the stored dtype and the lengths along z, y, x."""
    if len(first) < HEADER_BYTES:
        raise TruncatedError(
            f"{where}: an EM file must begin with {HEADER_BYTES} bytes of header, found "
            f"{len(first)}; "
            "copy the file again"
        )
    machine, kind = first[0], first[3]
    if machine not in MACHINES or kind not in TYPES:
        raise FormatError(
            f"{where}: an EM file must have a machine from 0 to 6 and a type of {tuple(TYPES)}, "
            f"found {machine} and {kind}"
        )
    x, y, z = struct.unpack_from(f"{MACHINES[machine]}3i", first, 4)
    if min(x, y, z) < 1:
        raise FormatError(f"{where}: lengths must be 1 or more, found x {x}, y {y} and z {z}")
    count_elements((z, y, x), where)
    return MACHINES[machine] + TYPES[kind], (z, y, x)


def header(dtype: str, shape: tuple[int, int, int], template: bytes = bytes(HEADER_BYTES)) -> bytes:
    """Return a header for a stored dtype and lengths along z, y, x; other bytes are kept.

    Examples
    --------
    >>> parse_header(header("<f4", (2, 3, 4)), "a.em")
    ('<f4', (2, 3, 4))
    """
    order, code = dtype[0], dtype[1:]
    machine = template[0] if MACHINES.get(template[0]) == order else PREFERRED_MACHINES[order]
    kind = next(number for number, name in TYPES.items() if name == code)
    lengths = struct.pack(f"{order}3i", *reversed(shape))
    return bytes((machine, *template[1:3], kind)) + lengths + template[16:HEADER_BYTES]


def em_header(path: str, variable: Variable) -> tuple[bytes, np.dtype[Any]]:
    """Return the header of an EM file and the stored dtype.

    Raises
    ------
    LabelError
        EM has no type for the dtype or no form for the dims, or an axis has length 0.
    """
    stored = FORM.stored(path, variable)
    z, y, x = (1, *variable.shape)[-3:]
    return header(f"<{stored.str[1:]}", (z, y, x)), stored

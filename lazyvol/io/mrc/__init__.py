"""Read MRC and CCP4 files: parse the header, then read regions of the array.

Conventions of MRC2014 and of older programs:

* The array opens as (z, y, x) for any MAPC, MAPR, MAPS; all three 0 means 1, 2, 3.
* ISPG 401 to 630 is a stack of volumes (k, z, y, x) of MZ sections each. ISPG 0 with MZ = 1, or
  the suffix ``.mrcs``, is a stack of images (k, y, x); a single image of ISPG 0 is (y, x).
  Everything else is a volume, including ISPG 0 with MZ > 1, which RELION and IMOD write.
* Voxel size is CELLA / M in angstrom; 0, negative and non-finite values mean unknown.
* The first voxel is at ORIGIN if one of its words is not 0, otherwise at NSTART voxels; programs
  that write both mean one position. IMOD negates ORIGIN unless its flag 4 is set.
* Labels of our writer hold the dims of a stack of one image, the unit of lengths and the name.
* Mode 0 is signed, unless the stamp of IMOD is present without its flag 1.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from lazyvol.errors import FormatError, TruncatedError
from lazyvol.io.axes import convert_length, known_sizes, order_axes, parse_unit
from lazyvol.io.compressed import array_source, decoded_head, unpacked_name
from lazyvol.io.faults import Repairs
from lazyvol.io.flat_file import Layout, stored_file
from lazyvol.io.opened import Opened
from lazyvol.plan.recipes.base import Source

HEADER_BYTES = 1024
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
#: modes that programs write, which distinguish a header from noise
KNOWN_MODES = {*MODES, 3, 4, 16, 101}
STAMPS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}
STACK_GROUPS = range(401, 631)
IMOD_STAMP = 1146047817
IMOD_SIGNED, IMOD_ORIGIN = 1, 4
LABELS, LABEL_BYTES = 224, 80
#: prefix of the labels of our writer
LABEL_PREFIX = "lazyvol"

Triple = tuple[int, int, int]
Sizes = tuple[float, float, float]
SUFFIXES = (".mrc", ".mrcs", ".map", ".ccp4", ".rec", ".st", ".ali", ".preali")
LETTERS = "xyz"


@dataclass(frozen=True)
class Header:
    """Fields of an MRC header, in file order: columns, rows, sections or x, y, z."""

    order: str
    counts: Triple
    mode: int
    start: Triple
    grid: Triple
    cell: Sizes
    angles: Sizes
    axes: Triple
    group: int
    extended: int
    origin: Sizes
    imod: int | None
    notes: Mapping[str, str]

    @property
    def dtype(self) -> str:
        """Return the stored dtype with its byte order; bytes are unsigned in old IMOD files."""
        code = MODES[self.mode]
        if self.mode == 0 and self.imod is not None and not self.imod & IMOD_SIGNED:
            code = "u1"
        return self.order + code


def parse(head: bytes, repairs: Repairs) -> Header:
    """Return the header of an MRC file from its first 1024 bytes."""
    where = repairs.where
    if len(head) < HEADER_BYTES:
        raise TruncatedError(
            f"{where}: an MRC header must have {HEADER_BYTES} bytes, found {len(head)}; copy it "
            "again"
        )
    if head[208:211] != b"MAP":
        repairs.assume(f"word 53 must be 'MAP ', found {head[208:212]!r}", "reading it as MRC")
    header = unpack(head, byte_order(head, repairs))
    check_mode(header, where)
    check_counts(header, where)
    return repair(header, repairs)


def unpack(head: bytes, order: str) -> Header:
    """Return the fields of a header without checks."""
    fields = np.frombuffer(head, HEADER_DTYPE.newbyteorder(order), 1)[0]

    def values(*names: str) -> tuple[Any, ...]:
        return tuple(fields[name].item() for name in names)

    stamp, flags = struct.unpack_from(f"{order}2i", head, 152)
    return Header(
        order=order,
        counts=values("nx", "ny", "nz"),
        mode=fields["mode"].item(),
        start=values("nxstart", "nystart", "nzstart"),
        grid=values("mx", "my", "mz"),
        cell=fields["cella"].item(),
        angles=fields["cellb"].item(),
        axes=values("mapc", "mapr", "maps"),
        group=fields["ispg"].item(),
        extended=fields["nsymbt"].item(),
        origin=fields["origin"].item(),
        imod=flags if stamp == IMOD_STAMP else None,
        notes=label_notes(head),
    )


def label_notes(head: bytes) -> dict[str, str]:
    """Return keys and values of the labels of our writer, such as ``lazyvol dims k y x``."""
    notes = {}
    for start in range(LABELS, HEADER_BYTES, LABEL_BYTES):
        label = head[start : start + LABEL_BYTES].rstrip(b"\0 ").decode("ascii", "replace")
        prefix, _, note = label.partition(" ")
        key, _, value = note.partition(" ")
        if prefix == LABEL_PREFIX and value:
            notes[key] = value
    return notes


def byte_order(head: bytes, repairs: Repairs) -> str:
    """Return the byte order of the machine stamp, or a plausible one if it is 0 or wrong."""
    stamp = head[212:214]
    claimed = STAMPS.get(stamp)
    plausible = plausible_orders(head)
    if claimed in plausible:
        return str(claimed)
    if not plausible:
        return claimed or "<"
    if stamp != b"\0\0":
        repairs.assume(
            f"the machine stamp at byte 212 is {stamp.hex(' ')}, mode and sizes do not fit it",
            f"reading {'little' if plausible[0] == '<' else 'big'}-endian",
        )
    return plausible[0]


def plausible_orders(head: bytes) -> list[str]:
    """Return the byte orders in which mode and counts are valid, the smaller volume first."""
    candidates = []
    for order in "<>":
        nx, ny, nz, mode = struct.unpack_from(f"{order}4i", head)
        if min(nx, ny, nz) > 0 and mode in KNOWN_MODES:
            candidates.append((nx * ny * nz, order))
    return [order for _, order in sorted(candidates)]


def check_mode(header: Header, where: str) -> None:
    """Raise FormatError if the mode is not one of real numbers."""
    if header.mode not in MODES:
        raise FormatError(
            f"{where}: MRC mode {header.mode} is not supported, only "
            f"{', '.join(f'{mode} ({code})' for mode, code in MODES.items())}; convert the file"
        )


def check_counts(header: Header, where: str) -> None:
    """Raise FormatError for lengths below 1 or a negative extended header."""
    if min(header.counts) < 1:
        raise FormatError(f"{where}: nx, ny, nz must be 1 or more, found {header.counts}")
    if header.extended < 0:
        raise FormatError(f"{where}: nsymbt must be 0 or more, found {header.extended}")


def repair(header: Header, repairs: Repairs) -> Header:
    """Return the header with valid axes and space group."""
    changes: dict[str, object] = {}
    if header.axes == (0, 0, 0):
        changes["axes"] = (1, 2, 3)
    elif sorted(header.axes) != [1, 2, 3]:
        problem = f"mapc, mapr, maps must be 1, 2, 3 in some order, found {header.axes}"
        repairs.assume(problem, "assuming 1, 2, 3")
        changes["axes"] = (1, 2, 3)
    if header.group not in STACK_GROUPS and not 0 <= header.group <= 230:
        problem = f"ISPG must be 0 to 230 or 401 to 630, found {header.group}"
        repairs.assume(problem, "reading it as one volume")
        changes["group"] = 1
    return Header(**{**vars(header), **changes})


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return the volume, image stack or volume stack of an MRC file.

    Parameters
    ----------
    path
        A file in MRC2014 or CCP4 format, possibly compressed with gzip or bzip2.
    permissive
        Read a file with these faults, which ``attrs["repairs"]`` lists: no 'MAP ' string; a
        wrong machine stamp; an undefined ISPG (read as one volume); MAPC, MAPR, MAPS that are no
        permutation of 1, 2, 3 (read as 1, 2, 3); bytes after the data.

    Returns
    -------
    Opened
        Dims (z, y, x), (k, z, y, x), (k, y, x) or (y, x); spacing in angstrom.

    Raises
    ------
    FormatError
        The header breaks the rules, or its mode is not 0, 1, 2, 6 or 12.
    TruncatedError
        The file is shorter than its header promises.
    """
    file = stored_file(path)
    codec, first = decoded_head(file, HEADER_BYTES)
    repairs = Repairs(file.path, permissive)
    header = parse(first, repairs)
    stem, suffix = unpacked_name(file.path)
    names, shape = stored_axes(header, suffix, file.path)
    dims, order = order_axes(names, file.path)
    layout = Layout(HEADER_BYTES + header.extended, header.dtype, shape, order)
    if codec is None and layout.offset > file.size:
        raise TruncatedError(
            f"{file.path}: nsymbt promises {header.extended} bytes of extended header, "
            f"{file.size - HEADER_BYTES} bytes follow the header; copy the file again"
        )
    source = array_source(file, codec, layout, repairs)
    return with_labels(header, source, dims, repairs, stem)


def with_labels(
    header: Header, source: Source, dims: tuple[str, ...], repairs: Repairs, name: str
) -> Opened:
    """Return a source with the labels of its header."""
    spacing = known_sizes({d: v for d, v in voxel_size(header).items() if d in dims})
    positions = origin(header, spacing)
    unit, angstrom = length_unit(header)
    attrs = repairs.attrs
    if any(angle not in (0.0, 90.0) for angle in header.angles):
        attrs["cell_angles"] = header.angles
    return Opened(
        source=source,
        dims=dims,
        voxel_size={d: round_float32(v / angstrom) for d, v in spacing.items()},
        unit=unit if spacing else "voxel",
        origin={d: round_float32(v / angstrom) for d, v in positions.items()},
        attrs=attrs,
        name=header.notes.get("name", name),
    )


def stored_axes(header: Header, suffix: str, where: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names and lengths of the stored axes, slowest first."""
    columns, rows, sections = header.counts
    names = tuple(LETTERS[word - 1] for word in reversed(header.axes))
    if header.group in STACK_GROUPS:
        per_volume = sections_per_volume(header, where)
        return ("k", *names), (sections // per_volume, per_volume, rows, columns)
    is_image = sections == 1 and suffix != ".mrcs" and header.notes.get("dims") != "k y x"
    if header.group == 0 and is_image and names[0] == "z":
        return names[1:], (rows, columns)
    is_image_stack = suffix == ".mrcs" or (header.group == 0 and header.grid[2] == 1)
    if is_image_stack and names[0] == "z":
        return ("k", *names[1:]), (sections, rows, columns)
    return names, (sections, rows, columns)


def sections_per_volume(header: Header, where: str) -> int:
    """Return MZ of a volume stack, or NZ if MZ is 0 in the header of a single cube."""
    columns, rows, sections = header.counts
    if header.axes[2] != 3:
        raise FormatError(f"{where}: a volume stack must have MAPS = 3, found {header.axes[2]}")
    per_volume = header.grid[2]
    if per_volume == 0 and columns == rows == sections:
        return sections
    if per_volume < 1 or sections % per_volume:
        raise FormatError(
            f"{where}: in a volume stack (ISPG {header.group}) NZ must be a multiple of MZ, found "
            f"NZ {sections} and MZ {per_volume}; set MZ to the sections of one volume"
        )
    return per_volume


def voxel_size(header: Header) -> dict[str, float]:
    """Return the spacing along x, y, z in angstrom; 0 if M is 0."""
    cells = zip(LETTERS, header.cell, header.grid, strict=True)
    return {letter: round_float32(cell / grid) if grid else 0.0 for letter, cell, grid in cells}


def length_unit(header: Header) -> tuple[str, float]:
    """Return the unit that a label of our writer names, and angstrom per unit."""
    unit = header.notes.get("unit", "angstrom")
    parsed = parse_unit(unit)
    if parsed is None:
        return "angstrom", 1.0
    return unit, convert_length(parsed[1], parsed[0], "angstrom")


def round_float32(value: float) -> float:
    """Round to the 7 digits of a float32 header field: 5.7 instead of 5.699999809."""
    return float(f"{value:.7g}")


def origin(header: Header, spacing: dict[str, float]) -> dict[str, float]:
    """Return the position of the first voxel along every axis of known spacing, in angstrom."""
    if any(header.origin) and all(isfinite(word) for word in header.origin):
        sign = -1.0 if header.imod is not None and not header.imod & IMOD_ORIGIN else 1.0
        positions = {d: sign * word for d, word in zip(LETTERS, header.origin, strict=True)}
    else:
        starts = zip(header.axes, header.start, strict=True)
        voxels = {LETTERS[axis - 1]: float(start) for axis, start in starts}
        positions = {d: n * spacing.get(d, 0.0) for d, n in voxels.items()}
    return {dim: round_float32(positions[dim]) + 0.0 for dim in spacing}

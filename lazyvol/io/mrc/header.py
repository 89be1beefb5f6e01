"""Parse and check the 1024-byte MRC header; repair faults only if the user permits it."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from lazyvol.errors import FormatError, TruncatedError
from lazyvol.io.repairs import Repairs

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

"""Write MRC2014 files block by block."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from typing import Any, BinaryIO

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from lazyvol.errors import LabelError
from lazyvol.io.atomic import PathLike
from lazyvol.io.axes import convert_length, parse_unit
from lazyvol.io.export import Blocks, Form, write_content
from lazyvol.io.mrc import LABEL_BYTES, LABEL_PREFIX, MODES
from lazyvol.io.zarr.layout import Variable
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region
from lazyvol.stack import STACK

#: mode of an array of a dtype
MODE_OF = {np.dtype(code).name: mode for mode, code in MODES.items()}
VERSION = 20141
#: MRC space group of an array with these dims
SPACE_GROUPS = {
    ("y", "x"): 0,
    (STACK, "y", "x"): 0,
    ("z", "y", "x"): 1,
    (STACK, "z", "y", "x"): 401,
}
FORM = Form("MRC", MODE_OF, SPACE_GROUPS)


@dataclass
class _Statistics:
    """Count, mean, sum of squared deviations and range of values, updated block by block."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def add(self, block: Array) -> None:
        """Update the statistics with a block (Chan, Golub and LeVeque, 1979)."""
        if not block.size:
            return
        with np.errstate(all="ignore"):
            mean = float(np.mean(block, dtype=np.float64))
            squares = float(np.var(block, dtype=np.float64)) * block.size
        total = self.count + block.size
        step = mean - self.mean
        self.squares += squares + step * step * self.count * block.size / total
        self.mean += step * block.size / total
        self.count = total
        self.low = min(self.low, float(block.min()))
        self.high = max(self.high, float(block.max()))

    def header_fields(self) -> dict[str, float]:
        """Return the header fields; the values for "unknown" if the data are not finite."""
        rms = sqrt(self.squares / self.count) if self.count else 0.0
        fields = {"dmin": self.low, "dmax": self.high, "dmean": self.mean, "rms": rms}
        if all(isfinite(value) for value in fields.values()):
            return fields
        return {"dmin": 0.0, "dmax": -1.0, "dmean": -2.0, "rms": -1.0}


def write_mrc(
    file: BinaryIO, head: bytes, stored: np.dtype[Any], shape: Sequence[int], blocks: Blocks
) -> None:
    """Write header and blocks, and the statistics of the values into the header."""
    statistics, final = _Statistics(), np.frombuffer(head, HEADER_DTYPE.newbyteorder("<")).copy()

    def counted_blocks() -> Iterator[tuple[Region, Array]]:
        for region, block in blocks():
            statistics.add(block)
            yield region, block

    write_content(file, head, stored, shape, counted_blocks)
    for field, value in statistics.header_fields().items():
        final[field] = value
    file.seek(0)
    file.write(final.tobytes())


def mrc_header(path: PathLike, variable: Variable) -> tuple[bytes, np.dtype[Any]]:
    """Return the header of an MRC2014 file without statistics of its values, and its stored dtype.

    Volumes (z, y, x) get ISPG 1, stacks of volumes (k, z, y, x) ISPG 401, images (y, x) and
    stacks of images (k, y, x) ISPG 0. Lengths are written in angstrom, 0 if unknown. Labels in
    the header hold the dims, the unit and the name for our reader.

    Raises
    ------
    LabelError
        MRC has no mode for the dtype or no space group for the dims, positions decrease, an axis
        has length 0, or a ``.mrcs`` file is to hold volumes.

    References
    ----------
    Cheng et al., J. Struct. Biol. 192, 146 (2015): MRC2014.
    """
    if os.fspath(path).lower().endswith(".mrcs") and variable.dims != (STACK, "y", "x"):
        raise LabelError(
            f"save: .mrcs files must hold a stack of images (k, y, x), got dims {variable.dims} "
            f"for {path}; save volumes as .mrc, or as .star with one file per particle"
        )
    stored = FORM.stored(path, variable)
    fields = _shape_fields(variable.shape, variable.dims)
    fields["mode"] = MODE_OF[stored.name]
    unit = variable.unit if parse_unit(variable.unit) else ""
    notes = {"dims": " ".join(variable.dims), "unit": unit, "name": variable.name or ""}
    labels = [f"{LABEL_PREFIX} {k} {v}" for k, v in notes.items() if fits_label(v)]
    labels = [LABEL_PREFIX, *labels]
    fields["nlabl"], fields["label"][: len(labels)] = len(labels), [n.encode() for n in labels]
    factor = _angstrom_per(variable.unit)
    for axis, count in zip("xyz", (fields["mx"], fields["my"], fields["mz"]), strict=True):
        fields["cella"][axis] = factor * variable.voxel_size.get(axis, 0.0) * count
        fields["origin"][axis] = factor * variable.origin.get(axis, 0.0)
    return fields.tobytes(), stored


def fits_label(text: str) -> bool:
    """Return True if a label of an MRC header restores a text."""
    plain = text.isascii() and text.isprintable() and text == text.strip()
    return bool(text) and plain and len(f"{LABEL_PREFIX} name {text}") <= LABEL_BYTES


def _angstrom_per(unit: str) -> float:
    """Return angstrom per unit; 0, which means unknown in MRC, for units that are no length."""
    parsed = parse_unit(unit)
    return convert_length(parsed[1], parsed[0], "angstrom") if parsed else 0.0


def _shape_fields(shape: Sequence[int], dims: tuple[str, ...]) -> np.ndarray:
    """Return a header with all fields but mode, lengths, labels and statistics."""
    sections = prod(shape[:-2])
    per_volume = shape[-3] if "z" in dims else 1
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    header["nx"], header["ny"], header["nz"] = shape[-1], shape[-2], sections
    header["mx"], header["my"], header["mz"] = shape[-1], shape[-2], per_volume
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"], header["nversion"] = SPACE_GROUPS[dims], VERSION
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    return header

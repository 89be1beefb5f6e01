"""Read and write NIfTI files: nibabel parses and makes the header, regions are read here."""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, TruncatedError
from lazyvol.io.axes import common_unit, convert_length, count_elements, order_axes, parse_unit
from lazyvol.io.compressed import CompressedSource, array_source, decoded_head, unpacked_name
from lazyvol.io.export import Form
from lazyvol.io.faults import Repairs, formats_library, library_errors
from lazyvol.io.flat_file import (
    FlatFileSource,
    Layout,
    StoredFile,
    check_dtype,
    stored_file,
)
from lazyvol.io.opened import Opened
from lazyvol.io.region_source import DecodedSource
from lazyvol.io.zarr.layout import Variable
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, size
from lazyvol.stack import SPATIAL

SUFFIXES = (".nii",)
HEADER_BYTES = {348: "Nifti1Header", 540: "Nifti2Header"}
#: axes as stored, fastest first
AXES = ("x", "y", "z", "k", "channel")
FORM = Form(
    "NIfTI",
    (
        *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
        *("float32", "float64"),
    ),
    (("y", "x"), ("z", "y", "x"), ("k", "z", "y", "x")),
)
#: the longest axis of a NIfTI-1 file
LONGEST = 32767
#: description in the header of our files, whose ``sform`` holds the origin
OURS = b"lazyvol"


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return the volume (z, y, x) or series (k, z, y, x) of a NIfTI-1 or NIfTI-2 file.

    Scaled integers become float64, as in nibabel. Spacing without a unit is in millimetres, as
    NIfTI defines, unless it is 1 along all axes: then it was never set. Orientation is not applied.

    Parameters
    ----------
    path
        A ``.nii``, ``.nii.gz`` or ``.nii.bz2`` file.
    permissive
        Ignore bytes after the data.

    Raises
    ------
    FormatError
        The header breaks the rules, the data are not real numbers, or nibabel is missing.
    TruncatedError
        The file is shorter than its header promises.
    """
    file = stored_file(path)
    codec, first = decoded_head(file, max(HEADER_BYTES))
    header = parse_header(first, file.path)
    shape, names = axes_of(header, file.path)
    dims, order = order_axes(names, file.path)
    layout = Layout(offset_of(header, file), stored_dtype(header, file.path), shape, order)
    spacing, unit = voxel_size(header, dims)
    return Opened(
        source=apply_scale(
            header, array_source(file, codec, layout, Repairs(file.path, permissive))
        ),
        dims=dims,
        voxel_size=spacing,
        unit=unit,
        origin=origin_of(header, spacing),
        name=unpacked_name(file.path)[0],
    )


def is_nifti(head: bytes) -> bool:
    """Return True if a file starts like a single NIfTI file."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def parse_header(first: bytes, where: str) -> Any:
    """Return the header object of nibabel."""
    nibabel = formats_library("nibabel", where)
    sizes = {struct.unpack_from(f"{order}i", first.ljust(4))[0]: order for order in "<>"}
    length = next((n for n in HEADER_BYTES if n in sizes), 0)
    if not length or not is_nifti(first):
        raise FormatError(f"{where}: the file must be a single .nii file with a NIfTI header")
    if len(first) < length:
        raise TruncatedError(
            f"{where}: a NIfTI header must have {length} bytes, found {len(first)}; copy it again"
        )
    with library_errors(where, "nibabel refuses the header"):
        return getattr(nibabel, HEADER_BYTES[length])(first[:length], check=False)


def axes_of(header: Any, where: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return stored shape and axis names, slowest first, without a time axis of length 1."""
    count = int(header["dim"][0])
    shape = [int(n) for n in header["dim"][1 : 1 + max(0, count)]]
    names = list(AXES[: len(shape)])
    if not 2 <= count <= 5:
        raise FormatError(f"{where}: NIfTI data must have 2 to 5 axes, found dim[0] = {count}")
    if count == 5 and shape[3] == 1:
        del shape[3], names[3]
    count_elements(shape, where)
    return tuple(reversed(shape)), tuple(reversed(names))


def stored_dtype(header: Any, where: str) -> str:
    """Return the stored dtype with its byte order."""
    with library_errors(where, "unknown NIfTI datatype"):
        dtype = header.get_data_dtype()
    return check_dtype(np.dtype(dtype), where).str


def offset_of(header: Any, file: StoredFile) -> int:
    """Return the offset of the first voxel."""
    offset = float(header["vox_offset"])
    minimum = int(header["sizeof_hdr"]) + 4
    if not minimum <= offset < 2**62:
        raise FormatError(
            f"{file.path}: vox_offset of a single NIfTI file must be {minimum} or more, "
            f"found {offset}"
        )
    return int(offset)


def voxel_size(header: Any, dims: tuple[str, ...]) -> tuple[dict[str, float], str]:
    """Return the spacing of z, y, x and its unit."""
    zooms = [float(f"{abs(float(z)):.7g}") for z in header["pixdim"][1:4]]
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = "unknown"
    if unit == "unknown" and all(zoom == 1.0 for zoom in zooms):
        return {}, "voxel"
    unit = "mm" if unit == "unknown" else unit
    sizes = {d: (zoom, unit) for d, zoom in zip("xyz", zooms, strict=True) if d in dims}
    return common_unit(sizes)


def origin_of(header: Any, spacing: Mapping[str, float]) -> dict[str, float]:
    """Return the position of the first voxel in a file that we wrote."""
    if header["descrip"].item() != OURS:
        return {}
    last_column = header.get_sform()[:3, 3]
    return {d: float(f"{p:.7g}") for d, p in zip("xyz", last_column, strict=True) if d in spacing}


def nifti_header(path: str, variable: Variable) -> tuple[bytes, np.dtype[Any]]:
    """Return the header of a NIfTI file, up to the first voxel, and the stored dtype.

    Lengths are in millimetres if that is their unit and otherwise in micrometres, as NIfTI knows
    no smaller unit; they are written if known along every spatial dim. The origin is in ``sform``.
    Axes longer than 32,767 voxels make a NIfTI-2 file.

    Raises
    ------
    LabelError
        NIfTI has no type for the dtype or no form for the dims, or an axis has length 0.
    FormatError
        nibabel is missing.

    References
    ----------
    Cox et al., "A (sort of) new image data format standard: NIfTI-1", NeuroImage 22, e1440 (2004).
    """
    stored = FORM.stored(path, variable)
    nibabel = formats_library("nibabel", path)
    kind = nibabel.Nifti1Header if max(variable.shape) <= LONGEST else nibabel.Nifti2Header
    header = kind(endianness="<")
    header.set_data_dtype(stored)
    header.set_data_shape(variable.shape[::-1])
    header.set_slope_inter(1.0, 0.0)
    header["vox_offset"] = header.single_vox_offset
    header["descrip"] = OURS
    if holds_lengths(variable):
        set_lengths(header, variable)
    return header.binaryblock.ljust(int(header["vox_offset"]), b"\0"), stored


def holds_lengths(variable: Variable) -> bool:
    """Return True for the spacing of all spatial dims in a unit of length."""
    spatial = {d for d in variable.dims if d in SPATIAL}
    return set(variable.voxel_size) == spatial and parse_unit(variable.unit) is not None


def set_lengths(header: Any, variable: Variable) -> None:
    """Write spacing and origin into a header."""
    parsed = parse_unit(variable.unit)
    assert parsed is not None  # `holds_lengths`
    target = "millimeter" if parsed[0] == "millimeter" else "micrometer"
    factor = convert_length(parsed[1], parsed[0], target)
    sizes = {d: factor * length for d, length in variable.voxel_size.items()}
    header.set_zooms([sizes.get(d, 1.0) for d in reversed(variable.dims)])
    header.set_xyzt_units("mm" if target == "millimeter" else "micron")
    affine = np.diag([*(sizes.get(d, 0.0) for d in "xyz"), 1.0])
    affine[:3, 3] = [factor * variable.origin.get(d, 0.0) for d in "xyz"]
    header.set_sform(affine, "aligned")


def apply_scale(header: Any, source: FlatFileSource | CompressedSource) -> Source:
    """Return a source with slope and intercept of the header applied, if they change values."""
    with library_errors(source.file.path, "scl_slope or scl_inter"):
        slope, intercept = header.get_slope_inter()
    if slope is None or (slope == 1.0 and intercept == 0.0):
        return source
    return ScaledSource(source, "float64", slope=float(slope), intercept=float(intercept))


@dataclass(eq=False)
class ScaledSource(DecodedSource):
    """``slope * stored + intercept`` in float64."""

    slope: float = field(kw_only=True)
    intercept: float = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.token = f"{self.token}-{self.slope}-{self.intercept}"

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region, scaled, into ``out``."""
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(self.source.read(region), self.slope, out=out)
            out += self.intercept

    def peak_bytes(self, region: Region) -> int:
        """Return the peak memory of reading the unscaled data, or of scaling them."""
        itemsizes = np.dtype(self.source.dtype).itemsize + self.dtype.itemsize
        return max(self.source.peak_bytes(region), size(region) * itemsizes)

"""Write single files for other programs: NPY and MRC block by block, TIFF at once."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite, prod, sqrt
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from mrcfile.dtypes import HEADER_DTYPE

from lazyvol.errors import LabelError
from lazyvol.io.atomic import PathLike, write_file
from lazyvol.io.axes import METRES, TIFF_AXES, parse_unit
from lazyvol.io.mrc.header import LABEL_PREFIX
from lazyvol.io.zarr.labels import RECORD_KEY, Labels, encode_record
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size, whole
from lazyvol.stack import STACK

#: returns the blocks of an array, each with its region; together they cover it once
Blocks = Callable[[], Iterable[tuple[Region, Array]]]

MRC_MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}
MRC_VERSION = 20141
#: MRC space group of an array with these dims
MRC_SPACE_GROUPS = {
    ("y", "x"): 0,
    (STACK, "y", "x"): 0,
    ("z", "y", "x"): 1,
    (STACK, "z", "y", "x"): 401,
}
TIFF_DTYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32"),
    *("float32", "float64"),
)
TIFF_UNITS = {"angstrom": "\u00c5", "nanometer": "nm", "micrometer": "\u00b5m", "millimeter": "mm"}


def write_npy(
    path: PathLike,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    blocks: Blocks,
    *,
    overwrite: bool = False,
) -> None:
    """Write an NPY file block by block; it appears under its name when it is complete.

    Parameters
    ----------
    path
        The file.
    shape, dtype
        Shape and dtype of the whole array.
    blocks
        Called once; returns pairs of a region and its values, in any order. Blocks that cover
        whole leading indices are written fastest.
    overwrite
        Replace an existing file.

    Raises
    ------
    LabelError
        The dtype is not numeric, or the blocks do not cover the array once.
    TargetExistsError
        Something is stored under ``path``.
    StoreError
        The operating system refuses; ``path`` is unchanged.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> values = np.arange(24.0).reshape(2, 3, 4)
    >>> with TemporaryDirectory() as folder:
    ...     write_npy(f"{folder}/a.npy", (2, 3, 4), "float64", whole_array(values))
    ...     bool((np.load(f"{folder}/a.npy") == values).all())
    True
    """
    stored = np.dtype(dtype).newbyteorder("<")
    if stored.kind not in "biufc":
        raise LabelError(f"{path}: NPY files must hold numbers, got {stored}; convert it")
    header = {"descr": stored.str, "fortran_order": False, "shape": tuple(map(int, shape))}

    def write(file: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(file, header)
        for _ in write_blocks(file, file.tell(), shape, stored, blocks):
            pass

    write_file(path, overwrite, write)


def whole_array(values: Array) -> Blocks:
    """Return an array in memory as a single block."""
    return lambda: [(whole(values.shape), values)]


def write_blocks(
    file: BinaryIO, offset: int, shape: Sequence[int], dtype: np.dtype[Any], blocks: Blocks
) -> Iterator[Array]:
    """Write the blocks of a C-order array that begins at ``offset``, and yield each."""
    written = 0
    for region, block in blocks():
        if block.shape != lengths(region):
            raise LabelError(f"the block for {region} must be {lengths(region)}, got {block.shape}")
        _write_block(file, offset, shape, region, np.asarray(block, dtype))
        written += size(region)
        yield block
    if written != prod(shape):
        raise LabelError(
            f"blocks must cover all {prod(shape)} elements of {tuple(shape)} once, got {written}"
        )


def _write_block(
    file: BinaryIO, offset: int, shape: Sequence[int], region: Region, block: Array
) -> None:
    """Write a block in its contiguous pieces, as few as possible."""
    depth = len(shape)
    while depth and lengths(region[depth:]) == tuple(shape[depth:]):
        depth -= 1
    strides = [prod(shape[axis + 1 :]) * block.itemsize for axis in range(len(shape))]
    base = offset + sum(s.start * step for s, step in zip(region, strides, strict=True))
    for index in product(*map(range, block.shape[:depth])):
        file.seek(base + sum(i * step for i, step in zip(index, strides, strict=False)))
        file.write(np.ascontiguousarray(block[index]).reshape(-1).view(np.uint8).data)


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
    path: PathLike,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    blocks: Blocks,
    *,
    dims: Sequence[str],
    voxel_size: Mapping[str, float] | None = None,
    unit: str = "angstrom",
    origin: Mapping[str, float] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write an MRC2014 file block by block; it appears under its name when it is complete.

    Volumes (z, y, x) get ISPG 1, stacks of volumes (k, z, y, x) ISPG 401, images (y, x) and
    stacks of images (k, y, x) ISPG 0. Lengths are written in angstrom, 0 if unknown. Labels in
    the header hold the dims, the unit and the name for our reader.

    Parameters
    ----------
    path
        The file.
    shape, dtype
        Shape and dtype of the whole array: int8, int16, uint16, float16 or float32.
    blocks
        As for `write_npy`.
    dims
        Names of the axes.
    voxel_size, unit, origin
        Spacing and position of the first voxel by spatial dim, and their unit.
    name
        Name of the quantity; left out if it does not fit in a label.
    overwrite
        Replace an existing file.

    Raises
    ------
    LabelError
        MRC has no mode for the dtype or no space group for the dims, or an axis has length 0.
    TargetExistsError, StoreError
        As for `write_npy`.

    References
    ----------
    Cheng et al., J. Struct. Biol. 192, 146 (2015): MRC2014.
    """
    kind = np.dtype(dtype).name
    if kind not in MRC_MODES:
        raise LabelError(
            f"{path}: MRC files must hold {', '.join(MRC_MODES)}, got {kind}; convert it, e.g. "
            "with astype('float32')"
        )
    header = _mrc_header(path, shape, dims)
    header["mode"] = MRC_MODES[kind]
    notes = {"dims": " ".join(dims), "unit": unit if parse_unit(unit) else "", "name": name or ""}
    labels = [f"{LABEL_PREFIX} {k} {v}" for k, v in notes.items() if fits_label(v)]
    labels = [LABEL_PREFIX, *labels]
    header["nlabl"], header["label"][: len(labels)] = len(labels), [n.encode() for n in labels]
    factor = _angstrom_per(unit)
    for axis, count in zip("xyz", (header["mx"], header["my"], header["mz"]), strict=True):
        header["cella"][axis] = factor * (voxel_size or {}).get(axis, 0.0) * count
        header["origin"][axis] = factor * (origin or {}).get(axis, 0.0)

    def write(file: BinaryIO) -> None:
        statistics = _Statistics()
        file.write(header.tobytes())
        little = np.dtype(dtype).newbyteorder("<")
        for block in write_blocks(file, HEADER_DTYPE.itemsize, shape, little, blocks):
            statistics.add(block)
        for field, value in statistics.header_fields().items():
            header[field] = value
        file.seek(0)
        file.write(header.tobytes())

    write_file(path, overwrite, write)


def fits_label(text: str) -> bool:
    """Return True if a label of an MRC header restores a text."""
    plain = text.isascii() and text.isprintable() and text == text.strip()
    return bool(text) and plain and len(f"{LABEL_PREFIX} name {text}") <= 80


def _require_voxels(path: PathLike, shape: Sequence[int], format_name: str) -> None:
    if 0 in shape:
        raise LabelError(
            f"{path}: {format_name} files must hold one voxel or more, got shape {tuple(shape)}; "
            "save a .zarr"
        )


def _angstrom_per(unit: str) -> float:
    """Return angstrom per unit; 0, which means unknown in MRC, for units that are no length."""
    parsed = parse_unit(unit)
    return METRES[parsed[0]] * parsed[1] / METRES["angstrom"] if parsed else 0.0


def _mrc_header(path: PathLike, shape: Sequence[int], dims: Sequence[str]) -> np.ndarray:
    """Return a header with all fields but mode, lengths, labels and statistics."""
    if tuple(dims) not in MRC_SPACE_GROUPS or len(shape) != len(dims):
        raise LabelError(
            f"{path}: MRC files must hold (z, y, x), (k, z, y, x), (k, y, x) or (y, x), got dims "
            f"{tuple(dims)}; transpose it, or save it as .zarr"
        )
    _require_voxels(path, shape, "MRC")
    sections = prod(shape[:-2])
    per_volume = shape[-3] if "z" in dims else 1
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    header["nx"], header["ny"], header["nz"] = shape[-1], shape[-2], sections
    header["mx"], header["my"], header["mz"] = shape[-1], shape[-2], per_volume
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"], header["nversion"] = MRC_SPACE_GROUPS[tuple(dims)], MRC_VERSION
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    return header


def write_tiff(
    path: PathLike,
    values: Array,
    *,
    dims: Sequence[str],
    voxel_size: Mapping[str, float] | None = None,
    unit: str = "micrometer",
    labels: Labels | None = None,
    overwrite: bool = False,
) -> None:
    """Write an OME-TIFF file, one page per plane; it appears under its name when complete.

    The stack axis k becomes T, channel becomes C. An annotation holds the labels that OME cannot
    hold. The array is in memory; save larger results as MRC or zarr.

    Parameters
    ----------
    path
        The file.
    values
        Array of 8- to 32-bit integers, float32 or float64.
    dims
        Names of the axes: k, channel, z, y, x in this order, at least y and x.
    voxel_size, unit
        Spacing by spatial dim, and its unit.
    labels
        All labels, which `lazyvol.open` restores.
    overwrite
        Replace an existing file.

    Raises
    ------
    LabelError
        OME-TIFF cannot hold the dtype or the dims, an axis has length 0, or a label has no plain
        value.
    TargetExistsError, StoreError
        As for `write_npy`.
    """
    axes = "".join(TIFF_AXES.get(dim, "?") for dim in dims)
    if values.dtype.name not in TIFF_DTYPES:
        raise LabelError(
            f"{path}: OME-TIFF files must hold {', '.join(TIFF_DTYPES)}, got {values.dtype}; "
            "convert it, e.g. with astype('float32')"
        )
    in_order = axes == "".join(letter for letter in "TCZYX" if letter in axes)
    if not in_order or not axes.endswith("YX") or len(axes) != values.ndim:
        raise LabelError(
            f"{path}: OME-TIFF axes must be k, channel, z, y, x in this order, at least y and x, "
            f"got {tuple(dims)}; transpose it, or save it as .zarr"
        )
    _require_voxels(path, values.shape, "OME-TIFF")
    metadata: dict[str, Any] = {"axes": axes}
    if labels is not None:
        content = json.dumps(encode_record(labels, values.shape, values.dtype))
        metadata["CommentAnnotation"] = {"Namespace": RECORD_KEY, "Value": content}
        if labels.name and labels.name.isprintable():
            metadata["Name"] = labels.name
    parsed = parse_unit(unit)
    for dim, length in (voxel_size or {}).items():
        if parsed and dim in dims and dim in "zyx" and length > 0:
            metadata[f"PhysicalSize{dim.upper()}"] = length * parsed[1]
            metadata[f"PhysicalSize{dim.upper()}Unit"] = TIFF_UNITS[parsed[0]]

    def write(file: BinaryIO) -> None:
        tifffile.imwrite(file, values, ome=True, photometric="minisblack", metadata=metadata)

    write_file(path, overwrite, write)

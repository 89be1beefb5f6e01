"""Single files that other programs read: NPY and MRC written block by block, TIFF at once."""

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
from lazyvol.io.axes import METRES, TIFF_AXES, unit_of
from lazyvol.io.mrc.header import MARK
from lazyvol.io.zarr.labels import KEY, Labels, record
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size, whole
from lazyvol.stack import STACK

#: makes the blocks of an array, each with its region, together all of it and nothing twice
Blocks = Callable[[], Iterable[tuple[Region, Array]]]

MRC_MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}
MRC_VERSION = 20141
#: space group by dims
MRC_FORMS = {
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
    """Write an NPY file block by block; it has its name only when it is complete.

    Parameters
    ----------
    path
        The file.
    shape, dtype
        Of the whole array.
    blocks
        Called once; gives pairs of a region and its values. Blocks of whole leading indices are
        fastest, in any order.
    overwrite
        Replace a file that is there.

    Raises
    ------
    LabelError
        The dtype is no number, or the blocks do not cover the array once.
    TargetExistsError
        Something is stored under ``path`` already.
    StoreError
        The operating system refuses; nothing is left.

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
        raise LabelError(f"{path}: NPY files of ours hold numbers, got {stored}; convert it")
    head = {"descr": stored.str, "fortran_order": False, "shape": tuple(map(int, shape))}

    def write(file: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(file, head)
        for _ in stored_blocks(file, file.tell(), shape, stored, blocks):
            pass

    write_file(path, overwrite, write)


def whole_array(values: Array) -> Blocks:
    """An array in memory as its only block."""
    return lambda: [(whole(values.shape), values)]


def stored_blocks(
    file: BinaryIO, offset: int, shape: Sequence[int], dtype: np.dtype[Any], blocks: Blocks
) -> Iterator[Array]:
    """Write blocks of a C-order array that begins at ``offset``; gives each one back."""
    seen = 0
    for region, block in blocks():
        if block.shape != lengths(region):
            raise LabelError(f"the block for {region} must be {lengths(region)}, got {block.shape}")
        _put(file, offset, shape, region, np.asarray(block, dtype))
        seen += size(region)
        yield block
    if seen != prod(shape):
        raise LabelError(
            f"blocks must cover all {prod(shape)} elements of {tuple(shape)} once, got {seen}"
        )


def _put(file: BinaryIO, offset: int, shape: Sequence[int], region: Region, block: Array) -> None:
    """Write a block in as few pieces as lie together in the file."""
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
    """Count, mean, centred square sum and range of values, merged block by block."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def add(self, block: Array) -> None:
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

    def words(self) -> dict[str, float]:
        """Header words; the values that mean "not known" where the data are not finite."""
        rms = sqrt(self.squares / self.count) if self.count else 0.0
        words = {"dmin": self.low, "dmax": self.high, "dmean": self.mean, "rms": rms}
        if all(isfinite(word) for word in words.values()):
            return words
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
    """Write an MRC2014 file block by block; it has its name only when it is complete.

    Volumes (z, y, x) are ISPG 1, stacks of volumes (k, z, y, x) ISPG 401, images (y, x) and
    stacks of them (k, y, x) ISPG 0. Lengths are written in angstrom, 0 where they are not known.
    Labels of the header tell our reader the dims, the unit and the name.

    Parameters
    ----------
    path
        The file.
    shape, dtype
        Of the whole array; int8, int16, uint16, float16 and float32 have a mode.
    blocks
        As in `write_npy`.
    dims
        Names of the axes.
    voxel_size, unit, origin
        Spacing and position of the first voxel per spatial dim, and their unit.
    name
        Name of the quantity; left out where it does not fit in a label.
    overwrite
        Replace a file that is there.

    Raises
    ------
    LabelError
        A dtype without a mode, dims that MRC has no form for, or an axis of length 0.
    TargetExistsError, StoreError
        As `write_npy`.
    """
    kind = np.dtype(dtype).name
    if kind not in MRC_MODES:
        raise LabelError(
            f"{path}: MRC files hold {', '.join(MRC_MODES)}, got {kind}; convert it, e.g. with "
            "astype('float32')"
        )
    header = _mrc_header(path, shape, dims)
    header["mode"] = MRC_MODES[kind]
    notes = {"dims": " ".join(dims), "unit": unit if unit_of(unit) else "", "name": name or ""}
    labels = [MARK, *(f"{MARK} {k} {v}" for k, v in notes.items() if fits_label(v))]
    header["nlabl"], header["label"][: len(labels)] = len(labels), [n.encode() for n in labels]
    factor = _angstrom(unit)
    for axis, count in zip("xyz", (header["mx"], header["my"], header["mz"]), strict=True):
        header["cella"][axis] = factor * (voxel_size or {}).get(axis, 0.0) * count
        header["origin"][axis] = factor * (origin or {}).get(axis, 0.0)

    def write(file: BinaryIO) -> None:
        found = _Statistics()
        file.write(header.tobytes())
        for block in stored_blocks(file, HEADER_DTYPE.itemsize, shape, _little(dtype), blocks):
            found.add(block)
        for word, value in found.words().items():
            header[word] = value
        file.seek(0)
        file.write(header.tobytes())

    write_file(path, overwrite, write)


def fits_label(text: str) -> bool:
    """Whether a text comes back from a label of an MRC header."""
    plain = text.isascii() and text.isprintable() and text == text.strip()
    return bool(text) and plain and len(f"{MARK} name {text}") <= 80


def _require_voxels(path: PathLike, shape: Sequence[int], what: str) -> None:
    if 0 in shape:
        raise LabelError(
            f"{path}: {what} files must hold one voxel or more, got shape {tuple(shape)}; save a "
            ".zarr"
        )


def _little(dtype: npt.DTypeLike) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _angstrom(unit: str) -> float:
    """Angstrom per unit; 0 for units that are no length, so that sizes read as not known."""
    found = unit_of(unit)
    return METRES[found[0]] * found[1] / METRES["angstrom"] if found else 0.0


def _mrc_header(path: PathLike, shape: Sequence[int], dims: Sequence[str]) -> np.ndarray:
    if tuple(dims) not in MRC_FORMS or len(shape) != len(dims):
        raise LabelError(
            f"{path}: MRC files hold (z, y, x), (k, z, y, x), (k, y, x) or (y, x), got dims "
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
    header["ispg"], header["nversion"] = MRC_FORMS[tuple(dims)], MRC_VERSION
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
    """Write an OME-TIFF file, a page per plane; it has its name only when it is complete.

    The stack axis k becomes T, channel C. An annotation holds what OME has no place for.
    The array is in memory: for larger results save an MRC or a zarr store.

    Parameters
    ----------
    path
        The file.
    values
        Array of 8- to 32-bit integers, float32 or float64.
    dims
        Names of its axes: y and x at the end, before them k, channel and z in this order.
    voxel_size, unit
        Spacing per spatial dim, and its unit.
    labels
        All labels, which `lazyvol.open` finds again.
    overwrite
        Replace a file that is there.

    Raises
    ------
    LabelError
        A dtype or dims that OME-TIFF has no form for, an axis of length 0, or labels that are no
        plain values.
    TargetExistsError, StoreError
        As `write_npy`.
    """
    axes = "".join(TIFF_AXES.get(dim, "?") for dim in dims)
    if values.dtype.name not in TIFF_DTYPES:
        raise LabelError(
            f"{path}: OME-TIFF files hold {', '.join(TIFF_DTYPES)}, got {values.dtype}; convert "
            "it, e.g. with astype('float32')"
        )
    in_order = axes == "".join(letter for letter in "TCZYX" if letter in axes)
    if not in_order or not axes.endswith("YX") or len(axes) != values.ndim:
        raise LabelError(
            f"{path}: OME-TIFF axes are k, channel, z, y, x in this order, y and x among them, "
            f"got {tuple(dims)}; transpose it, or save it as .zarr"
        )
    _require_voxels(path, values.shape, "OME-TIFF")
    metadata: dict[str, Any] = {"axes": axes}
    if labels is not None:
        content = json.dumps(record(labels, values.shape, values.dtype))
        metadata["CommentAnnotation"] = {"Namespace": KEY, "Value": content}
        if labels.name and labels.name.isprintable():
            metadata["Name"] = labels.name
    found = unit_of(unit)
    for dim, length in (voxel_size or {}).items():
        if found and dim in dims and dim in "zyx" and length > 0:
            metadata[f"PhysicalSize{dim.upper()}"] = length * found[1]
            metadata[f"PhysicalSize{dim.upper()}Unit"] = TIFF_UNITS[found[0]]

    def write(file: BinaryIO) -> None:
        tifffile.imwrite(file, values, ome=True, photometric="minisblack", metadata=metadata)

    write_file(path, overwrite, write)

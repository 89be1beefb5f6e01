"""Write single files for other programs: NPY block by block, TIFF at once."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from lazyvol.errors import LabelError
from lazyvol.io.atomic import PathLike, write_file
from lazyvol.io.axes import TIFF_AXES, parse_unit
from lazyvol.io.zarr.labels import RECORD_KEY, Labels, encode_record
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size, whole

#: returns the blocks of an array, each with its region; together they cover it once
Blocks = Callable[[], Iterable[tuple[Region, Array]]]

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
        write_blocks(file, file.tell(), shape, stored, blocks)

    write_file(path, overwrite, write)


def whole_array(values: Array) -> Blocks:
    """Return an array in memory as a single block."""
    return lambda: [(whole(values.shape), values)]


def write_blocks(
    file: BinaryIO, offset: int, shape: Sequence[int], dtype: np.dtype[Any], blocks: Blocks
) -> None:
    """Write the blocks of a C-order array that begins at ``offset``."""
    written = 0
    for region, block in blocks():
        if block.shape != lengths(region):
            raise LabelError(f"the block for {region} must be {lengths(region)}, got {block.shape}")
        _write_block(file, offset, shape, region, np.asarray(block, dtype))
        written += size(region)
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


def require_dtype(
    path: PathLike, dtype: npt.DTypeLike, names: Collection[str], format_name: str
) -> np.dtype[Any]:
    """Return the dtype, little-endian; raise LabelError if it is none of those of the format."""
    stored = np.dtype(dtype).newbyteorder("<")
    if stored.name not in names:
        raise LabelError(
            f"{path}: {format_name} files must hold {', '.join(names)}, got {stored.name}; convert "
            "it, e.g. with astype('float32')"
        )
    return stored


def require_voxels(path: PathLike, shape: Sequence[int], format_name: str) -> None:
    """Raise LabelError for an array without elements."""
    if 0 in shape:
        raise LabelError(
            f"{path}: {format_name} files must hold one voxel or more, got shape {tuple(shape)}; "
            "save a .zarr"
        )


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
    require_dtype(path, values.dtype, TIFF_DTYPES, "OME-TIFF")
    in_order = axes == "".join(letter for letter in "TCZYX" if letter in axes)
    if not in_order or not axes.endswith("YX") or len(axes) != values.ndim:
        raise LabelError(
            f"{path}: OME-TIFF axes must be k, channel, z, y, x in this order, at least y and x, "
            f"got {tuple(dims)}; transpose it, or save it as .zarr"
        )
    require_voxels(path, values.shape, "OME-TIFF")
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
        named = tifffile.FileHandle(file, name=os.path.basename(path))  # the file may have no name
        tifffile.imwrite(named, values, ome=True, photometric="minisblack", metadata=metadata)

    write_file(path, overwrite, write)

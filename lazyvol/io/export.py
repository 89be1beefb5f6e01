"""Write single files for other programs: arrays block by block, TIFF at once."""

import gzip
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from io import BytesIO
from itertools import product
from math import prod
from typing import Any, BinaryIO, cast

import numpy as np
import tifffile

from lazyvol.errors import LabelError
from lazyvol.io.atomic import PathLike, new_file
from lazyvol.io.axes import TIFF_AXES, parse_unit
from lazyvol.io.zarr.labels import RECORD_KEY, encode_record
from lazyvol.io.zarr.layout import Variable
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size, whole
from lazyvol.stack import STACK

#: returns the blocks of an array, each with its region; together they cover it once
Blocks = Callable[[], Iterable[tuple[Region, Array]]]

TIFF_DTYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32"),
    *("float32", "float64"),
)
TIFF_FORMS = tuple(
    (*lead, *space, "y", "x")
    for lead in ((), (STACK,), ("channel",), (STACK, "channel"))
    for space in ((), ("z",))
)
TIFF_UNITS = {"angstrom": "\u00c5", "nanometer": "nm", "micrometer": "\u00b5m", "millimeter": "mm"}


def npy_header(path: str, variable: Variable) -> tuple[bytes, np.dtype[Any]]:
    """Return the header of an NPY file and the stored dtype; raise LabelError for no numbers."""
    stored = np.dtype(variable.dtype).newbyteorder("<")
    if stored.kind not in "biufc":
        raise LabelError(f"{path}: NPY files must hold numbers, got {stored}; convert it")
    shape = tuple(map(int, variable.shape))
    header = {"descr": stored.str, "fortran_order": False, "shape": shape}
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue(), stored


def write_array(
    path: PathLike,
    head: bytes,
    stored: np.dtype[Any],
    shape: Sequence[int],
    blocks: Blocks,
    overwrite: bool = False,
) -> None:
    """Write a header and an array, block by block; the file appears when it is complete.

    A name that ends in ``.gz`` makes a compressed file, whose blocks must come in the order of the
    array and be whole along all axes behind the one that they divide.

    Parameters
    ----------
    path
        The file.
    head
        Its bytes before the array.
    stored, shape
        Dtype and shape of the whole array.
    blocks
        Called once; returns pairs of a region and its values, in any order. Blocks that cover
        whole leading indices are written fastest.
    overwrite
        Replace an existing file.

    Raises
    ------
    LabelError
        The blocks do not cover the array once.
    TargetExistsError
        Something is stored under ``path``.
    StoreError
        The operating system refuses; ``path`` is unchanged.
    """
    packed = os.fspath(path).lower().endswith(".gz")
    with (
        new_file(path, overwrite) as file,
        gzip.GzipFile("", "wb", 1, file, mtime=0) if packed else nullcontext(file) as target,
    ):
        target.write(head)
        write_blocks(cast(BinaryIO, target), len(head), shape, stored, blocks)


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


def require_form(
    path: PathLike,
    variable: Variable,
    dtypes: Collection[str],
    forms: Collection[tuple[str, ...]],
    format_name: str,
) -> np.dtype[Any]:
    """Return the stored dtype, little-endian.

    Raises
    ------
    LabelError
        The dtype or the dims are none of those of the format, or an axis has length 0.
    """
    stored = np.dtype(variable.dtype).newbyteorder("<")
    if variable.dims not in forms or len(variable.shape) != len(variable.dims):
        known = ", ".join(f"({', '.join(form)})" for form in forms)
        raise LabelError(
            f"{path}: {format_name} files must hold the dims {known}, got {variable.dims}; "
            "transpose it, or save it as .zarr"
        )
    if stored.name not in dtypes:
        raise LabelError(
            f"{path}: {format_name} files must hold {', '.join(dtypes)}, got {stored.name}; "
            "convert it, e.g. with astype('float32')"
        )
    if 0 in variable.shape:
        raise LabelError(
            f"{path}: {format_name} files must hold one voxel or more, got shape {variable.shape}; "
            "save a .zarr"
        )
    return stored


def write_tiff(
    path: PathLike, values: Array, variable: Variable, *, overwrite: bool = False
) -> None:
    """Write an OME-TIFF file, one page per plane; it appears under its name when it is complete.

    The stack axis k becomes T, channel becomes C. An annotation holds the labels that OME cannot
    hold. The array is in memory; save larger results as MRC or zarr.

    Raises
    ------
    LabelError
        OME-TIFF cannot hold the dtype or the dims (k, channel, z, y, x in this order, at least y
        and x), an axis has length 0, or a label has no plain value.
    TargetExistsError, StoreError
        As for `write_array`.
    """
    require_form(path, variable, TIFF_DTYPES, TIFF_FORMS, "OME-TIFF")
    content = json.dumps(encode_record(variable, values.shape, values.dtype))
    metadata: dict[str, Any] = {
        "axes": "".join(TIFF_AXES[dim] for dim in variable.dims),
        "CommentAnnotation": {"Namespace": RECORD_KEY, "Value": content},
    }
    if variable.name and variable.name.isprintable():
        metadata["Name"] = variable.name
    parsed = parse_unit(variable.unit)
    for dim, length in variable.voxel_size.items():
        if parsed and length > 0:
            metadata[f"PhysicalSize{dim.upper()}"] = length * parsed[1]
            metadata[f"PhysicalSize{dim.upper()}Unit"] = TIFF_UNITS[parsed[0]]
    with new_file(path, overwrite) as file:
        named = tifffile.FileHandle(file, name=os.path.basename(path))  # the file may have no name
        tifffile.imwrite(named, values, ome=True, photometric="minisblack", metadata=metadata)

"""Write single files for other programs: arrays block by block, TIFF at once."""

import gzip
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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
#: writes a header and the blocks of an array of a shape and a stored dtype
Write = Callable[[BinaryIO, bytes, np.dtype[Any], Sequence[int], Blocks], None]


@dataclass(frozen=True)
class Form:
    """The arrays that the files of a format hold: their dtypes, dims and positions."""

    format: str
    dtypes: Collection[str]
    dims: Collection[tuple[str, ...]]
    decreasing: bool = False

    def stored(self, path: PathLike, variable: Variable) -> np.dtype[Any]:
        """Return the stored dtype, little-endian.

        Raises
        ------
        LabelError
            The format does not hold the dtype, the dims or decreasing positions, or an axis has
            length 0.
        """
        stored = np.dtype(variable.dtype).newbyteorder("<")
        must = f"{path}: {self.format} files must hold"
        if variable.dims not in self.dims or len(variable.shape) != len(variable.dims):
            known = ", ".join(f"({', '.join(dims)})" for dims in self.dims)
            raise LabelError(
                f"{must} the dims {known}, got {variable.dims}; transpose it, or save it as .zarr"
            )
        if stored.name not in self.dtypes:
            raise LabelError(
                f"{must} {', '.join(self.dtypes)}, got {stored.name}; convert it, e.g. with "
                "astype('float32')"
            )
        if 0 in variable.shape:
            raise LabelError(f"{must} one voxel or more, got shape {variable.shape}; save a .zarr")
        decreasing = [d for d, size in variable.voxel_size.items() if size < 0]
        if decreasing and not self.decreasing:
            raise LabelError(
                f"{path}: positions must increase, those along {decreasing} decrease; turn the "
                f"axes by isel({decreasing[0]}=slice(None, None, -1)), or save a .zarr or .tif"
            )
        return stored


TIFF = Form(
    "OME-TIFF",
    ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"),
    tuple(
        (*lead, *space, "y", "x")
        for lead in ((), (STACK,), ("channel",), (STACK, "channel"))
        for space in ((), ("z",))
    ),
    decreasing=True,
)
TIFF_UNITS = {"angstrom": "\u00c5", "nanometer": "nm", "micrometer": "\u00b5m", "millimeter": "mm"}


def write_array(
    path: PathLike,
    head: bytes,
    stored: np.dtype[Any],
    shape: Sequence[int],
    blocks: Blocks,
    overwrite: bool = False,
    write: Write | None = None,
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
    write
        Writes header and blocks, by default `write_content`.

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
        (write or write_content)(cast(BinaryIO, target), head, stored, shape, blocks)


def whole_array(values: Array) -> Blocks:
    """Return an array in memory as a single block."""
    return lambda: [(whole(values.shape), values)]


def write_content(
    file: BinaryIO, head: bytes, stored: np.dtype[Any], shape: Sequence[int], blocks: Blocks
) -> None:
    """Write a header, and behind it an array in C order, block by block."""
    file.write(head)
    written = 0
    for region, block in blocks():
        if block.shape != lengths(region):
            raise LabelError(f"the block for {region} must be {lengths(region)}, got {block.shape}")
        _write_block(file, len(head), shape, region, np.asarray(block, stored))
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
    TIFF.stored(path, variable)
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

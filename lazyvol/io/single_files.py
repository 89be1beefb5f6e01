"""Save an array as one file of another program, block by block, each computed when it is written.

TIFF is the exception: tifffile takes the whole array.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io import em, losses, nifti
from lazyvol.io.atomic import new_file
from lazyvol.io.compressed import SUFFIXES, unpacked_name
from lazyvol.io.export import npy_header, write_array, write_tiff
from lazyvol.io.losses import warn_of_losses
from lazyvol.io.mrc.writer import new_header, write_content
from lazyvol.io.zarr.layout import Variable
from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Grid, Region
from lazyvol.stack import STACK

TIFF = (".tif", ".tiff")
#: returns the bytes before the array and its stored dtype; raises LabelError
NewHeader = Callable[[str, Variable], tuple[bytes, np.dtype[Any]]]
Lost = Callable[[xr.DataArray, Variable, str], list[str]]


def suffix_of(path: str) -> str:
    """Return the suffix of a path or URL in lower case, with that before ``.gz`` or ``.bz2``.

    Examples
    --------
    >>> suffix_of("a.b/c.MRC"), suffix_of("mean.nii.gz"), suffix_of("s3://b/a.zarr/")
    ('.mrc', '.nii.gz', '')
    """
    last = os.path.splitext(path)[1].lower()
    return unpacked_name(path)[1] + last if last in SUFFIXES else last


def blocks_of(array: xr.DataArray, grid: Grid | None = None) -> Iterator[tuple[Region, Array]]:
    """Compute the blocks of an array one after the other, each when it is requested."""
    for _, region in regions.boxes(grid or _grid(array)):
        yield region, np.asarray(array.data[region])


def _grid(array: xr.DataArray) -> Grid:
    return array.chunks or tuple((n,) for n in array.shape)


def slabs(array: xr.DataArray) -> Grid:
    """Return blocks in the order of a file, each no larger than the largest of the array."""
    room = prod(max(chunks, default=1) for chunks in _grid(array))
    return tuple(map(regions.uniform_chunks, array.shape, _slab(array.shape, room)))


def _slab(shape: Sequence[int], room: int) -> tuple[int, ...]:
    """Return the lengths of a slab of up to ``room`` elements: 1, ..., n, and whole axes."""
    if not shape:
        return ()
    inner = prod(shape[1:])
    rest = tuple(shape[1:]) if inner <= room else _slab(shape[1:], room)
    return (max(1, min(shape[0], room // max(1, inner))), *rest)


def _blockwise(
    array: xr.DataArray, variable: Variable, path: str, overwrite: bool, *, header: NewHeader,
    lost: Lost,
) -> None:  # fmt: skip
    """Write a header and an array; warn of the labels that are lost."""
    head, stored = header(path, variable)
    warn_of_losses(path, lost(array, variable, path))
    blocks = partial(blocks_of, array, slabs(array) if path.lower().endswith(".gz") else None)
    write_array(path, head, stored, array.shape, blocks, overwrite)


def _mrc(array: xr.DataArray, variable: Variable, path: str, overwrite: bool) -> None:
    if path.lower().endswith(".mrcs") and variable.dims != (STACK, "y", "x"):
        raise LabelError(
            f"save: .mrcs files must hold a stack of images (k, y, x), got dims {variable.dims} "
            f"for {path}; save volumes as .mrc, or as .star with one file per particle"
        )
    require_increasing(variable, path)
    header = new_header(path, variable)
    warn_of_losses(path, losses.of_mrc(array, variable, path))
    with new_file(path, overwrite) as file:
        write_content(file, header, partial(blocks_of, array))


def require_increasing(variable: Variable, path: str) -> None:
    """Raise LabelError for a negative voxel size, which headers cannot hold."""
    decreasing = [d for d, size in variable.voxel_size.items() if size < 0]
    if decreasing:
        raise LabelError(
            f"save: positions must increase in {path}, those along {decreasing} decrease; turn the "
            f"axes by isel({decreasing[0]}=slice(None, None, -1)), or save a .zarr or .tif"
        )


def _nifti_header(path: str, variable: Variable) -> tuple[bytes, np.dtype[Any]]:
    require_increasing(variable, path)
    return nifti.nifti_header(path, variable)


def _tiff(array: xr.DataArray, variable: Variable, path: str, overwrite: bool) -> None:
    write_tiff(path, array.values, variable, overwrite=overwrite)


NIFTI = partial(_blockwise, header=_nifti_header, lost=losses.of_nifti)
#: writers of single arrays by suffix
EXPORTS: Mapping[str, Callable[[xr.DataArray, Variable, str, bool], None]] = {
    ".npy": partial(_blockwise, header=npy_header, lost=losses.of_npy),
    ".mrc": _mrc, ".map": _mrc, ".mrcs": _mrc,
    ".em": partial(_blockwise, header=em.em_header, lost=losses.of_em),
    ".nii": NIFTI, ".nii.gz": NIFTI, **dict.fromkeys(TIFF, _tiff),
}  # fmt: skip

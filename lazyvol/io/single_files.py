"""Save an array as one file of another program, block by block, each computed when it is written.

TIFF is the exception: tifffile takes the whole array.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LossWarning
from lazyvol.io import em, nifti
from lazyvol.io.axes import default_dims, parse_unit
from lazyvol.io.compressed import SUFFIXES, unpacked_name
from lazyvol.io.export import Write, write_array, write_tiff
from lazyvol.io.mrc.writer import fits_label, mrc_header, write_mrc
from lazyvol.io.npy import npy_header
from lazyvol.io.particle_lists import OPTICS, OTHER_BLOCKS
from lazyvol.io.zarr.layout import Variable
from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Grid, Region
from lazyvol.stack import SPACING_ATTR, SPATIAL, STACK, spacing

TIFF = (".tif", ".tiff")


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


@dataclass(frozen=True)
class FileFormat:
    """A format of one array: its header, and the labels that this holds."""

    header: Callable[[str, Variable], tuple[bytes, np.dtype[Any]]]
    holds_lengths: Callable[[Variable], bool]
    holds_name: Callable[[str], bool] = bool
    write: Write | None = None

    def save(self, array: xr.DataArray, variable: Variable, path: str, overwrite: bool) -> None:
        """Write a header and an array; warn of the labels that are lost."""
        head, stored = self.header(path, variable)
        warn_of_losses(path, self.lost(array, variable))
        blocks = partial(blocks_of, array, slabs(array) if path.lower().endswith(".gz") else None)
        write_array(path, head, stored, array.shape, blocks, overwrite, self.write)

    def lost(self, array: xr.DataArray, variable: Variable) -> list[str]:
        """List the labels that a file loses."""
        lost = []
        if self is NPY and default_dims(array.shape, "") != (variable.dims, None):
            lost.append(f"the dims, open it with dims={variable.dims}")
        if variable.voxel_size and not self.holds_lengths(variable):
            lost.append(f"voxel size and positions ({variable.unit})")
        if variable.name and not self.holds_name(variable.name):
            lost.append(f"the name {variable.name!r}")
        return [*lost, *_coords_and_attrs(array, variable)]


def lost_of_particles(stack: xr.DataArray, variable: Variable) -> list[str]:
    """List the labels that MRC files of particles lose, and their list does not hold."""
    particle = stack.isel({STACK: slice(0, 0)}).drop_vars(
        [n for n, coord in stack.coords.items() if coord.dims == (STACK,)]
    )
    particle.attrs = {n: v for n, v in stack.attrs.items() if n not in (OPTICS, OTHER_BLOCKS)}
    return MRC.lost(particle, variable)


def lost_of_dataset(obj: xr.DataArray | xr.Dataset) -> list[str]:
    """Return the coordinates and attributes of a data set that its array does not have."""
    if isinstance(obj, xr.DataArray):
        return []
    of_variables = {name for array in obj.values() for name in array.coords}
    coords = [str(n) for n in obj.coords if n not in of_variables]
    attrs = [str(n) for n in obj.attrs]
    lost = [f"coordinates {', '.join(coords)}"] if coords else []
    return lost + ([f"attributes {', '.join(attrs)} of the set"] if attrs else [])


def _coords_and_attrs(array: xr.DataArray, spec: Variable) -> list[str]:
    """List attributes, and coordinates other than regular positions."""
    spatial = [d for d in SPATIAL if d in array.dims and d in array.coords]
    uneven = [d for d in spatial if d not in spec.voxel_size and not _are_indices(array, d)]
    others = [str(n) for n in array.coords if n not in spatial]
    of_positions = [
        f"{n} of {d}" for d in spatial for n in array[d].attrs if n not in ("units", SPACING_ATTR)
    ]
    attrs = [*map(str, array.attrs), *of_positions]
    lost = [f"uneven positions along {', '.join(uneven)}"] if uneven else []
    lost += [f"coordinates {', '.join(others)}"] if others else []
    lost += [f"attributes {', '.join(attrs)}"] if attrs else []
    return lost


def _are_indices(array: xr.DataArray, dim: str) -> bool:
    """Return True if the positions are 0, 1, 2... with a spacing of 1."""
    values = np.asarray(array[dim].values)
    unit_spacing = len(values) != 1 or spacing(array, dim) == 1
    return unit_spacing and np.array_equal(values, np.arange(len(values)))


def warn_of_losses(path: str, lost: Sequence[str], stacklevel: int = 5) -> None:
    """Issue one LossWarning with all labels that the file will not hold."""
    if lost:
        warnings.warn(
            f"{path}: this format cannot hold {'; '.join(lost)}; save a .zarr to keep all",
            LossWarning,
            stacklevel=stacklevel,
        )


def _no_lengths(variable: Variable) -> bool:
    return False


def _has_unit(variable: Variable) -> bool:
    return parse_unit(variable.unit) is not None


def _tiff(array: xr.DataArray, variable: Variable, path: str, overwrite: bool) -> None:
    write_tiff(path, array.values, variable, overwrite=overwrite)


NPY = FileFormat(npy_header, _no_lengths)
MRC = FileFormat(mrc_header, _has_unit, fits_label, write_mrc)
EM = FileFormat(em.em_header, _no_lengths)
NIFTI = FileFormat(nifti.nifti_header, nifti.holds_lengths)
#: writers of single arrays by suffix
EXPORTS: Mapping[str, Callable[[xr.DataArray, Variable, str, bool], None]] = {
    ".npy": NPY.save, ".mrc": MRC.save, ".map": MRC.save, ".mrcs": MRC.save, ".em": EM.save,
    ".nii": NIFTI.save, ".nii.gz": NIFTI.save, **dict.fromkeys(TIFF, _tiff),
}  # fmt: skip

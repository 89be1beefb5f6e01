"""List the labels of a stack that a file format cannot hold, and warn of their loss."""

import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr

from lazyvol.errors import LossWarning
from lazyvol.io.axes import default_dims, parse_unit
from lazyvol.io.mrc.writer import fits_label
from lazyvol.io.particle_lists import OPTICS, OTHER_BLOCKS
from lazyvol.io.zarr.layout import Variable
from lazyvol.stack import SPACING_ATTR, SPATIAL, STACK, spacing


def warn_of_losses(path: str, lost: Sequence[str], stacklevel: int = 5) -> None:
    """Issue one LossWarning with all labels that the file will not hold."""
    if lost:
        warnings.warn(
            f"{path}: this format cannot hold {'; '.join(lost)}; save a .zarr to keep all",
            LossWarning,
            stacklevel=stacklevel,
        )


def of_dataset(obj: xr.DataArray | xr.Dataset) -> list[str]:
    """Return the coordinates and attributes of a data set that its array does not have."""
    if isinstance(obj, xr.DataArray):
        return []
    of_variables = {name for array in obj.values() for name in array.coords}
    coords = [str(n) for n in obj.coords if n not in of_variables]
    attrs = [str(n) for n in obj.attrs]
    lost = [f"coordinates {', '.join(coords)}"] if coords else []
    return lost + ([f"attributes {', '.join(attrs)} of the set"] if attrs else [])


def of_npy(array: xr.DataArray, spec: Variable, path: str) -> list[str]:
    """List the labels that an NPY file loses: it has values alone, and default dims when opened."""
    default, error = default_dims(array.shape, path)
    lost = []
    if error is not None or default != spec.dims:
        lost.append(f"the dims, open it with dims={spec.dims}")
    if spec.voxel_size:
        lost.append(f"voxel size and positions ({spec.unit})")
    return [*lost, *_coords_and_attrs(array, spec)]


def of_mrc(array: xr.DataArray, spec: Variable, path: str) -> list[str]:
    """List the labels that an MRC header loses: it has lengths and labels of 80 characters."""
    lost = []
    if spec.voxel_size and parse_unit(spec.unit) is None:
        lost.append(f"voxel size and positions in {spec.unit}")
    if spec.name is not None and not fits_label(spec.name):
        lost.append(f"the name {spec.name!r}")
    return [*lost, *_coords_and_attrs(array, spec)]


def of_particles(stack: xr.DataArray, spec: Variable, path: str) -> list[str]:
    """List the labels that MRC files of particles lose, and their list does not hold."""
    particle = stack.isel({STACK: slice(0, 0)}).drop_vars(
        [n for n, coord in stack.coords.items() if coord.dims == (STACK,)]
    )
    particle.attrs = {n: v for n, v in stack.attrs.items() if n not in (OPTICS, OTHER_BLOCKS)}
    return of_mrc(particle, spec, path)


def of_nifti(array: xr.DataArray, spec: Variable, path: str) -> list[str]:
    """List the labels that a NIfTI header loses: it has a length of every axis or of none."""
    spatial = {d for d in SPATIAL if d in spec.dims}
    lost = []
    if spec.voxel_size and (parse_unit(spec.unit) is None or set(spec.voxel_size) != spatial):
        lost.append(f"voxel size and positions ({spec.unit})")
    return [*lost, *_coords_and_attrs(array, spec)]


def of_em(array: xr.DataArray, spec: Variable, path: str) -> list[str]:
    """List the labels that an EM file loses: its header has lengths alone."""
    lost = [f"voxel size and positions ({spec.unit})"] if spec.voxel_size else []
    return [*lost, *_coords_and_attrs(array, spec)]


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

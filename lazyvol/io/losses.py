"""What of a stack's labels a file format has no place for, in words."""

import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr

from lazyvol.errors import LossWarning
from lazyvol.io.axes import guessed, unit_of
from lazyvol.io.export import fits_label
from lazyvol.io.zarr.create import Variable
from lazyvol.stack import SPACING_ATTR, SPATIAL, spacing


def warn_of_losses(path: str, lost: Sequence[str], stacklevel: int = 4) -> None:
    """Warn of everything that a file will not hold, ``stacklevel`` calls below who saves it."""
    if lost:
        warnings.warn(
            f"{path}: this format has no place for {'; '.join(lost)}; save a .zarr to keep all",
            LossWarning,
            stacklevel=stacklevel,
        )


def of_set(obj: xr.DataArray | xr.Dataset) -> list[str]:
    """What a data set of one array has beside it."""
    if isinstance(obj, xr.DataArray):
        return []
    owned = {name for array in obj.values() for name in array.coords}
    beside = [str(n) for n in obj.coords if n not in owned]
    attrs = [str(n) for n in obj.attrs]
    lost = [f"coordinates {', '.join(beside)}"] if beside else []
    return lost + ([f"attributes {', '.join(attrs)} of the set"] if attrs else [])


def of_npy(array: xr.DataArray, spec: Variable, path: str) -> list[str]:
    """An NPY file holds values; axes are named by their number, the array as the file."""
    names, doubt = guessed(array.shape, path)
    lost = []
    if doubt is not None or names != spec.dims:
        lost.append(f"the dims, open it with dims={spec.dims}")
    if spec.voxel_size:
        lost.append(f"voxel size and positions ({spec.unit})")
    return [*lost, *_facts(array, spec)]


def of_mrc(array: xr.DataArray, spec: Variable) -> list[str]:
    """An MRC file holds lengths in angstrom and what fits in labels of 80 characters."""
    lost = []
    if spec.voxel_size and unit_of(spec.unit) is None:
        lost.append(f"voxel size and positions in {spec.unit}")
    if spec.name is not None and not fits_label(spec.name):
        lost.append(f"the name {spec.name!r}")
    return [*lost, *_facts(array, spec)]


def _facts(array: xr.DataArray, spec: Variable) -> list[str]:
    """Coordinates other than positions from 0 on in voxels, and attributes."""
    placed = [d for d in SPATIAL if d in array.dims and d in array.coords]
    uneven = [d for d in placed if d not in spec.voxel_size and not _counted(array, d)]
    facts = [str(n) for n in array.coords if n not in placed]
    noted = [
        f"{n} of {d}" for d in placed for n in array[d].attrs if n not in ("units", SPACING_ATTR)
    ]
    attrs = [*map(str, array.attrs), *noted]
    lost = [f"uneven positions along {', '.join(uneven)}"] if uneven else []
    lost += [f"coordinates {', '.join(facts)}"] if facts else []
    lost += [f"attributes {', '.join(attrs)}"] if attrs else []
    return lost


def _counted(array: xr.DataArray, dim: str) -> bool:
    values = np.asarray(array[dim].values)
    lone = len(values) != 1 or spacing(array, dim) == 1
    return lone and np.array_equal(values, np.arange(len(values)))

"""Files in and out: one module per format, a probe that trusts nothing, the verified store."""

import os
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io.labels import Labels
from lazyvol.io.lists import particles
from lazyvol.io.probe import data_set, probe
from lazyvol.io.saving import COORDINATE_UNITS, save
from lazyvol.io.spec import DataSet, Opened
from lazyvol.plan.budget import BLOCK, Budget
from lazyvol.plan.cuts import block_grid
from lazyvol.plan.lazy import source_array
from lazyvol.plan.regions import Grid, cover
from lazyvol.stack import SPATIAL, positions

__all__ = ["open", "particles", "save"]

Option = TypeVar("Option")
Chunks = str | int | Sequence[int] | Mapping[str, int]


def open(
    source: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    chunks: Chunks = "auto",
    voxel_size: float | Mapping[str, float] | None = None,
    unit: str | None = None,
    dims: Sequence[str] | None = None,
    permissive: bool = False,
) -> Any:
    """Open a file, a folder, a glob pattern or a list of files as a lazy, labelled stack.

    Only metadata is read. Formats: Zarr v2 and v3, OME-Zarr 0.4 and 0.5, MRC and CCP4 (volumes,
    volume stacks, .gz, .bz2), EM, NPY, TIFF, and with ``lazyvol[formats]`` HDF5
    (``file.h5::name`` picks a data set) and NIfTI. Several single-volume files become one stack
    along ``k``; so do the images that a STAR file lists, with its facts as coordinates (see
    ``lazyvol.io.particles``).

    Parameters
    ----------
    source
        Path, pattern or list of paths.
    chunks
        ``"auto"``: blocks of whole volumes, about 128 MiB, aligned to the stored chunks. Else a
        length per dim: a mapping, a sequence, or one number for ``k`` (``-1``: all).
    voxel_size
        Distance between voxel centres, where the file does not say or is wrong: one number, or
        one per spatial dim.
    unit
        Unit of the positions, likewise.
    dims
        Names of all axes of the array, in the order in which it opens without them, where the
        file does not say or is wrong: ``("k", "y", "x")`` for images that are no volume. Of
        several files the first name is that of the axis along which they are joined. Files without
        names of axes (NPY, HDF5, plain TIFF) open as (y, x), (z, y, x), (k, z, y, x) or
        (k, channel, z, y, x); where they have other numbers of axes, or end in one of 3 or 4
        that may be colours, they are refused without ``dims``.
    permissive
        Read damaged files and stores with missing chunks as far as a listed repair allows.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        (k, z, y, x) for stacks, (z, y, x) for volumes, with positions as coordinates. What was
        saved as a Dataset is one again, its variables as lazy.

    Raises
    ------
    LazyvolError
        Its subclasses name the file, what was expected and what was found.

    Examples
    --------
    >>> import numpy as np, tempfile, lazyvol as lv
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(f"{folder.name}/a.npy", np.zeros((2, 3, 4, 5), np.float32))
    >>> stack = lv.open(f"{folder.name}/a.npy", voxel_size=1.5, unit="nanometer")
    >>> stack.dims, stack.chunks, float(stack.z[1])
    (('k', 'z', 'y', 'x'), ((2,), (3,), (4,), (5,)), 1.5)
    >>> folder.cleanup()
    """
    found = data_set(source, permissive)
    if found is not None:
        if dims is not None:
            raise LabelError(
                f"{source}: dims must name the axes of one array, this is a set of "
                f"{', '.join(found.variables)}; open one of them, e.g. "
                f"{os.path.join(str(source), next(iter(found.variables), 'name'))}"
            )
        return _data_set(found, chunks, voxel_size, unit)
    return _array(probe(source, permissive=permissive, dims=dims), chunks, voxel_size, unit)


def _data_set(
    found: DataSet,
    chunks: Chunks,
    voxel_size: float | Mapping[str, float] | None,
    unit: str | None,
) -> xr.Dataset:
    """Variables, each with its own labels, and what belongs to all of them."""
    made = {
        name: _array(opened, _of(chunks, opened), _of(voxel_size, opened), unit)
        for name, opened in found.variables.items()
    }
    lengths = dict(zip(found.labels.dims, found.shape, strict=True))
    coords = _coords(found.labels, lengths, _of(voxel_size, found.labels), unit)
    return xr.Dataset(made, coords, _attrs(found.labels))


def _of(option: Option, labels: Labels | Opened) -> Option:
    """An option by dim for one of several arrays: the dims that it has."""
    if not isinstance(option, Mapping):
        return option
    return {d: v for d, v in option.items() if d in labels.dims}  # type: ignore[return-value]


def _array(
    opened: Opened,
    chunks: Chunks,
    voxel_size: float | Mapping[str, float] | None,
    unit: str | None,
) -> xr.DataArray:
    """What was probed as a lazy, labelled array."""
    array = source_array(opened.source, _grid(opened, chunks))
    return xr.DataArray(
        array,
        _coords(opened, dict(zip(opened.dims, array.shape, strict=True)), voxel_size, unit),
        opened.dims,
        name=opened.name,
        attrs=_attrs(opened),
    )


def _attrs(labels: Labels | Opened) -> dict[str, object]:
    return {name: v for name, v in labels.attrs.items() if name != COORDINATE_UNITS}


def _grid(opened: Opened, chunks: Chunks) -> Grid:
    source = opened.source
    if chunks == "auto":
        limit = Budget.current().per_task
        # a block passes through a kernel: its input, its output and a temporary beside it
        target = BLOCK if limit is None else min(BLOCK, limit // 4)
        return block_grid(source.shape, source.chunks, np.dtype(source.dtype).itemsize, target)
    lengths = _lengths(opened, chunks)
    return tuple(cover(n, n if c == -1 else c) for n, c in zip(source.shape, lengths, strict=True))


def _lengths(opened: Opened, chunks: Chunks) -> tuple[int, ...]:
    if isinstance(chunks, Mapping):
        found = [chunks.get(d, -1) for d in opened.dims]
    elif isinstance(chunks, int):
        found = [chunks, *([-1] * (len(opened.dims) - 1))]
    else:
        found = list(chunks) if not isinstance(chunks, str) else []
    unknown = set(chunks) - set(opened.dims) if isinstance(chunks, Mapping) else set()
    if unknown or len(found) != len(opened.dims) or any(c < 1 and c != -1 for c in found):
        raise LabelError(
            f"chunks is 'auto' or lengths of 1 or more (or -1) for dims {opened.dims}, got {chunks}"
        )
    return tuple(found)


def _coords(
    opened: Labels | Opened,
    lengths: Mapping[str, int],
    voxel_size: float | Mapping[str, float] | None,
    unit: str | None,
) -> dict[Hashable, Any]:
    """Positions of spatial dims: what the file knows, replaced by what the user says."""
    spatial = [d for d in SPATIAL if d in opened.dims]
    sizes, said = dict(opened.voxel_size), dict[str, float]()
    if voxel_size is not None:
        said = dict(
            voxel_size if isinstance(voxel_size, Mapping) else dict.fromkeys(spatial, voxel_size)
        )
    sizes |= said
    wrong = {d: s for d, s in said.items() if d not in spatial or not s > 0}
    bad = {d: s for d, s in sizes.items() if d in wrong or not np.isfinite(s) or s == 0}
    if bad:
        raise LabelError(f"voxel_size gives positive numbers for dims {spatial}, got {bad}")
    known = unit or (opened.unit if opened.voxel_size else "voxel")
    coords: dict[Hashable, Any] = {}
    coords.update(positions(lengths, sizes, known, opened.origin))
    for d in spatial:
        if d not in sizes and known != "voxel":
            coords[d].attrs["units"] = "voxel"
    told = opened.attrs.get(COORDINATE_UNITS)
    units = told if isinstance(told, Mapping) else {}
    for name, (dim, values) in opened.coords.items():
        own = unit if unit and name in spatial else units.get(name)
        if name not in said:
            coords[name] = (dim, values, {"units": own} if own else {})
    return coords

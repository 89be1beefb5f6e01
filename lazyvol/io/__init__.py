"""Files in and out: one module per format, a probe that trusts nothing, the verified store."""

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError
from lazyvol.io.opened import DataSet, Opened
from lazyvol.io.particle_lists import particles
from lazyvol.io.positions import coordinates
from lazyvol.io.probe import data_set, probe
from lazyvol.io.save_result import save
from lazyvol.io.zarr.labels import Labels
from lazyvol.plan.budget import BLOCK, Budget
from lazyvol.plan.graph.lazy_array import source_array
from lazyvol.plan.recipes.base import Source
from lazyvol.plan.reductions.partition import block_grid
from lazyvol.plan.regions import Grid, uniform_chunks

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
    missing: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
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
        Path, pattern or list of paths. Zarr stores are also opened from a URL (``s3://``,
        ``gs://``, ``az://``, ``https://``, with ``lazyvol[remote]``; other schemes by fsspec),
        from an archive (``.zarr.zip``, ``.ozx``), and as a store, array or group of zarr.
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
    missing
        Chunks that are absent from a zarr store of others, where the format allows it: ``"fill"``
        reads them as the fill value, with a warning that counts them; ``"error"`` refuses them.
        Stores of lazyvol have all their chunks, so there an absent one is always an error.
    storage_options
        Options of the store behind a URL as obstore names them, such as ``endpoint``, ``region``
        or ``skip_signature``; of other schemes those of fsspec. Credentials are taken from the
        environment of every process that reads, and are refused here.

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
    if missing not in ("fill", "error"):
        raise OptionError(f"open: missing must be 'fill' or 'error', got {missing!r}")
    found = data_set(source, permissive, missing, storage_options)
    if found is not None:
        if dims is not None:
            raise LabelError(
                f"{source}: dims must name the axes of one array, this is a set of "
                f"{', '.join(found.variables)}; open one of them, e.g. "
                f"{os.path.join(str(source), next(iter(found.variables), 'name'))}"
            )
        _warn_of_absent(found.variables)
        return _data_set(found, chunks, voxel_size, unit)
    opened = probe(
        source,
        permissive=permissive,
        dims=dims,
        missing=missing,
        storage_options=storage_options,
    )
    _warn_of_absent({os.fspath(source) if isinstance(source, str | PathLike) else "": opened})
    return _array(opened, chunks, voxel_size, unit)


def _warn_of_absent(opened: Mapping[str, Opened]) -> None:
    """Say once which arrays have chunks that are not stored."""
    found = [f"{name}: {each.absent}" for name, each in opened.items() if each.absent]
    if found:
        warnings.warn(
            f"open: {'; '.join(found)} are absent and read as the fill value, as the format "
            "allows; missing='error' refuses them",
            stacklevel=3,
        )


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
    coords = coordinates(found.labels, lengths, _of(voxel_size, found.labels), unit, _lazy)
    return xr.Dataset(_without_copies(made), coords, found.labels.attrs)


def _without_copies(arrays: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Arrays whose lazy coordinates are those of the first that has them: to compare reads them."""
    seen: set[Hashable] = set()
    found = {}
    for name, array in arrays.items():
        lazy = {n for n, c in array.coords.items() if c.chunks is not None}
        found[name] = array.drop_vars(lazy & seen)
        seen |= lazy
    return found


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
    lengths = dict(zip(opened.dims, array.shape, strict=True))
    found = xr.DataArray(array, dims=opened.dims, attrs=opened.attrs)
    # assigned, as xarray copies the coordinates that an array is made with
    found = found.assign_coords(coordinates(opened, lengths, voxel_size, unit, _lazy))
    found.name = opened.name  # given none, xarray takes dask's
    return found


def _lazy(source: Source) -> Any:
    """A coordinate that is an array of its own."""
    size = np.dtype(source.dtype).itemsize
    return source_array(source, block_grid(source.shape, source.chunks, size, BLOCK))


def _grid(opened: Opened, chunks: Chunks) -> Grid:
    source = opened.source
    if chunks == "auto":
        limit = Budget.current().per_task
        # a block passes through a kernel: its input, its output and a temporary beside it
        target = BLOCK if limit is None else min(BLOCK, limit // 4)
        return block_grid(source.shape, source.chunks, np.dtype(source.dtype).itemsize, target)
    lengths = _lengths(opened, chunks)
    return tuple(
        uniform_chunks(n, n if c == -1 else c) for n, c in zip(source.shape, lengths, strict=True)
    )


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

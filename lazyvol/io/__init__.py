"""Read files as lazy labelled stacks and save results: one module or package per format."""

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from math import prod
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError, LimitExceeded, OptionError
from lazyvol.io.axes import axes_of_letters
from lazyvol.io.opened import DataSet, Opened
from lazyvol.io.particle_lists import particles
from lazyvol.io.positions import coordinates
from lazyvol.io.probe import probe
from lazyvol.io.save_plan import explain
from lazyvol.io.save_result import save
from lazyvol.io.selections import write_selection
from lazyvol.io.zarr.labels import Labels
from lazyvol.io.zarr.verify import verify
from lazyvol.plan.budget import BLOCK, SMALL_BLOCK, Budget
from lazyvol.plan.graph.lazy_array import source_array
from lazyvol.plan.recipes.base import Source
from lazyvol.plan.regions import Grid, block_grid, part_length, uniform_chunks
from lazyvol.stack import SPATIAL

__all__ = ["explain", "open", "particles", "save", "verify", "write_selection"]

#: positions along a spatial axis, 16 MiB of coordinates; longer axes are not of volumes
MAX_POSITIONS = 1 << 21
#: bytes of an array, 8 million blocks
MAX_BYTES = 1 << 50
#: bytes of a coordinate that may be copied
COPIED_BYTES = 1 << 16

Option = TypeVar("Option")
Chunks = str | int | Sequence[int] | Mapping[str, int]


@operation(unchecked=("source",), unbounded=("voxel_size",))
def open(
    source: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    chunks: Chunks = "auto",
    voxel_size: float | Mapping[str, float] | None = None,
    unit: str | None = None,
    dims: str | Sequence[str] | None = None,
    permissive: bool = False,
    missing: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Lazy, labelled stack of the data in a file, a folder, a glob pattern or a list of files.

    Only metadata is read. Formats: Zarr v2 and v3, OME-Zarr 0.4 and 0.5, MRC and CCP4 (volumes,
    volume stacks, .gz, .bz2), EM, NPY, TIFF, and with ``lazyvol[formats]`` HDF5
    (``file.h5::name`` picks a data set; images of Imaris, BigDataViewer and EMAN2 need no name),
    NIfTI, compressed TIFF, pictures (PNG, JPEG, BMP, GIF) and movies. Several files with one
    volume each become one stack along ``k``, and so do the fields of a plate of OME-Zarr
    (coordinates ``well`` and ``field``). Names of channels become the coordinate ``channel``,
    times of frames ``time`` in seconds along ``k``. A STAR file, also an optimisation set of
    RELION 5, becomes the stack of the images it lists, with its columns as coordinates on ``k``
    (see ``lazyvol.io.particles``); stacks of unequal numbers of frames become a ragged Dataset, as
    ``lazyvol.masks.select`` returns it.

    Parameters
    ----------
    source
        Path, glob pattern or list of paths. Files of a folder or pattern are joined in natural
        order (img2 before img10), files of a list in its order. Zarr stores also open from
        a URL (``s3://``, ``gs://``, ``az://``, ``https://``, with ``lazyvol[remote]``; other
        schemes with fsspec), from an archive (``.zarr.zip``, ``.ozx``), and from a zarr store,
        array or group object.
    chunks
        ``"auto"``: blocks of whole volumes, at most about 128 MiB and a few for each thread,
        aligned to the stored chunks.
        Otherwise the block length in voxels of each dim: a mapping, a sequence in the order of
        the dims, or one number for ``k``. ``-1`` is the whole length.
    voxel_size
        Distance between voxel centres in ``unit``, one number or a mapping by spatial dim
        (z, y, x). It replaces the voxel size of the file.
    unit
        Unit of the positions, e.g. ``"angstrom"``. It replaces the unit of the file.
    dims
        Names of all axes, in the order in which the array opens without this option: a sequence,
        or a letter each (``"kcyx"``; c is channel, f frame, t is k). They replace the names of the
        file, e.g. ``"kyx"`` for images that form no volume. For
        several files the first name is that of the axis along which they are joined. Files
        without axis names (NPY, HDF5, plain TIFF) open as (y, x), (z, y, x), (k, z, y, x) or
        (k, channel, z, y, x); other numbers of axes, and a last axis of length 3 or 4 that may
        hold colours, are refused without ``dims``.
    permissive
        Read damaged files, and stores of lazyvol with missing chunks, where a repair is defined;
        ``attrs["repairs"]`` lists the repairs.
    missing
        Treatment of chunks that are absent from a zarr store of another program: ``"fill"`` reads
        them as the fill value and warns with their number, ``"error"`` refuses them. Absent
        chunks of a store of lazyvol are always an error.
    storage_options
        Options of the store behind a URL: those of obstore, such as ``endpoint``, ``region`` or
        ``skip_signature``, or of fsspec for its schemes. Credentials are refused here; every
        process that reads takes them from its environment.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        (k, z, y, x) for stacks and (z, y, x) for volumes, with positions as coordinates. A saved
        Dataset, also one of xarray, opens as a Dataset of lazy variables; ``path/name`` opens one
        of them. Groups of zarr arrays that do not name their dims, or differ in lengths, are
        refused with the names of the arrays.

    Raises
    ------
    OptionError
        ``missing`` is neither ``"fill"`` nor ``"error"``; ``storage_options`` holds a secret, an
        unknown option, or is set without a URL.
    LabelError
        ``chunks``, ``voxel_size`` or ``dims`` does not fit the array, the axes have no names, or
        the files of a stack differ in shape, dtype, dims or voxel size.
    SourceNotFoundError
        Nothing is stored under ``source``.
    FormatError
        No reader knows the content, it breaks the rules of its format, or a library is missing.
    TruncatedError
        A file is shorter than its header promises.
    MissingChunkError, ChecksumError
        Chunks of a zarr store are absent, or its metadata is damaged.
    UnsafeSourceError
        Reading would run code, leave the store, or use a codec that is not on the allow-list.
    LimitExceeded
        A size or count in a file exceeds the limit of its reader.
    StoreError
        The operating system or the store behind a URL refuses to read.

    Notes
    -----
    Files must not change while they are in use: one that was rewritten, moved or removed after it
    was opened raises SourceChangedError where it is read. Chunks of stores of lazyvol are compared
    with the manifest. Of zarr stores of other programs in folders, all chunk files are compared if
    there are at most 1,024; of larger ones, and elsewhere, the metadata alone. A save that resumes
    recognizes its input by the same files, of larger stores by 1,024 of them, and elsewhere by the
    sizes of 64.

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
    opened = probe(
        source,
        permissive=permissive,
        dims=None if dims is None else axes_of_letters(dims),
        missing=missing,
        storage_options=storage_options,
    )
    if isinstance(opened, DataSet):
        if dims is not None:
            raise LabelError(
                f"{source}: dims must name the axes of one array, this is a set of "
                f"{', '.join(opened.variables)}; open one of them, e.g. "
                f"{os.path.join(str(source), next(iter(opened.variables), 'name'))}"
            )
        _warn_of_absent_chunks(opened.variables)
        return _to_dataset(opened, chunks, voxel_size, unit)
    _warn_of_absent_chunks(
        {os.fspath(source) if isinstance(source, str | PathLike) else "": opened}
    )
    return _to_dataarray(opened, chunks, voxel_size, unit)


def _warn_of_absent_chunks(arrays: Mapping[str, Opened]) -> None:
    """Warn once of all arrays with chunks that are not stored."""
    counts = [f"{name}: {array.absent}" for name, array in arrays.items() if array.absent]
    if counts:
        warnings.warn(
            f"open: {'; '.join(counts)} are absent and read as the fill value, as the format "
            "allows; missing='error' refuses them",
            stacklevel=4,
        )


def _to_dataset(
    data_set: DataSet,
    chunks: Chunks,
    voxel_size: float | Mapping[str, float] | None,
    unit: str | None,
) -> xr.Dataset:
    """Return the variables, each with its own labels, and the labels of the whole set."""
    arrays = {
        name: _to_dataarray(opened, _for_dims(chunks, opened), _for_dims(voxel_size, opened), unit)
        for name, opened in data_set.variables.items()
    }
    labels = data_set.labels
    lengths = dict(zip(labels.dims, data_set.shape, strict=True))
    coords = coordinates(labels, lengths, _for_dims(voxel_size, labels), unit, _lazy_coordinate)
    return xr.Dataset(_drop_repeated_lazy_coords(arrays), coords, labels.attrs)


def _drop_repeated_lazy_coords(arrays: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Keep a lazy coordinate in the first array that has it: xarray reads both to compare them."""
    seen: set[Hashable] = set()
    kept = {}
    for name, array in arrays.items():
        lazy = {n for n, c in array.coords.items() if c.chunks is not None}
        kept[name] = array.drop_vars(lazy & seen)
        seen |= lazy
    return kept


def _for_dims(option: Option, labels: Labels) -> Option:
    """Restrict an option by dim to the dims of one array."""
    if not isinstance(option, Mapping):
        return option
    return {d: v for d, v in option.items() if d in labels.dims}  # type: ignore[return-value]


def _to_dataarray(
    opened: Opened,
    chunks: Chunks,
    voxel_size: float | Mapping[str, float] | None,
    unit: str | None,
) -> xr.DataArray:
    """Return a probed array as a lazy, labelled array."""
    lengths = dict(zip(opened.dims, opened.source.shape, strict=True))
    _check_size(opened, lengths)
    data = source_array(opened.source, _grid(opened, chunks))
    coords = coordinates(opened, lengths, voxel_size, unit, _lazy_coordinate)
    # the constructor of xarray takes 1 ms less than the method, but copies coordinates
    large = {n: c for n, c in coords.items() if c.nbytes > COPIED_BYTES}
    small = {n: c for n, c in coords.items() if n not in large}
    array = xr.DataArray(data, xr.Coordinates(small), opened.dims, attrs=opened.attrs)
    if large:
        array = array.assign_coords(large)
    array.name = opened.name  # without a name xarray takes that of the dask array
    return array


def _check_size(opened: Opened, lengths: Mapping[str, int]) -> None:
    """Raise LimitExceeded if positions or blocks of an array would exhaust the memory."""
    longest = max((d for d in SPATIAL if d in lengths), key=lengths.__getitem__, default="")
    if longest and lengths[longest] > MAX_POSITIONS:
        raise LimitExceeded(
            f"open: a spatial axis may have {MAX_POSITIONS} positions, {longest} of "
            f"{opened.name or 'the array'} has {lengths[longest]}; name the axes with dims=, e.g. "
            'dims="kyx"'
        )
    count = prod(lengths.values()) * np.dtype(opened.source.dtype).itemsize
    if count > MAX_BYTES:
        raise LimitExceeded(
            f"open: an array may have {MAX_BYTES} bytes, {opened.name or 'this one'} has {count}; "
            "check its metadata, or store it as several arrays"
        )


def _lazy_coordinate(source: Source) -> Any:
    """Return a lazy array of a coordinate that is stored as its own array."""
    itemsize = np.dtype(source.dtype).itemsize
    return source_array(source, block_grid(source.shape, source.chunks, itemsize, BLOCK))


def _grid(opened: Opened, chunks: Chunks) -> Grid:
    """Return the block lengths along every axis."""
    source = opened.source
    if chunks == "auto":
        return _automatic_grid(source.shape, source.chunks, np.dtype(source.dtype).itemsize)
    lengths = _chunk_lengths(opened.dims, chunks)
    return tuple(
        uniform_chunks(n, n if c == -1 else c) for n, c in zip(source.shape, lengths, strict=True)
    )


def _automatic_grid(shape: tuple[int, ...], stored: tuple[int, ...], itemsize: int) -> Grid:
    """Return blocks of whole stored chunks, a few for each thread.

    With fewer chunks along the first axis than threads these are divided along it, although each
    is decoded several times: threads would be idle otherwise.
    """
    budget = Budget.current()
    if not shape:
        return block_grid(shape, stored, itemsize, BLOCK)
    length, row_bytes = max(1, min(shape[0], stored[0])), prod(shape[1:]) * itemsize
    rows = -(-shape[0] // length)
    target = budget.block_bytes(shape[0] * row_bytes, rows)
    if 0 < rows < budget.workers:
        parts = min(budget.workers // rows, length * row_bytes // SMALL_BLOCK)
        length = -(-length // max(1, parts)) if rows == 1 else part_length(length, parts)
    target = min(BLOCK, max(target, length * row_bytes))
    if budget.per_task is not None:
        # a kernel holds its input, its output and one temporary array
        target = min(target, budget.per_task // 4)
    return block_grid(shape, (length, *stored[1:]), itemsize, target)


def _chunk_lengths(dims: tuple[str, ...], chunks: Chunks) -> tuple[int, ...]:
    """Return the chunk length of every dim; raise LabelError where `chunks` does not fit."""
    unknown = set[str]()
    if isinstance(chunks, Mapping):
        unknown = set(chunks) - set(dims)
        lengths = [chunks.get(d, -1) for d in dims]
    elif isinstance(chunks, int):
        lengths = [chunks, *([-1] * (len(dims) - 1))]
    else:
        lengths = [] if isinstance(chunks, str) else list(chunks)
    if unknown or len(lengths) != len(dims) or any(c < 1 and c != -1 for c in lengths):
        raise LabelError(
            f"open: chunks must be 'auto' or lengths of 1 or more (or -1) for dims {dims}, got "
            f"{chunks}"
        )
    return tuple(lengths)

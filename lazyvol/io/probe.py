"""Recognize the data under a path: one file, many files of one stack, or a zarr store."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from lazyvol.errors import (
    FormatError,
    LabelError,
    LimitExceeded,
    OptionError,
    SourceNotFoundError,
)
from lazyvol.io import em, hdf5, mrc, nifti, npy, pictures, tiff
from lazyvol.io.compressed import decoded_head, unpacked_name
from lazyvol.io.faults import BIOIO, read_error
from lazyvol.io.files import natural_key, stack_files
from lazyvol.io.flat_file import stored_file
from lazyvol.io.opened import DataSet, Opened
from lazyvol.io.places import is_place, path_text
from lazyvol.io.star import images

HEAD_BYTES = 1024
#: the headers of 100,000 files take a minute to read
MAX_FILES = 1_000_000
ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
N5_FILE = "attributes.json"
WILDCARDS = "*?["
#: suffixes of microscopes whose files bioio reads
VENDORS = (".czi", ".lif", ".nd2", ".oib", ".oif", ".lsm", ".dv", ".vsi", ".sldy", ".svs", ".ndpi")


@dataclass(frozen=True)
class Format:
    """A format, its file suffixes, and its reader, the ``probe`` function of its module."""

    name: str
    suffixes: tuple[str, ...]
    read: Callable[..., Opened]


MRC = Format("MRC", mrc.SUFFIXES, mrc.probe)
TIFF = Format("TIFF", tiff.SUFFIXES, tiff.probe)
NPY = Format("NPY", npy.SUFFIXES, npy.probe)
HDF5 = Format("HDF5", hdf5.SUFFIXES, hdf5.probe)
NIFTI = Format("NIfTI", nifti.SUFFIXES, nifti.probe)
EM = Format("EM", em.SUFFIXES, em.probe)
SPIM_DATA = Format("BigDataViewer", (hdf5.layouts.SUFFIX,), hdf5.probe_xml)
PICTURES = Format("pictures and movies", pictures.SUFFIXES, pictures.probe)
FORMATS = (MRC, TIFF, NPY, HDF5, NIFTI, EM, SPIM_DATA, PICTURES)
#: formats whose files in a folder are a stack; pictures only where there are no others
STACKED = ((MRC, TIFF, NPY, HDF5, NIFTI, EM), (PICTURES,))
#: formats that are also read from gzip and bzip2 files
COMPRESSIBLE = (MRC, NIFTI)


def probe(
    source: Any,
    *,
    permissive: bool = False,
    dims: Sequence[str] | None = None,
    missing: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
) -> Opened | DataSet:
    """Return the array or data set stored under ``source``; only headers and metadata are read.

    Parameters
    ----------
    source
        A file, whose format is recognized by its content first and its suffix second
        (``file.h5::name`` picks one array of several); a zarr store; a folder of files of one
        format; a pattern with ``*``, ``?``, ``[]`` or ``**``; or a list of files. Several files
        become one stack, see `lazyvol.io.files.stack_files`: those of a folder or pattern in
        natural order (img2 before img10), those of a list in its order.
    permissive
        Read files with the faults that their reader names; ``attrs["repairs"]`` lists them.
    dims
        Names of all axes, in the order in which the array opens without them. For several files
        the first name is that of the axis along which they are joined.
    missing
        ``"fill"`` reads absent chunks of zarr stores of other programs as the fill value,
        ``"error"`` refuses them.
    storage_options
        Options of the store behind a URL, none of them secret.

    Returns
    -------
    Opened
        A source of regions, its dims, spacing, unit and origin.

    Raises
    ------
    SourceNotFoundError
        Nothing is stored there.
    FormatError
        No reader knows the content, it breaks the rules of its format, or it holds several arrays.
    LabelError
        The files of a stack differ; ``dims`` does not name every axis once, or is required.

    Examples
    --------
    >>> import numpy as np
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("img2.npy", "img10.npy"):
    ...         np.save(f"{folder}/{name}", np.zeros((5, 7, 11), "float32"))
    ...     opened = probe(f"{folder}/img*.npy")
    >>> opened.dims, opened.source.shape, opened.coords["file"][1].tolist()
    (('k', 'z', 'y', 'x'), (2, 5, 7, 11), ['img2.npy', 'img10.npy'])
    """
    if is_place(source) or is_zarr(source):
        from lazyvol.io.zarr import reader  # importing zarr takes 0.3 s

        store = reader.probe(
            source, permissive=permissive, missing=missing, storage_options=storage_options
        )
        if dims is None or isinstance(store, DataSet):
            return store
        return store.with_dims(dims, str(source))
    if storage_options:
        raise OptionError(
            f"open: storage_options must be those of a URL, got {source!r:.200}; leave them out"
        )
    if not isinstance(source, str | os.PathLike):
        return probe_many(_paths(source), None, permissive, dims)
    path = path_text(source, "open: source")
    if dims is None and Path(path).suffix.lower() in images.SUFFIXES and os.path.isfile(path):
        return images.probe_any(path, probe_file, permissive=permissive)
    if os.path.isdir(path):
        return probe_folder(path, permissive, dims)
    if not os.path.lexists(path) and any(sign in path for sign in WILDCARDS):
        return probe_many(matching_files(path), Path(path).parent.name or None, permissive, dims)
    return probe_file(path, permissive, dims)


def _paths(sources: Any) -> list[str]:
    """Return a list of paths; raise LabelError for anything else."""
    try:
        paths = list(sources)
    except TypeError:
        paths = [sources]
    if not all(isinstance(path, str | os.PathLike) for path in paths):
        raise LabelError(
            f"open: source must be a path, a URL, a zarr store or a list of paths, got a "
            f"{type(sources).__name__}; label arrays with lazyvol.as_stack"
        )
    return [path_text(path, "open: source") for path in paths]


def is_zarr(source: object) -> bool:
    """Return True for a folder with the metadata of a zarr array or group."""
    return isinstance(source, str | os.PathLike) and any(
        os.path.lexists(os.path.join(source, name)) for name in ZARR_FILES
    )


def probe_file(path: str, permissive: bool, dims: Sequence[str] | None = None) -> Opened:
    """Return the array of one file, by the reader of its format."""
    name = path.partition(hdf5.SEPARATOR)[0] if not os.path.lexists(path) else path
    if not os.path.lexists(name):
        raise not_found(name)
    if Path(path).suffix.lower() in images.SUFFIXES:
        opened = images.probe(path, probe_file, permissive=permissive)
    else:
        opened = format_of(name).read(path, permissive=permissive)
    if dims is not None:
        return opened.with_dims(dims, path)
    if opened.dims_error is not None:
        raise opened.dims_error
    return opened


def format_of(path: str) -> Format:
    """Return the format of a file by its content, otherwise by its suffix."""
    codec, first = decoded_head(stored_file(path), HEAD_BYTES)
    file_format = format_by_content(first) or format_by_suffix(path)
    if file_format is None and Path(path).suffix.lower() in VENDORS:
        raise FormatError(f"{path}: lazyvol has no reader for this microscope; {BIOIO}")
    if file_format is None or (codec and file_format not in COMPRESSIBLE):
        raise FormatError(
            f"{path}: no reader knows this content (it starts with {first[:8]!r}); supported are "
            f"{', '.join(f.name for f in FORMATS)} and zarr, MRC and NIfTI also in gzip or bzip2"
        )
    return file_format


def format_by_content(first: bytes) -> Format | None:
    """Return the format whose magic bytes a file begins with."""
    if first.startswith(tiff.MAGICS):
        return TIFF
    if first.startswith(npy.MAGIC):
        return NPY
    if hdf5.MAGIC in (first[:8], first[512:520]):
        return HDF5
    if nifti.is_nifti(first):
        return NIFTI
    if b"<SpimData" in first:
        return SPIM_DATA
    return MRC if first[208:211] == b"MAP" else None


def format_by_suffix(path: str) -> Format | None:
    """Return the format of a suffix, without ``.gz`` or ``.bz2`` behind it."""
    suffix = unpacked_name(path)[1]
    return next((f for f in FORMATS if suffix in f.suffixes), None)


def probe_folder(path: str, permissive: bool, dims: Sequence[str] | None = None) -> Opened:
    """Return all files of the one known format in a folder as a stack."""
    names = {name: format_by_suffix(name) for name in visible_files(path)}
    files = next(
        (kept for group in STACKED if (kept := [n for n, f in names.items() if f in group])), []
    )
    suffixes = Counter(unpacked_name(name)[1] for name in files)
    if not files and N5_FILE in names:
        from lazyvol.io.zarr import reader

        reader.load_root(reader.place_of_store(path, None))  # it refuses N5 stores by name
    if not files:
        known = ", ".join(suffix for group in STACKED for f in group for suffix in f.suffixes)
        raise SourceNotFoundError(f"{path}: the folder holds no zarr store and no file of {known}")
    if len(suffixes) > 1:
        counts = ", ".join(f"{n} {suffix}" for suffix, n in suffixes.most_common())
        suffix = suffixes.most_common(1)[0][0]
        raise FormatError(
            f"{path}: files of a stack must have one suffix, found {counts}; choose with a pattern "
            f"such as {os.path.join(path, '*' + suffix)}"
        )
    paths = sorted((os.path.join(path, name) for name in files), key=natural_key)
    return probe_many(paths, Path(path).name, permissive, dims)


def visible_files(path: str) -> list[str]:
    """Return the names of the files in a folder that do not begin with a dot."""
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in islice(entries, MAX_FILES + 1) if e.is_file()]
    except OSError as error:
        raise read_error(path, error) from error
    return [name for name in names if not name.startswith(".")]


def matching_files(pattern: str) -> list[str]:
    """Return the files that match a pattern, in natural order."""
    paths = islice(glob.iglob(pattern, recursive=True), MAX_FILES + 1)
    files = sorted((path for path in paths if os.path.isfile(path)), key=natural_key)
    if not files:
        raise SourceNotFoundError(f"{pattern}: no file matches; check the pattern and its folder")
    return files


def probe_many(
    paths: Sequence[str], name: str | None, permissive: bool, dims: Sequence[str] | None = None
) -> Opened:
    """Return files as one stack; the header of each is read."""
    if not paths:
        raise SourceNotFoundError("a list of files must not be empty; give at least one path")
    if len(paths) > MAX_FILES:
        raise LimitExceeded(f"a stack may have {MAX_FILES} files, found more; join them first")
    if dims is None:
        return stack_files(paths, [probe_file(path, permissive) for path in paths], name)
    if isinstance(dims, str) or not len(dims) or dims[0] in dims[1:]:
        raise LabelError(
            f"{paths[0]}: dims must name the axis of the files and then each axis of one file "
            f"once, got {dims}"
        )
    members = [probe_file(path, permissive, dims[1:]) for path in paths]
    return stack_files(paths, members, name, dims[0])


def not_found(path: str) -> SourceNotFoundError:
    """Return the error for a path without a file, with similar names."""
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        return SourceNotFoundError(f"{path}: the folder {parent} does not exist; check the path")
    close = get_close_matches(os.path.basename(path), sorted(os.listdir(parent)), n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "check the path"
    return SourceNotFoundError(f"{path}: no such file; {hint}")

"""What is stored under a path: one file, many files as one stack, or a zarr store."""

import glob
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lazyvol.errors import (
    FormatError,
    LabelError,
    LimitExceeded,
    OptionError,
    SourceNotFoundError,
)
from lazyvol.io import em, hdf5, mrc, nifti, npy, tiff
from lazyvol.io.compressed import codec_of, head, plain_name
from lazyvol.io.files import natural, stacked
from lazyvol.io.flat_file import stored_file, unreadable
from lazyvol.io.opened import DataSet, Opened
from lazyvol.io.places import is_place
from lazyvol.io.star import images

PathLike = str | os.PathLike[str]

HEAD_BYTES = 1024
#: headers of 100,000 files take a minute to read
MAX_FILES = 1_000_000
ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
WILDCARDS = "*?["


class Reader(Protocol):
    """Reader of one format: a module's ``probe``."""

    def __call__(self, path: PathLike, *, permissive: bool = False) -> Opened:
        """Opened file."""


@dataclass(frozen=True)
class Format:
    """A format, the suffixes it goes by, and its reader."""

    name: str
    suffixes: tuple[str, ...]
    read: Reader


MRC = Format("MRC", mrc.SUFFIXES, mrc.probe)
TIFF = Format("TIFF", tiff.SUFFIXES, tiff.probe)
NPY = Format("NPY", npy.SUFFIXES, npy.probe)
HDF5 = Format("HDF5", hdf5.SUFFIXES, hdf5.probe)
NIFTI = Format("NIfTI", nifti.SUFFIXES, nifti.probe)
EM = Format("EM", em.SUFFIXES, em.probe)
FORMATS = (MRC, TIFF, NPY, HDF5, NIFTI, EM)
PACKED = (MRC, NIFTI)


def probe(
    source: PathLike | Sequence[PathLike],
    *,
    permissive: bool = False,
    dims: Sequence[str] | None = None,
    missing: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
) -> Opened:
    """What is stored under ``source``; headers are read, data are not.

    Parameters
    ----------
    source
        A file, known by its content before its suffix (``file.h5::name`` for one array of many);
        a zarr store; a folder of files of one format; a pattern with ``*``, ``?``, ``[]`` or
        ``**``; or a list of files. Many files become one stack, see `lazyvol.io.files.stacked`:
        in natural order (img2 before img10) for a folder or a pattern, as given for a list.
    permissive
        Read files with the faults that their reader names, each noted in ``attrs["repairs"]``.
    dims
        Names of all axes, in the order in which they open without. Of many files the first name
        is that of the axis along which they are joined, the others are those of each file.
    missing
        Whether absent chunks of a zarr store of others are read as the fill value, ``"fill"``, or
        refused, ``"error"``.
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
        No reader knows the content, or it breaks the rules of its format.
    LabelError
        Files of a stack are not alike; ``dims`` does not name every axis once, or must be given.

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
    if is_place(source):
        from lazyvol.io.zarr import reader

        store = reader.probe(
            source, permissive=permissive, missing=missing, storage_options=storage_options
        )
        return store if dims is None else store.renamed(dims, str(source))
    if storage_options:
        raise OptionError(
            f"open: storage_options must be those of a URL, got {source!r:.200}; leave them out"
        )
    if not isinstance(source, str | os.PathLike):
        return many([os.fspath(path) for path in source], None, permissive, dims)
    path = os.fspath(source)
    if os.path.isdir(path):
        return folder(path, permissive, dims, missing)
    if not os.path.lexists(path) and any(sign in path for sign in WILDCARDS):
        return many(matches(path), Path(path).parent.name or None, permissive, dims)
    return single(path, permissive, dims)


def single(path: str, permissive: bool, dims: Sequence[str] | None = None) -> Opened:
    """One file, read by the reader that knows it."""
    name = path.partition(hdf5.SEPARATOR)[0] if not os.path.lexists(path) else path
    if not os.path.lexists(name):
        raise missing(name)
    if Path(path).suffix.lower() in images.SUFFIXES:
        found = images.probe(path, single, permissive=permissive)
    else:
        found = format_of(name).read(path, permissive=permissive)
    return called(found, dims, path)


def called(found: Opened, dims: Sequence[str] | None, path: str) -> Opened:
    """An array with the names it is given; one whose names would be a guess needs some."""
    if dims is not None:
        return found.renamed(dims, path)
    if found.doubt is not None:
        raise found.doubt
    return found


def format_of(path: str) -> Format:
    """Format of a file by its content, else by its suffix."""
    file = stored_file(path)
    first = file.head(HEAD_BYTES)
    codec = codec_of(first)
    if codec:
        first = head(file, codec, HEAD_BYTES)
    found = by_content(first) or by_suffix(path)
    if found is None or (codec and found not in PACKED):
        raise FormatError(
            f"{path}: no reader knows this content (it starts with {first[:8]!r}); supported are "
            f"{', '.join(f.name for f in FORMATS)} and zarr, MRC and NIfTI also in gzip or bzip2"
        )
    return found


def by_content(first: bytes) -> Format | None:
    """Format by magic bytes."""
    if first.startswith(tiff.MAGICS):
        return TIFF
    if first.startswith(npy.MAGIC):
        return NPY
    if hdf5.MAGIC in (first[:8], first[512:520]):
        return HDF5
    if nifti.is_nifti(first):
        return NIFTI
    return MRC if first[208:211] == b"MAP" else None


def by_suffix(path: str) -> Format | None:
    """Format by the suffix, that of the packed file for a packed one."""
    suffix = plain_name(path)[1]
    return next((f for f in FORMATS if suffix in f.suffixes), None)


def folder(
    path: str, permissive: bool, dims: Sequence[str] | None = None, missing: str = "fill"
) -> Opened:
    """A zarr store, or all files of the one format in a folder."""
    if any(os.path.lexists(os.path.join(path, mark)) for mark in ZARR_MARKS):
        from lazyvol.io.zarr import reader

        store = reader.probe(path, permissive=permissive, missing=missing)
        return store if dims is None else store.renamed(dims, path)
    names = listed(path)
    kinds = Counter(plain_name(name)[1] for name in names if by_suffix(name))
    if not kinds:
        known = ", ".join(suffix for f in FORMATS for suffix in f.suffixes)
        raise SourceNotFoundError(f"{path}: the folder holds no zarr store and no file of {known}")
    if len(kinds) > 1:
        found = ", ".join(f"{n} {suffix}" for suffix, n in kinds.most_common())
        suffix = kinds.most_common(1)[0][0]
        raise FormatError(
            f"{path}: files of a stack must have one suffix, found {found}; choose with a pattern "
            f"such as {os.path.join(path, '*' + suffix)}"
        )
    chosen = [os.path.join(path, name) for name in names if by_suffix(name)]
    return many(sorted(chosen, key=natural), Path(path).name, permissive, dims)


def data_set(
    source: PathLike | Sequence[PathLike],
    permissive: bool,
    missing: str = "fill",
    storage_options: Mapping[str, Any] | None = None,
) -> DataSet | None:
    """Variables and labels of a data set of ours; None for anything else."""
    if is_place(source):
        from lazyvol.io.zarr import reader

        return reader.probe_set(
            source, permissive=permissive, missing=missing, storage_options=storage_options
        )
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if not os.path.isfile(os.path.join(path, "zarr.json")):
        return None
    from lazyvol.io.zarr import reader

    return reader.probe_set(path, permissive=permissive, missing=missing)


def listed(path: str) -> list[str]:
    """Visible files of a folder."""
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in islice(entries, MAX_FILES + 1) if e.is_file()]
    except OSError as error:
        raise unreadable(path, error) from error
    return [name for name in names if not name.startswith(".")]


def matches(pattern: str) -> list[str]:
    """Files of a pattern in natural order."""
    found = islice(glob.iglob(pattern, recursive=True), MAX_FILES + 1)
    files = sorted((path for path in found if os.path.isfile(path)), key=natural)
    if not files:
        raise SourceNotFoundError(f"{pattern}: no file matches; check the pattern and its folder")
    return files


def many(
    paths: Sequence[str], name: str | None, permissive: bool, dims: Sequence[str] | None = None
) -> Opened:
    """Files as one stack, the header of each one read."""
    if not paths:
        raise SourceNotFoundError("a list of files must not be empty; give at least one path")
    if len(paths) > MAX_FILES:
        raise LimitExceeded(f"a stack may have {MAX_FILES} files, found more; join them first")
    if dims is None:
        return stacked(paths, [single(path, permissive) for path in paths], name)
    if isinstance(dims, str) or not len(dims) or dims[0] in dims[1:]:
        raise LabelError(
            f"{paths[0]}: dims must name the axis of the files and then each axis of one file "
            f"once, got {dims}"
        )
    return stacked(paths, [single(path, permissive, dims[1:]) for path in paths], name, dims[0])


def missing(path: str) -> SourceNotFoundError:
    """The error for a path without a file, with names that look like it."""
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        return SourceNotFoundError(f"{path}: the folder {parent} does not exist; check the path")
    close = get_close_matches(os.path.basename(path), sorted(os.listdir(parent)), n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "check the path"
    return SourceNotFoundError(f"{path}: no such file; {hint}")

"""HDF5 data sets, opened for every read; nothing outside the file is followed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import (
    FormatError,
    LabelError,
    LazyvolError,
    SourceNotFoundError,
    TruncatedError,
    UnsafeSourceError,
)
from lazyvol.io import cf
from lazyvol.io.axes import arrange, elements, guessed, named, positive
from lazyvol.io.flat_file import (
    Layout,
    RawSource,
    StoredFile,
    check_dtype,
    check_extent,
    stored_file,
    token,
    unreadable,
)
from lazyvol.io.opened import Opened
from lazyvol.io.optional import formats
from lazyvol.io.repairs import Repairs
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, lengths, size

SUFFIXES = (".h5", ".hdf5", ".hdf")
MAGIC = b"\x89HDF\r\n\x1a\n"
#: filters compiled into HDF5 and h5py; any other would load a plug-in
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"}
LZF = 32000
#: HDF5 keeps decoded chunks of this many bytes
CHUNK_CACHE = 1 << 20
SEPARATOR = "::"


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Data set of an HDF5 file, named as ``file.h5::group/name`` or the one that stands out.

    Without a name it is the only data set of 3 or more axes, or the one with most elements. Axes
    are named by dimension labels or an ``axes`` attribute (time becomes k, c channel), else by
    their number as in NPY files. ``element_size_um`` (z, y, x) gives the spacing.

    Parameters
    ----------
    path
        The file, with ``::name`` where it holds several arrays.
    permissive
        Changes nothing: HDF5 has no faults that can be guessed.

    Raises
    ------
    FormatError
        Not HDF5, no array that fits, several that fit equally, or h5py is missing.
    TruncatedError
        The file is shorter than it says.
    UnsafeSourceError
        The data lie in another file or need a filter outside HDF5 itself.
    """
    name, _, wanted = os.fspath(path).partition(SEPARATOR)
    file = stored_file(name)
    with opened(file) as store:
        data = dataset(store, wanted, file.path)
        check_safe(data, file.path)
        names, doubt = axis_names(data, file.path)
        dims, order = arrange(names, file.path)
        spacing = voxel_size(data, dims)
        return Opened(
            source=cf.decoded(source_of(file, data, order), packing(data), file.path),
            dims=dims,
            voxel_size=spacing,
            unit="micrometer" if spacing else "voxel",
            name=PurePath(data.name).name,
            doubt=doubt,
        )


@contextmanager
def opened(file: StoredFile) -> Iterator[Any]:
    """The file for reading; what HDF5 refuses becomes an error of the tree."""
    h5py = formats("h5py", file.path)
    file.open().close()
    try:
        with file.unchanged(), h5py.File(file.path, "r") as store:
            yield store
    except LazyvolError:
        raise
    except PermissionError as error:
        raise unreadable(file.path, error) from error
    except Exception as error:  # HDF5 reports damage as any of OSError, RuntimeError, KeyError
        kind = TruncatedError if "truncated" in str(error) else FormatError
        raise kind(f"{file.path}: HDF5 cannot read it: {error}") from error


def dataset(store: Any, wanted: str, where: str) -> Any:
    """Data set by name, or the one that stands out."""
    if wanted:
        return by_name(store, wanted, where)
    found = arrays(store)
    largest = [d for d in found if d.size == max(f.size for f in found)]
    if len(largest) == 1:
        return largest[0]
    names = ", ".join(d.name for d in largest) or "none of 3 or more axes"
    raise FormatError(
        f"{where}: one data set must be chosen, found {names}; write "
        f"{PurePath(where).name}{SEPARATOR}name"
    )


def by_name(store: Any, wanted: str, where: str) -> Any:
    """Data set ``wanted``; links out of the file are not followed."""
    h5py = formats("h5py", where)
    node = store
    for part in wanted.strip("/").split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            known = ", ".join(d.name for d in arrays(store)) or "no arrays"
            raise SourceNotFoundError(f"{where}: no data set {wanted!r}; it holds {known}")
        if isinstance(link, h5py.ExternalLink):
            raise UnsafeSourceError(f"{where}: {wanted!r} is a link to the file {link.filename!r}")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        raise FormatError(f"{where}: {wanted!r} is a group; name a data set in it")
    return node


def arrays(store: Any) -> list[Any]:
    """Data sets of numbers with 3 or more axes; links are not followed."""
    h5py = formats("h5py", store.filename)
    found: list[Any] = []

    def visit(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and len(node.shape or ()) >= 3:
            found.append(node)

    store.visititems(visit)
    return [d for d in found if d.dtype.kind in "biuf"]


def check_safe(data: Any, where: str) -> None:
    """Refuse data outside the file, plug-in filters, and what is not plain numbers."""
    if data.external or data.is_virtual:
        raise UnsafeSourceError(f"{where}: data set {data.name} keeps its data in other files")
    filters = data.id.get_create_plist()
    codes = {filters.get_filter(i)[0] for i in range(filters.get_nfilters())}
    if codes - set(FILTERS) - {LZF}:
        raise UnsafeSourceError(
            f"{where}: data set {data.name} needs the HDF5 filters {sorted(codes)}, allowed are "
            f"{', '.join(FILTERS.values())} and lzf; rewrite it with gzip"
        )
    check_dtype(data.dtype, where)
    elements(data.shape or (0,), where)


def axis_names(data: Any, where: str) -> tuple[tuple[str, ...], LabelError | None]:
    """Axis names by labels, by an ``axes`` attribute, or by their number, and doubts of them."""
    labels = [dim.label for dim in data.dims]
    if all(labels):
        return named(labels, data.shape, where)
    axes = data.attrs.get("axes")
    if isinstance(axes, str) and len(axes) == data.ndim:
        return named(axes, data.shape, where)
    return guessed(data.shape, where)


def voxel_size(data: Any, dims: Sequence[str]) -> dict[str, float]:
    """Micrometres per voxel from ``element_size_um``, which lists z, y, x."""
    sizes = np.atleast_1d(np.asarray(data.attrs.get("element_size_um", ())))
    if sizes.shape != (3,) or sizes.dtype.kind not in "iuf":
        return {}
    spacing = dict(zip(("z", "y", "x"), sizes.tolist(), strict=True))
    return positive({dim: value for dim, value in spacing.items() if dim in dims})


def packing(data: Any) -> dict[str, Any]:
    """How NetCDF packed the numbers of a data set; its attributes are arrays of one element."""
    return cf.of_attributes({n: _plain(data.attrs[n]) for n in cf.READ if n in data.attrs})


def _plain(value: Any) -> Any:
    value = value[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def source_of(file: StoredFile, data: Any, order: tuple[int, ...]) -> Source:
    """Plain reads where the array lies in one piece, reads through HDF5 elsewhere."""
    offset = None if data.chunks else data.id.get_offset()
    if offset is None or data.file.userblock_size:
        stored = (data.id.get_storage_size(), data.chunks or (1, *data.shape[1:]))
        return Hdf5Source(file, data.name, data.shape, data.dtype.str, order, *stored)
    layout = Layout(offset, data.dtype.str, data.shape, order)
    check_extent(file, layout, Repairs(file.path, permissive=True))
    return RawSource(file, layout)


@dataclass(eq=False)
class Hdf5Source:
    """Data set read through h5py; chunks are decoded whole and one after the other."""

    file: StoredFile
    name: str
    stored_shape: tuple[int, ...]
    stored_dtype: str
    order: tuple[int, ...]
    storage: int
    stored_chunks: tuple[int, ...]
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.stored_shape[axis] for axis in self.order)
        self.dtype = np.dtype(self.stored_dtype).newbyteorder("=")
        self.chunks = tuple(
            min(self.stored_chunks[axis], self.stored_shape[axis]) for axis in self.order
        )
        self.token = token(self.file, self.name, self.stored_shape, self.stored_dtype, self.order)

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        if not out.size:
            return out
        box = tuple(region[self.order.index(axis)] for axis in range(len(self.order)))
        direct = np.empty(lengths(box), self.dtype) if self._moved else out
        with opened(self.file) as store:
            store[self.name].read_direct(direct, box)
        if direct is not out:
            out[...] = direct.transpose(self.order)
        return out

    @property
    def paths(self) -> tuple[str, ...]:
        """The file."""
        return (self.file.path,)

    @property
    def _moved(self) -> bool:
        return self.order != tuple(range(len(self.order)))

    def stored_bytes(self, region: Region) -> int:
        """Touched chunks at their mean stored size."""
        grid = zip(region, self.chunks, strict=True)
        touched = prod(max(0, ceil(s.stop / c) - s.start // c) for s, c in grid)
        total = prod(ceil(n / c) for n, c in zip(self.shape, self.chunks, strict=True))
        return ceil(self.storage * touched / total) if size(region) else 0

    def peak_bytes(self, region: Region) -> int:
        """Result, once more where axes move, a stored and a decoded chunk, HDF5's cache."""
        result = size(region) * self.dtype.itemsize
        chunk = prod(self.stored_chunks) * self.dtype.itemsize
        return result * (2 if self._moved else 1) + 2 * chunk + CHUNK_CACHE

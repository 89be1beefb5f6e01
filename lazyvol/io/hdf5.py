"""Read HDF5 data sets, opening the file for every read; links to other files are refused."""

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
from lazyvol.io.axes import count_elements, default_dims, dims_of_names, known_sizes, order_axes
from lazyvol.io.flat_file import (
    FlatFileSource,
    Layout,
    StoredFile,
    check_dtype,
    check_extent,
    read_error,
    stored_file,
    token,
)
from lazyvol.io.opened import Opened
from lazyvol.io.optional import formats_library
from lazyvol.io.repairs import Repairs
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, lengths, size

SUFFIXES = (".h5", ".hdf5", ".hdf")
MAGIC = b"\x89HDF\r\n\x1a\n"
#: filters that are compiled into HDF5 and h5py; others would load a plug-in
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"}
LZF = 32000
#: bytes of the decoded chunks that HDF5 keeps
CHUNK_CACHE = 1 << 20
SEPARATOR = "::"


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return a data set of an HDF5 file, ``file.h5::group/name`` or the largest.

    Without a name, the data set of 3 or more axes with most elements is opened. Axis names are
    those of the dimension labels or of an ``axes`` attribute (time becomes k, c channel),
    otherwise they follow from the number of axes as in NPY files. The attribute
    ``element_size_um`` (z, y, x) gives the spacing.

    Parameters
    ----------
    path
        The file, with ``::name`` if it holds several arrays.
    permissive
        Has no effect: no repairs are defined for HDF5.

    Raises
    ------
    FormatError
        The file is not HDF5, no array fits, several fit equally, or h5py is missing.
    TruncatedError
        The file is shorter than its header promises.
    UnsafeSourceError
        The data are in another file or need a filter that is not part of HDF5.
    """
    file_name, _, array_name = os.fspath(path).partition(SEPARATOR)
    file = stored_file(file_name)
    with open_file(file) as store:
        data = find_dataset(store, array_name, file.path)
        check_safe(data, file.path)
        names, dims_error = axis_names(data, file.path)
        dims, order = order_axes(names, file.path)
        spacing = voxel_size(data, dims)
        return Opened(
            source=cf.decode_source(source_of(file, data, order), packing(data), file.path),
            dims=dims,
            voxel_size=spacing,
            unit="micrometer" if spacing else "voxel",
            name=PurePath(data.name).name,
            dims_error=dims_error,
        )


@contextmanager
def open_file(file: StoredFile) -> Iterator[Any]:
    """Open the file for reading; turn errors of HDF5 into lazyvol errors."""
    h5py = formats_library("h5py", file.path)
    file.open().close()
    try:
        with file.unchanged(), h5py.File(file.path, "r") as store:
            yield store
    except LazyvolError:
        raise
    except PermissionError as error:
        raise read_error(file.path, error) from error
    except Exception as error:  # HDF5 reports damage as OSError, RuntimeError or KeyError
        error_class = TruncatedError if "truncated" in str(error) else FormatError
        raise error_class(f"{file.path}: HDF5 cannot read it: {error}") from error


def find_dataset(store: Any, name: str, where: str) -> Any:
    """Return a data set by name, or the only largest one."""
    if name:
        return dataset_by_name(store, name, where)
    candidates = arrays(store)
    largest = [d for d in candidates if d.size == max(c.size for c in candidates)]
    if len(largest) == 1:
        return largest[0]
    names = ", ".join(d.name for d in largest) or "none of 3 or more axes"
    raise FormatError(
        f"{where}: one data set must be chosen, found {names}; write "
        f"{PurePath(where).name}{SEPARATOR}name"
    )


def dataset_by_name(store: Any, name: str, where: str) -> Any:
    """Return a data set by name; raise UnsafeSourceError for a link to another file."""
    h5py = formats_library("h5py", where)
    node = store
    for part in name.strip("/").split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            known = ", ".join(d.name for d in arrays(store)) or "no arrays"
            raise SourceNotFoundError(f"{where}: no data set {name!r}; it holds {known}")
        if isinstance(link, h5py.ExternalLink):
            raise UnsafeSourceError(
                f"{where}: {name!r} must be inside the file, but links to {link.filename!r}"
            )
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        raise FormatError(f"{where}: {name!r} is a group; name a data set in it")
    return node


def arrays(store: Any) -> list[Any]:
    """Return the data sets of numbers with 3 or more axes; links are not followed."""
    h5py = formats_library("h5py", store.filename)
    datasets: list[Any] = []

    def visit(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and len(node.shape or ()) >= 3:
            datasets.append(node)

    store.visititems(visit)
    return [d for d in datasets if d.dtype.kind in "biuf"]


def check_safe(data: Any, where: str) -> None:
    """Raise if data are outside the file, need a plug-in filter, or are not real numbers."""
    if data.external or data.is_virtual:
        raise UnsafeSourceError(f"{where}: data set {data.name} has its data in other files")
    filters = data.id.get_create_plist()
    codes = {filters.get_filter(i)[0] for i in range(filters.get_nfilters())}
    if codes - set(FILTERS) - {LZF}:
        raise UnsafeSourceError(
            f"{where}: data set {data.name} needs the HDF5 filters {sorted(codes)}, allowed are "
            f"{', '.join(FILTERS.values())} and lzf; rewrite it with gzip"
        )
    check_dtype(data.dtype, where)
    count_elements(data.shape or (0,), where)


def axis_names(data: Any, where: str) -> tuple[tuple[str, ...], LabelError | None]:
    """Return axis names, and the error if they are ambiguous."""
    labels = [dim.label for dim in data.dims]
    if all(labels):
        return dims_of_names(labels, data.shape, where)
    axes = data.attrs.get("axes")
    if isinstance(axes, str) and len(axes) == data.ndim:
        return dims_of_names(axes, data.shape, where)
    return default_dims(data.shape, where)


def voxel_size(data: Any, dims: Sequence[str]) -> dict[str, float]:
    """Return micrometres per voxel from the attribute ``element_size_um``."""
    sizes = np.atleast_1d(np.asarray(data.attrs.get("element_size_um", ())))
    if sizes.shape != (3,) or sizes.dtype.kind not in "iuf":
        return {}
    spacing = dict(zip(("z", "y", "x"), sizes.tolist(), strict=True))
    return known_sizes({dim: value for dim, value in spacing.items() if dim in dims})


def packing(data: Any) -> dict[str, Any]:
    """Return the CF attributes of a data set; NetCDF stores them as arrays of one element."""
    return cf.select_packing({n: _plain_value(data.attrs[n]) for n in cf.READ if n in data.attrs})


def _plain_value(value: Any) -> Any:
    value = value[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def source_of(file: StoredFile, data: Any, order: tuple[int, ...]) -> Source:
    """Return a flat source if the array is contiguous, otherwise one that reads with h5py."""
    offset = None if data.chunks else data.id.get_offset()
    if offset is None or data.file.userblock_size:
        storage = (data.id.get_storage_size(), data.chunks or (1, *data.shape[1:]))
        return Hdf5Source(file, data.name, data.shape, data.dtype.str, order, *storage)
    layout = Layout(offset, data.dtype.str, data.shape, order)
    check_extent(file, layout, Repairs(file.path, permissive=True))
    return FlatFileSource(file, layout)


@dataclass(eq=False)
class Hdf5Source:
    """A data set that h5py reads; chunks are decoded whole, one after the other."""

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
        """Copy one region, into ``out`` unless it is None."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        if not out.size:
            return out
        box = tuple(region[self.order.index(axis)] for axis in range(len(self.order)))
        values = np.empty(lengths(box), self.dtype) if self._transposed else out
        with open_file(self.file) as store:
            store[self.name].read_direct(values, box)
        if values is not out:
            out[...] = values.transpose(self.order)
        return out

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the file."""
        return (self.file.path,)

    @property
    def _transposed(self) -> bool:
        return self.order != tuple(range(len(self.order)))

    def stored_bytes(self, region: Region) -> int:
        """Return the number of touched chunks times their mean stored size."""
        grid = zip(region, self.chunks, strict=True)
        touched = prod(max(0, ceil(s.stop / c) - s.start // c) for s, c in grid)
        total = prod(ceil(n / c) for n, c in zip(self.shape, self.chunks, strict=True))
        return ceil(self.storage * touched / total) if size(region) else 0

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the result, a transposed copy, two chunks and the cache of HDF5."""
        result = size(region) * self.dtype.itemsize
        chunk = prod(self.stored_chunks) * self.dtype.itemsize
        return result * (2 if self._transposed else 1) + 2 * chunk + CHUNK_CACHE

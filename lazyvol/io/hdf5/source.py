"""Data sets of HDF5 files; the file is opened for every read, and links out of it are refused."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from lazyvol.errors import (
    FormatError,
    LimitExceeded,
    SourceNotFoundError,
    UnsafeSourceError,
)
from lazyvol.io.axes import count_elements
from lazyvol.io.faults import formats_library, library_errors
from lazyvol.io.flat_file import StoredFile, check_dtype, stored_region, token
from lazyvol.io.grid import GridSource, Part
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths, size

#: filters that are compiled into HDF5 and h5py; others would load a plug-in
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"}
LZF = 32000
#: bytes of the decoded chunks that HDF5 keeps
CHUNK_CACHE = 1 << 20
#: HDF5 decodes a chunk whole
MAX_CHUNK = 1 << 30
MAX_ATTRIBUTE = 1 << 20
#: stored bytes of numbers that do not compress, relative to them, and in addition per chunk
MAX_STORED, CHUNK_OVERHEAD = 1.02, 1024


@contextmanager
def open_file(file: StoredFile) -> Iterator[Any]:
    """Open the file for reading; turn errors of HDF5 into lazyvol errors."""
    h5py = formats_library("h5py", file.path)
    file.open().close()
    with (
        library_errors(file.path, "HDF5 cannot read it", lambda error: "truncated" in str(error)),
        file.unchanged(),
        h5py.File(file.path, "r") as store,
    ):
        yield store


def node_at(store: Any, name: str, where: str) -> Any | None:
    """Return the group or data set under a name, None if there is none.

    Raises
    ------
    UnsafeSourceError
        A part of the name is a link to another file.
    """
    h5py = formats_library("h5py", where)
    node = store
    for part in name.strip("/").split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise UnsafeSourceError(
                f"{where}: {name!r} must be inside the file, but links to {link.filename!r}"
            )
        node = node.get(part)
    return node


def dataset_at(store: Any, name: str, where: str) -> Any:
    """Return a data set by name, checked by `check_safe`."""
    h5py = formats_library("h5py", where)
    node = node_at(store, name, where)
    if node is None:
        known = ", ".join(d.name for d in arrays(store)[:20]) or "no arrays"
        raise SourceNotFoundError(f"{where}: no data set {name!r}; it holds {known}")
    if not isinstance(node, h5py.Dataset):
        raise FormatError(f"{where}: {name!r} is a group; name a data set in it")
    check_safe(node, where)
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
    chunk = prod(data.chunks or ()) * data.dtype.itemsize
    if chunk > MAX_CHUNK:
        raise LimitExceeded(
            f"{where}: a chunk of data set {data.name} may have {MAX_CHUNK} bytes, it declares "
            f"{chunk}; rewrite it with smaller chunks"
        )


def check_stored_size(data: Any, where: str) -> None:
    """Raise LimitExceeded if chunks have more stored than decoded bytes, as bombs have.

    HDF5 inflates a stream to its end, 1032 times its bytes, however small its chunk is.
    """
    if not data.chunks:
        return
    chunks = prod(ceil(n / c) for n, c in zip(data.shape, data.chunks, strict=True))
    limit = chunks * (prod(data.chunks) * data.dtype.itemsize * MAX_STORED + CHUNK_OVERHEAD)
    if data.id.get_storage_size() > limit:
        raise LimitExceeded(
            f"{where}: the chunks of data set {data.name} may have {limit:.0f} stored bytes, they "
            f"have {data.id.get_storage_size()}; write the file again"
        )


def attribute(node: Any, name: str, where: str) -> Any:
    """Return an attribute, None if there is none; raise LimitExceeded if it is too large."""
    if name not in node.attrs:
        return None
    kind = node.attrs.get_id(name)
    count = prod(kind.shape or ()) * kind.dtype.itemsize
    if count > MAX_ATTRIBUTE:
        raise LimitExceeded(
            f"{where}: an attribute may have {MAX_ATTRIBUTE} bytes, {name} of {node.name} has "
            f"{count}"
        )
    value = node.attrs[name]
    value = value[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@dataclass(eq=False, kw_only=True)
class Hdf5Source(GridSource):
    """Data sets of equal shape; the chunks of each are decoded whole, one after the other.

    Attributes
    ----------
    name
        Path of a data set, with a replacement field ``{0}``, ``{1}`` for each of ``members``.
    members
        The numbers in the path; several are an axis of the grid.
    stored_shape, stored_dtype
        Shape and dtype in the file. A data set that is larger than a part is padded at its end;
        integers of another sign than the part are read as they are, bit by bit.
    rendered
        True for numbers that EMAN2 reduced to few bits.
    """

    name: str
    stored_shape: tuple[int, ...]
    stored_dtype: str
    members: tuple[Sequence[int], ...] = ()
    rendered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        facts = (self.name, self.members, self.stored_shape, self.stored_dtype, self.rendered)
        self.token = token(self.file, self.part_shape, self.part_dtype, self.order, facts)

    def read_parts(self, parts: Iterator[Part], box: Region) -> None:
        """Read ``box`` of every data set to the memory that comes with it."""
        native = np.dtype(self.stored_dtype).newbyteorder("=")
        in_place = native.itemsize == self.dtype.itemsize and not self.rendered
        with open_file(self.file) as store:
            for position, target in parts:
                data = self._data_set(store, position)
                if in_place and target.flags.c_contiguous:
                    data.read_direct(target.view(native), box)
                    continue
                values = np.empty(lengths(box), native)
                data.read_direct(values, box)
                target[...] = (
                    unrender(values, data.parent) if self.rendered else values.view(self.dtype)
                )

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the result, of two chunks, and of a copy where one is made."""
        in_order = self.order == tuple(range(len(self.order))) and not self.rendered
        box = stored_region(region, self.order)[len(self.grid) :]
        copies = 0 if in_order else 3 if self.rendered else 1
        return super().peak_bytes(region) + copies * size(box) * self.dtype.itemsize

    def _data_set(self, store: Any, position: tuple[int, ...]) -> Any:
        """Return one data set; raise FormatError if it differs from the first."""
        index = iter(position)
        numbers = [n[next(index)] if len(n) > 1 else n[0] for n in self.members]
        data = dataset_at(store, self.name.format(*numbers), self.file.path)
        found = data.shape, data.dtype.str, bool(render_bits(data.parent, self.file.path))
        expected = self.stored_shape, self.stored_dtype, self.rendered
        if found != expected:
            raise FormatError(
                f"{self.file.path}: data set {data.name} must have the shape, the dtype and the "
                f"reduction of the first, {expected}, found {found}; open it by its name"
            )
        return data


def data_sets(
    file: StoredFile,
    data: Any,
    name: str,
    order: tuple[int, ...],
    members: tuple[Sequence[int], ...] = (),
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
) -> Hdf5Source:
    """Return the source of data sets of which ``data`` is the first; see `Hdf5Source`.

    ``shape`` and ``dtype`` are those of a part, by default those of the data set.
    """
    check_stored_size(data, file.path)
    rendered = bool(render_bits(data.parent, file.path))
    shape = shape or data.shape
    stored_chunks = data.chunks or (1, *data.shape[1:])
    dtype = "<f4" if rendered else dtype or data.dtype.str
    return Hdf5Source(
        file=file,
        grid=tuple(len(numbers) for numbers in members if len(numbers) > 1),
        part_shape=shape,
        part_chunks=tuple(map(min, stored_chunks, shape)),
        part_dtype=np.dtype(dtype).newbyteorder("=").str,
        order=order,
        part_bytes=data.id.get_storage_size(),
        scratch=2 * prod(stored_chunks) * data.dtype.itemsize + CHUNK_CACHE,
        name=name,
        stored_shape=data.shape,
        stored_dtype=data.dtype.str,
        members=members,
        rendered=rendered,
    )


def render_bits(group: Any, where: str) -> int:
    """Return the number of bits to which EMAN2 reduced an image, 0 if it did not."""
    return int(attribute(group, "EMAN.stored_renderbits", where) or 0)


def unrender(values: Array, group: Any) -> Array:
    """Return the numbers of an image as they were before EMAN2 reduced them, within one step."""
    low, high = (float(group.attrs[f"EMAN.stored_render{end}"]) for end in ("min", "max"))
    numbers: Array = values.astype(np.float32)
    if high != low:
        numbers *= np.float32((high - low) / ((1 << render_bits(group, group.name)) - 1))
        numbers += np.float32(low)
    return numbers

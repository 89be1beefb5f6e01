"""Where and how the chunks of a zarr array are stored, as zarr-python reads its metadata."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded, UnsafeSourceError
from lazyvol.io.faults import library_errors
from lazyvol.io.zarr.adapter import document_of, open_document
from lazyvol.io.zarr.codecs import is_bounded

#: a chunk is decoded whole, so it is the smallest memory of a read
MAX_CHUNK_BYTES = 8 << 30
#: an index of 16 bytes per inner chunk is read for each touched shard
MAX_INNER_CHUNKS = 1 << 22
MAX_NDIM = 32
#: bytes that a text of any length is expected to take at most, in a chunk of many
TEXT_BYTES = 256
DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
)

#: name and configuration of each codec, in the order of encoding
Chain = list[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Index:
    """Index of a shard with ``per_shard`` inner chunks along each axis: its position and form."""

    per_shard: tuple[int, ...]
    at_start: bool
    order: str
    checked: bool

    @property
    def nbytes(self) -> int:
        """Return the bytes of the stored index."""
        return 16 * prod(self.per_shard) + 4 * self.checked


@dataclass(frozen=True)
class ArrayMeta:
    """Metadata of a zarr array.

    ``files`` is the shape of one file and ``inner`` that of a chunk; they differ for shards.
    ``dtype`` is ``|O``, in memory Python objects, for texts of any length.
    ``fill`` is None if it is undefined. A chunk is decoded by ``stages`` in reverse order, and
    then by zarr as the only chunk of the array in the document ``rest``; without ``rest`` it
    holds the values, with the axes of the array in the order of ``axes``. File names consist of
    ``prefix``, ``separator`` and indices.
    """

    shape: tuple[int, ...]
    dtype: str
    fill: int | float | bool | str | bytes | None
    files: tuple[int, ...]
    inner: tuple[int, ...]
    stages: tuple[str, ...]
    axes: tuple[int, ...]
    rest: str | None
    index: Index | None
    prefix: str
    separator: str

    @cached_property
    def native(self) -> np.dtype[Any]:
        """Return the dtype in memory."""
        return np.dtype(self.dtype).newbyteorder("=")

    @cached_property
    def chunk_bytes(self) -> int:
        """Return the bytes of a decoded chunk; of texts of any length a bound."""
        if self.native.kind == "O":
            return max(1 << 20, prod(self.inner) * TEXT_BYTES)
        return prod(self.inner) * self.native.itemsize

    @cached_property
    def encoded(self) -> bool:
        """Return True if stored bytes must be decoded."""
        return bool(self.stages or self.rest)

    @cached_property
    def stored_bound(self) -> int:
        """Return the largest number of bytes that a stored chunk may have."""
        return self.chunk_bytes + (self.chunk_bytes // 64 + 4096) * self.encoded

    @cached_property
    def plain(self) -> bool:
        """Return True if decoded bytes are the values: native, in C order, not boolean."""
        stored: np.dtype[Any] = np.dtype(self.dtype)
        ordered = self.axes == tuple(range(len(self.axes)))
        return not self.rest and stored.isnative and stored.kind != "b" and ordered

    @cached_property
    def stored_shape(self) -> tuple[int, ...]:
        """Return the shape of a decoded chunk in the order of its stored axes."""
        return tuple(self.inner[axis] for axis in self.axes)

    @cached_property
    def axis_order(self) -> tuple[int, ...]:
        """Return the transposition from the stored axes of a chunk to those of the array."""
        return tuple(self.axes.index(axis) for axis in range(len(self.axes)))

    def key(self, index: Sequence[int]) -> str:
        """Return the name of the file at grid position ``index``, below the array folder."""
        words = [str(i) for i in index]
        if self.prefix:
            return self.separator.join([self.prefix, *words])
        return self.separator.join(words) or "0"


def array_meta(document: Mapping[str, Any], where: str) -> ArrayMeta:
    """Return the metadata of an array from its document, ``.zarray`` or ``zarr.json``.

    Raises
    ------
    FormatError
        zarr refuses the document, or its arrays do not consist of numbers or texts in regular
        chunks.
    UnsafeSourceError
        The dtype is that of Python objects.
    LimitExceeded
        A chunk or an index would take too much memory.
    """
    array = _open(document, where)
    content, chunks, shards = document_of(array), array.chunks, array.shards
    _check_defaults(document, content, where)
    shard = content["codecs"][0]["configuration"] if shards else None
    prefix, separator = _key_style(array.metadata, where)
    chain = _chain(content, shard)
    count = _codecs_of_zarr(chain, where)
    stored = np.dtype(object) if array.dtype.kind == "T" else array.dtype
    layout = _layout(content, chain[:count], stored)
    dtype, axes = layout or (stored.str, tuple(range(len(chunks))))
    meta = ArrayMeta(
        shape=array.shape,
        dtype=dtype,
        fill=_fill(document, array),
        files=shards or chunks,
        inner=chunks,
        stages=tuple(name.removeprefix("numcodecs.") for name, _ in chain[count:]),
        axes=axes,
        rest=None if layout else _chunk_document(content, chain[:count], chunks),
        index=_index(shards, chunks, shard, where) if shard else None,
        prefix=prefix,
        separator=separator,
    )
    return _check_limits(meta, where)


def _open(document: Mapping[str, Any], where: str) -> Any:
    """Return the array of a document by zarr; raise if zarr or lazyvol cannot read it."""
    is_text = document.get("dtype") == "|O" and document.get("filters") == [{"id": "vlen-utf8"}]
    if "|O" in repr(document.get("dtype")) and not is_text:
        raise UnsafeSourceError(
            f"{where}: dtype {short(document['dtype'])} holds Python objects, reading them would "
            "run code; rewrite it as numbers"
        )
    if document.get("fill_value", 0) is None and "data_type" in document:  # refused by zarr
        document = {**document, "fill_value": document["data_type"] != "bool" and 0}
    with library_errors(where, "zarr must be able to read the array, but"):
        array = open_document({**document, "attributes": {}})
        _ = array.chunks, array.shards  # they exist for regular grids only
    if array.dtype.kind not in "UST":
        require_numbers(array.dtype, where)
    if document.get("storage_transformers"):
        raise FormatError(f"{where}: storage_transformers must be empty")
    return array


def require_numbers(dtype: np.dtype[Any], where: str) -> None:
    """Raise FormatError if a dtype is none of those that voxels may have."""
    if dtype.name not in DTYPES:
        found = "String" if dtype.kind == "O" else dtype
        raise FormatError(
            f"{where}: dtype must be one of {', '.join(DTYPES)}, found {found}; rewrite it as "
            "numbers"
        )


def _fill(document: Mapping[str, Any], array: Any) -> int | float | bool | str | bytes | None:
    """Return the value of absent chunks; None if it is undefined, which no text is."""
    is_undefined = document.get("fill_value", 0) is None
    if array.dtype.kind in "UST":
        fill: str | bytes = array.dtype.type("" if is_undefined else array.fill_value)
        return fill
    return None if is_undefined else array.fill_value.item()


def _check_defaults(document: Mapping[str, Any], content: Mapping[str, Any], where: str) -> None:
    """Raise FormatError if zarr took a value for one that the document must have."""
    grid = document if "chunks" in document else document["chunk_grid"]["configuration"]
    if 0 in (grid["chunks"] if grid is document else grid["chunk_shape"]):  # zarr 3.4 takes 1
        raise FormatError(f"{where}: chunks must not be empty, found {short(grid)}")
    named, taken = (json.dumps(d.get("codecs")).count('"endian"') for d in (document, content))
    if named < taken:  # zarr takes the byte order of this machine
        raise FormatError(f"{where}: codec bytes must have an endian, found none")


def _chain(content: Mapping[str, Any], shard: Mapping[str, Any] | None) -> Chain:
    """Return the codecs of a chunk, or of an inner chunk of a shard."""
    if content["zarr_format"] == 2:
        configs = [*(content["filters"] or ()), content["compressor"]]
        return [(config["id"], config) for config in configs if config]
    codecs = (shard or content)["codecs"]
    return [(codec["name"], codec.get("configuration", {})) for codec in codecs]


def _codecs_of_zarr(chain: Chain, where: str) -> int:
    """Return the number of codecs before those that `codecs` decodes."""
    names = [name for name, _ in chain]
    if "sharding_indexed" in names:
        raise FormatError(f"{where}: sharding_indexed must be the only codec, found {names}")
    count = len(chain)
    while count and is_bounded(chain[count - 1][0].removeprefix("numcodecs."), chain[count - 1][1]):
        count -= 1
    return count


def _layout(
    content: Mapping[str, Any], chain: Chain, dtype: np.dtype[Any]
) -> tuple[str, tuple[int, ...]] | None:
    """Return dtype and order of the axes of decoded bytes; None if they are not yet values."""
    if dtype.kind == "O":
        return None
    axes = tuple(range(len(content["shape"])))
    if content["zarr_format"] == 2:
        return None if chain else (dtype.str, axes[:: -1 if content["order"] == "F" else 1])
    *transpositions, (name, configuration) = chain
    if name != "bytes" or any(codec != "transpose" for codec, _ in transpositions):
        return None
    for _, transposition in transpositions:
        axes = tuple(axes[i] for i in transposition["order"])
    return dtype.newbyteorder(configuration.get("endian", "=")).str, axes


def _chunk_document(content: Mapping[str, Any], chain: Chain, chunk: tuple[int, ...]) -> str:
    """Return the document of an array of one chunk that is encoded by ``chain``."""
    if content["zarr_format"] == 2:
        filters = [config for _, config in chain]
        return json.dumps({**content, "shape": chunk, "filters": filters, "compressor": None})
    codecs = [{"name": name, "configuration": configuration} for name, configuration in chain]
    grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
    return json.dumps({**content, "shape": chunk, "chunk_grid": grid, "codecs": codecs})


def _index(
    shards: tuple[int, ...], chunks: tuple[int, ...], shard: Mapping[str, Any], where: str
) -> Index:
    """Return the index of a shard from the configuration of its codec."""
    per_shard = tuple(n // c for n, c in zip(shards, chunks, strict=True))
    if prod(per_shard) > MAX_INNER_CHUNKS:
        raise LimitExceeded(
            f"{where}: a shard may hold {MAX_INNER_CHUNKS} chunks, {shards} holds {prod(per_shard)}"
        )
    names = [codec["name"] for codec in shard["index_codecs"]]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise FormatError(f"{where}: index_codecs must be bytes and crc32c, found {names}")
    order = "<" if shard["index_codecs"][0]["configuration"]["endian"] == "little" else ">"
    return Index(per_shard, shard["index_location"] == "start", order, len(names) == 2)


def _key_style(metadata: Any, where: str) -> tuple[str, str]:
    """Return the prefix and the separator of the names of chunk files."""
    key = metadata.encode_chunk_key((0, 0))
    prefix, separator = key[:-3].rstrip("./"), key[-2]
    if key != separator.join([*([prefix] if prefix else []), "0", "0"]) or separator not in "./":
        raise FormatError(f"{where}: chunk_key_encoding must be default or v2, found {key!r}")
    return prefix, separator


def _check_limits(meta: ArrayMeta, where: str) -> ArrayMeta:
    """Return the metadata; raise if they need too much memory."""
    if len(meta.shape) > MAX_NDIM:
        raise FormatError(
            f"{where}: an array must have at most {MAX_NDIM} axes, found {len(meta.shape)}"
        )
    if meta.chunk_bytes > MAX_CHUNK_BYTES:
        raise LimitExceeded(
            f"{where}: a decoded chunk may have {MAX_CHUNK_BYTES} bytes, chunks {meta.inner} of "
            f"{meta.dtype} have {meta.chunk_bytes}; rewrite it with smaller chunks"
        )
    for name, shape in (("shape", meta.shape), ("chunks", meta.files)):
        if prod(shape) * meta.native.itemsize >= 1 << 63:
            raise LimitExceeded(f"{where}: {name} {shape} must have less than 2^63 bytes")
    return meta


def short(value: object) -> str:
    """Return the repr of a value, cut after 100 characters."""
    text = repr(value)
    return text if len(text) < 100 else f"{text[:100]}..."

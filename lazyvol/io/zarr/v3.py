"""Parse the metadata of a zarr v3 array."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded
from lazyvol.io.zarr.codecs import Stage
from lazyvol.io.zarr.metadata import (
    MAX_INNER_CHUNKS,
    MAX_STAGES,
    ArrayMeta,
    Index,
    check_limits,
    choice,
    codec_error,
    fill_value,
    name_and_configuration,
    short,
    whole_numbers,
)

DTYPES = {
    "bool": "|b1",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "int64": "i8",
    "uint64": "u8",
    "float16": "f2",
    "float32": "f4",
    "float64": "f8",
}
BYTE_CODECS = ("zstd", "blosc", "gzip", "crc32c")

Codec = tuple[str, Mapping[str, Any]]


def parse(meta: Mapping[str, Any], where: str) -> ArrayMeta:
    """Return the checked metadata of an array."""
    shape = whole_numbers(meta, "shape", where, 0)
    grid = name_and_configuration(meta.get("chunk_grid"), "chunk_grid", where)
    if grid[0] != "regular":
        raise FormatError(f"{where}: chunk_grid must be 'regular', found {grid[0]!r}")
    files = whole_numbers(grid[1], "chunk_shape", where, 1, len(shape))
    if meta.get("storage_transformers"):
        raise FormatError(f"{where}: storage_transformers must be empty")
    dtype = _dtype(meta.get("data_type"), where)
    prefix, separator = _keys(meta, where)
    codecs = _codecs(meta.get("codecs"), "codecs", where)
    inner, index, codecs = _sharding(files, codecs, where)
    axes, order, stages = _chain(codecs, len(shape), dtype, where)
    array = ArrayMeta(
        shape=shape,
        dtype=np.dtype(order + dtype.lstrip("|")).str,
        fill=fill_value(meta.get("fill_value"), np.dtype(dtype), where),
        files=files,
        inner=inner,
        stages=stages,
        axes=axes,
        index=index,
        prefix=prefix,
        separator=separator,
        names=_names(meta.get("dimension_names"), len(shape), where),
    )
    return check_limits(array, where)


def _codecs(value: object, field: str, where: str) -> list[Codec]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_STAGES:
        raise FormatError(f"{where}: {field} must list 1 to {MAX_STAGES}, found {short(value)}")
    return [name_and_configuration(codec, field, where) for codec in value]


def _dtype(value: object, where: str) -> str:
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    raise FormatError(
        f"{where}: data_type must be one of {', '.join(DTYPES)}, found {short(value)}; "
        "rewrite it as numbers"
    )


def _keys(meta: Mapping[str, Any], where: str) -> tuple[str, str]:
    name, configuration = name_and_configuration(
        meta.get("chunk_key_encoding"), "chunk_key_encoding", where
    )
    choice(name, ("default", "v2"), "chunk_key_encoding", where)
    usual = "/" if name == "default" else "."
    separator = choice(configuration.get("separator", usual), ("/", "."), "separator", where)
    return "c" if name == "default" else "", separator


def _sharding(
    files: tuple[int, ...], codecs: list[Codec], where: str
) -> tuple[tuple[int, ...], Index | None, list[Codec]]:
    """Return the shape and codecs of an inner chunk, and the index of a shard."""
    if all(name != "sharding_indexed" for name, _ in codecs):
        return files, None, codecs
    if len(codecs) > 1:
        names = [name for name, _ in codecs]
        raise FormatError(f"{where}: sharding_indexed must be the only codec, found {names}")
    configuration = codecs[0][1]
    inner = whole_numbers(configuration, "chunk_shape", where, 1, len(files))
    if any(n % c for n, c in zip(files, inner, strict=True)):
        raise FormatError(f"{where}: shards {files} must be multiples of inner chunks {inner}")
    per_shard = tuple(n // c for n, c in zip(files, inner, strict=True))
    if prod(per_shard) > MAX_INNER_CHUNKS:
        raise LimitExceeded(
            f"{where}: a shard may hold {MAX_INNER_CHUNKS} chunks, {files} holds {prod(per_shard)}"
        )
    chain = _codecs(configuration.get("codecs"), "codecs of a shard", where)
    return inner, _index(per_shard, configuration, where), chain


def _index(per_shard: tuple[int, ...], configuration: Mapping[str, Any], where: str) -> Index:
    location = configuration.get("index_location", "end")
    choice(location, ("start", "end"), "index_location", where)
    chain = _codecs(configuration.get("index_codecs"), "index_codecs", where)
    names = [name for name, _ in chain]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise FormatError(f"{where}: index_codecs must be bytes and crc32c, found {names}")
    order = choice(chain[0][1].get("endian"), ("little", "big"), "endian", where)
    return Index(per_shard, location == "start", "<" if order == "little" else ">", len(names) == 2)


def _chain(
    codecs: list[Codec], ndim: int, dtype: str, where: str
) -> tuple[tuple[int, ...], str, tuple[Stage, ...]]:
    """Return the order of the stored axes, the byte order, and the codecs of bytes."""
    axes, order = tuple(range(ndim)), ""
    stages = []
    for name, configuration in codecs:
        if name == "transpose" and not order:
            permutation = whole_numbers(configuration, "order", where, 0, ndim)
            if sorted(permutation) != list(range(ndim)):
                raise FormatError(
                    f"{where}: transpose must name each axis once, found {permutation}"
                )
            axes = tuple(axes[i] for i in permutation)
        elif name == "bytes" and not order:
            order = _byte_order(configuration, dtype, where)
        elif name in BYTE_CODECS and order:
            stages.append(Stage(name))
        else:
            raise codec_error(name, ("transpose", "bytes", *BYTE_CODECS, "sharding_indexed"), where)
    if not order:
        raise FormatError(f"{where}: codecs must contain 'bytes', found {[n for n, _ in codecs]}")
    return axes, order, tuple(stages)


def _byte_order(configuration: Mapping[str, Any], dtype: str, where: str) -> str:
    endian = configuration.get("endian")
    if endian is None and np.dtype(dtype).itemsize == 1:
        return "|"
    return "<" if choice(endian, ("little", "big"), "endian", where) == "little" else ">"


def _names(value: object, ndim: int, where: str) -> tuple[str | None, ...] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != ndim
        or any(name is not None and not isinstance(name, str) for name in value)
    ):
        raise FormatError(
            f"{where}: dimension_names must be {ndim} names or null, found {short(value)}"
        )
    return tuple(value)

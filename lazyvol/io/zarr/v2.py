"""Parse the metadata of a zarr v2 array."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numcodecs
import numpy as np

from lazyvol.errors import FormatError, UnsafeSourceError
from lazyvol.io.zarr.codecs import Stage
from lazyvol.io.zarr.metadata import (
    MAX_STAGES,
    ArrayMeta,
    check_limits,
    choice,
    codec_error,
    fill_value,
    short,
    whole_numbers,
)

COMPRESSORS = ("zstd", "blosc", "lz4", "gzip", "zlib", "bz2", "lzma")
FILTERS = (
    *("delta", "shuffle", "fixedscaleoffset", "quantize", "bitround"),
    *("crc32", "crc32c", "adler32", "fletcher32"),
)


def parse(meta: Mapping[str, Any], where: str) -> ArrayMeta:
    """Return the checked metadata of an array."""
    shape = whole_numbers(meta, "shape", where, 0)
    chunks = whole_numbers(meta, "chunks", where, 1, len(shape))
    order = choice(meta.get("order"), ("C", "F"), "order", where)
    separator = choice(meta.get("dimension_separator", "."), (".", "/"), "separator", where)
    dtype = _dtype(meta.get("dtype"), where)
    axes = tuple(range(len(shape)))
    array = ArrayMeta(
        shape=shape,
        dtype=dtype.str,
        fill=fill_value(meta.get("fill_value"), dtype, where),
        files=chunks,
        inner=chunks,
        stages=_stages(meta, where),
        axes=axes[::-1] if order == "F" else axes,
        index=None,
        prefix="",
        separator=separator,
    )
    return check_limits(array, where)


def _dtype(value: object, where: str) -> np.dtype[Any]:
    if isinstance(value, str) and re.fullmatch(r"[<>|](b1|[iu][1248]|f[248])", value):
        return np.dtype(value)
    if "|O" in repr(value):
        raise UnsafeSourceError(
            f"{where}: dtype {short(value)} holds Python objects, reading them would run code; "
            "rewrite it as numbers"
        )
    raise FormatError(
        f"{where}: dtype must be a bool, integer or float of at most 8 bytes such as '<f4', "
        f"found {short(value)}"
    )


def _stages(meta: Mapping[str, Any], where: str) -> tuple[Stage, ...]:
    filters, compressor = meta.get("filters") or [], meta.get("compressor")
    if not isinstance(filters, list) or len(filters) > MAX_STAGES:
        raise FormatError(f"{where}: filters must be a list, found {short(filters)}")
    configs = [*filters, compressor] if compressor is not None else filters
    return tuple(_stage(config, where) for config in configs)


def _stage(config: object, where: str) -> Stage:
    name = config.get("id") if isinstance(config, dict) else None
    if not isinstance(config, dict) or name not in (*COMPRESSORS, *FILTERS):
        raise codec_error(name, (*COMPRESSORS, *FILTERS), where)
    if name == "lzma" and (config.get("format", 1) != 1 or config.get("filters")):
        raise FormatError(f"{where}: lzma must be a plain xz stream, found {short(config)}")
    if name in COMPRESSORS:
        return Stage(str(name))
    for field in ("dtype", "astype"):
        if field in config:
            _dtype(config[field], f"{where}: filter {name}")
    try:
        numcodecs.get_codec(config)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where}: filter {short(config)} is not valid: {error}") from error
    return Stage("filter", json.dumps(config))

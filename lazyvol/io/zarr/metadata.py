"""Metadata of a zarr array of v2 or v3, and the checks that both versions share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, prod
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded, UnsafeSourceError
from lazyvol.io.zarr.codecs import Stage

#: a chunk is decoded whole, so it is the smallest memory of a read
MAX_CHUNK_BYTES = 8 << 30
#: an index of 16 bytes per inner chunk is read for each touched shard
MAX_INNER_CHUNKS = 1 << 22
MAX_NDIM = 32
MAX_STAGES = 8


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
    ``fill`` is None if it is undefined. ``axes`` is the order in which a chunk stores the axes of
    the array. File names consist of ``prefix``, ``separator`` and indices.
    """

    shape: tuple[int, ...]
    dtype: str
    fill: int | float | bool | None
    files: tuple[int, ...]
    inner: tuple[int, ...]
    stages: tuple[Stage, ...]
    axes: tuple[int, ...]
    index: Index | None
    prefix: str
    separator: str
    names: tuple[str | None, ...] | None = None

    @cached_property
    def native(self) -> np.dtype[Any]:
        """Return the dtype in memory."""
        return np.dtype(self.dtype).newbyteorder("=")

    @cached_property
    def chunk_bytes(self) -> int:
        """Return the bytes of a decoded chunk."""
        return prod(self.inner) * self.native.itemsize

    @cached_property
    def stored_bound(self) -> int:
        """Return the largest number of bytes that a stored chunk may have."""
        return self.chunk_bytes + self.chunk_bytes // 64 + 4096

    @cached_property
    def plain(self) -> bool:
        """Return True if decoded bytes are the values: native, in C order, not boolean."""
        stored: np.dtype[Any] = np.dtype(self.dtype)
        ordered = self.axes == tuple(range(len(self.axes)))
        return stored.isnative and stored.kind != "b" and ordered

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


def check_limits(meta: ArrayMeta, where: str) -> ArrayMeta:
    """Return the metadata; raise LimitExceeded if they need too much memory."""
    if meta.chunk_bytes > MAX_CHUNK_BYTES:
        raise LimitExceeded(
            f"{where}: a decoded chunk may have {MAX_CHUNK_BYTES} bytes, chunks {meta.inner} of "
            f"{meta.dtype} have {meta.chunk_bytes}; rewrite it with smaller chunks"
        )
    for name, shape in (("shape", meta.shape), ("chunks", meta.files)):
        if prod(shape) * meta.native.itemsize >= 1 << 63:
            raise LimitExceeded(f"{where}: {name} {shape} must have less than 2^63 bytes")
    return meta


def whole_numbers(
    meta: Mapping[str, Any], field: str, where: str, minimum: int, count: int | None = None
) -> tuple[int, ...]:
    """Return a field that lists integers of at least ``minimum``; raise FormatError otherwise."""
    values = meta.get(field)
    if (
        not isinstance(values, list)
        or len(values) > MAX_NDIM
        or any(type(n) is not int or n < minimum for n in values)
        or (count is not None and len(values) != count)
    ):
        rule = f"a list of {'at most 32' if count is None else count} whole numbers >= {minimum}"
        raise FormatError(f"{where}: {field} must be {rule}, found {short(values)}")
    return tuple(values)


def short(value: object) -> str:
    """Return the repr of a value, cut after 100 characters."""
    text = repr(value)
    return text if len(text) < 100 else f"{text[:100]}..."


def choice(value: object, allowed: Sequence[str], field: str, where: str) -> str:
    """Return a value that is one of ``allowed``; raise FormatError otherwise."""
    if not isinstance(value, str) or value not in allowed:
        raise FormatError(f"{where}: {field} must be one of {allowed}, found {short(value)}")
    return value


def name_and_configuration(value: object, field: str, where: str) -> tuple[str, Mapping[str, Any]]:
    """Return name and configuration of an extension point of v3; a plain name has none."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        configuration = value.get("configuration") or {}
        if isinstance(configuration, dict):
            return value["name"], configuration
    raise FormatError(f"{where}: {field} must have a name, found {short(value)}")


def codec_error(name: object, allowed: Sequence[str], where: str) -> UnsafeSourceError:
    """Return the error for a codec that is not on the allow-list."""
    return UnsafeSourceError(
        f"{where}: a codec must be one of {', '.join(allowed)} in its place, found {short(name)}; "
        "rewrite the array with one of them"
    )


def fill_value(value: object, dtype: np.dtype[Any], where: str) -> int | float | bool | None:
    """Return the value of absent chunks; None if the metadata leave it undefined."""
    try:
        if value is None:
            return None
        if dtype.kind == "f":
            return _float(value, dtype)
        if dtype.kind == "b" and value in (0, 1):
            return bool(value)
        if dtype.kind in "iu" and float(value).is_integer():  # type: ignore[arg-type]
            return int(dtype.type(int(value)))  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        pass
    raise FormatError(f"{where}: fill_value must be a {dtype}, found {short(value)}")


def _float(value: object, dtype: np.dtype[Any]) -> float:
    if isinstance(value, str) and value.startswith("0x"):
        raw = bytes.fromhex(value[2:])
        if len(raw) != dtype.itemsize:
            raise ValueError("length")
        return float(np.frombuffer(raw, dtype.newbyteorder(">"))[0])
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError("word")
    number = float(value)  # type: ignore[arg-type]
    if isfinite(number) and abs(number) > float(np.finfo(dtype).max):
        raise ValueError("range")
    return number

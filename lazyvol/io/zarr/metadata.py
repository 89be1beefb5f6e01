"""What a zarr array is made of, and the checks that its metadata pass, v2 or v3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, prod
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded, UnsafeSourceError
from lazyvol.io.zarr.codecs import Stage

#: a chunk is decoded whole, so this is the least memory a read takes
MAX_CHUNK_BYTES = 8 << 30
#: an index of 16 bytes per inner chunk is read for each touched shard
MAX_INNER_CHUNKS = 1 << 22
MAX_NDIM = 32
MAX_STAGES = 8


@dataclass(frozen=True)
class Index:
    """Index of a shard: ``per_shard`` inner chunks along each axis, where it lies, its form."""

    per_shard: tuple[int, ...]
    at_start: bool
    order: str
    checked: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the stored index."""
        return 16 * prod(self.per_shard) + 4 * self.checked


@dataclass(frozen=True)
class ArrayMeta:
    """What a zarr array is made of.

    ``files`` is the shape of what one file holds, ``inner`` of what is decoded at once: the same
    unless sharded. ``fill`` is None where it is undefined. ``axes`` is the order in which the
    array's axes are stored in a chunk. ``prefix`` and ``separator`` make the names of files.
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
        """Dtype in memory."""
        return np.dtype(self.dtype).newbyteorder("=")

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk."""
        return prod(self.inner) * self.native.itemsize

    @cached_property
    def stored_bound(self) -> int:
        """Most bytes that a chunk may take in its file."""
        return self.chunk_bytes + self.chunk_bytes // 64 + 4096

    @cached_property
    def plain(self) -> bool:
        """Whether decoded bytes are the values in memory: native, in C order, no booleans."""
        stored: np.dtype[Any] = np.dtype(self.dtype)
        ordered = self.axes == tuple(range(len(self.axes)))
        return stored.isnative and stored.kind != "b" and ordered

    @cached_property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of a decoded chunk, its axes in the order they are stored in."""
        return tuple(self.inner[axis] for axis in self.axes)

    @cached_property
    def back(self) -> tuple[int, ...]:
        """Transposition that brings the axes of a decoded chunk into the array's order."""
        return tuple(self.axes.index(axis) for axis in range(len(self.axes)))

    def key(self, index: Sequence[int]) -> str:
        """Name of the file with grid position ``index``, under the array's folder."""
        words = [str(i) for i in index]
        if self.prefix:
            return self.separator.join([self.prefix, *words])
        return self.separator.join(words) or "0"


def limited(meta: ArrayMeta, where: str) -> ArrayMeta:
    """The metadata themselves, unless they ask for too much memory."""
    if meta.chunk_bytes > MAX_CHUNK_BYTES:
        raise LimitExceeded(
            f"{where}: a decoded chunk may have {MAX_CHUNK_BYTES} bytes, chunks {meta.inner} of "
            f"{meta.dtype} have {meta.chunk_bytes}; rewrite it with smaller chunks"
        )
    for name, shape in (("shape", meta.shape), ("chunks", meta.files)):
        if prod(shape) * meta.native.itemsize >= 1 << 63:
            raise LimitExceeded(f"{where}: {name} {shape} holds more than 2^63 bytes")
    return meta


def whole_numbers(
    meta: Mapping[str, Any], field: str, where: str, least: int, count: int | None = None
) -> tuple[int, ...]:
    values = meta.get(field)
    if (
        not isinstance(values, list)
        or len(values) > MAX_NDIM
        or any(type(n) is not int or n < least for n in values)
        or (count is not None and len(values) != count)
    ):
        rule = f"a list of {'at most 32' if count is None else count} whole numbers >= {least}"
        raise FormatError(f"{where}: {field} must be {rule}, found {short(values)}")
    return tuple(values)


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:100]}..."


def choice(value: object, allowed: Sequence[str], field: str, where: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise FormatError(f"{where}: {field} must be one of {allowed}, found {short(value)}")
    return value


def named(value: object, field: str, where: str) -> tuple[str, Mapping[str, Any]]:
    """Name and configuration of an extension point of v3; a plain name has none."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        configuration = value.get("configuration") or {}
        if isinstance(configuration, dict):
            return value["name"], configuration
    raise FormatError(f"{where}: {field} must have a name, found {short(value)}")


def off_list(name: object, allowed: Sequence[str], where: str) -> UnsafeSourceError:
    return UnsafeSourceError(
        f"{where}: a codec must be one of {', '.join(allowed)} in its place, found {short(name)}; "
        "rewrite the array with one of them"
    )


def fill_value(value: object, dtype: np.dtype[Any], where: str) -> int | float | bool | None:
    """Value of chunks that are not there; None where the metadata leave it undefined."""
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

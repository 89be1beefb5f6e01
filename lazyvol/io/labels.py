"""What a store says about an array beside its values, and our own record of it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from lazyvol.errors import ChecksumError, FormatError, LabelError
from lazyvol.io.confined import MAX_JSON
from lazyvol.io.zarrcodecs import crc32c

#: attribute of an array or group that holds our record
KEY = "lazyvol"
FORMAT = 1
#: the ``kind`` of a group of variables
DATA_SET = "dataset"
#: an array of texts takes its longest for each
MAX_TEXT = 4 * MAX_JSON
DTYPE = r"[<>|]([biuf]\d{1,2}|U\d{1,9}|[mM]8(\[\w{1,9}\])?)"

Coords = Mapping[str, tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Labels:
    """Dims, spacing, positions and facts of an array, as in `lazyvol.io.spec.Opened`."""

    dims: tuple[str, ...]
    voxel_size: Mapping[str, float] = field(default_factory=dict)
    unit: str = "voxel"
    origin: Mapping[str, float] = field(default_factory=dict)
    coords: Coords = field(default_factory=dict)
    attrs: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None


def record(labels: Labels, shape: Sequence[int], dtype: np.dtype[Any]) -> dict[str, Any]:
    """JSON record of labels, with a checksum over all of it.

    Every value survives: NaN and infinities are words, arrays carry their dtype. Shape and dtype
    are repeated, so that damage to the array's own metadata is seen.

    Raises
    ------
    LabelError
        A label does not fit the shape, or cannot be written as JSON.
    """
    _check(labels, shape)
    content = {
        "format": FORMAT,
        "shape": list(shape),
        "dtype": dtype.name,
        "dims": list(labels.dims),
        "voxel_size": {dim: float(v) for dim, v in labels.voxel_size.items()},
        "unit": labels.unit,
        "origin": {dim: float(v) for dim, v in labels.origin.items()},
        "coords": {n: {"dim": d, **_array(np.asarray(v))} for n, (d, v) in labels.coords.items()},
        "attrs": {str(key): _encoded(value) for key, value in labels.attrs.items()},
        "name": labels.name,
        "empty_chunks": "error",
    }
    size = len(_canonical(content))
    if size > MAX_JSON // 2:
        raise LabelError(
            f"coords and attrs must fit in {MAX_JSON // 2} bytes of JSON, these take {size}; "
            "store large ones as variables of their own"
        )
    return {**content, "crc32c": crc32c(_canonical(content))}


def _check(labels: Labels, shape: Sequence[int]) -> None:
    if len(labels.dims) != len(shape) or len(set(labels.dims)) != len(shape):
        raise LabelError(f"dims names every axis once, got {labels.dims} for {tuple(shape)}")
    sizes = dict(zip(labels.dims, shape, strict=True))
    for name, (dim, values) in labels.coords.items():
        if np.shape(values) != (sizes.get(dim),):
            raise LabelError(
                f"coordinate {name!r} has one value per index of a dim, got shape "
                f"{np.shape(values)} along {dim!r}; lengths are {sizes}"
            )
    for what, numbers in (("voxel_size", labels.voxel_size), ("origin", labels.origin)):
        bad = {d: v for d, v in numbers.items() if d not in sizes or not isfinite(v)}
        if bad:
            raise LabelError(f"{what} gives finite numbers for dims {labels.dims}, got {bad}")


def _canonical(content: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LabelError(f"labels must be plain values, but: {error}") from error
    return text.encode()


def _array(values: np.ndarray) -> dict[str, Any]:
    if values.dtype.kind in "OT" and all(isinstance(v, str) for v in values.flat):
        values = values.astype(str)
    if values.dtype.kind not in "biufUmM":
        raise LabelError(
            f"coords and arrays in attrs hold numbers, text or times, got {values.dtype}; "
            "convert them"
        )
    whole = values.view(np.int64) if values.dtype.kind in "mM" else values
    plain = [_number(v) for v in whole.reshape(-1).tolist()]
    return {"dtype": values.dtype.str, "shape": list(values.shape), "values": plain}


def _number(value: Any) -> Any:
    """A float that JSON has no word for becomes one."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _encoded(value: object) -> object:
    if isinstance(value, np.ndarray):
        return {"lazyvol:array": _array(value)}
    if isinstance(value, np.generic):
        return _encoded(value.item())
    if isinstance(value, float) and not isfinite(value):
        return {"lazyvol:float": str(value)}
    if isinstance(value, tuple):
        return {"lazyvol:tuple": [_encoded(v) for v in value]}
    if isinstance(value, list):
        return [_encoded(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _encoded(v) for k, v in value.items()}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise LabelError(
        f"attrs hold text, numbers, arrays, lists and mappings, got {type(value).__name__} "
        f"{str(value)[:60]!r}; convert it or drop it"
    )


def read_record(
    content: Mapping[str, Any], shape: Sequence[int], dtype: np.dtype[Any], where: str
) -> Labels:
    """Labels of a record.

    Raises
    ------
    ChecksumError
        The record is not what was written.
    FormatError
        It does not fit the array.
    """
    check_record(content, where)
    try:
        found = Labels(
            dims=tuple(map(str, content["dims"])),
            voxel_size={str(d): float(v) for d, v in content["voxel_size"].items()},
            unit=str(content["unit"]),
            origin={str(d): float(v) for d, v in content["origin"].items()},
            coords={n: (str(c["dim"]), _decoded_array(c)) for n, c in content["coords"].items()},
            attrs={key: _decoded(value) for key, value in content["attrs"].items()},
            name=content["name"],
        )
        _check(found, shape)
        same = (content["shape"], content["dtype"]) == (list(shape), dtype.name)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(f"{where}: its record {KEY!r} is not complete: {error!r}") from error
    if not same:
        raise FormatError(
            f"{where}: the array must be {content['shape']} of {content['dtype']} by its record "
            f"{KEY!r}, its metadata say {list(shape)} of {dtype.name}; restore zarr.json"
        )
    return found


def check_record(content: Mapping[str, Any], where: str) -> None:
    """Compare the record with its checksum, where it has one."""
    stored = content.get("crc32c")
    if stored is None:
        return
    try:
        found = crc32c(_canonical({k: v for k, v in content.items() if k != "crc32c"}))
    except LabelError as error:
        raise FormatError(f"{where}: its record {KEY!r} is not valid: {error}") from error
    if stored != found:
        raise ChecksumError(
            f"{where}: the record {KEY!r} must have crc32c {stored}, found {found}: it was damaged "
            f"or edited; restore zarr.json, or delete the attribute {KEY!r} to open the array "
            "without it"
        )


def _decoded_array(content: Mapping[str, Any]) -> np.ndarray:
    if not re.fullmatch(DTYPE, content["dtype"]):
        raise ValueError(f"dtype {content['dtype']!r}")
    dtype, values = np.dtype(content["dtype"]), content["values"]
    if dtype.kind == "U":
        return _texts(values).reshape(content["shape"])
    whole = np.array(values, np.int64 if dtype.kind in "mM" else dtype)
    values_of_dtype: np.ndarray = whole.view(dtype)
    return values_of_dtype.reshape(content["shape"])


def _texts(values: Sequence[str]) -> np.ndarray:
    """Texts as an array, unless one long one among many would blow it up."""
    longest = max(map(len, values), default=1)
    if 4 * longest * len(values) > MAX_TEXT:
        raise ValueError(f"{len(values)} texts of up to {longest} characters")
    return np.array(values, dtype=str)


def _decoded(value: object) -> object:
    if isinstance(value, list):
        return [_decoded(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "lazyvol:array" in value:
        return _decoded_array(value["lazyvol:array"])
    if "lazyvol:float" in value:
        return float(value["lazyvol:float"])
    if "lazyvol:tuple" in value:
        return tuple(_decoded(v) for v in value["lazyvol:tuple"])
    return {k: _decoded(v) for k, v in value.items()}

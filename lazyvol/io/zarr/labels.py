"""Labels of a stored array, and the JSON record in which lazyvol stores them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from lazyvol.errors import ChecksumError, FormatError, LabelError
from lazyvol.io.safe_folder import MAX_JSON
from lazyvol.io.words import text_array
from lazyvol.io.zarr.codecs import crc32c

#: attribute of an array or group that holds the record
RECORD_KEY = "lazyvol"
RECORD_VERSION = 1
#: ``kind`` in the record of a group of variables
DATASET_KIND = "dataset"
#: bytes of an array of texts, each as long as the longest
MAX_TEXT = 4 * MAX_JSON
DTYPE = r"[<>|]([biuf]\d{1,2}|U\d{1,9}|O|[mM]8(\[\w{1,9}\])?)"
#: prefix of the keys that encode values without a JSON form
PREFIX = "lazyvol:"
#: folder of the array in the group of an image or of an array with coordinates
ARRAY_FOLDER = "0"
#: folder of coordinates whose names no folder can have
COORDINATES = "_coordinates"


@dataclass(frozen=True)
class ArrayReference:
    """Coordinate values that are stored as an array in folder ``path`` below the group.

    ``dtype`` is that of the values; times are stored as integers.
    """

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


#: dims (one name or a tuple), values (in memory, a reference or a source), and attributes
Coord = tuple[str | tuple[str, ...], Any] | tuple[str | tuple[str, ...], Any, Mapping[str, object]]
Coords = Mapping[str, Coord]


@dataclass(frozen=True)
class Labels:
    """Dims, spacing, coordinates and attributes of an array.

    Attributes
    ----------
    dims
        Name of every axis.
    voxel_size, origin
        Spacing and position of the first voxel centre by spatial dim, in ``unit``. A dim that is
        absent from ``voxel_size`` has an unknown spacing.
    unit
        Unit of the positions.
    coords
        ``(dims, values)`` or ``(dims, values, attrs)`` by name. Values are arrays in memory,
        typically one per particle along ``k``, or sources and references to stored arrays.
    attrs, name
        Attributes and name of the array.
    without_coords
        Spatial dims without positions.
    """

    dims: tuple[str, ...]
    voxel_size: Mapping[str, float] = field(default_factory=dict)
    unit: str = "voxel"
    origin: Mapping[str, float] = field(default_factory=dict)
    coords: Coords = field(default_factory=dict)
    attrs: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None
    without_coords: tuple[str, ...] = ()


def encode_record(
    labels: Labels,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    plan: str | None = None,
    beside: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the JSON record of labels with its checksum.

    NaN and infinities become text, arrays keep their dtype. Shape and dtype are stored again, so
    that damage to the metadata of the array is detected. ``plan`` is that of the manifest,
    ``beside`` are the arrays in the group.

    Raises
    ------
    LabelError
        A label does not fit the shape, or cannot be written as JSON.
    """
    check_labels(labels, shape)
    content = {
        "format": RECORD_VERSION,
        "shape": list(shape),
        "dtype": dtype.name,
        "dims": list(labels.dims),
        "voxel_size": {dim: float(v) for dim, v in labels.voxel_size.items()},
        "unit": labels.unit,
        "origin": {dim: float(v) for dim, v in labels.origin.items()},
        "coords": {name: _encode_coord(*coord) for name, coord in labels.coords.items()},
        "attrs": _encode(labels.attrs),
        "name": labels.name,
        "bare": list(labels.without_coords),
        "empty_chunks": "error",
        **({} if plan is None else {"plan": plan, "beside": list(beside)}),
    }
    size = len(_canonical_json(content))
    if size > MAX_JSON // 2:
        raise LabelError(
            f"coords and attrs must fit in {MAX_JSON // 2} bytes of JSON, these take {size}; "
            "drop large ones, or store them as variables of a Dataset"
        )
    return with_checksum(content)


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the checksum of its content."""
    return {**record, "crc32c": crc32c(_canonical_json(record))}


def check_labels(labels: Labels, shape: Sequence[int]) -> None:
    """Raise LabelError if dims, coordinates, voxel size or origin do not fit the shape."""
    if len(labels.dims) != len(shape) or len(set(labels.dims)) != len(shape):
        raise LabelError(f"dims must name every axis once, got {labels.dims} for {tuple(shape)}")
    sizes = dict(zip(labels.dims, shape, strict=True))
    for name, (coord_dims, values, *_) in labels.coords.items():
        dims = (coord_dims,) if isinstance(coord_dims, str) else coord_dims
        if np.shape(values) != tuple(sizes.get(d) for d in dims):
            raise LabelError(
                f"coordinate {name!r} must have one value per index of its dims, got shape "
                f"{np.shape(values)} along {dims}; lengths are {sizes}"
            )
    for field_name, numbers in (("voxel_size", labels.voxel_size), ("origin", labels.origin)):
        bad = {d: v for d, v in numbers.items() if d not in sizes or not isfinite(v)}
        if bad:
            raise LabelError(
                f"{field_name} must give finite numbers for dims {labels.dims}, got {bad}"
            )


def _canonical_json(content: Mapping[str, Any]) -> bytes:
    """Return the JSON bytes that the checksum is computed from."""
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LabelError(f"labels must be plain values, but: {error}") from error
    return text.encode()


def _encode_coord(
    dims: str | tuple[str, ...], values: Any, attrs: Mapping[str, object] | None = None
) -> dict[str, Any]:
    content: dict[str, Any] = {"dim": dims if isinstance(dims, str) else list(dims)}
    if isinstance(values, ArrayReference):
        shape, dtype = list(values.shape), values.dtype.str
        content |= {"array": values.path, "dtype": dtype, "shape": shape}
    else:
        content |= _encode_array(np.asarray(values))
    return content | ({"attrs": _encode(attrs)} if attrs else {})


def _encode_array(values: np.ndarray) -> dict[str, Any]:
    """Return dtype, shape and plain values of an array; times as integers."""
    if isinstance(values, np.ma.MaskedArray):
        raise LabelError("coords and arrays in attrs must not be masked; fill the masked values")
    if values.dtype.kind == "O":
        plain = [_encode_object(v) for v in values.flat]
        return {"dtype": "|O", "shape": list(values.shape), "values": plain}
    if values.dtype.kind == "T":
        values = values.astype(object).astype(str)  # numpy refuses to find the length
    if values.dtype.kind not in "biufUmM":
        raise LabelError(
            f"coords and arrays in attrs must hold numbers, text or times, got {values.dtype}; "
            "convert them"
        )
    numbers = values.view(np.int64) if values.dtype.kind in "mM" else values
    plain = [_encode_float(v) for v in numbers.reshape(-1).tolist()]
    return {"dtype": values.dtype.str, "shape": list(values.shape), "values": plain}


def _encode_object(value: object) -> object:
    """Encode an element of an array of Python objects: text, a plain number, or None."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return _encode(value)
    raise LabelError(
        f"coords and arrays in attrs must hold numbers, text or times, got {type(value).__name__} "
        f"{str(value)[:60]!r}; convert them"
    )


def _encode_float(value: Any) -> Any:
    """Return NaN and infinities, which JSON does not have, as text."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _encode(value: object) -> object:
    """Return a value of attrs as JSON; raise LabelError for objects without a plain form."""
    if isinstance(value, np.ndarray):
        return {"lazyvol:array": _encode_array(value)}
    if isinstance(value, np.generic) and not isinstance(value, np.str_):
        return {"lazyvol:scalar": _encode_array(np.asarray(value))}
    if isinstance(value, float) and not isfinite(value):
        return {"lazyvol:float": str(value)}
    if isinstance(value, tuple):
        return {"lazyvol:tuple": [_encode(v) for v in value]}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if isinstance(value, Mapping):
        if all(isinstance(k, str) and not k.startswith(PREFIX) for k in value):
            return {k: _encode(v) for k, v in value.items()}
        return {"lazyvol:dict": [[_encode(k), _encode(v)] for k, v in value.items()]}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise LabelError(
        f"attrs must hold text, numbers, arrays, lists and mappings, got {type(value).__name__} "
        f"{str(value)[:60]!r}; convert it or drop it"
    )


def decode_record(
    content: Mapping[str, Any], shape: Sequence[int], dtype: np.dtype[Any], where: str
) -> Labels:
    """Return the labels of a record.

    Raises
    ------
    ChecksumError
        The record changed after it was written.
    FormatError
        The record does not fit the array.
    """
    check_record(content, where)
    try:
        labels = Labels(
            dims=tuple(map(str, content["dims"])),
            voxel_size={str(d): float(v) for d, v in content["voxel_size"].items()},
            unit=str(content["unit"]),
            origin={str(d): float(v) for d, v in content["origin"].items()},
            coords={name: _decode_coord(c) for name, c in content["coords"].items()},
            attrs=dict(_decode(content["attrs"])),  # type: ignore[call-overload]
            name=content["name"],
            without_coords=tuple(map(str, content.get("bare", ()))),
        )
        check_labels(labels, shape)
        same = (content["shape"], content["dtype"]) == (list(shape), dtype.name)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"{where}: its record {RECORD_KEY!r} is not complete: {error!r}"
        ) from error
    if not same:
        raise FormatError(
            f"{where}: the array must be {content['shape']} of {content['dtype']} by its record "
            f"{RECORD_KEY!r}, its metadata say {list(shape)} of {dtype.name}; restore zarr.json"
        )
    return labels


def check_record(content: Mapping[str, Any], where: str) -> None:
    """Raise ChecksumError if a record has a checksum that is not that of its content."""
    stored = content.get("crc32c")
    if stored is None:
        return
    try:
        computed = crc32c(_canonical_json({k: v for k, v in content.items() if k != "crc32c"}))
    except LabelError as error:
        raise FormatError(f"{where}: its record {RECORD_KEY!r} is not valid: {error}") from error
    if stored != computed:
        raise ChecksumError(
            f"{where}: the record {RECORD_KEY!r} must have crc32c {stored}, found {computed}: it "
            f"was damaged or edited; restore zarr.json, or delete the attribute {RECORD_KEY!r} to "
            "open the array without it"
        )


def _decode_coord(content: Mapping[str, Any]) -> Coord:
    dim = content["dim"]
    dims = dim if isinstance(dim, str) else tuple(map(str, dim))
    attrs = dict(_decode(content.get("attrs", {})))  # type: ignore[call-overload]
    if "array" not in content:
        return dims, _decode_array(content), attrs
    path, shape = str(content["array"]), tuple(content["shape"])
    return dims, ArrayReference(path, _decode_dtype(content), shape), attrs


def _decode_dtype(content: Mapping[str, Any]) -> np.dtype[Any]:
    if not re.fullmatch(DTYPE, content["dtype"]):
        raise ValueError(f"dtype {content['dtype']!r}")
    dtype: np.dtype[Any] = np.dtype(content["dtype"])
    return dtype


def _decode_array(content: Mapping[str, Any]) -> np.ndarray:
    dtype, values = _decode_dtype(content), content["values"]
    if dtype.kind == "O":
        objects = np.empty(len(values), object)
        objects[:] = [_decode(v) for v in values]
        return objects.reshape(content["shape"])
    if dtype.kind == "U":
        return text_array(values, RECORD_KEY, MAX_TEXT).reshape(content["shape"])
    numbers: np.ndarray = np.array(values, np.int64 if dtype.kind in "mM" else dtype)
    return numbers.view(dtype).reshape(content["shape"])


def _decode(value: object) -> object:
    """Return the value that `_encode` wrote as JSON."""
    if isinstance(value, list):
        return [_decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "lazyvol:array" in value:
        return _decode_array(value["lazyvol:array"])
    if "lazyvol:scalar" in value:
        return _decode_array(value["lazyvol:scalar"])[()]
    if "lazyvol:dict" in value:
        return {_decode(k): _decode(v) for k, v in value["lazyvol:dict"]}
    if "lazyvol:float" in value:
        return float(value["lazyvol:float"])
    if "lazyvol:tuple" in value:
        return tuple(_decode(v) for v in value["lazyvol:tuple"])
    return {k: _decode(v) for k, v in value.items()}

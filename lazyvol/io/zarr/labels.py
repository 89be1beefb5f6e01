"""What a store says about an array beside its values, and our own record of it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from lazyvol.errors import ChecksumError, FormatError, LabelError
from lazyvol.io.safe_folder import MAX_JSON
from lazyvol.io.zarr.codecs import crc32c

#: attribute of an array or group that holds our record
KEY = "lazyvol"
FORMAT = 1
#: the ``kind`` of a group of variables
DATA_SET = "dataset"
#: an array of texts takes its longest for each
MAX_TEXT = 4 * MAX_JSON
DTYPE = r"[<>|]([biuf]\d{1,2}|U\d{1,9}|O|[mM]8(\[\w{1,9}\])?)"
#: marks of what JSON has no word for
MARK = "lazyvol:"
#: folder of coordinates that are arrays of their own, in a group of ours
COORDINATES = "_coordinates"


@dataclass(frozen=True)
class Elsewhere:
    """Values of a coordinate that are an array of their own in folder ``path`` below the group.

    ``dtype`` is what they mean: times are stored as whole numbers.
    """

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


#: dims (one, or any number), values in memory, elsewhere or in a source, and attributes
Coord = tuple[str | tuple[str, ...], Any] | tuple[str | tuple[str, ...], Any, Mapping[str, object]]
Coords = Mapping[str, Coord]


@dataclass(frozen=True)
class Labels:
    """Dims, spacing, positions and facts of an array, as in `lazyvol.io.opened.Opened`.

    ``bare`` are the spatial dims that have no positions.
    """

    dims: tuple[str, ...]
    voxel_size: Mapping[str, float] = field(default_factory=dict)
    unit: str = "voxel"
    origin: Mapping[str, float] = field(default_factory=dict)
    coords: Coords = field(default_factory=dict)
    attrs: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None
    bare: tuple[str, ...] = ()


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
        "coords": {name: _coordinate(*coord) for name, coord in labels.coords.items()},
        "attrs": _encoded(labels.attrs),
        "name": labels.name,
        "bare": list(labels.bare),
        "empty_chunks": "error",
    }
    size = len(_canonical(content))
    if size > MAX_JSON // 2:
        raise LabelError(
            f"coords and attrs must fit in {MAX_JSON // 2} bytes of JSON, these take {size}; "
            "drop large ones, or store them as variables of a Dataset"
        )
    return {**content, "crc32c": crc32c(_canonical(content))}


def _check(labels: Labels, shape: Sequence[int]) -> None:
    if len(labels.dims) != len(shape) or len(set(labels.dims)) != len(shape):
        raise LabelError(f"dims names every axis once, got {labels.dims} for {tuple(shape)}")
    sizes = dict(zip(labels.dims, shape, strict=True))
    for name, (along, values, *_) in labels.coords.items():
        dims = (along,) if isinstance(along, str) else along
        if np.shape(values) != tuple(sizes.get(d) for d in dims):
            raise LabelError(
                f"coordinate {name!r} has one value per index of its dims, got shape "
                f"{np.shape(values)} along {dims}; lengths are {sizes}"
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


def _coordinate(
    dims: str | tuple[str, ...], values: Any, attrs: Mapping[str, object] | None = None
) -> dict[str, Any]:
    told: dict[str, Any] = {"dim": dims if isinstance(dims, str) else list(dims)}
    if isinstance(values, Elsewhere):
        shape, dtype = list(values.shape), values.dtype.str
        told |= {"array": values.path, "dtype": dtype, "shape": shape}
    else:
        told |= _array(np.asarray(values))
    return told | ({"attrs": _encoded(attrs)} if attrs else {})


def _array(values: np.ndarray) -> dict[str, Any]:
    if isinstance(values, np.ma.MaskedArray):
        raise LabelError("coords and arrays in attrs have all their values; fill the masked ones")
    if values.dtype.kind == "O":
        plain = [_word(v) for v in values.flat]
        return {"dtype": "|O", "shape": list(values.shape), "values": plain}
    if values.dtype.kind == "T":
        values = values.astype(str)
    if values.dtype.kind not in "biufUmM":
        raise LabelError(
            f"coords and arrays in attrs hold numbers, text or times, got {values.dtype}; "
            "convert them"
        )
    whole = values.view(np.int64) if values.dtype.kind in "mM" else values
    plain = [_number(v) for v in whole.reshape(-1).tolist()]
    return {"dtype": values.dtype.str, "shape": list(values.shape), "values": plain}


def _word(value: object) -> object:
    """An element of an array of Python objects: text, a plain number, or nothing."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return _encoded(value)
    raise LabelError(
        f"coords and arrays in attrs hold numbers, text or times, got {type(value).__name__} "
        f"{str(value)[:60]!r}; convert them"
    )


def _number(value: Any) -> Any:
    """A float that JSON has no word for becomes one."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _encoded(value: object) -> object:
    if isinstance(value, np.ndarray):
        return {"lazyvol:array": _array(value)}
    if isinstance(value, np.generic) and not isinstance(value, np.str_):
        return {"lazyvol:scalar": _array(np.asarray(value))}
    if isinstance(value, float) and not isfinite(value):
        return {"lazyvol:float": str(value)}
    if isinstance(value, tuple):
        return {"lazyvol:tuple": [_encoded(v) for v in value]}
    if isinstance(value, list):
        return [_encoded(v) for v in value]
    if isinstance(value, Mapping):
        if all(isinstance(k, str) and not k.startswith(MARK) for k in value):
            return {k: _encoded(v) for k, v in value.items()}
        return {"lazyvol:dict": [[_encoded(k), _encoded(v)] for k, v in value.items()]}
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
            coords={name: _decoded_coordinate(c) for name, c in content["coords"].items()},
            attrs=dict(_decoded(content["attrs"])),  # type: ignore[call-overload]
            name=content["name"],
            bare=tuple(map(str, content.get("bare", ()))),
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


def _decoded_coordinate(told: Mapping[str, Any]) -> Coord:
    dims = told["dim"] if isinstance(told["dim"], str) else tuple(map(str, told["dim"]))
    attrs = dict(_decoded(told.get("attrs", {})))  # type: ignore[call-overload]
    if "array" not in told:
        return dims, _decoded_array(told), attrs
    return dims, Elsewhere(str(told["array"]), _dtype(told), tuple(told["shape"])), attrs


def _dtype(content: Mapping[str, Any]) -> np.dtype[Any]:
    if not re.fullmatch(DTYPE, content["dtype"]):
        raise ValueError(f"dtype {content['dtype']!r}")
    dtype: np.dtype[Any] = np.dtype(content["dtype"])
    return dtype


def _decoded_array(content: Mapping[str, Any]) -> np.ndarray:
    dtype, values = _dtype(content), content["values"]
    if dtype.kind == "O":
        found = np.empty(len(values), object)
        found[:] = [_decoded(v) for v in values]
        return found.reshape(content["shape"])
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
    if "lazyvol:scalar" in value:
        return _decoded_array(value["lazyvol:scalar"])[()]
    if "lazyvol:dict" in value:
        return {_decoded(k): _decoded(v) for k, v in value["lazyvol:dict"]}
    if "lazyvol:float" in value:
        return float(value["lazyvol:float"])
    if "lazyvol:tuple" in value:
        return tuple(_decoded(v) for v in value["lazyvol:tuple"])
    return {k: _decoded(v) for k, v in value.items()}

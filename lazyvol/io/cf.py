"""Packed numbers of the CF conventions, as xarray and NetCDF write them, decoded by xarray."""

import base64
import binascii
import struct
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import FormatError
from lazyvol.io.decoding import Decoding
from lazyvol.io.zarr.metadata import ArrayMeta
from lazyvol.io.zarr.nodes import Node
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, lengths, size

#: attributes that say how numbers are packed
FILL = "_FillValue"
NAMES = (FILL, "missing_value", "scale_factor", "add_offset", "_Unsigned")
#: all attributes that are looked at
READ = (*NAMES, "dtype", "units")

Packing = Mapping[str, Any]


def packing(node: Node, meta: ArrayMeta, *, named: bool) -> dict[str, Any]:
    """How the numbers of a zarr array are packed, by its attributes; empty where they are not.

    In zarr v2 xarray writes the value that means no value as the fill value of an array whose dims
    it names, which images do not do (``named`` is false).
    """
    found = of_attributes(node.attributes)
    if node.version == 3 and FILL in found:
        found[FILL] = _fill_value(found[FILL], meta.native, node.path)
    if node.version == 2 and named and "_ARRAY_DIMENSIONS" in node.attributes:
        found |= {} if meta.fill is None else {FILL: meta.native.type(meta.fill)}
    return found


def of_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those attributes that say how numbers are packed."""
    found = {name: attributes[name] for name in NAMES if name in attributes}
    kind, units = str(attributes.get("dtype", "")), str(attributes.get("units", ""))
    if kind == "bool":
        found["dtype"] = "bool"
    if kind.startswith("timedelta64") or " since " in units:
        found["units"] = units
    return found


def rest(attributes: Mapping[str, object], packed: Packing) -> dict[str, object]:
    """Attributes but for those that decoding used."""
    return {name: value for name, value in attributes.items() if name not in packed}


def _fill_value(value: object, dtype: np.dtype[Any], where: str) -> object:
    """The attribute ``_FillValue`` of zarr v3: floats are 8 bytes in base64."""
    if dtype.kind != "f" or not isinstance(value, str):
        return value
    try:
        return struct.unpack("<d", base64.b64decode(value, validate=True))[0]
    except (binascii.Error, struct.error) as error:
        raise FormatError(
            f"{where}: _FillValue must be a number or 8 bytes in base64, found {value!r:.80}"
        ) from error


def decoded(source: Source, packed: Packing, where: str) -> Source:
    """The source itself, or its numbers decoded, in the dtype that xarray gives them.

    Raises
    ------
    FormatError
        The numbers are times, or an attribute is not valid.
    """
    if not packed:
        return source
    if "units" in packed:
        raise FormatError(
            f"{where}: voxels must be numbers, these are times (units {packed['units']!r:.80}); "
            "open them with xarray"
        )
    kind = np.dtype(source.dtype)
    for name in (FILL, "missing_value", "scale_factor", "add_offset"):
        if name in packed and np.asarray(packed[name]).dtype.kind not in "biuf":
            raise FormatError(f"{where}: {name} must be a number, found {packed[name]!r:.80}")
    if kind.kind == "f" and set(packed) <= {FILL, "missing_value"} and _all_nan(packed.values()):
        return source
    try:
        found = unpacked(np.zeros((1,), kind), packed).dtype
    except Exception as error:  # xarray raises whatever the line that meets a wrong value raises
        raise FormatError(
            f"{where}: {dict(packed)!r:.200} must say how {kind} are packed, but: {error!r:.200}"
        ) from error
    if found.kind not in "biuf" or found.itemsize > 8:
        raise FormatError(f"{where}: packed numbers must decode to real numbers, found {found}")
    return (
        source
        if found == kind and not set(packed) - {"_Unsigned"}
        else Unpacked(source, found.str, packed=packed)
    )


def _all_nan(values: Iterable[object]) -> bool:
    """Whether no value means no value but NaN itself."""
    return all(isinstance(v, float | np.floating) and np.isnan(v) for v in values)


def unpacked(block: Array, packed: Packing) -> Array:
    """Values of packed numbers."""
    dims = tuple(f"axis{n}" for n in range(block.ndim))
    packed_set = xr.Dataset({"values": (dims, block, dict(packed))})
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of several values that mean none: all of them do
        found = xr.decode_cf(packed_set, decode_times=False, decode_coords=False)
        values: Array = found["values"].values
    return values


@dataclass(eq=False)
class Unpacked(Decoding):
    """Numbers of a source, decoded by what ``packed`` says, in dtype ``kind``."""

    packed: Packing = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        facts = repr((self.source.token, sorted(self.packed.items()), self.kind))
        self.token = f"cf-{blake2b(facts.encode(), digest_size=12).hexdigest()}"

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, decoded, in ``out`` where that is given."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        if out.size:
            out[...] = unpacked(self.source.read(region), self.packed)
        return out

    def peak_bytes(self, region: Region) -> int:
        """Packed numbers twice, a mask and three arrays of results, or the packed read."""
        each = 2 * np.dtype(self.source.dtype).itemsize + 1 + 3 * self.dtype.itemsize
        return max(self.source.peak_bytes(region), size(region) * each)

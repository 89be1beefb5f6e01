"""Decode the packed numbers of the CF conventions, which xarray and NetCDF write."""

import base64
import binascii
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import FormatError
from lazyvol.io.faults import library_errors
from lazyvol.io.region_source import DecodedSource
from lazyvol.io.zarr.metadata import ArrayMeta
from lazyvol.io.zarr.nodes import Node
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, size

#: attributes that define the packing
FILL = "_FillValue"
NAMES = (FILL, "missing_value", "scale_factor", "add_offset", "_Unsigned")
#: all attributes that are read
READ = (*NAMES, "dtype", "units")

Packing = Mapping[str, Any]


def zarr_packing(node: Node, meta: ArrayMeta, *, is_image: bool) -> dict[str, Any]:
    """Return the attributes that define the packing of a zarr array; empty if it is not packed.

    In zarr v2 xarray writes the missing value as the fill value of an array with named dims;
    OME-Zarr images do not.
    """
    packing = select_packing(node.attributes)
    if node.version == 3 and FILL in packing:
        packing[FILL] = _fill_value(packing[FILL], meta.native, node.path)
    if node.version == 2 and not is_image and "_ARRAY_DIMENSIONS" in node.attributes:
        packing |= {} if meta.fill is None else {FILL: meta.native.type(meta.fill)}
    return packing


def select_packing(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that define the packing."""
    packing = {name: attributes[name] for name in NAMES if name in attributes}
    dtype, units = str(attributes.get("dtype", "")), str(attributes.get("units", ""))
    if dtype == "bool":
        packing["dtype"] = "bool"
    if dtype.startswith("timedelta64") or " since " in units:
        packing["units"] = units
    return packing


def remaining_attributes(attributes: Mapping[str, object], packing: Packing) -> dict[str, object]:
    """Return the attributes that do not define the packing."""
    return {name: value for name, value in attributes.items() if name not in packing}


def _fill_value(value: object, dtype: np.dtype[Any], where: str) -> object:
    """Return the attribute ``_FillValue`` of zarr v3; floats are stored as 8 bytes in base64."""
    if dtype.kind != "f" or not isinstance(value, str):
        return value
    try:
        return struct.unpack("<d", base64.b64decode(value, validate=True))[0]
    except (binascii.Error, struct.error) as error:
        raise FormatError(
            f"{where}: _FillValue must be a number or 8 bytes in base64, found {value!r:.80}"
        ) from error


def decode_source(source: Source, packing: Packing, where: str) -> Source:
    """Return a source of decoded numbers in the dtype of xarray; the source if not packed.

    Raises
    ------
    FormatError
        The numbers are times, or an attribute is not valid.
    """
    if not packing:
        return source
    if "units" in packing:
        raise FormatError(
            f"{where}: voxels must be numbers, these are times (units {packing['units']!r:.80}); "
            "open them with xarray"
        )
    stored = np.dtype(source.dtype)
    for name in (FILL, "missing_value", "scale_factor", "add_offset"):
        if name in packing and np.asarray(packing[name]).dtype.kind not in "biuf":
            raise FormatError(f"{where}: {name} must be a number, found {packing[name]!r:.80}")
    if stored.kind == "f" and set(packing) <= {FILL, "missing_value"} and _all_nan(packing):
        return source
    with library_errors(where, f"{dict(packing)!r:.200} must define how {stored} are packed, but"):
        dtype = unpack(np.zeros((1,), stored), packing).dtype
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise FormatError(f"{where}: packed numbers must decode to real numbers, found {dtype}")
    if dtype == stored and not set(packing) - {"_Unsigned"}:
        return source
    return UnpackedSource(source, dtype.str, packing=packing)


def _all_nan(packing: Packing) -> bool:
    """Return True if NaN is the only missing value."""
    return all(isinstance(v, float | np.floating) and np.isnan(v) for v in packing.values())


def unpack(block: Array, packing: Packing) -> Array:
    """Decode packed numbers."""
    dims = tuple(f"axis{n}" for n in range(block.ndim))
    packed_set = xr.Dataset({"values": (dims, block, dict(packing))})
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # xarray warns of two missing values and decodes both
        decoded = xr.decode_cf(packed_set, decode_times=False, decode_coords=False)
        values: Array = decoded["values"].values
    return values


@dataclass(eq=False)
class UnpackedSource(DecodedSource):
    """Numbers of a source, decoded by the CF attributes ``packing``."""

    packing: Packing = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        words = repr((self.source.token, sorted(self.packing.items()), self.decoded_dtype))
        self.token = f"cf-{blake2b(words.encode(), digest_size=12).hexdigest()}"

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region, decoded, into ``out``."""
        out[...] = unpack(self.source.read(region), self.packing)

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of two packed arrays, a mask and three results, or of the read."""
        bytes_per_number = 2 * np.dtype(self.source.dtype).itemsize + 1 + 3 * self.dtype.itemsize
        return max(self.source.peak_bytes(region), size(region) * bytes_per_number)

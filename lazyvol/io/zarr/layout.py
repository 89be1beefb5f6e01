"""Lay out a store: which arrays and groups it has, and their metadata.

An image is a group with its voxels in array "0". Beside it are its coordinates as arrays, which
other programs read: xarray takes those along one dim as its index, and the others by the attribute
``coordinates``. lazyvol reads small ones from its record, without opening an array, and large ones
from their arrays.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvol.errors import LabelError
from lazyvol.io.positions import regular_positions
from lazyvol.io.zarr import ome
from lazyvol.io.zarr.codecs import crc32c
from lazyvol.io.zarr.labels import (
    ARRAY_FOLDER,
    COORDINATES,
    RECORD_KEY,
    ArrayReference,
    Coord,
    Coords,
    Labels,
    check_labels,
    encode_record,
)
from lazyvol.io.zarr.metadata import DTYPES
from lazyvol.io.zarr.pyramid import Factors, level_factors, level_grid
from lazyvol.io.zarr.remote_run import Run
from lazyvol.io.zarr.shard_shape import shard_grid
from lazyvol.io.zarr.texts import SIZED, is_text, is_unicode
from lazyvol.io.zarr.writer import Target, TargetGroup, blosc_configuration
from lazyvol.plan.regions import whole
from lazyvol.stack import SPATIAL

#: coordinates whose names are those of folders and of xarray's variables
READABLE_NAME = re.compile(r"(?!\d+$)\w[\w.+@-]*")
#: names beside an array that coordinates may not have
TAKEN = ("labels", "levels", COORDINATES, "zarr.json", "c")
#: attributes by which xarray decodes values, or which hold other labels
CODING = frozenset((
    "scale_factor", "add_offset", "_FillValue", "missing_value", "coordinates", "grid_mapping",
    "dtype", "calendar", "_Unsigned", "_ARRAY_DIMENSIONS", "ome", "omero", "multiscales", "lazyvol",
))  # fmt: skip
#: units of CF by unit of numpy's times
TIME_UNITS = {
    "ns": "nanoseconds", "us": "microseconds", "ms": "milliseconds", "s": "seconds",
    "m": "minutes", "h": "hours", "D": "days",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Variable(Labels):
    """Shape, dtype and labels of an array that will be written.

    ``input_rows`` is the length along the first axis of the chunks that the values are computed
    from. ``large_coords`` are coordinates too large for the metadata; each becomes a target, in
    this order.
    """

    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    input_rows: int = 1
    large_coords: Mapping[str, "LargeCoord"] = field(default_factory=dict)

    def all_coords(self, shared: str = "") -> Coords:
        """Return the coordinates, with references to the large ones below ``shared``."""
        large = {n: c.reference(shared + coord_path(n)) for n, c in self.large_coords.items()}
        return {**self.coords, **large}


@dataclass(frozen=True)
class LargeCoord:
    """A coordinate that is stored as an array; times are stored as integers.

    Texts have the dtype U or that of Python objects.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    attrs: Mapping[str, object] = field(default_factory=dict)

    def reference(self, path: str) -> Coord:
        """Return the entry of the coordinate in the record of the array."""
        values = ArrayReference(path, self.dtype, self.shape)
        return (self.dims[0] if len(self.dims) == 1 else self.dims, values, self.attrs)

    @property
    def variable(self) -> Variable:
        """Return the array to write, with attributes by which xarray decodes it."""
        stored = np.dtype(np.int64) if self.dtype.kind in "mM" else self.dtype
        attrs = plain_attributes(self.attrs) | time_attributes(self.dtype)
        return Variable(
            shape=self.shape,
            dtype=stored,
            dims=self.dims,
            attrs=attrs,
            without_coords=self.dims,
        )


@dataclass(frozen=True)
class Layout:
    """A target and its metadata by folder, complete before anything is written.

    ``values`` are those of a small coordinate, which is written at once. ``coords`` are the
    coordinates beside the array, ``levels`` those of lower resolution.
    """

    target: Target
    nodes: Mapping[str, Mapping[str, Any]]
    coords: "Sequence[Layout]" = ()
    levels: "Sequence[tuple[Layout, Factors]]" = ()
    values: npt.NDArray[Any] | None = None

    def started(self) -> Target:
        """Write the metadata and return the target; a run that is resumed keeps its shards."""
        run, target = self.target.run, self.target
        if run.resume and (former := run.document(target.key)):
            target = _with_former_shards(target, json.loads(former))
        nodes = {**self.nodes, target.key: {**self.nodes[target.key], **_grid(target)}}
        for key, content in nodes.items():
            run.write_metadata(key, content)
        if self.values is not None:
            target.write(whole(target.shape), self.values)
        levels = tuple((layout.started(), factors) for layout, factors in self.levels)
        return replace(target, levels=levels)


def start(run: Run, layouts: Mapping[str, Layout], beside: Sequence[Layout] = ()) -> TargetGroup:
    """Write the metadata of arrays, of their coordinates and of those beside them."""
    variables = {name: layout.started() for name, layout in layouts.items()}
    coords = [*(c for layout in layouts.values() for c in layout.coords), *beside]
    targets = [(layout.started(), layout.values is None) for layout in coords]
    large = tuple(target for target, is_large in targets if is_large)
    small = tuple(target for target, is_large in targets if not is_large)
    return TargetGroup(run, variables, large, small)


def coord_layouts(
    run: Run, key: str, variables: Sequence[Variable], max_bytes: int
) -> list[Layout]:
    """Return the layouts of the coordinates of variables as arrays in folder ``key``."""
    large = {n: coord for v in variables for n, coord in v.large_coords.items()}
    small = {n: coord for v in variables for n, coord in readable_coords(v).items()}
    layouts = [
        _coord_layout(run, f"{key}{coord_path(name)}/", coord, max_bytes)
        for name, coord in large.items()
    ]
    for name, (dims, values, attrs) in small.items():
        coord = LargeCoord(values.shape, values.dtype, dims, attrs)
        stored = values.view(np.int64) if values.dtype.kind in "mM" else values
        layout = _coord_layout(run, f"{key}{name}/", coord, max_bytes)
        layouts.append(replace(layout, values=stored))
    return layouts


def _coord_layout(run: Run, key: str, coord: LargeCoord, max_bytes: int) -> Layout:
    layout = layout_of(run, key, coord.variable, max_bytes, plain=True)
    folder = key.rstrip("/").rpartition("/")[0]
    nodes = {f"{folder}/": group_document({})} if folder.endswith(COORDINATES) else {}
    return replace(layout, nodes={**nodes, **layout.nodes})


def coord_path(name: str) -> str:
    """Return the folder of a coordinate that is stored as an array."""
    if is_readable(name):
        return name
    return f"{COORDINATES}/{crc32c(name.encode()):08x}"


def is_readable(name: str) -> bool:
    """Return True if a coordinate can have a folder with its name."""
    return bool(READABLE_NAME.fullmatch(name)) and name not in TAKEN and not name.startswith("__")


def readable_coords(
    variable: Variable,
) -> dict[str, tuple[tuple[str, ...], npt.NDArray[Any], Mapping[str, object]]]:
    """Return the coordinates in memory that become arrays: of numbers, times and texts."""
    lengths = dict(zip(variable.dims, variable.shape, strict=True))
    known = {*variable.coords, *variable.large_coords, *variable.without_coords}
    regular = {d: lengths[d] for d in variable.dims if d in SPATIAL and d not in known}
    positions = regular_positions(regular, variable.voxel_size, variable.unit, variable.origin)
    coords: dict[str, Any] = {d: (p.dims, p.values, p.attrs) for d, p in positions.items()}
    for name, (dims, values, *attrs) in variable.coords.items():
        array = np.asarray(values)
        if is_text(array) and is_unicode(array):
            array = array.astype(object)
        elif array.dtype.name.partition("[")[0] not in STORED:
            continue
        coords[name] = ((dims,) if isinstance(dims, str) else dims, array, *(attrs or [{}]))
    return {name: coord for name, coord in coords.items() if is_readable(name)}


#: names of dtypes that coordinates may have, without units
STORED = (*DTYPES, "datetime64", "timedelta64")


def layout_of(
    run: Run,
    key: str,
    variable: Variable,
    max_bytes: int,
    *,
    plain: bool = False,
    shared: bool = False,
    pyramid: bool = False,
) -> Layout:
    """Lay out an array in folder ``key``; a ``pyramid`` has levels of lower resolution too.

    ``plain`` arrays have no coordinates beside them and are no images; the large coordinates of
    arrays with ``shared`` ones are in the group above.
    """
    dtype = np.dtype(variable.dtype)
    has_texts = plain and dtype.kind in "UO"
    if dtype.name not in DTYPES and not has_texts:
        raise LabelError(
            f"{run.path}: a store must hold {', '.join(DTYPES)}, got {dtype}; convert it, "
            "complex numbers into two variables"
        )
    shape = tuple(int(n) for n in variable.shape)
    labels = replace(variable, coords=variable.all_coords("../" if shared else ""))
    check_labels(labels, shape)
    factors = level_factors(variable.dims, shape, variable.voxel_size) if pyramid else []
    multiples = factors[-1] if factors else None
    sized = SIZED if dtype.kind == "O" else dtype
    rows = variable.input_rows
    chunks, shards = shard_grid(shape, sized, max_bytes, input_rows=rows, multiples=multiples)
    image = None if plain else ome.image_of(labels, factors)
    if pyramid and image is None:
        raise LabelError(
            f"save: pyramid=True needs an image, whose last dims are y and x, or z, y and x, after "
            f"at most k and one more, got {variable.dims}; transpose it, or leave pyramid out"
        )
    beside = replace(variable, large_coords={}) if shared else variable
    has_coords = not plain and bool(image or not shared)
    coords = coord_layouts(run, key, [beside], max_bytes) if has_coords else []
    grouped = bool(image or coords)
    array_key = f"{key}{ARRAY_FOLDER}/" if grouped else key
    beside_it = [layout.target.key[len(key) :].rstrip("/") for layout in coords]
    arrays = [ARRAY_FOLDER, *beside_it] if grouped else []
    in_memory = np.dtype(object) if has_texts else dtype
    record = {RECORD_KEY: encode_record(labels, shape, in_memory, run.token, arrays)}
    name = dtype.str if has_texts else dtype.name
    target = Target(run, array_key, shape, name, chunks, shards)
    attributes = plain_attributes(variable.attrs)
    readable = {*readable_coords(variable), *filter(is_readable, variable.large_coords)}
    stored = (n for n in (*variable.coords, *variable.large_coords) if n in readable)
    if names := [name for name in stored if name not in variable.dims]:
        attributes["coordinates"] = " ".join(names)
    nodes = {array_key: _array(target, variable.dims, attributes | ({} if grouped else record))}
    if grouped:
        nodes = {key: group_document({**({"ome": image} if image else {}), **record}), **nodes}
    levels = [
        (_level_layout(run, f"{key}{ome.level_folder(number)}/", target, fs, variable.dims), fs)
        for number, fs in enumerate(factors, 1)
    ]
    if levels:
        nodes[f"{key}levels/"] = group_document({})
    return Layout(target, nodes, coords, levels)


def _level_layout(
    run: Run, key: str, target: Target, factors: Factors, dims: Sequence[str]
) -> Layout:
    """Lay out a level with as many shards as level 0."""
    grid = level_grid(target.shape, target.chunks, target.shards, factors)
    level = Target(run, key, grid[0], target.dtype, *grid[1:])
    return Layout(level, {key: _array(level, dims, {})})


def plain_attributes(attrs: Mapping[str, object]) -> dict[str, object]:
    """Return the attributes that are plain JSON, for other programs; lazyvol has its record."""
    plain = {name: _plain(value) for name, value in attrs.items() if name not in CODING}
    return {name: value for name, value in plain.items() if value is not None}


def _plain(value: object) -> object:
    """Return text, a finite number, or a list of them; None for other values."""
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        value = value.tolist()
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value[:1000]]
        return items if None not in items and len(value) <= 1000 else None
    is_number = isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))
    return value if is_number or isinstance(value, str) else None


def time_attributes(dtype: np.dtype[Any]) -> dict[str, object]:
    """Return the attributes by which xarray decodes times that are stored as integers."""
    unit = TIME_UNITS.get(np.datetime_data(dtype)[0]) if dtype.kind in "mM" else None
    if unit is None:
        return {}
    if dtype.kind == "m":
        return {"units": unit, "dtype": str(dtype)}
    nat = np.iinfo(np.int64).min
    return {
        "units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian", "_FillValue": nat
    }  # fmt: skip


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def _array(target: Target, dims: Sequence[str], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an array."""
    is_text = np.dtype(target.dtype).kind in "UO"
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(target.shape),
        "data_type": "string" if is_text else target.dtype,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "" if is_text else False if target.dtype == "bool" else 0,
        "attributes": dict(attributes),
        "dimension_names": list(dims),
        "storage_transformers": [],
        **_grid(target),
    }


def _grid(target: Target) -> dict[str, Any]:
    """Return the fields of the metadata that depend on shards; scalars are not sharded."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    stored = np.dtype(target.dtype)
    is_text = stored.kind in "UO"
    values = {"name": "vlen-utf8", "configuration": {}} if is_text else little
    blosc = {
        "name": "blosc",
        "configuration": blosc_configuration(np.dtype(np.uint8) if is_text else stored),
    }
    chain: list[dict[str, Any]] = [values, blosc, {"name": "crc32c"}]
    shard = {
        "chunk_shape": list(target.chunks),
        "codecs": chain,
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    sharded = [{"name": "sharding_indexed", "configuration": shard}]
    return {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(target.shards)}},
        "codecs": sharded if target.shape else chain,
    }


def _with_former_shards(target: Target, former: Mapping[str, Any]) -> Target:
    """Return a target with the chunks and shards of the run that it resumes."""
    if not target.shape:
        return target
    chunks = former["codecs"][0]["configuration"]["chunk_shape"]
    shards = former["chunk_grid"]["configuration"]["chunk_shape"]
    return replace(target, chunks=tuple(chunks), shards=tuple(shards))

"""Create lazyvol stores: OME-Zarr 0.5 with shards and checksums, visible only when complete.

A store is written in ``name.lazyvol-tmp`` next to its final name, readable by its owner alone, and
renamed when every shard is written. A shard is one file, written at once: each inner chunk is
compressed (blosc-lz4 with shuffle) and followed by its crc32c, and the file is synced before it is
renamed. Chunks of zeros are written too, so an absent chunk means an incomplete store. Every array
has a manifest of its chunks, see `lazyvol.io.zarr.manifest`.

Blosc-lz4 with shuffle compared with zstd, float32, one thread (GB/s): noise is compressed 1.07 : 1
at 0.8 and decompressed at 5.0 (zstd 1.08 : 1, 0.55 and 1.0), smooth data 1.15 : 1 at 1.4 and 4.7
(zstd 1.08 : 1, 0.8 and 1.1). Encoding holds one inner chunk at a time: a shard of 131 MB takes
10 MB besides the values, in zarr 221 MB and in zarrs 374 MB, and neither is faster or syncs.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from lazyvol.errors import LabelError
from lazyvol.io.places import is_place, place_of
from lazyvol.io.zarr import ome
from lazyvol.io.zarr.labels import (
    COORDINATES,
    DATASET_KIND,
    RECORD_KEY,
    ArrayReference,
    Coord,
    Coords,
    Labels,
    encode_record,
    with_checksum,
)
from lazyvol.io.zarr.local_run import LocalRun
from lazyvol.io.zarr.metadata import DTYPES
from lazyvol.io.zarr.remote_run import RemoteRun
from lazyvol.io.zarr.run_plan import RunPlan
from lazyvol.io.zarr.shard_shape import SHARD_BYTES, shard_grid
from lazyvol.io.zarr.writer import Target, TargetGroup, blosc_configuration

#: names that variables may not have
RESERVED = ("zarr.json", "c", "", COORDINATES)


@dataclass(frozen=True)
class Variable:
    """Shape, dtype and labels of an array that will be written.

    ``blocks`` is the length along each axis of the blocks it will be written in.
    ``without_coords`` are the spatial dims without positions. ``large_coords`` are coordinates too
    large for the metadata; each becomes a target in `Target.large_coords`, in this order.
    """

    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    dims: tuple[str, ...]
    voxel_size: Mapping[str, float] = field(default_factory=dict)
    unit: str = "voxel"
    origin: Mapping[str, float] = field(default_factory=dict)
    coords: Coords = field(default_factory=dict)
    attrs: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None
    blocks: tuple[int, ...] | None = None
    without_coords: tuple[str, ...] = ()
    large_coords: Mapping[str, "LargeCoord"] = field(default_factory=dict)

    @property
    def labels(self) -> Labels:
        """Return the labels, with references to the large coordinates."""
        coords = dict(self.coords)
        for number, (name, coord) in enumerate(self.large_coords.items()):
            coords[name] = coord.reference(number)
        return Labels(
            dims=tuple(self.dims),
            voxel_size=self.voxel_size,
            unit=self.unit,
            origin=self.origin,
            coords=coords,
            attrs=self.attrs,
            name=self.name,
            without_coords=self.without_coords,
        )


@dataclass(frozen=True)
class LargeCoord:
    """A coordinate that is stored as an array; times are stored as integers."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    attrs: Mapping[str, object] = field(default_factory=dict)

    def reference(self, number: int) -> Coord:
        """Return the entry of the coordinate in the record of the array."""
        values = ArrayReference(f"{COORDINATES}/{number}", self.dtype, self.shape)
        return (self.dims[0] if len(self.dims) == 1 else self.dims, values, self.attrs)

    @property
    def variable(self) -> Variable:
        """Return the array to write."""
        stored = np.dtype(np.int64) if self.dtype.kind in "mM" else self.dtype
        return Variable(self.shape, stored, self.dims, without_coords=self.dims)


def create(
    path: Any,
    variable: Variable,
    *,
    overwrite: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
    plan: RunPlan | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Target:
    """Create a store of one array: an OME-Zarr 0.5 image if its dims allow, else a plain array.

    A run that ``resume`` continues keeps the shards that it began with.

    Raises
    ------
    TargetExistsError
        Something is stored under ``path`` and ``overwrite`` is not set, or it is no zarr store.
    LabelError
        Labels do not fit the shape, or the dtype is not bool, integer or float.
    StoreError
        The operating system refuses to make the folder.

    Examples
    --------
    >>> import numpy as np
    >>> from tempfile import TemporaryDirectory
    >>> from lazyvol.io.zarr.reader import probe
    >>> with TemporaryDirectory() as folder:
    ...     variable = Variable((5, 7, 11), "float32", ("z", "y", "x"), {"z": 2.0}, "angstrom")
    ...     target = create(f"{folder}/ones.zarr", variable)
    ...     target.write((slice(0, 5), slice(0, 7), slice(0, 11)), np.ones((5, 7, 11), "float32"))
    ...     target.publish()
    ...     opened = probe(f"{folder}/ones.zarr")
    >>> opened.dims, opened.voxel_size, opened.unit
    (('z', 'y', 'x'), {'z': 2.0}, 'angstrom')
    """
    plan = plan or RunPlan(uuid4().hex)
    run = run_of(path, plan.token, storage_options, overwrite=overwrite, resume=resume)
    layout = _layout(run, "", variable, max_shard_bytes)
    run.start(plan)
    return layout.started()


def create_group(
    path: Any,
    variables: Mapping[str, Variable],
    *,
    shared: Variable | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
    plan: RunPlan | None = None,
    resume: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> TargetGroup:
    """Create a data set: a group with one image or array per variable, published as a whole.

    ``shared`` has the coordinates and attributes of the set that belong to no variable.

    Raises
    ------
    LabelError
        A variable has a name that no folder can have; as for `create` for each variable.
    TargetExistsError, StoreError
        As for `create`.
    """
    plan = plan or RunPlan(uuid4().hex)
    run = run_of(path, plan.token, storage_options, overwrite=overwrite, resume=resume)
    for name in variables:
        if name in RESERVED or name.startswith(("__", ".")) or set(name) & set("/\\\0"):
            raise LabelError(
                f"save: a variable must have a name that a folder can have, got {name!r}; rename it"
            )
    layouts = {n: _layout(run, f"{n}/", v, max_shard_bytes) for n, v in variables.items()}
    record: dict[str, Any] = {"kind": DATASET_KIND, "variables": list(variables)}
    coords: list[_Layout] = []
    if shared is not None:
        record["labels"] = encode_record(shared.labels, shared.shape, np.dtype(shared.dtype))
        coords = _coord_layouts(run, "", shared, max_shard_bytes)
    record = with_checksum({**record, "plan": plan.token})
    run.start(plan)
    run.write_metadata("", _group({RECORD_KEY: record}))
    targets = {name: layout.started(alone=False) for name, layout in layouts.items()}
    return TargetGroup(run, targets, tuple(layout.started(alone=False) for layout in coords))


def run_of(
    path: Any,
    token: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> LocalRun | RemoteRun:
    """Return the run that writes a store into a folder, to a URL or into a store of zarr."""
    if is_place(path):
        return RemoteRun(place_of(path, storage_options), token, overwrite, resume)
    return LocalRun(os.path.abspath(path), token, overwrite, resume)


@dataclass(frozen=True)
class _Layout:
    """A target and its metadata by folder, complete before anything is written."""

    target: Target
    nodes: Mapping[str, Mapping[str, Any]]
    coords: "Sequence[_Layout]" = ()

    def started(self, *, alone: bool = True) -> Target:
        """Write the metadata and return the target; a run that is resumed keeps its shards."""
        target = self.target
        run, former = target.run, json.loads(target.run.document(target.key) or "{}")
        if former:
            target = _with_former_shards(target, former)
        nodes = {**self.nodes, target.key: {**self.nodes[target.key], **_grid(target)}}
        try:
            for key, content in nodes.items():
                run.write_metadata(key, content)
        except BaseException:
            if not run.resume:
                run.discard()
            raise
        coords = tuple(layout.started(alone=False) for layout in self.coords)
        return replace(target, alone=alone, large_coords=coords)


def _coord_layouts(
    run: LocalRun | RemoteRun, key: str, variable: Variable, max_bytes: int
) -> list[_Layout]:
    """Return the layouts of the large coordinates of a variable in folder ``key``."""
    return [
        _layout(run, f"{key}{COORDINATES}/{number}/", coord.variable, max_bytes, plain=True)
        for number, coord in enumerate(variable.large_coords.values())
    ]


def _layout(
    run: LocalRun | RemoteRun, key: str, variable: Variable, max_bytes: int, *, plain: bool = False
) -> _Layout:
    """Lay out an array in folder ``key``; ``plain`` arrays are never images."""
    dtype = np.dtype(variable.dtype)
    if dtype.name not in DTYPES:
        raise LabelError(
            f"{run.path}: a store must hold {', '.join(DTYPES)}, got {dtype}; convert it, "
            "complex numbers into two variables"
        )
    shape = tuple(int(n) for n in variable.shape)
    record = {RECORD_KEY: encode_record(variable.labels, shape, dtype, run.token)}
    chunks, shards = shard_grid(shape, dtype, variable.blocks, max_bytes)
    image = None if plain else ome.image_of(variable.labels)
    grouped = bool(image or variable.large_coords)
    array_key = f"{key}0/" if grouped else key
    target = Target(run, array_key, shape, dtype.name, chunks, shards)
    nodes = {array_key: _array(target, variable.dims, {} if grouped else record)}
    if grouped:
        nodes = {key: _group({**({"ome": image} if image else {}), **record}), **nodes}
    coords = _coord_layouts(run, key, variable, max_bytes)
    if coords:
        nodes[f"{key}{COORDINATES}/"] = _group({})
    return _Layout(target, nodes, coords)


def _group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def _array(target: Target, dims: Sequence[str], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an array."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(target.shape),
        "data_type": target.dtype,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": False if target.dtype == "bool" else 0,
        "attributes": dict(attributes),
        "dimension_names": list(dims),
        "storage_transformers": [],
        **_grid(target),
    }


def _grid(target: Target) -> dict[str, Any]:
    """Return the fields of the metadata that depend on shards; scalars are not sharded."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {"name": "blosc", "configuration": blosc_configuration(np.dtype(target.dtype))}
    chain: list[dict[str, Any]] = [little, blosc, {"name": "crc32c"}]
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

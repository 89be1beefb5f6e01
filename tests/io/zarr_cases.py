"""Zarr stores written by zarr-python, and metadata written by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import BZ2, LZ4, LZMA, Blosc, Delta, FixedScaleOffset, GZip, Shuffle, Zlib, Zstd
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)

SHAPE = (5, 7, 11, 13)
CHUNKS = (2, 3, 4, 13)

#: keyword arguments of ``zarr.create_array`` for every layout and codec that is read
LAYOUTS: dict[str, dict[str, Any]] = {
    "v3 raw": {"compressors": None},
    "v3 zstd": {"compressors": [ZstdCodec(level=1)]},
    "v3 zstd checksum": {"compressors": [ZstdCodec(level=1, checksum=True)]},
    "v3 gzip": {"compressors": [GzipCodec()]},
    "v3 blosc": {"compressors": [BloscCodec(cname="lz4")]},
    "v3 crc": {"compressors": [Crc32cCodec()]},
    "v3 zstd crc": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "v3 big endian": {"serializer": BytesCodec(endian="big"), "compressors": [ZstdCodec()]},
    "v3 transposed": {"filters": [TransposeCodec(order=(2, 0, 3, 1))]},
    "v3 transposed twice": {
        "filters": [TransposeCodec(order=(2, 0, 3, 1)), TransposeCodec(order=(1, 2, 3, 0))]
    },
    "v3 transposed volumes": {
        "chunks": (1, *SHAPE[1:]),
        "filters": [TransposeCodec(order=(3, 0, 2, 1))],
    },
    "v3 big endian volumes": {
        "chunks": (1, *SHAPE[1:]),
        "serializer": BytesCodec(endian="big"),
    },
    "v3 keys": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v3 dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3 whole": {"chunks": SHAPE},
    "v3 larger": {"chunks": (8, 8, 16, 16)},
    "v3 shards": {"shards": (4, 6, 12, 13)},
    "v3 shards crc": {"shards": (4, 6, 12, 13), "compressors": [ZstdCodec(), Crc32cCodec()]},
    "v3 shards raw": {"shards": (6, 9, 12, 26), "compressors": None},
    "v3 shards transposed": {
        "shards": (4, 6, 12, 13),
        "filters": [TransposeCodec(order=(3, 2, 0, 1))],
    },
    "v3 shards start": {
        "chunks": (4, 6, 12, 13),
        "serializer": ShardingCodec(
            chunk_shape=CHUNKS, codecs=[BytesCodec(), ZstdCodec()], index_location="start"
        ),
        "compressors": None,
    },
    "v3 shards plain index": {
        "chunks": (4, 6, 12, 13),
        "serializer": ShardingCodec(
            chunk_shape=CHUNKS,
            codecs=[BytesCodec(), GzipCodec()],
            index_codecs=[BytesCodec(endian="big")],
        ),
        "compressors": None,
    },
    "v2 raw": {"zarr_format": 2, "compressors": None},
    "v2 zstd": {"zarr_format": 2, "compressors": Zstd()},
    "v2 blosc": {"zarr_format": 2, "compressors": Blosc(cname="zstd")},
    "v2 lz4": {"zarr_format": 2, "compressors": LZ4()},
    "v2 gzip": {"zarr_format": 2, "compressors": GZip()},
    "v2 zlib": {"zarr_format": 2, "compressors": Zlib()},
    "v2 bz2": {"zarr_format": 2, "compressors": BZ2()},
    "v2 lzma": {"zarr_format": 2, "compressors": LZMA()},
    "v2 fortran": {"zarr_format": 2, "compressors": Zstd(), "order": "F"},
    "v2 fortran volumes": {"zarr_format": 2, "chunks": (1, *SHAPE[1:]), "order": "F"},
    "v2 slashes": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v2 shuffle": {"zarr_format": 2, "filters": [Shuffle(4)], "compressors": Zstd()},
    "v2 filter alone": {"zarr_format": 2, "filters": [Shuffle(4)], "compressors": None},
    "v2 delta": {"zarr_format": 2, "filters": [Delta("<i4")], "compressors": Zlib()},
    "v2 scaled": {
        "zarr_format": 2,
        "filters": [FixedScaleOffset(offset=-300, scale=1, dtype="<i4", astype="<u2")],
        "compressors": Zstd(),
    },
}

#: all sorts of dtypes; big-endian ones exist in v2 only
DTYPES = ("bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


def numbers(shape: tuple[int, ...], dtype: str = "i4", seed: int = 0) -> np.ndarray:
    """Values that any dtype holds."""
    low, high = (0, 2) if dtype == "bool" else (0, 100)
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def stored(path: Path, values: np.ndarray, **layout: Any) -> Path:
    """Store of an array by zarr-python, every chunk present."""
    chunks = layout.pop("chunks", CHUNKS if values.shape == SHAPE else None)
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks or values.shape,
        config={"write_empty_chunks": True},
        **layout,
    )
    array[...] = values
    return path


def plain_v2(path: Path, **fields: Any) -> Path:
    """Zarr v2 array of one float32 in raw bytes, with other fields in its metadata."""
    meta = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [4],
        "dtype": "<f4",
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "compressor": None,
    }
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / ".zarray").write_text(json.dumps(meta | fields))
    (path / "0").write_bytes(np.arange(4, dtype="<f4").tobytes())
    return path


def plain_v3(path: Path, **fields: Any) -> Path:
    """Zarr v3 array of four float32 in raw bytes, with other fields in its metadata."""
    meta = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }
    shutil.rmtree(path, ignore_errors=True)
    (path / "c").mkdir(parents=True)
    (path / "zarr.json").write_text(json.dumps(meta | fields))
    (path / "c" / "0").write_bytes(np.arange(4, dtype="<f4").tobytes())
    return path


def files_of(path: Path) -> list[Path]:
    """Files with chunks of a store."""
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] not in ".z")


def edit(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def image(**fields: Any) -> dict[str, Any]:
    """OME-Zarr 0.4 metadata of a volume of 4 x 2 x 1 nm, with other fields."""
    axes = [{"name": d, "type": "space", "unit": "nanometer"} for d in "zyx"]
    steps = [{"type": "scale", "scale": [4, 2, 1]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    return {"axes": axes, "datasets": datasets, "version": "0.4"} | fields

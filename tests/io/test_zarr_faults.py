"""Faults of zarr stores, absent, damaged or hostile: each raises its own error."""

import os
import re
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
import zarr
from numcodecs import BZ2, LZ4, LZMA, Blosc, GZip, Zlib, Zstd

import lazyvol as lv
from lazyvol import errors
from lazyvol.io.zarr.codecs import Damaged, Short, crc32c, decode
from lazyvol.io.zarr.reader import probe
from lazyvol.plan.regions import whole
from tests.io.store_cases import shard_files
from tests.io.zarr_cases import (
    CHUNKS,
    LAYOUTS,
    SHAPE,
    edit,
    files_of,
    image,
    numbers,
    plain_v2,
    plain_v3,
    stored,
)
from tests.paths import DATA

OME = DATA / "ome_zarr"
needs_data = pytest.mark.skipif(not OME.is_dir(), reason="needs ../shared/data/ome_zarr")
CODECS = {
    "zstd": Zstd(),
    "blosc": Blosc(),
    "lz4": LZ4(),
    "gzip": GZip(),
    "zlib": Zlib(),
    "bz2": BZ2(),
    "lzma": LZMA(),
}


@pytest.mark.parametrize("layout", [n for n in LAYOUTS if n not in ("v3 raw", "v3 shards raw")])
def test_cut_chunks_raise(layout, tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS[layout])
    file = files_of(path)[0]
    content = file.read_bytes()
    for length in (0, 1, 5, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises((errors.TruncatedError, errors.ChecksumError)) as caught:
            probe(path).source.read(whole(SHAPE))
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("layout", ["v3 raw", "v2 raw"])
def test_raw_chunks_must_have_their_length(layout, tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS[layout])
    file = files_of(path)[0]
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(errors.TruncatedError, match="expected"):
        probe(path).source.read(whole(SHAPE))
    file.write_bytes(content + b"x")
    with pytest.raises(errors.ChecksumError, match="expected"):
        probe(path).source.read(whole(SHAPE))


@pytest.mark.parametrize("layout", ["v3 zstd", "v3 blosc", "v3 gzip", "v2 lz4", "v2 bz2", "v2 raw"])
def test_chunks_that_decode_to_less_than_promised_raise(layout, tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS[layout])
    grown = [*CHUNKS[:3], 2 * CHUNKS[3]]
    if layout.startswith("v2"):
        edit(path / ".zarray", chunks=grown)
    else:
        grid = {"name": "regular", "configuration": {"chunk_shape": grown}}
        edit(path / "zarr.json", chunk_grid=grid)
    with pytest.raises((errors.TruncatedError, errors.ChecksumError), match="expected"):
        probe(path).source.read(whole(SHAPE))


def test_decoders_never_leave_memory_unfilled():
    content = np.arange(1000, dtype="u1")
    for name, codec in CODECS.items():
        packed = bytes(codec.encode(content))
        decode([name], np.frombuffer(packed, "u1"), out := np.empty(1000, "u1"))
        np.testing.assert_array_equal(out, content)
        for length in (0, 999, 1001, 5000):
            with pytest.raises((Short, Damaged)):
                decode([name], np.frombuffer(packed, "u1"), np.empty(length, "u1"))


@pytest.mark.parametrize("name", CODECS)
def test_bombs_are_not_unpacked(name):
    packed = np.frombuffer(bytes(CODECS[name].encode(np.zeros(5_000_000, "u1"))), "u1")
    for chain in ([name], ["crc32c", name]):
        tracemalloc.start()
        with pytest.raises(Damaged):
            decode(chain, packed, np.empty(1000, "u1"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < (1_000_000 if name != "lzma" else 10_000_000)


@pytest.mark.parametrize("codec", ["pickle", "json2", "vlen-utf8", "msgpack2", "none", 5, None])
@pytest.mark.parametrize("place", ["compressor", "first filter", "last filter"])
def test_codecs_of_objects_and_unknown_ones_are_refused_in_any_place_of_v2(codec, place, tmp_path):
    bad, good = {"id": codec}, {"id": "shuffle", "elementsize": 4}
    fields = {
        "compressor": {"compressor": bad},
        "first filter": {"filters": [bad, good]},
        "last filter": {"filters": [good, bad], "compressor": {"id": "zlib", "level": 1}},
    }[place]
    with pytest.raises(errors.FormatError, match="codec"):
        probe(plain_v2(tmp_path / "a", **fields))


@pytest.mark.parametrize("codec", ["numcodecs.pickle", "vlen-bytes", "pcodec", "sharding_indexed"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_codec_of_objects_or_unknown_one_in_any_place_of_v3(codec, place, tmp_path):
    chain = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "gzip"}]
    chain.insert(place, {"name": codec, "configuration": {}})
    with pytest.raises((errors.UnsafeSourceError, errors.FormatError)):
        probe(plain_v3(tmp_path / "a", codecs=chain))
    shard = {"chunk_shape": [2], "codecs": chain, "index_codecs": [chain[0]]}
    nested = [{"name": "sharding_indexed", "configuration": shard}]
    with pytest.raises((errors.UnsafeSourceError, errors.FormatError)):
        probe(plain_v3(tmp_path / "b", codecs=nested))


def test_a_filter_with_objects_inside_is_refused(tmp_path):
    for field in ("dtype", "astype"):
        filters = [{"id": "delta", "dtype": "<f4", "astype": "<f4", field: "|O"}]
        with pytest.raises(errors.FormatError, match="object"):
            probe(plain_v2(tmp_path / "a", filters=filters))


BAD_V2 = {
    "objects": ({"dtype": "|O"}, errors.UnsafeSourceError),
    "records with objects": ({"dtype": [["a", "|O"]]}, errors.UnsafeSourceError),
    "text": ({"dtype": "<U8"}, errors.FormatError),
    "void": ({"dtype": "|V8"}, errors.FormatError),
    "complex": ({"dtype": "<c8"}, errors.FormatError),
    "no dtype": ({"dtype": None}, errors.FormatError),
    "negative": ({"shape": [-4]}, errors.FormatError),
    "fraction": ({"shape": [4.5]}, errors.FormatError),
    "many axes": ({"shape": [1] * 99, "chunks": [1] * 99}, errors.FormatError),
    "ranks differ": ({"chunks": [4, 4]}, errors.FormatError),
    "zero chunk": ({"chunks": [0]}, errors.FormatError),
    "huge chunk": ({"shape": [1 << 40], "chunks": [1 << 40]}, errors.LimitExceeded),
    "huge shape": ({"shape": [1 << 62]}, errors.LimitExceeded),
    "order": ({"order": "K"}, errors.FormatError),
    "separator": ({"dimension_separator": "../"}, errors.FormatError),
    "fill": ({"fill_value": "many"}, errors.FormatError),
    "large fill": ({"fill_value": 1e300}, errors.FormatError),
    "version": ({"zarr_format": 1}, errors.FormatError),
    "filters": ({"filters": "pickle"}, errors.FormatError),
    "filter options": ({"filters": [{"id": "shuffle", "x": 1}]}, errors.FormatError),
}


@pytest.mark.parametrize("case", BAD_V2)
def test_metadata_of_v2_are_checked_first(case, tmp_path):
    fields, error = BAD_V2[case]
    with pytest.raises(error, match="a"):
        probe(plain_v2(tmp_path / "a", **fields))


def shard_of(**fields):
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    index = [little, {"name": "crc32c"}]
    shard = {"chunk_shape": [2], "codecs": [little], "index_codecs": index}
    return {"codecs": [{"name": "sharding_indexed", "configuration": shard | fields}]}


def grid_of(name, shape):
    return {"chunk_grid": {"name": name, "configuration": {"chunk_shape": shape}}}


BAD_V3 = {
    "string": ({"data_type": "string"}, errors.FormatError),
    "r16": ({"data_type": "r16"}, errors.FormatError),
    "complex64": ({"data_type": "complex64"}, errors.FormatError),
    "extension": ({"data_type": {"name": "numpy.datetime64"}}, errors.FormatError),
    "rectilinear": (grid_of("rectilinear", [4]), errors.FormatError),
    "huge chunk": (grid_of("regular", [1 << 40]), errors.LimitExceeded),
    "no codecs": ({"codecs": []}, errors.FormatError),
    "no bytes": (
        {"codecs": [{"name": "transpose", "configuration": {"order": [0]}}]},
        errors.FormatError,
    ),
    "no endian": ({"codecs": [{"name": "bytes"}]}, errors.FormatError),
    "transformers": ({"storage_transformers": [{"name": "x"}]}, errors.FormatError),
    "keys": ({"chunk_key_encoding": {"name": "../"}}, errors.FormatError),
    "names": ({"dimension_names": ["x", "y"]}, errors.FormatError),
    "attributes": ({"attributes": 5}, errors.FormatError),
    "node": ({"node_type": "link"}, errors.FormatError),
    "version": ({"zarr_format": 4}, errors.FormatError),
    "odd shard": (shard_of(chunk_shape=[3]), errors.FormatError),
    "index codecs": (shard_of(index_codecs=[{"name": "gzip"}]), errors.FormatError),
    "index place": (shard_of(index_location="middle"), errors.FormatError),
    "large index": (
        shard_of(chunk_shape=[1]) | grid_of("regular", [1 << 23]),
        errors.LimitExceeded,
    ),
}


@pytest.mark.parametrize("case", BAD_V3)
def test_metadata_of_v3_are_checked_first(case, tmp_path):
    fields, error = BAD_V3[case]
    with pytest.raises(error, match="a"):
        probe(plain_v3(tmp_path / "a", **fields))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"zarr_format": ' + "9" * 5000 + "}", "\x00", "null"]
)
def test_metadata_that_are_no_json_object(text, tmp_path):
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(errors.FormatError):
        probe(tmp_path)


def test_metadata_have_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.safe_folder.MAX_JSON", 100)
    with pytest.raises(errors.LimitExceeded, match="100 bytes"):
        probe(plain_v3(tmp_path / "a"))


def test_paths_that_are_no_store(tmp_path):
    with pytest.raises(errors.SourceNotFoundError):
        probe(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.FormatError, match="folder"):
        probe(tmp_path / "file")
    with pytest.raises(errors.FormatError, match=r"zarr\.json"):
        probe(tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder", "far folder", "metadata", "relative"])
def test_links_do_not_lead_out_of_the_store(kind, tmp_path):
    path = stored(tmp_path / "a.zarr", numbers(SHAPE), **LAYOUTS["v3 raw"])
    outside = stored(tmp_path / "outside", numbers(SHAPE, seed=1), **LAYOUTS["v3 raw"])
    inside = {
        "file": "c/0/0/0/0",
        "folder": "c/1/0/0",
        "far folder": "c/0",
        "metadata": "zarr.json",
    }
    key = inside.get(kind, "c/0/0/0/0")
    target = path / key
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    place = outside / key
    target.symlink_to(os.path.relpath(place, target.parent) if kind == "relative" else place)
    with pytest.raises(errors.UnsafeSourceError, match="must be inside"):
        probe(path).source.read(whole(SHAPE))
    assert probe(outside).source.read(whole(SHAPE)).size


def test_links_inside_the_store_and_to_the_store_are_fine(tmp_path):
    values = numbers(SHAPE)
    path = stored(tmp_path / "a.zarr", values, **LAYOUTS["v3 raw"])
    (path / "c" / "0").rename(path / "moved")
    (path / "c" / "0").symlink_to(path / "moved")
    file = path / "c" / "1" / "0" / "0" / "0"
    file.rename(path / "lone")
    file.symlink_to("../../../../lone")
    (tmp_path / "link.zarr").symlink_to(path)
    np.testing.assert_array_equal(probe(tmp_path / "link.zarr").source.read(whole(SHAPE)), values)


def test_pipes_folders_and_unreadable_files_are_refused(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE))
    file = path / "c" / "0" / "0" / "0" / "0"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(errors.UnsafeSourceError, match="pipe"):
        probe(path).source.read(whole(SHAPE))
    file.unlink()
    file.mkdir()
    with pytest.raises(errors.FormatError, match="folder"):
        probe(path).source.read(whole(SHAPE))


@pytest.mark.parametrize(
    "path", ["../outside", "/etc", "..", "", ".", "a/../../b", 5, "a\\b", "a\0", "\ud800"]
)
def test_levels_lie_below_their_group(path, tmp_path):
    stored(tmp_path / "outside", numbers((4, 4, 4)))
    datasets = [{"path": path, "coordinateTransformations": []}]
    group = zarr.create_group(tmp_path / "g", zarr_format=2)
    group.attrs["multiscales"] = [image(datasets=datasets)]
    with pytest.raises(errors.FormatError):
        probe(tmp_path / "g")


@pytest.mark.parametrize(
    "fields",
    [
        {"axes": "zyx"},
        {"axes": [{"name": "x", "type": "space"}] * 3},
        {"axes": [5, 6, 7]},
        {"datasets": []},
        {"datasets": [{"path": "9"}]},
        {"version": "9.0"},
        {"coordinateTransformations": [{"type": "affine"}]},
        {"coordinateTransformations": [{"type": "translation", "translation": [1]}]},
    ],
)
def test_broken_ome_metadata(fields, tmp_path):
    group = zarr.create_group(tmp_path / "g", zarr_format=2)
    stored(tmp_path / "g" / "0", numbers((4, 4, 4)), zarr_format=2)
    group.attrs["multiscales"] = [image()]
    assert probe(tmp_path / "g").voxel_size == {"z": 4.0, "y": 2.0, "x": 1.0}
    group.attrs["multiscales"] = [image(**fields)]
    with pytest.raises(errors.FormatError):
        probe(tmp_path / "g")


def test_an_io_error_is_an_error_of_the_tree(tmp_path, monkeypatch):
    path = stored(tmp_path / "a", numbers(SHAPE))

    def broken(*_):
        raise OSError(5, "Input/output error")

    source = probe(path).source
    monkeypatch.setattr("lazyvol.io.safe_folder.read_available", broken)
    with pytest.raises(errors.StoreError, match="Input/output error"):
        source.read(whole(SHAPE))


@pytest.mark.parametrize("entry", [(1 << 63, 8), ((1 << 64) - 2, 1), (0, 1 << 63), (8, 1 << 40)])
def test_an_index_that_leads_out_of_the_file(entry, tmp_path):
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    path = plain_v3(tmp_path / "a", **shard_of(index_codecs=[little]))
    (path / "c" / "0").write_bytes(bytes(16) + struct.pack("<4Q", 0, 8, *entry))
    source = probe(path).source
    assert source.read((slice(0, 2),)).tolist() == [0.0, 0.0]
    with pytest.raises(errors.TruncatedError, match=r"chunk \(1,\)"):
        source.read((slice(0, 4),))


def test_swapped_entries_of_an_index_are_caught_in_a_store_of_ours(tmp_path):
    values = np.random.default_rng(0).normal(size=(1, 96, 140, 140)).astype("f4")
    path = tmp_path / "a.zarr"
    with lv.limited(workers=1):  # one shard
        lv.save(lv.as_stack(values), path)
    (shard,) = shard_files(path / "0")
    index = probe(path).source.meta.index
    data = bytearray(shard.read_bytes())
    entries = np.frombuffer(data, "<u8", index.nbytes // 8, len(data) - index.nbytes)
    entries = entries.reshape(-1, 2).copy()
    entries[[0, 1]] = entries[[1, 0]]
    raw = entries.tobytes()
    data[-index.nbytes :] = raw + crc32c(raw).to_bytes(4, "little")
    shard.write_bytes(data)
    with pytest.raises(errors.ChecksumError, match=re.escape(str(shard))):
        probe(path).source.read(whole(values.shape))
    with pytest.raises(errors.ChecksumError):
        probe(path).source.read(tuple(slice(0, 1) for _ in values.shape))


def test_booleans_are_zero_or_one(tmp_path):
    path = plain_v3(tmp_path / "a", data_type="bool", fill_value=False)
    (path / "c" / "0").write_bytes(bytes([0, 1, 2, 255]))
    got = probe(path).source.read((slice(0, 4),))
    assert got.view("u1").tolist() == [0, 1, 1, 1]

"""Zarr stores: every layout, dims and units, OME-Zarr sets, and whatever can be wrong with them."""

import os
import pickle
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import BZ2, LZ4, LZMA, Blosc, GZip, Zlib, Zstd

from lazyvol import errors
from lazyvol.io.ome import guessed_dims, labels_of
from lazyvol.io.zarr import probe, probe_group
from lazyvol.io.zarrcodecs import Damaged, Short, Stage, decode
from lazyvol.io.zarrsource import DECODER_BYTES
from lazyvol.plan.regions import whole
from tests.io_cases import DATA, check_source, random_region
from tests.zarr_cases import (
    CHUNKS,
    DTYPES,
    LAYOUTS,
    SHAPE,
    edit,
    files_of,
    numbers,
    plain_v2,
    plain_v3,
    stored,
)

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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_any_region(layout, tmp_path):
    values = numbers(SHAPE, "i4")
    opened = probe(stored(tmp_path / "a.zarr", values, **LAYOUTS[layout]))
    assert opened.dims == ("k", "z", "y", "x")
    assert opened.name == "a"
    check_source(opened.source, values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["v3 zstd", "v2 raw", "v3 shards crc", "v2 blosc"])
def test_every_dtype(dtype, layout, tmp_path):
    values = numbers(SHAPE, dtype)
    check_source(probe(stored(tmp_path / "a", values, **LAYOUTS[layout])).source, values, tries=4)


@pytest.mark.parametrize("dtype", [">i2", ">u4", ">f4", ">f8"])
def test_big_endian_v2(dtype, tmp_path):
    values = numbers(SHAPE, dtype)
    check_source(probe(stored(tmp_path / "a", values, zarr_format=2)).source, values, tries=4)


@given(data=st.data())
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_shape_chunks_and_region(data, tmp_path_factory):
    ndim = data.draw(st.integers(0, 5))
    shape = tuple(data.draw(st.lists(st.integers(0, 9), min_size=ndim, max_size=ndim)))
    inner = tuple(data.draw(st.integers(1, 4)) for _ in shape)
    times = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    sharded = ndim > 0 and data.draw(st.booleans())
    layout = {"shards": tuple(c * t for c, t in zip(inner, times, strict=True))} if sharded else {}
    values = numbers(shape, "f4")
    path = tmp_path_factory.mktemp("any") / "a"
    source = probe(stored(path, values, chunks=inner, **layout)).source
    corners = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
    region = tuple(slice(a, b) for a, b in corners)
    np.testing.assert_array_equal(source.read(region), values[region])
    assert source.chunks == tuple(
        max(1, min(c, n)) for c, n in zip(source.meta.files, shape, strict=True)
    )
    shutil.rmtree(path)


def test_chunks_are_what_one_file_holds_and_inner_chunks_what_is_decoded(tmp_path):
    source = probe(stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS["v3 shards"])).source
    assert source.chunks == (4, 6, 11, 13)
    assert source.inner_chunks == CHUNKS
    one = (slice(0, 1), slice(0, 1), slice(0, 1), slice(0, 1))
    assert source.stored_bytes(one) == 2 * 3 * 4 * 13 * 4


def test_many_threads_read_one_source(tmp_path):
    values = numbers(SHAPE)
    source = probe(stored(tmp_path / "a", values, **LAYOUTS["v3 shards crc"])).source
    regions = [random_region(np.random.default_rng(i), SHAPE) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for region, got in zip(regions, pool.map(source.read, regions), strict=True):
            np.testing.assert_array_equal(got, values[region])


def test_token_follows_the_stored_data(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE))
    first = probe(path).source.token
    assert probe(path).source.token == first
    assert probe(path, permissive=True).source.token != first
    file = files_of(path)[3]
    os.utime(file, ns=(1, 1))
    assert probe(path).source.token != first
    assert len(pickle.dumps(probe(path).source)) < 2000


@pytest.mark.parametrize(
    ("names", "ndim", "dims"),
    [
        (None, 2, ("y", "x")),
        (None, 3, ("z", "y", "x")),
        (None, 4, ("k", "z", "y", "x")),
        (None, 5, ("k", "channel", "z", "y", "x")),
        (None, 1, ("dim_0",)),
        (("t", "c", "z", "y", "x"), 5, ("k", "channel", "z", "y", "x")),
        (("n", "z", "y", "x"), 4, ("k", "z", "y", "x")),
        (("frame", "k", "y", "x"), 4, ("frame", "k", "y", "x")),
        (("channel", "Z", "Y", "X"), 4, ("channel", "z", "y", "x")),
        (("time", "lat", "lon"), 3, ("time", "lat", "lon")),
        (("a", None), 2, ("y", "x")),
        (("a", "a"), 2, ("y", "x")),
    ],
)
def test_dims_by_names_else_by_number(names, ndim, dims):
    assert guessed_dims(names, ndim) == dims


def test_dimension_names_and_xarray_names(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(2, 3, 4), dtype="f4", dimension_names=("c", "y", "x"))
    assert probe(tmp_path / "a").dims == ("channel", "y", "x")
    array = zarr.create_array(tmp_path / "b", shape=(2, 3), dtype="f4", zarr_format=2)
    array.attrs.update({"_ARRAY_DIMENSIONS": ["frequency", "bin"], "long_name": "power"})
    opened = probe(tmp_path / "b")
    assert opened.dims == ("frequency", "bin")
    assert opened.attrs == {"long_name": "power"}


def image(**fields):
    axes = [{"name": d, "type": "space", "unit": "nanometer"} for d in "zyx"]
    steps = [{"type": "scale", "scale": [4, 2, 1]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    return {"axes": axes, "datasets": datasets, "version": "0.4"} | fields


def steps_of(*steps, axes="zyx", units=None):
    named = [{"name": d, "type": "space"} for d in axes]
    for axis, unit in zip(named, units or [], strict=False):
        axis.update({"unit": unit} if unit else {})
    return image(axes=named, datasets=[{"path": "0", "coordinateTransformations": list(steps)}])


def test_transformations_apply_in_order_and_units_become_one():
    scale, move = {"type": "scale", "scale": [4.0, 2.0, 1.0]}, {"type": "translation"}
    move["translation"] = [8.0, 0.0, -1.0]
    content = steps_of(scale, move, units=["nanometer", "angstrom", "micrometer"])
    content["coordinateTransformations"] = [{"type": "scale", "scale": [1, 10, 1]}]
    labels = labels_of(content, "0", 3, "here")
    assert labels.unit == "micrometer"
    assert labels.voxel_size == pytest.approx({"z": 4e-3, "y": 2e-3, "x": 1.0})
    assert labels.origin == pytest.approx({"z": 8e-3, "y": 0.0, "x": -1.0})


def test_a_scale_without_units_is_in_voxels_and_no_scale_is_unknown():
    scale = {"type": "scale", "scale": [4.0, 2.0, 1.0]}
    labels = labels_of(steps_of(scale), "0", 3, "here")
    assert (labels.unit, labels.voxel_size) == ("voxel", {"z": 4.0, "y": 2.0, "x": 1.0})
    assert labels_of(steps_of(), "0", 3, "here").voxel_size == {}
    partly = labels_of(steps_of(scale, units=[None, None, "angstrom"]), "0", 3, "here")
    assert (partly.unit, partly.voxel_size) == ("angstrom", {"x": 1.0})


def test_old_images_name_axes_by_letters_or_not_at_all():
    old = {"datasets": [{"path": "0"}], "version": "0.1"}
    assert labels_of(old, "0", 5, "here").dims == ("k", "channel", "z", "y", "x")
    assert labels_of(old | {"axes": ["c", "y", "x"]}, "0", 3, "here").dims == ("channel", "y", "x")


def test_a_custom_first_axis_is_the_stack():
    axes = [{"name": "particle", "type": "particle"}, *image()["axes"]]
    scale = [{"type": "scale", "scale": [1, 4, 2, 1]}]
    content = image(axes=axes, datasets=[{"path": "0", "coordinateTransformations": scale}])
    labels = labels_of(content, "0", 4, "here")
    assert labels.dims == ("k", "z", "y", "x")
    assert labels.voxel_size == {"z": 4.0, "y": 2.0, "x": 1.0}


@pytest.mark.parametrize("scale", [[0, 1, 1], [-1, 1, 1], [1, 1], ["1", 1, 1], [1e999, 1, 1], None])
def test_a_scale_must_be_positive(scale):
    content = steps_of({"type": "scale", "scale": scale})
    with pytest.raises(errors.FormatError, match="scale"):
        labels_of(content, "0", 3, "here")
    if scale and len(scale) == 3 and "1" not in scale:
        assert "z" not in labels_of(content, "0", 3, "here", permissive=True).voxel_size


@needs_data
@pytest.mark.parametrize("version", ["v4", "v5"])
@pytest.mark.parametrize(
    ("name", "dims", "shape"),
    [
        ("3d", ("z", "y", "x"), (16, 64, 64)),
        ("4d", ("k", "z", "y", "x"), (4, 16, 64, 64)),
        ("5d", ("k", "channel", "z", "y", "x"), (4, 3, 16, 64, 64)),
    ],
)
def test_ome_sets_of_another_program(name, dims, shape, version):
    path = OME / f"{name}_dataset_{version}.ome.zarr"
    opened = probe(path)
    assert (opened.dims, opened.source.shape) == (dims, shape)
    assert opened.voxel_size == {"z": 1.0, "y": 1.0, "x": 1.0}
    expected = zarr.open_array(path / "0", mode="r")[...]
    check_source(opened.source, expected, tries=3)
    half = probe(path / "1")
    assert half.dims == dims
    assert half.voxel_size == {"z": 2.0, "y": 2.0, "x": 2.0}
    assert half.source.shape == (*shape[:-3], 8, 32, 32)


@needs_data
def test_collections_name_their_images():
    path = OME / "bf2raw_dataset_v5.ome.zarr"
    with pytest.raises(errors.FormatError, match="holds 0, 1; open one"):
        probe(path)
    assert probe(path / "1").dims == ("y", "x")
    assert probe(path / "0" / "1").voxel_size == {"y": 2.0, "x": 2.0}
    assert sorted(probe_group(path)) == ["0", "1"]
    plate = OME / "ome-zarr-examples_valid" / "plate-01.zarr"
    with pytest.raises(errors.FormatError, match="A/1/0"):
        probe(plate)
    assert probe(plate / "A" / "1").dims == ("y", "x")


@needs_data
@pytest.mark.parametrize(
    ("name", "shape", "voxel_size"),
    [
        ("image-01", (1000, 1000), {"y": 1.0, "x": 1.0}),
        ("image-02", (200, 200), {"y": 1.0, "x": 1.0}),
        ("image-03", (2, 100, 100), {"z": 1.0, "y": 1.0, "x": 1.0}),
        ("image-04", (2, 64, 64), {"z": 1.0, "y": 1.0, "x": 1.0}),
    ],
)
def test_valid_examples(name, shape, voxel_size):
    opened = probe(OME / "ome-zarr-examples_valid" / f"{name}.zarr")
    assert opened.source.shape == shape
    assert (opened.voxel_size, opened.unit) == (voxel_size, "micrometer")


@needs_data
def test_invalid_examples_raise_and_questionable_ones_open():
    folder = OME / "ome-zarr-examples_invalid"
    for name in ("image-01", "image-02", "image-03", "image-04.zarr/1"):
        with pytest.raises(errors.FormatError):
            probe(folder / (name if "/" in name else f"{name}.zarr"))
    assert probe(folder / "image-04.zarr").source.shape == (2, 64, 64)
    opened = probe(OME / "ome-zarr-examples_warning" / "image-01.zarr")
    assert opened.source.dtype == "i8"
    with pytest.raises(errors.MissingChunkError):
        opened.source.read(whole(opened.source.shape))


def test_a_group_opens_its_only_array(tmp_path):
    zarr.create_group(tmp_path / "g")
    with pytest.raises(errors.FormatError, match="found none"):
        probe(tmp_path / "g")
    stored(tmp_path / "g" / "a", numbers(SHAPE))
    assert probe(tmp_path / "g").source.shape == SHAPE
    stored(tmp_path / "g" / "b", numbers(SHAPE))
    with pytest.raises(errors.FormatError, match="holds a, b"):
        probe(tmp_path / "g")


@pytest.mark.parametrize("layout", ["v3 zstd", "v2 raw", "v3 dots", "v3 whole"])
def test_each_missing_chunk_is_found(layout, tmp_path):
    values = numbers(SHAPE) + 1
    path = stored(tmp_path / "a", values, **LAYOUTS[layout], fill_value=7)
    for file in files_of(path):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(errors.MissingChunkError, match="permissive=True") as caught:
            probe(path).source.read(whole(SHAPE))
        assert file.name in str(caught.value)
        got = probe(path, permissive=True).source.read(whole(SHAPE))
        assert set(np.unique(got[got != values])) == {7}
        file.write_bytes(content)


def test_a_missing_chunk_matters_only_where_it_is_read(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE))
    shutil.rmtree(path / "c" / "0")
    source = probe(path).source
    assert source.read((slice(2, 4), *whole(SHAPE[1:]))).size
    with pytest.raises(errors.MissingChunkError, match=r"\(0, 0, 0, 0\)"):
        source.read((slice(0, 1), slice(0, 1), slice(0, 1), slice(0, 1)))


@pytest.mark.parametrize("layout", ["v3 shards", "v3 shards raw", "v3 shards start"])
def test_each_missing_inner_chunk_is_found(layout, tmp_path):
    values = numbers(SHAPE) + 1
    path = stored(tmp_path / "a", values, **LAYOUTS[layout], fill_value=9)
    full = zarr.open_array(path, mode="r+", config={"write_empty_chunks": False})
    grid = [range(-(-n // c)) for n, c in zip(SHAPE, full.chunks, strict=True)]
    for index in np.random.default_rng(0).permutation(list(np.ndindex(*map(len, grid))))[:12]:
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, full.chunks, strict=True))
        full[box] = 9
        number = ", ".join(map(str, index))
        with pytest.raises(errors.MissingChunkError, match=rf"chunk \({number}\)"):
            probe(path).source.read(tuple(slice(s.start, s.start + 1) for s in box))
        got = probe(path, permissive=True).source.read(whole(SHAPE))
        np.testing.assert_array_equal(got, full[...])
        full[box] = values[box]


def test_a_store_may_say_that_absent_chunks_are_legal(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), attributes={"lazyvol": {"empty_chunks": "fill"}})
    shutil.rmtree(path / "c")
    assert not probe(path).source.read(whole(SHAPE)).any()


@pytest.mark.parametrize(
    ("value", "dtype", "meaning"),
    [("NaN", "float32", np.nan), ("-Infinity", "float64", -np.inf), ("0x3fc00000", "float32", 1.5)],
)
def test_fill_values_that_are_words(value, dtype, meaning, tmp_path):
    path = plain_v3(tmp_path / "a", fill_value=value, data_type=dtype)
    (path / "c" / "0").unlink()
    got = probe(path, permissive=True).source.read((slice(0, 4),))
    np.testing.assert_array_equal(got, np.full(4, meaning))


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
        decode([Stage(name)], np.frombuffer(packed, "u1"), out := np.empty(1000, "u1"))
        np.testing.assert_array_equal(out, content)
        for length in (0, 999, 1001, 5000):
            with pytest.raises((Short, Damaged)):
                decode([Stage(name)], np.frombuffer(packed, "u1"), np.empty(length, "u1"))


@pytest.mark.parametrize("name", CODECS)
def test_bombs_are_not_unpacked(name):
    packed = bytes(CODECS[name].encode(np.zeros(5_000_000, "u1")))
    with pytest.raises((Damaged, Short)):
        decode([Stage(name)], np.frombuffer(packed, "u1"), np.empty(1000, "u1"))
    chain = [Stage("filter", '{"id": "shuffle", "elementsize": 4}'), Stage(name)]
    with pytest.raises((Damaged, Short)):
        decode(chain, np.frombuffer(packed, "u1"), np.empty(1000, "u1"))


@pytest.mark.parametrize(
    "codec", ["pickle", "json2", "vlen-utf8", "msgpack2", "categorize", 5, None]
)
@pytest.mark.parametrize("place", ["compressor", "first filter", "last filter"])
def test_no_codec_off_the_list_in_any_place_of_v2(codec, place, tmp_path):
    bad, good = {"id": codec}, {"id": "shuffle", "elementsize": 4}
    fields = {
        "compressor": {"compressor": bad},
        "first filter": {"filters": [bad, good]},
        "last filter": {"filters": [good, bad], "compressor": {"id": "zlib", "level": 1}},
    }[place]
    with pytest.raises(errors.UnsafeSourceError, match="codec must be one of"):
        probe(plain_v2(tmp_path / "a", **fields))


@pytest.mark.parametrize("codec", ["numcodecs.pickle", "vlen-bytes", "pcodec", "sharding_indexed"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_codec_off_the_list_in_any_place_of_v3(codec, place, tmp_path):
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
        with pytest.raises(errors.UnsafeSourceError, match="objects"):
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
    "boolean": ({"shape": [True]}, errors.FormatError),
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
    "lzma filters": ({"compressor": {"id": "lzma", "format": 3}}, errors.FormatError),
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
    monkeypatch.setattr("lazyvol.io.confined.MAX_JSON", 100)
    with pytest.raises(errors.LimitExceeded, match="100 bytes"):
        probe(plain_v3(tmp_path / "a"))


def test_paths_that_are_no_store(tmp_path):
    with pytest.raises(errors.FormatError, match="local disk"):
        probe("s3://bucket/a.zarr")
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
    with pytest.raises(errors.UnsafeSourceError, match="must lie inside"):
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


@pytest.mark.parametrize("path", ["../outside", "/etc", "..", "", ".", "a/../../b", 5, "a\\b"])
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
    monkeypatch.setattr("lazyvol.io.shards.fill", broken)
    with pytest.raises(errors.StoreError, match="Input/output error"):
        source.read(whole(SHAPE))


@pytest.mark.parametrize("layout", ["v3 whole", "v3 zstd", "v3 shards", "v2 delta", "v3 gzip"])
def test_memory_stays_below_what_is_told_and_not_far(layout, tmp_path):
    values = np.random.default_rng(0).standard_normal((16, 40, 40, 40)).astype("f4").view("i4")
    shapes = {"v3 whole": (16, 40, 40, 40), "v3 shards": (8, 10, 20, 20)}
    options = {k: v for k, v in LAYOUTS[layout].items() if k not in ("chunks", "shards")}
    options |= {"shards": (16, 40, 40, 40)} if layout == "v3 shards" else {}
    chunks = shapes.get(layout, (4, 40, 40, 40))
    source = probe(stored(tmp_path / "a", values, chunks=chunks, **options)).source
    for region in (whole(values.shape), (slice(3, 9), *whole((40, 40, 40)))):
        with ThreadPoolExecutor(1) as fresh:
            peak = fresh.submit(peak_of, source, region).result()
        told = source.peak_bytes(region) - DECODER_BYTES
        assert peak <= told + 100_000
        assert told <= 1.6 * peak


def peak_of(source, region):
    tracemalloc.start()
    source.read(region)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak

"""Zarr stores: every layout, dims and units, OME-Zarr sets, and the memory a read takes."""

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

import lazyvol as lv
from lazyvol import errors
from lazyvol.io.safe_folder import SafeFolder
from lazyvol.io.zarr.ome import default_dims, read_labels
from lazyvol.io.zarr.reader import probe
from lazyvol.io.zarr.source import DECODER_BYTES
from lazyvol.plan.regions import whole
from tests.io.reader_cases import check_source, random_region
from tests.io.zarr_cases import CHUNKS, DTYPES, LAYOUTS, SHAPE, files_of, image, numbers, stored
from tests.paths import DATA

OME = DATA / "ome_zarr"
needs_data = pytest.mark.skipif(not OME.is_dir(), reason="needs ../shared/data/ome_zarr")


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
        max(1, min(c, n)) for c, n in zip(source.meta.inner, shape, strict=True)
    )
    shutil.rmtree(path)


def test_shards_are_what_one_file_holds_and_chunks_what_is_decoded(tmp_path):
    source = probe(stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS["v3 shards"])).source
    assert source.shards == (4, 6, 11, 13)
    assert source.chunks == CHUNKS
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
    assert probe(path, missing="error").source.token != first
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
    assert default_dims(names, ndim) == dims


def test_dimension_names_and_xarray_names(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(2, 3, 4), dtype="f4", dimension_names=("c", "y", "x"))
    assert probe(tmp_path / "a").dims == ("channel", "y", "x")
    array = zarr.create_array(tmp_path / "b", shape=(2, 3), dtype="f4", zarr_format=2)
    array.attrs.update({"_ARRAY_DIMENSIONS": ["frequency", "bin"], "long_name": "power"})
    opened = probe(tmp_path / "b")
    assert opened.dims == ("frequency", "bin")
    assert opened.attrs == {"long_name": "power"}


def steps_of(*steps, axes="zyx", units=None):
    named = [{"name": d, "type": "space"} for d in axes]
    for axis, unit in zip(named, units or [], strict=False):
        axis.update({"unit": unit} if unit else {})
    return image(axes=named, datasets=[{"path": "0", "coordinateTransformations": list(steps)}])


def test_transformations_apply_in_order_and_units_become_one():
    scale, move = {"type": "scale", "scale": [4.0, 2.0, 1.0]}, {"type": "translation"}
    move["translation"] = [8.0, 0.0, -1.0]
    content = steps_of(scale, move, units=["nanometer", "angstrom", "micrometer"])
    content["coordinateTransformations"] = [{"type": "scale", "scale": [1, 10, 2]}]
    labels = read_labels(content, "0", 3, "here")
    assert labels.unit == "micrometer"
    assert labels.voxel_size == pytest.approx({"z": 4e-3, "y": 2e-3, "x": 2.0})
    assert labels.origin == pytest.approx({"z": 8e-3, "y": 0.0, "x": -2.0})


def test_a_scale_without_units_is_in_voxels_and_no_scale_is_unknown():
    scale = {"type": "scale", "scale": [4.0, 2.0, 1.0]}
    labels = read_labels(steps_of(scale), "0", 3, "here")
    assert (labels.unit, labels.voxel_size) == ("voxel", {"z": 4.0, "y": 2.0, "x": 1.0})
    assert read_labels(steps_of(), "0", 3, "here").voxel_size == {}
    partly = read_labels(steps_of(scale, units=[None, None, "angstrom"]), "0", 3, "here")
    assert (partly.unit, partly.voxel_size) == ("angstrom", {"x": 1.0})


def test_old_images_name_axes_by_letters_or_not_at_all():
    old = {"datasets": [{"path": "0"}], "version": "0.1"}
    assert read_labels(old, "0", 5, "here").dims == ("k", "channel", "z", "y", "x")
    assert read_labels(old | {"axes": ["c", "y", "x"]}, "0", 3, "here").dims == (
        "channel",
        "y",
        "x",
    )


def test_a_custom_first_axis_is_the_stack():
    axes = [{"name": "particle", "type": "particle"}, *image()["axes"]]
    scale = [{"type": "scale", "scale": [1, 4, 2, 1]}]
    content = image(axes=axes, datasets=[{"path": "0", "coordinateTransformations": scale}])
    labels = read_labels(content, "0", 4, "here")
    assert labels.dims == ("k", "z", "y", "x")
    assert labels.voxel_size == {"z": 4.0, "y": 2.0, "x": 1.0}


@pytest.mark.parametrize("scale", [[0, 1, 1], [-1, 1, 1], [1, 1], ["1", 1, 1], [1e999, 1, 1], None])
def test_a_scale_must_be_positive(scale):
    content = steps_of({"type": "scale", "scale": scale})
    with pytest.raises(errors.FormatError, match="scale"):
        read_labels(content, "0", 3, "here")
    if scale and len(scale) == 3 and "1" not in scale:
        assert "z" not in read_labels(content, "0", 3, "here", permissive=True).voxel_size


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
    plate = OME / "ome-zarr-examples_valid" / "plate-01.zarr"
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
    assert (opened.absent.count, opened.absent.total) == (4, 4)
    assert not opened.source.read(whole(opened.source.shape)).any()


def test_a_group_opens_its_only_array(tmp_path):
    zarr.create_group(tmp_path / "g")
    with pytest.raises(errors.FormatError, match="found none"):
        probe(tmp_path / "g")
    stored(tmp_path / "g" / "a", numbers(SHAPE))
    assert probe(tmp_path / "g").source.shape == SHAPE
    stored(tmp_path / "g" / "b", numbers(SHAPE))
    with pytest.raises(errors.FormatError, match="holds a, b"):
        probe(tmp_path / "g")


@pytest.mark.parametrize("layout", ["v3 whole", "v3 zstd", "v3 shards", "v2 delta", "v3 gzip"])
def test_memory_stays_below_what_is_told_and_not_far(layout, tmp_path):
    values = np.random.default_rng(0).standard_normal((16, 40, 40, 40)).astype("f4").view("i4")
    shapes = {"v3 whole": (16, 40, 40, 40), "v3 shards": (8, 10, 20, 20)}
    options = {k: v for k, v in LAYOUTS[layout].items() if k not in ("chunks", "shards")}
    options |= {"shards": (16, 40, 40, 40)} if layout == "v3 shards" else {}
    chunks = shapes.get(layout, (4, 40, 40, 40))
    source = probe(stored(tmp_path / "a", values, chunks=chunks, **options)).source
    small = probe(stored(tmp_path / "small", values[:1])).source
    for region in (whole(values.shape), (slice(3, 9), *whole((40, 40, 40)))):
        with ThreadPoolExecutor(1) as fresh:
            fresh.submit(peak_of, small, whole((1, 40, 40, 40))).result()
            peak = fresh.submit(peak_of, source, region).result()
        told = source.peak_bytes(region) - DECODER_BYTES
        assert peak <= told + 128 * 1024
        assert told <= 1.6 * peak


def peak_of(source, region):
    tracemalloc.start()
    source.read(region)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("kind", ["array", "data set"])
def test_open_reads_each_metadata_file_once(kind, tmp_path, monkeypatch):
    stack = lv.as_stack(numbers(SHAPE))
    lv.save(stack if kind == "array" else stack.to_dataset(name="a"), tmp_path / "a.zarr")
    read, paths = SafeFolder.json, []

    def counted(self, key):
        file = read(self, key)
        paths.extend([self.path(key)] if file else [])
        return file

    monkeypatch.setattr(SafeFolder, "json", counted)
    lv.open(tmp_path / "a.zarr")
    assert len(paths) == len(set(paths)) > 1

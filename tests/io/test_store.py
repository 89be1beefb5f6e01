"""The writer of stores: round trips of values and labels, shards, data sets."""

import json
import pickle
from itertools import product

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyvol import errors
from lazyvol.io.zarr import manifest
from lazyvol.io.zarr.reader import probe
from lazyvol.io.zarr.shard_shape import SHARD_BYTES, shard_grid
from lazyvol.plan.regions import whole
from tests.io.reader_cases import check_source
from tests.io.store_cases import (
    DIMS,
    LABELS,
    SHAPE,
    assert_labels,
    create,
    create_group,
    saved,
    variable,
)
from tests.io.zarr_cases import DTYPES, numbers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [SHAPE, (3,), (7, 9), (5, 7, 11), (2, 3, 5, 7, 3), ()])
def test_written_values_are_read_by_us_and_by_zarr(dtype, shape, tmp_path):
    values = numbers(shape, dtype)
    dims = ("k", "z", "y", "x", "axis")[: len(shape)]
    path = tmp_path / "a.zarr"
    saved(path, values, dims=dims)
    opened = probe(path)
    assert opened.dims == dims
    check_source(opened.source, values, tries=2) if shape else None
    np.testing.assert_array_equal(opened.source.read(whole(shape)), values)
    place = path / "0" if (path / "0").is_dir() else path
    np.testing.assert_array_equal(zarr.open_array(place, mode="r")[...], values)


def test_zarrs_reads_and_checks_our_shards(tmp_path):
    pytest.importorskip("zarrs")
    values = numbers(SHAPE, "f4")
    saved(tmp_path / "a.zarr", values)
    pipeline = "zarrs.ZarrsCodecPipeline"
    with zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.strict": True}):
        array = zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")
        np.testing.assert_array_equal(array[...], values)


def test_every_label_survives(tmp_path):
    values = numbers(SHAPE, "f4")
    saved(tmp_path / "a.zarr", values, **LABELS)
    assert_labels(probe(tmp_path / "a.zarr"))
    assert_labels(probe(tmp_path / "a.zarr" / "0"))


def test_labels_of_arrays_that_are_no_image_survive(tmp_path):
    dims = ("k", "z", "x", "y")
    labels = LABELS | {"coords": {k: v for k, v in LABELS["coords"].items() if k != "z"}}
    saved(tmp_path / "a.zarr", numbers(SHAPE, "f4"), dims=dims, **labels)
    assert "ome" not in zarr.open_group(tmp_path / "a.zarr", mode="r").attrs
    opened = probe(tmp_path / "a.zarr")
    assert (opened.dims, opened.origin) == (dims, LABELS["origin"])


@pytest.mark.parametrize(
    ("dims", "axes"),
    [
        (("z", "y", "x"), ["space"] * 3),
        (("y", "x"), ["space"] * 2),
        (("k", "z", "y", "x"), ["particle", *["space"] * 3]),
        (("k", "z", "x"), ["particle", *["space"] * 2]),
        (("channel", "z", "y", "x"), ["channel", *["space"] * 3]),
        (("k", "channel", "z", "y", "x"), ["time", "channel", *["space"] * 3]),
        (("channel", "k", "z", "y", "x"), None),
        (("k", "z", "y", "x", "axis"), None),
        (("k", "x"), None),
        (("x", "y"), None),
    ],
)
def test_dims_that_fit_become_an_ome_image(dims, axes, tmp_path):
    shape = (2, 3, 4, 5, 6)[: len(dims)]
    sizes = {d: 2.0 for d in "zyx" if d in dims}
    saved(tmp_path / "a", numbers(shape, "f4"), dims=dims, voxel_size=sizes, unit="nanometer")
    meta = json.loads((tmp_path / "a" / "zarr.json").read_text())
    image = meta["attributes"].get("ome", {}).get("multiscales", [None])[0]
    assert (image is None) == (axes is None)
    if image:
        assert [axis["type"] for axis in image["axes"]] == axes
        assert [axis["name"] for axis in image["axes"]] == list(dims)
        assert [axis.get("unit") for axis in image["axes"]][-2:] == ["nanometer"] * 2
        scale, move = image["datasets"][0]["coordinateTransformations"]
        assert scale["scale"] == [2.0 if d in "zyx" else 1.0 for d in dims]
        assert move["translation"] == [0.0] * len(dims)
        array = json.loads((tmp_path / "a" / "0" / "zarr.json").read_text())
        assert array["dimension_names"] == list(dims)
        del meta["attributes"]["lazyvol"]
        (tmp_path / "a" / "zarr.json").write_text(json.dumps(meta))
        (tmp_path / "a" / "0" / manifest.NAME).unlink()
        opened = probe(tmp_path / "a")
        assert (opened.voxel_size, opened.unit) == (sizes, "nanometer")
        assert opened.dims == dims


def test_a_data_set_of_variables(tmp_path):
    variables = {
        "average": variable(
            (7, 11, 13), "f4", ("z", "y", "x"), voxel_size={"z": 2.0}, unit="angstrom"
        ),
        "score": variable((5,), "f8", ("k",), coords={"half": ("k", np.arange(5))}),
        "fsc": variable((4,), "f4", ("frequency",), attrs={"units": "1/angstrom"}),
        "count": variable((), "i8", ()),
    }
    values = {name: numbers(v.shape, np.dtype(v.dtype).str) for name, v in variables.items()}
    group = create_group(tmp_path / "set.zarr", variables)
    for name, target in pickle.loads(pickle.dumps(group)).variables.items():
        with pytest.raises(errors.MissingChunkError, match=name):
            group.publish()
        target.write(whole(values[name].shape), values[name])
    group.publish()
    found = probe(tmp_path / "set.zarr").variables
    assert found["average"].unit == "angstrom"
    assert found["fsc"].dims == ("frequency",)
    for name, opened in found.items():
        got = opened.source.read(whole(opened.source.shape))
        np.testing.assert_array_equal(got, values[name])
    assert probe(tmp_path / "set.zarr" / "score").coords["half"][1].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["", "..", "a/b", ".a", "__x", "zarr.json", "c"])
def test_names_of_variables_are_names_of_folders(name, tmp_path):
    with pytest.raises(errors.LabelError, match="name"):
        create_group(tmp_path / "a", {name: variable()})
    assert not list(tmp_path.iterdir())


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_shards_hold_whole_chunks_and_fit(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 700), min_size=0, max_size=5)))
    dtype = data.draw(st.sampled_from(["u1", "f4", "f8"]))
    limit = data.draw(st.sampled_from([1 << 16, 1 << 22, SHARD_BYTES]))
    input_rows = data.draw(st.integers(1, max(1, *shape[:1], 1)))
    chunks, shards = shard_grid(shape, dtype, limit, input_rows=input_rows)
    size = np.dtype(dtype).itemsize
    for n, c, s in zip(shape, chunks, shards, strict=True):
        assert s % c == 0
        assert s < max(1, n) + c
    assert np.prod(shards, dtype=float) * size <= max(limit, 1 << 23)


def test_shards_of_stacks_are_whole_volumes():
    assert shard_grid((5000, 200, 200, 200), "f4") == ((8, 50, 50, 50), (8, 200, 200, 200))
    assert shard_grid((20, 32, 32, 32), "f4")[1] == (21, 32, 32, 32)
    assert shard_grid((100, 512, 512, 512), "f4")[1][0] == 1


@pytest.mark.parametrize("input_rows", [2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 97])
@pytest.mark.parametrize("max_volumes", [4, 8, 16, 32])
def test_shards_share_few_chunks_of_their_input(input_rows, max_volumes):
    """No other number of volumes per shard has chunks of the input read less often."""
    shape, volume_bytes = (input_rows * 40, 128, 128, 128), 4 * 128**3
    limit = max_volumes * volume_bytes
    rows = shard_grid(shape, "f4", limit, input_rows=input_rows)[1][0]

    def reads(rows):
        starts = np.arange(0, shape[0], rows)
        stops = np.minimum(starts + rows, shape[0])
        return np.sum((stops - 1) // input_rows - starts // input_rows + 1)

    assert rows <= max_volumes
    possible = [
        n
        for n in range(1, max_volumes + 1)
        if n % shard_grid(shape, "f4", limit, input_rows=input_rows)[0][0] == 0
    ]
    assert reads(rows) <= min(map(reads, possible)) * 1.02
    if input_rows <= max_volumes and input_rows != 97:
        assert reads(rows) == 40


@given(data=st.data())
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_blocks_round_trip(data, tmp_path_factory):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    rows = data.draw(st.integers(1, shape[0]))
    values = numbers(shape, "i2")
    path = tmp_path_factory.mktemp("blocks") / "a"
    target = create(
        path, variable(shape, "i2", DIMS[-len(shape) :], input_rows=rows), max_shard_bytes=200
    )
    factors = (data.draw(st.integers(1, 3)) for _ in shape)
    blocks = [f * s for f, s in zip(factors, target.shards, strict=True)]
    starts = [range(0, n, b) for n, b in zip(shape, blocks, strict=True)]
    for corner in product(*starts):
        region = tuple(
            slice(a, min(a + b, n)) for a, b, n in zip(corner, blocks, shape, strict=True)
        )
        target.write(region, values[region])
    target.publish()
    np.testing.assert_array_equal(probe(path).source.read(whole(shape)), values)


@pytest.mark.parametrize(
    "labels",
    [
        {"dims": ("k", "z", "y")},
        {"dims": ("k", "z", "z", "x")},
        {"coords": {"a": ("k", np.arange(4))}},
        {"coords": {"a": ("other", np.arange(5))}},
        {"coords": {"a": ("k", np.array([object()] * 5))}},
        {"coords": {"a": ("k", np.arange(5) * 1j)}},
        {"attrs": {"a": object()}},
        {"attrs": {"a": {1, 2}}},
        {"voxel_size": {"q": 1.0}},
        {"voxel_size": {"z": np.nan}},
        {"dtype": "complex64"},
        {"dtype": "O"},
        {"dtype": "U5"},
    ],
)
def test_labels_that_do_not_fit_are_refused_before_anything_is_written(labels, tmp_path):
    with pytest.raises(errors.LabelError):
        create(tmp_path / "a", variable(**labels))
    assert not list(tmp_path.iterdir())


def test_the_target_is_small(tmp_path):
    many = {"a": ("k", np.arange(100_000))}
    target = create(tmp_path / "a", variable((100_000,), "f4", ("k",), coords=many))
    assert len(pickle.dumps(target.target)) < 1000
    target.discard()
    assert not list(tmp_path.iterdir())

"""The writer of stores: round trips, shards, atomicity, faults of disk and data."""

import json
import os
import pickle
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarrs import ZarrsCodecPipeline

from lazyvol import errors
from lazyvol.io.shardgrid import SHARD_BYTES, shard_grid
from lazyvol.io.store import Variable, create, create_group
from lazyvol.io.zarr import probe, probe_group
from lazyvol.plan.regions import boxes, whole
from tests.io_cases import check_source
from tests.zarr_cases import DTYPES, numbers

SHAPE = (5, 7, 11, 13)
DIMS = ("k", "z", "y", "x")
SMALL = 2000


def variable(shape=SHAPE, dtype="float32", dims=DIMS, **labels):
    return Variable(shape, dtype, dims, **labels)


def saved(path, values, *, max_shard_bytes=SMALL, overwrite=False, **labels):
    """Store of an array by our writer, shard by shard."""
    dims = labels.pop("dims", DIMS[-values.ndim :] if values.ndim <= 4 else None)
    target = create(
        path,
        variable(values.shape, values.dtype, dims, **labels),
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
    )
    for _, region in boxes(target.grid):
        target.write(region, values[region])
    target.publish()
    return target


def shard_files(path):
    return sorted(p for p in Path(path).rglob("*") if p.is_file() and p.name != "zarr.json")


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
    values = numbers(SHAPE, "f4")
    saved(tmp_path / "a.zarr", values)
    pipeline = f"{ZarrsCodecPipeline.__module__}.{ZarrsCodecPipeline.__name__}"
    with zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.strict": True}):
        array = zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")
        np.testing.assert_array_equal(array[...], values)


LABELS = {
    "voxel_size": {"z": 1.5, "y": 0.1, "x": 1e-7},
    "unit": "angstrom",
    "origin": {"z": -3.25, "x": 0.1},
    "name": "particles",
    "coords": {
        "score": ("k", np.array([0.1, np.nan, np.inf, -np.inf, 1e-300])),
        "single": ("k", np.array([0.1, 2, 3, 4, 5], "f4")),
        "half": ("k", np.array([1, 2, 1, 2, 1], "u1")),
        "flagged": ("k", np.array([True, False, True, False, True])),
        "tomogram": ("k", np.array(["a", "b b", "\u00e5", "", "e"])),
        "time": ("k", np.array([0, 1, 2, 3, 4], "M8[s]")),
        "z": ("z", np.linspace(0, 1, 7)),
    },
    "attrs": {
        "handedness": "unknown",
        "number": 5,
        "real": 0.1,
        "nothing": None,
        "not_a_number": float("inf"),
        "pair": (1, (2.5, "x")),
        "deep": {"a": [1, {"b": True}]},
        "matrix": np.arange(6.0).reshape(2, 3),
    },
}


def assert_labels(opened, dims=DIMS):
    assert opened.dims == dims
    for key in ("voxel_size", "unit", "origin", "name"):
        assert getattr(opened, key) == LABELS[key]
    assert set(opened.coords) == set(LABELS["coords"])
    for name, (dim, values) in LABELS["coords"].items():
        got = opened.coords[name]
        assert got[0] == dim
        assert got[1].dtype == values.dtype
        np.testing.assert_array_equal(got[1], values)
    matrix = opened.attrs["matrix"]
    assert {k: v for k, v in opened.attrs.items() if k != "matrix"} == {
        k: v for k, v in LABELS["attrs"].items() if k != "matrix"
    }
    np.testing.assert_array_equal(matrix, LABELS["attrs"]["matrix"])


def test_every_label_survives(tmp_path):
    values = numbers(SHAPE, "f4")
    saved(tmp_path / "a.zarr", values, **LABELS)
    assert_labels(probe(tmp_path / "a.zarr"))
    assert_labels(probe(tmp_path / "a.zarr" / "0"))


def test_labels_of_arrays_that_are_no_image_survive(tmp_path):
    dims = ("k", "z", "x", "y")
    labels = LABELS | {"coords": {k: v for k, v in LABELS["coords"].items() if k != "z"}}
    saved(tmp_path / "a.zarr", numbers(SHAPE, "f4"), dims=dims, **labels)
    assert (tmp_path / "a.zarr" / "c").is_dir()
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
        with pytest.raises(errors.LabelError, match="data set"):
            target.publish()
        target.write(whole(values[name].shape), values[name])
    group.publish()
    with pytest.raises(errors.FormatError, match="average, count, fsc, score"):
        probe(tmp_path / "set.zarr")
    found = probe_group(tmp_path / "set.zarr")
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
    blocks = None
    if data.draw(st.booleans()):
        blocks = tuple(data.draw(st.integers(1, max(1, n))) for n in shape)
    chunks, shards = shard_grid(shape, dtype, blocks, limit)
    size = np.dtype(dtype).itemsize
    for n, c, s, b in zip(shape, chunks, shards, blocks or shape, strict=True):
        assert s % c == 0
        assert s < max(1, n) + c
        assert b >= n or b % s == 0
    assert blocks or np.prod(shards, dtype=float) * size <= max(limit, 1 << 23)


def test_shards_of_stacks_are_whole_volumes():
    assert shard_grid((5000, 200, 200, 200), "f4") == ((8, 50, 50, 50), (8, 200, 200, 200))
    assert shard_grid((20, 32, 32, 32), "f4")[1] == (21, 32, 32, 32)
    assert shard_grid((100, 512, 512, 512), "f4")[1][0] == 1
    assert shard_grid((64, 160, 160, 160), "f4", (6, 160, 160, 160))[1][0] in (2, 6)


@given(data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_blocks_round_trip(data, tmp_path_factory):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    blocks = tuple(data.draw(st.integers(1, n)) for n in shape)
    values = numbers(shape, "i2")
    path = tmp_path_factory.mktemp("blocks") / "a"
    target = create(
        path, variable(shape, "i2", DIMS[-len(shape) :], blocks=blocks), max_shard_bytes=60
    )
    starts = [range(0, n, b) for n, b in zip(shape, blocks, strict=True)]
    for corner in product(*starts):
        region = tuple(
            slice(a, min(a + b, n)) for a, b, n in zip(corner, blocks, shape, strict=True)
        )
        target.write(region, values[region])
    target.publish()
    np.testing.assert_array_equal(probe(path).source.read(whole(shape)), values)


def test_blocks_must_cover_whole_shards(tmp_path):
    target = create(
        tmp_path / "a", variable((9, 4, 4, 4), blocks=(3, 4, 4, 4)), max_shard_bytes=800
    )
    assert target.shards == (3, 4, 4, 4)
    values = np.ones((9, 4, 4, 4), "f4")
    for start, stop in [(0, 2), (1, 3), (2, 4), (3, 8), (6, 12), (-3, 0)]:
        region = (slice(start, stop), *whole((4, 4, 4)))
        with pytest.raises(errors.LabelError, match=r"whole shards \(3, 4, 4, 4\)"):
            target.write(region, np.ones((stop - start, 4, 4, 4), "f4"))
    assert len(target.missing()) == 3
    target.write((slice(3, 9), *whole((4, 4, 4))), values[3:])
    assert target.missing() == [(0, 0, 0, 0)]
    assert target.has((slice(3, 9), *whole((4, 4, 4))))
    assert not target.has(whole((9, 4, 4, 4)))
    for block in (values[:2], values[:3].astype("f8"), values[:3, :2]):
        with pytest.raises(errors.LabelError, match="block"):
            target.write((slice(0, 3), *whole((4, 4, 4))), block)
    target.discard()


def test_writing_again_changes_nothing(tmp_path):
    values = numbers(SHAPE, "f4")
    target = create(tmp_path / "a", variable(), max_shard_bytes=SMALL)
    for _ in range(2):
        target.write(whole(SHAPE), values)
        first = [p.read_bytes() for p in shard_files(target.place.store)]
        target.write(whole(SHAPE), np.asfortranarray(values))
        assert [p.read_bytes() for p in shard_files(target.place.store)] == first
    assert not list(Path(target.place.partial).iterdir())
    target.publish()


def test_empty_shards_are_written(tmp_path):
    saved(tmp_path / "a", np.zeros(SHAPE, "f4"))
    assert not probe(tmp_path / "a").source.read(whole(SHAPE)).any()
    for file in shard_files(tmp_path / "a"):
        file.unlink()
        with pytest.raises(errors.MissingChunkError):
            probe(tmp_path / "a").source.read(whole(SHAPE))
        break


def test_the_final_name_is_there_only_when_complete(tmp_path):
    path = tmp_path / "a.zarr"
    target = create(path, variable(), max_shard_bytes=SMALL)
    assert not path.exists()
    assert os.stat(target.place.folder).st_mode & 0o777 == 0o700
    for _, region in boxes(target.grid):
        with pytest.raises(errors.MissingChunkError, match="are missing"):
            target.publish()
        assert not path.exists()
        target.write(region, np.ones(SHAPE, "f4")[region])
    target.publish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr"]
    with pytest.raises(errors.StoreError, match="published"):
        target.write(whole(SHAPE), np.ones(SHAPE, "f4"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr"]


def test_what_is_there_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "a.zarr"
    saved(path, np.zeros(SHAPE, "f4"))
    with pytest.raises(errors.TargetExistsError, match="overwrite=True"):
        create(path, variable())
    target = create(path, variable(), overwrite=True, max_shard_bytes=SMALL)
    assert not probe(path).source.read(whole(SHAPE)).any()
    target.write(whole(SHAPE), np.ones(SHAPE, "f4"))
    target.publish()
    assert probe(path).source.read(whole(SHAPE)).all()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("a.zarr")] == ["a.zarr"]


def test_two_runs_do_not_write_the_same_store(tmp_path):
    create(tmp_path / "a", variable())
    with pytest.raises(errors.TargetExistsError, match="another run"):
        create(tmp_path / "a", variable())
    assert create(tmp_path / "a", variable(), overwrite=True).missing()


def test_a_stopped_run_goes_on_only_with_the_same(tmp_path):
    values = np.ones(SHAPE, "f4")
    first = create(tmp_path / "a", variable(), max_shard_bytes=SMALL, token="one")
    region = next(iter(boxes(first.grid)))[1]
    first.write(region, values[region])
    for changed in ({"token": "two"}, {"token": "one", "max_shard_bytes": 9 * SMALL}):
        options = {"max_shard_bytes": SMALL} | changed
        with pytest.raises(errors.TargetExistsError, match="resume goes on with"):
            create(tmp_path / "a", variable(), resume=True, **options)
    again = create(tmp_path / "a", variable(), max_shard_bytes=SMALL, token="one", resume=True)
    assert again.has(region)
    assert len(again.missing()) == len(first.missing()) > 0
    again.write(whole(SHAPE), values)
    again.publish()
    assert probe(tmp_path / "a").source.read(whole(SHAPE)).all()


def test_only_stores_are_replaced(tmp_path):
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "letter").write_text("dear")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(precious)
    for name in ("home", "file", "link"):
        with pytest.raises(errors.TargetExistsError, match="zarr stores only"):
            create(tmp_path / name, variable(), overwrite=True)
    assert (precious / "letter").read_text() == "dear"


def test_a_name_that_is_taken_meanwhile_is_kept(tmp_path):
    target = create(tmp_path / "a", variable())
    target.write(whole(SHAPE), np.ones(SHAPE, "f4"))
    (tmp_path / "a").write_text("mine")
    with pytest.raises(errors.TargetExistsError):
        target.publish()
    assert (tmp_path / "a").read_text() == "mine"
    target.discard()


def test_a_former_store_outlives_a_stop_while_it_is_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a"
    saved(path, np.zeros(SHAPE, "f4"))
    target = create(path, variable(), overwrite=True)
    target.write(whole(SHAPE), np.ones(SHAPE, "f4"))
    rename, calls = os.rename, []

    def stopped(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(errors.StoreError):
        target.publish()
    assert not probe(path).source.read(whole(SHAPE)).any()
    monkeypatch.undo()
    os.rename(path, target.place.former)
    with pytest.raises(errors.StoreError, match="move it where you want it"):
        create(path, variable(), overwrite=True)


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.mkdir", "builtins.open"])
@pytest.mark.parametrize("code", [28, 5, 122])
def test_a_disk_that_refuses_leaves_nothing_under_the_name(call, code, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    path = tmp_path / "a"
    target = create(path, variable(), max_shard_bytes=SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(errors.StoreError, match=os.strerror(code)) as caught:
            target.write(whole(SHAPE), np.ones(SHAPE, "f4"))
        assert str(path) in str(caught.value)
        assert "run again" in str(caught.value)
        with pytest.raises(errors.StoreError):
            create(tmp_path / "b", variable())
    assert not path.exists()
    assert not (tmp_path / "b").exists()
    assert not shard_files(target.place.store)
    assert not list(Path(target.place.partial).iterdir())
    target.write(whole(SHAPE), np.ones(SHAPE, "f4"))
    target.publish()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(errors.StoreError, match="create the folder"):
        create(tmp_path / "none" / "a", variable())


KILLED = """
import sys, numpy as np
from lazyvol.io.store import Variable, create
target = create(sys.argv[1], Variable((64, 16, 16, 16), "float32", ("k", "z", "y", "x")),
                max_shard_bytes=70_000)
print("ready", flush=True)
while True:
    for k in range(0, 64, target.shards[0]):
        region = (slice(k, k + target.shards[0]), *[slice(0, 16)] * 3)
        target.write(region, np.ones((target.shards[0], 16, 16, 16), "float32"))
"""


def test_a_killed_writer_leaves_no_final_name_and_no_torn_shard(tmp_path):
    path = tmp_path / "a"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.1)
        process.kill()
    assert not path.exists()
    with pytest.raises(errors.SourceNotFoundError):
        probe(path)
    with pytest.raises(errors.TargetExistsError, match="stopped"):
        create(path, variable())
    growing = probe(f"{path}.lazyvol-tmp/store")
    for file in shard_files(growing.source.root):
        index = int(file.parts[-4])
        chunk = growing.source.meta.files[0]
        region = (slice(index * chunk, (index + 1) * chunk), *whole((16, 16, 16)))
        assert growing.source.read(region).all()
    saved(path, np.ones(SHAPE, "f4"), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_no_flipped_bit_gives_a_wrong_value(tmp_path):
    values = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")
    saved(tmp_path / "a", values)
    files = shard_files(tmp_path / "a")
    assert len(files) > 2
    rng = np.random.default_rng(1)
    for _ in range(300):
        file = files[rng.integers(len(files))]
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        kept = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises((errors.ChecksumError, errors.TruncatedError, errors.MissingChunkError)):
            probe(tmp_path / "a").source.read(whole(SHAPE))
        file.write_bytes(kept)
    np.testing.assert_array_equal(probe(tmp_path / "a").source.read(whole(SHAPE)), values)


def test_no_flipped_bit_in_metadata_gives_a_wrong_value(tmp_path):
    values = np.random.default_rng(0).standard_normal(SHAPE).astype("f4")
    saved(tmp_path / "a", values, **LABELS)
    rng = np.random.default_rng(2)
    refused = 0
    for number in range(400):
        file = tmp_path / "a" / ("zarr.json" if number % 2 else "0/zarr.json")
        kept = file.read_bytes()
        content = bytearray(kept)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
        try:
            opened = probe(tmp_path / "a")
            got = opened.source.read(whole(opened.source.shape))
        except errors.LazyvolError:
            refused += 1
        else:
            np.testing.assert_array_equal(got, values)
            assert opened.dims == DIMS
            if opened.coords:
                assert_labels(opened)
        file.write_bytes(kept)
    assert refused > 150


def test_a_record_that_was_edited_is_refused(tmp_path):
    saved(tmp_path / "a", numbers(SHAPE, "f4"), voxel_size={"z": 2.0})
    file = tmp_path / "a" / "zarr.json"
    meta = json.loads(file.read_text())
    meta["attributes"]["lazyvol"]["voxel_size"]["z"] = 3.0
    file.write_text(json.dumps(meta))
    with pytest.raises(errors.ChecksumError, match="crc32c"):
        probe(tmp_path / "a")
    del meta["attributes"]["lazyvol"]["crc32c"], meta["attributes"]["lazyvol"]["coords"]
    file.write_text(json.dumps(meta))
    with pytest.raises(errors.FormatError, match="not complete"):
        probe(tmp_path / "a")


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
    assert len(pickle.dumps(target)) < 1000
    target.discard()
    assert not list(tmp_path.iterdir())

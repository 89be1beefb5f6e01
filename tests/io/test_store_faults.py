"""Errors of the writer: partial shards, killed runs, full disks, flipped bits."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lazyvol as lv
from lazyvol import errors
from lazyvol.io import atomic
from lazyvol.io.zarr.reader import probe
from lazyvol.io.zarr.run_plan import RunPlan
from lazyvol.plan.regions import boxes, whole
from tests.io.store_cases import (
    DIMS,
    LABELS,
    SHAPE,
    SMALL,
    assert_labels,
    create,
    saved,
    shard_files,
    variable,
)
from tests.io.zarr_cases import edit, numbers
from tests.paths import ROOT


def test_blocks_must_cover_whole_shards(tmp_path):
    target = create(tmp_path / "a", variable((9, 4, 4, 4), input_rows=3), max_shard_bytes=800)
    assert target.shards == (3, 4, 4, 4)
    values = np.ones((9, 4, 4, 4), "f4")
    for start, stop in [(0, 2), (1, 3), (2, 4), (3, 8), (6, 12), (-3, 0)]:
        region = (slice(start, stop), *whole((4, 4, 4)))
        with pytest.raises(errors.LabelError, match=r"whole shards \(3, 4, 4, 4\)"):
            target.write(region, np.ones((stop - start, 4, 4, 4), "f4"))
    assert len(target.missing()) == 3
    target.write((slice(3, 9), *whole((4, 4, 4))), values[3:])
    assert target.missing() == [(0, 0, 0, 0)]
    for block in (values[:2], values[:3].astype("f8"), values[:3, :2]):
        with pytest.raises(errors.LabelError, match="block"):
            target.write((slice(0, 3), *whole((4, 4, 4))), block)
    target.discard()


def test_writing_again_changes_nothing(tmp_path):
    values = numbers(SHAPE, "f4")
    target = create(tmp_path / "a", variable(), max_shard_bytes=SMALL)
    for _ in range(2):
        target.write(whole(SHAPE), values)
        first = [p.read_bytes() for p in shard_files(target.run.store)]
        target.write(whole(SHAPE), np.asfortranarray(values))
        assert [p.read_bytes() for p in shard_files(target.run.store)] == first
    assert not list(Path(target.run.partial).iterdir())
    target.publish()


def test_a_shard_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    values = np.ones(SHAPE, "f4")
    target = create(tmp_path / "a", variable())
    target.write(whole(SHAPE), values)
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*given, name=name, real=real):
            kind = name
            if name == "fsync":
                kind = "folder" if stat.S_ISDIR(os.fstat(given[0]).st_mode) else "file"
            calls.append(kind)
            return real(*given)

        monkeypatch.setattr(os, name, noted)
    target.write(whole(SHAPE), values)
    assert calls == ["file", "replace", "folder"]
    target.discard()


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
    assert os.stat(target.run.folder).st_mode & 0o777 == 0o700
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
    first = create(tmp_path / "a", variable())
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(errors.TargetExistsError, match="another run is writing") as caught:
            create(tmp_path / "a", variable(), **options)
        assert "overwrite" not in str(caught.value)
    first.run.release()
    with pytest.raises(errors.TargetExistsError, match="interrupted"):
        create(tmp_path / "a", variable())
    assert create(tmp_path / "a", variable(), overwrite=True).missing()
    with pytest.raises(errors.StoreError, match="taken over"):
        first.write(whole(SHAPE), np.ones(SHAPE, "f4"))


def test_a_stopped_run_goes_on_only_with_the_same(tmp_path):
    values = np.ones(SHAPE, "f4")
    plan = RunPlan("one", ({"recipe": "blur", "sigma": "2.0"},))
    first = create(tmp_path / "a", variable(), max_shard_bytes=SMALL, plan=plan)
    index, region = next(iter(boxes(first.grid)))
    first.write(region, values[region])
    left = len(first.missing())
    first.run.release()
    other = RunPlan("two", ({"recipe": "blur", "sigma": "3.0"},))
    with pytest.raises(errors.TargetExistsError, match=r"sigma of blur was 2\.0, now it is 3\.0"):
        create(tmp_path / "a", variable(), resume=True, plan=other)
    # another memory limit leads to other shards: those of the interrupted run are kept
    again = create(tmp_path / "a", variable(), max_shard_bytes=9 * SMALL, plan=plan, resume=True)
    assert again.shards == first.shards
    assert index not in again.missing()
    assert len(again.missing()) == left > 0
    with pytest.raises(errors.StoreError, match="taken over"):
        first.write(region, values[region])
    again.write(whole(SHAPE), values)
    again.publish()
    assert probe(tmp_path / "a").source.read(whole(SHAPE)).all()


def test_only_stores_are_replaced(tmp_path):
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "letter").write_text("dear")
    (tmp_path / "file").write_text("x")
    saved(tmp_path / "b", np.zeros(SHAPE, "f4"))
    (tmp_path / "link").symlink_to(tmp_path / "b")
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

    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(errors.StoreError):
        target.publish()
    assert not probe(path).source.read(whole(SHAPE)).any()
    monkeypatch.undo()
    os.rename(path, target.run.replaced)  # as if it was killed between the two names
    target.run.release()
    with pytest.raises(errors.TargetExistsError, match="something is stored"):
        create(path, variable())
    assert not probe(path).source.read(whole(SHAPE)).any()
    saved(path, np.ones(SHAPE, "f4"), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize(
    "fields", [{"shape": [4, 7, 11, 13]}, {"data_type": "int32"}, {"data_type": "uint32"}]
)
def test_the_record_tells_shape_and_dtype_again(fields, tmp_path):
    saved(tmp_path / "a", numbers(SHAPE, "f4"))
    edit(tmp_path / "a" / "0" / "zarr.json", **fields)
    with pytest.raises(errors.ChecksumError, match="those that were written"):
        probe(tmp_path / "a")
    with pytest.raises(errors.FormatError, match="its record"):
        probe(tmp_path / "a", permissive=True)


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
    assert not shard_files(target.run.store)
    assert not list(Path(target.run.partial).iterdir())
    target.write(whole(SHAPE), np.ones(SHAPE, "f4"))
    target.publish()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(errors.StoreError, match="create the folder"):
        create(tmp_path / "none" / "a", variable())


KILLED = """
import sys, numpy as np
from lazyvol.io.zarr.layout import Variable
from tests.io.store_cases import create
variable = Variable(("k", "z", "y", "x"), shape=(64, 16, 16, 16), dtype="float32")
target = create(sys.argv[1], variable, max_shard_bytes=70_000)
print("ready", flush=True)
while True:
    for k in range(0, 64, target.shards[0]):
        region = (slice(k, k + target.shards[0]), *[slice(0, 16)] * 3)
        target.write(region, np.ones((target.shards[0], 16, 16, 16), "float32"))
"""


def test_a_killed_writer_leaves_no_final_name_and_no_torn_shard(tmp_path):
    path = tmp_path / "a"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.1)
        process.kill()
    assert not path.exists()
    with pytest.raises(errors.SourceNotFoundError):
        probe(path)
    with pytest.raises(errors.TargetExistsError, match="interrupted"):
        create(path, variable())
    (store,) = tmp_path.glob("a.lazyvol-tmp/*/store")
    growing = probe(store, permissive=True)
    for file in shard_files(growing.source.place.root):
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
    rng, refused = np.random.default_rng(1), 0
    for _ in range(300):
        file = files[rng.integers(len(files))]
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        kept = file.read_bytes()
        file.write_bytes(content)
        try:
            read = probe(tmp_path / "a").source.read(whole(SHAPE))
        except (errors.ChecksumError, errors.TruncatedError, errors.MissingChunkError):
            refused += 1
        else:  # the seal of a shard, which verify and a resumed run read
            np.testing.assert_array_equal(read, values)
            assert not lv.verify(tmp_path / "a").ok
        file.write_bytes(kept)
    assert refused > 250
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

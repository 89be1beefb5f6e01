"""Results saved to buckets and zarr stores: complete or absent, resumable, one writer."""

import re

import dask
import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import lazyvol as lv
from lazyvol import errors
from lazyvol.io.state_files import OBJECTS
from lazyvol.io.zarr import remote_run
from tests.io.buckets import bucket_server
from tests.io.killed_runs import Counter, small_tasks
from tests.io.zarr_cases import SHAPE, numbers


@pytest.fixture(scope="module")
def bucket():
    with bucket_server() as server:
        yield server


@pytest.fixture
def url(request):
    return f"s3://stack/{request.node.name.replace('[', '-').rstrip(']')}.zarr"


def stack(dtype="float32"):
    labelled = lv.as_stack(numbers(SHAPE).astype(dtype), voxel_size=2.5, unit="angstrom")
    return labelled.assign_coords(score=("k", np.arange(5.0))).rename("particles")


def keys(bucket, url):
    listed = bucket.store.list(prefix=url.removeprefix("s3://stack/"))
    return {entry["path"].partition(".zarr/")[2] for batch in listed for entry in batch}


@pytest.mark.parametrize("lazy", [False, True])
def test_a_saved_result_opens_as_from_a_folder(lazy, bucket, url, tmp_path):
    result = lv.filters.gaussian(stack().chunk(k=2) if lazy else stack(), 2.0)
    lv.save(result, url, storage_options=bucket.options)
    lv.save(result, tmp_path / "a.zarr")
    found = lv.open(url, storage_options=bucket.options).compute()
    xr.testing.assert_identical(found, lv.open(tmp_path / "a.zarr").compute())
    assert not {remote_run.PLAN_KEY, remote_run.PENDING_ROOT} & keys(bucket, url)


def test_the_objects_are_the_files_of_a_folder(bucket, url, tmp_path):
    lv.save(stack(), url, storage_options=bucket.options)
    lv.save(stack(), tmp_path / "a.zarr")
    for path in (tmp_path / "a.zarr").rglob("*"):
        if path.is_file():
            name = f"{url.removeprefix('s3://stack/')}/{path.relative_to(tmp_path / 'a.zarr')}"
            assert bytes(bucket.store.get(name).bytes()) == path.read_bytes()


def test_a_data_set_becomes_a_group(bucket, url, tmp_path):
    result = lv.stats.describe(stack().chunk(k=2))
    lv.save(result, url, storage_options=bucket.options)
    lv.save(result, tmp_path / "a.zarr")
    found = lv.open(url, storage_options=bucket.options).compute()
    xr.testing.assert_identical(found, lv.open(tmp_path / "a.zarr").compute())


def test_a_store_of_zarr_takes_a_result():
    store = MemoryStore()
    lv.save(stack(), store)
    xr.testing.assert_identical(lv.open(store).compute(), stack())


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_a_stop_after_publication_leaves_nothing_that_stays(options, bucket, url, monkeypatch):
    lv.save(stack() + 1, url, storage_options=bucket.options)

    def stopped(self):
        raise errors.StoreError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(remote_run.RemoteRun, "_stop_renewing", stopped)
        with pytest.raises(errors.StoreError, match="stopped"):
            lv.save(stack(), url, overwrite=True, storage_options=bucket.options)
    remote_run._AT_WORK.popitem()[1].set()
    plan = bucket.store.get(f"{url.removeprefix('s3://stack/')}/{remote_run.PLAN_KEY}").bytes()
    ended = re.sub(rb'"until": "\d+"', b'"until": "0"', bytes(plan))
    bucket.store.put(f"{url.removeprefix('s3://stack/')}/{remote_run.PLAN_KEY}", ended)
    lv.save(stack(), url, resume=True, storage_options=bucket.options, **options)
    left = keys(bucket, url)
    assert not [k for k in left if k.startswith(remote_run.WORK)]
    assert not {remote_run.PLAN_KEY, remote_run.PENDING_ROOT} & left
    np.testing.assert_array_equal(lv.open(url, storage_options=bucket.options), stack())


def interrupted(bucket, url, shards, array, monkeypatch, **options):
    """Save, and fail after the given number of shards."""
    put = remote_run.RemoteRun.put
    count = [0]

    def failing(self, key, fill):
        count[0] += key.startswith("0/c/")
        if count[0] > shards:
            raise errors.StoreError("interrupted")
        put(self, key, fill)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(remote_run.RemoteRun, "put", failing)
        with pytest.raises(errors.StoreError, match="interrupted"):
            lv.save(array, url, storage_options=bucket.options, **options)


def test_nothing_opens_until_all_is_there_and_a_stopped_run_resumes(bucket, url, monkeypatch):
    monkeypatch.setattr("lazyvol.io.save_plan.BLOCK", 2000)
    array = lv.filters.gaussian(stack().chunk(k=1), 2.0)
    interrupted(bucket, url, 3, array, monkeypatch)
    with pytest.raises(errors.SourceNotFoundError):
        lv.open(url, storage_options=bucket.options)
    with pytest.raises(errors.TargetExistsError, match=r"resume=True, or pass overwrite=True"):
        lv.save(array, url, storage_options=bucket.options)
    with pytest.raises(errors.TargetExistsError, match="the same operation"):
        lv.save(array + 1, url, storage_options=bucket.options, resume=True)
    written = []
    put = remote_run.RemoteRun.put
    monkeypatch.setattr(
        remote_run.RemoteRun,
        "put",
        lambda self, key, fill: (written.append(key), put(self, key, fill)),
    )
    lv.save(array, url, storage_options=bucket.options, resume=True)
    shards = {key for key in keys(bucket, url) if "/c/" in key}
    shards = {key for key in shards if key.startswith("0/c/")}
    assert len([key for key in written if key.startswith("0/c/")]) == len(shards) - 3
    np.testing.assert_array_equal(lv.open(url, storage_options=bucket.options), array.compute())


@pytest.mark.parametrize("replaced", [False, True])
def test_a_reduction_continues_from_its_states(replaced, bucket, url, monkeypatch):
    options = {"storage_options": bucket.options, "overwrite": replaced}
    if replaced:
        lv.save(stack(), url, **options)
    result, count = lv.stats.var(stack().chunk(k=1), "k"), Counter()
    with small_tasks(count):
        interrupted(bucket, url, 0, result, monkeypatch, overwrite=replaced)
        assert count.calls
        states = [key for key in keys(bucket, url) if OBJECTS in key]
        assert all(key.startswith("lazyvol-tmp/") == replaced for key in states)
        count.calls = 0
        lv.save(result, url, resume=True, **options)
    assert not count.calls
    assert not [key for key in keys(bucket, url) if "lazyvol-" in key and "manifest" not in key]
    np.testing.assert_array_equal(lv.open(url, storage_options=bucket.options), result)


def test_what_is_there_is_replaced_only_when_asked(bucket, url):
    lv.save(stack(), url, storage_options=bucket.options)
    with pytest.raises(errors.TargetExistsError, match="overwrite=True"):
        lv.save(stack() + 1, url, storage_options=bucket.options)
    lv.save(lv.stats.mean(stack()), url, storage_options=bucket.options, overwrite=True)
    found = lv.open(url, storage_options=bucket.options)
    np.testing.assert_array_equal(found, lv.stats.mean(stack()))
    assert not [key for key in keys(bucket, url) if key.startswith("0/c/4")]


@pytest.mark.parametrize("kind", ["bucket", "memory"])
def test_what_is_replaced_stays_until_the_new_store_is_complete(kind, bucket, url, monkeypatch):
    target = url if kind == "bucket" else MemoryStore()
    options = {"storage_options": bucket.options} if kind == "bucket" else {}
    lv.save(stack(), target, **options)
    put, found = remote_run.RemoteRun.put, []

    def failing(self, key, fill):
        found.append(lv.open(target, **options).values)
        if key.startswith("0/c/3"):
            raise errors.StoreError("interrupted")
        put(self, key, fill)

    monkeypatch.setattr("lazyvol.io.save_plan.BLOCK", 2000)
    new = lv.filters.gaussian(stack().chunk(k=1), 2.0)
    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(remote_run.RemoteRun, "put", failing)
        with pytest.raises(errors.StoreError, match="interrupted"):
            lv.save(new, target, overwrite=True, **options)
    assert len(found) > 3
    np.testing.assert_array_equal(found[-1], stack())
    np.testing.assert_array_equal(lv.open(target, **options), stack())
    with pytest.raises(errors.TargetExistsError, match="something is stored here"):
        lv.save(new, target, resume=True, **options)
    lv.save(new, target, overwrite=True, resume=True, **options)
    np.testing.assert_array_equal(lv.open(target, **options), new.compute())
    assert lv.verify(target, **options).ok
    if kind == "bucket":
        assert not {key for key in keys(bucket, url) if "lazyvol-" in key and "manifest" not in key}


def test_a_replacement_that_stops_while_it_is_published_resumes(bucket, url, monkeypatch):
    options = {"storage_options": bucket.options}
    lv.save(stack(), url, **options)
    copy = lv.io.places.ZarrPlace.copy_to

    def failing(self, other, key):
        if key.startswith("0/"):
            raise errors.StoreError("interrupted")
        copy(self, other, key)

    new = lv.filters.gaussian(stack().chunk(k=1), 2.0)
    with monkeypatch.context() as patch:
        patch.setattr(lv.io.places.ZarrPlace, "copy_to", failing)
        with pytest.raises(errors.StoreError, match="interrupted"):
            lv.save(new, url, overwrite=True, **options)
    with pytest.raises(errors.SourceNotFoundError):
        lv.open(url, **options)
    written, put = [], remote_run.RemoteRun.put
    monkeypatch.setattr(
        remote_run.RemoteRun,
        "put",
        lambda self, key, fill: (written.append(key), put(self, key, fill)),
    )
    lv.save(new, url, resume=True, **options)
    assert not [key for key in written if key.startswith("0/c/")]
    np.testing.assert_array_equal(lv.open(url, **options), new.compute())


def test_objects_that_are_no_store_are_kept(bucket, url):
    bucket.put(f"{url.removeprefix('s3://stack/')}/notes.txt", b"mine")
    with pytest.raises(errors.TargetExistsError, match="other than a zarr store"):
        lv.save(stack(), url, storage_options=bucket.options, overwrite=True)
    assert keys(bucket, url) == {"notes.txt"}


def test_a_second_writer_is_refused(bucket, url, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(remote_run.RemoteRun, "release", lambda self: None)  # still at work
        interrupted(bucket, url, 0, stack(), monkeypatch)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(errors.TargetExistsError, match="another run is writing") as caught:
            lv.save(stack(), url, storage_options=bucket.options, **options)
        assert "overwrite" not in str(caught.value)


def test_a_run_whose_plan_was_taken_does_not_publish(bucket, url, monkeypatch):
    publish = remote_run.RemoteRun.publish

    def taken(self):
        self.place.put(remote_run.PLAN_KEY, b'{"token": "other", "run": "other", "steps": []}')
        publish(self)

    monkeypatch.setattr(remote_run.RemoteRun, "publish", taken)
    with pytest.raises(errors.StoreError, match="taken over by another"):
        lv.save(stack(), url, storage_options=bucket.options)
    with pytest.raises(errors.SourceNotFoundError):
        lv.open(url, storage_options=bucket.options)


def test_the_input_of_a_result_is_not_overwritten(bucket, url):
    lv.save(stack(), url, storage_options=bucket.options)
    opened = lv.open(url, storage_options=bucket.options)
    with pytest.raises(errors.TargetExistsError, match="an input of the result"):
        lv.save(opened * 2, url, storage_options=bucket.options, overwrite=True)


@pytest.mark.parametrize("path", ["s3://stack/a.csv", "a.zarr.zip", "s3://stack/a.mrc"])
def test_archives_and_tables_elsewhere_are_refused(path):
    with pytest.raises(errors.LabelError, match="save to a local folder or file"):
        lv.save(stack(), path)


def test_options_of_a_store_are_refused_for_a_folder(tmp_path):
    with pytest.raises(errors.OptionError, match="those of a URL"):
        lv.save(stack(), tmp_path / "a.zarr", storage_options={"endpoint": "x"})


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(errors.StoreError, match=r"s3://none/a\.zarr"):
        lv.save(stack(), "s3://none/a.zarr", storage_options=bucket.options)


def test_a_budget_counts_the_encoded_shard(bucket, url):
    noise = lv.synthetic.noise((8, 64, 64, 64), seed=1)
    lv.save(noise, url, storage_options=bucket.options, memory="512MiB")
    np.testing.assert_array_equal(lv.open(url, storage_options=bucket.options), noise.compute())

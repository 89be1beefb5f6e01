"""Zarr stores in buckets, archives, on web servers and in memory: the same values and errors."""

import os
import pickle
import re
import subprocess
import sys
from itertools import product

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import WrapperStore, ZipStore

import lazyvol as lv
from lazyvol import errors
from lazyvol.io import places
from lazyvol.io.safe_folder import Stored
from tests.io.buckets import CREDENTIALS, archived, bucket_server, files_of, in_memory, web_server
from tests.io.store_cases import saved, shard_files
from tests.io.zarr_cases import LAYOUTS, SHAPE, numbers, stored
from tests.paths import ROOT

KINDS = ("bucket", "web", "archive", "memory", "array", "fsspec")


@pytest.fixture(scope="module")
def bucket():
    with bucket_server() as server:
        yield server


class Opener:
    """Return a function that opens copies of stores in every kind of place."""

    def __init__(self, bucket, folder):
        self.bucket, self.folder, self.web = bucket, folder, None

    def __call__(self, path, kind, **options):
        if kind == "bucket":
            url = self.bucket.upload(path, f"{self.folder.name}/{path.name}")
            return lv.open(url, storage_options=self.bucket.options, **options)
        if kind == "web":
            return lv.open(f"{self.web}/{path.relative_to(self.folder).as_posix()}", **options)
        if kind == "archive":
            return lv.open(archived(path, path.with_name("a.zarr.zip")), **options)
        if kind == "fsspec":
            return lv.open(f"file://{path}", **options)
        store = in_memory(path)
        return lv.open(store if kind == "memory" else zarr.open(store, mode="r"), **options)


@pytest.fixture
def opener(bucket, tmp_path):
    opener = Opener(bucket, tmp_path)
    with web_server(tmp_path) as url:
        opener.web = url
        yield opener


REGIONS = (
    {},
    {"k": slice(1, 4), "z": slice(2, 7), "y": slice(0, 1), "x": slice(3, 9)},
    {"k": 4, "z": 6, "y": 10, "x": 12},
    {"k": slice(0, 0)},
)


#: all layouts in memory, and of each kind of layout one in the other places
CASES = [
    *((layout, "memory") for layout in LAYOUTS),
    *product(("v3 zstd", "v3 shards", "v3 shards start", "v2 blosc"), set(KINDS) - {"memory"}),
]


@pytest.mark.parametrize(("layout", "kind"), sorted(CASES))
def test_values_are_those_of_the_folder(layout, kind, opener, tmp_path):
    values = numbers(SHAPE)
    path = stored(tmp_path / "a.zarr", values, **LAYOUTS[layout])
    opened = opener(path, kind)
    for region in REGIONS:
        np.testing.assert_array_equal(
            opened.isel(region), values[tuple(region.get(d, slice(None)) for d in "kzyx")]
        )


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"array"}))
def test_labels_of_a_store_of_ours_come_along(kind, opener, tmp_path):
    stack = lv.as_stack(numbers(SHAPE), voxel_size=2.5, unit="angstrom").rename("particles")
    stack = stack.assign_coords(score=("k", np.arange(5.0)))
    lv.save(stack, tmp_path / "ours.zarr")
    opened = opener(tmp_path / "ours.zarr", kind)
    xr.testing.assert_identical(opened.compute(), lv.open(tmp_path / "ours.zarr").compute())


@pytest.mark.parametrize("kind", ["bucket", "archive", "memory"])
def test_data_sets_and_levels_of_images_are_found(kind, opener, tmp_path):
    stack = lv.as_stack(numbers(SHAPE), voxel_size=2.5)
    lv.save(lv.stats.describe(stack), tmp_path / "set.zarr")
    xr.testing.assert_identical(
        opener(tmp_path / "set.zarr", kind).compute(), lv.open(tmp_path / "set.zarr").compute()
    )


def test_a_level_in_a_bucket_has_the_labels_of_its_image(bucket, tmp_path):
    lv.save(lv.as_stack(numbers(SHAPE), voxel_size=2.5, unit="nm"), tmp_path / "image.zarr")
    url = bucket.upload(tmp_path / "image.zarr", "image.zarr")
    level = lv.open(f"{url}/0", storage_options=bucket.options)
    xr.testing.assert_identical(level.compute(), lv.open(tmp_path / "image.zarr").compute())


def test_an_operation_on_a_bucket_is_that_on_the_folder(bucket, tmp_path):
    saved(tmp_path / "a.zarr", numbers(SHAPE).astype("float32"))
    url = bucket.upload(tmp_path / "a.zarr", "operation.zarr")
    for scheduler in ("threads", "synchronous"):
        with dask.config.set(scheduler=scheduler):
            found = lv.filters.gaussian(lv.open(url, storage_options=bucket.options), 1.0)
            expected = lv.filters.gaussian(lv.open(tmp_path / "a.zarr"), 1.0)
            np.testing.assert_array_equal(found, expected)


CLUSTER = """
import sys, numpy as np, lazyvol as lv
if __name__ == "__main__":
    stack = lv.open(sys.argv[1], storage_options={"endpoint": sys.argv[2]})
    with lv.connect(workers=2) as client:
        np.save(sys.argv[3], lv.stats.var(stack).compute())
"""


def test_two_processes_open_the_bucket_for_themselves(bucket, tmp_path):
    values = numbers(SHAPE).astype("float32")
    saved(tmp_path / "a.zarr", values)
    url = bucket.upload(tmp_path / "a.zarr", "cluster.zarr")
    (tmp_path / "run.py").write_text(CLUSTER)
    command = [sys.executable, "run.py", url, bucket.options["endpoint"], "var.npy"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = lv.stats.var(lv.as_stack(values)).values
    np.testing.assert_array_equal(np.load(tmp_path / "var.npy"), expected)


def test_sources_are_small_and_hold_no_secrets(bucket, tmp_path):
    saved(tmp_path / "a.zarr", numbers(SHAPE))
    url = bucket.upload(tmp_path / "a.zarr", "secret.zarr")
    stack = lv.open(url, storage_options=bucket.options)
    packed = pickle.dumps(stack)
    assert len(packed) < 20_000
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode() not in packed
    np.testing.assert_array_equal(pickle.loads(packed), numbers(SHAPE))


@pytest.mark.parametrize("name", ["secret_access_key", "AWS_SESSION_TOKEN", "password", "sas_key"])
def test_secrets_are_refused_as_options(name):
    with pytest.raises(errors.OptionError, match=f"no secrets, got {name}; set them in the env"):
        lv.open("s3://stack/a.zarr", storage_options={name: "x"})


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(errors.OptionError, match="a password for host") as raised:
        lv.open("https://user:do-not-tell@host/a.zarr")
    assert "do-not-tell" not in str(raised.value)


@pytest.mark.parametrize("name", ["sig", "X-Amz-Signature", "X-Amz-Security-Token"])
def test_a_signed_url_is_refused_and_not_repeated(name):
    """It would stand in the plan of a saved result, and in pickles."""
    with pytest.raises(errors.OptionError, match=f"a token in {name}") as raised:
        lv.open(f"https://host/a.zarr?{name}=do-not-tell")
    assert "do-not-tell" not in str(raised.value)


def test_options_of_a_store_are_refused_for_a_file(tmp_path):
    with pytest.raises(errors.OptionError, match="those of a URL"):
        lv.open(tmp_path / "a.mrc", storage_options={"endpoint": "x"})


# damage -----------------------------------------------------------------------------------------


def shard_of(path):
    """Return the last shard of the array of a store, which is "0" in a store of ours."""
    return [f for f in shard_files(path) if f.relative_to(path).parts[0] in ("0", "c")][-1]


def damaged(path, kind):
    """Damage the last shard of a store and return the expected error."""
    shard = shard_of(path)
    data = bytearray(shard.read_bytes())
    if kind == "missing":
        shard.unlink()
        return errors.MissingChunkError
    if kind == "flipped":
        data[3] ^= 16
    elif kind == "index":
        data[-9] ^= 1
    elif kind == "cut":
        del data[10:]
    elif kind == "empty":
        data.clear()
    shard.write_bytes(data)
    return errors.TruncatedError if kind in ("cut", "empty") else errors.ChecksumError


@pytest.mark.parametrize("place", ["bucket", "web", "archive", "memory"])
@pytest.mark.parametrize("kind", ["missing", "flipped", "index", "cut", "empty"])
def test_damage_is_an_error_that_names_the_object(kind, place, opener, tmp_path):
    saved(tmp_path / f"{kind}.zarr", numbers(SHAPE))
    key = shard_of(tmp_path / f"{kind}.zarr").relative_to(tmp_path / f"{kind}.zarr").as_posix()
    expected = damaged(tmp_path / f"{kind}.zarr", kind)
    opened = opener(tmp_path / f"{kind}.zarr", place)
    with pytest.raises(expected, match=re.escape(key)) as raised:
        opened.compute()
    if place == "bucket":
        assert f"s3://stack/{tmp_path.name}/{kind}.zarr/" in str(raised.value)


def test_absent_chunks_of_others_are_counted(bucket, tmp_path):
    path = stored(tmp_path / "a.zarr", numbers(SHAPE), **LAYOUTS["v3 zstd"])
    shard_of(path).unlink()
    url = bucket.upload(path, "absent.zarr")
    with pytest.warns(UserWarning, match="1 of 27 chunks are absent"):
        opened = lv.open(url, storage_options=bucket.options)
    np.testing.assert_array_equal(
        opened, lv.open(path, missing="fill").compute()
    ) if False else None
    assert float(opened.isel(k=4, z=6, y=10, x=12)) == 0
    with pytest.raises(errors.MissingChunkError, match=r"s3://stack/absent\.zarr"):
        lv.open(url, storage_options=bucket.options, missing="error")


def test_a_store_that_was_replaced_is_refused(bucket, tmp_path):
    saved(tmp_path / "a.zarr", numbers(SHAPE))
    url = bucket.upload(tmp_path / "a.zarr", "replaced.zarr")
    opened = lv.open(url, storage_options=bucket.options)
    saved(tmp_path / "b.zarr", numbers(SHAPE).astype("float32"), name="other")
    bucket.upload(tmp_path / "b.zarr", "replaced.zarr")
    with pytest.raises(
        errors.SourceChangedError, match=r"s3://stack/replaced\.zarr.*open it again"
    ):
        opened.compute()
    for file in files_of(tmp_path / "b.zarr"):
        bucket.delete(f"replaced.zarr/{file.relative_to(tmp_path / 'b.zarr').as_posix()}")
    with pytest.raises(errors.LazyvolError):
        opened.compute()


def test_what_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(errors.SourceNotFoundError, match=r"s3://stack/none\.zarr"):
        lv.open("s3://stack/none.zarr", storage_options=bucket.options)
    with pytest.raises(errors.SourceNotFoundError, match=r"none\.zarr\.zip"):
        lv.open(tmp_path / "none.zarr.zip")
    (tmp_path / "broken.zarr.zip").write_bytes(b"PK no archive")
    with pytest.raises(errors.FormatError, match=r"broken\.zarr\.zip"):
        lv.open(tmp_path / "broken.zarr.zip")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_names_the_url_and_the_remedy(status, tmp_path):
    with (
        web_server(tmp_path, status) as url,
        pytest.raises(errors.StoreError, match=rf"{url}/a\.zarr.*credentials in the env"),
    ):
        lv.open(f"{url}/a.zarr")


def test_a_scheme_without_a_driver_is_refused():
    with pytest.raises(errors.StoreError, match=r"nosuchscheme://stack/a\.zarr"):
        lv.open("nosuchscheme://stack/a.zarr")


# requests ---------------------------------------------------------------------------------------


class Counting(WrapperStore):
    """A store that counts its requests."""

    requests: list[tuple[str, object]]

    def __init__(self, store):
        super().__init__(store)
        self.requests = []

    async def get(self, key, prototype, byte_range=None):
        self.requests.append((key, byte_range))
        return await super().get(key, prototype, byte_range)


def test_a_shard_costs_two_requests(tmp_path):
    values = numbers(SHAPE)
    path = stored(tmp_path / "a.zarr", values, **LAYOUTS["v3 shards"])
    store = Counting(in_memory(path))
    opened = lv.open(store)
    store.requests.clear()
    np.testing.assert_array_equal(opened.isel(k=slice(0, 4), z=slice(0, 6)), values[:4, :6])
    asked = [key for key, _ in store.requests if key != "zarr.json"]
    assert {key: asked.count(key) for key in asked} == dict.fromkeys(set(asked), 2)


def test_a_document_is_not_read_beyond_its_limit(tmp_path, monkeypatch):
    path = stored(tmp_path / "a.zarr", numbers(SHAPE))
    monkeypatch.setattr("lazyvol.io.safe_folder.MAX_JSON", 100)
    store = Counting(in_memory(path))
    with pytest.raises(errors.LimitExceeded, match="at most 100 bytes"):
        lv.open(store)
    assert {asked.end for _, asked in store.requests} == {101}


def test_ranges_near_each_other_are_joined_and_long_ones_are_cut(monkeypatch):
    assert list(places.join_ranges([(0, 10), (20, 10), (2 << 20, 5)])) == [(0, 30), (2 << 20, 5)]
    monkeypatch.setattr(places, "REQUEST_BYTES", 4)
    monkeypatch.setattr(places, "MAX_GAP", 0)
    store = in_memory(ROOT / "tests" / "rows")
    name = "filters.py"
    data = (ROOT / "tests" / "rows" / name).read_bytes()
    remote = places.RemoteObject(places.place_of(store), name)
    list(remote.fetched([Stored(1, 11), Stored(40, 3)]))
    assert bytes(remote.take(1, 11, 11)) == data[1:12]
    assert bytes(remote.take(41, 2, 2)) == data[41:43]
    assert remote.take(20, 3, 3).size == 0
    monkeypatch.setattr(places, "FETCHED_PARTS", 1)  # one part is held at a time
    for part in remote.fetched([Stored(1, 11), Stored(40, 3)]):
        taken = remote.take(part.offset, part.length, part.length)
        assert bytes(taken) == data[part.offset : part.offset + part.length]
        assert len(remote.held) == 1


def test_an_open_archive_of_zarr_is_a_place(tmp_path):
    path = stored(tmp_path / "a.zarr", numbers(SHAPE), **LAYOUTS["v3 zstd"])
    archive = ZipStore(archived(path, tmp_path / "a.zip"), mode="r")
    np.testing.assert_array_equal(lv.open(archive), numbers(SHAPE))

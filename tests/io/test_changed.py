"""Files and stores that change after they were opened raise SourceChangedError."""

import gzip
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import lazyvol as lv
from lazyvol import errors
from lazyvol.errors import SourceChangedError, TargetExistsError
from lazyvol.io.probe import probe

SHAPE = (3, 5, 6, 7)
A = np.random.default_rng(0).normal(size=SHAPE).astype("f4")


def by_zarr(path, values, **options):
    array = zarr.create_array(
        path, shape=values.shape, dtype=values.dtype, chunks=(1, 5, 6, 7), overwrite=True, **options
    )
    array[...] = values


STORES = {
    "ours": lambda path, values: lv.save(lv.as_stack(values), f"{path}", overwrite=True),
    "v2": lambda path, values: by_zarr(path, values, zarr_format=2),
    "v3": by_zarr,
    "shards": lambda path, values: by_zarr(path, values, shards=(3, 5, 6, 7)),
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("change", ["values", "dtype", "shape", "removed"])
def test_a_store_that_is_replaced_is_not_read(kind, change, tmp_path):
    path = tmp_path / "a.zarr"
    STORES[kind](path, A)
    opened = lv.open(path)
    lazy = opened * 2
    travelled = pickle.loads(pickle.dumps(opened.data))
    np.testing.assert_array_equal(opened.values, A)
    if change == "removed":
        shutil.rmtree(path)
    else:
        new = {"values": -A, "dtype": A.astype("i2"), "shape": A[:2]}[change]
        STORES[kind](path, new)
    for read in (opened.compute, lazy.compute, opened.isel(k=0).compute, travelled.compute):
        with pytest.raises(SourceChangedError, match="open it again"):
            read()
    if change != "removed":
        np.testing.assert_array_equal(lv.open(path).values, new)


@pytest.mark.parametrize("kind", ["v2", "v3", "shards"])
@pytest.mark.parametrize("change", ["in place", "renamed", "removed", "added"])
def test_any_file_of_a_foreign_store_that_changes_is_not_read(kind, change, tmp_path):
    path, values = tmp_path / "a.zarr", np.concatenate([A] * 40)
    STORES[kind](path, values)
    file = path / ("14.0.0.0" if kind == "v2" else "c/14/0/0/0")
    changed = 3 * 14 if kind == "shards" else 14
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    if change == "added":
        file.unlink()
        with pytest.warns(UserWarning, match="are absent"):
            opened = lv.open(path)
    else:
        opened = lv.open(path)
    travelled = pickle.loads(pickle.dumps(opened.data))
    if change == "in place":
        os.utime(file, ns=(1, 1))
    elif change == "removed":
        file.unlink()
    else:
        os.replace(other, file)
    np.testing.assert_array_equal(opened[:changed], values[:changed])
    for read in (opened.compute, travelled.compute, opened[changed].compute):
        with pytest.raises(SourceChangedError, match="open the array again"):
            read()


def test_a_chunk_that_changes_while_it_is_read(tmp_path, monkeypatch):
    STORES["v3"](tmp_path / "a.zarr", A)
    opened = lv.open(tmp_path / "a.zarr")
    read = lv.io.zarr.chunks.ChunkReader._read_chunk

    def changed(self, stored, path, chunk, out):
        os.truncate(path, 8)
        read(self, stored, path, chunk, out)

    monkeypatch.setattr(lv.io.zarr.chunks.ChunkReader, "_read_chunk", changed)
    with pytest.raises(SourceChangedError, match=r"c/0/0/0/0: a chunk must not change"):
        opened.compute()


def test_every_file_of_a_foreign_store_is_part_of_its_name(tmp_path, monkeypatch):
    STORES["v3"](tmp_path / "a.zarr", np.concatenate([A] * 40))
    names = {lv.open(tmp_path / "a.zarr").data.name}
    for k in (1, 17, 118):
        os.utime(tmp_path / f"a.zarr/c/{k}/0/0/0", ns=(1, 1))
        names.add(lv.open(tmp_path / "a.zarr").data.name)
    assert len(names) == 4
    monkeypatch.setattr("lazyvol.io.safe_folder.SafeFolder.max_stamped", 10)
    opened = lv.open(tmp_path / "a.zarr")
    os.utime(tmp_path / "a.zarr/c/1/0/0/0", ns=(2, 2))
    assert opened.compute().shape == (120, 5, 6, 7)  # not among the ten


def test_a_variable_of_a_set_that_is_replaced_is_not_read(tmp_path):
    def save(values):
        sets = lv.as_stack(values).to_dataset(name="a").assign(b=("k", np.arange(3.0)))
        lv.save(sets, tmp_path / "d.zarr", overwrite=True)

    save(A)
    opened = lv.open(tmp_path / "d.zarr")
    save(-A)
    for name in "ab":
        with pytest.raises(SourceChangedError):
            opened[name].compute()


def test_a_link_that_is_moved_to_another_store_leaves_the_opened_one(tmp_path):
    for name, values in (("one", A), ("two", -A)):
        STORES["ours"](tmp_path / f"{name}.zarr", values)
    (tmp_path / "now.zarr").symlink_to(tmp_path / "one.zarr")
    opened = lv.open(tmp_path / "now.zarr")
    (tmp_path / "now.zarr").unlink()
    (tmp_path / "now.zarr").symlink_to(tmp_path / "two.zarr")
    np.testing.assert_array_equal(opened.values, A)


def test_a_store_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    STORES["v3"](path, A)
    source = probe(path).source
    read = lv.io.zarr.chunks.ChunkReader._read_file

    def replaced(self, place, box, out):
        read(self, place, box, out)
        if box[0].index == 0:
            STORES["v3"](path, -A)

    monkeypatch.setattr(lv.io.zarr.chunks.ChunkReader, "_read_file", replaced)
    with pytest.raises(SourceChangedError):
        source.read(tuple(slice(0, n) for n in SHAPE))


def hdf5(path, values, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values, **options)


def packed(path, values):
    lv.save(lv.as_stack(values), path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes(), mtime=0))
    path.with_suffix("").unlink()


FILES = {
    "a.npy": lambda path, values: np.save(path, values),
    "a.mrc": lambda path, values: lv.save(lv.as_stack(values), path, overwrite=True),
    "a.mrc.gz": packed,
    "a.tif": lambda path, values: tifffile.imwrite(path, values[0]),
    "packed.tif": lambda path, values: tifffile.imwrite(path, values[0], compression="zlib"),
    "a.h5": hdf5,
    "packed.h5": lambda path, values: hdf5(path, values, compression="gzip"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["in place", "moved", "cut", "same age", "removed"])
def test_a_file_that_changed_is_not_read(name, change, tmp_path):
    path = tmp_path / name
    FILES[name](path, A)
    opened = lv.open(path)
    travelled = pickle.loads(pickle.dumps(opened.data))
    assert opened.compute().shape == opened.shape
    age = path.stat().st_mtime_ns
    if change == "cut":
        os.truncate(path, path.stat().st_size - 8)
    elif change == "removed":
        path.unlink()
    else:
        other = tmp_path / "other" / name
        other.parent.mkdir()
        FILES[name](other, -A)
        shutil.copyfile(other, path) if change == "in place" else os.replace(other, path)
    if change == "same age":
        os.utime(path, ns=(age, age))
    error = errors.SourceNotFoundError if change == "removed" else SourceChangedError
    for read in (opened.compute, opened.isel(z=0).compute, travelled.compute):
        with pytest.raises(error):
            read()


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, A)
    source = probe(path).source
    fill = lv.io.flat_file.read_exactly

    def replaced(*args):
        fill(*args)
        np.save(path, -A)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(lv.io.flat_file, "read_exactly", replaced)
    with pytest.raises(SourceChangedError):
        source.read(tuple(slice(0, n) for n in SHAPE))


def test_one_changed_file_of_a_stack_is_refused_where_it_is_read(tmp_path):
    for n in range(3):
        np.save(tmp_path / f"{n}.npy", A[n])
    opened = lv.open(str(tmp_path / "*.npy"))
    np.save(tmp_path / "1.npy", -A[1])
    os.utime(tmp_path / "1.npy", ns=(1, 1))
    np.testing.assert_array_equal(opened.isel(k=[0, 2]).values, A[[0, 2]])
    with pytest.raises(SourceChangedError, match=r"1\.npy"):
        opened.compute()


@pytest.mark.parametrize(
    "where",
    ["in.zarr", "in.zarr/0", "./in.zarr/../in.zarr", "link.zarr", "folder.zarr/in.zarr", "."],
)
def test_a_result_does_not_replace_its_own_input(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    STORES["ours"](tmp_path / "in.zarr", A)
    (tmp_path / "link.zarr").symlink_to("in.zarr")
    (tmp_path / "folder.zarr").symlink_to(".")
    stack = lv.open("in.zarr")
    target = str(tmp_path) if where == "." else where
    for result in (stack * 2, lv.stats.mean(stack), stack.to_dataset(name="a"), stack.isel(k=0)):
        with pytest.raises((TargetExistsError, errors.LabelError)) as caught:
            lv.save(result, target, overwrite=True)
        if target.endswith(".zarr"):
            assert "input of the result" in str(caught.value)
    np.testing.assert_array_equal(lv.open("in.zarr").values, A)


def test_nothing_is_saved_above_or_inside_the_input(tmp_path):
    stack = lv.as_stack(A).rename(z="u", y="v", x="w").drop_vars(("z", "y", "x"), errors="ignore")
    lv.save(stack.to_dataset(name="a"), tmp_path / "set.zarr")
    opened = lv.open(tmp_path / "set.zarr")
    for target in ("set.zarr", "set.zarr/a/new.zarr"):
        with pytest.raises(TargetExistsError, match="input of the result"):
            lv.save(opened["a"] * 2, tmp_path / target, overwrite=True)


@pytest.mark.parametrize("suffix", [".mrc", ".npy", ".tif"])
def test_a_file_does_not_replace_its_own_input(suffix, tmp_path):
    path, link = tmp_path / f"a{suffix}", tmp_path / f"link{suffix}"
    lv.save(lv.as_stack(A[0]), path)
    link.symlink_to(path)
    for source, target in ((path, path), (link, path), (path, link), (link, link)):
        stack = lv.open(source)
        with pytest.raises(TargetExistsError, match="input of the result"):
            lv.save(stack * 2, target, overwrite=True)
        lv.save(stack * 2, tmp_path / f"other{suffix}", overwrite=True)
    np.testing.assert_array_equal(lv.open(path).values, A[0])


def test_values_in_memory_replace_what_they_were_read_from(tmp_path):
    STORES["ours"](tmp_path / "a.zarr", A)
    values: xr.DataArray = lv.open(tmp_path / "a.zarr").compute() * 2
    lv.save(values, tmp_path / "a.zarr", overwrite=True)
    np.testing.assert_array_equal(lv.open(tmp_path / "a.zarr").values, A * 2)

"""Absent chunks: counted and filled in stores of other programs, an error in lazyvol stores."""

import shutil

import dask.array as da
import numpy as np
import pytest
import zarr

import lazyvol as lv
from lazyvol import errors
from lazyvol.io.safe_folder import SafeFolder
from lazyvol.io.zarr.reader import probe
from lazyvol.plan.regions import whole
from tests.io.store_cases import saved, shard_files
from tests.io.zarr_cases import LAYOUTS, SHAPE, edit, files_of, numbers, plain_v2, plain_v3, stored


@pytest.mark.parametrize("layout", ["v3 zstd", "v2 raw", "v2 slashes", "v3 dots", "v3 keys"])
def test_each_absent_chunk_is_filled_and_counted_or_refused(layout, tmp_path):
    values = numbers(SHAPE) + 1
    path = stored(tmp_path / "a", values, **LAYOUTS[layout], fill_value=7)
    for number, file in enumerate(files_of(path), start=1):
        total = len(files_of(path)) + number - 1
        file.unlink()
        opened = probe(path)
        assert (opened.absent.count, opened.absent.total) == (number, total)
        got = opened.source.read(whole(SHAPE))
        np.testing.assert_array_equal(got, zarr.open_array(path, mode="r")[...])
        with pytest.raises(errors.MissingChunkError, match=rf"{number} of {total} chunks"):
            probe(path, missing="error")
    assert set(np.unique(got)) == {7}


def test_a_chunk_that_goes_missing_later_is_refused_where_it_is_read(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE))
    source = probe(path, missing="error").source
    shutil.rmtree(path / "c" / "0")
    assert source.read((slice(2, 4), *whole(SHAPE[1:]))).size
    with pytest.raises(errors.MissingChunkError, match=r"\(0, 0, 0, 0\).*missing=\"fill\""):
        source.read((slice(0, 1), slice(0, 1), slice(0, 1), slice(0, 1)))


@pytest.mark.parametrize("layout", ["v3 shards", "v3 shards raw", "v3 shards start"])
def test_each_absent_inner_chunk_is_filled_or_refused(layout, tmp_path):
    values = numbers(SHAPE) + 1
    path = stored(tmp_path / "a", values, **LAYOUTS[layout], fill_value=9)
    full = zarr.open_array(path, mode="r+", config={"write_empty_chunks": False})
    grid = [range(-(-n // c)) for n, c in zip(SHAPE, full.chunks, strict=True)]
    for index in np.random.default_rng(0).permutation(list(np.ndindex(*map(len, grid))))[:12]:
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, full.chunks, strict=True))
        full[box] = 9
        number = ", ".join(map(str, index))
        with pytest.raises(errors.MissingChunkError, match=rf"chunk \({number}\)"):
            probe(path, missing="error").source.read(
                tuple(slice(s.start, s.start + 1) for s in box)
            )
        np.testing.assert_array_equal(probe(path).source.read(whole(SHAPE)), full[...])
        full[box] = values[box]


def test_shards_that_are_absent_are_counted_as_shards(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE) + 1, **LAYOUTS["v3 shards"])
    files_of(path)[0].unlink()
    assert str(probe(path).absent) == "1 of 4 shards"


@pytest.mark.parametrize(
    ("value", "dtype", "meaning"),
    [
        ("NaN", "float32", np.nan),
        ("-Infinity", "float64", -np.inf),
        ("0x3fc00000", "float32", 1.5),
        ("0x7e00", "float16", np.nan),
        (-3, "int8", -3),
        (2**64 - 1, "uint64", 2**64 - 1),
        (True, "bool", True),
    ],
)
def test_fill_values_of_every_kind(value, dtype, meaning, tmp_path):
    path = plain_v3(tmp_path / "a", fill_value=value, data_type=dtype)
    (path / "c" / "0").unlink()
    got = probe(path).source.read((slice(0, 4),))
    np.testing.assert_array_equal(got, np.full(4, meaning, dtype))


@pytest.mark.parametrize("make", [plain_v2, plain_v3])
def test_an_undefined_fill_value_is_no_value(make, tmp_path):
    path = make(tmp_path / "a", fill_value=None)
    assert probe(path).source.read((slice(0, 4),)).tolist() == [0, 1, 2, 3]
    opened = probe(path)
    files_of(path)[0].unlink()
    for read in (lambda: probe(path), lambda: opened.source.read((slice(0, 4),))):
        with pytest.raises(errors.MissingChunkError, match="fill_value is null"):
            read()
    assert probe(path, permissive=True).source.read((slice(0, 4),)).tolist() == [0] * 4


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_zarr_and_dask_leave_out_is_read_with_one_warning(zarr_format, tmp_path):
    mask = np.zeros((4, 6, 6), bool)
    mask[1, 2:4, 2:4] = True
    array = zarr.create_array(
        tmp_path / "a", shape=mask.shape, chunks=(1, 3, 6), dtype=bool, zarr_format=zarr_format
    )
    array[...] = mask
    with pytest.warns(UserWarning, match="6 of 8 chunks are absent.*missing='error'") as said:
        opened = lv.open(tmp_path / "a")
    assert len(said) == 1
    np.testing.assert_array_equal(opened.values, mask)
    with pytest.raises(errors.MissingChunkError, match="6 of 8 chunks"):
        lv.open(tmp_path / "a", missing="error")
    labels = da.from_array(mask.astype("u2"), chunks=(1, 3, 3))
    da.to_zarr(labels, str(tmp_path / "b"), zarr_format=zarr_format)
    full = len(files_of(tmp_path / "b")) == 16  # dask writes empty chunks or not, by version
    if full:
        np.testing.assert_array_equal(lv.open(tmp_path / "b").values, mask)


def test_a_whole_store_is_opened_without_a_word(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE))
    assert not probe(path).absent
    assert lv.open(path, missing="error").shape == SHAPE
    with pytest.raises(errors.OptionError, match="missing must be"):
        lv.open(path, missing="zero")


def test_files_that_are_no_chunks_do_not_count(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS["v3 keys"])
    first = files_of(path)[0]
    for name in ("9.0.0.0", "0.0.0", "00.0.0.0", "x.0.0.0", "0.0.0.0.partial"):
        shutil.copy(first, path / name)
    first.unlink()
    assert probe(path).absent.count == 1


def test_the_count_stops_at_a_limit_and_says_so(tmp_path, monkeypatch):
    path = stored(tmp_path / "a", numbers(SHAPE))
    shutil.rmtree(path / "c" / "1")
    monkeypatch.setattr(SafeFolder, "max_names", 4)
    assert str(probe(path).absent) == "at least 9 of 27 chunks"


@pytest.mark.parametrize("place", ["", "0"])
def test_our_own_stores_have_all_their_chunks(place, tmp_path):
    values = numbers(SHAPE, "f4") + 1
    saved(tmp_path / "a.zarr", values)
    shard_files(tmp_path / "a.zarr")[0].unlink()
    for missing in ("fill", "error"):
        opened = lv.open(tmp_path / "a.zarr" / place, missing=missing)
        with pytest.raises(errors.MissingChunkError, match="permissive=True"):
            opened.compute()
    with pytest.warns(UserWarning, match="1 of"):
        opened = lv.open(tmp_path / "a.zarr" / place, permissive=True)
    assert set(np.unique(opened.values != values)) == {True, False}


def test_variables_of_our_own_sets_have_all_their_chunks(tmp_path):
    stack = lv.as_stack(numbers(SHAPE, "f4") + 1)
    lv.save(stack.to_dataset(name="a"), tmp_path / "d.zarr")
    shard_files(tmp_path / "d.zarr")[0].unlink()
    with pytest.raises(errors.MissingChunkError, match="permissive=True"):
        lv.open(tmp_path / "d.zarr").compute()


def test_an_image_of_others_says_what_is_absent(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE) + 1)
    shutil.rmtree(path / "c" / "0" / "0")
    edit(path / "zarr.json", dimension_names=["k", "z", "y", "x"])
    with pytest.warns(UserWarning, match="3 of 27"):
        assert lv.open(path).dims == ("k", "z", "y", "x")

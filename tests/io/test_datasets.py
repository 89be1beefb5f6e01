"""Data sets of several variables are saved as a group and open unchanged."""

import json

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import ChecksumError, FormatError, LabelError, StoreError
from lazyvol.io.zarr.local_run import LocalRun

A = np.random.default_rng(0).random((4, 5, 6, 7)).astype(np.float32)


def data_set() -> xr.Dataset:
    """Return variables over different dims, coordinates of no variable, and attributes."""
    stack = lv.as_stack(A, voxel_size=2.0, unit="nanometer")
    return xr.Dataset(
        {
            "score": ("k", np.arange(4.0), {"units": "e"}),
            "average": stack.mean("k").assign_attrs(contrast="dark"),
            "count": ((), np.int64(3)),
        },
        {
            "class": ("k", np.array(["a", "b", "a", "c"])),
            "k_other": ("k_other", [5, 6]),
            "frequency": ("bin", [0.5, 0.25, np.nan], {"units": "1/nanometer"}),
            "channel": ("channel", ["red", "green"]),
        },
        {"title": "made up", "numbers": [1, 2.5], "nested": {"a": None}},
    )


def test_a_data_set_is_what_it_was(tmp_path):
    lv.save(data_set(), tmp_path / "set.zarr")
    found = lv.open(tmp_path / "set.zarr")
    assert list(found) == ["score", "average", "count"]
    assert all(type(a.data) is da.Array for a in found.values())
    xr.testing.assert_identical(found.compute(), data_set())


def test_positions_of_no_variable_are_kept(tmp_path):
    ragged = lv.masks.select(
        lv.as_stack(A, voxel_size=2.0, unit="nanometer"), lv.as_stack(A[0] > 0.5)
    )
    lv.save(ragged, tmp_path / "ragged.zarr")
    found = lv.open(tmp_path / "ragged.zarr")
    xr.testing.assert_identical(found.z, ragged.z)
    assert found.sizes == ragged.sizes


def test_a_lone_variable_is_a_data_set_too_and_each_opens_by_itself(tmp_path):
    lv.save(data_set()[["score"]], tmp_path / "set.zarr")
    assert isinstance(lv.open(tmp_path / "set.zarr"), xr.Dataset)
    assert isinstance(lv.open(tmp_path / "set.zarr" / "score"), xr.DataArray)


def test_options_are_for_the_variables_that_have_the_dims(tmp_path):
    lv.save(data_set(), tmp_path / "set.zarr")
    options = {"chunks": {"k": 2, "z": 3}, "voxel_size": {"z": 4.0}, "unit": "angstrom"}
    found = lv.open(tmp_path / "set.zarr", **options)
    assert found.chunksizes["k"] == (2, 2)
    assert found.chunksizes["z"] == (3, 2)
    assert float(found.z[1]) == 4.0
    assert found.z.attrs["units"] == "angstrom"


def test_a_data_set_is_resumed_and_lazy(tmp_path):
    lazy = data_set()
    lazy["average"] = lv.stats.mean(lv.as_stack(da.from_array(A, chunks=2), voxel_size=2.0))
    lv.save(lazy, tmp_path / "set.zarr", resume=True)
    np.testing.assert_allclose(lv.open(tmp_path / "set.zarr").average, A.mean(0), rtol=1e-6)


@pytest.mark.parametrize("key", ["", "score/"])
def test_a_run_that_cannot_write_its_metadata_leaves_nothing(tmp_path, monkeypatch, key):
    write = LocalRun.write_metadata

    def full(self, node, content):
        if node == key:
            raise StoreError("no space left")
        write(self, node, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "write_metadata", full)
        with pytest.raises(StoreError, match="no space left"):
            lv.save(data_set(), tmp_path / "set.zarr")
    assert not list(tmp_path.iterdir())
    lv.save(data_set(), tmp_path / "set.zarr")


def changed(path, change) -> None:
    """Change the metadata of the group."""
    told = json.loads(path.read_text())
    told["attributes"]["lazyvol"].pop("crc32c")
    change(told["attributes"]["lazyvol"])
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda own: own["variables"].append("mask"), FormatError, "restore the missing variables"),
        (lambda own: own.update(variables="score"), FormatError, "restore the missing variables"),
        (lambda own: own.update(variables=None), FormatError, "restore the missing variables"),
        (lambda own: own.update(labels=[]), FormatError, "are a record"),
        (lambda own: own["labels"].update(shape=7), FormatError, "are a record"),
        (lambda own: own["labels"]["attrs"].update(title="no"), ChecksumError, "crc32c"),
        (lambda own: own["labels"].update(dims=["q"], crc32c=None), FormatError, "not complete"),
    ],
)
def test_a_damaged_record_is_refused(change, error, message, tmp_path):
    lv.save(data_set(), tmp_path / "set.zarr")
    changed(tmp_path / "set.zarr" / "zarr.json", change)
    with pytest.raises(error, match=message):
        lv.open(tmp_path / "set.zarr")


def test_a_data_set_without_labels_of_its_own_opens(tmp_path):
    lv.save(data_set(), tmp_path / "set.zarr")
    changed(tmp_path / "set.zarr" / "zarr.json", lambda own: own.pop("labels"))
    found = lv.open(tmp_path / "set.zarr")
    assert found.attrs == {}
    assert list(found) == ["score", "average", "count"]


def test_what_takes_an_array_says_that_a_data_set_is_none(tmp_path):
    lv.save(data_set(), tmp_path / "set.zarr")
    with pytest.raises(LabelError, match="got a Dataset"):
        lv.stats.mean(lv.open(tmp_path / "set.zarr"))

"""Zarr groups that xarray wrote: one array with its coordinates, in folders, zip and icechunk."""

import json

import numpy as np
import pytest
import xarray as xr

import lazyvol as lv

A = np.random.default_rng(0).normal(size=(6, 4, 5, 7)).astype(np.float32)

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


def stack() -> xr.DataArray:
    labelled = lv.as_stack(A, voxel_size=(4.0, 2.0, 2.5), unit="angstrom", name="density")
    return labelled.assign_coords(
        defocus=("k", np.arange(6.0), {"units": "micrometer"}),
        plane=(("k", "z"), np.arange(24).reshape(6, 4)),
    )


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("inner", ["", "/density"])
def test_positions_and_facts_are_those_of_xarray(tmp_path, version, inner):
    path = tmp_path / "a.zarr"
    stack().to_dataset().to_zarr(path, zarr_format=version, consolidated=False)
    opened = lv.open(f"{path}{inner}")
    xr.testing.assert_identical(opened.compute().drop_attrs(deep=False), stack())
    assert "coordinates" not in opened.attrs
    assert lv.stats.mean(opened).x.attrs["units"] == "angstrom"


def test_the_voxel_size_of_the_user_replaces_positions(tmp_path):
    stack().to_dataset().to_zarr(tmp_path / "a.zarr", consolidated=False)
    opened = lv.open(tmp_path / "a.zarr", voxel_size=3.0, unit="nanometer")
    assert opened.y.values.tolist() == [0, 3, 6, 9, 12]


@pytest.mark.parametrize("names", [["y"], ["a", "a", "b", "c", "d"], [0, 1, 2, 3], "kzyx"])
def test_names_that_do_not_fit_the_axes_are_ignored(tmp_path, names):
    stack().to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    attributes = tmp_path / "a.zarr" / "density" / ".zattrs"
    attributes.write_text(json.dumps({"_ARRAY_DIMENSIONS": names}))
    opened = lv.open(tmp_path / "a.zarr/density")
    assert opened.dims == ("k", "z", "y", "x")
    assert opened.z.values.tolist() == [0, 1, 2, 3]


def test_coordinates_of_text_are_left_out_with_a_warning(tmp_path):
    written = stack().assign_coords(tomogram=("k", list("aabbcc"))).to_dataset()
    written.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    with pytest.warns(lv.errors.LossWarning, match="coordinate 'tomogram' is left out"):
        opened = lv.open(tmp_path / "a.zarr")
    assert "defocus" in opened.coords


def test_large_coordinates_along_several_dims_stay_in_the_store(tmp_path, monkeypatch):
    stack().to_dataset().to_zarr(tmp_path / "a.zarr", consolidated=False)
    monkeypatch.setattr("lazyvol.io.zarr.coordinates.READ_BYTES", 24 * 8 - 1)
    opened = lv.open(tmp_path / "a.zarr")
    assert opened.plane.chunks is not None
    assert opened.defocus.chunks is None
    xr.testing.assert_identical(opened.compute().drop_attrs(deep=False), stack())


def test_several_arrays_are_named_without_their_coordinates(tmp_path):
    both = xr.Dataset({"density": stack(), "other": stack() + 1})
    both.to_zarr(tmp_path / "a.zarr", consolidated=False)
    with pytest.raises(lv.errors.FormatError, match="this group holds density, other; open one"):
        lv.open(tmp_path / "a.zarr")
    assert lv.open(tmp_path / "a.zarr/other").z.values.tolist() == [0, 4, 8, 12]


def test_sessions_of_icechunk_open(tmp_path):
    icechunk = pytest.importorskip("icechunk", reason="lazyvol[icechunk] installs it")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    session = repository.writable_session("main")
    stack().to_dataset().to_zarr(session.store, consolidated=False)
    session.commit("first")
    opened = lv.open(repository.readonly_session("main").store)
    np.testing.assert_array_equal(opened.values, A)
    np.testing.assert_allclose(lv.stats.mean(opened), A.mean(0), atol=1e-6)

"""Zarr groups that xarray wrote: one array with its coordinates, in folders, zip and icechunk."""

import json
import warnings

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


NAMES = ["TS_01", "", "b", "é", "names of unequal lengths", "語"]
TEXTS = {
    "U": np.array(NAMES),
    "O": np.array(NAMES, object),
    "T": np.array(NAMES, np.dtypes.StringDType()),
    "S": np.array([name.encode() for name in NAMES]),
}


@pytest.mark.filterwarnings("ignore:The data type:FutureWarning")
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("version", [2, 3])
def test_texts_of_xarray_are_coordinates(tmp_path, version, kind):
    written = stack().assign_coords(tomogram=("k", TEXTS[kind], {"of": "particles"}))
    encoding = {"tomogram": {"chunks": (4,)}}
    path = tmp_path / "a.zarr"
    written.to_dataset().to_zarr(path, zarr_format=version, consolidated=False, encoding=encoding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tomogram = lv.open(path).tomogram
    assert tomogram.values.tolist() == NAMES
    assert tomogram.dtype.kind == "U"
    assert tomogram.attrs == {"of": "particles"}
    assert lv.verify(path).ok


@pytest.mark.filterwarnings("ignore:The data type:FutureWarning")
@pytest.mark.parametrize("kind", "USO")
def test_large_texts_along_several_dims_stay_in_the_store(tmp_path, monkeypatch, kind):
    texts = np.broadcast_to(TEXTS[kind][:, None], (6, 4))
    written = stack().assign_coords(tomogram=(("k", "z"), texts))
    written.to_dataset().to_zarr(tmp_path / "a.zarr", consolidated=False)
    monkeypatch.setattr("lazyvol.io.zarr.members.READ_BYTES", 100)
    tomogram = lv.open(tmp_path / "a.zarr").tomogram
    assert tomogram.chunks is not None
    assert tomogram[2:, 1].values.tolist() == NAMES[2:]


def test_texts_of_any_length_stay_objects_where_one_is_long(tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.zarr.texts.MAX_EQUAL", 100)
    stack().assign_coords(tomogram=("k", TEXTS["O"])).to_dataset().to_zarr(
        tmp_path / "a.zarr", consolidated=False
    )
    tomogram = lv.open(tmp_path / "a.zarr").tomogram
    assert tomogram.dtype == object
    assert tomogram.values.tolist() == NAMES


def test_texts_that_are_not_unicode_are_left_out_with_a_warning(tmp_path):
    written = stack().assign_coords(tomogram=("k", np.array([b"\xff"] * 6)))
    written.to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    with pytest.warns(lv.errors.LossWarning, match="'tomogram' is left out: .*must be in UTF-8"):
        opened = lv.open(tmp_path / "a.zarr")
    assert "defocus" in opened.coords


def test_python_objects_are_left_out_with_a_warning(tmp_path):
    stack().to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    document = tmp_path / "a.zarr/defocus/.zarray"
    content = json.loads(document.read_text())
    document.write_text(json.dumps({**content, "dtype": "|O", "filters": [{"id": "pickle"}]}))
    with pytest.warns(lv.errors.LossWarning, match="'defocus' is left out: .*would run code"):
        assert "plane" in lv.open(tmp_path / "a.zarr").coords


def test_an_array_of_texts_is_no_stack(tmp_path):
    xr.Dataset({"names": ("k", NAMES)}).to_zarr(
        tmp_path / "a.zarr", zarr_format=2, consolidated=False
    )
    with pytest.raises(lv.errors.FormatError, match="dtype must be one of"):
        lv.open(tmp_path / "a.zarr")


FACTS = {
    "U": ("k", TEXTS["U"]),
    "O": ("k", TEXTS["O"]),
    "T": ("k", TEXTS["T"]),
    "plane": (("k", "z"), np.broadcast_to(TEXTS["U"][:, None], (6, 4))),
    "scalar": ((), "one"),
}


@pytest.mark.parametrize("limit", [1 << 20, 0])
@pytest.mark.parametrize("data_set", [False, True])
def test_texts_that_lazyvol_saves_return_and_open_in_xarray(tmp_path, monkeypatch, limit, data_set):
    monkeypatch.setattr("lazyvol.io.saved_labels.LARGE_COORD_BYTES", limit)
    saved = stack().assign_coords(FACTS)
    path = tmp_path / "a.zarr"
    lv.save(saved.to_dataset() if data_set else saved, path)
    assert lv.verify(path).ok
    opened = lv.open(path)
    by_xarray = xr.open_zarr(path, consolidated=False)
    for name, (dims, texts) in FACTS.items():
        assert (opened[name].chunks is None) is (limit > 0)
        assert opened[name].dims == by_xarray[name].dims == ((dims,) if dims == "k" else dims)
        assert opened[name].values.tolist() == np.asarray(texts).tolist()
        assert by_xarray[name].values.tolist() == np.asarray(texts).tolist()
    assert opened["U"].dtype == TEXTS["U"].dtype
    assert opened["O"].dtype == object


def test_texts_with_lone_surrogates_return_in_lazyvol(tmp_path):
    saved = stack().assign_coords(label=("k", ["\ud800", *NAMES[1:]]))
    lv.save(saved, tmp_path / "a.zarr")
    assert lv.open(tmp_path / "a.zarr").label.values.tolist() == ["\ud800", *NAMES[1:]]


def test_large_coordinates_of_other_objects_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.saved_labels.LARGE_COORD_BYTES", 0)
    objects = xr.DataArray(np.array(["a", *[{1}] * 5], object), dims="k")
    with pytest.raises(lv.LazyvolError, match="must hold texts in Unicode"):
        lv.save(stack().assign_coords(name=objects.chunk()), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_large_coordinates_along_several_dims_stay_in_the_store(tmp_path, monkeypatch):
    stack().to_dataset().to_zarr(tmp_path / "a.zarr", consolidated=False)
    monkeypatch.setattr("lazyvol.io.zarr.members.READ_BYTES", 24 * 8 - 1)
    opened = lv.open(tmp_path / "a.zarr")
    assert opened.plane.chunks is not None
    assert opened.defocus.chunks is None
    xr.testing.assert_identical(opened.compute().drop_attrs(deep=False), stack())


@pytest.mark.parametrize("version", [2, 3])
def test_several_arrays_are_a_data_set(tmp_path, version):
    mean = stack().mean("k").rename("mean")
    written = xr.Dataset({"density": stack(), "other": stack() + 1, "mean": mean}, attrs={"by": 1})
    written.to_zarr(tmp_path / "a.zarr", zarr_format=version, consolidated=False)
    opened = lv.open(tmp_path / "a.zarr")
    assert opened.attrs == {"by": 1}
    assert all(array.chunks is not None for array in opened.values())
    xr.testing.assert_identical(opened.compute().drop_attrs(), written.drop_attrs())
    assert lv.open(tmp_path / "a.zarr/other").z.values.tolist() == [0, 4, 8, 12]
    lv.save(lv.stats.mean(opened.density), tmp_path / "b.zarr")
    lv.save(opened, tmp_path / "c.zarr")
    xr.testing.assert_identical(lv.open(tmp_path / "c.zarr").compute(), opened.compute())


def test_axes_of_a_data_set_have_one_name(tmp_path):
    frames = xr.DataArray(A, dims=("t", "z", "y", "x"), coords={"t": np.arange(6.0)})
    written = xr.Dataset({"frames": frames, "dose": ("t", np.arange(6.0))})
    written.to_zarr(tmp_path / "a.zarr", consolidated=False)
    opened = lv.open(tmp_path / "a.zarr")
    assert opened.frames.dims == ("k", "z", "y", "x")
    assert opened.dose.dims == opened.k.dims == ("k",)


def test_variables_of_text_are_left_out_with_a_warning(tmp_path):
    written = xr.Dataset({"density": stack(), "other": stack(), "name": ("k", NAMES)})
    written.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    with pytest.warns(lv.errors.LossWarning, match="variable 'name' is left out: .*numbers"):
        opened = lv.open(tmp_path / "a.zarr")
    assert list(opened) == ["density", "other"]


def test_arrays_that_are_no_data_set_are_named(tmp_path):
    path = tmp_path / "a.zarr"
    xr.Dataset({"a": ("k", A[:, 0, 0, 0]), "b": ("n", A[0, :, 0, 0])}).to_zarr(
        path, zarr_format=2, consolidated=False
    )
    assert list(lv.open(path)) == ["a", "b"]
    attributes = path / "b/.zattrs"
    attributes.write_text(json.dumps({"_ARRAY_DIMENSIONS": ["k"]}))
    with pytest.raises(lv.errors.FormatError, match=r"holds a, b; open one, e.g. lazyvol.open\("):
        lv.open(path)


def test_sessions_of_icechunk_open(tmp_path):
    icechunk = pytest.importorskip("icechunk", reason="lazyvol[icechunk] installs it")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path)))
    session = repository.writable_session("main")
    stack().to_dataset().to_zarr(session.store, consolidated=False)
    for options in ({}, {"overwrite": True}):
        with pytest.raises(lv.errors.StoreError, match="has no place for the plan"):
            lv.save(stack(), session.store, **options)
    session.commit("first")
    opened = lv.open(repository.readonly_session("main").store)
    np.testing.assert_array_equal(opened.values, A)
    np.testing.assert_allclose(lv.stats.mean(opened), A.mean(0), atol=1e-6)

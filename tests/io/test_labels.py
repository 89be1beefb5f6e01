"""A store restores coordinates and attributes of every type."""

import json

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import lazyvol as lv
from lazyvol import errors
from lazyvol.io import saved_labels
from lazyvol.plan.graph.lazy_array import recipe_of
from lazyvol.stack import spacing

SHAPE = (3, 4, 5, 6)
A = np.random.default_rng(0).normal(size=SHAPE).astype("f4")
STACK = lv.as_stack(A, voxel_size=2.0, unit="nanometer", name="density")
TIMES = np.array(["2024-01-01T00:00:01.5", "NaT", "1969-12-31"], "M8[ns]")


def same(found, wanted):
    """Check that two data sets are identical, dtypes included."""
    xr.testing.assert_identical(found, wanted)
    for name, coord in wanted.coords.items():
        assert found.coords[name].dtype == coord.dtype, name
        assert {k: type(v) for k, v in found.coords[name].attrs.items()} == {
            k: type(v) for k, v in coord.attrs.items()
        }


def round_trip(array, path):
    lv.save(array, path)
    found = lv.open(path)
    same(found.compute(), array.compute())
    return found


COORDS = {
    "two dims": ("shift", (("k", "axis"), np.arange(9.0).reshape(3, 3))),
    "map": ("tilt", (("z", "y"), np.arange(20).reshape(4, 5), {"units": "degree"})),
    "turned map": ("tilt", (("x", "k"), np.arange(18, dtype="u2").reshape(6, 3))),
    "all dims": ("weight", (("k", "z", "y", "x"), A > 0)),
    "text": ("class", ("k", np.array(["a", "b b", "\u00e5\n"]))),
    "text objects": ("class", ("k", np.array(["a", "bb", ""], object))),
    "objects": ("class", ("k", np.array(["a", None, 2.5], object))),
    "times": ("when", ("k", TIMES)),
    "seconds": ("when", ("k", TIMES.astype("M8[s]"))),
    "spans": ("after", ("k", np.array([1, -2, 3], "m8[ns]"))),
    "flags": ("good", ("k", np.array([True, False, True]))),
    "counts": ("n", ("k", np.array([1, 2**63, 3], "u8"))),
    "floats": ("w", ("k", np.array([np.nan, np.inf, -0.0], "f2"))),
    "index of text": ("k", ("k", np.array(["p1", "p2", "p3"]))),
    "index of times": ("k", ("k", TIMES[[0, 2, 0]])),
    "index of ints": ("k", ("k", np.array([5, 3, 9], "i4"), {"long_name": "particle"})),
    "scalar": ("dose", ((), np.float32(1.5), {"units": "e/A2"})),
    "scalar text": ("sample", ((), "ribo some")),
    "scalar time": ("day", ((), TIMES[0])),
    "scalar flag": ("ok", ((), np.bool_(True))),
    "scalar count": ("n", ((), np.int16(-4))),
    "scalar nan": ("n", ((), np.float64(np.nan))),
    "scalar none": ("nothing", ((), np.array(None, object))),
    "slashes": ("a/b c/\u00e5.z", ("k", np.arange(3))),
    "attrs": ("s", ("k", np.arange(3), {"a": {"b": [1, (2, np.float32(3))]}, "units": "m"})),
}


@pytest.mark.parametrize("kind", COORDS)
@pytest.mark.parametrize("dims", ["image", "turned"])
def test_coordinates_of_every_kind(kind, dims, tmp_path):
    name, coord = COORDS[kind]
    stack = STACK.transpose("k", "x", "y", "z") if dims == "turned" else STACK
    if "axis" in coord[0]:
        stack = stack.expand_dims({"axis": 3}, axis=-1)
    stack = stack.assign_coords({name: coord})
    round_trip(stack, tmp_path / "a.zarr")
    both = xr.Dataset({"a": stack, "b": ("k", np.arange(3.0))}, attrs={"t": (1, 2)})
    found = round_trip(both, tmp_path / "d.zarr")
    assert list(found) == ["a", "b"]


def test_all_coordinates_together(tmp_path):
    stack = STACK.assign_coords(
        {
            f"{kind} {name}": coord
            for kind, (name, coord) in COORDS.items()
            if "axis" not in coord[0] and "index" not in kind
        }
    )
    round_trip(stack, tmp_path / "a.zarr")


def test_a_set_of_nothing_but_coordinates(tmp_path):
    coords = {
        "when": ("k", TIMES),
        "shift": (("k", "axis"), np.arange(6.0).reshape(3, 2)),
        "day": ((), TIMES[0]),
    }
    round_trip(xr.Dataset(coords=coords, attrs={"a": [1, None]}), tmp_path / "d.zarr")


ATTRS = {
    "nested": {"a": {"b": [1, {"c": None}]}},
    "numpy scalars": {"a": np.float32(0.1), "b": np.int8(-3), "c": np.bool_(True), "d": TIMES[0]},
    "numpy arrays": {"a": np.arange(6.0).reshape(2, 3), "b": np.array("x"), "c": TIMES},
    "tuples": {"a": (1, (2.5, "x"), [(3,)]), "empty": ()},
    "keys": {"a": {1: "one", (2, 3): "two", "lazyvol:array": 5}, "with/slash \u00e5": 1},
    "words": {"a": float("nan"), "b": -float("inf"), "c": None, "d": True, "e": ""},
    "names of ours": {"coordinate_units": {"a": "b"}, "scale_factor": 2.0, "_FillValue": 0.0},
}


@pytest.mark.parametrize("kind", ATTRS)
def test_attributes_of_every_kind(kind, tmp_path):
    attrs = ATTRS[kind]
    found = round_trip(STACK.assign_attrs(attrs), tmp_path / "a.zarr")
    assert {k: type(v) for k, v in found.attrs.items()} == {k: type(v) for k, v in attrs.items()}
    found = round_trip(STACK.to_dataset(name="a").assign_attrs(attrs), tmp_path / "d.zarr")
    assert {k: type(v) for k, v in found.attrs.items()} == {k: type(v) for k, v in attrs.items()}


@pytest.mark.parametrize(
    "labels",
    [
        STACK.assign_attrs(a=np.ma.masked_array([1, 2], [True, False])),
        STACK.assign_attrs(a={1, 2}),
        STACK.assign_attrs(a=b"bytes"),
        STACK.assign_coords(a=("k", np.array([object()] * 3))),
        STACK.assign_coords(a=("k", np.arange(3) * 1j)),
        STACK.assign_coords({5: ("k", np.arange(3))}),
        STACK.rename(("a", 1)),
    ],
)
def test_labels_that_would_not_come_back_are_refused(labels, tmp_path):
    with pytest.raises(errors.LabelError):
        lv.save(labels, tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [None, "a", "a b/c \u00e5"])
def test_names_of_arrays(name, tmp_path):
    found = round_trip(STACK.rename(name), tmp_path / "a.zarr")
    assert found.name == name


Z = {
    "flipped": np.arange(4)[::-1] * 2.0,
    "flipped from afar": 10.1 - np.arange(4) * 0.3,
    "irregular": np.array([0.0, 1, 4, 9]),
    "nearly regular": np.array([0.0, 1, 2.0001, 3]),
    "single precision": np.arange(4, dtype="f4") * np.float32(0.1),
    "whole numbers": np.arange(4),
    "nan": np.array([0.0, np.nan, 2, 3]),
    "nan at the end": np.array([0.0, 1, 2, np.nan]),
    "infinite": np.array([0.0, 1, 2, np.inf]),
    "the same": np.zeros(4),
    "text": np.array(["a", "b", "c", "d"]),
    "times": np.array([0, 1, 2, 3], "M8[s]"),
    "flags": np.array([True, False, True, False]),
    "evenly spaced": np.linspace(0.1, 0.7, 4),
}


@pytest.mark.parametrize("kind", Z)
@pytest.mark.parametrize("attrs", [{}, {"units": "nanometer"}, {"units": "nanometer", "a": 1}])
def test_positions_of_every_kind(kind, attrs, tmp_path):
    stack = STACK.assign_coords(z=("z", Z[kind], attrs))
    round_trip(stack, tmp_path / "a.zarr")
    round_trip(stack.to_dataset(name="a"), tmp_path / "d.zarr")
    turned = stack.transpose("k", "x", "y", "z")
    round_trip(turned, tmp_path / "t.zarr")


def test_flipped_stacks_are_flipped_for_others_too(tmp_path):
    stack = STACK.isel(z=slice(None, None, -1), x=slice(None, None, -2))
    found = round_trip(stack, tmp_path / "a.zarr")
    assert (spacing(found, "z"), spacing(found, "x")) == (-2.0, -4.0)
    told = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs["ome"]["multiscales"][0]
    scale, shift = told["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [1.0, -2.0, 2.0, -4.0]
    assert shift["translation"] == [0.0, 6.0, 0.0, 10.0]
    given = lv.open(tmp_path / "a.zarr", voxel_size={"z": 3.0}, unit="angstrom")
    assert given.z.values.tolist() == [6.0, 9.0, 12.0, 15.0]
    assert (spacing(given, "x"), given.x.attrs["units"]) == (-4.0, "angstrom")


@pytest.mark.parametrize("suffix", [".mrc", ".map"])
def test_formats_that_cannot_tell_a_flip_refuse_it(suffix, tmp_path):
    flipped = STACK.isel(k=0, z=slice(None, None, -1))
    with pytest.raises(errors.LabelError, match="positions must increase"):
        lv.save(flipped, tmp_path / f"a{suffix}")
    lv.save(flipped.isel(z=slice(None, None, -1)), tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    "picked", [{"z": [2]}, {"z": 2}, {"z": [1], "y": [0], "x": [3]}, {"k": [1]}, {"k": 1}]
)
def test_single_positions(picked, tmp_path):
    round_trip(STACK.isel(picked), tmp_path / "a.zarr")
    lone = STACK.isel(picked).assign_attrs(a=1)
    for d in (d for d in "zyx" if lone.sizes.get(d) == 1):
        lone[d].attrs["spacing"] = 2.0
    round_trip(lone, tmp_path / "b.zarr")


@pytest.mark.parametrize("dims", ["k", "z", "kz", "zyx"])
def test_dims_of_no_length(dims, tmp_path):
    stack = STACK.isel({d: slice(0, 0) for d in dims}).assign_coords(
        s=("k", np.arange(3)[:0]) if "k" in dims else ((), 1)
    )
    round_trip(stack, tmp_path / "a.zarr")
    round_trip(stack.to_dataset(name="a"), tmp_path / "d.zarr")


def test_dims_without_coordinates_stay_without(tmp_path):
    bare = STACK.drop_vars(["z", "x"])
    assert "z" not in round_trip(bare, tmp_path / "a.zarr").coords
    round_trip(xr.DataArray(A, dims=("k", "z", "y", "x")), tmp_path / "b.zarr")
    round_trip(xr.DataArray(A, dims=("a/b", "c d", "\u00e5", "x")), tmp_path / "c.zarr")
    assert lv.open(tmp_path / "a.zarr", voxel_size=3.0).z.values.tolist() == [0.0, 3.0, 6.0, 9.0]


@pytest.mark.parametrize("chunks", [None, {"k": 1}, {"z": 3, "y": 2}])
@pytest.mark.parametrize("dims", ["image", "turned"])
def test_large_coordinates_are_arrays_of_their_own(chunks, dims, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_labels, "LARGE_COORD_BYTES", 100)
    big = {
        "weight": (("k", "z", "y", "x"), A * 2, {"units": "e", "n": (1, 2)}),
        "flag": (("z", "y", "x"), A[0] > 0),
        "when": (("k", "z", "y"), np.arange(60).reshape(3, 4, 5).astype("M8[ns]")),
        "small": ("k", np.arange(3)),
    }
    stack = STACK.transpose("k", "x", "y", "z") if dims == "turned" else STACK
    stack = stack.assign_coords(big)
    if chunks is not None:
        stack = stack.assign_coords(weight=stack.weight.chunk(chunks))
    found = round_trip(stack, tmp_path / "a.zarr")
    told = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["lazyvol"]
    assert [n for n, c in told["coords"].items() if "array" in c] == ["weight", "flag", "when"]
    assert all(isinstance(found[n].data, da.Array) for n in ("weight", "flag", "when"))
    assert recipe_of(found.weight.data).shape == found.weight.shape
    same(lv.open(tmp_path / "a.zarr" / "0").compute(), stack.compute())
    both = xr.Dataset({"a": stack, "b": stack * 2})
    found = round_trip(both, tmp_path / "d.zarr")
    same(lv.open(tmp_path / "d.zarr" / "b").compute(), both["b"].compute())
    round_trip(xr.Dataset(coords=big), tmp_path / "c.zarr")
    with pytest.raises(errors.TargetExistsError, match="input of the result"):
        lv.save(found.compute()["a"].assign_coords(weight=found.weight), tmp_path / "d.zarr")


def test_a_large_index_is_an_array_of_its_own(tmp_path):
    values = np.random.default_rng(0).permutation(200_000).astype("f8")
    array = xr.DataArray(np.zeros(200_000, "u1"), {"k": values}, ("k",))
    round_trip(array, tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr" / "zarr.json").stat().st_size < 10_000


def test_a_large_coordinate_that_is_missing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_labels, "LARGE_COORD_BYTES", 100)
    lv.save(STACK.assign_coords(w=(("k", "z", "y", "x"), A)), tmp_path / "a.zarr")
    next((tmp_path / "a.zarr" / "w" / "c").rglob("*/0")).parent.rename(tmp_path / "gone")
    with pytest.raises(errors.MissingChunkError):
        lv.open(tmp_path / "a.zarr").w.compute()

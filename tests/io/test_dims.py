"""Axis names: from the file, from the option dims, and refused where they are ambiguous."""

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import lazyvol as lv
from lazyvol.errors import LabelError, LimitExceeded
from lazyvol.stack import require_no_colours
from tests.allocations import least_peak


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 99, shape).astype("u1")


def stored(folder, name, values) -> str:
    """Write a file of one of the formats, with or without axis names."""
    path = f"{folder}/a.{name}"
    if name == "npy":
        np.save(path, values)
    elif name == "h5":
        with h5py.File(path, "w") as file:
            file["a"] = values
    elif name == "tif":
        tifffile.imwrite(path, values, photometric="minisblack")
    elif name == "mrc":
        with mrcfile.new(path) as file:
            file.set_data(values.astype("i2"))
            file.voxel_size = 2.5
    else:
        lv.save(lv.as_stack(values, dims=("k", "z", "y")[: values.ndim]), path)
    return path


@pytest.mark.parametrize("name", ["npy", "h5", "tif", "mrc", "zarr"])
def test_every_format_takes_names(name, tmp_path):
    values = numbers(4, 5, 6)
    path = stored(tmp_path, name, values)
    for dims in (("k", "y", "x"), ("y", "x", "channel"), ("a", "b", "c")):
        found = lv.open(path, dims=dims, voxel_size={d: 2.5 for d in dims if d in "zyx"})
        assert found.dims == dims
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(found[1:3, ::2, 4], values[1:3, ::2, 4])
        assert {d for d in dims if d in "zyx"} == set(found.coords)
        for d in found.coords:
            np.testing.assert_array_equal(found[d], 2.5 * np.arange(found.sizes[d]))


@pytest.mark.parametrize("name", ["npy", "h5", "tif", "mrc", "zarr"])
def test_letters_name_the_axes_of_every_format(name, tmp_path):
    values = numbers(4, 5, 6)
    path = stored(tmp_path, name, values)
    for dims, expected in {"kyx": ("k", "y", "x"), "tcx": ("k", "channel", "x")}.items():
        found = lv.open(path, dims=dims)
        assert found.dims == expected
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    "dims", [("k", "y"), ("k", "y", "y"), ("k", "z", "y", "x"), "kzyx", (), ("y", "x")]
)
@pytest.mark.parametrize("name", ["npy", "h5", "tif", "mrc", "zarr"])
def test_names_must_be_those_of_all_axes(name, dims, tmp_path):
    path = stored(tmp_path, name, numbers(4, 5, 6))
    with pytest.raises(LabelError, match=r"dims must name each of its 3 axes .*once, got"):
        lv.open(path, dims=dims)


def test_sizes_and_positions_stay_with_their_axes(tmp_path):
    stack = lv.as_stack(numbers(4, 5, 6), voxel_size=(7.0, 2.0, 1.5), unit="nanometer")
    stack = stack.assign_coords(y=("y", stack.y.values + 30, stack.y.attrs))
    lv.save(stack, tmp_path / "a.tif")
    turned = lv.open(tmp_path / "a.tif", dims=("x", "y", "k"))
    expected = stack.rename(z="x", x="k").drop_vars("k").compute()
    xr.testing.assert_identical(turned.compute(), expected.rename("a"))


def test_files_are_joined_along_the_first_name(tmp_path):
    values = numbers(3, 5, 6)
    for n, image in enumerate(values):
        np.save(tmp_path / f"p{n}.npy", image)
    found = lv.open(tmp_path, dims=("k", "y", "x"))
    assert (found.dims, lv.open(tmp_path).dims) == (("k", "y", "x"), ("z", "y", "x"))
    np.testing.assert_array_equal(found, values)
    assert found.file.values.tolist() == ["p0.npy", "p1.npy", "p2.npy"]
    paths = [tmp_path / "p2.npy", tmp_path / "p0.npy"]
    np.testing.assert_array_equal(lv.open(paths, dims=("frame", "x", "y")), values[[2, 0]])
    assert lv.open(paths, dims="fyx").dims == ("frame", "y", "x")
    for dims in (("k", "k", "x"), (), ""):
        with pytest.raises(LabelError, match="dims must name the axis of the files"):
            lv.open(tmp_path, dims=dims)
    with pytest.raises(LabelError, match="each of its 2 axes"):
        lv.open(tmp_path, dims=("k", "z", "y", "x"))


def test_a_set_of_arrays_takes_no_names(tmp_path):
    stack = lv.as_stack(numbers(4, 5, 6).astype("f4"))
    lv.save(xr.Dataset({"a": stack, "b": stack}), tmp_path / "s.zarr")
    with pytest.raises(LabelError, match=r"a set of a, b; open one of them, e\.g\. .*s\.zarr/a"):
        lv.open(tmp_path / "s.zarr", dims=("k", "y", "x"))
    assert lv.open(tmp_path / "s.zarr/a", dims=("k", "y", "x")).dims == ("k", "y", "x")


@pytest.mark.parametrize("name", ["npy", "h5"])
@pytest.mark.parametrize("shape", [(9,), (1, 2, 1, 2, 3, 2)])
def test_other_numbers_of_axes_need_names(name, shape, tmp_path):
    path = stored(tmp_path, name, numbers(*shape)) + ("::a" if name == "h5" else "")
    with pytest.raises(LabelError, match=rf"found {len(shape)}; name them with dims="):
        lv.open(path)
    found = lv.open(path, dims=tuple("abcdef"[: len(shape)]))
    np.testing.assert_array_equal(found, numbers(*shape))


COLOURS = [(64, 48, 3), (7, 64, 48, 4), (5, 5, 3), (2, 1, 9, 9, 3)]
VOXELS = [(3, 64, 48), (64, 48, 5), (4, 4, 4), (64, 4, 3), (4, 64, 3), (64, 48, 2), (48, 3)]


@pytest.mark.parametrize("shape", COLOURS)
@pytest.mark.parametrize("name", ["npy", "h5", "tif"])
def test_colours_without_names_are_refused(name, shape, tmp_path):
    path = stored(tmp_path, name, numbers(*shape))
    with pytest.raises(LabelError, match=r"a\.\w+ must have named axes .*dims="):
        lv.open(path)
    dims = ("k", "z", "y", "x", "channel")[-len(shape) :]
    found = lv.open(path, dims=dims)
    assert found.dims == dims
    np.testing.assert_array_equal(found, numbers(*shape))


@pytest.mark.parametrize("shape", VOXELS)
@pytest.mark.parametrize("name", ["npy", "h5", "tif"])
def test_other_short_axes_are_voxels(name, shape, tmp_path):
    path = stored(tmp_path, name, numbers(*shape)) + ("::a" if name == "h5" else "")
    np.testing.assert_array_equal(lv.open(path), numbers(*shape))
    require_no_colours(shape, "array")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("count", [1, 6])
def test_tiff_files_that_name_their_colours_open_as_channels(planar, count, tmp_path):
    values = numbers(count, 9, 8, 3)[0 if count == 1 else slice(None)]
    moved = np.moveaxis(values, -1, -3)
    given = moved if planar == "separate" else values
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, given, photometric="rgb", planarconfig=planar)
    found = lv.open(path)
    assert found.dims == (("channel", "y", "x") if count == 1 else ("channel", "z", "y", "x"))
    np.testing.assert_array_equal(found, np.moveaxis(values, -1, 0))


@pytest.mark.parametrize(("axes", "imagej"), [("ZYX", False), ("TYX", True)])
def test_tiff_axes_with_names_may_be_short(axes, imagej, tmp_path):
    path = tmp_path / "a.tif"
    options = {"photometric": "minisblack", "imagej": imagej, "metadata": {"axes": axes}}
    tifffile.imwrite(path, numbers(7, 9, 3), **options)
    assert lv.open(path).dims == ({"Z": "z", "T": "k"}[axes[0]], "y", "x")


def test_positions_and_facts_go_with_their_axes(tmp_path):
    """Return irregular positions, which a store keeps one by one."""
    stack = xr.DataArray(
        numbers(4, 5, 6), {
            "z": ("z", [0.0, 1.0, 5.0, 7.0], {"units": "micrometer"}), "y": ("y", np.arange(5.0)),
            "x": ("x", 3.0 * np.arange(6), {"units": "micrometer"}), "who": ("z", list("abcd")),
        }, ("z", "y", "x"),
    )  # fmt: skip
    lv.save(stack.drop_vars("y"), tmp_path / "a.zarr")
    found = lv.open(tmp_path / "a.zarr", dims=("y", "k", "x"))
    assert found.y.values.tolist() == [0.0, 1.0, 5.0, 7.0]
    assert (found.y.attrs["units"], found.who.dims) == ("micrometer", ("y",))
    named = lv.open(tmp_path / "a.zarr", dims=("k", "y", "x"))
    assert (set(named.coords), named.who.dims) == ({"x", "who"}, ("k",))


def test_what_is_said_of_positions_counts_before_those_of_a_store(tmp_path):
    lv.save(lv.as_stack(numbers(4, 5, 6)), tmp_path / "a.zarr")
    found = lv.open(tmp_path / "a.zarr", voxel_size={"z": 2.0}, unit="nanometer")
    assert found.z.values.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert (found.z.attrs["units"], found.y.attrs["units"]) == ("nanometer", "voxel")


def test_facts_of_any_dims_go_with_their_axes(tmp_path):
    noise = np.random.default_rng(1).random((4, 5))
    stack = lv.as_stack(numbers(4, 5, 6), voxel_size=2.0, unit="angstrom").drop_vars("x")
    stack = stack.assign_coords(
        drift=(("z", "y"), noise, {"units": "pixel"}), run=((), 7, {"a": 1}),
    )  # fmt: skip
    for name in ("a.zarr", "a.tif"):
        lv.save(stack, tmp_path / name)
        found = lv.open(tmp_path / name, dims=("k", "x", "y")).compute()
        expected = stack.drop_vars("z").rename(y="x", x="y", z="k").drop_vars("k", errors="ignore")
        xr.testing.assert_identical(found.rename(None), expected.rename(None))
        assert "y" not in found.coords


@pytest.mark.parametrize("name", ["a.zarr", "a.tif"])
def test_an_axis_takes_no_name_of_a_coordinate_of_other_axes(name, tmp_path):
    stack = lv.as_stack(numbers(4, 5, 6)).assign_coords(run=7, who=("y", list("abcde")))
    lv.save(stack, tmp_path / name)
    for dims in (("run", "y", "x"), ("who", "y", "x"), ("z", "y", "run")):
        with pytest.raises(LabelError, match="dims must not name an axis like a coordinate"):
            lv.open(tmp_path / name, dims=dims)
    found = lv.open(tmp_path / name, dims=("z", "who", "x"))
    assert found.who.dims == ("who",)
    assert found.sel(who="c").shape == (4, 6)


def test_sizes_that_are_said_are_positive(tmp_path):
    stack = lv.as_stack(numbers(4, 5, 6), voxel_size=2.0).isel(x=slice(None, None, -1))
    for name in ("a.tif", "b.tif"):
        lv.save(stack, tmp_path / name)
    for wrong in (-2.0, 0.0, np.nan, np.inf, {"k": 1.0}):
        with pytest.raises(LabelError, match="voxel_size must give positive numbers"):
            lv.open(tmp_path / "a.tif", voxel_size=wrong)
    np.testing.assert_array_equal(lv.open(tmp_path / "a.tif", voxel_size=3.0).x[:2], [10.0, 13.0])
    np.testing.assert_array_equal(lv.open(tmp_path).x, stack.x)


def test_uneven_positions_of_files_are_those_of_their_stack(tmp_path):
    stack = lv.as_stack(numbers(4, 5, 6), voxel_size=2.0).drop_vars("y")
    places = {"z": ("z", [0.0, 1.0, 5.0, 6.0], {"units": "micrometer"})}
    for name in ("a.tif", "b.tif"):
        lv.save(stack.assign_coords(places), tmp_path / name)
    found = lv.open(tmp_path)
    assert (found.dims, set(found.coords)) == (("k", "z", "y", "x"), {"file", "z", "x"})
    xr.testing.assert_identical(found.z.variable, stack.assign_coords(places).z.variable)
    lv.save(stack.assign_coords(z=("z", [0.0, 1.0, 5.0, 7.0], {})), tmp_path / "c.tif")
    with pytest.raises(LabelError, match=r"a\.tif and .*c\.tif have other positions along z"):
        lv.open(tmp_path)
    lv.save(stack.drop_vars("z"), tmp_path / "c.tif", overwrite=True)
    with pytest.raises(LabelError, match=r"a\.tif and .*c\.tif have other positions along z"):
        lv.open(tmp_path)


@pytest.mark.filterwarnings("ignore:open. .* absent")
def test_long_axes_are_refused_before_their_positions_are_made(tmp_path):
    options = {"chunks": (1 << 20, 4, 4), "dtype": "u1", "store": tmp_path / "a.zarr"}
    zarr.create_array(shape=(1 << 27, 4, 4), **options)

    def opened() -> None:
        with pytest.raises(LimitExceeded, match=r"z of a has 134217728; name the axes with dims="):
            lv.open(tmp_path / "a.zarr")
        assert lv.open(tmp_path / "a.zarr", dims="kyx").sizes["k"] == 1 << 27

    assert least_peak(opened) < 16 << 20
    zarr.create_array(shape=(1 << 56, 4, 4), overwrite=True, **options)
    with pytest.raises(LimitExceeded, match="an array may have"):
        lv.open(tmp_path / "a.zarr", dims="kyx")

"""Exported files restore dims, voxel size, units, origin, dtype and name, or saving warns."""

from itertools import product

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr

import lazyvol as lv
from lazyvol.errors import ChecksumError, LabelError, LossWarning, TargetExistsError

LENGTHS = {"k": 2, "channel": 3, "z": 4, "y": 5, "x": 6}
IMAGES = [("y", "x"), ("k", "y", "x"), ("z", "y", "x"), ("k", "z", "y", "x")]
CHANNELS = [("channel", "y", "x"), ("k", "channel", "z", "y", "x")]


def stack_of(dims, shape, dtype="f4", unit="nanometer") -> xr.DataArray:
    """Return a stack whose positions do not begin at 0."""
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    sizes = {d: s for d, s in zip("zyx", (3.5, 2.0, 1.25), strict=True) if d in dims}
    found = lv.as_stack(values, dims=dims, voxel_size=sizes, unit=unit, name="density")
    moved = {d: (d, found[d].values - 7.5 + n, found[d].attrs) for n, d in enumerate(sizes)}
    return found.assign_coords(moved)


def shapes(dims):
    """Return shapes with a length of 1 along every axis."""
    return list(product(*((1, LENGTHS[d]) for d in dims)))


@pytest.mark.parametrize("unit", ["nanometer", "angstrom", "micrometer", "nm"])
@pytest.mark.parametrize(("dims", "shape"), [(d, s) for d in IMAGES for s in shapes(d)])
def test_mrc_gives_the_stack_back(dims, shape, unit, tmp_path):
    stack = stack_of(dims, shape, "i2", unit)
    lv.save(stack, tmp_path / "a.mrc")
    found = lv.open(tmp_path / "a.mrc").compute()
    assert (found.name, found.dtype) == (stack.name, stack.dtype)
    xr.testing.assert_allclose(found, stack, rtol=1e-6)
    for d in found.coords:
        assert found[d].attrs == stack[d].attrs


@pytest.mark.parametrize("dtype", ["u1", "f8"])
@pytest.mark.parametrize(("dims", "shape"), [(d, s) for d in IMAGES + CHANNELS for s in shapes(d)])
def test_tiff_gives_the_stack_back(dims, shape, dtype, tmp_path):
    stack = stack_of(dims, shape, dtype)
    lv.save(stack, tmp_path / "a.tif")
    xr.testing.assert_identical(lv.open(tmp_path / "a.tif").compute(), stack)
    assert lv.open(tmp_path / "a.tif").dtype == dtype
    read = tifffile.imread(tmp_path / "a.tif", squeeze=False)
    np.testing.assert_array_equal(read.reshape(shape), stack)


@pytest.mark.parametrize("chunks", [-1, 1])
def test_tiff_holds_facts_attributes_and_odd_positions(chunks, tmp_path):
    stack = stack_of(("k", "z", "y", "x"), (2, 4, 5, 6), "f4", "furlong").chunk(k=chunks)
    stack = stack.assign_coords(
        k=[3, 9], tomogram=("k", ["a <&> b", "\u00e9"]), x=("x", [0.0, 1, 5, 6, 7, 9]),
    ).assign_attrs(handedness="\u00b5 unknown", levels=(1, np.nan))  # fmt: skip
    lv.save(stack, tmp_path / "a.tif")
    found = lv.open(tmp_path / "a.tif").compute()
    xr.testing.assert_identical(found.drop_attrs(), stack.compute().drop_attrs())
    assert found.z.attrs["units"] == "furlong"
    assert found.attrs["handedness"] == "\u00b5 unknown"
    np.testing.assert_equal(found.attrs["levels"], (1, np.nan))


#: of the record in the annotation
SIZE = b"&quot;voxel_size&quot;: {&quot;z&quot;: 3.5"


def rewritten(path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) >= 1
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def test_what_other_programs_changed_in_a_tiff_counts(tmp_path):
    path = tmp_path / "a.tif"
    lv.save(stack_of(("z", "y", "x"), (4, 5, 6)), path)
    rewritten(path, b'PhysicalSizeX="1.25"', b'PhysicalSizeX="9.25"')
    found = lv.open(path)
    assert (float(found.x[0]), float(found.x[1])) == (0.0, 9.25)
    rewritten(
        path,
        b"&quot;voxel_size&quot;: {&quot;z&quot;: 3.5",
        b"&quot;voxel_size&quot;: {&quot;z&quot;: 3.6",
    )
    with pytest.raises(ChecksumError, match="damaged"):
        lv.open(path)


@pytest.mark.parametrize("lazy", [False, True])
def test_tiff_holds_coordinates_of_any_dims_and_size(lazy, tmp_path):
    stack = stack_of(("k", "z", "y", "x"), (2, 4, 5, 6), "f4").drop_vars("y")
    many = np.random.default_rng(0).random((2, 4, 5))
    stack = stack.assign_coords(
        drift=(("k", "z", "y"), many, {"units": "pixel"}), run=((), 7, {"note": "a"}),
        z=("z", stack.z.values, {**stack.z.attrs, "stage": "up"}),
    )  # fmt: skip
    stack = stack.assign_coords(drift=stack.drift.chunk(k=1)) if lazy else stack
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lazyvol.io.saved_labels.LARGE_COORD_BYTES", 100)
        lv.save(stack, tmp_path / "a.tif")
    xr.testing.assert_identical(lv.open(tmp_path / "a.tif").compute(), stack.compute())


def test_positions_of_sizes_that_other_programs_changed_are_dropped(tmp_path):
    path = tmp_path / "a.tif"
    stack = stack_of(("z", "y", "x"), (4, 5, 6))
    for d in "zx":
        stack[d].attrs["stage"] = "up"
    stack = stack.assign_coords(y=("y", [0.0, 1, 5, 6, 9], stack.y.attrs))
    lv.save(stack, path)
    xr.testing.assert_identical(lv.open(path).compute(), stack)
    rewritten(path, b'PhysicalSizeX="1.25"', b'PhysicalSizeX="9.25"')
    found = lv.open(path)
    assert (float(found.x[0]), float(found.x[1])) == (0.0, 9.25)
    assert float(found.z[1]) == 3.5
    np.testing.assert_array_equal(found.y, stack.y)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 5, 7), (4, 5, 7), (5, 7)])
def test_npy_gives_values_back(shape, tmp_path):
    stack = lv.as_stack(np.arange(np.prod(shape), dtype="i4").reshape(shape), name="a")
    lv.save(stack, tmp_path / "a.npy")
    xr.testing.assert_identical(lv.open(tmp_path / "a.npy").compute(), stack)


@pytest.mark.parametrize(
    ("suffix", "change", "words"),
    [
        ("npy", {"dims": ("k", "y", "x")}, r"the dims, open it with dims=\('k', 'y', 'x'\)"),
        ("npy", {"shape": (9, 8, 3), "dims": ("z", "y", "x")}, "the dims, open it with dims="),
        ("npy", {"voxel_size": 2.0}, r"voxel size and positions \(voxel\)"),
        ("npy", {"origin": 3.0}, r"voxel size and positions \(voxel\)"),
        ("mrc", {"voxel_size": 2.0}, r"voxel size and positions \(voxel\)"),
        ("mrc", {"origin": 3.0}, r"voxel size and positions \(voxel\)"),
        ("mrc", {"voxel_size": 2.0, "unit": "furlong"}, r"voxel size and positions \(furlong\)"),
        ("mrc", {"name": "\u00e9"}, "the name '\u00e9'"),
        ("mrc", {"name": "x" * 70}, "the name 'xxx"),
        *((s, {"coords": {"k": [3, 4]}, "dims": ("k", "z", "y", "x"), "shape": (2, 3, 5, 6)},
           "coordinates k") for s in ("npy", "mrc")),
        *((s, {"coords": {"run": 7}}, "coordinates run") for s in ("npy", "mrc")),
        *((s, {"coords": {"x": ("x", [0.0, 1, 5, 6, 7, 9])}}, "uneven positions along x")
          for s in ("npy", "mrc")),
        *((s, {"attrs": {"note": 1}}, "attributes note") for s in ("npy", "mrc")),
        *((s, {"coords": {"map": (("y", "x"), np.zeros((5, 6)))}}, "coordinates map")
          for s in ("npy", "mrc")),
        *((s, {"coords": {"x": ("x", np.arange(6.0), {"a": 1})}}, "attributes a of x")
          for s in ("npy", "mrc")),
    ],
)  # fmt: skip
def test_what_has_no_place_is_named(suffix, change, words, tmp_path):
    options = {n: change[n] for n in ("voxel_size", "unit", "name", "dims") if n in change}
    values = np.zeros(change.get("shape", (4, 5, 6)), "f4")
    stack = lv.as_stack(values, **options).assign_attrs(change.get("attrs", {}))
    moved = change.get("origin", 0.0)
    stack = stack.assign_coords({d: (d, stack[d].values + moved, stack[d].attrs) for d in "yx"})
    stack = stack.assign_coords(change.get("coords", {}))
    with pytest.warns(LossWarning, match=words) as told:
        lv.save(stack, tmp_path / f"a.{suffix}")
    assert len(told) == 1
    assert told[0].filename == __file__


def test_tiff_keeps_positions_that_decrease(tmp_path):
    stack = lv.as_stack(np.zeros((4, 5, 6), "f4"), voxel_size=2.0, unit="angstrom")
    turned = stack.isel(x=slice(None, None, -1))
    lv.save(turned, tmp_path / "a.tif")
    xr.testing.assert_identical(lv.open(tmp_path / "a.tif").x.compute(), turned.x)


@pytest.mark.parametrize("suffix", ["mrc", "tif"])
def test_a_stack_of_nothing_is_refused(suffix, tmp_path):
    stack = lv.as_stack(np.zeros((0, 4, 5, 6), "f4"))
    with pytest.raises(LabelError, match="must hold one voxel or more, got shape"):
        lv.save(stack, tmp_path / f"a.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["npy", "mrc", "tif", "csv", "star"])
def test_nothing_is_computed_for_a_file_that_is_there(suffix, tmp_path):
    def fail(block):
        raise AssertionError("a block was computed")

    path = tmp_path / f"a.{suffix}"
    path.write_text("mine")
    shape = (4,) if suffix in ("csv", "star") else (4, 5)
    values = da.zeros(shape, dtype="f4").map_blocks(fail, dtype="f4")
    stack = xr.DataArray(values, dims=("k",) if len(shape) == 1 else ("y", "x"))
    with pytest.raises(TargetExistsError):
        lv.save(stack, path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("suffix", ["npy", "mrc", "tif"])
def test_what_a_set_of_one_array_has_beside_it_is_named(suffix, tmp_path):
    array = xr.DataArray(np.zeros((4, 5), "f4"), dims=("y", "x"))
    found = xr.Dataset({"a": array}, {"q": ("q", [1.0])}, {"note": 1})
    with pytest.warns(LossWarning, match="coordinates q; attributes note of the set") as told:
        lv.save(found, tmp_path / f"a.{suffix}")
    assert told[0].filename == __file__

"""Stores that other programs read: coordinates for xarray, levels and metadata for viewers."""

import json

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from skimage.measure import block_reduce

import lazyvol as lv
from lazyvol import errors
from lazyvol.io.zarr.pyramid import level_factors, level_values
from lazyvol.io.zarr.shard_shape import shard_grid
from tests.io.buckets import bucket_server

RNG = np.random.default_rng(4)
TIMES = np.array(["2024-01-01T00:00:01.5", "NaT", "1969-12-31", "2000-02-29"], "M8[ns]")


def stack() -> xr.DataArray:
    values = RNG.normal(size=(4, 6, 7, 8)).astype("f4")
    found = lv.as_stack(values, voxel_size=(3.0, 2.0, 2.0), unit="angstrom", name="density")
    return found.assign_coords(
        score=("k", np.arange(4.0), {"units": "e"}), half=("k", [1, 2, 1, 2]), when=("k", TIMES),
        tilt=(("z", "y"), RNG.random((6, 7))),
    ).assign_attrs(contrast="dark", shift=np.arange(3))  # fmt: skip


def test_xarray_finds_dims_coordinates_and_units(tmp_path):
    lv.save(stack(), tmp_path / "a.zarr")
    found = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["0"]
    assert found.dims == ("k", "z", "y", "x")
    np.testing.assert_array_equal(found.values, stack_values := lv.open(tmp_path / "a.zarr").values)
    assert stack_values.any()
    for name, coord in stack().drop_vars("tilt").coords.items():
        np.testing.assert_array_equal(found[name].values, coord.values)
        assert found[name].dims == coord.dims
    assert set(found.coords) == {"z", "y", "x", "score", "half", "when", "tilt"}
    assert found.z.attrs["units"] == "angstrom"
    assert found.score.attrs["units"] == "e"
    assert found.attrs["contrast"] == "dark"
    assert found.attrs["shift"] == [0, 1, 2]


def test_xarray_finds_the_variables_of_a_data_set(tmp_path):
    both = xr.Dataset({"stack": stack(), "ncc": ("k", np.arange(4.0))}, attrs={"title": "t"})
    lv.save(both, tmp_path / "d.zarr")
    root = xr.open_zarr(tmp_path / "d.zarr", consolidated=False)
    assert set(root) == {"ncc"}
    assert root.attrs["title"] == "t"
    assert set(root.coords) == {"z", "y", "x", "score", "half", "when", "tilt"}
    inner = xr.open_zarr(tmp_path / "d.zarr", group="stack", consolidated=False)
    np.testing.assert_array_equal(inner["0"], both["stack"])
    np.testing.assert_array_equal(inner.score, both.score)


def test_dask_and_tensorstore_read_a_store(tmp_path):
    lv.save(stack(), tmp_path / "a.zarr")
    values = lv.open(tmp_path / "a.zarr").values
    np.testing.assert_array_equal(da.from_zarr(f"{tmp_path}/a.zarr", component="0"), values)
    tensorstore = pytest.importorskip("tensorstore")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/a.zarr/0/"}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), values)


def test_facts_of_many_particles_are_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.saved_labels.LARGE_COORD_BYTES", 1000)
    n, facts = 2000, {f"rlnFact{i}": RNG.random(2000) for i in range(5)}
    scores = xr.DataArray(RNG.random(n), dims="k", name="ncc")
    scores = scores.assign_coords({name: ("k", values) for name, values in facts.items()})
    lv.save(scores, tmp_path / "one.zarr")
    both = xr.Dataset({"ncc": scores, "llr": scores * 2})
    lv.save(both, tmp_path / "set.zarr")
    assert (tmp_path / "set.zarr/zarr.json").stat().st_size < 20_000
    assert len(list((tmp_path / "set.zarr").rglob("rlnFact0"))) == 1  # not once per variable
    xr.testing.assert_identical(lv.open(tmp_path / "one.zarr").compute(), scores)
    xr.testing.assert_identical(lv.open(tmp_path / "set.zarr").compute(), both)
    alone = lv.open(tmp_path / "set.zarr/llr").compute()
    np.testing.assert_array_equal(alone.rlnFact3, facts["rlnFact3"])
    found = xr.open_zarr(tmp_path / "set.zarr", consolidated=False)
    assert set(found.coords) == set(facts)
    assert lv.verify(tmp_path / "set.zarr").ok


def mean_of_blocks(values, factors):
    """Means by skimage, of the voxels that are there at the end of an axis."""
    with np.errstate(all="ignore"):
        sums = block_reduce(values.astype("f8"), factors, np.sum)
        counts = block_reduce(np.ones(values.shape), factors, np.sum)
    return sums / counts


@pytest.mark.parametrize("dtype", ["f4", "u1", "i2", "f8"])
@pytest.mark.parametrize("shape", [(3, 9, 8, 11), (5, 1, 16), (7, 13)])
def test_levels_are_means(dtype, shape, monkeypatch):
    monkeypatch.setattr("lazyvol.io.zarr.pyramid.SLAB", 200)
    values = (RNG.random(shape) * 200).astype(dtype)
    levels = [tuple(1 if n == 3 else 2**level for n in shape) for level in (1, 2, 3)]
    for factors, got in zip(levels, level_values(values, levels), strict=True):
        wanted = mean_of_blocks(values, factors)
        assert got.dtype == values.dtype
        tolerance = 0.5 + 1e-9 if values.dtype.kind in "iu" else 1e-5
        np.testing.assert_allclose(got, wanted, atol=tolerance, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "u4", "i8"])
def test_levels_of_labels_keep_labels(dtype):
    values = RNG.integers(0, 2 if dtype == "bool" else 1000, (9, 10, 11)).astype(dtype)
    for factors, got in zip([(2, 2, 2)], level_values(values, [(2, 2, 2)]), strict=True):
        np.testing.assert_array_equal(got, values[:: factors[0], ::2, ::2])


def test_only_axes_that_are_as_fine_are_halved():
    dims = ("k", "z", "y", "x")
    anisotropic = level_factors(dims, (9, 100, 800, 800), {"z": 4.0, "y": 1.0, "x": 1.0})
    assert anisotropic == [(1, 1, 2, 2), (1, 1, 4, 4), (1, 2, 8, 8), (1, 4, 16, 16)]
    assert level_factors(dims, (9, 64, 64, 64), {}) == []
    assert level_factors(("y", "x"), (130, 50), {}) == [(2, 2), (4, 4)]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_pyramid_is_written_with_its_metadata(lazy, tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.zarr.pyramid.COARSEST", 8)
    monkeypatch.setattr("lazyvol.io.zarr.shard_shape.EDGES", {3: (8, 8, 8)})
    monkeypatch.setattr("lazyvol.io.save_plan.BLOCK", 9000)
    values = RNG.normal(size=(21, 34, 37)).astype("f4")
    volume = lv.as_stack(values, voxel_size=(4.0, 2.0, 2.0), unit="nanometer", name="map")
    volume = volume.assign_coords({d: volume[d] + 10 for d in "zyx"})
    volume.z.attrs["units"] = volume.y.attrs["units"] = volume.x.attrs["units"] = "nanometer"
    lv.save(volume.chunk(z=8) if lazy else volume, tmp_path / "a.zarr", pyramid=True)
    xr.testing.assert_identical(lv.open(tmp_path / "a.zarr").compute(), volume)
    ome = json.loads((tmp_path / "a.zarr/zarr.json").read_text())["attributes"]["ome"]
    levels = ome["multiscales"][0]["datasets"]
    assert [level["path"] for level in levels] == ["0", "levels/1", "levels/2", "levels/3"]
    factors = [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)]
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    for level, fs in zip(levels, factors, strict=True):
        got = group[level["path"]]
        np.testing.assert_allclose(got[...], mean_of_blocks(values, fs), rtol=1e-5, atol=1e-6)
        assert got.metadata.dimension_names == ("z", "y", "x")
        scale, move = level["coordinateTransformations"]
        centres = [np.arange(f).mean() * s + 10 for f, s in zip(fs, (4, 2, 2), strict=True)]
        assert scale["scale"] == [f * s for f, s in zip(fs, (4, 2, 2), strict=True)]
        assert move["translation"] == centres
    half = lv.open(tmp_path / "a.zarr/levels/1").compute()
    np.testing.assert_array_equal(half, group["levels/1"][...])
    assert half.y.values[:2].tolist() == [11.0, 15.0]
    assert half.y.attrs["units"] == "nanometer"
    (channel,) = ome["omero"]["channels"]
    assert channel["label"] == "map"
    assert channel["window"]["start"] < channel["window"]["end"]
    assert lv.verify(tmp_path / "a.zarr").ok
    shard = next((tmp_path / "a.zarr/levels/2/c").rglob("0/0/0"))
    shard.unlink()
    assert [fault.kind for fault in lv.verify(tmp_path / "a.zarr").faults] == ["missing"]
    assert xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["0"].dims == ("z", "y", "x")


def test_channels_have_names_and_limits(tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.zarr.pyramid.COARSEST", 8)
    values = (RNG.random((2, 5, 16, 16)) * np.array([10, 1000]).reshape(2, 1, 1, 1)).astype("u2")
    image = lv.as_stack(values, dims=("channel", "z", "y", "x"))
    lv.save(image.assign_coords(channel=["dna", "actin"]), tmp_path / "a.zarr", pyramid=True)
    ome = json.loads((tmp_path / "a.zarr/zarr.json").read_text())["attributes"]["ome"]
    first, second = ome["omero"]["channels"]
    assert (first["label"], second["label"]) == ("dna", "actin")
    assert first["window"]["max"] <= 10 < second["window"]["end"]


def test_stores_pass_the_validator_of_ome(tmp_path, monkeypatch):
    yaozarrs = pytest.importorskip("yaozarrs")
    monkeypatch.setattr("lazyvol.io.zarr.pyramid.COARSEST", 4)
    for name, pyramid in (("plain", False), ("pyramid", True)):
        lv.save(stack(), tmp_path / f"{name}.zarr", pyramid=pyramid)
        yaozarrs.validate_zarr_store(f"{tmp_path}/{name}.zarr")


def test_a_pyramid_in_a_bucket(monkeypatch):
    monkeypatch.setattr("lazyvol.io.zarr.pyramid.COARSEST", 4)
    with bucket_server() as server:
        url = "s3://stack/pyramid.zarr"
        lv.save(stack(), url, pyramid=True, storage_options=server.options)
        assert lv.verify(url, storage_options=server.options).ok
        level = lv.open(f"{url}/levels/1", storage_options=server.options)
        wanted = mean_of_blocks(lv.open(url, storage_options=server.options).values, (1, 1, 2, 2))
        np.testing.assert_allclose(level, wanted, rtol=1e-5)


def test_what_is_no_image_has_no_pyramid(tmp_path):
    for wrong, path in (
        (stack().to_dataset(name="a"), "a.zarr"),
        (stack(), "a.mrc"),
        (xr.DataArray(np.ones(5), dims="k"), "a.zarr"),
    ):
        with pytest.raises(errors.LabelError, match="pyramid=True"):
            lv.save(wrong, tmp_path / path, pyramid=True)
    assert not list(tmp_path.iterdir())


def test_shards_of_a_pyramid_end_at_multiples_of_the_coarsest_factor():
    chunks, shards = shard_grid((1000, 1000, 1000), "f4", max_bytes=1 << 28, multiples=(16,) * 3)
    assert chunks == (128, 128, 128)
    assert shards[0] % 16 == 0

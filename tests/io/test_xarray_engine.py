"""``xarray.open_dataset(engine="lazyvol")`` opens what `lazyvol.open` opens."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.io.xarray_engine import LazyvolBackend
from tests.io.zarr_cases import SHAPE, numbers


def stack():
    values = numbers(SHAPE).astype("float32")
    return lv.as_stack(values, voxel_size=2.5, unit="angstrom").rename("particles")


@pytest.mark.parametrize("suffix", [".zarr", ".mrc", ".tif"])
@pytest.mark.parametrize("chunks", [None, {}, {"k": 1}])
def test_values_and_labels_are_those_of_open(suffix, chunks, tmp_path):
    lv.save(stack(), tmp_path / f"a{suffix}")
    found = xr.open_dataset(tmp_path / f"a{suffix}", engine=LazyvolBackend, chunks=chunks)
    expected = lv.open(tmp_path / f"a{suffix}")
    assert isinstance(found[expected.name].data, da.Array)
    xr.testing.assert_identical(found[expected.name].compute(), expected.compute())


def test_an_operation_reads_its_own_regions(tmp_path):
    lv.save(stack(), tmp_path / "a.zarr")
    found = xr.open_dataset(tmp_path / "a.zarr", engine=LazyvolBackend).particles
    opened = lv.open(tmp_path / "a.zarr")
    assert len(lv.filters.gaussian(found, 1.0).data.dask) == len(
        lv.filters.gaussian(opened, 1.0).data.dask
    )
    np.testing.assert_array_equal(lv.filters.gaussian(found, 1.0), lv.filters.gaussian(opened, 1.0))


def test_data_sets_lose_the_variables_that_are_dropped(tmp_path):
    lv.save(lv.stats.describe(stack()), tmp_path / "a.zarr")
    found = xr.open_dataset(tmp_path / "a.zarr", engine=LazyvolBackend, drop_variables=["mean"])
    xr.testing.assert_identical(
        found.compute(), lv.open(tmp_path / "a.zarr").drop_vars("mean").compute()
    )


def test_options_are_passed_on(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), "float32"))
    found = xr.open_dataset(
        tmp_path / "a.npy", engine=LazyvolBackend, dims=("k", "y", "x"), voxel_size=3.0, unit="nm"
    )
    assert found.a.dims == ("k", "y", "x")
    assert float(found.y[1]) == 3.0


def test_the_engine_has_its_name():
    if "lazyvol" not in xr.backends.list_engines():
        pytest.skip("entry points of this checkout are not installed; pip install -e . does")
    assert isinstance(xr.backends.list_engines()["lazyvol"], LazyvolBackend)

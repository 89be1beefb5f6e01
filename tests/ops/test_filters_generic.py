"""Functions of the user over windows, beyond the table of operations."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy import ndimage as ndi

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.filters import generic as kernels
from tests.rows.filters import spread

VALUES = np.random.default_rng(12).normal(size=(2, 4, 6, 7))
FOOTPRINT = np.array([[1, 0, 1], [0, 1, 1]], bool)


def weighted(values):
    """Depend on the order of the values."""
    return values @ np.arange(1.0, 5.0)


@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "constant", "wrap"])
def test_a_footprint_an_origin_and_the_order_of_values_are_those_of_scipy(mode):
    stack = lv.as_stack(da.from_array(VALUES, (1, 3, 4, 4)))
    result = lv.filters.generic(
        stack, weighted, footprint=FOOTPRINT, origin=(0, -1, 1), mode=mode, fill=0.5
    )
    expected = ndi.generic_filter(
        VALUES, weighted, footprint=FOOTPRINT[None, None], origin=(0, 0, -1, 1), mode=mode,
        cval=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(result.values, expected, rtol=1e-14, atol=1e-14)
    ball = lv.filters.generic(lv.as_stack(VALUES), np.median, radius=1.0, mode=mode)
    median = lv.filters.median(lv.as_stack(VALUES), radius=1.0, mode=mode)
    np.testing.assert_array_equal(ball, median)


def test_integers_become_floats_and_nan_reaches_the_function():
    counts = np.arange(12, dtype=np.uint8).reshape(3, 4)
    result = lv.filters.generic(lv.as_stack(counts), "numpy:mean", 3)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, ndi.uniform_filter(counts.astype(float), 3), rtol=1e-14)
    holed = np.where(counts == 5, np.nan, counts)
    assert np.isfinite(lv.filters.generic(lv.as_stack(holed), np.nanmax, 3)).all()
    for function in (spread, np.ptp):
        assert np.isnan(lv.filters.generic(lv.as_stack(holed), function, 3)).sum() == 9


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: v, "must return a number for an array of 9 values, got TypeError"),
        (lambda v: v[9], "got IndexError"),
        ("numpy", "must be 'module:function'"),
        ("no_such_module:f", "ModuleNotFoundError"),
        ("numpy:no_such_function", "AttributeError"),
        (3, "a function or a text, got 3"),
    ],
)
def test_what_is_no_function_of_one_axis_is_refused(function, message):
    with pytest.raises(OptionError, match=f"^generic: function .*{message}"):
        lv.filters.generic(lv.as_stack(VALUES), function, {"y": 3, "x": 3})


def test_a_window_is_required():
    with pytest.raises(LabelError, match="generic: size must be given"):
        lv.filters.generic(lv.as_stack(VALUES), np.ptp)


def test_even_thresholds_follow_the_windows_of_scipy():
    result = lv.filters.threshold_local(lv.as_stack(VALUES), (2, 3, 4), method="mean")
    expected = np.stack([ndi.uniform_filter(v, (2, 3, 4)) for v in VALUES])
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-14)
    with pytest.raises(LabelError, match="threshold_local: mode must not be 'valid'"):
        lv.filters.threshold_local(lv.as_stack(VALUES), 5, mode="valid")


def test_profiles_and_windows_that_are_gathered_in_parts(monkeypatch):
    values = VALUES[0, 0, 0]
    profile = xr.DataArray(values, dims="z")
    np.testing.assert_array_equal(
        lv.filters.generic(profile, np.median, {"z": 3}), ndi.median_filter(values, 3)
    )
    monkeypatch.setattr(kernels, "MAX_GATHERED", 50)
    result = lv.filters.generic(lv.as_stack(VALUES[0]), np.median, 3)
    np.testing.assert_array_equal(result, ndi.median_filter(VALUES[0], 3))


def test_windows_that_no_memory_holds_are_refused():
    with pytest.raises(OptionError, match=r"^generic: size must be 16777216 voxels or fewer"):
        lv.filters.generic(lv.as_stack(VALUES), np.median, 1000)

"""Filters in Fourier space against those in space, and their refusals."""

import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError

VALUES = np.random.default_rng(2).normal(size=(2, 12, 15, 16)).astype(np.float32)
STACK = lv.as_stack(VALUES, voxel_size=(2.0, 1.0, 1.0), unit="nm")


def test_a_gaussian_is_that_of_periodic_filters():
    """They differ by the tail that the window in space cuts off, and by aliasing of narrow ones."""
    sigma = {"z": 3.0, "x": 2.0}
    inside = lv.filters.gaussian(STACK, sigma, mode="wrap", truncate=8.0)
    np.testing.assert_allclose(lv.fourier.gaussian(STACK, sigma), inside, atol=1e-5)


def test_an_ellipsoid_is_a_ball_of_its_diameters():
    impulse = lv.as_stack(np.zeros((32, 32, 32)))
    impulse[16, 16, 16] = 1.0
    means = lv.fourier.ellipsoid(impulse, {"z": 12, "y": 12, "x": 20})
    z, y, x = np.meshgrid(*[np.arange(32) - 16] * 3, indexing="ij")
    radius = np.sqrt((z**2 + y**2) / 36 + x**2 / 100)
    volume = 4 / 3 * np.pi * 6 * 6 * 10
    assert means.values[radius < 0.6].mean() * volume == pytest.approx(1, abs=0.02)
    assert abs(means.values[radius > 1.4].mean()) * volume < 0.01


def test_means_are_kept_and_other_dims_are_not_filtered():
    for result in (
        lv.fourier.gaussian(STACK, 2.0),
        lv.fourier.uniform(STACK, 4),
        lv.fourier.ellipsoid(STACK, 4),
        lv.fourier.shift(STACK, (0.3, 0.2, -0.7)),
    ):
        means = result.mean(("z", "y", "x"))
        np.testing.assert_allclose(means, VALUES.mean((1, 2, 3)), atol=1e-6)
    lines = lv.fourier.uniform(STACK, {"x": 3})
    alone = lv.fourier.uniform(STACK[:, 3:4, 2:3], {"x": 3})
    np.testing.assert_allclose(lines[:, 3:4, 2:3], alone, atol=1e-6)
    xr.testing.assert_identical(lv.fourier.gaussian(STACK, 0.0), STACK)


def test_what_has_no_transform_is_refused():
    with pytest.raises(LabelError, match="gaussian: stack must hold real numbers"):
        lv.fourier.gaussian(STACK + 1j, 1.0)
    with pytest.raises(LabelError, match="ellipsoid: stack must have one voxel or more"):
        lv.fourier.ellipsoid(STACK[:, :0], 3)
    with pytest.raises(LabelError, match="gaussian: at most three dims"):
        lv.fourier.gaussian(STACK, dict.fromkeys(STACK.dims, 1.0))
    with pytest.raises(OptionError, match="gaussian: sigma must reach 1048576 voxels or less"):
        lv.fourier.gaussian(STACK, 1e308)

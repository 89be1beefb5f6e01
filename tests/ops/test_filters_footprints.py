"""Rank filters over footprints and balls, against scipy."""

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr

import lazyvol as lv
from lazyvol.errors import LabelError

SHAPE = (2, 6, 9, 11)
VALUES = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
VOXEL = (3.0, 2.0, 1.5)
EVEN = np.random.default_rng(4).random((2, 4, 3)) > 0.4
FILTERS = {
    "minimum": (lv.filters.minimum, ndi.minimum_filter, ()),
    "maximum": (lv.filters.maximum, ndi.maximum_filter, ()),
    "median": (lv.filters.median, ndi.median_filter, ()),
    "percentile": (lv.filters.percentile, ndi.percentile_filter, (30.0,)),
    "rank": (lv.filters.rank, ndi.rank_filter, (-2,)),
}


def chunked(values):
    return lv.as_stack(da.from_array(values, (1, 4, 9, 5)), voxel_size=VOXEL)


@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "wrap", "constant"])
@pytest.mark.parametrize("name", FILTERS)
def test_footprints_are_those_of_scipy(name, mode):
    ours, theirs, options = FILTERS[name]
    got = ours(chunked(VALUES), *options, footprint=EVEN, mode=mode, fill=0.3)
    expected = [theirs(v, *options, footprint=EVEN, mode=mode, cval=0.3) for v in VALUES]
    np.testing.assert_array_equal(got, np.stack(expected))


@pytest.mark.parametrize("name", FILTERS)
def test_balls_are_ellipsoids_of_voxels(name):
    ours, theirs, options = FILTERS[name]
    grids = np.meshgrid(*(np.arange(-n, n + 1) * s for n, s in zip((1, 2, 3), VOXEL, strict=True)),
                        indexing="ij")  # fmt: skip
    ball = np.sqrt(sum(g**2 for g in grids)) <= 4.6
    values = (VALUES * 40).astype(np.int16)
    got = ours(chunked(values).transpose("x", "k", "z", "y"), *options, radius=4.6)
    expected = np.stack([theirs(v, *options, footprint=ball) for v in values])
    np.testing.assert_array_equal(got.transpose(*"kzyx"), expected)


def test_windows_longer_than_an_axis_and_named_dims():
    footprint = np.random.default_rng(5).random((17, 5)) > 0.5
    named = xr.DataArray(footprint, dims=("y", "z"))
    got = lv.filters.median(chunked(VALUES), footprint=named)
    expected = [ndi.median_filter(v, footprint=footprint.T[..., None]) for v in VALUES]
    np.testing.assert_array_equal(got, np.stack(expected))
    image = VALUES[0, 0]
    np.testing.assert_array_equal(
        lv.filters.maximum(image, footprint=[[0, 1], [1, 1]]),
        ndi.maximum_filter(image, footprint=[[0, 1], [1, 1]]),
    )


def test_nan_is_where_the_footprint_meets_one():
    values = VALUES.copy()
    values[0, 3, 4, 5] = np.nan
    got = lv.filters.median(chunked(values), footprint=EVEN).values
    missing = np.isnan(values[0]).astype(np.uint8)
    met = ndi.maximum_filter(missing, footprint=EVEN, mode="reflect") > 0
    np.testing.assert_array_equal(np.isnan(got[0]), met)
    assert not np.isnan(got[1]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got none"),
        ({"size": 3, "radius": 2.0}, "got size and radius"),
        ({"footprint": np.zeros((3, 3, 3))}, "footprint must have a voxel"),
        ({"footprint": np.ones((1, 3, 3, 3))}, "footprint must have 1 to 3 axes"),
        ({"radius": -1.0}, "radius must be 0 or more"),
    ],
)
def test_windows_that_make_no_sense_are_refused(options, message):
    with pytest.raises(LabelError, match=f"median: .*{message}"):
        lv.filters.median(chunked(VALUES), **options)


GREY = ["grey_erosion", "grey_dilation", "grey_opening", "grey_closing", "white_tophat",
        "black_tophat", "morphological_gradient", "morphological_laplace"]  # fmt: skip


@pytest.mark.parametrize(
    "element", [{"footprint": EVEN, "origin": (0, 1, -1)}, {"size": (2, 3, 4)}]
)
@pytest.mark.parametrize("name", GREY)
def test_grey_morphology_is_that_of_scipy(name, element):
    """Dilations mirror the element, which shows for elements of even lengths."""
    got = getattr(lv.filters, name)(chunked(VALUES), **element, mode="nearest")
    oracle = getattr(ndi, name)
    expected = np.stack([oracle(v, **element, mode="nearest") for v in VALUES])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert got.dtype == VALUES.dtype


def test_differences_of_grey_morphology_do_not_overflow():
    bytes_of = np.array([[[0, 255, 0, 255, 255, 255]]], np.uint8)
    result = lv.filters.morphological_laplace(bytes_of, 3)
    np.testing.assert_array_equal(result, [[[255, -255, 255, -255, 0, 0]]])

"""Filters beside those of dask-image: the arguments of its own suite, and chains of both."""

from collections.abc import Callable
from typing import Any

import dask.array as da
import dask_image.ndfilters as theirs
import dask_image.ndmeasure as ndmeasure
import dask_image.ndmorph as ndmorph
import numpy as np
import pytest
from scipy import ndimage as ndi

import lazyvol as lv
from tests.rows.filters import close

IMAGE = np.random.default_rng(5).normal(size=(10, 14))
VOLUME = np.random.default_rng(6).normal(size=(10, 11, 12))
#: a value that the maximum of edges exceeds in a part of ``VOLUME``
LEVEL = 2.0
DISC = (np.mgrid[-2:3, -2:3] ** 2).sum(axis=0) < 2.5**2
#: windows of the suite: arguments of both, and the origin
SIZES: list[tuple[Any, Any]] = [(1, 0), (2, 0), (3, 1), (3, (1, 0)), ((1, 2), 0), ((3, 2), (1, 0)),
         (5, 0), (7, 0), (8, 0), (10, 0), (5, 2), (5, -2)]  # fmt: skip
FOOTPRINTS: list[tuple[Any, Any]] = [
    (np.ones((1, 1)), 0), (np.ones((2, 2)), 0), (np.ones((2, 3)), 0), (np.ones((2, 3)), (0, 1)),
    (np.ones((2, 3)), (0, -1)), (DISC, 0), (DISC, (1, 2)), (DISC, (-1, -2)), (np.ones((8, 8)), 0),
]  # fmt: skip
RANKS: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = {
    "minimum": (lv.filters.minimum, theirs.minimum_filter, ()),
    "median": (lv.filters.median, theirs.median_filter, ()),
    "maximum": (lv.filters.maximum, theirs.maximum_filter, ()),
    "rank": (lv.filters.rank, theirs.rank_filter, (1,)),
    "percentile": (lv.filters.percentile, theirs.percentile_filter, (10,)),
    "generic": (lv.filters.generic, theirs.generic_filter, (np.linalg.norm,)),
}


def lazy(values: np.ndarray = IMAGE) -> da.Array:
    return da.from_array(values, chunks=(5, 7) if values.ndim == 2 else (5, 5, 6))


@pytest.mark.parametrize("name", RANKS)
def test_windows_of_values_are_those_of_dask_image(name):
    ours, other, arguments = RANKS[name]
    first = tuple(n for n in arguments if n != 1)  # a window of one voxel has rank 0 alone
    for size, origin in SIZES[len(arguments) - len(first) :]:
        result = ours(lazy(), *arguments, size, origin=origin).values
        close(result, other(lazy(), *arguments, size, origin=origin).compute())
    for footprint, origin in FOOTPRINTS[1:]:
        result = ours(lazy(), *arguments, footprint=footprint, origin=origin).values
        close(result, other(lazy(), *arguments, footprint=footprint, origin=origin).compute())


def test_sums_are_those_of_dask_image():
    for size, origin in SIZES:
        result = lv.filters.uniform(lazy(), size, origin=origin).values
        close(result, theirs.uniform_filter(lazy(), size, origin=origin).compute())
    weights = np.random.default_rng(7).normal(size=(8, 8))
    for footprint, origin in FOOTPRINTS:
        kernel = footprint * weights[: footprint.shape[0], : footprint.shape[1]]
        for name in ("convolve", "correlate"):
            result = getattr(lv.filters, name)(lazy(), kernel, origin=origin).values
            close(result, getattr(theirs, name)(lazy(), kernel, origin=origin).compute())


def test_differences_are_those_of_dask_image():
    close(lv.filters.laplace(lazy(VOLUME)).values, theirs.laplace(lazy(VOLUME)).compute())
    for axis, dim in enumerate("zyx"):
        for name in ("prewitt", "sobel"):
            result = getattr(lv.filters, name)(lazy(VOLUME), dim).values
            close(result, getattr(theirs, name)(lazy(VOLUME), axis).compute())


@pytest.mark.parametrize("sigma", [1.5, 2.0, (1.5, 2.0)])
def test_gaussians_are_those_of_dask_image(sigma):
    image = da.from_array(np.random.default_rng(8).normal(size=(40, 44)), chunks=(20, 22))
    for truncate in (2.0, 4.0):
        result = lv.filters.gaussian(image, sigma, truncate=truncate).values
        close(result, theirs.gaussian_filter(image, sigma, truncate=truncate).compute())
    for order in (0, 1, 2, 3, (0, 1), (2, 3)):
        result = lv.filters.gaussian_derivative(image, sigma, order, truncate=9.0).values
        expected = theirs.gaussian_filter(image, sigma, order, truncate=9.0).compute()
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * abs(expected).max())
    for name in ("gaussian_laplace", "gaussian_gradient_magnitude"):
        result = getattr(lv.filters, name)(image, sigma, truncate=9.0).values
        expected = getattr(theirs, name)(image, sigma, truncate=9.0).compute()
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * abs(expected).max())


@pytest.mark.parametrize("method", ["gaussian", "mean", "median"])
def test_local_thresholds_are_those_of_dask_image(method):
    counts = np.array(
        [[0, 0, 1, 3, 5], [0, 1, 4, 3, 4], [1, 2, 5, 4, 1], [2, 4, 5, 2, 1], [4, 5, 1, 0, 0]]
    )
    for size in (3, [3, 3], np.array([3, 5])):
        image = da.from_array(counts, chunks=(5, 5))
        result = lv.filters.threshold_local(image, size, method=method, offset=0.5).values
        close(result, theirs.threshold_local(image, size, method=method, offset=0.5).compute())


def test_chains_of_both_stay_lazy_and_equal_scipy():
    """Functions of dask-image take our arrays, and ours take its arrays."""
    stack = lv.as_stack(lazy(VOLUME), voxel_size=2.0)
    smooth = theirs.gaussian_filter(lv.filters.median(stack, 3).data, 1.0)
    edges = lv.filters.sobel(stack.copy(data=smooth), "x")
    mask = ndmorph.binary_dilation(theirs.maximum_filter(edges.data, 3) > LEVEL)
    inside = lv.masks.erode(stack.copy(data=mask))
    bright = ndmeasure.mean(edges.data, inside.data, True)
    same = lv.stats.mean(edges, "spatial", mask=inside)
    assert all(isinstance(a, da.Array) for a in (smooth, edges.data, mask, inside.data, bright))
    expected = ndi.sobel(ndi.gaussian_filter(ndi.median_filter(VOLUME, 3), 1.0), 2)
    close(edges.values, expected)
    places = ndi.binary_erosion(ndi.binary_dilation(ndi.maximum_filter(expected, 3) > LEVEL))
    assert 0 < places.mean() < 1
    np.testing.assert_array_equal(inside, places)
    np.testing.assert_allclose([bright, same], expected[places].mean(), rtol=1e-12)

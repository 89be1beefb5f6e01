"""Derivative filters beyond the table of operations: scipy, scikit-image, moments, refusals."""

import dask.array as da
import numpy as np
import pytest
from scipy import ndimage as ndi
from skimage import filters as skimage

import lazyvol as lv
from lazyvol.errors import LabelError
from tests.rows.derivatives import derived
from tests.rows.filters import close

VALUES = np.random.default_rng(12).normal(size=(2, 9, 11, 13))
AXES = (1, 2, 3)


def stack(values=VALUES):
    return lv.as_stack(da.from_array(values, (1, 5, 4, 6)), voxel_size=(3.0, 2.0, 1.5))


@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "constant", "wrap"])
@pytest.mark.parametrize("name", ["sobel", "prewitt"])
def test_differences_are_those_of_scipy(name, mode):
    ours, theirs = getattr(lv.filters, name), getattr(ndi, name)
    for dim, axis in (("z", 0), ("x", 2)):
        result = ours(stack(), dim, mode=mode).values
        close(result, np.stack([theirs(v, axis, mode=mode) for v in VALUES]))


def test_a_constant_border_surrounds_the_stack_alone():
    """scipy surrounds the sums along each axis by the constant, too."""
    padded = np.pad(VALUES, [(0, 0), *[(1, 1)] * 3], constant_values=0.5)
    inner = np.stack([ndi.sobel(v, 1)[1:-1, 1:-1, 1:-1] for v in padded])
    close(lv.filters.sobel(stack(), "y", mode="constant", fill=0.5).values, inner)


@pytest.mark.parametrize(("name", "scale"), [("sobel", 16), ("prewitt", 9)])
def test_norms_over_a_constant_are_those_of_scikit_image(name, scale):
    result = getattr(lv.filters, name)(stack(), "spatial") / (scale * np.sqrt(3))
    expected = np.stack([getattr(skimage, name)(v) for v in VALUES])
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_dims_that_are_not_smoothed_and_dims_beside_the_spatial_ones():
    result = lv.filters.sobel(stack(), "k", smooth=("y",), mode="nearest").values
    weights = np.multiply.outer([-1.0, 0.0, 1.0], [1.0, 2.0, 1.0])[:, None, :, None]
    close(result, ndi.correlate(VALUES, weights, mode="nearest"))
    short = lv.filters.sobel(stack(), ("k", "z"), smooth=(), mode="constant").values
    parts = [ndi.sobel(p, a, mode="constant") for a in (0, 1)
             for p in np.moveaxis(VALUES, (2, 3), (0, 1)).reshape(-1, 2, 9)]  # fmt: skip
    norm = np.hypot(*np.reshape(parts, (2, 11, 13, 2, 9)))
    close(short, np.moveaxis(norm, (0, 1), (2, 3)))
    valid = lv.filters.sobel(stack(), ("z", "x"), mode="valid")
    close(valid.values, lv.filters.sobel(stack(), ("z", "x")).values[:, 1:-1, 1:-1, 1:-1])


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, (0, 1, 0), (2, 0, 3)])
def test_long_gaussians_are_those_of_scipy(order):
    sigma = (1.8, 1.5, 2.0)
    result = lv.filters.gaussian_derivative(
        lv.as_stack(VALUES), sigma, order, truncate=9.0, mode="wrap"
    )
    expected = ndi.gaussian_filter(VALUES, sigma, order, mode="wrap", truncate=9.0, axes=AXES)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * abs(expected).max())


def test_sums_and_norms_are_those_of_scipy():
    sigma, options = (1.5, 0.0, 2.0), {"mode": "nearest", "truncate": 9.0}
    for name in ("gaussian_laplace", "gaussian_gradient_magnitude"):
        result = getattr(lv.filters, name)(lv.as_stack(VALUES), sigma, **options)
        planes = VALUES.transpose(0, 2, 1, 3).reshape(-1, 9, 13)
        expected = np.stack([getattr(ndi, name)(p, (1.5, 2.0), **options) for p in planes])
        expected = expected.reshape(2, 11, 9, 13).transpose(0, 2, 1, 3)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * abs(expected).max())


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_power_has_its_derivative_and_lower_powers_have_none(order):
    x = np.arange(40.0) - 20
    for truncate in (1.0, 2.5, 4.0):
        for power in range(order + 1):
            line = lv.as_stack((x**power / 8**power).reshape(1, 1, 40), voxel_size=0.5)
            result = lv.filters.gaussian_derivative(line, {"x": 1.0}, order, truncate=truncate)
            expected = np.prod(np.arange(1, order + 1)) / 8**power if power == order else 0.0
            np.testing.assert_allclose(result.values[0, 0, 9:-9], expected, rtol=1e-9, atol=1e-12)


def test_a_background_leaves_no_trace():
    background = lv.as_stack(np.full((8, 9, 10), 1e6))
    for result in (
        lv.filters.gaussian_laplace(background, 1.5),
        lv.filters.gaussian_gradient_magnitude(background, 1.5),
        lv.filters.sobel(background, "spatial"),
    ):
        assert float(abs(result).max()) < 1e-9


def test_short_axes_and_halves():
    thin = VALUES[:, :2, :3].astype(np.float16)
    result = lv.filters.gaussian_gradient_magnitude(lv.as_stack(thin), 3.0, truncate=9.0)
    expected = np.stack(
        [ndi.gaussian_gradient_magnitude(v, 3.0, truncate=9.0) for v in thin.astype(np.float64)]
    )
    np.testing.assert_allclose(result, expected, rtol=2e-3, atol=1e-6)
    steep = lv.as_stack((np.arange(60.0).reshape(3, 4, 5) * 20).astype(np.float16))
    assert np.isfinite(lv.filters.sobel(steep, "spatial")).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: lv.filters.sobel(s, ()), "sobel: dim must name one dim or more"),
        (lambda s: lv.filters.sobel(s, "q"), "sobel: dim must name dims"),
        (lambda s: lv.filters.prewitt(s, "x", smooth="q"), "prewitt: smooth must name dims"),
        (lambda s: lv.filters.gaussian_laplace(s, 0.0), "gaussian_laplace: sigma must be above 0"),
        (lambda s: lv.filters.gaussian_laplace(s, {"x": 0.5}), "0.5 voxels or more .*'x': 0.333"),
        (lambda s: lv.filters.gaussian_derivative(s, {"x": 3.0}, {"y": 1}), "got {'y': 0.0}"),
        (lambda s: lv.filters.gaussian_derivative(s, 3.0, 5), "order must be from 0 to 4"),
        (lambda s: lv.filters.gaussian_derivative(s, 3.0, (1, -1, 0)), "got {'y': -1}"),
        (lambda s: lv.filters.gaussian_derivative(s, 3.0, 1, truncate=0.0), "^gaussian_derivative"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(LabelError, match=message):
        call(stack())


@pytest.mark.parametrize("mode", ["reflect", "nearest", "wrap", "constant"])
def test_gaussians_far_beyond_short_axes(mode):
    """Volumes whose halo would take too much memory are padded along one axis at a time."""
    cubes = np.random.default_rng(3).normal(size=(2, 15, 16, 17))
    border = {"mode": mode} if mode != "constant" else {"mode": mode, "cval": 0.0}
    for name, order in (("gaussian_laplace", 2), ("gaussian_gradient_magnitude", 1)):
        result = getattr(lv.filters, name)(lv.as_stack(cubes), 24.0, mode=mode).values
        orders = [[order if n == axis else 0 for n in range(4)] for axis in AXES]
        parts = [derived(cubes, (0.0, 24.0, 24.0, 24.0), one, **border) for one in orders]
        expected = sum(parts) if order == 2 else np.sqrt(sum(p**2 for p in parts))
        scale = max(abs(p).max() for p in parts)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * scale)

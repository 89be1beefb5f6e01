"""Derivatives of polynomials on any background, and scales larger than axes."""

import tracemalloc

import numpy as np
import pytest
import xarray as xr
from scipy import ndimage as ndi

import lazyvol as lv
from lazyvol.kernels.filters import wide_windows
from tests.rows.derivatives import derived, frangi, smooth_curvatures, tensors
from tests.strategies import chunked, labelled, values

D = lv.derivatives
MODES = ("reflect", "mirror", "nearest", "constant", "wrap")
VOXELS = (2.0, 0.5, 1.25)
POSITIONS = np.meshgrid(*(np.arange(24) * h for h in VOXELS), indexing="ij")  # z, y, x of a volume
#: scales in voxels along each dim
SCALES = [0.5, 0.8, 1.5, 2.0]
INNER = (slice(10, 14),) * 3


def volume(a, dtype="float64"):
    return lv.as_stack(np.asarray(a, dtype), voxel_size=VOXELS)


def scale(voxels):
    return {d: voxels * h for d, h in zip("zyx", VOXELS, strict=True)}


def of_constants(background, sigma, **options):
    stack = volume(np.full((24, 24, 24), background), options.pop("dtype", "float64"))
    for op in (D.gradient, D.gradient_magnitude, D.hessian, D.hessian_eigenvalues, D.laplacian):
        yield op(stack, sigma=sigma, **options)
    yield D.structure_tensor(stack, sigma=sigma, inner=sigma) / abs(background)
    yield D.vesselness(stack, sigma=1.5) * background


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("voxels", SCALES)
@pytest.mark.parametrize("background", [30000.0, -1e6])
def test_a_constant_has_no_derivatives(background, voxels, dtype):
    for result in of_constants(background, scale(voxels), dtype=dtype):
        assert float(abs(result).max()) <= 1e-14 * abs(background)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truncate", [0.5, 1.5, 4.0, 6.0])
@pytest.mark.parametrize("voxels", SCALES[:3])
def test_a_ramp_has_its_slope_and_a_parabola_its_curvature(voxels, truncate, mode):
    z, y, x = POSITIONS
    options = {"sigma": scale(voxels), "truncate": truncate, "mode": mode}
    for background in (0.0, 1e4, 1e6):
        ramp = volume(background + 3 * z - 2 * y + 0.5 * x)
        off = 1e-13 * (1 + background)
        result = D.gradient(ramp, **options)[INNER]
        np.testing.assert_allclose(result - [3, -2, 0.5], 0, atol=off)
        assert float(abs(D.laplacian(ramp, **options)[INNER]).max()) < 10 * off
        bowl = volume(background + z**2 + z * y - 3 * x**2)
        expected = [[2, 1, 0], [1, 0, 0], [0, 0, -6]]
        result = D.hessian(bowl, **options)[INNER]
        np.testing.assert_allclose(result - expected, 0, atol=10 * off + 1e-11)
        result = D.hessian_eigenvalues(bowl, **options)[INNER]
        solved = np.linalg.eigvalsh(expected)[::-1]
        np.testing.assert_allclose(result - solved, 0, atol=10 * off + 1e-11)


def test_slopes_of_float32_on_a_background_are_right_to_its_own_rounding():
    z = np.arange(40.0, dtype="f4")[:, None, None] * np.ones((40, 9, 9), "f4")
    result = D.gradient(lv.as_stack(30000 + z / 4), sigma=1.5)[15:25]
    np.testing.assert_array_equal(result.sel(axis="z"), np.float32(0.25))


def test_rounding_errors_are_not_ridges():
    """c is half of the largest norm, which would be a rounding error of a constant or a ramp."""
    ramp = 0.1 * np.arange(20.0)[:, None, None] + np.full((20, 12, 12), 1e5 / 3)
    assert not D.vesselness(lv.as_stack(ramp)).any()
    assert not D.vesselness(lv.as_stack(ramp[3:4, 3:4] * np.ones((20, 20, 1))), sigma=1.5).any()
    assert not D.vesselness(lv.as_stack(ramp[:1] * np.ones((20, 1, 1))), sigma=(1.5, 3.0)).any()
    spot = np.full((15, 15, 15), 1e5 / 3)
    spot[7, 7, 7] += 1.0
    result = D.vesselness(lv.as_stack(spot), sigma=1.5, bright=True).values
    expected = frangi(smooth_curvatures_of(spot - 1e5 / 3)[None], 0.5, 0.5, None)[0]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def smooth_curvatures_of(a):
    eye = np.eye(3, dtype=int)
    rows = [np.stack([derived(a, (1.5,) * 3, i + j) for j in eye], -1) for i in eye]
    return np.stack(rows, -2)


def test_scipy_has_the_derivatives_of_a_gaussian_that_ends_late():
    a = np.random.default_rng(1).normal(size=(30, 31, 32))
    result = D.laplacian(lv.as_stack(a), sigma=1.5, truncate=8.0)
    expected = ndi.gaussian_laplace(a, 1.5, truncate=8.0)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    early = D.laplacian(lv.as_stack(a), sigma=1.5)
    assert 1e-5 < np.abs(early - ndi.gaussian_laplace(a, 1.5)).max() < 0.01


# scales larger than axes ------------------------------------------------------------------------


@pytest.fixture(params=["blocks", "wholes"])
def way(request, monkeypatch):
    """Run with small volumes padded along all axes at once, and with axes padded in turn."""
    if request.param == "wholes":
        monkeypatch.setattr(wide_windows, "WIDE", 0)
        monkeypatch.setattr(wide_windows, "SMALL", 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [30.0, 7.5])
def test_scales_larger_than_the_array(mode, length):
    """Volumes have 5, 11 and 13 voxels of 3, 2 and 1.5 angstrom."""
    a = values("float64")
    expected = smooth_curvatures(a, length, mode=mode)
    for stack in (labelled(a), chunked(a, (3, 2, 4, 7))):
        result = D.hessian(stack, sigma=length, mode=mode)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-13)
    ridge = D.vesselness(labelled(a), sigma=length, mode=mode, c=0.1)
    np.testing.assert_allclose(
        ridge, frangi(length**2 * expected, 0.5, 0.5, 0.1), rtol=0, atol=1e-9
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "constant"])
def test_tensors_of_scales_larger_than_the_array(mode):
    a = values("float64")
    slopes = D.gradient(labelled(a)).values
    for stack in (labelled(a), chunked(a, (3, 2, 4, 7))):
        result = D.structure_tensor(stack, sigma=40.0, mode=mode)
        np.testing.assert_allclose(result, tensors(slopes, 40.0, mode), rtol=0, atol=1e-13)
        assert result.dims[-2:] == ("axis", "axis_other")
        assert result.axis.values.tolist() == result.axis_other.values.tolist() == ["z", "y", "x"]
    solved = D.structure_tensor_eigenvalues(labelled(a), sigma=40.0, mode=mode)
    np.testing.assert_allclose(
        solved, np.linalg.eigvalsh(tensors(slopes, 40.0, mode))[..., ::-1], rtol=0, atol=1e-13
    )


def test_whole_volumes_and_blocks_are_filtered_alike(monkeypatch):
    stack = labelled(values("float32"))
    options = {"sigma": {"z": 3.0, "y": 2.0, "x": 1.5}, "mode": "constant", "fill": 4.0}
    ops = (D.gradient, D.hessian_eigenvalues, D.laplacian, D.gradient_magnitude)
    blocks = [op(stack, **options) for op in ops]
    monkeypatch.setattr(wide_windows, "WIDE", 0)
    monkeypatch.setattr(wide_windows, "SMALL", 0)
    for op, expected in zip(ops, blocks, strict=True):
        result = op(stack, **options)
        xr.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
        assert result.attrs == expected.attrs


@pytest.mark.parametrize("op", [D.gradient, D.hessian_eigenvalues, D.vesselness])
def test_a_large_scale_of_a_thin_stack_takes_little_memory(op):
    stack = lv.as_stack(np.random.default_rng(0).normal(size=(2, 5, 6, 7)))
    op(stack, sigma=300.0).load()  # compiles
    tracemalloc.start()
    assert np.isfinite(op(stack, sigma=300.0).values).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6

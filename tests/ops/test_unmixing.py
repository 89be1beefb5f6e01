"""Mixtures and their inverses: dims, layouts, conditions, and refused arguments."""

import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.kernels.linalg import channel_matrix
from tests.paths import DATA
from tests.strategies import MORE, chunked, chunkings, labelled, values

U = lv.unmixing

FOLDER = DATA / "images_2d"
NOISE = np.array([[1.0, 0.3, 0.1], [0.2, 0.9, 0.4], [0.0, 0.5, 1.2]])


def image(dtype: str = "float32") -> xr.DataArray:
    result = lv.as_stack(values(dtype)[:3])
    return result.transpose("z", "y", "x", "k").rename(k="channel")


@given(chunkings((7, 5, 11, 13)), st.sampled_from("kzyx"), st.integers(1, 15), st.integers(64, 500))
@MORE
def test_any_dim_any_width_any_chunks(grid, dim, width, slab):
    array = values("float64")
    axis = "kzyx".index(dim)
    matrix = np.random.default_rng(width).normal(size=(array.shape[axis], width))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel_matrix, "SLAB", slab)
        result = U.mix(chunked(array, grid), matrix, dim=dim).values
        back = U.unmix(chunked(array, grid), matrix.T, dim=dim, rcond=1e-12).values
    expected = np.moveaxis(np.tensordot(array, matrix, (axis, 0)), -1, axis)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)
    inverse = np.linalg.pinv(matrix.T)
    expected = np.moveaxis(np.tensordot(array, inverse, (axis, 0)), -1, axis)
    np.testing.assert_allclose(back, expected, rtol=0, atol=1e-11 * max(1, abs(inverse).max()))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int16"])
def test_an_image_comes_back_from_its_product_with_noise(dtype):
    original = image("float64").astype(dtype)
    result = U.unmix(U.mix(original.astype("float64"), NOISE), NOISE)
    np.testing.assert_allclose(result.values, original.astype("float64"), rtol=0, atol=1e-10)
    mixed = U.mix(original, NOISE)
    assert mixed.dtype == (np.dtype(dtype) if dtype.startswith("f") else np.float64)


def test_labels_of_a_matrix_name_the_result():
    matrix = xr.DataArray(
        np.array([[1.0, 0.5, 0.1, 0.0], [0.0, 0.4, 0.9, 1.0]]),
        {"stain": ["nuclei", "membranes"], "channel": [450, 520, 610, 680]}, ("stain", "channel"),
    )  # fmt: skip
    amounts = lv.as_stack(values("float64")[:2]).rename(k="stain")
    mixed = U.mix(amounts, matrix)
    assert mixed.dims == ("channel", "z", "y", "x")
    assert mixed.channel.values.tolist() == [450, 520, 610, 680]
    result = U.unmix(mixed, matrix)
    assert result.dims == ("stain", "z", "y", "x")
    assert result.stain.values.tolist() == ["nuclei", "membranes"]
    np.testing.assert_allclose(result.values, amounts.values, atol=1e-12)
    assert result.attrs["rank"] == 2
    assert result.attrs["condition_number"] == pytest.approx(np.linalg.cond(matrix.values))


def test_least_squares_and_least_norm():
    rng = np.random.default_rng(0)
    tall, wide = rng.normal(size=(2, 5)), rng.normal(size=(5, 2))
    mixed = xr.DataArray(rng.normal(size=(6, 5)), dims=("x", "channel"))
    result = U.unmix(mixed, tall).values
    expected = np.linalg.lstsq(tall.T, mixed.values.T, rcond=None)[0].T
    np.testing.assert_allclose(result, expected, atol=1e-12)
    few = U.unmix(mixed.isel(channel=slice(0, 2)), wide).values
    expected = np.linalg.lstsq(wide.T, mixed.values[:, :2].T, rcond=None)[0].T
    np.testing.assert_allclose(few, expected, atol=1e-12)


def test_an_ill_conditioned_matrix_is_warned_of():
    near = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-7]])
    two = image().isel(channel=slice(0, 2))
    with pytest.warns(UserWarning, match=r"ill-conditioned, condition=4e\+07"):
        result = U.unmix(two, near)
    assert result.attrs["condition_number"] == pytest.approx(4e7, rel=1e-3)
    with pytest.warns(UserWarning, match="rank=1 of 2"):
        singular = U.unmix(two, np.ones((2, 2)))
    assert singular.attrs["condition_number"] > 1e15
    assert singular.attrs["rank"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        U.unmix(two.astype("float64"), near)
        kept = U.unmix(two, near, rcond=1e-3)
    assert kept.attrs["rank"] == 1
    expected = two.values @ np.linalg.pinv(near, rcond=1e-3)
    np.testing.assert_allclose(kept.values, expected, rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="digit of uint8"):
        U.unmix(two.astype("uint8"), np.array([[1.0, 0.97], [1.0, 1.0]]))


def test_nan_stays_in_its_voxel():
    broken = image().copy(deep=True)
    broken[1, 2, 3, 1] = np.nan
    result = U.mix(broken, NOISE)
    assert np.isnan(result.values[1, 2, 3]).all()
    assert np.isnan(result.values).sum() == 3


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "2 rows for 3 along 'channel'"),
        (np.ones(3), "matrix must hold real numbers"),
        (np.ones((3, 0)), "matrix must hold real numbers"),
        (np.full((3, 3), np.nan), "matrix must be finite, got 9"),
        (np.ones((3, 3), complex), "matrix must hold real numbers"),
        (xr.DataArray(np.ones((3, 3)), dims=("channel", "x")), "rename one of them"),
    ],
)
def test_invalid_matrices_are_refused(matrix, message):
    with pytest.raises(LabelError, match=message):
        U.mix(image(), matrix)


def test_invalid_dims_and_options_are_refused():
    with pytest.raises(LabelError, match="3 columns for 13 along 'x'"):
        U.unmix(image(), NOISE, dim="x")
    with pytest.raises(LabelError, match="rcond must be"):
        U.unmix(image(), NOISE, rcond=1.0)
    with pytest.raises(LabelError, match="dim must name dims"):
        U.mix(image(), NOISE, dim="colour")
    with pytest.raises(LabelError, match="must hold real numbers"):
        U.mix(image().astype(complex), NOISE)
    with pytest.raises(LabelError, match="must be a labelled"):
        U.mix(2.0, NOISE)
    with pytest.raises(LabelError, match="must have a dim"):
        U.mix(image()[0, 0, 0, 0], NOISE)


def test_one_task_per_block():
    stack = chunked(values("float32"), (7, 2, 4, 7))
    plan = lv.explain(U.mix(stack, np.ones((7, 2)), dim="k"))
    assert plan.tasks - stack.data.npartitions <= stack.data.npartitions
    assert "score" not in U.mix(stack, np.ones((7, 2)), dim="k").coords
    assert "score" in U.mix(labelled(values("float32")), np.ones((13, 2)), dim="x").coords


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no shared/data beside the checkout")
def test_a_photograph_comes_back():
    imageio = pytest.importorskip("imageio.v3", reason="reads the photograph")
    picture = xr.DataArray(imageio.imread(FOLDER / "kodim03.png"), dims=("y", "x", "channel"))
    mixed = U.mix(picture.astype("float32"), NOISE)
    result = U.unmix(mixed, NOISE)
    assert abs(result.values - picture.values).max() < 2e-3

"""Numbers at the limits of their types, single voxels, and too few values."""

import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from tests.strategies import MORE, chunked, chunkings, labelled

SMALL = (3, 2, 3, 4)
DIMS = ("k", "z", "y", "x")
#: statistics of the values that are not NaN, by numpy
NUMPY: dict[str, Callable[..., Any]] = {
    "mean": np.nanmean, "sum": np.nansum, "var": np.nanvar, "std": np.nanstd, "min": np.nanmin,
    "max": np.nanmax, "count": lambda a, axis: (~np.isnan(a)).sum(axis),
    "norm": lambda a, axis: np.sqrt(np.nansum(a * a, axis)),
}  # fmt: skip
LOCAL = ("unit_norm", "center", "rescale", "standardize", "contrast_normalise")


def by_numpy(name: str, values: np.ndarray, axes: tuple[int, ...]) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # numpy warns of slices of NaN alone
        return NUMPY[name](values.astype(np.float64), axis=axes)


def holes(seed: int, share: float, ends: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(1, 3, SMALL).astype(np.float32)
    values[rng.random(SMALL) < share] = np.nan
    if ends:
        values[rng.random(SMALL) < 0.05] = np.inf
    return values


# lone voxels -----------------------------------------------------------------------------------


@given(
    chunkings(SMALL),
    st.sampled_from([("k",), ("x",), ("z", "x"), DIMS]),
    st.integers(0, 99), st.sampled_from([0.1, 0.6]), st.booleans(),
)  # fmt: skip
@MORE
def test_nan_is_left_out_of_blocks_of_any_lengths(grid, dims, seed, share, ends):
    array = holes(seed, share, ends)
    axes = tuple(DIMS.index(d) for d in dims)
    result = lv.stats.describe(
        chunked(array, grid), dims, statistics=tuple(NUMPY), skipna=True
    ).compute()
    for name in NUMPY:
        np.testing.assert_allclose(result[name], by_numpy(name, array, axes), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_alone_in_a_block_is_left_out(name, chunks, dtype):
    array = np.array([1, 2, np.nan, 4, np.nan], dtype)
    stack = lv.as_stack(array).chunk(k=chunks)
    result = getattr(lv.stats, name)(stack, "k", skipna=True)
    np.testing.assert_allclose(result, by_numpy(name, array, (0,)), rtol=1e-3)
    whole = getattr(lv.stats, name)(stack, "k", skipna=True, mask=xr.DataArray(True))
    np.testing.assert_array_equal(whole, result)
    if name != "count":
        assert np.isnan(getattr(lv.stats, name)(stack, "k"))


def test_nan_alone_is_left_out_of_projections_and_of_a_stretch():
    column = np.array([1, 2, np.nan], np.float32).reshape(3, 1, 1)
    stack = lv.as_stack(column).chunk(z=2)
    for name in ("mean", "sum", "min", "max", "std"):
        result = getattr(lv.projections, name)(stack, skipna=True).values.item()
        assert result == pytest.approx(NUMPY[name](column[:, 0, 0], axis=0))
    stretched = lv.intensity.gaussian_stretch(stack).values.ravel()
    assert stretched[0] == pytest.approx(0.15865525)
    assert stretched[1] == pytest.approx(0.84134475)
    assert np.isnan(stretched[2])


# ends of types ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-38, 1e-23, 1e20, 3e37])
@pytest.mark.parametrize("masked", [False, True])
def test_roots_are_taken_before_rounding_to_float32(size, masked):
    array = (size * np.array([[1, -1, 3], [-2, 2, 5]])).astype(np.float32)
    stack = lv.as_stack(array, dims=("k", "x"))
    mask = xr.DataArray(np.ones(3, bool), dims="x") if masked else None
    wide = array.astype(np.float64)
    for name, expected in (("std", wide.std(1)), ("norm", np.sqrt((wide**2).sum(1)))):
        result = getattr(lv.stats, name)(stack, "x", mask=mask)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=2e-7)
    unit = lv.intensity.unit_norm(stack, dim="x")
    np.testing.assert_allclose((unit.astype(float) ** 2).sum("x"), 1, rtol=1e-6)


def test_a_norm_of_float16_is_rounded_once():
    array = np.full(100, 300, np.float16)
    assert lv.stats.norm(lv.as_stack(array), "k").item() == 3000
    assert lv.stats.std(lv.as_stack(np.array([300, -300], np.float16))).item() == 300


@pytest.mark.parametrize("size", [1e-120, 1.0, 1e120])
def test_angles_and_correlations_do_not_depend_on_the_scale(size):
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 6, 6, 6))
    first, second = lv.as_stack(size * a), lv.as_stack(size * b)
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert lv.scores.correlation(first, second).correlation.item() == pytest.approx(expected)
    assert lv.scores.ncc(first, second).item() == pytest.approx(expected)
    cosine = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    assert lv.scores.cosine(first, second).item() == pytest.approx(cosine)
    plain = lv.scores.fsc(lv.as_stack(a), lv.as_stack(b))
    np.testing.assert_allclose(lv.scores.fsc(first, second), plain, rtol=1e-12)


def test_constant_float32_particles_have_no_correlation_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = lv.scores.ncc(lv.as_stack(np.ones((2, 3, 4, 5), np.float32)))
    assert np.isnan(result).all()


@pytest.mark.parametrize("outside", [1e30, np.inf, np.nan])
def test_voxels_outside_a_mask_cost_no_precision(outside):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 50))
    expected = np.corrcoef(a[1:], b[1:])[0, 1]
    a[0] = b[0] = outside
    mask = xr.DataArray(np.arange(50) > 0, dims="x")
    one, other = (lv.as_stack(v, dims=("x",)) for v in (a, b))
    assert lv.scores.ncc(one, other, dim="x", mask=mask).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64"])
def test_integers_at_the_ends_of_their_type_do_not_wrap(dtype):
    info = np.iinfo(dtype)
    array = np.array([info.min, info.max, info.max, info.min, info.max], dtype)
    wide = array.astype(np.float64)
    stack = lv.as_stack(array).chunk(k=2)
    for name in ("mean", "sum", "var", "std", "norm"):
        np.testing.assert_allclose(
            getattr(lv.stats, name)(stack, "k"), NUMPY[name](wide, axis=0), rtol=1e-12
        )
    assert lv.stats.norm(stack, "k", ord=np.inf).values.item() == np.abs(wide).max()
    assert lv.stats.norm(stack, "k", ord=1).values.item() == pytest.approx(np.abs(wide).sum())
    column = lv.as_stack(array, dims=("x",))
    assert lv.scores.mse(column, column.copy(data=array[::-1]), dim="x").item() == (
        pytest.approx(((wide - wide[::-1]) ** 2).mean(), rel=1e-12)
    )
    np.testing.assert_allclose(
        lv.intensity.rescale(column, dim="x"), (wide - wide.min()) / np.ptp(wide), atol=1e-15
    )


# nothing counts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16"])
def test_a_particle_without_valid_voxels_is_nan(name, dtype):
    array = np.arange(1, 13).reshape(2, 2, 3, 1).astype(dtype)
    mask = lv.as_stack(np.ones((2, 2, 3, 1), bool))
    mask[0] = False
    result = getattr(lv.intensity, name)(lv.as_stack(array), mask=mask)
    assert np.isnan(result[0]).all()
    assert not np.isnan(result[1]).any()
    if array.dtype.kind == "f":
        array[0] = np.nan
        result = getattr(lv.intensity, name)(lv.as_stack(array))
        assert np.isnan(result[0]).all()
        assert not np.isnan(result[1]).any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("unit_norm", 0.5), ("center", 0), ("rescale", 0), ("standardize", 0),
     ("contrast_normalise", 0), ("gaussian_stretch", 0.5), ("display", 0)],
)  # fmt: skip
def test_constant_particles_become_what_the_docstring_says(name, expected):
    stack = lv.as_stack(np.full((2, 1, 2, 2), 7.1, np.float32))
    np.testing.assert_allclose(getattr(lv.intensity, name)(stack), expected, rtol=1e-6)


def test_a_stretch_about_an_infinite_mean_is_nan():
    stack = lv.as_stack(np.array([[[1, 2, np.inf]]], np.float32))
    assert np.isnan(lv.intensity.gaussian_stretch(stack)).all()


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_no_particles_give_what_numpy_gives_or_are_refused(name, dtype):
    stack = lv.as_stack(np.ones((0, 2, 3, 4), dtype))
    kept = getattr(lv.stats, name)(stack, ("z", "y", "x"))
    assert kept.shape == (0,)
    if dtype == "uint8" and name in ("min", "max"):
        with pytest.raises(LabelError, match=f"{name}: dim must hold a value, got length 0"):
            getattr(lv.stats, name)(stack)
        return
    result = getattr(lv.stats, name)(stack, "k").values
    expected = 0 if name in ("sum", "count", "norm") else np.nan
    np.testing.assert_array_equal(result, np.full((2, 3, 4), expected))


@pytest.mark.parametrize("name", [*LOCAL, "gaussian_stretch", "equalise", "display"])
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 2, 3, 0)])
def test_stacks_without_voxels_stay_empty(name, shape):
    assert getattr(lv.intensity, name)(lv.as_stack(np.ones(shape))).values.shape == shape


# too few ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [np.nan, 1.5, -1, np.inf, 5, 6])
@pytest.mark.parametrize("name", ["var", "std"])
def test_degrees_of_freedom_are_whole_and_fewer_than_values(ddof, name):
    stack = lv.as_stack(np.ones((5, 5, 2, 2)))
    for topic, dim in ((lv.stats, "k"), (lv.projections, "z")):
        if hasattr(topic, name):
            with pytest.raises(OptionError, match=f"^{name}: ddof must be"):
                getattr(topic, name)(stack, dim, ddof=ddof)
    with pytest.raises(OptionError, match="ddof must be"):
        lv.stats.describe(stack, statistics=("mean", name), ddof=ddof)
    assert getattr(lv.stats, name)(stack, ddof=np.int64(4)).values.max() == 0


@pytest.mark.parametrize("transform", [None, "flip", "flip_x"])
@pytest.mark.parametrize("reference", ["first", "last"])
@pytest.mark.parametrize("chunks", [None, (2, 1, 3, 5)])
def test_a_profile_goes_along_k(transform, reference, chunks):
    array = np.random.default_rng(6).normal(size=(5, 2, 4, 5)).cumsum(0)
    stack = lv.as_stack(array)
    stack = stack if chunks is None else stack.chunk(dict(zip(DIMS, chunks, strict=True)))
    result = lv.scores.profile(stack, reference, "k", transform=transform).correlation
    axes = {None: (), "flip": (1, 2, 3), "flip_x": (3,)}[transform]
    turned, kept = np.flip(array, axes), array[0 if reference == "first" else -1]
    expected = [np.corrcoef(v.ravel(), kept.ravel())[0, 1] for v in turned]
    assert result.dims == ("k",)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_a_profile_of_one_slice_names_the_dim_to_take():
    stack = lv.as_stack(np.random.default_rng(7).normal(size=(3, 1, 8, 8)))
    with pytest.raises(LabelError, match=r"got dim='z' of length 1 .* pass dim='k'"):
        lv.scores.profile(stack)
    expected = np.corrcoef(stack.values.reshape(3, -1))[0]
    result = lv.scores.profile(stack, dim="k").correlation
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_one_voxel_is_not_correlated():
    points = lv.as_stack(np.ones((4, 1, 1, 1)))
    with pytest.raises(LabelError, match="ncc: dim must span two voxels"):
        lv.scores.ncc(points)
    with pytest.raises(LabelError, match=r"correlation: dim .* pass dim=\('k',\)"):
        lv.scores.correlation(points, points)
    with pytest.raises(LabelError, match="two voxels or more for metric='ncc'"):
        lv.clustering.distances(points, metric="ncc")
    flat = lv.as_stack(np.ones((1, 8, 8)))
    with pytest.raises(LabelError, match=r"fsc: a and b must have two voxels .*\['z'\]"):
        lv.scores.fsc(flat, flat)


# trees of other distances ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "method"),
    list(product(("jaccard", "cosine", "tanimoto", "ncc"), ("ward", "centroid"))),
)
def test_centre_methods_warn_of_other_distances(metric, method, tmp_path):
    flags = np.random.default_rng(8).random((5, 2, 3, 4)) < 0.5
    stack = lv.as_stack(flags if metric == "jaccard" else flags * 2.0)
    matrix = lv.clustering.distances(stack, metric=metric)
    assert matrix.attrs["metric"] == metric
    lv.save(matrix, tmp_path / "matrix.zarr")
    for given_ in (matrix, lv.clustering.condensed(matrix), lv.open(tmp_path / "matrix.zarr")):
        with pytest.warns(UserWarning, match=f"method='{method}' .*metric='{metric}'"):
            lv.clustering.linkage(given_, method)


@pytest.mark.parametrize("method", ["ward", "median", "centroid", "average", "single"])
def test_suited_methods_do_not_warn(method):
    stack = lv.as_stack(np.random.default_rng(9).normal(size=(5, 2, 3, 4)))
    metric = "euclidean" if method in ("ward", "median", "centroid") else "cosine"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lv.clustering.linkage(lv.clustering.distances(stack, metric=metric), method)


@pytest.mark.parametrize("number", [1.5, np.nan])
def test_numbers_of_clusters_and_components_are_whole(number):
    stack = lv.as_stack(np.random.default_rng(9).normal(size=(5, 2, 3, 4)))
    tree = lv.clustering.linkage(lv.clustering.distances(stack))
    for refused in (
        lambda: lv.clustering.clusters(tree, n=number),
        lambda: lv.clustering.components(stack, number),
        lambda: lv.intensity.whitening(stack, keep=number),
    ):
        with pytest.raises(OptionError, match="must be a whole number"):
            refused()


def test_extremes_of_floats_keep_their_type():
    """Minima and maxima have the stack's type, infinities included."""
    array = np.array([np.inf, -np.inf, 0, np.nan], np.float32).reshape(4, 1, 1, 1)
    stack = labelled(array).chunk(k=1)
    assert lv.stats.min(stack, skipna=True).values.item() == -np.inf
    assert lv.stats.max(stack, skipna=True).values.item() == np.inf
    assert np.isnan(lv.stats.mean(stack, skipna=True).values.item())

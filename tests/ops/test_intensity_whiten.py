"""Whitening by samples and by features: kinds, fits to other data, precision, reads, memory."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.linalg import covariance, eigenbasis
from lazyvol.plan import verbs
from lazyvol.plan.reductions import partition
from tests.paths import ROOT
from tests.rows.unmixing import softened, whitened
from tests.strategies import MORE, chunkings, labelled, stored, values

whiten, whitening = lv.intensity.whiten, lv.intensity.whitening
CIFAR = ROOT.parent / "shared/data/images_2d/cifar10_batch_0.png"


def correlated(n: int, p: int, spread: float = 30.0) -> np.ndarray:
    """Return samples with a mean whose deviations vary by a factor of ``spread``."""
    rng = np.random.default_rng(n + p)
    turn = np.linalg.qr(rng.normal(size=(p, p)))[0]
    return rng.normal(size=(n, p)) * np.geomspace(spread, 1, p) @ turn + rng.normal(size=p) * 9


def patches(table: np.ndarray, chunks: object = None) -> xr.DataArray:
    """Return rows as (k, y, x) with two voxels along y."""
    array = table.reshape(len(table), 2, -1)
    data = array if chunks is None else da.from_array(array, chunks=chunks)
    return lv.as_stack(data, dims=("k", "y", "x"))


def table_of(stack: xr.DataArray, lead: str = "k") -> np.ndarray:
    return stack.transpose(lead, ...).values.reshape(stack.sizes[lead], -1)


@given(
    chunkings((60, 2, 6)), st.sampled_from(("zca", "pca")), st.sampled_from((None, 1, 5, 9)),
    st.booleans(), st.integers(12, 400),
)  # fmt: skip
@MORE
def test_any_chunks_of_patches(grid, kind, keep, lazy, slab):
    table = correlated(60, 12)
    stack = patches(table, grid)
    if lazy:
        stack = stack.copy(data=stack.data.map_blocks(np.copy, dtype=float))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covariance, "SLAB_VALUES", slab)
        patch.setattr(eigenbasis, "SLAB_VALUES", slab)
        patch.setattr(partition, "SMALL", 0)
        with lv.limited(None, workers=3):  # states of several tasks are merged
            result = table_of(whiten(stack, kind=kind, keep=keep))
    values_, vectors = np.linalg.eigh(np.cov(table.T))
    vectors = vectors[:, ::-1][:, :keep]
    vectors *= np.sign(np.take_along_axis(vectors, abs(vectors).argmax(0)[None], 0))
    expected = (table - table.mean(0)) @ (vectors / np.sqrt(values_[::-1][:keep]))
    expected = expected @ vectors.T if kind == "zca" else expected
    np.testing.assert_allclose(result, expected, atol=1e-10)


@given(chunkings(), st.sampled_from(("zca", "pca")), st.sampled_from((None, 1, 4)))
@MORE
def test_any_chunks_of_volumes(grid, kind, keep):
    array = values("float64") + 1e3
    stack = labelled(da.from_array(array, chunks=grid).map_blocks(np.copy, dtype=float))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "TABLE_BLOCK", 20000)
        result = whiten(stack, kind=kind, keep=keep)
    x = array.reshape(7, -1) - array.reshape(7, -1).mean(0)
    u, _, v = np.linalg.svd(x, full_matrices=False)
    u, v = u[:, :6][:, :keep] * np.sqrt(6), v[:6][:keep]
    if kind == "zca":
        np.testing.assert_allclose(table_of(result), u @ v, atol=1e-9)
        assert result.dims == stack.dims
    else:
        np.testing.assert_allclose(abs(result.values), abs(u), atol=1e-9)
        assert result.dims == ("k", "component")


@pytest.mark.parametrize(("n", "p"), [(200, 30), (20, 300)])
def test_the_covariance_is_the_unit_matrix_in_the_kept_space(n, p):
    table = correlated(n, p)
    scores = table_of(whiten(patches(table), kind="pca"))
    kept = min(n - 1, p)
    np.testing.assert_allclose(np.cov(scores.T), np.eye(kept), atol=1e-9)
    zca = table_of(whiten(patches(table)))
    values_ = np.linalg.eigvalsh(np.cov(zca.T))
    np.testing.assert_allclose(values_[-kept:], 1, atol=1e-9)
    np.testing.assert_allclose(values_[:-kept], 0, atol=1e-9)


def test_zca_is_the_nearest_whitening():
    """Of all rotations of whitened data it is the nearest to the data (Kessy et al. 2018)."""
    table = correlated(300, 8)
    centred = table - table.mean(0)
    zca, pca = (table_of(whiten(patches(table), kind=k)) for k in ("zca", "pca"))
    assert ((zca - centred) ** 2).sum() < ((pca - centred) ** 2).sum()
    cross = centred.T @ zca
    np.testing.assert_allclose(cross, cross.T, atol=1e-8 * abs(cross).max())


@pytest.mark.parametrize(("n", "p"), [(80, 10), (10, 80)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 100.0])
def test_epsilon_is_added_to_the_variances(n, p, epsilon):
    table = correlated(n, p)
    result = table_of(whiten(patches(table), epsilon=epsilon))
    if epsilon:
        np.testing.assert_allclose(result, softened(table, epsilon), atol=1e-9)
    else:
        np.testing.assert_allclose(result, whitened(table), atol=1e-9)


@pytest.mark.parametrize(("n", "p"), [(80, 10), (12, 80)])
@pytest.mark.parametrize("kind", ["zca", "pca"])
@pytest.mark.parametrize("keep", [None, 3])
def test_a_fit_whitens_its_stack_and_others(n, p, kind, keep):
    table = correlated(n + 40, p)
    train, other = patches(table[:n]), patches(table[n:], (7, 1, p // 2))
    fitted = whitening(train, kind=kind, keep=keep, epsilon=0.1)
    again = whiten(train, fitted=fitted)
    straight = whiten(train, kind=kind, keep=keep, epsilon=0.1)
    np.testing.assert_allclose(abs(again.values), abs(straight.values), atol=1e-9)
    average, components = fitted.average.values.ravel(), table_of(fitted.components, "component")
    expected = (table[n:] - average) @ components.T * fitted.scale.values
    expected = expected @ components if kind == "zca" else expected
    np.testing.assert_allclose(table_of(whiten(other, fitted=fitted)), expected, atol=1e-9)
    shifted = whiten(train.isel(k=0).expand_dims("row"), fitted=fitted)
    np.testing.assert_allclose(shifted.values[0], again.values[0], atol=1e-9)


def test_a_fit_can_be_stored_and_opened(tmp_path):
    stack = patches(correlated(80, 10))
    fitted = whitening(stack, epsilon=0.5)
    assert fitted.scale.attrs["epsilon"] == 0.5
    lv.save(fitted, tmp_path / "fitted.zarr")
    again = xr.Dataset({name: lv.open(tmp_path / "fitted.zarr" / name) for name in fitted})
    result = whiten(stack, fitted=again)
    np.testing.assert_allclose(result.values, whiten(stack, epsilon=0.5).values, atol=1e-12)


def test_channels_are_whitened_over_voxels():
    rng = np.random.default_rng(4)
    mixing = np.array([[2.0, 1.0, 0.5], [0.1, 1.0, 0.9], [0.0, 0.2, 0.3]])
    array = rng.normal(size=(5, 7, 11, 3)) @ mixing + 4
    for chunks in (-1, (2, 3, 4, 2)):
        stack = lv.as_stack(da.from_array(array, chunks=chunks), dims=("z", "y", "x", "channel"))
        result = whiten(stack, over=("z", "y", "x"))
        assert result.dims == stack.dims
        np.testing.assert_allclose(np.cov(result.values.reshape(-1, 3).T), np.eye(3), atol=1e-10)


def test_directions_without_variance_become_0():
    table = correlated(50, 6)
    table = np.concatenate([table, table[:, :2], np.full((50, 2), 3.0)], 1)
    result = table_of(whiten(patches(table)))
    assert np.linalg.matrix_rank(result) == 6
    assert abs(result).max() < 20
    np.testing.assert_allclose(result[:, 8:], 0, atol=1e-12)
    assert not table_of(whiten(patches(np.full((9, 4), 7.0)))).any()
    assert not table_of(whiten(patches(np.full((4, 90), 7.0)))).any()


def test_a_large_mean_costs_no_precision():
    table = correlated(100, 6, spread=3.0)
    near, far = (table_of(whiten(patches(table + offset))) for offset in (0, 1e6))
    np.testing.assert_allclose(near, far, atol=1e-8)
    volumes = correlated(8, 90, spread=3.0)
    near, far = (table_of(whiten(patches(volumes + offset))) for offset in (0, 1e6))
    np.testing.assert_allclose(near, far, atol=1e-7)


@pytest.mark.parametrize("spread", [30.0, 3e4])
def test_float32_is_multiplied_in_float32_where_it_is_safe(spread):
    table = correlated(900, 300, spread).astype(np.float32)
    result = table_of(whiten(patches(table), kind="zca"))
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.cov(result.astype(np.float64).T), np.eye(300), atol=2e-4)
    exact = softened(table.astype(np.float64), 0.0)
    np.testing.assert_allclose(
        result, exact, atol=1e-3 if spread < eigenbasis.FLOAT32_MAX_RATIO else 1e-5
    )


def test_a_nan_makes_the_result_nan():
    for n, p in ((40, 6), (6, 40)):
        table = correlated(n, p)
        table[1, 2] = np.nan
        assert np.isnan(table_of(whiten(patches(table)))).all()


def test_reads_and_tasks():
    array = np.random.default_rng(0).normal(size=(400, 2, 3, 5)).astype(np.float32)
    stack = stored(array, (20, 2, 3, 5))
    plan = lv.explain(whiten(stack))
    assert plan.passes == 3  # a scrap of the data: all of it is one task's first sample
    assert plan.tasks <= 1.1 * stack.data.npartitions + 8


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "cholesky"}, "kind must be one of"),
        ({"over": "frame"}, "over must name dims"),
        ({"epsilon": -1.0}, "epsilon must be a variance"),
        ({"epsilon": np.nan}, "epsilon must be"),
        ({"keep": 0}, "keep must be from 1 to 5"),
        ({"keep": 6}, "keep must be from 1 to 5"),
        ({"over": ("k", "y")}, "12 samples of 15 features"),
        ({"over": ("k", "y", "x")}, "two samples or more, with features"),
        ({"fitted": "fitted.zarr"}, "got 'fitted.zarr'"),
        ({"fitted": xr.Dataset()}, "must be a result of intensity.whitening"),
        ({"fitted": whitening(patches(correlated(9, 4)))}, "got lengths"),
        ({"fitted": whitening(lv.as_stack(correlated(9, 4), dims=("k", "z")))}, "fitted features"),
    ],
)
def test_wrong_options_are_refused(options, told):
    stack = patches(correlated(6, 30))
    if told == "two samples or more, with features":
        stack = stack.isel(k=slice(0, 6))
        options = {"over": ("k", "y", "x")}
    with pytest.raises((LabelError, OptionError), match=told):
        whiten(stack, **options)


def test_too_many_features_and_complex_numbers_are_refused():
    wide = lv.as_stack(da.zeros((9000, 9000), chunks=(1000, 9000)), dims=("k", "x"))
    with pytest.raises(LabelError, match="at most 8192 features"):
        whiten(xr.concat([wide, wide], "k"))
    with pytest.raises(LabelError, match="real numbers"):
        whiten(patches(correlated(9, 4)).astype(complex))


def test_dims_may_have_any_names_but_those_of_the_result():
    table = correlated(40, 6)
    for name in ("feature", "sample", "column", "row", "k_other"):
        stack = lv.as_stack(table, dims=("k", name))
        np.testing.assert_allclose(whiten(stack).values, whitened(table), atol=1e-9)
        assert lv.clustering.components(stack, 2).scores.dims == ("k", "component")
    with pytest.raises(LabelError, match="must not have the dim 'component'"):
        whiten(lv.as_stack(table, dims=("k", "component")))


def test_units():
    fitted = whitening(labelled(values("float64")))
    assert fitted.average.attrs["units"] == "e"
    assert "units" not in fitted.components.attrs
    assert fitted.scale.attrs["units"] == "e^-1"
    assert fitted.components.x.attrs["units"] == "angstrom"


@pytest.mark.skipif(not CIFAR.is_file(), reason="no shared/data beside the checkout")
def test_cifar_images():
    imageio = pytest.importorskip("imageio.v3", reason="reads the images")
    images = imageio.imread(CIFAR).reshape(1000, 32, 32, 3).astype(np.float32)
    stack = lv.as_stack(images, dims=("k", "y", "x", "channel"))
    scores = whiten(stack, kind="pca", keep=300).values.astype(np.float64)
    np.testing.assert_allclose(np.cov(scores.T), np.eye(300), atol=1e-3)
    patch = stack.isel(y=slice(8, 16), x=slice(8, 16))
    zca = whiten(patch).values.astype(np.float64).reshape(1000, -1)
    np.testing.assert_allclose(np.cov(zca.T), np.eye(192), atol=1e-3)

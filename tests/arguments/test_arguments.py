"""Array arguments: plain arrays get labels, masked arrays a mask, and others are refused."""

from doctest import DocTestFinder
from importlib import import_module

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import LabelError, LazyvolError

TOPICS = (
    "clustering", "density", "derivatives", "filters", "fourier", "intensity", "masks", "measure",
    "plots", "projections", "registration", "scores", "stats", "synthetic", "transform", "unmixing",
)  # fmt: skip
SHAPE = (4, 5, 6, 7)
A = np.random.default_rng(3).normal(size=SHAPE)
FLAGS = np.random.default_rng(4).random(SHAPE[1:]) > 0.4
STACK = lv.as_stack(A, voxel_size=2.0, unit="angstrom")


@pytest.mark.parametrize("topic", TOPICS)
def test_every_public_function_checks_its_arguments(topic):
    module = import_module(f"lazyvol.{topic}" if topic == "plots" else f"lazyvol.ops.{topic}")
    checked = {n for n in module.__all__ if hasattr(getattr(module, n), "checks")}
    assert checked == set(module.__all__)


def test_doctests_of_operations_are_collected():
    from lazyvol.ops import stats

    result = {t.name.rpartition(".")[2] for t in DocTestFinder().find(stats) if t.examples}
    assert set(stats.__all__) <= result


@pytest.mark.parametrize("backing", ["numpy", "dask", "list", "big-endian"])
@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_plain_arrays_get_labels(backing, ndim):
    array = A[(0,) * (4 - ndim)]
    plain = {
        "numpy": array, "dask": da.from_array(array, chunks=3), "list": array.tolist(),
        "big-endian": array.astype(">f8"),
    }[backing]  # fmt: skip
    dims = ("k", "z", "y", "x")[4 - ndim :]
    average = lv.stats.mean(plain, dims[0])
    assert average.dims == dims[1:]
    assert (average.chunks is None) == (backing != "dask")
    np.testing.assert_allclose(average.values, array.mean(0), rtol=1e-13)


def test_a_list_of_numbers_is_one_per_particle():
    assert lv.stats.mean([1.0, 2.0, 6.0]).item() == 3.0


def test_plain_masks_take_the_labels_of_the_stack():
    part = STACK.isel(x=slice(3, 7))  # positions start at 6 angstrom
    flags = FLAGS[:, :, 3:]
    expected = np.where(flags, A[..., 3:], np.nan)
    for mask in (flags, da.from_array(flags), flags.tolist()):
        result = lv.stats.mean(part, ("z", "y", "x"), mask=mask)
        np.testing.assert_allclose(result.values, np.nanmean(expected, (1, 2, 3)), rtol=1e-12)
    whole = np.broadcast_to(flags, part.shape)
    result = lv.stats.mean(part, ("z", "y", "x"), mask=whole)
    np.testing.assert_allclose(result.values, np.nanmean(expected, (1, 2, 3)), rtol=1e-12)
    result = lv.scores.mse(part, A[0, ..., 3:])
    np.testing.assert_allclose(result.values, ((A - A[0])[..., 3:] ** 2).mean((1, 2, 3)))


def test_a_plain_mask_of_an_image_lies_along_y_and_x():
    image = xr.DataArray(A[0, :3], dims=("channel", "y", "x")).transpose("y", "x", "channel")
    means = lv.masks.mean(image, FLAGS[0])
    np.testing.assert_allclose(means.values, [a[FLAGS[0]].mean() for a in A[0, :3]])


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        (SHAPE, (6, 5), "fits none"),
        (SHAPE, (3,), "fits none"),
        ((5, 4, 4, 5), (5,), r"fits \('x',\) and \('k',\)"),
    ],
)
def test_plain_mask_without_a_unique_fit_is_refused(shape, mask, message):
    with pytest.raises(LabelError, match=f"mean: mask .*{message}.*as_stack"):
        lv.stats.mean(np.ones(shape), mask=np.ones(mask, bool))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_masked_voxels_do_not_count(lazy, dtype):
    masked = np.ma.masked_array((10 * A).astype(dtype), A > 0.5)
    stack = da.ma.masked_array(da.from_array(masked.data, chunks=3), A > 0.5) if lazy else masked
    average = lv.stats.mean(stack, ("z", "y", "x"))
    expected = masked.astype("f8").mean((1, 2, 3))
    rtol = 1e-6 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(average.values, expected, rtol=rtol)
    both = lv.stats.mean(stack, ("z", "y", "x"), mask=FLAGS)
    expected = np.ma.masked_array(masked.astype("f8"), masked.mask | ~FLAGS).mean((1, 2, 3))
    np.testing.assert_allclose(both.values, expected, rtol=rtol)


@pytest.mark.parametrize("lazy", [False, True])
def test_masked_array_inside_a_data_array_keeps_its_mask(lazy):
    masked = np.ma.masked_array(A, A > 0.5)
    plain = da.ma.masked_array(da.from_array(A, chunks=3), A > 0.5) if lazy else masked
    stack = xr.DataArray(A, dims=STACK.dims)
    stack.variable._data = plain  # bypasses xarray, which would fill it with NaN
    average = lv.stats.mean(stack, ("z", "y", "x"))
    np.testing.assert_allclose(average.values, masked.mean((1, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(
        lv.filters.maximum(stack, 1).values, np.where(A > 0.5, np.nan, A), rtol=0
    )


def test_masked_voxels_are_nan_without_a_mask_option():
    masked = np.ma.masked_array(np.arange(5), [0, 0, 1, 0, 0]).reshape(1, 1, 5)
    result = lv.filters.maximum(masked, 1)
    np.testing.assert_array_equal(result.values.ravel(), [0, 1, np.nan, 3, 4])
    np.testing.assert_array_equal(lv.as_stack(masked).values.ravel(), [0, 1, np.nan, 3, 4])
    np.testing.assert_array_equal(lv.as_stack(da.from_array(masked)).values, lv.as_stack(masked))
    with pytest.raises(LabelError, match="fill it"):
        lv.masks.dilate(np.ma.masked_array(FLAGS, FLAGS), radius=1.0)


@pytest.mark.parametrize("name", ["mean", "sum", "var"])
def test_a_mask_says_what_to_reduce_of_a_masked_stack(name):
    masked = np.ma.masked_array(A, A > 0.5)
    result = getattr(lv.masks, name)(masked, FLAGS)
    expected = getattr(np.ma.masked_array(A, masked.mask | ~FLAGS), name)((1, 2, 3))
    assert result.dims == ("k",)
    np.testing.assert_allclose(result.values, expected, rtol=1e-12)


def test_an_average_of_values_that_are_masked_in_some_particles_is_nan():
    masked = np.ma.masked_array(A, np.broadcast_to(FLAGS, A.shape))
    plain = lv.scores.ncc(A, mask=~FLAGS)
    np.testing.assert_allclose(lv.scores.ncc(masked).values, plain.values, rtol=1e-12)
    own = masked.mask.copy()
    own[1] |= ~FLAGS & (np.arange(SHAPE[3]) == 0)
    assert np.isnan(lv.scores.ncc(np.ma.masked_array(A, own)).values).any()


def test_axis_numbers_are_refused_with_dim_names():
    message = r"mean: dim must name dims of the stack, got 0; .*'z', 'y', 'x'\), axis 0 is 'k'"
    with pytest.raises(LabelError, match=message):
        lv.stats.mean(A, 0)
    with pytest.raises(LabelError, match="axis -1 is 'x', axis 1 is 'z'"):
        lv.stats.mean(STACK, dim=(-1, 1))
    with pytest.raises(LabelError, match="axis 1 is 'z'"):
        lv.projections.mean(STACK, dim=1)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (None, "pass a stack"),
        ("volume.mrc", r"lazyvol\.open\(path\)"),
        (xr.Dataset({"a": STACK}), "pick one of its variables"),
        ([STACK, STACK], r"xarray\.concat"),
        (object(), "as_stack"),
        (3.0, "as_stack"),
        (A.astype(complex), r"real numbers, got dtype=complex128; take its \.real"),
        (A.astype(object), "numbers, got dtype=object"),
        (np.full(SHAPE, "a"), "numbers, got dtype=<U1"),
        (np.zeros(SHAPE, "M8[s]"), "numbers, got dtype=datetime64"),
        (np.zeros(SHAPE, [("a", "f4")]), "numbers"),
        (A.astype(np.longdouble), "at most 64 bits"),
        (A.astype(np.clongdouble), "at most 64 bits"),
        (xr.DataArray(A.astype(np.longdouble), dims=STACK.dims), "at most 64 bits"),
        (da.from_array(A)[da.from_array(A[:, 0, 0, 0]) > 0], r"compute_chunk_sizes\(\)"),
        (np.ones((8, 8, 3)), "colours"),
        (np.ones((2, 2, 2, 2, 2)), "1 to 4 axes"),
        ([[1.0], [2.0, 3.0]], "as_stack"),
    ],
)
def test_unsupported_stacks_are_refused_with_a_remedy(stack, message):
    for op in (lv.stats.mean, lv.intensity.center, lv.scores.mse):
        with pytest.raises(LabelError, match=rf"^{op.__name__}: stack must .*{message}"):
            op(stack)


def test_lazy_arrays_of_unknown_length_are_refused_with_labels_too():
    lazy = da.from_array(A)
    with pytest.raises(LabelError, match="compute_chunk_sizes"):
        lv.stats.mean(xr.DataArray(lazy[lazy[:, 0, 0, 0] > 0], dims=STACK.dims))
    with pytest.raises(LabelError, match=r"as_stack: array must .*compute_chunk_sizes"):
        lv.as_stack(lazy[:, :, :, lazy[0, 0, 0] > 0], voxel_size=2.0)


def test_operations_declared_complex_accept_complex():
    z = A + 1j * A[::-1]
    result = lv.masks.apply(lv.as_stack(z), FLAGS, 0.0)
    np.testing.assert_array_equal(result.values, np.where(FLAGS, z, 0))
    chosen = lv.masks.select(lv.as_stack(z), FLAGS)["values"]
    np.testing.assert_array_equal(chosen.values, z[:, FLAGS].ravel())


def test_numbers_for_operations_with_other_dims():
    distances = np.abs(np.subtract.outer(A[:, 0, 0, 0], A[:, 0, 0, 0]))
    assert lv.clustering.condensed(distances).dims == ("pair",)
    positions = np.array([[0.0, 1.0], [1.0, 1.2]])
    np.testing.assert_array_equal(
        lv.density.points(positions, like=(2, 2)).values, [[0, 1], [0, 1]]
    )
    image = np.ones((8, 8, 3))
    result = lv.unmixing.mix(image, np.diag([1.0, 2.0, 3.0]))
    assert result.dims == ("y", "x", "channel")
    np.testing.assert_array_equal(result.values, image * [1, 2, 3])
    one_each = np.zeros((4, 3))
    one_each[:, 0] = np.arange(4)
    rolled = lv.registration.shift(A, one_each, order=1, mode="wrap")
    np.testing.assert_allclose(rolled.values, [np.roll(a, n, 0) for n, a in enumerate(A)])


@pytest.mark.parametrize("name", ["b", "mask"])
def test_refusals_are_lazyvol_errors(name):
    with pytest.raises(LazyvolError):
        lv.clustering.distances(A, **{name: "x"})

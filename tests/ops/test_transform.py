"""Transforms: borders, parts of large volumes, grids of results, against scipy and xarray."""

from typing import get_args

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr
from dask_image.ndinterp import affine_transform

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry.resampling import Mode
from lazyvol.plan import regions
from tests.sources import READS
from tests.strategies import stored

RNG = np.random.default_rng(3)
LINE = RNG.normal(size=400)
VOLUME = RNG.normal(size=(9, 10, 11)).astype(np.float32)


def profile(values):
    return lv.as_stack(da.from_array(values, chunks=64), dims=("x",))


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("order", range(6))
def test_parts_of_a_large_volume_are_those_of_the_whole(order, mode):
    slope, start = 0.93, -20.3  # both borders are crossed
    expected = ndi.affine_transform(
        LINE, [slope], start, output_shape=(480,), order=order, mode=mode, cval=2.5
    )
    result = lv.transform.affine(
        profile(LINE), [[slope]], start, like=(480,), order=order, mode=mode, fill=2.5
    )
    for first in (0, 15, 22, 120, 440, 465):
        part = slice(first, first + 7)
        # the rounding of positions of up to 400 voxels
        np.testing.assert_allclose(result[part], expected[part], rtol=0, atol=2e-12, err_msg=first)


@pytest.mark.parametrize("mode", ["constant", "nearest", "reflect", "mirror", "grid-wrap"])
@pytest.mark.parametrize("order", [1, 3])
def test_parts_of_large_volumes_by_compiled_code_are_those_of_scipy(order, mode):
    values = RNG.normal(size=(120, 14, 15)).astype(np.float32)
    matrix = np.array([[0.93, 0.05, 0.0], [-0.02, 1.1, 0.1], [0.0, 0.0, 0.9]])
    offset = (-10.3, -1.0, 1.2)
    expected = ndi.affine_transform(values, matrix, offset, None, None, order, mode, 2.5)
    stack = lv.as_stack(da.from_array(values, chunks=(40, 14, 15)))
    result = lv.transform.affine(stack, matrix, offset, order=order, mode=mode, fill=2.5)
    for first in (0, 10, 50, 110):
        part = slice(first, first + 5)
        np.testing.assert_allclose(result[part], expected[part], rtol=0, atol=3e-6, err_msg=first)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_halo_of_splines_is_as_wide_as_the_rounding_of_the_result(dtype):
    step = np.repeat([0.0, 1e3, 0.0], 133).astype(dtype)
    result = lv.transform.affine(profile(step), [1.0], 0.5, order=5, mode="mirror")
    expected = ndi.shift(step.astype(np.float64), -0.5, order=5, mode="mirror")
    for n in (0, 60, 87, 99, 110, 120, 129, 135, 150, 170, 260, 270, 300):  # before, on, after it
        part = slice(n, n + 3)
        atol = 4e3 * np.finfo(dtype).eps
        np.testing.assert_allclose(result[part], expected[part], rtol=0, atol=atol)


def test_a_block_reads_the_box_that_it_comes_from():
    source = stored(RNG.normal(size=(2, 40, 60, 200)).astype(np.float32), (1, 10, 10, 20))
    plain = source.drop_vars(list(source.coords))
    moved = lv.transform.affine(plain, np.eye(3), (0, 0, 50.0))
    token = next(t for t in READS if "(2, 40, 60, 200)" in t)
    READS[token].clear()
    moved[1, 5:10, 10:20, 60:70].compute()
    (region,) = READS[token]
    assert regions.contains(region, (slice(1, 2), slice(5, 10), slice(10, 20), slice(110, 120)))
    assert regions.size(region) <= 9 * 14 * 14


def test_linear_maps_are_those_of_dask_image():
    matrix = np.array([[0.9, 0.2, 0.0], [-0.1, 1.1, 0.05], [0.02, 0.0, 1.2]])
    image = da.from_array(VOLUME, chunks=(4, 5, 11))
    expected = affine_transform(image, matrix, offset=(1.01, -0.47, 0.25), order=1)
    result = lv.transform.affine(lv.as_stack(image), matrix, (1.01, -0.47, 0.25))
    np.testing.assert_allclose(result, expected.compute(), atol=1e-6)


def test_homogeneous_and_diagonal_matrices_are_those_of_scipy():
    rows = np.array([[0.9, 0.2, 0.0, 1.5], [0.0, 1.1, 0.1, -0.5], [0.0, 0.0, 1.2, 0.0]])
    square = np.vstack([rows, [0, 0, 0, 1]])
    expected = ndi.affine_transform(VOLUME, square, order=1)
    for matrix in (rows, square, [square]):
        stack = VOLUME[None] if isinstance(matrix, list) else VOLUME
        result = lv.transform.affine(stack, matrix).values
        np.testing.assert_allclose(np.squeeze(result), expected, atol=1e-6)
    diagonal = lv.transform.affine(VOLUME, [0.5, 1, 2], mode="nearest")
    expected = ndi.affine_transform(VOLUME, [0.5, 1, 2], mode="nearest", order=1)
    np.testing.assert_allclose(diagonal, expected, atol=1e-6)


def test_a_stack_is_resampled_on_the_grid_of_another():
    stack = lv.as_stack(VOLUME, voxel_size=(3.0, 2.0, 1.5), unit="nm")
    other = lv.as_stack(np.zeros((5, 6, 7)), voxel_size=2.0, unit="nm")
    other = other.assign_coords(x=other.x + 1.25)
    result = lv.transform.affine(stack, np.eye(3), like=other)
    expected = stack.interp(z=other.z, y=other.y, x=other.x)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    np.testing.assert_array_equal(result.x, other.x)
    assert result.x.attrs["units"] == "nm"


@pytest.mark.parametrize(("n", "m"), [(8, 26), (12, 86), (15, 26), (10, 4)])
def test_scaled_volumes_keep_their_border(n, m):
    """Rounding puts the last voxel of the first three beyond it."""
    result = lv.transform.zoom(lv.as_stack(np.ones(n), dims=("x",)), m / n)
    assert result.sizes["x"] == m
    assert (result == 1).all()


def test_positions_of_scaled_volumes_cover_the_same_extent():
    x = np.arange(12.0)
    row = lv.as_stack(3 * x + 2, voxel_size=0.5, unit="nm", dims=("x",)).assign_coords(x=x / 2 + 7)
    for result in (
        lv.transform.zoom(row, 1.5),
        lv.transform.zoom(row, 1.5, mode="mirror", grid_mode=True),
        lv.transform.rescale(row, 0.5, anti_aliasing=False),
    ):
        inside = result.sel(x=slice(row.x[0], row.x[-1]))
        np.testing.assert_allclose(inside, 6 * inside.x - 40, rtol=1e-12)  # an unchanged line
    one = lv.transform.rescale(row, 1 / 12)
    assert (one.sizes["x"], one.x.item(), one.x.attrs["spacing"]) == (1, 9.75, 6.0)


def test_empty_stacks_keep_their_dims():
    empty = lv.as_stack(da.zeros((0, 5, 6, 7)))
    for matrix in (np.eye(3), np.ones((0, 3, 3))):
        result = lv.transform.affine(empty, matrix, like=(4, 4, 4))
        assert result.compute().shape == (0, 4, 4, 4)
        assert result.data.npartitions == 1


def test_blocks_and_their_sources_have_a_bounded_size():
    large = lv.as_stack(da.zeros((50, 64, 64, 64), chunks=(10, 64, 64, 64), dtype=np.float32))
    assert lv.transform.rescale(large, 0.5).data.chunksize == (32, 32, 32, 32)  # of 1 MiB each
    assert lv.transform.zoom(large, 8.0).data.chunksize == (1, 128, 256, 256)


def test_labels_and_masks_keep_their_values_with_order_0():
    labels = RNG.integers(0, 2**31, (6, 6, 6))
    result = lv.transform.zoom(labels, 2.0, order=0)
    assert result.dtype == labels.dtype
    assert set(np.unique(result)) <= set(np.unique(labels))
    assert lv.transform.rescale(labels > 2**30, 0.5, order=0).dtype == bool


def test_positions_that_are_not_finite_give_nan():
    points = [[0.0, np.nan, 1e300, 8.0], [0.0, 1.0, np.inf, 9.0], [1.0, 1.0, 1.0, 10.0]]
    result = lv.transform.map_coordinates(VOLUME, points, mode="grid-wrap")
    np.testing.assert_array_equal(result, [VOLUME[0, 0, 1], np.nan, np.nan, VOLUME[8, 9, 10]])
    counts = lv.transform.map_coordinates(VOLUME > 0, points, order=0, fill=1)
    np.testing.assert_array_equal(counts, [VOLUME[0, 0, 1] > 0, True, True, VOLUME[8, 9, 10] > 0])


def test_a_deformed_grid_keeps_its_positions():
    stack = lv.as_stack(VOLUME, voxel_size=2.0, unit="nm")
    grids = [xr.DataArray(2.0 * np.indices((4, 5, 6))[a], dims=("z", "y", "x")) for a in range(3)]
    points = xr.concat(grids, "axis").assign_coords(z=[0.0, 2.0, 4.0, 6.0])
    result = lv.transform.map_coordinates(stack, points, order=3)
    np.testing.assert_allclose(result, VOLUME[:4, :5, :6], atol=1e-6)
    np.testing.assert_array_equal(result.z, [0, 2, 4, 6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: lv.transform.affine(s, np.eye(2)), r"affine: matrix must have the shape \(3, 3"),
        (lambda s: lv.transform.affine(s, np.ones((4, 4))), "must end with the row"),
        (lambda s: lv.transform.affine(s, np.ones((3, 4)), 2.0), "offset must be 0 with a matrix"),
        (lambda s: lv.transform.affine(s, np.eye(3), (1.0, 2.0)), "offset must be one number"),
        (lambda s: lv.transform.affine(s, np.eye(3) * np.nan), "must hold finite real numbers"),
        (lambda s: lv.transform.affine(s, np.eye(3), 1e12), "near the stack"),
        (
            lambda s: lv.transform.affine(s, np.eye(3), like=(3, 4)),
            "like must be a length for each",
        ),
        (lambda s: lv.transform.affine(s, np.eye(3), like=s[:, 0]), "like must have the dims"),
        (lambda s: lv.transform.affine(s > 0, np.eye(3), order=0, fill=2), "fill must be a value"),
        (lambda s: lv.transform.zoom(s, 0.0), "zoom: factor must be a factor above 0"),
        (lambda s: lv.transform.rescale(s, 1e9), "rescale: scale must be from 1 to 1048576"),
        (lambda s: lv.transform.map_coordinates(s, np.ones((2, 5))), "must have the dim 'axis'"),
        (lambda s: lv.transform.zoom(s[:, 0, 0, 0], 2.0), "zoom: stack must have some of the dims"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    stack = lv.as_stack(VOLUME[None])
    with pytest.raises(LabelError, match=message):
        call(stack)


def test_rotations_of_positions_need_one_unit():
    stack = lv.as_stack(VOLUME, unit="nm")
    mixed = stack.assign_coords(z=stack.z.assign_attrs(units="s"))
    turned = np.eye(3)[::-1]
    with pytest.raises(LabelError, match="one unit of length"):
        lv.transform.affine(mixed, turned)
    assert lv.transform.affine(mixed, [1, 2, 0.5]).shape == VOLUME.shape

"""Masks of public data sets, against scipy, scikit-image and numpy."""

import warnings

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr
from matplotlib.image import imread
from skimage.filters import threshold_otsu

import lazyvol as lv
from tests.paths import DATA

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not beside the checkout")

SOLIDS = ("masks/t74_vesicle3_bin6.Labels.mrc", "masks/bat-cochlea_sub25.tif")
GREY = ("isbi2012/train-volume.tif", "vessels/aorta.tif", "emdb_maps/emd_1832.map")


def opened(name: str) -> xr.DataArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that the files lack
        return lv.open(DATA / name)


def solid(name: str, size: int | None) -> xr.DataArray:
    flags = opened(name).compute() > 0
    return flags if size is None else flags.chunk(size)


@pytest.mark.parametrize("size", [None, 17])
@pytest.mark.parametrize("connectivity", [1, 3])
@pytest.mark.parametrize("name", SOLIDS)
def test_components_of_real_masks_have_the_numbers_of_scipy(name, connectivity, size):
    mask = solid(name, size)
    element = ndi.generate_binary_structure(3, connectivity)
    expected, count = ndi.label(mask.values, element)
    assert count >= 1
    result = lv.masks.label(mask, connectivity=connectivity)
    np.testing.assert_array_equal(result.values, expected)
    holes = lv.masks.label(~mask, connectivity=connectivity)
    np.testing.assert_array_equal(holes.values, ndi.label(~mask.values, element)[0])


@pytest.mark.parametrize("size", [None, 13])
@pytest.mark.parametrize("name", SOLIDS)
def test_real_masks_are_dilated_and_eroded_as_by_scipy(name, size):
    mask = solid(name, size)
    reach = np.linalg.norm(np.mgrid[-3:4, -3:4, -3:4], axis=0) <= 3
    step = abs(mask.z.values[1] - mask.z.values[0])
    for op, oracle in (
        (lv.masks.dilate, ndi.binary_dilation), (lv.masks.erode, ndi.binary_erosion),
        (lv.masks.open, ndi.binary_opening), (lv.masks.close, ndi.binary_closing),
    ):  # fmt: skip
        np.testing.assert_array_equal(op(mask, radius=3 * step).values, oracle(mask.values, reach))


@pytest.mark.parametrize("name", GREY)
def test_thresholds_of_real_volumes_are_scikit_images(name):
    volume = opened(name)
    values = volume.values.astype(np.float64)
    expected = values > threshold_otsu(values)
    result = lv.masks.threshold(volume).values
    assert 0.01 < result.mean() < 0.99
    assert (result != expected).mean() < 1e-3  # edges of bins may differ by rounding


def plant() -> tuple[np.ndarray, np.ndarray]:
    colours = imread(DATA / "images_2d" / "setaria_small_plant_rgb.png")[..., :3]
    mask = imread(DATA / "images_2d" / "setaria_small_plant_mask.png")
    return np.ascontiguousarray(colours), (mask if mask.ndim == 2 else mask[..., 0]) > 0


@pytest.mark.parametrize("lazy", [False, True])
def test_the_mean_colour_of_a_plant(lazy):
    colours, flags = plant()
    data = da.from_array(colours, chunks=(64, 71, 3)) if lazy else colours
    image = xr.DataArray(data, dims=("y", "x", "channel"))
    mask = xr.DataArray(flags, dims=("y", "x"))
    inside = colours[flags].astype(np.float64)
    assert 100 < len(inside) < 0.9 * flags.size
    np.testing.assert_allclose(lv.masks.mean(image, mask), inside.mean(0), rtol=1e-6)
    np.testing.assert_allclose(lv.masks.var(image, mask), inside.var(0), rtol=1e-6)
    np.testing.assert_allclose(lv.masks.sum(image, mask), inside.sum(0), rtol=1e-6)
    assert not np.allclose(inside.mean(0), colours.mean((0, 1)), rtol=0.02)


def test_a_real_mask_selects_frame_by_frame():
    colours, flags = plant()
    image = xr.DataArray(da.from_array(colours, chunks=(50, -1, -1)), dims=("y", "x", "channel"))
    mask = xr.DataArray(flags, dims=("y", "x"))
    result = lv.masks.select(image, mask)
    np.testing.assert_array_equal(result["values"], colours[flags])
    row = int(flags.sum(1).argmax())
    np.testing.assert_array_equal(lv.masks.frame(result, row).values, colours[row][flags[row]])


@pytest.mark.parametrize("name", GREY)
def test_projections_of_real_volumes(name):
    volume = opened(name)
    values = volume.values.astype(np.float64)
    for dim, axis in (("z", 0), ("y", 1), ("x", 2)):
        np.testing.assert_allclose(lv.projections.max(volume, dim), values.max(axis))
        np.testing.assert_allclose(
            lv.projections.mean(volume, dim), values.mean(axis), rtol=1e-6, atol=1e-6
        )

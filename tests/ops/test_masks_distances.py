"""Distances in masks, and grey reconstruction, against scipy and scikit-image."""

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from skimage.morphology import reconstruction

import lazyvol as lv
from lazyvol.errors import LabelError
from tests.strategies import MORE

RNG = np.random.default_rng(4)
NOISE = ndi.gaussian_filter(RNG.normal(size=(2, 12, 13, 14)), (0, 1, 1, 1)).astype(np.float32)


@given(
    share=st.sampled_from([0.001, 0.1, 0.9]), step=st.tuples(*[st.sampled_from([0.3, 1, 2.5])] * 3),
    limit=st.sampled_from([0.2, 2.5, 6.0, 90.0]), seed=st.integers(0, 99),
)  # fmt: skip
@MORE
def test_distances_are_exact_for_any_voxels_in_any_blocks(share, step, limit, seed):
    flags = np.random.default_rng(seed).random((1, 11, 12, 17)) > share
    flags[0, 3, 4, 5] = False  # without background scipy counts from a voxel before the first
    mask = lv.as_stack(da.from_array(flags, chunks=(1, 4, 12, 5)), voxel_size=step)
    expected = ndi.distance_transform_edt(flags[0], step)[None]
    np.testing.assert_allclose(lv.masks.distance_transform(mask), expected, rtol=1e-13)
    result = lv.masks.distance_transform(mask, limit=limit)
    np.testing.assert_allclose(result, np.minimum(expected, limit), rtol=1e-13)


def test_volumes_without_background_have_no_distance():
    flags = np.stack([np.ones((3, 4, 5), bool), np.zeros((3, 4, 5), bool)])
    result = lv.masks.distance_transform(flags)
    np.testing.assert_array_equal(result, np.where(flags, np.inf, 0))
    image = xr.DataArray(np.eye(5) > 0, dims=("y", "x"))
    np.testing.assert_allclose(
        lv.masks.distance_transform(~image), ndi.distance_transform_edt(~image.values)
    )
    assert lv.masks.distance_transform(flags[:, :0]).shape == (2, 0, 4, 5)
    for limit in (0.0, np.nan, -1.0):
        with pytest.raises((LabelError, ValueError), match="limit must be"):
            lv.masks.distance_transform(flags, limit=limit)


@pytest.mark.parametrize("method", ["dilation", "erosion"])
@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_reconstructions_are_those_of_scikit_image(method, connectivity):
    shift = 0.3 if method == "dilation" else -0.3
    mask = lv.as_stack(da.from_array(NOISE, chunks=(1, 5, 13, 7)))
    result = lv.filters.reconstruct(mask - shift, mask, method=method, connectivity=connectivity)
    element = ndi.generate_binary_structure(3, connectivity)
    expected = [reconstruction(v - np.float32(shift), v, method, element) for v in NOISE]
    np.testing.assert_array_equal(result, np.stack(expected))


def test_reconstructed_images_and_nan():
    image = NOISE[0, 0]
    labelled = xr.DataArray(image, dims=("y", "x"))
    result = lv.filters.reconstruct(labelled - 0.2, labelled, connectivity=1)
    element = ndi.generate_binary_structure(2, 1)
    expected = reconstruction(image - np.float32(0.2), image, footprint=element)
    np.testing.assert_array_equal(result, expected)
    wall = lv.as_stack(np.array([[[5.0, 5.0, np.nan, 5.0]]]))
    seed = lv.as_stack(np.array([[[4.0, np.nan, 1.0, 1.0]]]))
    result = lv.filters.reconstruct(seed, wall)
    np.testing.assert_array_equal(result, [[[4, 4, np.nan, 1]]])


def test_reconstruction_of_what_does_not_fit_is_refused():
    stack = lv.as_stack(NOISE)
    with pytest.raises(LabelError, match="reconstruct: mask must have the dtype of the seed"):
        lv.filters.reconstruct(stack, stack.astype(np.float64))
    with pytest.raises(LabelError, match="reconstruct: connectivity must be 1, 2 or 3"):
        lv.filters.reconstruct(stack, stack, connectivity=4)
    with pytest.raises(LabelError, match="reconstruct: seed must have some of the dims"):
        lv.filters.reconstruct(stack[:, 0, 0, 0], stack[:, 0, 0, 0])

"""Components and footprints: masks filled, cleaned, reached and shaped as in whole volumes."""

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
from skimage.morphology import remove_small_objects

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.plan import connected_blocks
from tests.ops.test_every_op import refuse

SHAPE = (2, 13, 17, 19)
NOISE = np.stack([ndi.gaussian_filter(v, 1.2) for v in np.random.default_rng(3).normal(size=SHAPE)])
WAYS = {
    "holes": (
        lambda n: lv.masks.fill_holes(n < 0.1), lambda v: ndi.binary_fill_holes(v < 0.1)
    ),
    "holes, corners": (
        lambda n: lv.masks.fill_holes(n < 0.1, connectivity=3),
        lambda v: ndi.binary_fill_holes(v < 0.1, np.ones((3, 3, 3))),
    ),
    "small": (
        lambda n: lv.masks.remove_small_objects(n > 0.1, 40),
        lambda v: remove_small_objects(v > 0.1, max_size=39),
    ),
    "reached": (
        lambda n: lv.masks.propagate(n > 0.4, n > 0.15, connectivity=2),
        lambda v: ndi.binary_propagation(
            v > 0.4, ndi.generate_binary_structure(3, 2), mask=v > 0.15
        ),
    ),
    "reached, seeds outside": (
        lambda n: lv.masks.propagate(n < -0.5, n > 0),
        lambda v: ndi.binary_propagation(v < -0.5, mask=v > 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("block", [600, 5000, 2**27])
@pytest.mark.parametrize("way", WAYS)
def test_blocks_give_the_result_of_whole_volumes(way, block, monkeypatch):
    ours, oracle = WAYS[way]
    monkeypatch.setattr(connected_blocks, "BLOCK", block)
    noise = lv.as_stack(da.from_array(NOISE, chunks=(1, 5, 17, 7)))
    with dask.config.set(scheduler=refuse):
        lazy = ours(noise)
    got = lazy.compute(scheduler="sync")
    np.testing.assert_array_equal(got, np.stack([oracle(v) for v in NOISE]))
    assert got.any()
    assert not got.all()


def test_empty_masks_stay_empty():
    empty = lv.as_stack(np.zeros((2, 0, 4, 5), bool))
    for result in (lv.masks.fill_holes(empty), lv.masks.remove_small_objects(empty, 3)):
        assert result.shape == empty.shape


def test_what_is_no_mask_is_refused():
    numbers = lv.as_stack(np.ones((3, 4, 5)))
    for call in (
        lambda: lv.masks.fill_holes(numbers),
        lambda: lv.masks.remove_small_objects(numbers, 2),
        lambda: lv.masks.remove_small_objects(numbers > 0, 0),
        lambda: lv.masks.propagate(numbers, numbers > 0),
        lambda: lv.masks.propagate(numbers > 0, numbers),
    ):
        with pytest.raises(LabelError, match=r"must be (boolean|a whole number)"):
            call()


RNG = np.random.default_rng(8)
FOOTPRINT = RNG.random((3, 5, 3)) > 0.6
EVEN = RNG.random((2, 4, 3)) > 0.4
ORACLES = {"dilate": ndi.binary_dilation, "erode": ndi.binary_erosion,
           "open": ndi.binary_opening, "close": ndi.binary_closing}  # fmt: skip


@pytest.mark.parametrize(
    ("footprint", "origin"),
    [
        (FOOTPRINT, (0, 0, 0)),
        (EVEN, (0, 0, 0)),
        (EVEN, (-1, 1, 1)),
        (np.ones((2, 3, 4)), (0, 1, -2)),
    ],
)
@pytest.mark.parametrize("name", ORACLES)
def test_any_footprint_shapes_as_in_scipy(name, footprint, origin):
    mask = lv.as_stack(da.from_array(NOISE > 0.05, chunks=(1, 5, 17, 7)))
    got = getattr(lv.masks, name)(mask, footprint=footprint, iterations=2, origin=origin)
    expected = [ORACLES[name](v, footprint, iterations=2, origin=origin) for v in NOISE > 0.05]
    np.testing.assert_array_equal(got, np.stack(expected))


@pytest.mark.parametrize("iterations", [2, 0, 10**6])
@pytest.mark.parametrize("name", ["dilate", "erode"])
def test_voxels_outside_a_mask_keep_their_value(name, iterations):
    flags, within = NOISE > 0.15, RNG.random(NOISE.shape[1:]) > 0.4
    if name == "erode":
        flags = ~flags
    mask = lv.as_stack(da.from_array(flags, chunks=(1, 5, 17, 7)))
    got = getattr(lv.masks, name)(mask, within=lv.as_stack(within), iterations=iterations)
    limit = iterations if iterations < 10**6 else 0  # nothing changes after a few
    expected = [ORACLES[name](v, mask=within, iterations=limit) for v in flags]
    np.testing.assert_array_equal(got, np.stack(expected))
    assert (got != flags).any()


def test_elements_without_a_voxel_or_a_centre_are_refused():
    footprint = np.zeros((3, 3, 3))
    with pytest.raises(LabelError, match="dilate: footprint must have a voxel that is not 0"):
        lv.masks.dilate(lv.as_stack(NOISE > 0), footprint=footprint)
    with pytest.raises(LabelError, match="size must be None if another"):
        lv.masks.dilate(lv.as_stack(NOISE > 0), footprint=footprint, size=3)
    footprint[0, 0, 0] = 1
    with pytest.raises(LabelError, match="must have its centre set for iterations=0"):
        lv.masks.dilate(lv.as_stack(NOISE > 0), footprint=footprint, iterations=0)
    with pytest.raises(LabelError, match="open: iterations must be a whole number of 1 or more"):
        lv.masks.open(lv.as_stack(NOISE > 0), iterations=0)
    with pytest.raises(LabelError, match=r"open: origin must be from -\(n // 2\) to"):
        lv.masks.open(lv.as_stack(NOISE > 0), footprint=footprint, origin={"y": 2})

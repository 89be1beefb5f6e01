"""Windows and kernels beside their voxel: ``origin``, against scipy."""

from functools import partial

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy import ndimage as ndi

import lazyvol as lv
from lazyvol.errors import LabelError
from tests.rows.filters import KERNEL, close

VALUES = np.random.default_rng(8).normal(size=(2, 6, 9, 11))
MODES = ("reflect", "mirror", "nearest", "constant", "wrap")
FOOTPRINT = np.random.default_rng(9).random((2, 4, 3)) > 0.4
BOX = {"z": 4, "y": 3, "x": 2}
#: ours, that of scipy, and an origin along z, y, x
PAIRS = {
    "uniform": (
        partial(lv.filters.uniform, size=BOX), partial(ndi.uniform_filter, size=(4, 3, 2)),
        (1, -1, -1),
    ),
    "uniform, long": (
        partial(lv.filters.uniform, size={"z": 25, "x": 3}),
        partial(ndi.uniform_filter, size=(25, 1, 3)), (-10, 0, 1),
    ),
    "minimum": (
        partial(lv.filters.minimum, size=BOX), partial(ndi.minimum_filter, size=(4, 3, 2)),
        (-2, 1, 0),
    ),
    "maximum, long": (
        partial(lv.filters.maximum, size={"z": 25}),
        partial(ndi.maximum_filter, size=(25, 1, 1)), (12, 0, 0),
    ),
    "median": (
        partial(lv.filters.median, size=BOX), partial(ndi.median_filter, size=(4, 3, 2)),
        (1, 1, -1),
    ),
    "rank, long": (
        partial(lv.filters.rank, number=3, size={"z": 15, "y": 2}),
        partial(ndi.rank_filter, rank=3, size=(15, 2, 1)), (-7, -1, 0),
    ),
    "percentile": (
        partial(lv.filters.percentile, q=30.0, footprint=FOOTPRINT),
        partial(ndi.percentile_filter, percentile=30.0, footprint=FOOTPRINT), (-1, -2, 1),
    ),
    "maximum, footprint": (
        partial(lv.filters.maximum, footprint=FOOTPRINT),
        partial(ndi.maximum_filter, footprint=FOOTPRINT), (0, 1, -1),
    ),
    "correlate": (
        partial(lv.filters.correlate, kernel=KERNEL), partial(ndi.correlate, weights=KERNEL),
        (2, -2, 1),
    ),
    "convolve": (
        partial(lv.filters.convolve, kernel=KERNEL), partial(ndi.convolve, weights=KERNEL),
        (-1, 1, 1),
    ),
    "convolve, one row": (
        partial(lv.filters.convolve, kernel=[1.0, 3.0, -2.0, 0.5]),
        partial(ndi.convolve, weights=np.reshape([1.0, 3.0, -2.0, 0.5], (1, 1, 4))), (0, 0, -2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_origins_are_those_of_scipy(name):
    ours, theirs, origin = PAIRS[name]
    stack = lv.as_stack(da.from_array(VALUES, (1, 4, 5, 6)))
    for mode in MODES:
        result = ours(stack, origin=origin, mode=mode, fill=0.5).values
        expected = [theirs(v, origin=origin, mode=mode, cval=0.5) for v in VALUES]
        close(result, np.stack(expected))


def test_a_mapping_a_number_and_only_whole_windows():
    stack = lv.as_stack(VALUES).transpose("x", "k", "z", "y")
    moved = lv.filters.uniform(stack, {"z": 3, "x": 4}, origin={"x": -2})
    expected = np.stack([ndi.uniform_filter(v, (3, 1, 4), origin=(0, 0, -2)) for v in VALUES])
    close(moved.transpose(*"kzyx").values, expected)
    moved = lv.filters.median(stack, {"z": 3, "y": 5}, origin=1).transpose(*"kzyx")
    expected = np.stack([ndi.median_filter(v, (3, 5, 1), origin=(1, 1, 0)) for v in VALUES])
    np.testing.assert_array_equal(moved.values, expected)
    whole = lv.filters.minimum(stack, {"z": 3, "y": 5}, origin=(1, -2, 0), mode="valid")
    everywhere = lv.filters.minimum(stack, {"z": 3, "y": 5}, origin=(1, -2, 0), mode="wrap")
    assert (whole.z[0].item(), whole.z[-1].item()) == (2.0, 5.0)
    assert (whole.y[0].item(), whole.y[-1].item()) == (0.0, 4.0)
    xr.testing.assert_identical(whole, everywhere.sel(z=whole.z, y=whole.y))


@pytest.mark.parametrize("origin", [2, -2, {"x": 1}, (0, 0, 1)])
def test_a_window_holds_its_voxel(origin):
    with pytest.raises(LabelError, match=r"median: origin must be from -\(n // 2\) to"):
        lv.filters.median(lv.as_stack(VALUES), {"z": 3, "y": 3}, origin=origin)
    with pytest.raises(LabelError, match="origin must be one value, or one for each of"):
        lv.filters.median(lv.as_stack(VALUES), 3, origin=(1, 1))

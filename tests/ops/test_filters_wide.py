"""Filters whose windows are larger than the array: equal to scipy, in bounded memory."""

import tracemalloc

import dask.array as da
import numpy as np
import pytest
from scipy import ndimage as ndi

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.filters import wide_windows
from tests.rows.filters import close

MODES = ("reflect", "mirror", "nearest", "constant", "wrap")
AXES = (1, 2, 3)
SHAPE = (4, 5, 3, 1)
#: windows along z, y, x: as long as the array, of one period and more, of many periods
SIZES = [(5, 3, 1), (9, 5, 2), (10, 6, 2), (11, 7, 3), (1, 8, 20), (41, 30, 12)]
KERNEL = np.random.default_rng(3).normal(1.0, 1.0, (23, 8, 5))
ROWS = np.multiply.outer(np.multiply.outer(np.arange(1.0, 24), [1.0, -3.0, 2.5]), np.ones(9))


@pytest.fixture(params=["all axes", "axis by axis"])
def padding(request, monkeypatch):
    """Pad all axes at once, as for small stacks, or one after the other."""
    if request.param == "axis by axis":
        monkeypatch.setattr(wide_windows, "WIDE", 0)
        monkeypatch.setattr(wide_windows, "SMALL", 0)
        monkeypatch.setattr(wide_windows, "ROOM", 2000)


def stacks(a):
    yield lv.as_stack(a)
    yield lv.as_stack(da.from_array(a, chunks=(3, 2, 2, 1)))


def random(dtype, shape=SHAPE):
    a = np.random.default_rng(2).normal(0, 50, shape)
    if np.dtype(dtype).kind == "u":
        a = np.clip(np.abs(a * 5), 0, np.iinfo(dtype).max)
    return a.astype(dtype)


def by_dim(sizes):
    return dict(zip("zyx", sizes, strict=True))


@pytest.mark.usefixtures("padding")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_averages_of_any_reach_equal_scipy(mode, dtype):
    a = random(dtype)
    roundings = 2e10 if dtype == "float32" else 100
    border = {"mode": mode, "cval": 3.0}
    for stack in stacks(a):
        for sigma in (1.0, 4.0, 300.0):
            result = lv.filters.gaussian(stack, sigma, mode=mode, fill=3.0)
            expected = ndi.gaussian_filter(a.astype("f8"), sigma, axes=AXES, **border)
            close(result.values, expected, roundings)
        for sizes in SIZES:
            result = lv.filters.uniform(stack, by_dim(sizes), mode=mode, fill=3.0)
            expected = ndi.uniform_filter(a.astype("f8"), (1, *sizes), **border)
            close(result.values, expected, roundings)
            assert result.dtype == (np.float64 if dtype == "uint8" else a.dtype)


@pytest.mark.usefixtures("padding")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", [KERNEL, ROWS, KERNEL[:, :1, :1]])
def test_kernels_of_any_reach_equal_scipy(mode, kernel):
    a = random("float64")
    for stack in stacks(a):
        for ours, theirs in (
            (lv.filters.correlate, ndi.correlate), (lv.filters.convolve, ndi.convolve)
        ):  # fmt: skip
            result = ours(stack, kernel, mode=mode, fill=3.0)
            close(result.values, theirs(a, kernel[None], mode=mode, cval=3.0), 1000)


@pytest.mark.usefixtures("padding")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", "bool"])
@pytest.mark.parametrize("sizes", SIZES)
def test_ranks_of_windows_of_any_size(mode, dtype, sizes):
    """Compare with sorted windows: scipy has no bool, and ranks float64 as float32."""
    a = random(dtype)
    reach = [(n // 2, n - 1 - n // 2) for n in sizes]
    padded = np.stack([padded_as_scipy(v, reach, mode) for v in a])
    windows = np.lib.stride_tricks.sliding_window_view(padded, sizes, axis=AXES)
    ordered = np.sort(windows.reshape(*a.shape, -1), axis=-1)
    count, size = ordered.shape[-1], by_dim(sizes)
    for stack in stacks(a):
        border = {"mode": mode, "fill": 1.0}
        for result, rank in (
            (lv.filters.minimum(stack, size, **border), 0),
            (lv.filters.maximum(stack, size, **border), count - 1),
            (lv.filters.median(stack, size, **border), count // 2),
            (lv.filters.percentile(stack, 30.0, size, **border), int(count * 30.0 / 100)),
            (lv.filters.rank(stack, -1 - count // 5, size, **border), count - 1 - count // 5),
        ):
            np.testing.assert_array_equal(result.values, ordered[..., rank])


def padded_as_scipy(volume, reach, mode):
    """Pad a volume, by the indices that scipy maps positions beyond the border to."""
    grown = np.arange(float(volume.size)).reshape(volume.shape)
    for axis, (low, high) in enumerate(reach):
        positions = np.arange(-low, volume.shape[axis] + high)
        line = np.arange(volume.shape[axis], dtype=float)
        options = {"order": 0, "mode": COORDINATE_MODES[mode], "cval": -1}
        index = [ndi.map_coordinates(line, [[p]], **options)[0] for p in positions]
        grown = np.take(grown, np.array(index, int), axis)
        if mode == "constant":
            shape = [1] * volume.ndim
            shape[axis] = -1
            outside = np.broadcast_to((np.array(index) < 0).reshape(shape), grown.shape)
            grown = np.where(outside | (grown < 0), -1, grown)
    flat = grown.astype(int)
    return np.where(flat < 0, volume.dtype.type(1), volume.reshape(-1)[flat])


#: names of the border modes in scipy.ndimage.map_coordinates
COORDINATE_MODES = {"wrap": "grid-wrap", "constant": "constant", **{m: m for m in MODES[:3]}}


def test_nan_fills_a_volume_shorter_than_the_window():
    a = random("float64")
    a[1, 2, 1, 0] = np.nan
    for op in (lv.filters.median, lv.filters.maximum, lv.filters.uniform):
        result = op(lv.as_stack(a), 30)
        assert np.isnan(result[1]).all()
        assert np.isfinite(result[[0, 2, 3]]).all()


BOUNDED = [
    lambda s: lv.filters.gaussian(s, 300.0),
    lambda s: lv.filters.gaussian(s, 1e5),
    lambda s: lv.filters.uniform(s, 1001),
    lambda s: lv.filters.maximum(s, 1001),
    lambda s: lv.filters.median(s, 1001),
    lambda s: lv.filters.convolve(s, np.ones(1001)[:, None, None] * np.ones((1, 9, 9))),
]


@pytest.mark.parametrize("op", BOUNDED)
def test_a_large_reach_on_a_thin_stack_takes_little_memory(op):
    stack = lv.as_stack(np.random.default_rng(0).normal(size=(2, 5, 5, 5)))
    op(stack)
    tracemalloc.start()
    assert np.isfinite(op(stack).values).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # for 800,000 weights; padded along all axes it would be GiB


def test_a_large_reach_takes_a_few_times_the_memory_of_the_stack():
    stack = lv.as_stack(np.random.default_rng(0).normal(size=(6, 48, 50, 52)).astype("f4"))
    for op in (
        lambda s: lv.filters.gaussian(s, 40.0),
        lambda s: lv.filters.uniform(s, 95),
        lambda s: lv.filters.minimum(s, 95),
    ):
        tracemalloc.start()
        op(stack)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * stack.nbytes


@pytest.mark.parametrize("mode", MODES)
def test_densities_of_windows_larger_than_the_array(mode):
    a = np.random.default_rng(5).integers(0, 2, (2, 5, 6, 7)).astype("f8")
    for sizes in ((801, 802, 3), (2001, 1001, 1001)):
        density = lv.density.local(lv.as_stack(a), by_dim(sizes), mode=mode)
        expected = ndi.uniform_filter(a, (1, *sizes), mode=mode)
        np.testing.assert_allclose(density, expected, rtol=0, atol=1e-13)
        assert density.dtype == np.float64


def test_boxes_larger_than_the_array():
    mask = np.zeros((2, 4, 5, 6), bool)
    mask[0, 1, 2, 3] = True
    wide = {"z": 2001, "y": 2001, "x": 2001}
    dilated = lv.masks.dilate(lv.as_stack(mask), size=wide)
    np.testing.assert_array_equal(dilated, mask.any((1, 2, 3), keepdims=True) | (mask & False))
    assert not lv.masks.erode(lv.as_stack(~mask), size=wide).any()
    whole = lv.masks.erode(lv.as_stack(~mask), size=wide, border=True)
    assert whole[1].all()
    assert not whole[0].any()


REFUSED = [
    (lambda s: lv.filters.rank(s, 1.5, 3), "rank: number must be a whole number, got 1.5"),
    (lambda s: lv.filters.rank(s, True, 3), "whole number"),
    (lambda s: lv.filters.uniform(s, 3, fill=None), "fill must be a number, got None"),
    (lambda s: lv.filters.gaussian(s, 1.0, mode="constant", fill="0"), "fill must be a number"),
    (lambda s: lv.filters.median(s, 3, fill=None), "fill must be a number"),
    (lambda s: lv.filters.gaussian(s, 1e9), "1048576 voxels or less"),
    (lambda s: lv.filters.uniform(s, 2**25), "1048576 voxels or less"),
]
REFUSED_LABELS = [
    (lambda s: lv.filters.gaussian(s, np.nan), "sigma must be a finite number"),
    (lambda s: lv.filters.gaussian(s, np.inf), "sigma must be a finite number"),
    (lambda s: lv.filters.gaussian(s, None), "sigma must be a finite number"),
    (lambda s: lv.filters.gaussian(s, 1.0, truncate=np.nan), "truncate must be a finite number"),
    (lambda s: lv.filters.gaussian(s, 1.0, truncate=-1.0), "truncate must be above 0"),
    (lambda s: lv.filters.gaussian(s, 1.0, truncate=None), "truncate must be a finite number"),
    (lambda s: lv.filters.gaussian(s, 1.0, truncate=np.inf), "truncate must be a finite number"),
    (lambda s: lv.filters.uniform(s, -3), "1 or more"),
    (lambda s: lv.filters.minimum(s, {"z": 0}), "1 or more"),
    (lambda s: lv.filters.bandpass(s, np.nan), "shortest must be a finite number"),
    (lambda s: lv.filters.bandpass(s, 3.0, np.nan), "longest must be a finite number"),
    (lambda s: lv.filters.bandpass(s, 9.0, 3.0), "shortest < longest"),
    (lambda s: lv.filters.bandpass(s, 3.0, edge=np.nan), "edge must be a finite number"),
    (lambda s: lv.filters.laplace(s * 1j, dim="x"), "real numbers"),
    (lambda s: lv.filters.bandpass(s * 1j, 3.0, dim="x"), "real numbers"),
    (
        lambda s: lv.filters.uniform(s.astype("f4"), 3, mode="constant", fill=1e300),
        "fill must be a value of dtype float32",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_invalid_options_are_refused(call, message):
    with pytest.raises(OptionError, match=message):
        call(lv.as_stack(random("float64")))


@pytest.mark.parametrize(("call", "message"), REFUSED_LABELS, ids=[m for _, m in REFUSED_LABELS])
def test_options_that_do_not_fit_the_stack_are_refused(call, message):
    with pytest.raises((LabelError, OptionError), match=message):
        call(lv.as_stack(random("float64")))


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (2, 0, 5, 6), (2, 4, 5, 0)])
def test_empty_stacks_give_empty_results_or_are_refused(shape):
    stack = lv.as_stack(np.ones(shape))
    for op in (
        lambda s: lv.filters.gaussian(s, 300.0),
        lambda s: lv.filters.uniform(s, 301),
        lambda s: lv.filters.median(s, 3),
        lambda s: lv.filters.convolve(s, KERNEL),
        lv.filters.laplace,
        lambda s: lv.derivatives.laplacian(s, sigma=3.0),
    ):
        assert op(stack).shape == shape
    whole = [
        lambda s: lv.filters.bandpass(s, 3.0),
        lambda s: lv.registration.shift(s, (1, 1, 1)),
        lambda s: lv.registration.rotate(s, 30.0),
        lambda s: lv.registration.shifts(s, s),
    ]
    for op in whole if 0 in shape[1:] else ():
        with pytest.raises(LabelError, match="one voxel or more along"):
            op(stack)

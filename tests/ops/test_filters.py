"""Filters where the table of operations does not look: borders, NaN, bits, types, costs, errors."""

from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from scipy import ndimage as ndi

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.plan.graph.lazy_array import recipe_of
from tests.paths import DATA
from tests.rows.filters import KERNEL, LARGE, ROWS, close
from tests.sources import elements_read
from tests.strategies import FEW, SHAPE, chunked, chunkings, labelled, stored, values

SOME = settings(FEW, max_examples=3)
MODES = ("reflect", "mirror", "nearest", "constant", "wrap")
IN_VOXELS = {"z": 3.0, "y": 2.0, "x": 1.5}
AXES = (1, 2, 3)

#: filters of neighbourhoods of every kind: ours, and scipy's for the same mode
PAIRS = {
    "gaussian": (
        partial(lv.filters.gaussian, sigma=2.5),
        partial(ndi.gaussian_filter, sigma=[2.5 / d for d in IN_VOXELS.values()], axes=AXES),
    ),
    "uniform": (
        partial(lv.filters.uniform, size={"z": 3, "y": 4, "x": 6}),
        partial(ndi.uniform_filter, size=(1, 3, 4, 6)),
    ),
    "minimum": (
        partial(lv.filters.minimum, size={"k": 2, "z": 4, "x": 3}),
        partial(ndi.minimum_filter, size=(2, 4, 1, 3)),
    ),
    "maximum": (
        partial(lv.filters.maximum, size=6), partial(ndi.maximum_filter, size=(1, 6, 6, 6))
    ),
    "median": (
        partial(lv.filters.median, size={"y": 4, "x": 3}),
        partial(ndi.median_filter, size=(1, 1, 4, 3)),
    ),
    "correlate": (
        partial(lv.filters.correlate, kernel=KERNEL), partial(ndi.correlate, weights=KERNEL[None])
    ),
    "convolve": (
        partial(lv.filters.convolve, kernel=KERNEL), partial(ndi.convolve, weights=KERNEL[None])
    ),
    "rows": (partial(lv.filters.convolve, kernel=ROWS), partial(ndi.convolve, weights=ROWS[None])),
    "large": (
        partial(lv.filters.correlate, kernel=LARGE), partial(ndi.correlate, weights=LARGE[None])
    ),
    "laplace": (lv.filters.laplace, partial(ndi.laplace, axes=AXES)),
}  # fmt: skip
LOCAL = pytest.mark.parametrize("name", PAIRS)


# borders ---------------------------------------------------------------------------------------


@LOCAL
@pytest.mark.parametrize("mode", MODES)
@given(grid=chunkings())
@SOME
def test_every_border_is_scipys(name, mode, grid):
    ours, theirs = PAIRS[name]
    array = values("float64")
    found = ours(chunked(array, grid), mode=mode, fill=1.5)
    close(found.compute(scheduler="sync").values, theirs(array, mode=mode, cval=1.5))


@pytest.mark.parametrize("mode", MODES)
def test_halos_may_be_wider_than_chunks_and_the_array(mode):
    array = values("float64")
    stack = chunked(array, (7, 2, 6, 5))
    sigma = {"z": 6.0, "y": 6.0, "x": 6.0}
    found = lv.filters.gaussian(stack, sigma, mode=mode)
    close(found.values, ndi.gaussian_filter(array, (0, 2, 3, 4), mode=mode))
    found = lv.filters.uniform(stack, {"z": 15, "y": 26, "x": 30}, mode=mode)
    close(found.values, ndi.uniform_filter(array, (1, 15, 26, 30), mode=mode))
    found = lv.filters.maximum(stack, {"z": 15, "x": 30}, mode=mode)
    np.testing.assert_array_equal(
        found.values, ndi.maximum_filter(array, (1, 15, 1, 30), mode=mode)
    )


@LOCAL
def test_valid_is_what_no_border_touches(name):
    ours, _ = PAIRS[name]
    array = values("float64", (3, 9, 12, 17))
    stack = chunked(array, (2, 4, 5, 9))
    found = ours(stack, mode="valid")
    whole = ours(stack)
    reflected, constant = (ours(stack, mode=m, fill=99.0) for m in ("reflect", "constant"))
    untouched = (abs(reflected - constant) < 1e-9).values
    inner = whole.sel({d: found[d] for d in ("z", "y", "x")}).isel(k=slice(*_kept(name)))
    assert found.sizes == inner.sizes
    close(found.values, inner.values)
    if name not in ("minimum", "maximum", "median"):
        assert untouched.sum() == found.size


def _kept(name: str) -> tuple[int, None]:
    """Particles of the valid part: windows of 2 along k start with the second."""
    return (1 if name == "minimum" else 0, None)


def test_valid_needs_a_whole_neighbourhood():
    with pytest.raises(LabelError, match=r"needs a whole neighbourhood of \{'z': 6\}.*'z': 5"):
        lv.filters.uniform(labelled(values("float32")), {"z": 6}, mode="valid")


def test_a_descending_coordinate_and_a_lone_voxel():
    stack = labelled(values("float64"))
    found = lv.filters.gaussian(stack.isel(x=slice(None, None, -1)), 3.0)
    close(found.isel(x=slice(None, None, -1)).values, lv.filters.gaussian(stack, 3.0).values)
    lone = stack.isel(z=[2], y=[4])
    close(
        lv.filters.gaussian(lone, {"z": 2.0, "y": 1.0, "x": 3.0}).values,
        ndi.gaussian_filter1d(lone.values, 2.0, axis=3),
    )


# NaN and infinities ----------------------------------------------------------------------------

HOLE = (3, 4, 6, 7)
SPACE = (7, 9, 13, 15)


def reach_of(name: str) -> np.ndarray:
    """Voxels whose neighbourhood has the hole, by a maximum filter of scipy."""
    hit = np.zeros(SPACE)
    hit[HOLE] = 1
    sizes = {
        "gaussian": (1, 7, 11, 15), "uniform": (1, 3, 4, 6), "minimum": (2, 4, 1, 3),
        "maximum": (1, 6, 6, 6), "median": (1, 1, 4, 3), "correlate": (1, 5, 4, 3),
        "convolve": (1, 5, 4, 3), "rows": (1, 3, 2, 4), "large": (1, 9, 11, 10),
    }  # fmt: skip
    if name == "laplace":
        cross = np.zeros((1, 3, 3, 3), bool)
        cross[0, 1, 1, :] = cross[0, 1, :, 1] = cross[0, :, 1, 1] = True
        return ndi.grey_dilation(hit, footprint=cross) > 0
    if name in ("convolve", "rows"):  # turned round: one voxel more after than before
        origin = [0 if n % 2 else -1 for n in sizes[name]]
        return ndi.maximum_filter(hit, sizes[name], origin=origin) > 0
    return ndi.maximum_filter(hit, sizes[name]) > 0


@LOCAL
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_neighbourhoods(name, value):
    ours, _ = PAIRS[name]
    array = values("float64", SPACE)
    holed = array.copy()
    holed[HOLE] = value
    found = ours(chunked(holed, (3, 4, 5, 15))).values
    plain = ours(labelled(array)).values
    hit = reach_of(name)
    close(found[~hit], plain[~hit])
    if name in ("minimum", "median") and value == np.inf:
        return  # the greatest of a window is seen by the maximum alone
    assert not np.isfinite(found[hit]).any()


def test_a_large_value_leaves_no_trace_when_it_has_left_the_window():
    array = np.ones((1, 1, 400))
    array[0, 0, 50] = 1e17
    found = lv.filters.uniform(lv.as_stack(array), {"x": 9}).values
    far = np.abs(np.arange(400) - 50) > 4
    assert (found[0, 0, far] == 1).all()
    assert (lv.filters.uniform(lv.as_stack(np.full((5, 6, 7), 0.3)), 7).values == 0.3).all()


# bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in PAIRS if n != "large"])
@given(grid=chunkings())
@SOME
def test_a_voxel_has_the_same_bits_in_any_block(name, grid):
    array = values("float64")
    ours, _ = PAIRS[name]
    found = ours(chunked(array, grid)).compute(scheduler="sync")
    np.testing.assert_array_equal(found.values, ours(labelled(array)).values)


# types -----------------------------------------------------------------------------------------

TYPES = ("bool", "int8", "uint16", "int32", "int64", "uint64", ">f4", ">i2", "float16")


def typed(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(6)
    if dtype == "bool":
        return rng.random(SHAPE) > 0.5
    if np.dtype(dtype).kind == "f":
        return rng.normal(3, 2, SHAPE).astype(dtype)
    ends = np.iinfo(dtype)
    return rng.integers(ends.min, ends.max, SHAPE, np.dtype(dtype).newbyteorder("="), True).astype(
        dtype
    )


def sorted_windows(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Values of every whole window in rising order, as the last axis."""
    windows = np.lib.stride_tricks.sliding_window_view(array, size)
    return np.sort(windows.reshape(*windows.shape[:4], -1), axis=-1)


@pytest.mark.parametrize("dtype", TYPES)
def test_picked_values_keep_any_type(dtype):
    array, size = typed(dtype), {"y": 3, "x": 2}
    stack = labelled(array)
    ordered = sorted_windows(array, (1, 1, 3, 2))
    for rank, op in ((0, lv.filters.minimum), (5, lv.filters.maximum), (3, lv.filters.median)):
        found = op(stack, size, mode="valid")
        assert found.dtype == stack.dtype
        np.testing.assert_array_equal(found.values, ordered[..., rank])
    for q in (0, 25, 50, 99.9, 100):
        found = lv.filters.percentile(stack, q, size, mode="valid")
        np.testing.assert_array_equal(found.values, ordered[..., min(5, int(6 * q / 100))])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["gaussian", "uniform", "correlate", "rows"])
def test_means_of_any_type_are_in_float64(dtype, name):
    ours, theirs = PAIRS[name]
    array = typed(dtype)
    stack = labelled(array)
    found = ours(stack)
    expected = theirs(array.astype(np.float64))
    precise = np.finfo(found.dtype).eps / np.finfo(np.float64).eps
    assert found.dtype == (stack.dtype if array.dtype.kind == "f" else np.float64)
    close(found.values.astype(np.float64), expected, 8 * precise)


# kernels -----------------------------------------------------------------------------------------


def test_a_kernel_of_named_dims_reaches_along_them():
    array = values("float64")
    kernel = xr.DataArray([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]], dims=("x", "z"))
    found = lv.filters.convolve(chunked(array, (3, 2, 4, 7)), kernel, mode="nearest")
    weights = kernel.values.T[None, :, None, :]
    close(found.values, ndi.convolve(array, weights, mode="nearest"))
    lazy = lv.filters.convolve(labelled(array), kernel.chunk(), mode="nearest")
    np.testing.assert_array_equal(lazy.values, found.values)


def test_kernels_of_one_weight_and_of_nothing():
    stack = labelled(values("float64"))
    np.testing.assert_array_equal(lv.filters.convolve(stack, [-2.0]).values, -2 * stack.values)
    assert (lv.filters.correlate(stack, np.zeros((3, 2))).values == 0).all()
    np.testing.assert_array_equal(lv.filters.gaussian(stack, 0.0).values, stack.values)
    np.testing.assert_array_equal(lv.filters.uniform(stack, 1).values, stack.values)


def test_other_dims_are_untouched():
    colour = values("float32", (11, 13, 3))
    image = lv.as_stack(da.from_array(colour, chunks=(5, 6, 3)), dims=("y", "x", "channel"))
    found = lv.filters.gaussian(image, 1.5)
    expected = ndi.gaussian_filter(colour.astype(np.float64), (1.5, 1.5, 0))
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=2e-6)
    found = lv.filters.median(image, 3)
    np.testing.assert_array_equal(found.values, ndi.median_filter(colour, (3, 3, 1)))


# bands -----------------------------------------------------------------------------------------


def test_waves_pass_or_do_not():
    z, y, x = np.indices((12, 18, 24))
    kept, short, long = (np.cos(2 * np.pi * p) for p in (x / 6 + y / 9, y / 2, z / 12))
    stack = lv.as_stack(kept + short + long + 5, voxel_size=(4, 2, 2), unit="nm")
    found = lv.filters.bandpass(stack, 6.0, 30.0, edge=0.2)
    np.testing.assert_allclose(found.values, kept, atol=1e-12)
    np.testing.assert_allclose(
        lv.filters.bandpass(stack, 6.0, edge=0.2).values, kept + long + 5, atol=1e-12
    )
    assert abs(lv.filters.bandpass(stack, longest=40.0, edge=9.0).mean()) < 1e-12
    slices = lv.filters.bandpass(stack, 6.0, edge=0.2, dim=("y", "x"))
    np.testing.assert_allclose(slices.values, kept + long + 5, atol=1e-12)


def test_every_volume_has_a_band_of_its_own():
    array = values("float32")
    array[2, 0, 0, 0] = np.nan
    found = lv.filters.bandpass(chunked(array, (3, 5, 11, 13)), 7.0).values
    alone = lv.filters.bandpass(labelled(array[4:5]), 7.0).values
    assert np.isnan(found[2]).all()
    assert np.isfinite(np.delete(found, 2, 0)).all()
    np.testing.assert_array_equal(found[4], alone[0])


# plans -----------------------------------------------------------------------------------------


def test_one_task_makes_a_block_and_a_slice_reads_a_slab():
    array = values("float32", (2, 24, 25, 26))
    stack = stored(array, (1, 8, 9, 13))
    chain = lv.filters.uniform(lv.filters.gaussian(stack, 3.0), 3)
    assert lv.explain(chain).tasks <= 1.1 * 2 * 3 * 3 * 2
    token = recipe_of(stack.data).token
    before = elements_read(token)
    chain.isel(k=1, z=12).compute()
    assert 0 < elements_read(token) - before <= 11 * 25 * 26 * 6
    many = stored(values("uint8", (1, 64, 64, 64)), (1, 2, 64, 64))
    assert lv.explain(lv.filters.median(many, 5)).tasks <= 1.1 * 32


# errors ----------------------------------------------------------------------------------------

STACK = labelled(values("float32"))
REFUSED = [
    (lambda: lv.filters.gaussian(STACK, -1.0), "sigma is 0 or more"),
    (lambda: lv.filters.gaussian(STACK, {"z": np.nan}), "sigma must be a finite number"),
    (lambda: lv.filters.gaussian(STACK, "1"), "sigma must be"),
    (lambda: lv.filters.gaussian(STACK, {"q": 1.0}), "sigma must name some of the dims"),
    (lambda: lv.filters.gaussian(STACK, {}), "name one or more"),
    (lambda: lv.filters.gaussian(STACK.isel(z=0, y=0, x=0), 1.0), "must be by name"),
    (lambda: lv.filters.gaussian(STACK, 1.0, truncate=0.0), "truncate > 0"),
    (lambda: lv.filters.gaussian(STACK, 1.0, mode="periodic"), "mode must be one of"),
    (lambda: lv.filters.gaussian(STACK, 1.0, mode="clip"), "mode must be one of"),
    (lambda: lv.filters.gaussian(2.0, 1.0), "lazyvol.as_stack"),
    (lambda: lv.filters.gaussian(STACK * 1j, 1.0), "real numbers"),
    (lambda: lv.filters.uniform(STACK, 0), "1 or more"),
    (lambda: lv.filters.uniform(STACK, 2.5), "whole number"),
    (lambda: lv.filters.median(STACK, {"q": 3}), "size must name some of the dims"),
    (lambda: lv.filters.percentile(STACK, 101.0, 3), "q is a percentage"),
    (lambda: lv.filters.percentile(STACK, np.nan, 3), "finite number"),
    (lambda: lv.filters.rank(STACK, 27, 3), "ranks up to 26"),
    (lambda: lv.filters.rank(STACK, -28, 3), "ranks up to 26"),
    (lambda: lv.filters.convolve(STACK, np.ones((2, 2, 2, 2))), "name its dims"),
    (lambda: lv.filters.convolve(STACK, 3.0), "nested sequences of numbers"),
    (lambda: lv.filters.convolve(STACK, [1.0, np.nan]), "finite weights"),
    (lambda: lv.filters.convolve(STACK, [1j]), "finite weights"),
    (lambda: lv.filters.convolve(STACK, []), "finite weights"),
    (lambda: lv.filters.convolve(STACK, xr.DataArray([1.0], dims="t")), "a kernel names dims"),
    (lambda: lv.filters.laplace(STACK, dim=()), "one dim or more"),
    (lambda: lv.filters.bandpass(STACK), "wavelengths above 0"),
    (lambda: lv.filters.bandpass(STACK, 9.0, 8.0), "shortest < longest"),
    (lambda: lv.filters.bandpass(STACK, 0.0, 9.0), "wavelengths above 0"),
    (lambda: lv.filters.bandpass(STACK, 8.0, edge=-1.0), "0 or more Fourier pixels"),
    (lambda: lv.filters.bandpass(STACK, 8.0, dim=("k", "x")), "one unit of length"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "told"), REFUSED, ids=[t for _, t in REFUSED])
def test_what_makes_no_sense_is_refused(call, told):
    with pytest.raises((LabelError, OptionError), match=told):
        call()


@pytest.mark.parametrize("fill", [0.5, 300.0, -1.0, np.nan])
def test_a_fill_must_be_a_value_of_the_stack(fill):
    stack = labelled(values("uint8"))
    with pytest.raises(LabelError, match="fill is a value of the stack"):
        lv.filters.uniform(stack, 3, mode="constant", fill=fill)
    lv.filters.uniform(stack, 3, fill=fill)  # of no use, and no harm, to other modes


# real data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("file", "part"),
    [("vessels/aorta.tif", (slice(34), slice(100, 160), slice(40, 100))),
     ("isbi2012/train-volume.tif", (slice(9), slice(70), slice(80))),
     ("emdb_maps/emd_1832.map", (slice(40), slice(45), slice(50)))],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_real_volumes_give_what_scipy_gives(file, part, mode):
    if not (DATA / file).is_file():
        pytest.skip("shared/data is not beside the checkout")
    stack = lv.open(DATA / file).isel(dict(zip("zyx", part, strict=True)))
    stack = stack.chunk(z=7, y=33, x=31)
    array = stack.values
    wide = array.astype(np.float64)
    voxels = {d: abs(float(stack[d][1] - stack[d][0])) for d in "zyx"}
    sigma = {"z": 1.2 * voxels["z"], "x": 2.0 * voxels["x"]}
    checks = [
        (
            lv.filters.gaussian(stack, sigma, mode=mode),
            ndi.gaussian_filter(wide, (1.2, 0, 2), mode=mode),
        ),
        (lv.filters.uniform(stack, 5, mode=mode), ndi.uniform_filter(wide, 5, mode=mode)),
        (
            lv.filters.median(stack, {"y": 3, "x": 3}, mode=mode),
            ndi.median_filter(array, (1, 3, 3), mode=mode),
        ),
        (lv.filters.minimum(stack, 4, mode=mode), ndi.minimum_filter(array, 4, mode=mode)),
        (lv.filters.convolve(stack, KERNEL, mode=mode), ndi.convolve(wide, KERNEL, mode=mode)),
    ]
    for (found, expected), got in zip(checks, dask.compute(*(f for f, _ in checks)), strict=True):
        assert found.dtype == got.dtype
        eps = np.finfo(got.dtype).eps if got.dtype.kind == "f" else 0
        roundings = 100 + 4 * eps / 2.3e-16  # scipy's running means are off by more than ours
        close(got.values.astype(np.float64), expected.astype(np.float64), roundings)

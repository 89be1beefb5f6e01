"""Filters beyond the table of operations: borders, NaN, bits, dtypes, plans, errors."""

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

#: one filter of every kind: ours and the counterpart of scipy
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
def test_every_border_mode_equals_scipy(name, mode, grid):
    ours, theirs = PAIRS[name]
    array = values("float64")
    result = ours(chunked(array, grid), mode=mode, fill=1.5)
    close(result.compute(scheduler="sync").values, theirs(array, mode=mode, cval=1.5))


@pytest.mark.parametrize("mode", MODES)
def test_halos_may_be_wider_than_chunks_and_the_array(mode):
    array = values("float64")
    stack = chunked(array, (7, 2, 6, 5))
    sigma = {"z": 6.0, "y": 6.0, "x": 6.0}
    result = lv.filters.gaussian(stack, sigma, mode=mode)
    close(result.values, ndi.gaussian_filter(array, (0, 2, 3, 4), mode=mode))
    result = lv.filters.uniform(stack, {"z": 15, "y": 26, "x": 30}, mode=mode)
    close(result.values, ndi.uniform_filter(array, (1, 15, 26, 30), mode=mode))
    result = lv.filters.maximum(stack, {"z": 15, "x": 30}, mode=mode)
    np.testing.assert_array_equal(
        result.values, ndi.maximum_filter(array, (1, 15, 1, 30), mode=mode)
    )


@LOCAL
def test_valid_results_do_not_depend_on_the_border(name):
    ours, _ = PAIRS[name]
    array = values("float64", (3, 9, 12, 17))
    stack = chunked(array, (2, 4, 5, 9))
    valid = ours(stack, mode="valid")
    whole = ours(stack)
    reflected, constant = (ours(stack, mode=m, fill=99.0) for m in ("reflect", "constant"))
    untouched = (abs(reflected - constant) < 1e-9).values
    inner = whole.sel({d: valid[d] for d in ("z", "y", "x")}).isel(k=slice(*_kept(name)))
    assert valid.sizes == inner.sizes
    close(valid.values, inner.values)
    if name not in ("minimum", "maximum", "median"):
        assert untouched.sum() == valid.size


def _kept(name: str) -> tuple[int, None]:
    """Return the particles of the valid part: windows of 2 along k start with the second."""
    return (1 if name == "minimum" else 0, None)


def test_valid_needs_a_whole_window():
    with pytest.raises(LabelError, match=r"shorter than the window \{'z': 6\}.*'z': 5"):
        lv.filters.uniform(labelled(values("float32")), {"z": 6}, mode="valid")


def test_a_descending_coordinate_and_a_lone_voxel():
    stack = labelled(values("float64"))
    result = lv.filters.gaussian(stack.isel(x=slice(None, None, -1)), 3.0)
    close(result.isel(x=slice(None, None, -1)).values, lv.filters.gaussian(stack, 3.0).values)
    lone = stack.isel(z=[2], y=[4])
    close(
        lv.filters.gaussian(lone, {"z": 2.0, "y": 1.0, "x": 3.0}).values,
        ndi.gaussian_filter1d(lone.values, 2.0, axis=3),
    )


# NaN and infinities ----------------------------------------------------------------------------

HOLE = (3, 4, 6, 7)
SPACE = (7, 9, 13, 15)


def reach_of(name: str) -> np.ndarray:
    """Return the voxels whose window holds the hole, by a maximum filter of scipy."""
    hole = np.zeros(SPACE)
    hole[HOLE] = 1
    sizes = {
        "gaussian": (1, 7, 11, 15), "uniform": (1, 3, 4, 6), "minimum": (2, 4, 1, 3),
        "maximum": (1, 6, 6, 6), "median": (1, 1, 4, 3), "correlate": (1, 5, 4, 3),
        "convolve": (1, 5, 4, 3), "rows": (1, 3, 2, 4), "large": (1, 9, 11, 10),
    }  # fmt: skip
    if name == "laplace":
        cross = np.zeros((1, 3, 3, 3), bool)
        cross[0, 1, 1, :] = cross[0, 1, :, 1] = cross[0, :, 1, 1] = True
        return ndi.grey_dilation(hole, footprint=cross) > 0
    if name in ("convolve", "rows"):  # flipped: one voxel more after the centre than before
        origin = [0 if n % 2 else -1 for n in sizes[name]]
        return ndi.maximum_filter(hole, sizes[name], origin=origin) > 0
    return ndi.maximum_filter(hole, sizes[name]) > 0


@LOCAL
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinities_stay_in_their_windows(name, value):
    ours, _ = PAIRS[name]
    array = values("float64", SPACE)
    arrays_with_nan = array.copy()
    arrays_with_nan[HOLE] = value
    result = ours(chunked(arrays_with_nan, (3, 4, 5, 15))).values
    plain = ours(labelled(array)).values
    affected = reach_of(name)
    close(result[~affected], plain[~affected])
    if name in ("minimum", "median") and value == np.inf:
        return  # only the maximum is infinite
    assert not np.isfinite(result[affected]).any()


def test_a_large_value_does_not_affect_later_windows():
    array = np.ones((1, 1, 400))
    array[0, 0, 50] = 1e17
    result = lv.filters.uniform(lv.as_stack(array), {"x": 9}).values
    far = np.abs(np.arange(400) - 50) > 4
    assert (result[0, 0, far] == 1).all()
    assert (lv.filters.uniform(lv.as_stack(np.full((5, 6, 7), 0.3)), 7).values == 0.3).all()


# bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in PAIRS if n != "large"])
@given(grid=chunkings())
@SOME
def test_a_voxel_has_the_same_bits_in_any_block(name, grid):
    array = values("float64")
    ours, _ = PAIRS[name]
    result = ours(chunked(array, grid)).compute(scheduler="sync")
    np.testing.assert_array_equal(result.values, ours(labelled(array)).values)


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
    """Return the values of every whole window in ascending order, as the last axis."""
    windows = np.lib.stride_tricks.sliding_window_view(array, size)
    return np.sort(windows.reshape(*windows.shape[:4], -1), axis=-1)


@pytest.mark.parametrize("dtype", TYPES)
def test_ranks_keep_any_dtype(dtype):
    array, size = typed(dtype), {"y": 3, "x": 2}
    stack = labelled(array)
    ordered = sorted_windows(array, (1, 1, 3, 2))
    for rank, op in ((0, lv.filters.minimum), (5, lv.filters.maximum), (3, lv.filters.median)):
        result = op(stack, size, mode="valid")
        assert result.dtype == stack.dtype
        np.testing.assert_array_equal(result.values, ordered[..., rank])
    for q in (0, 25, 50, 99.9, 100):
        result = lv.filters.percentile(stack, q, size, mode="valid")
        np.testing.assert_array_equal(result.values, ordered[..., min(5, int(6 * q / 100))])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["gaussian", "uniform", "correlate", "rows"])
def test_averages_of_any_dtype_are_computed_in_float64(dtype, name):
    ours, theirs = PAIRS[name]
    array = typed(dtype)
    stack = labelled(array)
    result = ours(stack)
    expected = theirs(array.astype(np.float64))
    rounding = np.finfo(result.dtype).eps / np.finfo(np.float64).eps
    assert result.dtype == (stack.dtype if array.dtype.kind == "f" else np.float64)
    close(result.values.astype(np.float64), expected, 8 * rounding)


# kernels -----------------------------------------------------------------------------------------


def test_a_kernel_of_named_dims_reaches_along_them():
    array = values("float64")
    kernel = xr.DataArray([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]], dims=("x", "z"))
    result = lv.filters.convolve(chunked(array, (3, 2, 4, 7)), kernel, mode="nearest")
    weights = kernel.values.T[None, :, None, :]
    close(result.values, ndi.convolve(array, weights, mode="nearest"))
    lazy = lv.filters.convolve(labelled(array), kernel.chunk(), mode="nearest")
    np.testing.assert_array_equal(lazy.values, result.values)


def test_kernels_of_one_weight_and_of_zeros():
    stack = labelled(values("float64"))
    np.testing.assert_array_equal(lv.filters.convolve(stack, [-2.0]).values, -2 * stack.values)
    assert (lv.filters.correlate(stack, np.zeros((3, 2))).values == 0).all()
    np.testing.assert_array_equal(lv.filters.gaussian(stack, 0.0).values, stack.values)
    np.testing.assert_array_equal(lv.filters.uniform(stack, 1).values, stack.values)


def test_other_dims_are_not_filtered():
    colour = values("float32", (11, 13, 3))
    image = lv.as_stack(da.from_array(colour, chunks=(5, 6, 3)), dims=("y", "x", "channel"))
    filtered = lv.filters.gaussian(image, 1.5)
    expected = ndi.gaussian_filter(colour.astype(np.float64), (1.5, 1.5, 0))
    np.testing.assert_allclose(filtered.values, expected, rtol=0, atol=2e-6)
    filtered = lv.filters.median(image, 3)
    np.testing.assert_array_equal(filtered.values, ndi.median_filter(colour, (3, 3, 1)))


# bands -----------------------------------------------------------------------------------------


def test_waves_outside_the_band_are_removed():
    z, y, x = np.indices((12, 18, 24))
    kept, short, long = (np.cos(2 * np.pi * p) for p in (x / 6 + y / 9, y / 2, z / 12))
    stack = lv.as_stack(kept + short + long + 5, voxel_size=(4, 2, 2), unit="nm")
    filtered = lv.filters.bandpass(stack, 6.0, 30.0, edge=0.2)
    np.testing.assert_allclose(filtered.values, kept, atol=1e-12)
    np.testing.assert_allclose(
        lv.filters.bandpass(stack, 6.0, edge=0.2).values, kept + long + 5, atol=1e-12
    )
    assert abs(lv.filters.bandpass(stack, longest=40.0, edge=9.0).mean()) < 1e-12
    slices = lv.filters.bandpass(stack, 6.0, edge=0.2, dim=("y", "x"))
    np.testing.assert_allclose(slices.values, kept + long + 5, atol=1e-12)


def test_volumes_are_filtered_separately():
    array = values("float32")
    array[2, 0, 0, 0] = np.nan
    filtered = lv.filters.bandpass(chunked(array, (3, 5, 11, 13)), 7.0).values
    alone = lv.filters.bandpass(labelled(array[4:5]), 7.0).values
    assert np.isnan(filtered[2]).all()
    assert np.isfinite(np.delete(filtered, 2, 0)).all()
    np.testing.assert_array_equal(filtered[4], alone[0])


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
    (lambda: lv.filters.gaussian(STACK, -1.0), "sigma must be 0 or more"),
    (lambda: lv.filters.gaussian(STACK, {"z": np.nan}), "sigma must be a finite number"),
    (lambda: lv.filters.gaussian(STACK, "1"), "sigma must be"),
    (lambda: lv.filters.gaussian(STACK, {"q": 1.0}), "sigma must name some of the dims"),
    (lambda: lv.filters.gaussian(STACK, {}), "name one or more"),
    (lambda: lv.filters.gaussian(STACK.isel(z=0, y=0, x=0), 1.0), "must be a mapping"),
    (lambda: lv.filters.gaussian(STACK, 1.0, truncate=0.0), "truncate must be above 0"),
    (lambda: lv.filters.gaussian(STACK, 1.0, mode="periodic"), "mode must be one of"),
    (lambda: lv.filters.gaussian(STACK, 1.0, mode="clip"), "mode must be one of"),
    (lambda: lv.filters.gaussian(2.0, 1.0), "lazyvol.as_stack"),
    (lambda: lv.filters.gaussian(STACK * 1j, 1.0), "real numbers"),
    (lambda: lv.filters.uniform(STACK, 0), "1 or more"),
    (lambda: lv.filters.uniform(STACK, 2.5), "whole number"),
    (lambda: lv.filters.median(STACK, {"q": 3}), "size must name some of the dims"),
    (lambda: lv.filters.percentile(STACK, 101.0, 3), "q must be in"),
    (lambda: lv.filters.percentile(STACK, np.nan, 3), "finite number"),
    (lambda: lv.filters.rank(STACK, 27, 3), "number must be in .-27, 26. .*, got 27"),
    (lambda: lv.filters.rank(STACK, -28, 3), "number must be in .-27, 26. .*, got -28"),
    (lambda: lv.filters.convolve(STACK, np.ones((2, 2, 2, 2))), "name its dims"),
    (lambda: lv.filters.convolve(STACK, 3.0), "nested sequences of numbers"),
    (lambda: lv.filters.convolve(STACK, [1.0, np.nan]), "finite weights"),
    (lambda: lv.filters.convolve(STACK, [1j]), "finite weights"),
    (lambda: lv.filters.convolve(STACK, []), "finite weights"),
    (lambda: lv.filters.convolve(STACK, xr.DataArray([1.0], dims="t")), "kernel must name dims"),
    (lambda: lv.filters.laplace(STACK, dim=()), "dim must name one dim or more"),
    (lambda: lv.filters.bandpass(STACK), "wavelengths above 0"),
    (lambda: lv.filters.bandpass(STACK, 9.0, 8.0), "shortest < longest.*shortest=9.0"),
    (lambda: lv.filters.bandpass(STACK, 0.0, 9.0), "wavelengths above 0"),
    (lambda: lv.filters.bandpass(STACK, 8.0, edge=-1.0), "0 or more Fourier pixels"),
    (lambda: lv.filters.bandpass(STACK, 8.0, dim=("k", "x")), "one unit of length"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises((LabelError, OptionError), match=message):
        call()


@pytest.mark.parametrize("fill", [0.5, 300.0, -1.0, np.nan])
def test_fill_must_suit_the_dtype(fill):
    stack = labelled(values("uint8"))
    with pytest.raises(LabelError, match="fill must be a value of dtype uint8"):
        lv.filters.uniform(stack, 3, mode="constant", fill=fill)
    lv.filters.uniform(stack, 3, fill=fill)  # other modes do not use it


# real data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("file", "part"),
    [("vessels/aorta.tif", (slice(34), slice(100, 160), slice(40, 100))),
     ("isbi2012/train-volume.tif", (slice(9), slice(70), slice(80))),
     ("emdb_maps/emd_1832.map", (slice(40), slice(45), slice(50)))],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_real_volumes_equal_scipy(file, part, mode):
    if not (DATA / file).is_file():
        pytest.skip("shared/data is not next to the checkout")
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
    computed = dask.compute(*(lazy for lazy, _ in checks))
    for (lazy, expected), result in zip(checks, computed, strict=True):
        assert lazy.dtype == result.dtype
        eps = np.finfo(result.dtype).eps if result.dtype.kind == "f" else 0
        roundings = 100 + 4 * eps / 2.3e-16  # errors of scipy's running means exceed ours
        close(result.values.astype(np.float64), expected.astype(np.float64), roundings)

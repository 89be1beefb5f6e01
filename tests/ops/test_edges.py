"""NaN, masks, infinities, integers, empty stacks, and wrong options."""

import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.intensity import normalize
from lazyvol.kernels.synthetic import particles
from lazyvol.ops.intensity import _scratch
from lazyvol.ops.measure._properties import PROPERTIES
from lazyvol.ops.synthetic import _tilt_scratch
from tests.cases import UNIT, VOLUME, VOXEL
from tests.strategies import (
    BACKINGS,
    FEW,
    MORE,
    SHAPE,
    arrays_with_nan,
    chunked,
    chunkings,
    labelled,
    masks,
    values,
)

DIMS = ("k", "z", "y", "x")
REDUCED = st.sampled_from(["k", VOLUME, ("z", "x"), ("k", "z", "y"), None])
STATISTICS = ("mean", "sum", "var", "std", "min", "max", "count", "norm")

#: numpy's function for each statistic that ignores NaN
OMITTED: dict[str, Callable[..., Any]] = {
    "mean": np.nanmean, "sum": np.nansum, "var": np.nanvar, "std": np.nanstd,
    "min": np.nanmin, "max": np.nanmax,
    "count": lambda a, axis: (~np.isnan(a)).sum(axis),
    "norm": lambda a, axis: np.sqrt(np.nansum(a * a, axis)),
}  # fmt: skip
#: numpy's function for each statistic that NaN makes NaN
COUNTED = OMITTED | {
    "mean": np.mean, "sum": np.sum, "var": np.var, "std": np.std, "min": np.min, "max": np.max,
    "norm": lambda a, axis: np.sqrt((a * a).sum(axis)),
}  # fmt: skip


def axes_of(dim: Any) -> tuple[int, ...]:
    names = DIMS if dim is None else (dim,) if isinstance(dim, str) else dim
    return tuple(DIMS.index(d) for d in names)


def by_numpy(how: dict[str, Callable[..., Any]], name: str, a: np.ndarray, dim: Any) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # numpy warns of slices of NaN alone
        return how[name](a.astype(np.float64), axis=axes_of(dim))


def inside(a: np.ndarray, mask: xr.DataArray) -> np.ndarray:
    """Return values where a mask is True, NaN elsewhere."""
    return np.where(np.broadcast_to(mask.values, a.shape), a, np.nan)


def statistic(name: str) -> Callable[..., xr.DataArray]:
    return getattr(lv.stats, name)


# NaN and masks ---------------------------------------------------------------------------------


@given(arrays_with_nan(), chunkings(), REDUCED, st.sampled_from(STATISTICS))
@MORE
def test_nan_is_left_out_on_request(array, grid, dim, name):
    result = statistic(name)(chunked(array, grid), dim, skipna=True)
    expected = by_numpy(OMITTED, name, array, dim)
    np.testing.assert_allclose(result.compute(scheduler="sync"), expected, rtol=1e-5, atol=1e-5)


@given(arrays_with_nan(), chunkings(), REDUCED, st.sampled_from(STATISTICS))
@MORE
def test_nan_counts_by_default(array, grid, dim, name):
    options = {"skipna": False} if name == "count" else {}
    result = statistic(name)(chunked(array, grid), dim, **options)
    expected = by_numpy(COUNTED, name, array, dim)
    if name == "count":
        expected = np.full(np.shape(expected), array.size // max(1, np.size(expected)))
    np.testing.assert_allclose(result.compute(scheduler="sync"), expected, rtol=1e-5, atol=1e-4)


@given(arrays_with_nan(), masks(), chunkings(), REDUCED, st.sampled_from(STATISTICS))
@MORE
def test_masked_voxels_do_not_count(array, mask, grid, dim, name):
    result = statistic(name)(chunked(array, grid), dim, mask=mask, skipna=True)
    expected = by_numpy(OMITTED, name, inside(array, mask), dim)
    np.testing.assert_allclose(result.compute(scheduler="sync"), expected, rtol=1e-5, atol=1e-5)


def test_nan_in_the_mask_counts_and_outside_of_it_does_not():
    array = values("float32")
    array[2, 0, 0, 0] = np.nan
    flags = np.ones(SHAPE[1:], bool)
    for counted in (True, False):
        flags[0, 0, 0] = counted
        mask = lv.as_stack(flags, voxel_size=VOXEL, unit=UNIT)
        result = lv.stats.mean(labelled(array), VOLUME, mask=mask)
        assert np.isnan(result.values).tolist() == [counted and n == 2 for n in range(7)]


@given(masks(), chunkings(), st.sampled_from(["mean", "var", "min", "max", "sum"]))
@MORE
def test_integers_under_a_mask(mask, grid, name):
    array = values("int16")
    result = statistic(name)(chunked(array, grid), None, mask=mask).compute(scheduler="sync")
    expected = by_numpy(OMITTED, name, inside(array, mask), None)
    if not mask.any() and name in ("min", "max"):
        expected = {"min": 32767, "max": -32768}[name]
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@given(arrays_with_nan(), masks(), chunkings())
@MORE
def test_intensities_ignore_nan_and_keep_it(array, mask, grid):
    a = inside(array, mask)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        low, high, mean, spread = (
            f(a.astype("f8"), axis=(1, 2, 3), keepdims=True)
            for f in (np.nanmin, np.nanmax, np.nanmean, np.nanstd)
        )
        n = np.maximum((~np.isnan(a)).sum((1, 2, 3), keepdims=True), 1)
        ranged = (array - low) / np.where(high == low, 1.0, high - low)
        standard = (array - mean) / np.maximum(spread, n**-0.5)
    stack = chunked(array, grid)
    result = dask.compute(
        lv.intensity.rescale(stack, mask=mask), lv.intensity.standardize(stack, mask=mask),
        scheduler="sync",
    )  # fmt: skip
    np.testing.assert_allclose(result[0], ranged, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result[1], standard, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16"])
def test_results_for_constants_and_zeros(dtype):
    constant = lv.as_stack(np.full((2, 3, 4, 5), 7, dtype))
    zeros = lv.as_stack(np.zeros((2, 3, 4, 5), dtype))
    intensity = lv.intensity
    assert (intensity.rescale(constant, -1.0, 3.0).values == -1).all()
    assert (intensity.unit_norm(zeros).values == 0).all()
    for op in (intensity.center, intensity.standardize, intensity.contrast_normalise):
        assert (op(constant).values == 0).all()


# infinities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in STATISTICS if n != "count"])
@pytest.mark.parametrize(
    "column", [[1, np.inf, 2], [-np.inf, 1, 1], [np.inf, -np.inf, 0], [np.inf, np.nan, 1]]
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_infinities_follow_ieee(name, column, dtype):
    array = np.array(column, dtype).reshape(3, 1, 1, 1)
    expected = by_numpy(COUNTED, name, array, "k")
    for stack in (lv.as_stack(array), lv.as_stack(array).chunk(k=1)):
        np.testing.assert_array_equal(statistic(name)(stack, "k").values, expected)
    row = lv.as_stack(array.reshape(1, 1, 1, 3))
    np.testing.assert_array_equal(statistic(name)(row, "x").values, expected.reshape(1, 1, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_correlations_of_spectra_with_nan_are_nan(value):
    volume = lv.as_stack(np.random.default_rng(0).normal(size=(5, 6, 7)))
    damaged = volume.copy()
    damaged[1, 2, 3] = value
    with np.errstate(all="ignore"):
        assert np.isnan(lv.scores.fsc(damaged, volume).values).all()


# integers --------------------------------------------------------------------------------------

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "bool")


@pytest.mark.parametrize("dtype", INTEGERS)
@given(chunkings((5, 3, 2, 7)), st.integers(0, 99))
@FEW
def test_integers_never_overflow(dtype, grid, seed):
    ends = [0, 1] if dtype == "bool" else [np.iinfo(dtype).min, np.iinfo(dtype).max]
    rng = np.random.default_rng(seed)
    array = np.array(ends, dtype)[(rng.random((5, 3, 2, 7)) < 0.9).astype(int)]
    stack = chunked(array, grid)
    wide = [int(v) for v in array.ravel()]
    result = dask.compute(
        lv.stats.sum(stack, None), lv.stats.norm(stack, None, ord=1), lv.stats.norm(stack, None),
        lv.stats.norm(stack, None, ord=np.inf), lv.stats.var(stack, None), scheduler="sync",
    )  # fmt: skip
    largest = max(abs(v) for v in wide)
    expected = [
        sum(wide), sum(map(abs, wide)), sum(v * v for v in wide) ** 0.5, largest,
        np.var(array.astype("f8")),
    ]  # fmt: skip
    np.testing.assert_allclose([f.item() for f in result], expected, rtol=1e-14)


# nothing ---------------------------------------------------------------------------------------

#: statistics of no values, for floats
OF_NOTHING = {
    "mean": np.nan, "sum": 0, "var": np.nan, "std": np.nan, "min": np.nan, "max": np.nan,
    "count": 0, "norm": 0,
}  # fmt: skip


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_no_values(name, lazy):
    stack = lv.as_stack(np.zeros((0, 2, 3, 4), np.float32))
    stack = stack.chunk() if lazy else stack
    result = statistic(name)(stack, "k")
    assert result.shape == (2, 3, 4)
    np.testing.assert_array_equal(result.values, np.full((2, 3, 4), OF_NOTHING[name]))
    assert statistic(name)(stack, VOLUME).shape == (0,)
    assert statistic(name)(stack, VOLUME).values.shape == (0,)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (3, 0, 3, 4), (0, 0, 0, 0)])
def test_operations_on_empty_stacks_give_empty_stacks(shape, lazy):
    stack = lv.as_stack(np.zeros(shape, np.float32))
    stack = stack.chunk() if lazy else stack
    needs_samples = {"whiten", "whitening"}
    for name in sorted(set(lv.intensity.__all__) - needs_samples):
        assert getattr(lv.intensity, name)(stack).values.shape == shape
    for name in ("sum", "mean", "max", "min", "std"):
        result = getattr(lv.projections, name)(stack, "x").values
        assert result.shape == shape[:3]
    assert lv.synthetic.noise(stack).values.shape == shape
    assert lv.synthetic.sphere(stack, radius=1).values.shape == shape[1:]
    assert lv.synthetic.particles(shape[1:], shape[0], sigma=1.0).values.shape == shape


#: a histogram needs a range
EVERY_PROPERTY = tuple(n for n in PROPERTIES if n != "histogram")


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (3, 0, 3, 4), (2, 3, 4, 0), (0, 0, 0, 0)])
def test_tables_and_selections_of_empty_stacks_are_empty(shape, lazy):
    stack = lv.as_stack(np.zeros(shape, np.float32))
    stack = stack.chunk() if lazy else stack
    flags = stack > 1
    table = lv.measure.table(stack, lv.masks.label(flags), what=EVERY_PROPERTY)
    kept = lv.measure.select(lv.masks.label(flags), table["count"] > 1)
    assert kept.values.shape == shape
    selected = lv.masks.select(stack, flags)
    for found in (table, selected):
        assert found.sizes["obs"] == found.row_size.values.sum() == 0
        assert found.sizes["k"] == shape[0]
    assert lv.masks.pad(selected).values.shape == (shape[0], 0)
    counts = lv.stats.histogram(stack, dim=VOLUME, bins=5).counts
    np.testing.assert_array_equal(counts.values, np.zeros((shape[0], 5)))
    points = lv.density.points(np.zeros((shape[0], 0, 3)), like=lv.as_stack(np.zeros((2, 3, 4))))
    np.testing.assert_array_equal(points.values, np.zeros((shape[0], 2, 3, 4)))


def test_another_byte_order_is_converted_or_refused():
    """A compiled kernel would misread the bytes."""
    values = np.arange(24.0).reshape(1, 2, 3, 4)
    turned = lv.as_stack(values.astype(">f4"))
    assert turned.dtype.isnative
    np.testing.assert_array_equal(lv.stats.quantile(turned, 0.5).values, values[0])
    with pytest.raises(LabelError, match="byte order"):
        lv.stats.quantile(turned.astype(">f4"), 0.5)


# memory ----------------------------------------------------------------------------------------


def extra(kernel: Callable[[], np.ndarray]) -> int:
    """Return the peak memory of a call besides its result, in bytes."""
    kernel()  # compiled
    tracemalloc.start()
    result = kernel()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - result.nbytes


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8"])
@pytest.mark.parametrize("axes", [(1, 2, 3), (1, 3), (0,)])
def test_scaling_takes_no_more_memory_than_planned(dtype, axes):
    block = np.zeros((6, 32, 32, 32), dtype)
    if block.dtype.kind == "f":
        block[:, 3, 3, 3] = np.nan
    flags = np.ones((1, 32, 32, 32), bool)
    whole = axes != (1, 2, 3)
    one = block.size if whole else block.size // 6
    planned = _scratch(np.dtype(dtype), int(np.prod([block.shape[a] for a in axes]))) * one
    out = np.dtype(dtype if block.dtype.kind == "f" else "f8")
    for mask in (None, flags):
        for kernel in (normalize.standardize, partial(normalize.rescale, low=0.0, high=1.0)):
            taken = extra(partial(kernel, block, mask, axes=axes, dtype=out))
            assert taken <= planned + 200_000


def test_tilting_a_template_takes_no_more_memory_than_planned():
    block, angle = np.zeros((1, 48, 48, 48), np.float32), np.full((1, 1, 1, 1), 70.0)
    kernel = partial(
        particles.add_template, block, block, angle, angle,
        along=(1.0, 0.0, 0.0), step=(1.0, 1.0, 1.0), signal=0.5,
    )  # fmt: skip
    assert extra(kernel) <= _tilt_scratch(block.shape[1:]) * block.size + 200_000


# options ---------------------------------------------------------------------------------------

STACK = labelled(values("float32"))
FLAT = lv.as_stack(np.ones(SHAPE[2:], bool))


def shifted(unit: str) -> xr.DataArray:
    return lv.as_stack(np.ones(SHAPE[1:], bool), voxel_size=VOXEL, unit=unit)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no such dim": (lambda: lv.stats.mean(STACK, "t"), "dims of the stack.*'t'"),
    "dim twice": (lambda: lv.stats.mean(STACK, ("k", "k")), "each once"),
    "no labels": (lambda: lv.stats.mean(3.0), "as_stack"),
    "complex": (lambda: lv.stats.var(STACK * 1j), "real numbers"),
    "text": (lambda: lv.stats.mean(xr.DataArray(np.array(["a"]), dims="k")), "must hold numbers"),
    "order of a norm": (
        lambda: lv.stats.norm(STACK, ord=3),
        "norm: ord must be one of .*got ord=3",
    ),
    "mask of numbers": (lambda: lv.stats.mean(STACK, mask=FLAT * 1.0), "mask must be boolean"),
    "mask of another size": (
        lambda: lv.stats.mean(STACK, mask=FLAT.isel(x=slice(5))),
        "'x', got lengths 13 and 5",
    ),
    "mask of another unit": (
        lambda: lv.stats.mean(STACK, mask=shifted("nm")),
        "got angstrom and nm",
    ),
    "mask of more dims": (lambda: lv.stats.mean(STACK.isel(k=0), "z", mask=STACK > 0), "first"),
    "projection along k": (lambda: lv.projections.mean(STACK, "k"), "lazyvol.stats reduces"),
    "projection of a slice": (lambda: lv.projections.mean(STACK.isel(z=0)), "dim of the stack"),
    "empty slab": (lambda: lv.projections.slab(STACK, "y", 90.0, 99.0), "run from 0 to 20 ang"),
    "unknown statistic": (
        lambda: lv.projections.slab(STACK, "y", 0, 9, "median"),
        "one of 'sum'",
    ),
    "rescale to infinity": (lambda: lv.intensity.rescale(STACK, 0.0, np.inf), "finite"),
    "rescale a dim that is not there": (lambda: lv.intensity.rescale(STACK, dim="t"), "got"),
    "intensities of complex": (lambda: lv.intensity.center(STACK * 1j), "real"),
    "intensity mask": (lambda: lv.intensity.center(STACK, mask=FLAT * 1.0), "boolean"),
    "scale of contrast": (lambda: lv.intensity.contrast_normalise(STACK, scale=0.0), "above 0"),
    "kind of noise": (lambda: lv.synthetic.noise((3, 3), kind="pink"), "'normal', 'uniform'"),
    "width of noise": (lambda: lv.synthetic.noise((3, 3), scale=-1.0), "scale must be a finite"),
    "seed": (lambda: lv.synthetic.noise((3, 3), seed=2**32), "2\\*\\*32 - 1"),
    "integer noise": (lambda: lv.synthetic.noise((3, 3), dtype="int16"), "float16, float32"),
    "negative shape": (lambda: lv.synthetic.noise((3, -3)), "lengths of 0 or more"),
    "radius": (lambda: lv.synthetic.sphere((5, 5, 5), radius=-1), "radius must be"),
    "shape along k": (lambda: lv.synthetic.sphere(STACK.isel(z=0, y=0, x=0), radius=1), "one of"),
    "axis": (lambda: lv.synthetic.cylinder((5, 5, 5), radius=1, length=2, axis="k"), "axis m"),
    "axis of nothing": (
        lambda: lv.synthetic.cylinder((5, 5, 5), radius=1, length=2, axis={"z": 0}),
        "not all 0",
    ),
    "tilted components": (
        lambda: lv.synthetic.cylinder((5, 5, 5), radius=1, length=2, axis={"z": 1}, tilt=3.0),
        "tilt its components",
    ),
    "axis of a circle": (lambda: lv.synthetic.circle((5, 5), radius=1, axis="k"), "axis must"),
    "centre": (lambda: lv.synthetic.sphere((5, 5), radius=1, centre={"z": 1}), "leave out ..z"),
    "size of a box": (lambda: lv.synthetic.box((5, 5), size={"z": 1}), "size must name"),
    "alpha and sigma": (
        lambda: lv.synthetic.particles((5, 5, 5), 2, alpha=0.1, sigma=1.0),
        "must be given",
    ),
    "neither": (lambda: lv.synthetic.particles((5, 5, 5), 2), "must be given"),
    "alpha": (lambda: lv.synthetic.particles((5, 5, 5), 2, alpha=1.1), "from 0 to 1"),
    "tilted": (lambda: lv.synthetic.particles((5, 5, 5), 2, alpha=0, tilted=2), "a fraction"),
    "tilt": (lambda: lv.synthetic.particles((5, 5, 5), 2, alpha=0, tilt=(9, 3)), "two rising"),
    "number": (lambda: lv.synthetic.particles((5, 5, 5), -2, alpha=0), "number of particles"),
    "flat template": (lambda: lv.synthetic.particles((5, 5), 2, alpha=0), "transpose it"),
    "radius of a template": (
        lambda: lv.synthetic.particles(STACK[0], 2, alpha=0, radius=2.0),
        "radius must be omitted",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_options_are_refused(name):
    act, message = REFUSED[name]
    with pytest.raises((LabelError, OptionError), match=message):
        act()


@pytest.mark.parametrize("backing", BACKINGS)
def test_slabs_read_only_the_slab(backing):
    array = values("float32")
    result = lv.projections.slab(BACKINGS[backing](array), "z", 3.0, 8.9, "sum")
    np.testing.assert_allclose(result.values, array[:, 1:3].sum(1), rtol=1e-5)
    assert (result.z.item(), result.z.attrs["units"]) == (4.5, "angstrom")

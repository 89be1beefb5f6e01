"""Quantiles and histograms: numpy's results for any values, with the planned reads and memory."""

import warnings
from itertools import pairwise
from typing import Any, get_args

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.reductions import quantiles
from lazyvol.ops.stats._quantile import Method
from lazyvol.plan.budget import limited
from lazyvol.plan.graph.lazy_array import source_array
from lazyvol.plan.reductions import partition
from tests.oracles import DTYPES, UNIT, VOLUME, VOXEL
from tests.sources import OnesSource
from tests.strategies import FEW, MORE, chunked, chunkings, labelled, masks, stored

#: small, since every element is checked on its own
SHAPE = (11, 2, 3, 5)
DIMS = ("k", "z", "y", "x")
REDUCED = st.sampled_from(["k", VOLUME, ("z", "x"), ("k", "z", "y"), None])
ODD = (0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf)


@st.composite
def awkward(draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES) -> np.ndarray:
    """Draw values of any dtype, continuous or repeated, with or without NaN and infinities."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    few = draw(st.booleans())
    if dtype.kind != "f":
        info = np.iinfo(dtype)
        choice = np.array([info.min, info.min + 1, 0, 7, info.max], dtype)
        wide = rng.integers(info.min, info.max, SHAPE, dtype, endpoint=True)
        return rng.choice(choice, SHAPE) if few else wide
    values = rng.choice(ODD, SHAPE) if few else rng.normal(3, 100, SHAPE)
    values[rng.random(SHAPE) < draw(st.sampled_from([0.0, 0.02, 0.9]))] = np.nan
    return values.astype(dtype)


def axes_of(dim: Any) -> tuple[int, ...]:
    names = DIMS if dim is None else (dim,) if isinstance(dim, str) else dim
    return tuple(DIMS.index(d) for d in names)


def one_quantile(values: np.ndarray, q: float) -> float:
    """Return numpy's quantile, or the nearest value where numpy interpolates to NaN.

    numpy gives NaN next to an infinity of weight 0, and between two equal infinities.
    """
    if not values.size or np.isnan(values).any():
        return np.nan
    at = (len(values) - 1) * q
    low, high = np.sort(values)[[int(at), min(int(at) + 1, len(values) - 1)]]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return low if at % 1 == 0 or low == high else np.quantile(values, q)


def expected(a: np.ndarray, q: Any, dim: Any, valid: np.ndarray, skipna: bool) -> np.ndarray:
    """Return quantiles of the valid values of each kept element, rounded once."""
    axes = axes_of(dim)
    kept = tuple(n for n in range(a.ndim) if n not in axes)
    shape = tuple(a.shape[n] for n in kept)
    rows, where = (
        x.transpose(*kept, *axes).reshape(int(np.prod(shape)), -1)
        for x in (a.astype(np.float64), valid & ~(np.isnan(a) & skipna))
    )
    result = [
        [one_quantile(r[w], p) for p in np.ravel(q)] for r, w in zip(rows, where, strict=True)
    ]
    dtype = a.dtype if a.dtype.kind == "f" else np.float64
    with np.errstate(over="ignore"):
        return np.array(result).astype(dtype).reshape((*shape, *np.shape(q)))


def computed(lazy: Any) -> Any:
    return dask.compute(lazy, scheduler="sync")[0]


# quantiles -------------------------------------------------------------------------------------

PROBABILITY = st.sampled_from([0.0, 0.5, 1 / 3, 0.999, 1.0])
SEVERAL = st.lists(PROBABILITY, min_size=1, max_size=3).map(tuple)


@given(
    awkward(), chunkings(SHAPE), REDUCED, PROBABILITY | SEVERAL, masks(SHAPE) | st.none(),
    st.booleans(),
)  # fmt: skip
@MORE
def test_quantiles_equal_numpys(array, grid, dim, q, mask, skipna):
    lazy = lv.stats.quantile(chunked(array, grid), q, dim, skipna=skipna, mask=mask)
    valid = np.ones(SHAPE, bool) if mask is None else np.broadcast_to(mask.values, SHAPE)
    result = computed(lazy)
    oracle = expected(array, q, dim, valid, skipna)
    assert result.dtype == lazy.dtype == oracle.dtype
    assert result.shape == lazy.shape == oracle.shape
    np.testing.assert_array_equal(result, oracle)


@given(awkward(), REDUCED, SEVERAL, masks(SHAPE) | st.none(), st.booleans())
@MORE
def test_quantiles_of_whole_blocks_equal_numpys(array, dim, q, mask, skipna):
    result = lv.stats.quantile(labelled(array), q, dim, skipna=skipna, mask=mask)
    valid = np.ones(SHAPE, bool) if mask is None else np.broadcast_to(mask.values, SHAPE)
    np.testing.assert_array_equal(result, expected(array, q, dim, valid, skipna))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", ["k", ("k", "z", "y"), None])
def test_the_mask_applies_to_every_digit(dtype, dim):
    rng = np.random.default_rng(4)
    array = rng.integers(100, 117, SHAPE).astype(dtype)
    flags = rng.random(SHAPE) < 0.5
    mask = lv.as_stack(flags, voxel_size=VOXEL, unit=UNIT)
    result = lv.stats.quantile(labelled(array), (0.2, 0.7), dim, mask=mask)
    np.testing.assert_array_equal(result, expected(array, (0.2, 0.7), dim, flags, False))


@pytest.mark.parametrize("dim", ["k", VOLUME])
def test_nan_outside_the_mask_does_not_count(dim):
    array = np.ones(SHAPE)
    array[:, 0, 1, 2] = np.nan
    mask = lv.as_stack(~np.isnan(array[0]), voxel_size=VOXEL, unit=UNIT)
    result = lv.stats.quantile(labelled(array), 0.5, dim, mask=mask)
    np.testing.assert_array_equal(result, np.where(mask, 1.0, np.nan) if dim == "k" else 1)
    assert np.isnan(lv.stats.quantile(labelled(array), 0.5, dim)).any()


@pytest.fixture
def several_tasks(monkeypatch):
    """Split folds of the smallest data into tasks for four workers."""
    monkeypatch.setattr(partition, "SMALL", 0)
    with limited(None, 4):
        yield


@pytest.mark.parametrize("dim", ["k", ("k", "y"), None])
@pytest.mark.parametrize("seed", range(4))
def test_states_of_several_tasks_are_merged(several_tasks, seed, dim):
    rng = np.random.default_rng(seed)
    array = rng.permutation(np.arange(np.prod(SHAPE), dtype=np.float32)).reshape(SHAPE)
    stack = stored(array, (1, *SHAPE[1:]))
    q = (0.1, 0.55, 0.9)
    lazy = lv.stats.quantile(stack, q, dim)
    assert lv.explain(lazy).tasks >= 4 * lv.explain(lazy).passes
    oracle = np.quantile(array.astype(np.float64), q, axis=axes_of(dim)).astype(np.float32)
    np.testing.assert_array_equal(computed(lazy), np.moveaxis(oracle, 0, -1))
    counts = computed(lv.stats.histogram(stack, bins=11, dim=dim).counts)
    ends = (array.min(), array.max())
    np.testing.assert_array_equal(counts, counted(array, 11, ends, dim, np.isfinite(array)))


@pytest.mark.parametrize("at", range(SHAPE[0]))
def test_a_nan_in_any_task_makes_its_quantile_nan(several_tasks, at):
    array = np.ones(SHAPE)
    array[at, 0, 0, 0] = np.nan
    result = computed(lv.stats.quantile(stored(array, (1, *SHAPE[1:])), 0.5))
    assert np.flatnonzero(np.isnan(result)).tolist() == [0]
    assert computed(lv.stats.quantile(chunked(array, (1, -1, -1, -1)), 0.5, skipna=True)).max() == 1


@pytest.mark.parametrize("dtype", ["int64", "uint32", "int8", "bool", "float64"])
def test_keys_of_every_width(dtype):
    rng = np.random.default_rng(3)
    shape = (600, 1, 2, 3)
    array = rng.normal(size=shape) * 2.0 ** rng.integers(0, 60, shape)
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        array = rng.integers(info.min, info.max, shape, dtype) >> rng.integers(0, 6, shape, dtype)
    array = array.astype(dtype)
    result = lv.stats.quantile(labelled(array), (0.25, 0.5))
    oracle = np.moveaxis(np.quantile(array.astype(np.float64), (0.25, 0.5), axis=0), 0, -1)
    np.testing.assert_array_equal(result, oracle)


def test_finite_quantiles_equal_numpys():
    array = np.random.default_rng(0).normal(size=SHAPE)
    q = np.linspace(0, 1, 9)
    for dim in ("k", VOLUME):
        oracle = np.moveaxis(np.quantile(array, q, axis=axes_of(dim)), 0, -1)
        np.testing.assert_array_equal(lv.stats.quantile(labelled(array), q, dim), oracle)


@pytest.mark.parametrize("dim", ["k", VOLUME, None])
def test_the_quantile_of_no_values_is_nan(dim):
    stack = lv.as_stack(np.zeros((0, 2, 3, 5), np.float32))
    result = lv.stats.quantile(stack, 0.5, dim)
    assert np.isnan(result).all()
    assert result.shape == {"k": (2, 3, 5), VOLUME: (0,), None: ()}[dim]


METHODS = pytest.mark.parametrize("method", get_args(Method))


@METHODS
def test_positions_are_those_of_numpy(method):
    """The quantiles of 0, 1, 2, ... are their positions."""
    q = tuple(np.unique([*np.linspace(0, 1, 21), *np.arange(1, 8) / 8, 1 / 3, 0.999]))
    result = quantiles.Quantiles(q, method).positions(np.arange(1, 25))
    for n, positions in enumerate(result, 1):
        expected = np.quantile(np.arange(float(n)), q, method=method)
        np.testing.assert_allclose(positions, expected, rtol=1e-14, atol=1e-14)


@METHODS
def test_methods_of_both_ways_are_those_of_numpy(method):
    rows = np.random.default_rng(7).normal(size=(10, 1, 1, 4)).astype(np.float16)
    rows[rows > 1.2] = np.nan
    options = {"method": method, "skipna": True}
    expected = np.nanquantile(rows.astype(np.float64), 0.3, 0, method=method).astype(np.float16)
    np.testing.assert_array_equal(lv.stats.quantile(lv.as_stack(rows), 0.3, **options), expected)
    columns = lv.as_stack(rows.transpose(3, 1, 2, 0))
    ordered = lv.stats.quantile(columns, 0.3, VOLUME, **options)
    np.testing.assert_array_equal(ordered, expected[0, 0])


def test_several_quantiles_add_a_last_dim_with_a_coordinate():
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    for dim, kept in (("k", VOLUME), (VOLUME, ("k",))):
        result = lv.stats.quantile(labelled(array), [0.1, 0.9], dim)
        assert result.dims == (*kept, "quantile")
        assert result.coords["quantile"].values.tolist() == [0.1, 0.9]
        assert result.attrs["units"] == "e"


# costs ---------------------------------------------------------------------------------


def virtual(n: int, side: int = 48, dtype: type = np.float32) -> xr.DataArray:
    source = OnesSource((n, side, side, side), np.dtype(dtype))
    return lv.as_stack(source_array(source, ((1,) * n, (side,), (side,), (side,))))


@pytest.mark.parametrize(
    ("dtype", "side", "dim", "passes"),
    [
        (np.float32, 128, "k", 8),  # 2 M voxels, digits of 4 bits
        (np.float32, 48, "k", 4),  # 0.1 M, as many bits as distinguish the values
        (np.float32, 48, None, 2),
        (np.float64, 48, None, 4),
        (np.float32, 48, VOLUME, 1),
        (np.float32, 352, VOLUME, 3),  # volumes of 166 MiB are not sorted
        (np.uint8, 48, None, 1),
    ],
)
def test_number_of_reads(dtype, side, dim, passes):
    stack = virtual(256, side, dtype)
    plan = lv.explain(lv.stats.quantile(stack, 0.5, dim), workers=2)
    assert plan.passes == passes
    assert plan.bytes_read == passes * stack.nbytes


def test_memory_does_not_grow_with_the_stack():
    few, many = (
        lv.explain(lv.stats.quantile(virtual(n), 0.5), workers=2, memory="360MiB")
        for n in (1000, 30_000)
    )
    assert many.passes == few.passes
    assert many.peak_bytes <= few.peak_bytes
    assert many.bytes_read == 30 * few.bytes_read


def test_a_selection_fits_its_memory_limit():
    lazy = lv.stats.quantile(virtual(4000, 128), 0.5)
    limit = 640 * 2**20
    assert lv.explain(lazy, workers=2).peak_bytes > limit
    assert lv.explain(lazy, workers=2, memory=limit).peak_bytes <= limit


def test_digits_cover_a_key():
    for bits in (8, 16, 32, 64):
        for widest in range(1, 17):
            result = list(quantiles.digits(bits, widest))
            assert result[0].is_first
            assert result[-1].is_last
            assert sum(d.width for d in result) == bits
            assert max(d.width for d in result) <= widest
            assert all(a.shift == b.shift + b.width for a, b in pairwise(result))


def test_counts_do_not_overflow_their_integers():
    for n in (65_535, 65_536):
        array = np.full((n, 1, 1, 2), 3, np.uint8)
        array[-1, 0, 0, 1] = 2
        result = lv.stats.quantile(labelled(array), (0.0, 1.0))
        assert result.values.tolist() == [[[[3.0, 3.0], [2.0, 3.0]]]]


# histograms ------------------------------------------------------------------------------------


def counted(
    a: np.ndarray, bins: Any, ends: Any, dim: Any, valid: np.ndarray, weights: Any = None
) -> np.ndarray:
    axes = axes_of(dim)
    kept = tuple(n for n in range(a.ndim) if n not in axes)
    shape = tuple(a.shape[n] for n in kept)
    heavy = np.ones(a.shape, np.int64) if weights is None else weights
    rows, where, heaviness = (
        x.transpose(*kept, *axes).reshape(int(np.prod(shape)), -1)
        for x in (a.astype(np.float64), valid, heavy)
    )
    counts = []
    for row, inside, weight in zip(rows, where, heaviness, strict=True):
        used = inside & np.isfinite(row)
        counts.append(np.histogram(row[used], bins, ends, weights=weight[used])[0])
    return np.array(counts).reshape((*shape, -1))


@given(
    awkward(), chunkings(SHAPE), REDUCED, st.integers(1, 40), masks(SHAPE) | st.none(),
    st.sampled_from([None, (-3.0, 7.0), (0.1, 0.7), (2.5, 2.5)]),
)  # fmt: skip
@MORE
def test_histograms_equal_numpys(array, grid, dim, bins, mask, ends):
    lazy = lv.stats.histogram(chunked(array, grid), bins=bins, range=ends, dim=dim, mask=mask)
    result = computed(lazy)
    valid = np.ones(SHAPE, bool) if mask is None else np.broadcast_to(mask.values, SHAPE)
    finite = array.astype(np.float64)[valid & np.isfinite(array)]
    ends = ends or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    np.testing.assert_array_equal(result.counts, counted(array, bins, ends, dim, valid))
    np.testing.assert_array_equal(result.edges, np.histogram(finite, bins, ends)[1])
    assert result.counts.dtype == lazy.counts.dtype == np.int64
    assert result.edges.dtype == np.float64


@given(st.integers(1, 300), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 99))
@MORE
def test_values_on_edges_are_counted_as_by_numpy(bins, low, width, seed):
    bounds = np.linspace(low, low + width, bins + 1)
    near = np.concatenate([bounds, np.nextafter(bounds, np.inf), np.nextafter(bounds, -np.inf)])
    array = np.random.default_rng(seed).permutation(near).reshape(3, 1, 1, -1)
    result = lv.stats.histogram(labelled(array), bins=bins, range=(low, low + width))
    np.testing.assert_array_equal(result.counts, np.histogram(array, bins, (low, low + width))[0])


@given(awkward(("float64", "int16")), chunkings(SHAPE), REDUCED, masks(SHAPE) | st.none())
@FEW
def test_edges_and_weights_equal_numpys(array, grid, dim, mask):
    weights = np.random.default_rng(3).normal(size=SHAPE[1:])
    edges = (-2.0, -1.0, 0.0, 0.5, 2.5, 3.0, 400.0)
    stack, heavy = chunked(array, grid), lv.as_stack(weights, voxel_size=VOXEL, unit=UNIT)
    options = {"bins": edges, "dim": dim, "mask": mask}
    valid = np.ones(SHAPE, bool) if mask is None else np.broadcast_to(mask.values, SHAPE)
    result = computed(lv.stats.histogram(stack, **options))
    np.testing.assert_array_equal(result.counts, counted(array, edges, None, dim, valid))
    np.testing.assert_array_equal(result.edges, edges)
    sums = computed(lv.stats.histogram(stack, **options, weights=heavy)).counts
    everywhere = np.broadcast_to(weights, SHAPE)
    expected = counted(array, edges, None, dim, valid, everywhere)
    np.testing.assert_allclose(sums, expected, rtol=1e-12, atol=1e-12)
    plain = computed(lv.stats.histogram(labelled(array), **options, weights=heavy)).counts
    np.testing.assert_array_equal(sums, plain)


def test_sums_have_the_type_and_unit_of_the_weights():
    stack = lv.as_stack(np.array([0.5, 1.5, 1.5, 9.0]).reshape(4, 1, 1, 1))
    heavy = lv.as_stack(np.float32([1, 1e8, 1, 7]).reshape(4, 1, 1, 1)).assign_attrs(units="kg")
    result = lv.stats.histogram(stack, bins=2, range=(0, 2), weights=heavy).counts
    assert (result.dtype, result.attrs["units"]) == (np.float32, "kg")
    assert result.values.tolist() == [1.0, np.float32(1e8 + 1)]
    large = stack.copy(data=np.array([1, np.inf, 2, 3]).reshape(4, 1, 1, 1))
    result = lv.stats.histogram(stack.chunk(k=1), bins=2, range=(0, 2), weights=large).counts
    assert result.values.tolist() == [1.0, np.inf]


def test_infinities_and_nan_are_outside_any_range():
    array = np.array([np.nan, -np.inf, 1.0, 2.0, 4.0, np.inf]).reshape(6, 1, 1, 1)
    result = lv.stats.histogram(labelled(array), bins=3)
    assert result.counts.values.tolist() == [1, 1, 1]
    assert result.edges.values.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_no_values_give_empty_bins():
    stack = lv.as_stack(np.zeros((0, 2, 3, 5), np.float32))
    result = lv.stats.histogram(stack, bins=2)
    assert result.counts.values.tolist() == [0, 0]
    assert result.edges.values.tolist() == [0.0, 0.5, 1.0]


def test_a_given_range_saves_a_read_and_gives_centres():
    stack = virtual(64)
    known = lv.stats.histogram(stack, bins=4, range=(0.0, 2.0))
    assert known.coords["bin"].values.tolist() == [0.25, 0.75, 1.25, 1.75]
    assert lv.explain(known, workers=2).passes == 1
    unknown = lv.stats.histogram(stack, bins=4)
    assert "bin" not in unknown.coords
    assert lv.explain(unknown, workers=2).passes == 2
    assert isinstance(unknown.edges.data, da.Array)


def test_histogram_memory_does_not_grow_with_the_stack():
    few, many = (
        lv.explain(lv.stats.histogram(virtual(n)), workers=2).peak_bytes for n in (1000, 30_000)
    )
    assert many <= few


def test_edges_have_the_unit_of_the_values():
    array = np.ones(SHAPE, np.float32)
    result = lv.stats.histogram(labelled(array), bins=3, range=(0, 3), dim=VOLUME)
    assert result.counts.dims == ("k", "bin")
    assert result.edges.attrs["units"] == result.coords["bin"].attrs["units"] == "e"
    assert "units" not in result.counts.attrs


# refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan, (), (0.5, 2.0), [[0.5]]])
def test_probabilities_lie_between_0_and_1(q):
    with pytest.raises((LabelError, OptionError), match=r"q must lie in|finite number"):
        lv.stats.quantile(labelled(np.zeros(SHAPE)), q)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"bins": 0}, "bins must be a whole number of 1 or more"),
        ({"bins": 2.5}, "a whole number"),
        ({"bins": (1.0,)}, "two or more rising edges"),
        ({"bins": (0.0, 2.0, 2.0)}, "two or more rising edges"),
        ({"bins": (0.0, 2.0), "range": (0.0, 2.0)}, "range must be None where bins are edges"),
        ({"range": (0.0, np.inf)}, "finite numbers"),
        ({"range": (2.0, 1.0)}, "range must be finite"),
        ({"range": (2.0,)}, "2 finite numbers"),
        ({"range": (1.0, np.nextafter(1.0, 2.0))}, "wide enough for 256 bins"),
    ],
)
def test_wrong_bins_and_ranges_are_refused(options, rule):
    with pytest.raises((LabelError, OptionError), match=rule):
        lv.stats.histogram(labelled(np.zeros(SHAPE)), **options)


def test_complex_numbers_and_masks_of_numbers_are_refused():
    stack = labelled(np.zeros(SHAPE, np.complex64))
    mask = lv.as_stack(np.ones(SHAPE[1:]), voxel_size=VOXEL, unit=UNIT)
    for refused in (lambda s, m: lv.stats.quantile(s, 0.5, mask=m), lambda s, m: (
        lv.stats.histogram(s, mask=m)
    )):  # fmt: skip
        with pytest.raises(LabelError, match="real numbers"):
            refused(stack, None)
        with pytest.raises(LabelError, match="boolean"):
            refused(stack.real, mask)

"""Sums do not depend on chunks and threads, and are correctly rounded."""

import os
import subprocess
import sys
import time
from decimal import Decimal, localcontext
from fractions import Fraction

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lazyvol as lv
from lazyvol.kernels._numba import remove_outdated
from lazyvol.kernels.arrays import as_three_axes, read_only, strided_rows, trailing_size
from lazyvol.kernels.reductions import double_double
from tests.strategies import FEW, MORE, chunk_lengths, chunked, chunkings, labelled

RNG = np.random.default_rng(23)
#: many particles of few voxels
SHAPE = (97, 2, 3, 5)
GRIDS = st.tuples(
    chunk_lengths(97, 8), chunk_lengths(2, 1), chunk_lengths(3, 2), chunk_lengths(5, 2)
)


def decades(shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers of both signs over twelve orders of magnitude."""
    return RNG.standard_normal(shape) * 10.0 ** RNG.uniform(-6, 6, shape)


ADVERSARIES = {
    "offset 1e6, deviation 1": 1e6 + RNG.standard_normal(SHAPE),
    "12 decades": decades(SHAPE),
    "cancelling": np.where(RNG.random(SHAPE) < 0.5, 1e16, -1e16) + RNG.standard_normal(SHAPE),
    "small": 1e-140 * (1 + RNG.standard_normal(SHAPE)),
}
#: difficult for float64, but exact for float32, whose squares are exact in float64
SINGLES = {
    "offset 1e6, deviation 1": ADVERSARIES["offset 1e6, deviation 1"].astype("f4"),
    "12 decades": ADVERSARIES["12 decades"].astype("f4"),
    "offset 1e8, deviation 100": (1e8 + 100 * RNG.standard_normal(SHAPE)).astype("f4"),
}


def everything(stack):
    """Return all statistics that must be equal bit for bit."""
    return {
        **lv.stats.describe(stack),
        "norms": lv.stats.norm(stack),
        "across": lv.stats.std(stack, ("k", "y")),
    }


def assert_same_bits(result, expected):
    for name, values in expected.items():
        got, want = result[name].values, values.values
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes(), name


ONCE = {name: everything(labelled(a)) for name, a in SINGLES.items()}


@given(GRIDS, st.sampled_from(sorted(SINGLES)))
@settings(FEW, max_examples=240)
def test_float32_results_do_not_depend_on_chunks(grid, name):
    result = everything(chunked(SINGLES[name], grid))
    assert_same_bits(dask.compute(result, scheduler="sync")[0], ONCE[name])


@pytest.mark.parametrize("name", SINGLES)
def test_float32_results_do_not_depend_on_the_scheduler(name, client):
    result = everything(chunked(SINGLES[name], ((50, 7, 40), 2, 3, (1, 4))))
    for _ in range(3):
        assert_same_bits(dask.compute(result, scheduler="threads", num_workers=4)[0], ONCE[name])
    with client.as_current():
        assert_same_bits(dask.compute(result)[0], ONCE[name])


# exact rationals -------------------------------------------------------------------------------


def exactly(values: np.ndarray) -> dict[str, float]:
    """Return statistics of a column by exact arithmetic, rounded once."""
    exact = [Fraction(float(v)) if values.dtype.kind == "f" else Fraction(int(v)) for v in values]
    mean = sum(exact) / len(exact)
    var = sum((v - mean) ** 2 for v in exact) / len(exact)
    square = sum(v * v for v in exact)
    return {
        "sum": float(sum(exact)), "mean": float(mean), "var": float(var), "std": root(var),
        "norm": root(square),
    }  # fmt: skip


def root(value: Fraction) -> float:
    """Return the square root, rounded once."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -10000, 10000
        return float((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def ulps(got: float, expected: float) -> Fraction:
    """Return the distance in units in the last place."""
    return abs(Fraction(got) - Fraction(expected)) / Fraction(float(np.spacing(abs(expected))))


STATISTICS = {
    "sum": lv.stats.sum, "mean": lv.stats.mean, "var": lv.stats.var, "std": lv.stats.std,
    "norm": lambda stack: lv.stats.norm(stack, "k"),
}  # fmt: skip


@pytest.mark.parametrize("adversary", ADVERSARIES)
@given(GRIDS)
@FEW
def test_float64_is_within_one_ulp_of_exact_rationals(adversary, grid):
    array = ADVERSARIES[adversary]
    stack = chunked(array, grid)
    result = dask.compute({n: f(stack) for n, f in STATISTICS.items()}, scheduler="sync")[0]
    for place in np.ndindex(array.shape[1:]):
        for name, expected in exactly(array[(slice(None), *place)]).items():
            got = result[name].values[place]
            assert ulps(got, expected) <= 1, f"{name} at {place}: {got} for {expected}"


@pytest.mark.parametrize("ratio", [1e8, 1e10, 1e14, np.inf])
def test_the_variance_of_float64_loses_what_106_bits_cannot_hold(ratio):
    """The error is below one rounding plus n 2**-104 of the mean square, also for constants."""
    column = 0.1 * (ratio + RNG.standard_normal(97)) if ratio < np.inf else np.full(97, 0.1)
    got = lv.stats.var(lv.as_stack(column, dims=("k",))).item()
    exact = Fraction(exactly(column)["var"])
    loss = 97 * Fraction(float(np.mean(column**2))) / 2**104
    assert abs(Fraction(got) - exact) <= Fraction(float(np.spacing(float(exact)))) + loss


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
@given(GRIDS, st.integers(0, 99))
@FEW
def test_integers_are_rounded_once(dtype, grid, seed):
    ends = np.iinfo(dtype)
    array = np.random.default_rng(seed).integers(ends.min, ends.max, SHAPE, dtype, endpoint=True)
    stack = chunked(array, grid)
    result = dask.compute({n: f(stack) for n, f in STATISTICS.items()}, scheduler="sync")[0]
    for place in np.ndindex(array.shape[1:]):
        for name, expected in exactly(array[(slice(None), *place)]).items():
            rooted = name in ("std", "norm")  # rounded before and after the root
            assert ulps(result[name].values[place], expected) <= rooted, name


def test_the_mean_of_twenty_million_ones_is_one():
    stack = lv.as_stack(np.broadcast_to(np.float32(1), (20_000_000,)), dims=("k",))
    result = lv.stats.describe(stack)
    assert (result["mean"].item(), result["var"].item()) == (1.0, 0.0)
    assert (lv.stats.sum(stack).item(), result["mean"].dtype) == (2e7, np.float32)


FINITE = st.floats(-1e150, 1e150, allow_nan=False)


@given(hnp.arrays(np.float64, (9, 1, 1, 3), elements=FINITE), chunkings((9, 1, 1, 3)))
@MORE
def test_variance_is_never_negative(array, grid):
    assert (lv.stats.var(chunked(array, grid)).values >= 0).all()
    constant = np.broadcast_to(array[:1], array.shape)
    assert (lv.stats.var(chunked(constant, grid)).values >= 0).all()
    np.testing.assert_array_equal(lv.stats.mean(chunked(constant, grid)), constant[0])
    single = np.clip(constant, -1e30, 1e30).astype("f4")
    assert (lv.stats.var(chunked(single, grid)).values == 0).all()


def test_subnormal_numbers_are_added_exactly():
    tiny = np.array([5e-324, 1e-310, -3e-310, 2e-308]).reshape(4, 1, 1, 1)
    exact = sum(Fraction(float(v)) for v in tiny.ravel())
    for chunks in ((4,), (1, 1, 1, 1), (2, 2)):
        stack = chunked(tiny, (chunks, 1, 1, 1))
        assert lv.stats.sum(stack).values == [[[float(exact)]]]
        assert lv.stats.mean(stack).values == [[[float(exact / 4)]]]
        assert lv.stats.var(stack).values == [[[0.0]]]
    single = tiny.astype("f4") + np.float32(1e-45)
    assert lv.stats.sum(lv.as_stack(single)).item() == np.float32(single.astype("f8").sum())


@pytest.mark.parametrize("op", [lv.stats.mean, lv.stats.sum, lv.stats.norm])
def test_the_largest_numbers_are_refused(op):
    large = np.array([1.7e308, -1.7e308, 1.7e308]).reshape(3, 1, 1, 1)
    with pytest.raises(lv.errors.RangeError, match=f"{op.__name__}: values must be at most"):
        op(lv.as_stack(large), "k")


def wide(dtype: str) -> np.ndarray:
    values = np.random.default_rng(5).normal(100, 40, (6, 5, 70, 45))
    return values.clip(0, 255).astype(dtype)


LAYOUTS = {
    "a corner": lambda a: a[1:5, 1:, 3:65, 2:44],
    "every other": lambda a: a[::2, :, ::3, :],
    "backwards": lambda a: a[::-1, :, ::-1],
    "turned": lambda a: a.transpose(2, 0, 3, 1),
    "columns first": np.asfortranarray,
    "not to be written": lambda a: read_only(a.copy()),
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "one row": lambda a: a[:, 2:3, 4:5],
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_change_results(layout, dtype):
    """Strides, gaps and the order of axes change no bit."""
    seen = LAYOUTS[layout](wide(dtype))
    plain = np.ascontiguousarray(seen)
    for dims in (("k",), ("z",), ("k", "y"), ("z", "y"), ("y", "x"), ("k", "z", "y", "x")):
        for op in (lv.stats.sum, lv.stats.var, lv.stats.min, lv.stats.max):
            result = op(labelled(seen), dims)
            np.testing.assert_array_equal(result, op(labelled(plain), dims))
    expected = plain.astype("f8")
    np.testing.assert_array_equal(lv.stats.max(labelled(seen), "k"), expected.max(0))
    np.testing.assert_allclose(lv.stats.var(labelled(seen), "z"), expected.var(1), rtol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_rows_are_those_of_three_axes(layout):
    block = LAYOUTS[layout](wide("float32"))
    for axes in ((0,), (1,), (0, 1), (1, 2)):
        laid = strided_rows(block, axes)
        expected = as_three_axes(block, axes)
        for a, b in np.ndindex(expected.shape[:2]):
            start = laid.kept_offsets[a] + laid.reduced_offsets[b]
            result = laid.values[start : start + laid.length]
            np.testing.assert_array_equal(result, expected[a, b])
        assert trailing_size(block.shape, axes) == laid.length


def test_two_processes_never_choose_one_cache_file():
    """numba's own names are counted: two types compiled at once shared a file, and its code."""
    files = double_double.two_sum._cache._cache_file
    first, second = files._data_name(1), files._data_name(1)
    assert first != second
    assert str(os.getpid()) in first


def test_files_of_kernels_do_not_outlive_their_source(tmp_path):
    source = tmp_path / "sums.py"
    source.write_text("")
    kept = ["sums.add-9.py311.nbi", "sums.add-9.py311.1-2-1.nbc"]
    outdated = ["sums.add-7.py311.nbi", "sums.add-7.py311.1-1-1.nbc"]
    others = ["sums_of.add-7.py311.nbi", "sums.cpython-311.pyc"]
    for age, names in ((60, [*outdated, *others]), (-60, kept)):
        for name in names:
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_outdated(tmp_path, source)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted([source.name, *kept, *others])


def test_kernels_run_in_python_where_numba_is_switched_off():
    code = (
        "from lazyvol.kernels.reductions.double_double import two_sum; print(two_sum(1.0, 1e-20))"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output == "(1.0, 1e-20)\n"

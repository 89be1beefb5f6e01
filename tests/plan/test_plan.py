"""Regions, recipes, verbs, plans and budgets."""

import math
import pickle
import re
from functools import partial
from threading import Barrier, Thread

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import BudgetError, LabelError
from lazyvol.plan import regions
from lazyvol.plan.budget import RUN_OVERHEAD, Budget, limited, parse_bytes, sampled_cost
from lazyvol.plan.execution import each_in_threads
from lazyvol.plan.graph.lazy_array import recipe_of, source_array
from lazyvol.plan.ragged import ragged
from lazyvol.plan.recipes import base
from lazyvol.plan.recipes.stencil import MODES
from lazyvol.plan.reductions.graph import halo_widths
from lazyvol.plan.reductions.partition import FoldSize, partition_fold
from lazyvol.plan.verbs import blockwise, computed_once, generate, stencil
from tests.sources import READS, CountingSource, OnesSource, box_mean, elements_read

SHAPE = (7, 5, 11, 13)
A = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("building a graph must not compute")


def opened(token: str, chunks=(2, 5, 11, 13), values: np.ndarray = A) -> xr.DataArray:
    """Return a stack on a counting source; its blocks are the stored chunks."""
    READS[token] = []
    source = CountingSource(values, chunks, token)
    grid = tuple(regions.uniform_chunks(n, c) for n, c in zip(values.shape, chunks, strict=True))
    return lv.as_stack(source_array(source, grid), voxel_size=(3.0, 2.0, 1.5), unit="angstrom")


def chunk_lengths(n: int) -> st.SearchStrategy[tuple[int, ...]]:
    inner = st.sets(st.integers(1, max(1, n - 1)), max_size=3)
    return inner.map(
        lambda edges: tuple(np.diff([0, *sorted(c for c in edges if c < n), n]).tolist())
    )


GRIDS = st.tuples(*(chunk_lengths(n) for n in SHAPE))
QUICK = settings(max_examples=25, deadline=None, derandomize=True)


# regions ---------------------------------------------------------------------------------------


@given(GRIDS)
@QUICK
def test_boxes_of_a_grid_partition_the_array(grid):
    seen = np.zeros(SHAPE, int)
    for _, box in regions.boxes(grid):
        seen[box] += 1
    assert (seen == 1).all()


@given(GRIDS, st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in SHAPE)))
@QUICK
def test_overlapping_blocks_are_those_that_share_elements(grid, ends):
    region = tuple(slice(a, max(a + 1, b)) for a, b in ends)
    result = regions.overlapping([regions.edges(c) for c in grid], region)
    expected = [b for b in regions.boxes(grid) if regions.size(regions.intersect(b[1], region))]
    assert result == expected


@given(
    st.tuples(*(st.integers(1, 9) for _ in SHAPE)),
    st.tuples(*(st.integers(1, 4) for _ in SHAPE)),
    st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in SHAPE)),
)
@QUICK
def test_tiles_cover_a_region_once_and_begin_at_stored_chunks(step, multiples, ends):
    region = tuple(slice(a, max(a + 1, b)) for a, b in ends)
    seen = np.zeros(SHAPE, int)
    for tile in regions.tiles(region, step, multiples):
        seen[tile] += 1
        for s, n, g, whole in zip(tile, step, multiples, region, strict=True):
            assert s.stop - s.start <= n
            if n >= g and s.start != whole.start:
                assert s.start % g == 0
    assert (seen[region] == 1).all()
    assert seen.sum() == regions.size(region)


def test_touched_counts_whole_stored_chunks():
    assert regions.touched((slice(3, 5), slice(0, 4)), (4, 4)) == 8 * 4
    assert regions.touched((slice(3, 3), slice(0, 4)), (4, 4)) == 0


# recipes ---------------------------------------------------------------------------------------


def test_a_chain_costs_one_task_per_block_however_long():
    stack = opened("chain", chunks=(1, 5, 11, 13))
    smooth = partial(box_mean, depth=(0, 1, 1, 1))
    result = stack
    for _ in range(3):
        result = stencil(smooth, result, depth={"z": 1, "y": 1, "x": 1}, dtype=np.dtype("f8"))
        result = result * 2 - 1
    (optimised,) = dask.optimize(result.data)
    blocks = result.data.npartitions
    assert len(dict(optimised.dask)) <= 1.1 * blocks + 1
    assert blocks == 7


def test_a_selection_reads_only_the_grown_slab():
    stack = opened("slab", chunks=(1, 5, 11, 13))
    halo = {"z": 1, "y": 1, "x": 1}
    result = stencil(partial(box_mean, depth=(0, 1, 1, 1)), stack, depth=halo)
    READS["slab"].clear()
    result.isel(k=3, y=5).compute()
    assert elements_read("slab") == 1 * 5 * 3 * 13
    READS["slab"].clear()
    result.sel(y=4.0, z=slice(3.0, 6.0)).isel(k=[0, 6]).compute()
    assert elements_read("slab") == 2 * 4 * 3 * 13


@pytest.mark.parametrize(
    "index",
    [
        {"k": slice(1, 6, 2)},
        {"k": [5, 1, 1, 3]},
        {"k": -1, "y": slice(None, None, 3)},
        {"z": slice(4, 1, -1)},
        {"k": np.array([True, False] * 3 + [True])},
        {"x": [2, 3, 4, 9], "k": 2},
        {"k": slice(3, 3)},
        {"k": []},
    ],
)
def test_selections_equal_those_of_numpy(index):
    stack = opened("index")
    plain = lv.as_stack(A)
    with dask.config.set(scheduler=refuse):
        lazy = (stack * 1).isel(index)
    np.testing.assert_array_equal(lazy.values, plain.isel(index).values)


def test_arithmetic_stays_a_recipe_and_reads_each_block_once():
    stack = opened("arithmetic")
    average = lv.stats.mean(stack)
    READS["arithmetic"].clear()
    result = (abs(stack - average) > 0.5).astype("f4") / (1 + stack) ** 2
    assert type(result.data) is da.Array
    expected = (abs(A - A.mean(0)) > 0.5).astype("f4") / (1 + A) ** 2
    np.testing.assert_allclose(result.values, expected, rtol=1e-5)


def test_transpose_and_ufuncs_stay_recipes():
    stack = opened("turn")
    result = np.exp(stack.transpose("z", "x", "k", "y")).isel(k=2)
    assert type(result.data) is da.Array
    np.testing.assert_allclose(result.values, np.exp(A.transpose(1, 3, 0, 2)[:, :, 2]), rtol=1e-6)


def test_graphs_are_small_and_hold_no_data():
    values = np.zeros((64, 32, 32, 32), np.float32)
    stack = opened("small", chunks=(1, 32, 32, 32), values=values)
    halo = stencil(partial(box_mean, depth=(0, 1, 1, 1)), stack, depth={"x": 1, "y": 1, "z": 1})
    plain = len(cloudpickle.dumps(stack.data.dask))
    assert len(cloudpickle.dumps(halo.data.dask)) < plain + 20_000


def test_lazy_arrays_survive_pickling_with_their_recipe():
    stack = lv.as_stack(da.from_array(A, chunks=(2, 5, 6, 13)))
    result = (stack - lv.stats.mean(stack)).data
    again = pickle.loads(pickle.dumps(result))
    assert recipe_of(again).token == recipe_of(result).token
    np.testing.assert_array_equal(again[3].compute(), result[3].compute())


def test_a_million_blocks_build_fast():
    stack = source_array(OnesSource((10**6, 2, 2, 2)), ((1,) * 10**6, (2,), (2,), (2,)))
    assert stack.npartitions == 10**6
    assert len(cloudpickle.dumps(stack.dask)) < 10**7  # dask names every chunk length
    assert len(cloudpickle.dumps(recipe_of(stack))) < 10_000


# stencils --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [(0, 1, 2, 1), (0, 7, 3, 14), (2, 0, 0, 30)])
@given(grid=GRIDS)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_stencils_equal_scipy_at_every_border(mode, depth, grid):
    size = [2 * d + 1 for d in depth]
    weights = np.ones(size) / np.prod(size)
    expected = ndi.correlate(A.astype("f8"), weights, mode=mode, cval=1.5)
    halo = dict(zip("kzyx", depth, strict=True))
    kernel = partial(box_mean, depth=depth)
    for stack in (lv.as_stack(da.from_array(A, chunks=grid)), opened("modes")):
        with dask.config.set(scheduler=refuse):
            lazy = stencil(kernel, stack, depth=halo, mode=mode, fill=1.5, dtype=np.dtype("f8"))
        np.testing.assert_allclose(lazy.values, expected, atol=1e-12)


def test_stencils_on_foreign_arrays_cost_one_task_per_block():
    stack = lv.as_stack(da.from_array(A, chunks=(1, 5, 6, 7)))
    halo = {"z": 2, "y": 2, "x": 2}
    lazy = stencil(partial(box_mean, depth=(0, 2, 2, 2)), stack, depth=halo, mode="wrap")
    blocks = lazy.data.npartitions
    assert (
        len(lazy.data.dask) <= 2 * blocks + 2
    )  # one per block for the foreign array and for the stencil


def test_very_many_small_foreign_blocks_are_merged(monkeypatch):
    monkeypatch.setattr("lazyvol.plan.graph.lazy_array.MANY_BLOCKS", 100)
    values = np.random.default_rng(0).normal(size=(7, 11, 13))
    stack = lv.as_stack(da.from_array(values, chunks=(1, 2, 3)))
    result = lv.filters.gaussian(stack, 1.0)
    assert 20 < len(result.__dask_graph__().layers[result.data.name]) <= 100
    np.testing.assert_allclose(result, ndi.gaussian_filter(values, 1.0), atol=1e-12)


def test_valid_keeps_voxels_with_a_complete_halo():
    stack = opened("valid")
    lazy = stencil(
        partial(box_mean, depth=(0, 1, 0, 2)), stack, depth={"z": 1, "x": 2}, mode="valid"
    )
    expected = ndi.correlate(A.astype("f8"), np.ones((1, 3, 1, 5)) / 15)[:, 1:-1, :, 2:-2]
    np.testing.assert_allclose(lazy.values, expected, atol=1e-6)
    assert float(lazy.z[0]) == 3.0
    assert float(lazy.x[0]) == 3.0


def test_numpy_in_gives_numpy_out():
    halo = {"z": 1, "y": 1, "x": 1}
    result = stencil(partial(box_mean, depth=(0, 1, 1, 1)), lv.as_stack(A), depth=halo)
    assert isinstance(result.data, np.ndarray)


def test_unknown_modes_are_refused():
    with pytest.raises(LabelError, match="mode must be one of"):
        stencil(np.copy, lv.as_stack(A), depth={}, mode="edge")


# the other verbs -------------------------------------------------------------------------------


def double_spread(block: np.ndarray, volume: np.ndarray) -> np.ndarray:
    return block * volume + block.mean(axis=(1, 2, 3), keepdims=True)


@given(GRIDS)
@QUICK
def test_blockwise_gets_core_dims_whole(grid):
    stack = lv.as_stack(da.from_array(A, chunks=grid))
    volume = lv.as_stack(A[0])
    with dask.config.set(scheduler=refuse):
        lazy = blockwise(double_spread, stack, volume, core=("z", "y", "x"))
    np.testing.assert_allclose(lazy.values, double_spread(A, A[:1]), rtol=1e-5)


def positions_only(region: regions.Region) -> np.ndarray:
    grids = np.meshgrid(*(np.arange(s.start, s.stop) for s in region), indexing="ij")
    return sum((10**n) * g for n, g in enumerate(grids))


@given(GRIDS)
@QUICK
def test_generated_values_do_not_depend_on_blocks(grid):
    lazy = generate(positions_only, lv.as_stack(A), dtype=np.dtype("i8"))
    expected = positions_only(regions.whole(SHAPE))
    np.testing.assert_array_equal(lazy.values, expected)
    for _, box in regions.boxes(grid):
        np.testing.assert_array_equal(lazy.data[box].compute(), expected[box])


def test_ragged_rows_have_exact_sizes_before_anything_runs():
    mask = xr.DataArray(A > 0.3, dims=("k", "z", "y", "x"))
    stack = lv.as_stack(da.from_array(A, chunks=(2, 5, 6, 13)))
    with dask.config.set(scheduler=refuse):
        lazy = ragged(lambda block, flags: block.reshape(flags.shape)[flags], stack, mask)
    assert lazy.sizes["obs"] == int((A > 0.3).sum())
    np.testing.assert_array_equal(lazy.values, A[A > 0.3])


# plans and budgets -----------------------------------------------------------------------------


def test_plans_count_passes_bytes_and_tasks_without_running():
    stack = opened("explained", chunks=(1, 5, 11, 13))
    with dask.config.set(scheduler=refuse):
        plan = lv.explain(lv.scores.ncc(stack), workers=2)
    assert plan.passes == 2
    assert plan.bytes_read == 2 * A.nbytes
    assert plan.bytes_written == 7 * 4
    assert READS["explained"] == []
    assert "never rechunks" in str(plan)
    assert "<table>" in plan._repr_html_()


def test_a_fold_reads_every_byte_once_and_uses_few_tasks():
    values = np.ones((64, 16, 16, 16), np.float32)
    stack = opened("once", chunks=(1, 16, 16, 16), values=values)
    result = lv.stats.describe(stack)
    tasks = len(result["mean"].data.dask)
    dask.compute(result)
    assert elements_read("once") == values.size
    assert tasks <= 16


@pytest.mark.parametrize("halo", [(0, 6, 6, 6), (0, 2, 20, 5)])
@pytest.mark.parametrize("shape", [(40, 64, 64, 64), (7, 100, 50, 80)])
def test_a_tile_and_its_halo_are_within_the_limit(shape, halo):
    limit = 1 << 20
    size = FoldSize(shape, frozenset({0}), (1, 8, 8, 8), 4, 16, 2, tile_limit=limit, halo=halo)
    tile = partition_fold(size).tile
    grown = [min(t + h, n) for t, h, n in zip(tile, halo, shape, strict=True)]
    assert limit / 2 < size.item_bytes * math.prod(grown) <= limit


def test_the_cost_of_a_thousand_blocks_is_estimated_from_a_sample():
    stack = opened("sampled", values=np.ones((1300, 2, 2, 2), np.float32), chunks=(1, 2, 2, 2))
    bytes_read, peak = sampled_cost(recipe_of(stack.data), ((1,) * 1300, (2,), (2,), (2,)))
    assert bytes_read == stack.nbytes
    assert peak == sampled_cost(recipe_of(stack.data), ((1300,), (2,), (2,), (2,)))[1] / 1300


def test_a_plan_counts_the_states_that_wait_to_be_merged():
    """Eight states are merged in pairs, on three levels: one waits on each level but the last."""
    values = np.broadcast_to(np.float32(1), (64, 96, 96, 96))
    stack = opened("waiting", chunks=(1, 96, 96, 96), values=values)
    plan = lv.explain(lv.stats.var(stack), workers=8)
    sums_and_squares = 2 * 16 * values[0].size
    assert plan.tasks == 8 + 4 + 2 + 1
    running = 8 * plan.rows[0].task_bytes
    assert plan.peak_bytes >= RUN_OVERHEAD + running + 2 * sums_and_squares


def test_budgets_are_refused_before_any_read():
    stack = opened("refused", chunks=(1, 5, 11, 13))
    with pytest.raises(BudgetError, match="at least"):
        lv.explain(lv.stats.var(stack), memory="1 MB")
    with limited("1 MB"), pytest.raises(BudgetError, match="at least"):
        lv.stats.var(stack)
    assert READS["refused"] == []


def test_plans_fit_a_budget():
    values = np.broadcast_to(np.float32(1), (64, 128, 128, 128))
    stack = opened("fitted", chunks=(1, 128, 128, 128), values=values)
    wide = lv.explain(lv.stats.var(stack), workers=2)
    tight = lv.explain(lv.stats.var(stack), workers=2, memory=wide.peak_bytes * 2 // 3)
    assert tight.peak_bytes <= wide.peak_bytes * 2 // 3
    assert lv.explain(stack * 2, workers=2, memory="140MiB").peak_bytes <= 140 * 2**20


def test_blocks_with_halos_are_cut_along_all_axes():
    """Slabs of the first axis alone would be thinner than their halos."""
    values = np.broadcast_to(np.float32(1), (16, 128, 128, 128))
    smooth = lv.filters.gaussian(opened("halos", chunks=(1, 128, 128, 128), values=values), 6.0)
    assert halo_widths(recipe_of(smooth.data)) == (0, 16, 24, 32)
    filtered = lv.explain(smooth, memory="150MiB", workers=2)
    assert filtered.bytes_read < 12 * values.nbytes
    variance = lv.explain(lv.stats.var(smooth, "k"), memory="300MiB", workers=2)
    assert variance.bytes_read < 4 * values.nbytes


def test_a_reduction_that_is_computed_once_is_refitted():
    """Its blocks are computed once as they are: it must not become its own origin."""
    mean = lv.stats.mean(opened("refitted"))
    once = computed_once(mean)
    assert lv.explain(once, memory="1GiB").tasks == lv.explain(mean, memory="1GiB").tasks
    assert np.array_equal(once.compute(), mean.compute())


def test_limited_also_refits_arrays_built_before():
    values = np.broadcast_to(np.float32(1), (64, 128, 128, 128))
    doubled = opened("limited", chunks=(16, 128, 128, 128), values=values) * 2
    with limited("200MiB", workers=2):
        assert lv.explain(doubled).peak_bytes <= 200 * 2**20


def test_memory_does_not_grow_with_the_number_of_volumes():
    def peak(n: int) -> int:
        values = np.broadcast_to(np.float32(1), (n, 64, 64, 64))
        stack = opened(f"flat{n}", chunks=(1, 64, 64, 64), values=values)
        return lv.explain(lv.stats.var(stack), memory="256MiB", workers=2).peak_bytes

    # each doubling of the tasks adds a state of 8 MiB, until the budget limits the tasks
    assert peak(100_000) <= peak(1_000) + 8 * 8 * 2**20
    assert peak(100_000) <= 256 * 2**20


@pytest.mark.parametrize(("text", "bytes_"), [("2GiB", 2**31), ("1.5 MB", 1_500_000), (7, 7)])
def test_memory_is_parsed_from_text_with_units(text, bytes_):
    assert parse_bytes(text) == bytes_


@pytest.mark.parametrize("text", ["lots", "1.2.3", "", "-1", -1, np.nan, np.inf, True, None, [1]])
def test_unreadable_memory_is_refused(text):
    with pytest.raises(LabelError, match="2GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True, np.nan])
def test_workers_are_counted(workers):
    with pytest.raises(LabelError, match="workers must be a whole number"):
        lv.limited(workers=workers)


def test_a_tight_fold_keeps_every_worker_busy():
    values = np.broadcast_to(np.float32(1), (1024, 64, 64, 64))
    stack = opened("busy", chunks=(1, 64, 64, 64), values=values)
    plan = lv.explain(lv.stats.mean(stack), memory="240MiB", workers=2)
    assert plan.rows[-1].tasks >= 2


def test_the_smallest_sufficient_budget_is_in_the_message():
    values = np.broadcast_to(np.float32(1), (64, 64, 64, 64))
    stack = opened("named", chunks=(1, 64, 64, 64), values=values)
    with pytest.raises(BudgetError, match="at least") as refused:
        lv.explain(stack * 2, memory="100MiB", workers=2)
    named = re.search(r"at least (\d+ MiB)", str(refused.value))
    assert lv.explain(stack * 2, memory=named[1], workers=2).peak_bytes <= parse_bytes(named[1])


def test_a_limit_on_workers_limits_threads():
    with limited(workers=1):
        assert dask.config.get("num_workers") == 1


def test_limits_are_those_of_a_thread():
    """Two threads at once have their own budgets, and the caller's reach the threads of a run."""
    inside, seen = Barrier(2, timeout=60), {}

    def budget_of(memory: str, workers: int) -> None:
        with limited(memory, workers):
            inside.wait()
            seen[memory] = Budget.current()
            assert dask.config.get("num_workers") == 2  # dask's own: no more than either asks
            with limited("3GiB"):
                seen["inner"] = Budget.current().memory
            inside.wait()

    threads = [Thread(target=budget_of, args=args) for args in (("1GiB", 2), ("2GiB", 5))]
    before = Budget.current()
    with limited("4GiB", workers=7):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Budget.current() == Budget(4 << 30, 7)
        budgets = []
        each_in_threads(lambda _: budgets.append(Budget.current().memory), range(8))
        assert set(budgets) == {4 << 30}
    assert (seen["1GiB"], seen["2GiB"]) == (Budget(1 << 30, 2), Budget(2 << 30, 5))
    assert seen["inner"] == 3 << 30
    assert Budget.current() == before
    assert dask.config.get("num_workers", None) is None


@pytest.mark.skipif(
    not hasattr(dask.threaded, "ContextAwareThreadPoolExecutor"),
    reason="older versions of dask do not pass contexts to threads",
)
def test_tasks_see_the_budget_of_their_computation():
    def memory_of(block):
        return np.full(block.shape, Budget.current().memory)

    blocks = da.zeros(4, chunks=1).map_blocks(memory_of, dtype=np.int64)
    with limited("1GiB", workers=2):
        first = blocks.compute(scheduler="threads")
    with limited("2GiB", workers=2):
        second = blocks.compute(scheduler="threads")
    assert set(first) == {1 << 30}
    assert set(second) == {2 << 30}


def test_plans_of_long_chains_are_quick_and_add_up_only_what_runs_at_once():
    stack = opened("long", chunks=(1, 5, 11, 13))
    mean = lv.stats.mean(stack)
    for _ in range(30):
        mean = lv.stats.mean(stack - mean)
    plan = lv.explain(mean, workers=2)
    assert plan.passes == 31


def test_plans_print_as_text():
    assert repr(lv.explain(opened("text"))).startswith("Plan\n")


def test_tasks_share_one_recipe_that_is_pickled_once():
    array = lv.filters.gaussian(lv.synthetic.noise((20, 4, 5, 6)), 1.0).data
    layer = array.dask.layers[array.name]
    pickled = [pickle.dumps(layer[(array.name, *index)]) for index in np.ndindex(array.numblocks)]
    tasks = [pickle.loads(p) for p in (*pickled, *pickled)]
    assert len({id(task.args[0].value) for task in tasks}) == 1
    again = pickle.loads(pickle.dumps(tasks[0]))
    np.testing.assert_array_equal(again(), array.blocks[0, 0, 0, 0].compute())
    del tasks, again
    for seed in range(base.SHARED_VALUES):  # others take the place
        other = lv.synthetic.noise((2, 3, 4, 5), seed=seed).data
        pickle.loads(pickle.dumps(other.dask.layers[other.name][(other.name, 0, 0, 0, 0)]))
    assert len(base._recent) == base.SHARED_VALUES

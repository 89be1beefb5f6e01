"""Evaluation: every step runs once, over the hull of the required regions; values are freed."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr

import lazyvol as lv
from lazyvol.errors import BudgetError, LabelError
from lazyvol.plan import regions
from lazyvol.plan.evaluate import evaluate, program_of, region_cost
from lazyvol.plan.graph.lazy_array import recipe_of
from lazyvol.plan.recipes.base import leaves
from lazyvol.plan.recipes.leaves import Foreign
from lazyvol.plan.verbs import blockwise, stencil
from tests.sources import READS, box_mean, elements_read
from tests.strategies import labelled, stored, values

A = values("float32", (2, 16, 16, 16))
TOKEN = f"stored-{A.dtype}-{A.shape}-{(1, 16, 16, 16)}"
CALLS: list[int] = []


def backings() -> dict[str, xr.DataArray]:
    """Return a store, and foreign graphs of whole volumes and of smaller blocks."""
    return {
        "stored": stored(A, (1, 16, 16, 16)),
        "volumes": labelled(da.from_array(A, chunks=(1, 16, 16, 16))),
        "blocks": labelled(da.from_array(A, chunks=(1, 8, 16, 9))),
        "computed": labelled(da.from_array(A, chunks=(1, 8, 16, 16)).map_blocks(np.copy)),
    }


def counted(block: np.ndarray) -> np.ndarray:
    CALLS.append(1)
    return box_mean(block, depth=(0, 1, 1, 1))


def diffused(s: xr.DataArray, n: int) -> xr.DataArray:
    """Apply n steps that each need their parent twice."""
    for _ in range(n):
        smooth = stencil(counted, s, depth=dict.fromkeys("zyx", 1), dtype=np.dtype("f8"))
        s = s + 0.1 * (smooth - s)
    return s


def by_scipy(n: int) -> np.ndarray:
    result = A.astype("f8")
    for _ in range(n):
        result = result + 0.1 * (ndi.uniform_filter(result, (1, 3, 3, 3)) - result)
    return result


@pytest.mark.parametrize("backing", ["stored", "volumes", "blocks", "computed"])
def test_steps_that_refer_to_a_parent_twice_run_once(backing):
    stack = backings()[backing]
    lazy = diffused(stack, 14)
    CALLS.clear()
    with dask.config.set(scheduler="synchronous"):
        result = lazy.values
    assert len(CALLS) == 14 * lazy.data.npartitions
    np.testing.assert_allclose(result, by_scipy(14), atol=1e-6)


def test_a_thousand_steps_run(tmp_path):
    stack = stored(A[:1, :5, :5, :5], (1, 5, 5, 5))
    s = stack
    for _ in range(1000):
        s = s + 0.1 * lv.filters.laplace(s)
    expected = A[0, :5, :5, :5]
    for _ in range(1000):
        expected = expected + np.float32(0.1) * ndi.laplace(expected)
    np.testing.assert_allclose(s.values[0], expected, atol=1e-3)
    again = pickle.loads(pickle.dumps(recipe_of(s.data)))
    whole = regions.whole(again.shape)
    np.testing.assert_array_equal(evaluate(again, whole, {}), s.values)
    lv.save(s, tmp_path / "s.zarr")
    np.testing.assert_array_equal(lv.open(tmp_path / "s.zarr").values, s.values)
    assert lv.explain(s).tasks == 1


def test_a_chain_takes_no_more_memory_than_planned():
    array = values("float64", (1, 64, 64, 64))
    s = stored(array, (1, 64, 64, 64))
    for _ in range(12):
        s = s + 0.1 * lv.filters.laplace(s)
    recipe, region = recipe_of(s.data), regions.whole(array.shape)
    evaluate(recipe, region, {})
    planned = region_cost(recipe, region).peak
    tracemalloc.start()
    evaluate(recipe, region, {})
    measured = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert measured <= planned <= 8 * array.nbytes


def test_distant_regions_are_not_merged():
    stack = stored(values("float32", (40, 5, 6, 7)), (1, 5, 6, 7))
    smooth = lv.filters.gaussian(stack, 2.0)
    token = "stored-float32-(40, 5, 6, 7)-(1, 5, 6, 7)"
    READS[token].clear()
    few = lv.filters.uniform(smooth.isel(k=[1, 38]), 3)
    few.compute()
    assert elements_read(token) == 2 * 5 * 6 * 7


def test_data_needed_twice_in_a_step_are_read_once():
    stack = backings()["stored"]
    READS[TOKEN].clear()
    (lv.filters.uniform(stack, 5) - stack * 2 + stack.isel(k=[0, 1])).compute()
    assert elements_read(TOKEN) == A.size


def test_two_results_of_one_parent_compute_it_once():
    stack = stored(A, (1, 16, 16, 16))
    once = stencil(counted, stack, depth=dict.fromkeys("zyx", 1), dtype=np.dtype("f8"))
    CALLS.clear()
    with dask.config.set(scheduler="synchronous"):
        doubled, halved = dask.compute(once * 2, once / 2)
    assert len(CALLS) == 2
    np.testing.assert_allclose(doubled.values, 4 * halved.values)


def test_foreign_blocks_are_found_without_a_scan():
    many = da.random.default_rng(0).normal(size=(600, 6), chunks=(1, 6))
    stack = lv.as_stack(many, dims=("k", "x"))
    result = lv.stats.quantile(stack, 0.5)
    np.testing.assert_allclose(result.values, np.median(stack.values, 0), rtol=1e-12)
    leaf = next(leaf for leaf in leaves(recipe_of(many)) if isinstance(leaf, Foreign))
    program = program_of(leaf)
    assert len(program.foreign_blocks((slice(3, 5), slice(0, 6)))) == 2


def test_empty_selections_of_broadcast_axes():
    stack = stored(values("float32", (4, 1, 6, 7)), (1, 1, 6, 7))
    for lazy in (stack * 2, lv.filters.gaussian(stack, 1.0), lv.stats.mean(stack)):
        for empty in ({"z": slice(0, 0)}, {"z": []}, {"x": slice(2, 2)}):
            result = lazy.isel(empty)
            assert result.compute().shape == result.shape
            assert lv.filters.uniform(result, {"x": 3}).compute().size == 0


def test_unknown_chunk_sizes_are_refused():
    x = da.from_array(np.arange(12.0), chunks=4)
    with pytest.raises(LabelError, match="compute_chunk_sizes"):
        lv.stats.mean(xr.DataArray(x[x > 3], dims="k"))


# plans -----------------------------------------------------------------------------------------


def test_plans_name_the_halo_and_the_step_to_save():
    stack = stored(np.zeros((2, 64, 64, 64), np.float32), (1, 16, 16, 16))
    s = stack
    for _ in range(14):
        s = s + 0.1 * lv.filters.laplace(s)
    plan = lv.explain(s)
    halo = plan.rows[-1].halo
    assert (halo.steps, halo.reach) == (14, 14)
    expected = np.mean([(16 + 2 * n) ** 3 / 16**3 for n in range(15)])
    assert 0.8 * expected < halo.redundancy < 1.5 * expected
    assert 4 <= halo.save_step <= 10
    assert halo.redundancy_if_saved < halo.redundancy / 2
    assert "halo of 14 voxels after 14 steps" in str(plan)
    whole = stored(np.zeros((2, 64, 64, 64), np.float32), (1, 64, 64, 64))
    assert lv.explain(lv.filters.gaussian(whole, 3.0)).rows[-1].halo is None


def test_a_step_of_one_task_is_counted_as_one():
    stack = stored(np.zeros((1, 64, 128, 128), np.float32), (1, 64, 128, 128))
    one = lv.explain(stack * 2, workers=1).peak_bytes
    assert lv.explain(stack * 2, workers=16).peak_bytes == one
    whole = blockwise(np.copy, stack, core=("z", "y", "x"))
    with pytest.raises(BudgetError, match=r"of shape \(1, 64, 128, 128\) with 1 task at once"):
        lv.explain(whole, memory="115MiB", workers=8)


# threads and processes -------------------------------------------------------------------------


def note_thread(block: np.ndarray, *, seen: set[int]) -> np.ndarray:
    seen.add(threading.get_ident())
    return block


def test_one_thread_is_used_for_arrays_in_memory_if_asked_for():
    stack = lv.as_stack(np.zeros((64, 16, 64, 64), np.float32))
    seen: set[int] = set()
    with dask.config.set(scheduler="synchronous"):
        blockwise(partial(note_thread, seen=seen), stack)
        lv.stats.var(stack)
    assert seen == {threading.get_ident()}


def variance(_: int) -> float:
    stack = lv.as_stack(np.ones((40, 8, 64, 64)))
    lazy = lv.as_stack(da.ones((4, 8, 8, 8), chunks=(1, 8, 8, 8)))
    return float(lv.filters.uniform(stack, 3).sum()) + float(lv.stats.sum(lazy, None))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_works_after_a_threaded_call():
    expected = variance(0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(variance, (0,)).get(timeout=240) == expected


def saved_median(path: Path) -> float:
    values = np.arange(4 * 8**3, dtype="f4").reshape(4, 8, 8, 8)
    lv.save(lv.as_stack(da.from_array(values, chunks=(1, 8, 8, 8))) * 2, path)
    return float(lv.stats.quantile(lv.open(path), 0.5, None))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_saves_after_saves_quantiles_and_screenings(tmp_path):
    expected = saved_median(tmp_path / "own.zarr")
    lv.scores.screen(lv.open(tmp_path / "own.zarr")).compute()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        result = pool.apply_async(saved_median, (tmp_path / "forked.zarr",))
        assert result.get(timeout=240) == expected


def test_kernels_compile_where_no_folder_is_writable(tmp_path):
    code = (
        "import numba.core.caching as c; c.CacheImpl._locator_classes = [];"
        "import numpy as np, warnings, lazyvol as lv;"
        "w = warnings.catch_warnings(record=True); got = w.__enter__();"
        "warnings.simplefilter('always');"
        "print(float(lv.stats.var(lv.as_stack(np.arange(4.0)[:, None, None, None])).item()),"
        " sum('NUMBA_CACHE_DIR' in str(g.message) for g in got))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )
    assert result.stdout.split() == ["1.25", "1"]

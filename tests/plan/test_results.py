"""Results of tasks: their memory order, who owns them, and how blocks are joined."""

import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given

import lazyvol as lv
from lazyvol.plan.evaluate import is_dense
from lazyvol.plan.graph.reading import join_blocks
from lazyvol.plan.reductions import graph as fold_graph
from lazyvol.plan.verbs import blockwise
from tests.plan.test_plan import GRIDS, QUICK, SHAPE, A, opened


def nested(grid, values, axis: int = 0):
    """Return blocks as dask passes them: nested lists."""
    if axis == len(grid):
        return values
    ends = np.cumsum(grid[axis])[:-1]
    return [nested(grid, part, axis + 1) for part in np.split(values, ends, axis)]


@given(GRIDS)
@QUICK
def test_blocks_are_joined_in_their_memory_order(grid):
    for order in ((0, 1, 2, 3), (3, 0, 1, 2), (1, 3, 2, 0)):
        values = np.ascontiguousarray(A.transpose(order)).transpose(np.argsort(order))
        result = join_blocks(nested(grid, values))
        assert np.array_equal(result, A)
        assert result.transpose(order).flags.c_contiguous


def test_a_lone_block_is_not_copied():
    assert join_blocks([[[[A]]]]) is A
    number = np.float64(3.0)
    assert join_blocks([number]) is number


def test_the_block_of_a_fold_is_handed_out_without_a_copy(monkeypatch):
    """A copy of each statistic took an eighth of the time of ``stats.describe``."""
    blocks, pick = [], fold_graph._pick
    monkeypatch.setattr(fold_graph, "_pick", lambda *a: blocks.append(pick(*a)) or blocks[-1])
    (result,) = dask.compute(lv.stats.mean(lv.as_stack(da.from_array(A, chunks=(2, 5, 11, 13)))))
    assert [result.data is block for block in blocks] == [True]


def test_labelled_results_are_joined_as_arrays_are(monkeypatch):
    """``dask.compute`` of a DataArray or a Dataset neither joins in C order nor copies a block."""

    def refuse(*_):
        raise AssertionError("dask joined the blocks")

    monkeypatch.setattr(dask.array.core, "concatenate3", refuse)
    stack = lv.as_stack(da.from_array(A, chunks=(2, -1, -1, -1)))
    field = lv.derivatives.hessian(stack)
    both = xr.Dataset({"field": field, "smooth": lv.filters.gaussian(stack, 1.0)})
    (array,), (dataset,) = dask.compute(field), dask.compute(both.assign(plain=("n", [1, 2])))
    assert type(array.data) is np.ndarray
    assert is_dense(array.data)
    assert not array.data.flags.c_contiguous
    xr.testing.assert_identical(array, field.compute())
    xr.testing.assert_identical(dataset.field.variable, array.variable)
    xr.testing.assert_identical(dataset.smooth.variable, both.smooth.variable.compute())
    assert dataset.plain.values.tolist() == [1, 2]


@given(GRIDS)
@QUICK
def test_a_computed_result_has_every_block_in_its_place(grid):
    lazy = lv.as_stack(da.from_array(A, chunks=grid))
    assert np.array_equal(
        lv.filters.maximum(lazy, 3).compute(), lv.filters.maximum(lv.as_stack(A), 3)
    )


def test_results_of_stored_data_are_owned_and_writable():
    result = opened("owned")[:1, 2:4].compute()
    result += 1
    assert result.data.base is None
    assert np.array_equal(result, A[:1, 2:4] + 1)


@pytest.mark.parametrize("op", ["gradient", "hessian", "hessian_eigenvalues"])
@pytest.mark.parametrize("chunks", [None, (2, 5, 4, 13), SHAPE])
def test_components_are_whole_volumes_in_memory(op, chunks):
    data = A if chunks is None else da.from_array(A, chunks=chunks)
    with dask.config.set(scheduler="threads"):
        result = getattr(lv.derivatives, op)(lv.as_stack(data)).compute()
    new = result.ndim - A.ndim
    assert result.dims[:4] == ("k", "z", "y", "x")
    assert new in (1, 2)
    assert result.data[(..., *(0,) * new)].flags.c_contiguous
    assert is_dense(result.data)


def test_only_views_of_user_arrays_are_copied():
    """A transposed result that owns its memory is returned, a view of a user array is copied."""
    held = lv.as_stack(da.from_array(A, chunks=-1))
    results = []

    def kernel(block: np.ndarray) -> np.ndarray:
        results.append(np.ascontiguousarray(block.T).T + 0)
        return results[-1].transpose(3, 2, 1, 0).transpose(3, 2, 1, 0)

    with dask.config.set(scheduler="synchronous"):
        result = blockwise(kernel, held).compute()
        assert np.shares_memory(result, results[-1])
        same = blockwise(lambda block: block.transpose(1, 0, 2, 3).transpose(1, 0, 2, 3), held)
        assert not np.shares_memory(same.compute(), A)
    turned = blockwise(lambda block: block, lv.as_stack(A))
    assert not np.shares_memory(turned, A)


def test_results_are_equal_after_persist_and_after_saving(tmp_path):
    lazy = lv.derivatives.hessian(lv.as_stack(da.from_array(A, chunks=(2, 5, 4, 13))))
    kept = lazy.persist()
    assert isinstance(kept, xr.DataArray)
    assert np.array_equal(kept.compute(), lazy.compute())
    lv.save(lazy, tmp_path / "h.zarr")
    assert np.array_equal(lv.open(tmp_path / "h.zarr").compute(), lazy.compute())


def test_topics_are_imported_on_first_use():
    code = (
        "import sys, lazyvol as lv\n"
        "before = [m for m in sys.modules if m.startswith('lazyvol.ops')]\n"
        "assert not before, before\n"
        "assert lv.filters.gaussian and 'lazyvol.ops.filters' in sys.modules\n"
        "assert 'filters' in dir(lv) and not hasattr(lv, 'gaussian')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

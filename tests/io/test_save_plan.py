"""The plan of a save prices the shards that it writes, and is refused if it cannot be kept."""

import numpy as np
import pytest
import xarray as xr
import zarr

import lazyvol as lv
from lazyvol.errors import BudgetError, LabelError
from lazyvol.io import save_result
from lazyvol.plan import explain
from tests.io.buckets import in_memory

#: 2 GiB: nothing of it is stored, and nothing is read
SHAPE = (64, 128, 256, 256)

RESULTS = {
    "block means": lambda stack: lv.density.block_mean(stack, 32),
    "slices of a filter": lambda s: lv.filters.gaussian(s, 2.0).isel(x=slice(None, None, 16)),
    "block means of a filter": lambda s: lv.density.block_mean(lv.filters.gaussian(s, 2.0), 32),
    "variance": lambda stack: lv.stats.var(stack, "k"),
    "two results": lambda stack: lv.stats.describe(stack, "k", statistics=("mean", "var")),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "in.npy"
    np.lib.format.open_memmap(path, "w+", "f4", SHAPE).flush()  # a file of holes
    yield lv.open(path)
    path.unlink()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("memory", [None, "512MiB"])
@pytest.mark.parametrize("name", RESULTS)
def test_the_shards_of_the_plan_are_those_that_are_written(
    name, memory, stack, tmp_path, monkeypatch
):
    grids = []

    def noted(values, sinks, **_):
        grids.extend(sink.grid for sink in sinks)
        raise Stopped

    result = RESULTS[name](stack)
    plan = lv.explain(result, tmp_path / "out.zarr", memory=memory)
    monkeypatch.setattr(save_result, "write", noted)
    with pytest.raises(Stopped):
        lv.save(result, tmp_path / "out.zarr", memory=memory)
    shards = sum(int(np.prod([len(chunks) for chunks in grid])) for grid in grids)
    writing = plan.rows[-len(grids) :]
    assert sum(row.tasks for row in writing) == shards
    assert plan.memory is None or plan.peak_bytes <= 512 << 20
    held = max(int(np.prod([max(chunks) for chunks in grid])) * 4 for grid in grids)
    assert max(row.task_bytes for row in writing) > held  # a chunk is padded and compressed beside
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr.lazyvol-tmp"]


@pytest.mark.filterwarnings("ignore:.*absent")
@pytest.mark.parametrize("memory", [None, "1GiB"])
@pytest.mark.parametrize("rows", [5, 8])
def test_shards_hold_the_volumes_of_whole_chunks(rows, memory, tmp_path):
    """Shards of 4 volumes would decode each chunk of 8 twice."""
    zarr.create_array(
        tmp_path / "in.zarr", shape=(48, 128, 128, 128), chunks=(rows, 64, 64, 64), dtype="f4"
    )
    stack = lv.open(tmp_path / "in.zarr", dims=("k", "z", "y", "x"))
    result = lv.derivatives.hessian_eigenvalues(stack, sigma=2)
    plan = lv.explain(result, tmp_path / "out.zarr", memory=memory, workers=2)
    assert plan.passes < 1.1
    assert plan.tasks == -(-48 // rows)


def test_remote_stores_hold_copies_and_other_files_are_priced_by_blocks(stack, tmp_path):
    result = lv.filters.gaussian(stack, 2.0)
    local = lv.explain(result, tmp_path / "out.zarr", workers=1)
    remote = lv.explain(result, in_memory(tmp_path), workers=1)
    assert remote.tasks > local.tasks  # with its copies, a task for as many volumes takes too much
    assert str(lv.explain(result, "out.mrc")) == str(lv.explain(result))
    with pytest.raises(LabelError, match="must be a DataArray or a Dataset with path="):
        lv.explain([result], "out.zarr")
    assert lv.explain(xr.Dataset(), "out.zarr").tasks == 0


def test_a_plan_that_reads_its_input_too_often_is_refused(stack, tmp_path, monkeypatch):
    result = lv.filters.gaussian(stack, 24.0)
    reads = lv.explain(result, memory="1GiB", workers=2).bytes_read / stack.nbytes
    assert 8 < reads < explain.MOST_READS
    monkeypatch.setattr(explain, "MOST_READS", 8)
    message = r"at most 8 times, got memory=1 GiB, by which gaussian reads .*or save the result of"
    for path in (None, tmp_path / "out.zarr"):
        with pytest.raises(BudgetError, match=message):
            lv.explain(result, path, memory="1GiB", workers=2)
    with pytest.raises(BudgetError, match="at most 8 times"):
        lv.save(result, tmp_path / "out.zarr", memory="1GiB")
    assert not list(tmp_path.iterdir())

"""The memory of a cluster is the default budget, and its workers stay within it."""

from pathlib import Path

import dask.array as da
import numpy as np
import psutil
import pytest

import lazyvol as lv
from lazyvol.client import connect
from lazyvol.errors import BudgetError
from lazyvol.plan.budget import RUN_OVERHEAD, USABLE_FRACTION, WORKER_OVERHEAD, Budget

MEBI = 2**20


@pytest.fixture(scope="module")
def client():
    with connect(workers=2, threads=1, memory=2 * 420 * MEBI) as client:
        yield client


def test_the_limit_of_its_processes_is_the_budget(client):
    budget = Budget.current()
    assert (budget.workers, budget.processes) == (2, 2)
    assert budget.per_process == int(USABLE_FRACTION * 420 * MEBI) - WORKER_OVERHEAD
    assert budget.per_task == budget.per_process - RUN_OVERHEAD


def test_a_stack_larger_than_the_cluster_is_folded(client, tmp_path):
    """No worker is restarted, and none reaches its limit."""
    values = np.random.default_rng(0).normal(size=(160, 64, 128, 128)).astype(np.float32)
    lv.save(lv.as_stack(values), tmp_path / "large.zarr")
    pids = set(client.run(lambda: psutil.Process().pid).values())
    result = lv.stats.var(lv.open(tmp_path / "large.zarr")).compute()
    np.testing.assert_allclose(result, values.var(0, np.float64), rtol=1e-6)
    assert set(client.run(lambda: psutil.Process().pid).values()) == pids
    peaks = client.run(_peak)
    assert max(peaks.values()) < 0.95 * 420 * MEBI


def _peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_plan_counts_every_process(client):
    stack = lv.as_stack(da.zeros((64, 16, 16, 16), chunks=(8, 16, 16, 16)))
    assert lv.explain(lv.stats.mean(stack)).peak_bytes >= 2 * RUN_OVERHEAD


def test_a_block_that_no_process_can_hold_is_refused(client):
    stack = lv.as_stack(da.zeros((64, 64, 128, 128), chunks=(64, 64, 128, 128)))
    with pytest.raises(BudgetError, match="must be at least"):
        lv.intensity.center(stack, dim=("k", "z", "y", "x"))


def test_processes_too_small_to_work_are_refused():
    with pytest.raises(BudgetError, match="memory must be more than"):
        connect(workers=4, memory="1GiB")

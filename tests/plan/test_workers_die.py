"""Runs on clusters whose workers, scheduler or tasks end at any moment."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import lazyvol as lv
from lazyvol import errors
from lazyvol.client import connect
from lazyvol.io.zarr.writer import Target
from lazyvol.plan import checkpoints, on_cluster
from lazyvol.plan import write as plan_write
from lazyvol.plan.budget import Workers, default_workers
from lazyvol.plan.checkpoints import keeping_steps
from lazyvol.plan.execution import local_threads
from lazyvol.plan.verbs import blockwise
from tests.paths import ROOT
from tests.plan.clusters import Killer, hashes

SHAPE = (12, 16, 16, 16)
A = np.random.default_rng(5).normal(size=SHAPE).astype("f4")
PORTS = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def connected():
    with connect(workers=2, threads=1, memory="1200MiB", dashboard=False) as client:
        yield client


@pytest.fixture
def client(connected):
    """A client of two workers, also after tests that killed more than dask restarts."""
    on_cluster._replace_lost_workers(connected.cluster)
    connected.wait_for_workers(2, timeout=120)
    return connected


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.save_plan.BLOCK", 20_000)  # a shard per volume
    lv.save(lv.as_stack(A), tmp_path / "in.zarr")
    return tmp_path


@pytest.fixture
def grouped(monkeypatch):
    """Tasks that write half of the volumes each, in waves of one task."""
    monkeypatch.setattr(plan_write, "GROUPED_TASKS", 1)
    monkeypatch.setattr(plan_write, "WAVE", 1)


@pytest.mark.parametrize("tasks", ["one each", "grouped"])
def test_a_run_whose_workers_are_killed_has_the_bits_of_another(tasks, client, folder, request):
    if tasks == "grouped":
        request.getfixturevalue("grouped")
    result = lv.filters.gaussian(lv.open(folder / "in.zarr", chunks=1), 1.0)
    lv.save(result, folder / "calm.zarr")
    with Killer(client, folder / "out.zarr") as killer:
        lv.save(result, folder / "out.zarr")
    assert killer.kills >= 1
    assert not killer.rewritten
    assert hashes(folder / "out.zarr") == hashes(folder / "calm.zarr")


def ends_its_process(block, where):
    if where.exists() and block.mean() > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
    return block


@pytest.fixture
def deadly(folder):
    """A stack one of whose volumes ends the process that computes it, while a file exists."""
    values = np.zeros(SHAPE, "f4")
    values[3] = 1
    lv.save(lv.as_stack(values), folder / "deadly.zarr")
    trigger = folder / "deadly"
    trigger.touch()
    stack = lv.open(folder / "deadly.zarr", chunks=1)
    blocks = stack.data.map_blocks(ends_its_process, where=trigger, dtype="f4")
    return stack.copy(data=blocks), trigger


def test_a_task_that_ends_its_workers_fails_alone_and_the_run_can_be_resumed(
    client, deadly, folder
):
    stack, trigger = deadly
    with (
        dask.config.set({on_cluster.DEATHS: 1}),
        pytest.raises(errors.IncompleteError, match=r"1 failures.*ran alone") as caught,
    ):
        lv.save(stack, folder / "out.zarr")
    ((part, cause),) = caught.value.failures
    assert "c/3/0/0/0 (3:4, 0:16, 0:16, 0:16)" in part
    assert isinstance(cause, errors.ClusterError)
    trigger.unlink()
    written = shards_written(folder)
    assert len(written) == SHAPE[0] - 1
    lv.save(stack, folder / "out.zarr", resume=True)
    assert float(lv.open(folder / "out.zarr").sum()) == 16**3


def shards_written(folder: Path) -> list[Path]:
    return list(folder.glob("out.zarr.lazyvol-tmp/*/store/0/c/*/0/0/0"))


def test_compute_raises_errors_of_lazyvol(client, deadly):
    stack, trigger = deadly
    with dask.config.set({on_cluster.DEATHS: 1}), pytest.raises(errors.ClusterError, match="alone"):
        stack.compute()
    trigger.unlink()
    assert stack.sum().compute() == 16**3


def test_tables_are_computed_so_on_any_client(client, deadly, folder):
    stack, _ = deadly
    with (
        Client(client.scheduler.address),
        dask.config.set({on_cluster.DEATHS: 1}),
        pytest.raises(errors.ClusterError, match="alone"),
    ):
        lv.save(stack.max(("z", "y", "x")).rename("largest"), folder / "table.csv")


def dies_before_each_step(block, folder):
    def step(number):
        with (folder / f"step {number}").open("a") as file:
            file.write(".")
            if file.tell() == 1:
                file.close()
                os.kill(os.getpid(), signal.SIGKILL)
        return {"number": np.array(number)}

    computed = [int(result["number"]) for result in keeping_steps(block)("steps", 3, step)]
    assert computed == [0, 1, 2]
    return block


def test_a_task_that_outlives_its_workers_step_by_step_is_not_given_up(client, folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))  # every step is kept
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    kernel = partial(dies_before_each_step, folder=folder)
    stack = lv.open(folder / "in.zarr", chunks=1)
    result = blockwise(kernel, stack, core=stack.dims, dtype="f4", title="dies")
    with dask.config.set({on_cluster.DEATHS: 1}):
        lv.save(lv.stats.mean(result, "k"), folder / "out.zarr")
    np.testing.assert_allclose(lv.open(folder / "out.zarr"), A.mean(0), rtol=1e-5, atol=1e-7)
    assert [(folder / f"step {n}").read_text() for n in range(3)] == [".."] * 3


def fails_for_one(block):
    if block.max() > 3.9:
        raise ZeroDivisionError("no such voxel")
    return block


@pytest.mark.parametrize("where", ["threads", "cluster", "grouped"])
def test_a_failing_part_is_named_and_the_rest_is_written(where, client, folder, request):
    if where == "grouped":
        request.getfixturevalue(where)
    values = np.zeros(SHAPE, "f4")
    values[7] = 4
    lv.save(lv.as_stack(values), folder / "four.zarr")
    stack = lv.open(folder / "four.zarr", chunks=1)
    result = blockwise(fails_for_one, stack, core=("z", "y", "x"), dtype="f4", title="fails")
    scheduler = {"scheduler": "threads"} if where == "threads" else {}
    with dask.config.set(scheduler), pytest.raises(errors.IncompleteError) as caught:
        lv.save(result, folder / "out.zarr")
    ((part, cause),) = caught.value.failures
    assert "c/7/0/0/0" in part
    assert isinstance(cause, ZeroDivisionError)
    assert "1 failures" in str(caught.value)
    assert "resume=True" in str(caught.value)
    assert len(shards_written(folder)) == SHAPE[0] - 1
    assert not (folder / "out.zarr").exists()


def test_a_shard_that_is_durable_is_not_written_again(client, folder, monkeypatch):
    """The task of a written shard runs again when its worker died before the scheduler knew."""

    def refused(self):
        raise errors.StoreError("refused")

    monkeypatch.setattr("lazyvol.io.zarr.local_run.LocalRun.publish", refused)
    inodes = []
    for _ in range(2):
        with pytest.raises(errors.StoreError, match="refused"):
            lv.save(lv.open(folder / "in.zarr", chunks=1) * 2, folder / "out.zarr", resume=True)
        inodes.append({p.parts[-4]: p.stat().st_ino for p in shards_written(folder)})
        monkeypatch.setattr(Target, "missing", lambda self: [index for index, _ in self.rows()])
    assert len(inodes[0]) == SHAPE[0]
    assert inodes[0] == inodes[1]


SCHEDULER = """
import sys, threading
import numpy as np
import lazyvol as lv
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1",
                           dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0")
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


def slow(block):
    time.sleep(0.3)
    return block


def test_a_lost_scheduler_is_an_error_and_the_run_can_be_resumed(folder):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCHEDULER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=env, text=True, **pipes) as process:
        address = process.stdout.readline().strip()
        stack = lv.open(folder / "in.zarr", chunks=1)
        stack = stack.copy(data=stack.data.map_blocks(slow, dtype="f4"))
        with dask.config.set({"distributed.comm.timeouts.connect": "2s"}), connect(address):
            stop = threading.Thread(target=kill_after_a_shard, args=(process, folder))
            stop.start()
            with pytest.raises(errors.ClusterError, match="was lost"):
                lv.save(stack, folder / "out.zarr")
            stop.join()
    lv.save(stack, folder / "out.zarr", resume=True)
    np.testing.assert_array_equal(lv.open(folder / "out.zarr"), A)


started, closed = threading.Event(), threading.Event()


def waits_for_the_end(block):
    started.set()
    closed.wait(60)
    return block


def test_a_client_that_is_closed_is_an_error_and_the_run_can_be_resumed(folder):
    stack = lv.open(folder / "in.zarr", chunks=1)
    blocks = stack.data.map_blocks(waits_for_the_end, meta=np.empty((0,) * 4, "f4"))
    stack = stack.copy(data=blocks)
    with (
        dask.config.set(scheduler=None),  # restored although the client closes in between
        LocalCluster(n_workers=1, processes=False, **PORTS) as cluster,
    ):
        client = connect(cluster)
        stop = threading.Thread(target=close_during_a_task, args=(client,))
        stop.start()
        # other tests have entered a client, which otherwise counts before this one
        with client.as_current(), pytest.raises(errors.ClusterError, match="was lost"):
            lv.save(stack, folder / "out.zarr")
        stop.join()
    with dask.config.set(scheduler="threads"):  # workers in other processes would wait again
        lv.save(stack, folder / "out.zarr", resume=True)
        np.testing.assert_array_equal(lv.open(folder / "out.zarr"), A)


def close_during_a_task(client: Client) -> None:
    started.wait(60)
    client.close()
    closed.set()


def process_of(block):
    return np.full(block.shape, os.getpid(), block.dtype)


def test_of_two_clients_the_entered_one_computes_and_saves(client, folder):
    stack = lv.open(folder / "in.zarr", chunks=1).astype("f8")
    stack = stack.copy(data=stack.data.map_blocks(process_of, meta=np.empty((0,) * 4)))
    # without a limit: a worker would pause at that of all memory of this process
    one = {"n_workers": 1, "threads_per_worker": 3, "memory_limit": 0, "processes": False}
    with LocalCluster(**one, **PORTS) as cluster:
        second = connect(cluster)
        workers = set(client.run(os.getpid).values())
        assert saved_by(stack, folder / "entered.zarr") <= workers
        with second.as_current():
            assert saved_by(stack, folder / "current.zarr") == {os.getpid()}
            assert default_workers() == Workers(3, 1, None)
        with dask.config.set(scheduler=second):
            assert saved_by(stack, folder / "configured.zarr") == {os.getpid()}
        with dask.config.set(scheduler="threads"):
            assert saved_by(stack, folder / "threads.zarr") == {os.getpid()}
            assert default_workers() == Workers(local_threads() or os.cpu_count())
        second.close()
    assert saved_by(stack, folder / "first.zarr") <= workers


def saved_by(stack: xr.DataArray, path: Path) -> set[int]:
    """Return the processes that computed a stack by ``save`` and, equally, by ``compute``."""
    lv.save(stack, path)
    processes = set(np.unique(lv.open(path)).astype(int).tolist())
    assert set(np.unique(stack.compute()).astype(int).tolist()) <= processes
    return processes


def test_functions_that_cannot_be_sent_are_an_error_of_lazyvol(client, folder):
    lock = threading.Lock()
    stack = lv.open(folder / "in.zarr", chunks=1)
    locked = stack.copy(data=stack.data.map_blocks(lambda b: (lock, b)[1], dtype="f4"))
    with pytest.raises(errors.ClusterError, match=r"by pickle, got cannot pickle.*lock"):
        lv.save(locked, folder / "out.zarr")
    with pytest.raises(errors.ClusterError, match=r"by pickle, got cannot pickle.*lock"):
        locked.compute()


def test_of_a_task_that_writes_several_regions_only_the_deadly_one_fails(
    client, deadly, folder, grouped
):
    _, trigger = deadly
    stack = lv.open(folder / "deadly.zarr", chunks=1)
    one = partial(ends_its_process, where=trigger)
    result = blockwise(one, stack, core=("z", "y", "x"), dtype="f4", title="ends")
    with (
        dask.config.set({on_cluster.DEATHS: 1}),
        pytest.raises(errors.IncompleteError, match=r"1 failures.*ran alone"),
    ):
        lv.save(result, folder / "out.zarr")
    assert len(shards_written(folder)) == SHAPE[0] - 1
    trigger.unlink()
    lv.save(result, folder / "out.zarr", resume=True)
    assert float(lv.open(folder / "out.zarr").sum()) == 16**3


def kill_after_a_shard(process: subprocess.Popen, folder: Path) -> None:
    while not shards_written(folder):
        time.sleep(0.01)
    process.kill()


def test_workers_that_a_local_cluster_gave_up_are_started_again(folder):
    """dask removes a nanny whose worker is away 15 s after an earlier death."""
    stack = lv.open(folder / "in.zarr", chunks=1) - 1
    with LocalCluster(n_workers=1, processes=False, **PORTS) as cluster, connect(cluster):
        (worker,) = cluster.workers.values()
        cluster.sync(worker.close)
        cluster.workers.clear()
        lv.save(stack, folder / "out.zarr")
    np.testing.assert_array_equal(lv.open(folder / "out.zarr"), A - 1)


def test_a_cluster_without_workers_ends_the_run(folder):
    stack = lv.open(folder / "in.zarr", chunks=1) + 1
    with (
        LocalCluster(n_workers=0, processes=False, **PORTS) as cluster,
        connect(cluster),
        dask.config.set({on_cluster.TIMEOUT: "10ms"}),
        pytest.raises(errors.ClusterError, match=r"must have workers that .* has had none"),
    ):
        lv.save(stack, folder / "out.zarr")
    lv.save(stack, folder / "out.zarr", resume=True)


def test_paused_workers_end_the_run(folder, monkeypatch):
    """dask sends no task to a worker near its memory limit, and says nothing."""
    monkeypatch.setattr(on_cluster, "STALLED", 0.0)
    stack = lv.open(folder / "in.zarr", chunks=1) + 1
    limit = {"memory_limit": "1200MiB", "n_workers": 1, "processes": False}
    with (
        dask.config.set({"distributed.worker.memory.pause": 0.01, on_cluster.TIMEOUT: "10ms"}),
        LocalCluster(**limit, **PORTS) as cluster,
        connect(cluster) as client,
    ):
        while client.scheduler_info(-1)["workers"].popitem()[1]["status"] != "paused":
            time.sleep(0.05)
        with pytest.raises(errors.ClusterError, match=r"has had none .* pauses near its memory"):
            lv.save(stack, folder / "out.zarr")


def test_settings_that_are_no_numbers_are_refused(client, folder):
    with dask.config.set({on_cluster.TIMEOUT: "soon"}), pytest.raises(errors.OptionError):
        lv.open(folder / "in.zarr", chunks=1).mean().compute()


def test_adaptive_clusters_and_retired_workers(folder):
    stack = lv.open(folder / "in.zarr", chunks=1) * 3
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False, **PORTS) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="50ms")
        with connect(cluster) as connected:
            lv.save(stack, folder / "out.zarr")
            np.testing.assert_array_equal(lv.open(folder / "out.zarr").compute(), A * 3)
            cluster.adapt(minimum=1, maximum=1)
            connected.wait_for_workers(1)
            connected.retire_workers(list(connected.scheduler_info()["workers"]))
            np.testing.assert_array_equal(stack.compute(), A * 3)


def test_another_version_is_refused_before_work_starts(monkeypatch):
    versions = {
        "client": {"packages": {"lazyvol": "1.0"}},
        "scheduler": {"packages": {"lazyvol": "1.0"}},
        "workers": {"tcp://10.0.0.1:1": {"packages": {"lazyvol": None}}},
    }
    monkeypatch.setattr(Client, "get_versions", lambda self, packages: versions)
    with (
        LocalCluster(n_workers=1, processes=False, **PORTS) as cluster,
        pytest.raises(errors.ClusterError, match=r"must have lazyvol 1\.0.*10\.0\.0\.1:1: None"),
    ):
        connect(cluster)


def test_only_tls_leaves_the_machine(tmp_path):
    for address in ("tcp://10.1.2.3:8786", "tcp://cluster.example:8786"):
        with pytest.raises(errors.OptionError, match=r"must be tls://.*insecure=True"):
            connect(address)
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://10.1.2.3:8786"}')
    with pytest.raises(errors.OptionError, match=r"must be tls://"):
        connect(file)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "10ms"}),
        pytest.raises(errors.ClusterError, match="no scheduler answers"),
    ):
        connect("tcp://127.0.0.2:9", insecure=True)

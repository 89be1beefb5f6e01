"""Clusters: their ports, options and errors, and progress bars."""

import io
import json

import dask.array as da
import numpy as np
import psutil
import pytest

import lazyvol as lv
from lazyvol.client import connect, progress_bar
from lazyvol.errors import ClusterError, LabelError, SourceNotFoundError
from lazyvol.screening.run import screen
from tests.plan.clusters import status_of


def listening() -> set[str]:
    """Return the addresses on which this process and its children listen."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return {c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"}


@pytest.fixture(scope="module")
def client():
    with connect(workers=1, threads=2, memory="1GiB") as connected:
        yield connected


def test_ports_listen_on_loopback_alone(client):
    assert listening() <= {"127.0.0.1", "::1"}
    assert "127.0.0.1" in listening()


def test_local_cluster_has_the_threads_and_memory_asked_for(client):
    (worker,) = client.scheduler_info()["workers"].values()
    assert worker["nthreads"] == 2
    assert worker["memory_limit"] == 2**30


def test_the_dashboard_answers_on_loopback_without_the_proxy(client):
    assert client.dashboard_link.startswith("http://127.0.0.1:")
    pages = ("/status", "/health", "/proxy/1/127.0.0.1/health")
    assert [status_of(client, page) for page in pages] == [200, 200, 404]


def test_workers_run_one_thread_a_task(client):
    import os

    result = client.run(lambda: {n: os.environ.get(n) for n in ("OMP_NUM_THREADS",
                                                               "NUMBA_NUM_THREADS")})  # fmt: skip
    assert [*result.values()] == [{"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}]


def test_lazy_results_are_computed_on_the_client(client):
    values = np.random.default_rng(0).normal(size=(8, 3, 5, 7))
    stack = lv.as_stack(da.from_array(values, chunks=(2, 3, 5, 7)))
    stream = io.StringIO()
    with progress_bar("average", stream=stream):
        average = lv.stats.mean(stack).compute()
    np.testing.assert_allclose(average, values.mean(0))
    assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.task_prefixes)) > 0
    assert stream.getvalue().rstrip().endswith("in all")
    assert "100%" in stream.getvalue()


def test_screening_on_a_cluster_equals_screening_on_threads(client, tmp_path):
    values = np.random.default_rng(0).normal(size=(12, 5, 7, 11)).astype(np.float32)
    on_cluster = screen(lv.as_stack(da.from_array(values, chunks=(3, 5, 7, 11))), tmp_path / "a")
    local = screen(lv.as_stack(values), tmp_path / "b")
    np.testing.assert_array_equal(on_cluster.average, local.average)
    np.testing.assert_allclose(on_cluster.scores.ncc, local.scores.ncc, rtol=1e-6)
    assert on_cluster.flagged == local.flagged
    assert on_cluster.run.on_cluster
    assert "of the client, without workers" in (tmp_path / "a" / "report.html").read_text("utf-8")


def test_another_client_joins_by_address_and_by_scheduler_file(client, tmp_path):
    with connect(client.scheduler.address) as joined:
        assert joined.submit(sum, [1, 2]).result() == 3
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"type": "Scheduler", "address": client.scheduler.address}))
    with connect(path) as joined:
        assert joined.submit(sum, [1, 2]).result() == 3


def test_without_a_dashboard_only_health_is_served():
    with connect(workers=1, threads=1, memory="512MiB", dashboard=False) as connected:
        assert listening() <= {"127.0.0.1", "::1"}
        pages = ("/status", "/info/main/workers.html", "/json/counts.json", "/health")
        assert [status_of(connected, page) for page in pages] == [404, 404, 404, 200]


@pytest.mark.parametrize(
    ("address", "options", "error", "message"),
    [
        ("http://127.0.0.1:1", {}, LabelError, "tcp://host:port"),
        ("nowhere.json", {}, SourceNotFoundError, "no scheduler file at 'nowhere.json'"),
        ("tcp://127.0.0.1:1", {"workers": 2}, LabelError, "must be left out with an address"),
        (None, {"workers": "a"}, LabelError, "workers must be a whole number"),
        (None, {"threads": 1.5}, LabelError, "threads must be a whole number"),
        (None, {"workers": 0}, LabelError, "workers must be a whole number"),
    ],
)
def test_refusals(address, options, error, message):
    with pytest.raises(error, match=message):
        connect(address, **options)


def test_unreachable_address_raises_cluster_error():
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ClusterError, match="no scheduler answers"),
    ):
        connect("tcp://127.0.0.1:1")


def test_progress_of_local_threads_reaches_the_end_or_says_where_it_stopped():
    stream = io.StringIO()
    with progress_bar("sum", stream=stream):
        da.ones((4, 4), chunks=1).sum().compute(scheduler="threads")
    assert stream.getvalue().count("\n") == 1
    assert "100%" in stream.getvalue()
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), progress_bar("sum", stream=stream):
        raise ZeroDivisionError
    assert "100%" not in stream.getvalue()


def test_no_progress_writes_nothing():
    stream = io.StringIO()
    with progress_bar("sum", shown=False, stream=stream):
        da.ones(3).sum().compute(scheduler="threads")
    assert stream.getvalue() == ""


def test_a_cluster_object_is_connected_to_and_stays():
    from distributed import LocalCluster

    ports = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **ports) as cluster:
        with connect(cluster) as connected:
            assert connected.scheduler.address == cluster.scheduler_address
            assert lv.stats.mean(lv.synthetic.noise((4, 3, 3, 3)), None).compute() < 1
        assert cluster.status.name == "running"


def test_what_is_no_address_is_refused():
    with pytest.raises(LabelError, match=r"a cluster object, got 2; for a local cluster pass work"):
        connect(2)

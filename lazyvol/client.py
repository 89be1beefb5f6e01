"""Clusters: a client that listens on this machine alone, or one that joins an existing cluster."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import dask
from dask.callbacks import Callback

from lazyvol.errors import BudgetError, ClusterError, LabelError, SourceNotFoundError
from lazyvol.plan.blas_threads import one_thread_each
from lazyvol.plan.budget import FILLED, PROCESS, SLACK, enough, parse_bytes, show_bytes

if TYPE_CHECKING:
    from distributed import Client

LOOPBACK = "127.0.0.1"
SCHEMES = ("tcp://", "tls://")

#: pages of the scheduler: without the proxy, which would forward requests to any worker's port
ROUTES = [
    "distributed.http.scheduler.prometheus",
    "distributed.http.scheduler.info",
    "distributed.http.scheduler.json",
    "distributed.http.health",
    "distributed.http.statics",
]
#: without a dashboard the scheduler still listens, and only tells that it lives
HEALTH = ["distributed.http.health"]

#: shares of a process's limit at which it spills, pauses and is restarted. Plans stay below them;
#: dask's own 60 % would write states to disk that fit
MEMORY = {"target": False, "spill": 0.9, "pause": 0.93, "terminate": 0.95}

#: a task is one thread: libraries that start their own would have more threads than cores
THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), 1
)


def connect(
    address: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: int | float | str | None = None,
    dashboard: bool = True,
) -> "Client":
    """A ``distributed.Client``, which everything lazy computes on from then on.

    Without an address it starts a cluster on this machine. All its ports, the dashboard's too,
    listen on 127.0.0.1 alone: a scheduler's port runs any code it is sent, and the dashboard asks
    for no password. ``client.dashboard_link`` is the dashboard's address; closing the client
    stops the cluster.

    Parameters
    ----------
    address
        ``tcp://host:port`` or ``tls://host:port`` of a scheduler, or the path of its scheduler
        file. For ``tls://`` the certificates are those of dask's configuration.
    workers
        Processes to start, 1 by default: kernels release the lock of the interpreter, so threads
        share memory at no cost.
    threads
        Tasks that each process runs at once; by default all cores shared out.
    memory
        Bytes, or text like ``"4GiB"``, for all processes together, this one not counted. What is
        built from then on is cut to fit it (``explain`` tells), so that nothing spills to disk
        or is killed: a process that reaches 95 % of its share is restarted.
    dashboard
        Whether the local cluster serves its dashboard.

    Raises
    ------
    LabelError
        If the address is of no known kind, or comes with options of a local cluster.
    BudgetError
        If a process's share of the memory holds no more than the process itself.
    SourceNotFoundError
        If there is no such scheduler file.
    ClusterError
        If no scheduler answers.

    Examples
    --------
    >>> import lazyvol as lv
    >>> with lv.connect(workers=1, threads=2, memory="1GiB") as client:  # doctest: +SKIP
    ...     lv.stats.var(stack).compute()
    """
    if address is None:
        return _local(workers or 1, threads, memory, dashboard)
    if workers or threads or memory:
        raise LabelError(
            f"workers, threads and memory are of a local cluster; the one at {address} has its "
            f"own: leave them out"
        )
    return _joined(os.fspath(address))


def _local(
    workers: int, threads: int | None, memory: int | float | str | None, dashboard: bool
) -> "Client":
    from distributed import Client

    limit = "auto" if memory is None else _share(parse_bytes(memory), workers)
    each = threads or max(1, (os.cpu_count() or 1) // workers)
    settings = {
        **{f"distributed.worker.memory.{name}": share for name, share in MEMORY.items()},
        "distributed.scheduler.http.routes": list(ROUTES if dashboard else HEALTH),
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ", {}), **THREADS,
        },
    }  # fmt: skip
    with dask.config.set(settings):
        return Client(
            n_workers=workers, threads_per_worker=each, memory_limit=limit, host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0", scheduler_kwargs={"dashboard": dashboard},
        )  # fmt: skip


def _share(memory: int, workers: int) -> int:
    """Bytes of each process, refused where they leave it nothing to work with."""
    share = memory // workers
    least = ceil((PROCESS + SLACK) / FILLED)
    if share <= least:
        raise BudgetError(
            f"a process takes {enough(least)} before it has work, got {memory=} for {workers=}, "
            f"that is {show_bytes(share)} each; give more memory or fewer workers"
        )
    return share


def _joined(address: str) -> "Client":
    from distributed import Client

    named = address.startswith(SCHEMES)
    if not named and "://" in address:
        raise LabelError(
            f"a scheduler is at tcp://host:port, tls://host:port or in a scheduler file, "
            f"got {address!r}"
        )
    if not named and not Path(address).is_file():
        raise SourceNotFoundError(
            f"no scheduler file at {address!r}; give tcp://host:port, or the file that "
            f"dask scheduler --scheduler-file wrote"
        )
    try:
        return Client(address) if named else Client(scheduler_file=address)
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"no scheduler answers at {address!r} ({str(error).splitlines()[0]}); check the "
            f"address, and for tls:// the certificates in dask's configuration"
        ) from error


@contextmanager
def tasks_at_once(workers: int | None) -> Iterator[None]:
    """Context in which dask's local scheduler runs that many tasks at once, of a thread each.

    None: as many as there are cores.
    """
    with dask.config.set({} if workers is None else {"num_workers": workers}), one_thread_each():
        yield


@contextmanager
def progress_bar(label: str, *, shown: bool = True, stream: TextIO | None = None) -> Iterator[None]:
    """Shows on ``stream`` (standard error) how far what is computed inside has got."""
    if not shown:
        yield
        return
    bar = _Bar(label, stream or sys.stderr)
    client = current_client()
    watch: Any = _LocalTasks(bar) if client is None else _cluster_tasks(client, bar)
    try:
        with watch:
            yield
    except BaseException:
        bar.stop(complete=False)
        raise
    bar.stop(complete=True)


class _Bar:
    """One line of text: label, bar, share, seconds."""

    WIDTH = 28
    #: seconds between two drawings
    PAUSE = 0.2

    def __init__(self, label: str, stream: TextIO) -> None:
        self._label, self._stream = label, stream
        self._start = self._drawn = time.monotonic()
        self._share = 0.0

    def show(self, done: int, total: int) -> None:
        """Draw the share that is done, not more often than the eye follows."""
        now = time.monotonic()
        self._share = max(self._share, done / total if total else 0.0)
        if now - self._drawn >= self.PAUSE:
            self._drawn = now
            self._draw()

    def stop(self, *, complete: bool) -> None:
        """Draw for the last time and end the line."""
        self._share = 1.0 if complete else self._share
        self._draw()
        self._stream.write("\n")
        self._stream.flush()

    def _draw(self) -> None:
        full = round(self._share * self.WIDTH)
        bar = "█" * full + "░" * (self.WIDTH - full)
        seconds = time.monotonic() - self._start
        self._stream.write(f"\r{self._label:<12} {bar} {self._share:>4.0%} {seconds:6.1f} s")
        self._stream.flush()


class _LocalTasks(Callback):  # type: ignore[misc]
    """Feeds a bar from dask's local scheduler."""

    def __init__(self, bar: _Bar) -> None:
        super().__init__(posttask=self._count)
        self._bar = bar

    def _count(self, key: Any, result: Any, graph: Any, state: Any, worker: Any) -> None:
        done = len(state["finished"])
        left = sum(len(state[name]) for name in ("ready", "waiting", "running"))
        self._bar.show(done, done + left)


@contextmanager
def _cluster_tasks(client: "Client", bar: _Bar) -> Iterator[None]:
    """Feeds a bar from a cluster's scheduler, asked twice a second."""
    stop = threading.Event()
    before = client.run_on_scheduler(_counts)[0]
    asking = threading.Thread(target=_ask, args=(client, bar, before, stop), daemon=True)
    asking.start()
    try:
        yield
    finally:
        stop.set()
        asking.join(timeout=5)


def _ask(client: "Client", bar: _Bar, before: int, stop: threading.Event) -> None:
    with suppress(OSError, TimeoutError, RuntimeError):
        while not stop.wait(0.5):
            done, left = client.run_on_scheduler(_counts)
            bar.show(done - before, done - before + left)


def _counts(dask_scheduler: Any) -> tuple[int, int]:
    """Tasks that have ever been done on a scheduler, and tasks that are left."""
    waiting = ("waiting", "queued", "processing", "no-worker")
    prefixes = list(dask_scheduler.task_prefixes.values())
    done = sum(p.state_counts["memory"] for p in prefixes)
    return done, sum(p.states[name] for p in prefixes for name in waiting)


def current_client() -> "Client | None":
    """The client that computes what is lazy, if there is one."""
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None

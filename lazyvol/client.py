"""Clusters: start one on this machine, or connect to an existing one; and progress bars."""

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

import dask
from dask.callbacks import Callback

from lazyvol.arguments import operation
from lazyvol.arguments.rules import show_value
from lazyvol.errors import (
    BudgetError,
    ClusterError,
    LabelError,
    LazyvolError,
    OptionError,
    SourceNotFoundError,
)
from lazyvol.plan.budget import (
    RUN_OVERHEAD,
    USABLE_FRACTION,
    WORKER_OVERHEAD,
    ceil_mib,
    count_of,
    parse_bytes,
    show_bytes,
)
from lazyvol.plan.execution import computing_client

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy import Cluster

LOOPBACK = "127.0.0.1"
SCHEMES = ("tcp://", "tls://")

#: pages of the scheduler; the proxy is left out, as it forwards requests to any port of workers
ROUTES = [
    "distributed.http.scheduler.prometheus",
    "distributed.http.scheduler.info",
    "distributed.http.scheduler.json",
    "distributed.http.health",
    "distributed.http.statics",
]
#: pages without a dashboard: the scheduler still answers health checks
HEALTH = ["distributed.http.health"]

#: shares of its memory limit at which a worker process spills, pauses and is restarted. Plans stay
#: below them; at dask's default of 60 % it would spill states that fit
MEMORY_LIMITS = {"target": False, "spill": 0.9, "pause": 0.93, "terminate": 0.95}
#: tasks that a worker is sent for each thread. One more, dask's default, would be blamed for the
#: death of a worker that was not running it
SATURATION = 1.0

#: dask's setting for how processes start
START_METHOD = "distributed.worker.multiprocessing-method"

#: each task is one thread: libraries that start their own would oversubscribe the cores
SINGLE_THREADED = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), 1
)


@operation(unchecked=("address", "workers", "threads", "memory"))
def connect(
    address: "str | os.PathLike[str] | Cluster | None" = None,
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: int | float | str | None = None,
    dashboard: bool = True,
    insecure: bool = False,
) -> "Client":
    """A ``distributed.Client`` on which all lazy results are computed from now on.

    Inside the ``with`` block of another client that client is used, as everywhere in dask; write
    ``with connect(…):`` there, or ``with client.as_current():``.

    Without an address a cluster is started on this machine. All its ports, including the
    dashboard's, listen on 127.0.0.1 alone, because a scheduler runs any code it is sent and the
    dashboard has no password. ``client.dashboard_link`` is the address of the dashboard; closing
    the client stops the cluster.

    A task whose worker dies is run again, on this client by ``compute`` and on any client by
    ``save``; one that ends five workers while it runs alone is given up. A run without workers ends
    after 5 minutes. dask's settings ``lazyvol.worker-deaths`` and ``lazyvol.worker-timeout`` change
    both numbers.

    Parameters
    ----------
    address
        ``tcp://host:port`` or ``tls://host:port`` of a scheduler, the path of its scheduler file,
        or a cluster object such as ``dask_jobqueue.SLURMCluster``, which is not closed with the
        client and keeps its own security. The certificates for ``tls://`` are those of dask's
        configuration.
    workers
        Number of processes to start, by default 1: kernels release the interpreter lock, so that
        threads of one process run in parallel and share memory.
    threads
        Number of tasks that each process runs at once; by default the cores divided by
        ``workers``.
    memory
        Memory of all worker processes together, in bytes or as text like ``"4GiB"``. Operations
        defined from now on are divided to fit it (see ``explain``), so that no worker spills to
        disk or is restarted, as happens at 90 and 95 % of its share.
    dashboard
        If True, the local cluster serves its dashboard.
    insecure
        If True, accept a scheduler on another machine by ``tcp://``, although everyone on the
        network can read the data and run code on its workers.

    Returns
    -------
    distributed.Client
        Connected, and set as dask's default.

    Raises
    ------
    LabelError
        If the address is of no known kind, or is combined with options of a local cluster.
    OptionError
        If the scheduler is on another machine, without TLS and ``insecure``.
    BudgetError
        If the share of a process is no larger than the process itself.
    SourceNotFoundError
        If the scheduler file does not exist.
    ClusterError
        If no scheduler answers, or its workers have another version of lazyvol.

    References
    ----------
    ``distributed.Client``, ``distributed.LocalCluster``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> with lv.connect(workers=1, threads=2, memory="1GiB") as client:  # doctest: +SKIP
    ...     lv.stats.var(stack).compute()
    """
    if address is None:
        workers, threads = count_of("workers", workers), count_of("threads", threads)
        return _local_client(workers or 1, threads, memory, dashboard)
    local = {"workers": workers, "threads": threads, "memory": memory}
    given = [name for name, value in local.items() if value is not None]
    if given:
        raise LabelError(
            f"connect: {' and '.join(given)} must be left out with an address, got "
            f"{', '.join(show_value(local[name]) for name in given)} for {show_value(address)}; "
            f"set them where that cluster is started"
        )
    if hasattr(address, "scheduler_address"):  # it also brings the certificates
        return _checked_client(f"cluster must run, got {address!r}", "start it", address)
    if not isinstance(address, str | os.PathLike):
        raise LabelError(
            f"connect: address must be tcp://host:port, tls://host:port, a scheduler file or a "
            f"cluster object, got {address!r}; for a local cluster pass workers="
        )
    return _remote_client(os.fspath(address), insecure)


def _local_client(
    workers: int, threads: int | None, memory: int | float | str | None, dashboard: bool
) -> "Client":
    from lazyvol.plan.on_cluster import ResilientClient

    limit = "auto" if memory is None else _memory_share(parse_bytes(memory), workers)
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    settings = {
        **{f"distributed.worker.memory.{name}": share for name, share in MEMORY_LIMITS.items()},
        "distributed.scheduler.worker-saturation": SATURATION,
        "distributed.scheduler.http.routes": list(ROUTES if dashboard else HEALTH),
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ", {}), **SINGLE_THREADED,
        },
    }  # fmt: skip
    _fork_workers()
    with dask.config.set(settings):
        return ResilientClient(
            n_workers=workers, threads_per_worker=threads, memory_limit=limit, host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0", scheduler_kwargs={"dashboard": dashboard},
        )  # fmt: skip


def _fork_workers() -> None:
    """Let worker processes be forked from one that has imported the libraries, where possible.

    A worker that died is back in a fifth of the time: it need not import them again.
    """
    own = dask.config.get(START_METHOD, "spawn")
    if own != "spawn" or "forkserver" not in multiprocessing.get_all_start_methods():
        return
    from distributed.utils import get_mp_context

    dask.config.set({START_METHOD: "forkserver"})
    get_mp_context().set_forkserver_preload(["distributed", "lazyvol.forked"])


def _memory_share(memory: int, workers: int) -> int:
    """Return the bytes of each process; raise BudgetError if the process itself needs them all."""
    share = memory // workers
    least = ceil((WORKER_OVERHEAD + RUN_OVERHEAD) / USABLE_FRACTION)
    if share <= least:
        raise BudgetError(
            "connect: memory must be more than "
            f"{ceil_mib(least)} for each worker, got {memory=} for "
            f"{workers=}, that is {show_bytes(share)} each; give more memory or fewer workers"
        )
    return share


def _checked_client(rule: str, remedy: str, *arguments: Any, **options: Any) -> "Client":
    """Return a client of a cluster whose processes have the lazyvol of this one.

    ``rule`` and ``remedy`` are those of the ClusterError if the cluster cannot be reached.
    """
    from lazyvol.plan.on_cluster import ResilientClient, require_same_version

    try:
        client = ResilientClient(*arguments, **options)
        try:
            require_same_version(client)
        except ClusterError:
            client.close()
            raise
    except LazyvolError:
        raise
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ClusterError(f"connect: {rule} ({reason}); {remedy}") from error
    return client


def _remote_client(address: str, insecure: bool) -> "Client":
    is_url = address.startswith(SCHEMES)
    if not is_url and "://" in address:
        raise LabelError(
            f"connect: address must be tcp://host:port, tls://host:port or a scheduler file, got "
            f"{address!r}; change its scheme"
        )
    url = address if is_url else _address_in(address)
    if not insecure and not url.startswith("tls://") and not _is_this_machine(url):
        raise OptionError(
            f"connect: address of another machine must be tls://host:port, got {url!r}, where "
            "everyone on the network can read the data and run code; start the scheduler with "
            "certificates, or pass insecure=True in a network that you trust"
        )
    return _checked_client(
        f"no scheduler answers at {address!r}",
        "check the address, and for tls:// the certificates in dask's configuration",
        **({"address": address} if is_url else {"scheduler_file": address}),
    )


def _address_in(file: str) -> str:
    """Return the address in a scheduler file; none if it has none."""
    try:
        content = json.loads(Path(file).read_bytes())
    except FileNotFoundError as error:
        raise SourceNotFoundError(
            f"connect: no scheduler file at {file!r}; give tcp://host:port, or the file that "
            f"dask scheduler --scheduler-file wrote"
        ) from error
    except (OSError, ValueError):
        return ""
    return str(content.get("address", "")) if isinstance(content, dict) else ""


def _is_this_machine(url: str) -> bool:
    """Return True if an address can be reached from this machine alone."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def progress_bar(
    label: str, *, nbytes: int = 0, shown: bool = True, stream: TextIO | None = None
) -> Iterator[None]:
    """Context that shows the progress of computations on ``stream``, by default standard error.

    The line shows the rate of reading if ``nbytes``, the bytes that are read in all, are known.
    """
    if not shown:
        yield
        return
    bar = _Bar(label, nbytes, stream or sys.stderr)
    client = computing_client()
    watcher: Any = _LocalTasks(bar) if client is None else _cluster_tasks(client, bar)
    try:
        with watcher:
            yield
    except BaseException:
        bar.stop(complete=False)
        raise
    bar.stop(complete=True)


class _Bar:
    """A progress line: label, bar, share, rate of reading, and the time that is left."""

    def __init__(self, label: str, nbytes: int, stream: TextIO) -> None:
        from rich import progress  # it takes 0.1 s, which a command without progress saves
        from rich.console import Console

        self._nbytes, self._share, self._start = nbytes, 0.0, time.monotonic()
        self._line = progress.Progress(
            progress.TextColumn("{task.description:<12}"), progress.BarColumn(28),
            progress.TaskProgressColumn(), progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
            progress.TextColumn("{task.fields[time]}"), redirect_stdout=False,
            redirect_stderr=False, refresh_per_second=4,
            console=Console(file=stream, force_jupyter=False),
        )  # fmt: skip
        self._task = self._line.add_task(label, total=1.0, rate="", time="left")
        self._line.start()

    def show(self, done: int, total: int) -> None:
        """Update the share of finished tasks."""
        from rich.filesize import decimal

        self._share = max(self._share, done / total if total else 0.0)
        seconds = time.monotonic() - self._start
        read = self._share * self._nbytes
        rate = f"{decimal(round(read / seconds))}/s" if read and seconds else ""
        self._line.update(self._task, completed=self._share, rate=rate)

    def stop(self, *, complete: bool) -> None:
        """Draw for the last time and end the line."""
        self.show(int(complete), 1)
        self._line.update(self._task, time="in all" if complete else "")
        self._line.stop()


class _LocalTasks(Callback):  # type: ignore[misc]
    """Updates a bar from dask's local scheduler."""

    def __init__(self, bar: _Bar) -> None:
        super().__init__(posttask=self._count)
        self._bar = bar

    def _count(self, key: Any, result: Any, graph: Any, state: Any, worker: Any) -> None:
        done = len(state["finished"])
        pending = sum(len(state[name]) for name in ("ready", "waiting", "running"))
        self._bar.show(done, done + pending)


@contextmanager
def _cluster_tasks(client: "Client", bar: _Bar) -> Iterator[None]:
    """Context that updates a bar from the scheduler of a cluster, twice a second."""
    stop = threading.Event()
    earlier = client.run_on_scheduler(_task_counts)[0]
    poller = threading.Thread(target=_poll, args=(client, bar, earlier, stop), daemon=True)
    poller.start()
    try:
        yield
    finally:
        stop.set()
        poller.join(timeout=5)


def _poll(client: "Client", bar: _Bar, earlier: int, stop: threading.Event) -> None:
    with suppress(OSError, TimeoutError, RuntimeError):
        while not stop.wait(0.5):
            done, pending = client.run_on_scheduler(_task_counts)
            bar.show(done - earlier, done - earlier + pending)


def _task_counts(dask_scheduler: Any) -> tuple[int, int]:
    """Return the numbers of tasks that a scheduler has finished since its start, and of pending."""
    waiting = ("waiting", "queued", "processing", "no-worker")
    prefixes = list(dask_scheduler.task_prefixes.values())
    done = sum(p.state_counts["memory"] for p in prefixes)
    return done, sum(p.states[name] for p in prefixes for name in waiting)

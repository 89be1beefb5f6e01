"""Graphs on a cluster: tasks whose worker died are tried again, and all errors are lazyvol's.

The scheduler runs a task again whose worker died, and gives it up after some deaths
(``distributed.scheduler.allowed-failures``), although another task, or a reboot, may have caused
them. Tasks that are given up are run here again, each while no other runs. One whose workers still
die is the cause: it fails alone, and the tasks that depend on it.

Settings, in dask's configuration or in the environment (``DASK_LAZYVOL__WORKER_DEATHS``):

``lazyvol.worker-deaths``
    Workers that may die while a task runs alone, and keeps no further state, before it is given
    up; 5 by default.
``lazyvol.worker-timeout``
    Time without any worker after which a run ends, as text; ``"300s"`` by default. Raise it where
    a queue starts the workers.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from pickle import PicklingError
from typing import Any, TypeAlias, cast
from weakref import WeakSet

import dask
from dask.core import flatten
from dask.utils import parse_timedelta
from distributed import Client, Future, LocalCluster, as_completed
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker, NoValidWorkerError
from distributed.utils import thread_state

from lazyvol.errors import ClusterError, LazyvolError, OptionError
from lazyvol.plan.checkpointed_graphs import progress_of

DEATHS, MOST_DEATHS = "lazyvol.worker-deaths", 5
TIMEOUT, WORKER_TIMEOUT = "lazyvol.worker-timeout", "300s"
#: seconds between two checks that scheduler and workers respond, and until a check fails
CHECK_INTERVAL, ANSWER = 2.0, 30.0
#: seconds without a finished task after which the states of workers are asked for
STALLED = 10.0
#: the package whose version must be equal everywhere
PACKAGE = "lazyvol"

Key = Any
#: a function of the number of finished keys and that of all keys
Progress: TypeAlias = Callable[[int, int], None]
#: clients whose workers have been asked for their version
_checked: WeakSet[Client] = WeakSet()


class ResilientClient(Client):  # type: ignore[misc]
    """A client whose ``compute`` survives the death of workers, and raises errors of lazyvol."""

    def get(self, dsk: Any, keys: Any, *, sync: bool = True, **options: Any) -> Any:
        """Return the values of keys of a graph, or their futures; dask calls it to compute."""
        if not sync or self.asynchronous or in_task():
            return super().get(dsk, keys, sync=sync, **options)
        return compute(self, dsk, keys)


def in_task() -> bool:
    """Return True in a task on a cluster, which must not block the thread that other tasks need."""
    return bool(getattr(thread_state, "key", False))


def compute(client: Client, graph: Any, keys: Any, *, on_progress: Progress | None = None) -> Any:
    """Return the values of (nested lists of) keys, as dask's schedulers do.

    ``on_progress`` is called every 50 ms with the number of finished keys and that of all keys; an
    exception that it raises ends the run.
    """
    values: dict[Key, Any] = {}
    failed: Exception | None = None
    with cluster_errors(client), closing(_Run(client, graph, on_progress)) as run:
        for futures in run.batches(list(dict.fromkeys(flatten([keys])))):
            failed = next((e for f in futures if (e := run.error(f)) is not None), None)
            if failed is not None:
                break
            values |= run.gathered(futures)
    if failed is not None:
        raise failed
    return _packed(keys, values)


def _packed(keys: Any, values: Mapping[Key, Any]) -> Any:
    return [_packed(k, values) for k in keys] if isinstance(keys, list) else values[keys]


def each_error(
    client: Client, graph: Mapping[Key, Any], keys: Sequence[Key]
) -> Iterator[tuple[Key, Exception | None]]:
    """Run tasks whose results nobody needs; yield each when it is done, and its error."""
    with cluster_errors(client), closing(_Run(client, graph)) as run:
        for futures in run.batches(keys):
            for future in futures:
                yield future.key, run.error(future)
                future.release()  # a worker that dies later loses no result of this run


class _Run:
    """The keys of a graph on a cluster, until all are done or given up."""

    def __init__(self, client: Client, graph: Any, on_progress: Progress | None = None) -> None:
        require_same_version(client)
        self.client, self.graph, self.on_progress = client, graph, on_progress
        self.given_up: dict[Key, ClusterError] = {}
        self.again: list[Key] = []
        #: tasks that were given up by the scheduler, and the last worker that died
        self.blamed: dict[Key, str] = {}
        self.futures: list[Future] = []
        #: tasks that ran alone: their values stay until the end
        self.alone: list[Future] = []
        self.seen = self.asked = self.done = time.monotonic()
        self.most_deaths, self.timeout = _settings()

    def batches(self, keys: Sequence[Key]) -> Iterator[list[Future]]:
        """Yield futures that are done; those of tasks that died come after they ran again."""
        while keys:
            yield from self._done(keys)
            self._release()
            for task in self.blamed:
                self._run_alone(task)
            keys, self.again, self.blamed = self.again, [], {}

    def close(self) -> None:
        """Release all futures: tasks that nobody else wants are stopped."""
        self._release()
        for future in self.alone:
            future.release()

    def error(self, future: Future) -> Exception | None:
        """Return the error of a future that is done; raise ClusterError if the run is lost."""
        self._wait(future)
        if future.status == "finished":
            return None
        if future.status != "error":
            raise _lost_error(self.client, future.status)
        error = cast(Exception, future.exception())
        return self.given_up.get(error.task, error) if isinstance(error, KilledWorker) else error

    def gathered(self, futures: Sequence[Future]) -> dict[Key, Any]:
        """Return the values of futures by key; those that were lost meanwhile are run again."""
        try:
            values = self.client.gather(list(futures))
        except KilledWorker as error:
            self.blamed[error.task] = _last_worker(error)
            self.again += [f.key for f in futures]
            return {}
        return dict(zip((f.key for f in futures), values, strict=True))

    def _release(self) -> None:
        for future in self.futures:
            future.release()
        self.futures = []

    def _submit(self, keys: Sequence[Key]) -> list[Future]:
        """Return new futures of keys, after the client has forgotten the released ones.

        Otherwise they would start with the errors of the released ones.
        """
        end = time.monotonic() + CHECK_INTERVAL
        while any(k in self.client.futures for k in keys) and time.monotonic() < end:
            time.sleep(0.001)
        try:
            futures: list[Future] = self.client.get(self.graph, list(keys), sync=False)
        except (TypeError, PicklingError) as error:
            raise ClusterError(
                f"functions and data of tasks must be sent by pickle, got {_unpicklable(error)}; "
                "define functions in a module and open files inside them, or compute without a "
                'cluster by dask.config.set(scheduler="threads")'
            ) from error
        return futures

    def _done(self, keys: Sequence[Key]) -> Iterator[list[Future]]:
        """Yield batches of futures that are done, without those of tasks that died."""
        self.futures = self._submit(keys)
        done = as_completed(self.futures, loop=self.client.loop, raise_errors=False)
        while not done.is_empty():
            if not done.has_ready():
                self._pause(done)
                continue
            batch = []
            for future in done.next_batch(block=False):
                if (error := self._killed(future)) is None:
                    batch.append(future)
                else:
                    self.blamed[error.task] = _last_worker(error)
                    self.again.append(future.key)
            if batch:
                self.done = time.monotonic()
                yield batch

    def _killed(self, future: Future) -> KilledWorker | None:
        """Return the error of a task blamed for dead workers, unless it was given up already."""
        error = future.exception() if future.status == "error" else None
        if not isinstance(error, KilledWorker) or error.task in self.given_up:
            return None
        return error

    def _pause(self, done: as_completed) -> None:
        with done.thread_condition:
            done.thread_condition.wait(timeout=0.05)
        self._check_alive()

    def _wait(self, future: Future) -> None:
        """Wait until a task is done; it runs again if the worker that held its result has died."""
        while future.status in ("pending", "lost"):
            time.sleep(0.01)
            self._check_alive()

    def _check_alive(self) -> None:
        """Raise ClusterError if the scheduler is lost, or all workers are for a long time."""
        if self.on_progress is not None:
            self.on_progress(sum(f.status == "finished" for f in self.futures), len(self.futures))
        now = time.monotonic()
        if now - self.asked < CHECK_INTERVAL:
            return
        if self.client.status == "closed":
            raise _lost_error(self.client, "client closed")
        self.asked = now
        _replace_lost_workers(self.client.cluster)
        # the states of 1,000 workers are 1 MB: only if none has done anything for a while
        if self._identity(0)["n_workers"] and (now - self.done < STALLED or self._has_running()):
            self.seen = now
        if now - self.seen > self.timeout:
            raise ClusterError(
                f"a cluster must have workers that run tasks, {_address(self.client)} has had none "
                f"for {self.timeout:.0f} s (a worker pauses near its memory limit); start workers, "
                "or give them more memory, and run again (a save continues by resume=True), or "
                f"raise {TIMEOUT}"
            )

    def _has_running(self) -> bool:
        """Return True unless all workers are paused, as dask does near their memory limit."""
        workers = self._identity(-1)["workers"].values()
        return any(worker["status"] != "paused" for worker in workers)

    def _identity(self, n_workers: int) -> Any:
        """Return the scheduler's description of itself and ``n_workers`` workers (-1: all)."""
        identity = self.client.scheduler.identity
        try:
            return self.client.sync(identity, n_workers=n_workers, callback_timeout=ANSWER)
        except OSError as error:
            raise _lost_error(self.client, str(error)) from error

    def _run_alone(self, task: Key) -> None:
        """Run a task while no other runs, and hold its value.

        It is given up if workers die while it keeps no further state.
        """
        deaths, progress, last = 0, progress_of(self.graph, task), self.blamed.get(task)
        submitted = time.monotonic()
        while task not in self.given_up:
            (future,) = self._submit([task])
            self._wait(future)
            error = future.exception() if future.status == "error" else None
            if not isinstance(error, KilledWorker):
                self.alone.append(future)
                return
            future.release()
            if _last_worker(error) == last and time.monotonic() < submitted + CHECK_INTERVAL:
                time.sleep(0.05)  # an error of the last try, which the scheduler still had
                continue
            last, submitted = _last_worker(error), time.monotonic()
            if error.task != task and error.task not in self.given_up:
                self._run_alone(error.task)  # a task that this one depends on
                continue
            before, progress = progress, progress_of(self.graph, task)
            deaths = deaths + error.allowed_failures + 1 if progress == before else 0
            if error.task != task or deaths >= self.most_deaths:
                self.given_up[task] = _killer(error.task, deaths)


def _last_worker(error: KilledWorker) -> str:
    """Return the process that died last; its successor at that address has another name."""
    return str(error.last_worker.server_id)


def _replace_lost_workers(cluster: Any) -> None:
    """Restart the workers that a cluster on this machine has given up.

    Nannies restart workers, but dask removes a nanny whose worker is restarting 15 s after an
    earlier death: of two workers that die once a second, none is left after a minute.
    """
    if isinstance(cluster, LocalCluster) and len(cluster.workers) < len(cluster.worker_spec):
        cluster.scale(len(cluster.worker_spec))


def _settings() -> tuple[int, float]:
    """Return the deaths of a task and the seconds without workers after which a run gives up."""
    deaths, timeout = dask.config.get(DEATHS, MOST_DEATHS), dask.config.get(TIMEOUT, WORKER_TIMEOUT)
    try:
        return int(deaths), float(parse_timedelta(timeout))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise OptionError(
            f"{DEATHS} must be a number and {TIMEOUT} a time such as '300s', got {deaths!r} and "
            f"{timeout!r}; correct dask's configuration"
        ) from error


def _killer(task: Key, deaths: int) -> ClusterError:
    name = task if isinstance(task, str) else "-".join(map(str, task))
    return ClusterError(
        f"a task must not end its worker, {deaths} workers died while {name} ran alone; see their "
        f"logs (out of memory, or a crash in a library), give them more memory, or divide the work "
        f"by a smaller memory=; {DEATHS} is the number of deaths"
    )


@contextmanager
def cluster_errors(client: Client) -> Iterator[None]:
    """Turn errors of a cluster inside the context into ClusterError."""
    try:
        yield
    except LazyvolError:
        raise
    except (CancelledError, ClosedClientError, OSError) as error:
        raise _lost_error(client, str(error) or type(error).__name__) from error
    except (KilledWorker, NoValidWorkerError) as error:
        raise ClusterError(
            f"{_address(client)}: workers must stay alive while they run a task, got {error}; see "
            "their logs, and run again"
        ) from error


def _lost_error(client: Client, reason: str) -> ClusterError:
    return ClusterError(
        f"a scheduler must answer until its tasks are done, {_address(client)} was lost "
        f"({reason.splitlines()[0]:.200}); start it again, connect, and run again (a save "
        "continues by resume=True)"
    )


def _unpicklable(error: BaseException) -> str:
    """Return the line of a chain of errors that names the object without a pickle."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    lines = [str(e).partition("\n")[0] for e in chain]
    return next((line for line in lines if "pickle" in line), lines[0])[:200]


def _address(client: Client) -> str:
    return str(getattr(client.scheduler, "address", "the scheduler"))


def require_same_version(client: Client) -> None:
    """Raise ClusterError if the scheduler, or a worker, has no or another version of lazyvol."""
    if client in _checked:
        return
    versions = client.get_versions(packages=[PACKAGE])
    own = _version(versions["client"])
    others = {"the scheduler": versions["scheduler"], **versions["workers"]}
    wrong = [f"{place}: {_version(o)}" for place, o in others.items() if _version(o) != own]
    if wrong:
        raise ClusterError(
            f"scheduler and workers must have {PACKAGE} {own}, as this process, got "
            f"{', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''} (None: it is not installed); "
            "install the version of this process there"
        )
    if versions["workers"]:
        _checked.add(client)


def _version(process: Any) -> str | None:
    packages = process.get("packages", {}) if isinstance(process, Mapping) else {}
    version = packages.get(PACKAGE)
    return None if version is None else str(version)

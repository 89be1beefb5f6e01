"""Checkpoints: states of tasks on disk, from which a killed run continues.

A run that has a store of states keeps the result of a task there when the task ends, and the state
of a long one every ``INTERVAL`` seconds. A task that finds its result returns it; one that finds a
state continues behind the last tile of that state. Tiles are added in their order and states are
merged in theirs, so that the bits are those of a run that was never killed.

A state is kept when it costs at most ``SHARE`` of the time that it saves: the seconds of its task
since the last one was kept and, for a merged state, those of the states below that were not kept.
So a run takes 1 to 2 % longer, and repeats 100 times the time that one state takes to be written,
or ``INTERVAL``, whichever is longer, per worker. The states of a fold take at most one eighth of
the bytes that it reads: 512 MiB for each 4 GiB (see `lazyvol.plan.reductions.partition`).
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask._task_spec import Task
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from lazyvol.errors import StoreError
from lazyvol.plan.graph.layers import TaskLayer
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.retries import retried

#: seconds between two states of a task
INTERVAL = 10.0
#: fraction of the time of a run that its checkpoints may take
SHARE = 0.01
#: seconds to write a state, and per byte of it, until some were measured: a slow disk or a bucket.
#: On a fast disk the first states are kept later than they could be, on no disk too often
LATENCY, PER_BYTE = 1e-2, 1e-8
#: end of the name of the state of a task that has not finished
UNFINISHED = "-unfinished"

States = Mapping[str, Array]


class StateStore(Protocol):
    """A place for the states of tasks by name: small and picklable."""

    def names(self) -> Collection[str]:
        """Return the names of all states."""

    def read(self, name: str) -> dict[str, Array] | None:
        """Return a state; None if it is absent or damaged."""

    def write(self, name: str, state: States) -> None:
        """Write a state atomically, or raise StoreError."""

    def remove(self, name: str) -> None:
        """Remove a state, if it is there."""


class _WriteSpeed:
    """The time that states take to be written by this process, as a multiple of the expected."""

    def __init__(self) -> None:
        self.factor = 1.0

    def seconds(self, nbytes: int) -> float:
        """Return the expected time of a state."""
        return self.factor * (LATENCY + PER_BYTE * nbytes)

    def measured(self, nbytes: int, seconds: float) -> None:
        """Note the time of a state, which counts half of all earlier ones."""
        self.factor = (self.factor + seconds / (LATENCY + PER_BYTE * nbytes)) / 2


#: by kind of store
_SPEEDS: defaultdict[type, _WriteSpeed] = defaultdict(_WriteSpeed)


@dataclass(frozen=True)
class Checkpoints:
    """The store of a run's states, and how often they are kept; an argument of all its tasks."""

    store: StateStore
    interval: float = field(default_factory=lambda: INTERVAL)
    share: float = field(default_factory=lambda: SHARE)

    def read(self, name: str) -> dict[str, Array] | None:
        """Return a state; None if it is absent or damaged."""
        return retried(partial(self.store.read, name))

    def keep(self, name: str, state: States, unsaved: float) -> bool:
        """Write a state if that is worth its time; return False if it is not, or fails."""
        nbytes = sum(a.nbytes for a in state.values())
        speed = _SPEEDS[type(self.store)]
        if speed.seconds(nbytes) > self.share * unsaved:
            return False
        start = time.monotonic()
        with suppress(StoreError):  # a full disk stops the run when a shard is written
            self.store.write(name, state)
            speed.measured(nbytes, time.monotonic() - start)
            return True
        return False


class TaskLog:
    """The states of one task while it runs."""

    def __init__(self, checkpoints: Checkpoints | None, name: str, unsaved: float = 0.0) -> None:
        self._checkpoints, self._name = checkpoints, name
        self._since = time.monotonic() - unsaved
        kept = None if checkpoints is None else checkpoints.read(name + UNFINISHED)
        self._kept = kept or {}
        position = self._kept.pop("position", np.zeros(2, np.int64))
        #: the column that the kept state belongs to, and the tiles of it that are done
        self.column, self.tiles = map(int, position)

    def kept(self, kind: str) -> dict[str, Array]:
        """Return the kept arrays of a kind by name, once: the task overwrites them."""
        names = [name for name in self._kept if name.startswith(f"{kind} ")]
        return {name.partition(" ")[2]: self._kept.pop(name) for name in names}

    def offer(self, column: int, tiles: int, **arrays: States) -> None:
        """Keep arrays by kind, if the last ones are old enough."""
        unsaved = time.monotonic() - self._since
        if self._checkpoints is None or unsaved < self._checkpoints.interval:
            return
        state = {f"{kind} {n}": a for kind, group in arrays.items() for n, a in group.items()}
        state["position"] = np.array([column, tiles])
        if self._checkpoints.keep(self._name + UNFINISHED, state, unsaved):
            self._since = time.monotonic()

    def finish(self, checkpoints: Checkpoints, result: Any) -> Any:
        """Keep the result of the task, or return it with the time that it would save."""
        state = result if isinstance(result, dict) else {"": result}
        if not all(isinstance(a, np.ndarray) and not a.dtype.hasobject for a in state.values()):
            return result
        unsaved = time.monotonic() - self._since
        if checkpoints.keep(self._name, state, unsaved):
            checkpoints.store.remove(self._name + UNFINISHED)
            return result
        return _Unsaved(state, unsaved) if state is result else result


class _Unsaved(dict[str, Array]):
    """A state that was not kept, with the seconds of work that it would save."""

    def __init__(self, state: States, seconds: float) -> None:
        super().__init__(state)
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return _Unsaved, (dict(self), self.seconds)


_LOG: ContextVar[TaskLog | None] = ContextVar("lazyvol task log", default=None)


def task_log() -> TaskLog:
    """Return the log of the running task, once; without one it keeps nothing."""
    log = _LOG.get()
    _LOG.set(None)
    return log or TaskLog(None, "")


def run_checkpointed(checkpoints: Checkpoints, name: str, function: Any, *arguments: Any) -> Any:
    """Return ``function(*arguments)``, or the result that the run or an earlier one kept."""
    kept = checkpoints.read(name)
    if kept is not None:
        return kept.get("", kept)
    log = TaskLog(checkpoints, name, sum(_unsaved_seconds(arguments)))
    token = _LOG.set(log)
    try:
        result = function(*arguments)
    finally:
        _LOG.reset(token)
    return log.finish(checkpoints, result)


def _unsaved_seconds(arguments: Sequence[Any]) -> Iterable[float]:
    """Yield the seconds of work in the states that a merge takes."""
    for states in arguments:
        if isinstance(states, list):
            yield from (state.seconds for state in states if isinstance(state, _Unsaved))


def _kept_result(checkpoints: Checkpoints, name: str) -> Any:
    """Return the kept result of a task whose inputs are not computed."""
    kept = checkpoints.read(name)
    if kept is None:
        raise StoreError(
            "save: the kept state of a reduction was damaged, and has been removed; run it again "
            "with resume=True"
        )
    return kept.get("", kept)


# graphs -------------------------------------------------------------------------------------------


def with_checkpoints(
    arrays: Mapping[str, da.Array], store: StateStore | None
) -> dict[str, da.Array]:
    """Return results of several stages whose tasks keep their states in a store.

    Tasks whose result is kept have no inputs, so that nothing below them is computed again.
    """
    if store is None or not arrays:
        return dict(arrays)
    checkpoints, kept = Checkpoints(store), set(store.names())
    graphs = {name: _checkpointed(a.dask, checkpoints, kept) for name, a in arrays.items()}
    return {
        name: da.Array(graphs[name], a.name, a.chunks, meta=np.empty((0,) * a.ndim, a.dtype))
        for name, a in arrays.items()
    }


@contextmanager
def keeping_states(store: StateStore | None) -> Iterator[None]:
    """Context in which results of several stages, when computed, keep their states in a store."""
    token = _STORE.set(store)
    try:
        yield
    finally:
        _STORE.reset(token)


#: store of the states of what this thread computes
_STORE: ContextVar[StateStore | None] = ContextVar("lazyvol states", default=None)


def with_states(graph: Any) -> Any:
    """Return a graph that is computed now, its tasks with the store of the context if it has one.

    Its layers are no longer those of lazy arrays.
    """
    store = _STORE.get()
    if store is None or not isinstance(graph, HighLevelGraph):
        return graph
    return _checkpointed(graph, Checkpoints(store), set(store.names()))


def _checkpointed(
    graph: HighLevelGraph, checkpoints: Checkpoints, kept: Collection[str]
) -> HighLevelGraph:
    layers = {
        name: MaterializedLayer(_tasks(layer, checkpoints, kept), annotations=layer.annotations)
        if isinstance(layer, TaskLayer)
        else layer
        for name, layer in graph.layers.items()
    }
    return HighLevelGraph(layers, graph.dependencies)


def _tasks(layer: TaskLayer, checkpoints: Checkpoints, kept: Collection[str]) -> dict[Any, Any]:
    tasks: dict[Any, Any] = {}
    for key, task in layer.items():
        name = tokenize(key)
        if name in kept:
            tasks[key] = Task(key, _kept_result, checkpoints, name)
        elif isinstance(task, Task) and not task.kwargs:
            tasks[key] = Task(key, run_checkpointed, checkpoints, name, task.func, *task.args)
        else:
            tasks[key] = task
    return tasks

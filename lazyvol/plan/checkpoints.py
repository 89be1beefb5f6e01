"""Checkpoints: states of tasks, and of steps of long kernels, from which a killed run continues.

A run that has a store of states keeps the result of a task there when the task ends, and the state
of a long one every ``INTERVAL`` seconds. A task that finds its result returns it; one that finds a
state continues after the last tile in that state. The order of tiles and of merges is fixed, so the
result is bitwise equal to that of a run that was never killed.

A state is written if that takes at most ``SHARE`` of the time that it saves: the seconds that its
task has run since the last state and, for a merged state, those of the states below it that were
not written. So a run takes 1 to 2 % longer, and each killed worker repeats at most ``INTERVAL``, or
100 times the time to write a state if that is longer.

A process that started after the run may replace one that died. It assumes a remaining lifetime
equal to its age, and writes states at Young's interval for that lifetime (Commun. ACM 17, 530
(1974)) if that is shorter. When a worker dies, dask repeats the tasks whose results it held, and
the tasks that these depend on: the latter find that a result above them is kept, and do nothing.

The states of a fold take at most one eighth of the bytes that it reads: 512 MiB for each 4 GiB (see
`lazyvol.plan.reductions.partition`).
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import Any, Protocol, TypeAlias
from uuid import uuid4
from zlib import crc32

import numpy as np

from lazyvol.errors import StoreError
from lazyvol.plan.failures import retried
from lazyvol.plan.recipes.base import Array

#: seconds between two states of a task
INTERVAL = 10.0
#: fraction of the time of a run that its checkpoints may take
SHARE = 0.01
#: expected seconds to write a state, and per byte, before any write is measured: those of a slow
#: disk or a bucket. On a fast disk the first states are therefore written later than necessary
LATENCY, PER_BYTE = 1e-2, 1e-8
#: seconds to repeat a task that finds its result, or does nothing
TASK_SECONDS = 5e-3
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
    """The measured time to write a state in this process, as a multiple of the expected time.

    It starts at a tenth where a write that comes too early costs little: that write is a
    measurement.
    """

    def __init__(self, hasty: bool = False) -> None:
        self.factor = 0.1 if hasty else 1.0

    def seconds(self, nbytes: int) -> float:
        """Return the expected time to write a state."""
        return self.factor * (LATENCY + PER_BYTE * nbytes)

    def measured(self, nbytes: int, seconds: float) -> None:
        """Include the time of a write, with the weight of all earlier writes together."""
        self.factor = (self.factor + seconds / (LATENCY + PER_BYTE * nbytes)) / 2


#: bytes of the largest small state
SMALL = 1 << 20
#: by kind of store, for small states and for others
_SPEEDS: dict[tuple[type, bool], _WriteSpeed] = {}


#: time at which this process began
_began = time.time()


def _begin() -> None:
    global _began
    _began = time.time()


if hasattr(os, "register_at_fork"):  # a forked worker starts after this import
    os.register_at_fork(after_in_child=_begin)


@dataclass(frozen=True)
class Checkpoints:
    """The store of a run's states, and how often they are written; an argument of all its tasks."""

    store: StateStore
    interval: float = field(default_factory=lambda: INTERVAL)
    share: float = field(default_factory=lambda: SHARE)
    run: str = field(default_factory=lambda: uuid4().hex)
    started: float = field(default_factory=time.time)

    def read(self, name: str) -> dict[str, Array] | None:
        """Return a state; None if it is absent or damaged."""
        return retried(partial(self.store.read, name))

    def kept_names(self) -> Collection[str]:
        """Return the names of the kept states, from a list that is a short time old."""
        now = time.monotonic()
        if self.run != _names.run or now >= _names.until:
            _names.run, _names.names = self.run, set(self.store.names())
            after = time.monotonic()
            _names.until = after + (after - now) / self.share
        return _names.names

    def keep(self, name: str, state: States, unsaved: float, interval: float = 0.0) -> bool:
        """Write a state if it saves enough time; return False if not, or if writing fails."""
        nbytes, is_late = sum(a.nbytes for a in state.values()), _began > self.started
        kind = type(self.store), nbytes <= SMALL
        speed = _SPEEDS.setdefault(kind, _WriteSpeed(hasty=kind[1] or is_late))
        seconds = speed.seconds(nbytes)
        least = max(interval, seconds / self.share)
        if is_late:
            least = min(least, sqrt(2 * seconds * max(0.0, time.time() - _began)))
        if unsaved < least:
            return False
        start = time.monotonic()
        with suppress(StoreError):  # a full disk stops the run when a shard is written
            self.store.write(name, state)
            speed.measured(nbytes, time.monotonic() - start)
            return True
        return False


class _Names:
    """A run's states as this process listed them last, and the time until the list is valid."""

    run, until = "", 0.0
    names: Collection[str] = ()


_names = _Names()


@dataclass(frozen=True)
class TaskPlace:
    """A task in its graph: its name, those of its dominators, and how many tasks it dominates."""

    name: str
    above: tuple[str, ...] = ()
    below: int = 0


class TaskLog:
    """The states of one task while it runs."""

    def __init__(self, checkpoints: Checkpoints | None, name: str, unsaved: float = 0.0) -> None:
        self._checkpoints, self._name = checkpoints, name
        self._start = self._since = time.monotonic() - unsaved
        kept = None if checkpoints is None else checkpoints.read(name + UNFINISHED)
        self._kept = kept or {}
        position = self._kept.pop("position", np.zeros(2, np.int64))
        #: the column that the kept state belongs to, and the tiles of it that are done
        self.column, self.tiles = map(int, position)

    def kept(self, kind: str) -> dict[str, Array]:
        """Return the kept arrays of a kind by name, and release them: the task overwrites them."""
        names = [name for name in self._kept if name.startswith(f"{kind} ")]
        return {name.partition(" ")[2]: self._kept.pop(name) for name in names}

    def offer(self, column: int, tiles: int, **arrays: States) -> None:
        """Keep arrays by kind, if the last state is old enough."""
        unsaved = time.monotonic() - self._since
        if self._checkpoints is None:
            return
        state = {f"{kind} {n}": a for kind, group in arrays.items() for n, a in group.items()}
        state["position"] = np.array([column, tiles])
        interval = self._checkpoints.interval
        if self._checkpoints.keep(self._name + UNFINISHED, state, unsaved, interval):
            self._since = time.monotonic()

    def finish(self, checkpoints: Checkpoints, result: Any) -> Any:
        """Keep the result of the task, or return it together with the time that it would save.

        This is the time of the whole task, as its result also saves the tasks below it.
        """
        state = result if isinstance(result, dict) else {"": result}
        if not all(isinstance(a, np.ndarray) and not a.dtype.hasobject for a in state.values()):
            return result
        unsaved = time.monotonic() - self._start
        if checkpoints.keep(self._name, state, unsaved):
            checkpoints.store.remove(self._name + UNFINISHED)
            return result
        return _Unsaved(state, unsaved) if state is result else result


class _Needless:
    """The result of a task that need not run, because the result of a dominator was kept."""


class _Unsaved(dict[str, Array]):
    """A state that was not kept, with the seconds of work that it would save."""

    def __init__(self, state: States, seconds: float) -> None:
        super().__init__(state)
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return _Unsaved, (dict(self), self.seconds)


_LOG: ContextVar[TaskLog | None] = ContextVar("lazyvol task log", default=None)


def task_log() -> TaskLog:
    """Return the log of the running task to the first caller, to others one that keeps nothing."""
    log = _LOG.get()
    _LOG.set(None)
    return log or TaskLog(None, "")


#: the store of states and the name of the running task
_TASK: ContextVar[tuple[Checkpoints, str] | None] = ContextVar("lazyvol task", default=None)


def running_task() -> tuple[Checkpoints, str] | None:
    """Return the checkpoints and the name of the running task; None if it keeps nothing."""
    return _TASK.get()


def run_checkpointed(
    checkpoints: Checkpoints, place: TaskPlace, function: Any, *arguments: Any
) -> Any:
    """Return ``function(*arguments)``, or its result if this run or an earlier one kept that.

    Nothing is computed if the result of a dominator was kept: then nothing needs this one.
    """
    name, above = place.name, place.above
    kept = checkpoints.read(name)
    if kept is not None:
        return kept.get("", kept)
    if above and not set(above).isdisjoint(checkpoints.kept_names()):
        return _Needless()
    if any(isinstance(value, _Needless) for value in _flat(arguments)):
        if above:  # another process knew a dominator's result first
            return _Needless()
        raise _damaged()
    unsaved = sum(_unsaved_seconds(arguments)) + TASK_SECONDS * place.below
    log = TaskLog(checkpoints, name, unsaved)
    tokens = _LOG.set(log), _TASK.set((checkpoints, name))
    try:
        result = function(*arguments)
    finally:
        _LOG.reset(tokens[0])
        _TASK.reset(tokens[1])
    return log.finish(checkpoints, result)


def _unsaved_seconds(arguments: Sequence[Any]) -> Iterable[float]:
    """Yield the seconds of work in the states that a merge takes."""
    yield from (state.seconds for state in _flat(arguments) if isinstance(state, _Unsaved))


def _flat(arguments: Sequence[Any]) -> Iterable[Any]:
    for argument in arguments:
        yield from argument if isinstance(argument, list) else [argument]


def kept_result(checkpoints: Checkpoints, name: str) -> Any:
    """Return the kept result of a task in place of computing its inputs."""
    kept = checkpoints.read(name)
    if kept is None:
        raise _damaged()
    return kept.get("", kept)


def _damaged() -> StoreError:
    return StoreError(
        "save: the kept state of a reduction was damaged, and has been removed; run it again "
        "with resume=True"
    )


# steps of a long kernel ---------------------------------------------------------------------------

#: name of the number of steps in a state
COUNT = "count"

Results: TypeAlias = Mapping[str, Array]
Each: TypeAlias = Callable[[str, int, Callable[[int], Results]], Iterator[Results]]


def keeping_steps(*inputs: Array) -> Each:
    """Return ``each(name, count, step)``, which yields the results of ``step(0)``, ``step(1)``, ...

    It is for kernels that are one task of many seconds. The results of consecutive steps are one
    state, written when that takes at most the share of their time that checkpoints may take.

    Steps are pure functions of ``inputs`` and of the steps before; their results are not
    overwritten. Steps may contain steps, whose results are removed when that of the outer step is
    kept.
    """
    task = running_task()
    if task is None:
        return _computed
    checksum = 0
    for values in inputs:
        checksum = crc32(np.ascontiguousarray(values).data, checksum)
    return _Steps(task[0], f"{task[1]}-{checksum:08x}").each


def _computed(name: str, count: int, step: Callable[[int], Results]) -> Iterator[Results]:
    return map(step, range(count))


class _Steps:
    """The steps of one call of a kernel."""

    def __init__(self, checkpoints: Checkpoints, name: str) -> None:
        self._checkpoints, self._scope = checkpoints, name
        self._kept = {n for n in checkpoints.store.names() if n.startswith(name)}
        self._since = time.monotonic()

    def each(self, name: str, count: int, step: Callable[[int], Results]) -> Iterator[Results]:
        """Yield the results of steps, computed unless they were kept."""
        own = f"{self._scope}-{name.replace(' ', '-')}"
        since, number, pending = self._since, 0, list[Results]()
        while number < count:
            kept = [] if pending else self._read(f"{own}-{number}")
            yield from kept
            number += len(kept)
            if kept:
                continue
            result = self._run(f"{own}-{number}", partial(step, number))
            pending.append(result)
            number += 1
            first = number - len(pending)
            if self._keep(f"{own}-{first}", pending, time.monotonic() - since):
                self._remove_below([f"{own}-{n}-" for n in range(first, number)])
                pending, since = [], self._since
            yield result

    def _run(self, scope: str, step: Callable[[], Results]) -> Results:
        """Run a step; the names of steps inside it begin with ``scope``."""
        before, self._scope = self._scope, scope
        try:
            return step()
        finally:
            self._scope = before

    def _read(self, name: str) -> list[Results]:
        """Return the kept results of the steps from one on, or none."""
        state = self._checkpoints.read(name) if name in self._kept else None
        if state is None:
            return []
        results: list[dict[str, Array]] = [{} for _ in range(int(state[COUNT]))]
        for key, values in state.items():
            if key != COUNT:
                number, _, own = key.partition(" ")
                results[int(number)][own] = values
        return list[Results](results)

    def _keep(self, name: str, results: Sequence[Results], unsaved: float) -> bool:
        """Keep the results of consecutive steps, if they save enough time."""
        state = {f"{n} {key}": a for n, r in enumerate(results) for key, a in r.items()}
        state[COUNT] = np.array(len(results))
        if not self._checkpoints.keep(name, state, unsaved):
            return False
        self._kept.add(name)
        self._since = time.monotonic()
        return True

    def _remove_below(self, scopes: Sequence[str]) -> None:
        """Remove the results of the steps inside ``scopes``."""
        for name in [n for n in self._kept if n.startswith(tuple(scopes))]:
            self._checkpoints.store.remove(name)
            self._kept.discard(name)

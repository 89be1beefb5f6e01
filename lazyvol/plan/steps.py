"""Steps of a long kernel, kept so that a killed task continues after the last one.

A kernel that is one task of many seconds asks ``keeping_steps`` for the results of its steps. In a
task that keeps states (see `lazyvol.plan.checkpoints`), the results of consecutive steps are one
state, kept when it costs at most the share of their time that checkpoints may take.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias
from zlib import crc32

import numpy as np

from lazyvol.plan.checkpoints import Checkpoints, running_task
from lazyvol.plan.recipes.base import Array

#: name of the number of steps in a state
COUNT = "count"

Results: TypeAlias = Mapping[str, Array]
Each: TypeAlias = Callable[[str, int, Callable[[int], Results]], Iterator[Results]]


def keeping_steps(*inputs: Array) -> Each:
    """Return ``each(name, count, step)``, which yields the results of ``step(0)``, ``step(1)``, ...

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

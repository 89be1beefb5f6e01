"""Graphs whose tasks keep their results and states in a store (`lazyvol.plan.checkpoints`)."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from lazyvol.plan.checkpoints import (
    UNFINISHED,
    Checkpoints,
    StateStore,
    TaskPlace,
    kept_result,
    run_checkpointed,
)
from lazyvol.plan.graph.layers import TaskLayer


def with_checkpoints(
    arrays: Mapping[str, da.Array], store: StateStore | None
) -> dict[str, da.Array]:
    """Return results of several stages whose tasks keep their states in a store.

    Tasks whose result is kept have no inputs, so that nothing below them is computed again.
    """
    if store is None or not arrays:
        return dict(arrays)
    checkpoints, kept = Checkpoints(store), set(store.names())
    places = _places([a.dask for a in arrays.values()], {a.name for a in arrays.values()})
    graphs = {name: _checkpointed(a.dask, checkpoints, kept, places) for name, a in arrays.items()}
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


#: store for the states of the tasks that this thread submits
_STORE: ContextVar[StateStore | None] = ContextVar("lazyvol states", default=None)


def with_states(graph: Any) -> Any:
    """Return a graph that is about to run; its tasks get the store of the context, if there is one.

    No array can be read from the returned graph: its layers hold tasks, not recipes.
    """
    store = _STORE.get()
    if store is None or not isinstance(graph, HighLevelGraph):
        return graph
    places = _places([graph], set(graph.layers) - set().union(*graph.dependencies.values()))
    return _checkpointed(graph, Checkpoints(store), set(store.names()), places)


def _places(graphs: Sequence[HighLevelGraph], wanted: Collection[str]) -> dict[Any, TaskPlace]:
    """Return the places of all tasks that keep states; the layers ``wanted`` are results."""
    nearest, names, above = _results_above(graphs, wanted), dict[Any, str](), dict[Any, list[Any]]()
    below: Counter[Any] = Counter()
    for key in nearest:
        names[key], above[key], top = tokenize(key), [], key
        while (top := nearest[top]) is not None:
            above[key].append(top)
        below.update(above[key])
    return {
        key: TaskPlace(name, tuple(names[top] for top in above[key]), below[key])
        for key, name in names.items()
    }


def _results_above(graphs: Sequence[HighLevelGraph], wanted: Collection[str]) -> dict[Any, Any]:
    """Return the nearest dominator of each task: the task that all uses of its result pass through.

    It is None if there is no such task. Only tasks that keep states count. The uses end at results
    that other tasks read: those of the layers ``wanted``, and of layers on which foreign layers
    depend.
    """
    layers = {name: layer for graph in graphs for name, layer in graph.layers.items()}
    shared = set(wanted).union(*(
        graph.dependencies[name] for graph in graphs for name, layer in graph.layers.items()
        if not isinstance(layer, TaskLayer)
    ))  # fmt: skip
    tasks = {
        key: task
        for layer in layers.values() if isinstance(layer, TaskLayer)
        for key, task in layer.items()
    }  # fmt: skip
    takers: dict[Any, list[Any]] = {key: [] for key in tasks}
    for key, task in tasks.items():
        for below in task.dependencies & takers.keys():
            takers[below].append(key)
    taken = {key for key in tasks if not takers[key] or _name_of(key) in shared}
    taken |= {b for task in tasks.values() if not _keeps(task) for b in task.dependencies}
    return _dominators(tasks, takers, taken)


def _name_of(key: Any) -> Any:
    return key[0] if isinstance(key, tuple) else key


def _dominators(
    tasks: Mapping[Any, Any], takers: Mapping[Any, Sequence[Any]], taken: Collection[Any]
) -> dict[Any, Any]:
    above: dict[Any, Any] = {}
    depth, waiting = {None: 0}, {key: len(users) for key, users in takers.items()}
    ready = [key for key, count in waiting.items() if not count]
    while ready:
        key = ready.pop()
        common = None if key in taken else takers[key][0]
        for other in takers[key] if common is not None else ():
            while common != other:
                if depth[common] >= depth[other]:
                    common = above[common]
                else:
                    other = above[other]
        above[key], depth[key] = common, depth[common] + 1
        for below in tasks[key].dependencies & waiting.keys():
            waiting[below] -= 1
            if not waiting[below]:
                ready.append(below)
    return above


def _keeps(task: Any) -> bool:
    """Return True if a task may keep its result."""
    return isinstance(task, Task) and not task.kwargs


def _checkpointed(
    graph: HighLevelGraph,
    checkpoints: Checkpoints,
    kept: Collection[str],
    places: Mapping[Any, TaskPlace],
) -> HighLevelGraph:
    layers = {
        name: MaterializedLayer(
            _tasks(layer, checkpoints, kept, places), annotations=layer.annotations
        )
        if isinstance(layer, TaskLayer)
        else layer
        for name, layer in graph.layers.items()
    }
    return HighLevelGraph(layers, graph.dependencies)


def _tasks(
    layer: TaskLayer,
    checkpoints: Checkpoints,
    kept: Collection[str],
    places: Mapping[Any, TaskPlace],
) -> dict[Any, Any]:
    tasks: dict[Any, Any] = {}
    for key, task in layer.items():
        place = places[key]
        if place.name in kept:
            tasks[key] = Task(key, kept_result, checkpoints, place.name)
        elif _keeps(task):
            tasks[key] = Task(key, run_checkpointed, checkpoints, place, task.func, *task.args)
        else:
            tasks[key] = task
    return tasks


def progress_of(graph: Any, key: Any) -> Any:
    """Return the states that a task has kept so far, for comparison; None if it keeps none."""
    task = _checkpointed_task(graph, key)
    if task is None:
        return None
    checkpoints, name = task.args[0], task.args[1].name
    state = checkpoints.read(name + UNFINISHED) or {}
    position = state.get("position", np.zeros(0)).tolist()
    return position, sorted(n for n in checkpoints.store.names() if n.startswith(name))


def _checkpointed_task(graph: Any, key: Any) -> Task | None:
    tasks = graph if isinstance(graph, Mapping) else graph.__dask_graph__()
    task = tasks.get(key)
    return task if isinstance(task, Task) and task.func is run_checkpointed else None

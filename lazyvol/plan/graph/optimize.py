"""How dask computes arrays of ours: one task per block, each step once, and no more than is asked.

Dask optimizes a graph before it runs it. By then arithmetic, indices and other chunks may stand on
top of our layers; computed as they are, a slice of a lazy result would make whole blocks, and each
array of a long chain would make all those before it anew. So arrays that are asked for, and that
can be read as recipes, get the tasks of their recipes. Everything else is left to dask.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dask
import numpy as np
from dask._task_spec import Task
from dask.array import core as dask_core
from dask.array import optimization
from dask.blockwise import Blockwise as BlockwiseLayer
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from lazyvol.plan import memory_order
from lazyvol.plan.graph import reading
from lazyvol.plan.graph.elementwise import OPERATORS, Found
from lazyvol.plan.graph.layers import RecipeLayer, is_ours, names_in
from lazyvol.plan.recipes.base import Recipe, ordered
from lazyvol.plan.recipes.views import Sliced

#: dask's name for the function that optimizes graphs of arrays
KEY = "array_optimize"


def install() -> None:
    """Let dask optimize graphs with ``optimized``, unless it was told another function."""
    if KEY not in dask.config.config:
        dask.config.set({KEY: optimized})


def optimized(dsk: Any, keys: Any, **options: Any) -> Any:
    """A graph in which arrays of ours are made region by region, then optimized by dask."""
    if isinstance(dsk, HighLevelGraph) and any(map(is_ours, dsk.layers.values())):
        dsk = _with_recipes(dsk, set(flatten([keys])))
    return optimization.optimize(dsk, keys, **options)


def _with_recipes(graph: HighLevelGraph, keys: set[Any]) -> HighLevelGraph:
    layers, dependencies = dict(graph.layers), dict(graph.dependencies)
    for name, found in _merged(graph, _asked(graph, keys)):
        layers[name] = RecipeLayer(name, found.recipe, found.grid, "computed")
        dependencies[name] = {leaf.name for leaf in found.recipe.foreign}
    for name, layer in graph.layers.items():
        joined = _joined(layer, layers)
        if joined is not None:
            layers[name] = joined
    made = HighLevelGraph(layers, dependencies)
    names = {key if isinstance(key, str) else key[0] for key in keys}
    # what is no longer needed would be optimized too: 2 s of 1,000 steps
    return made.cull_layers(names) if names <= set(layers) else made


def _merged(graph: HighLevelGraph, asked: set[str]) -> Iterator[tuple[str, Found]]:
    """Arrays that are made as one recipe each, with all that dask put on top of ours.

    Where two arrays rest on blocks of a third, it is left to dask to make these once, unless it
    would make more of them than is asked for, or the steps of one more than once.
    """
    tops = {name: _Tops(graph, found) for name, found in _readable(graph, asked)}
    used = Counter(id(top) for own in tops.values() for top in own.recipes)
    for name, own in tops.items():
        alone = all(used[id(top)] == 1 for top in own.recipes)
        if not is_ours(graph.layers[name]) and (alone or own.selects or _share(own.recipes)):
            yield name, own.found


def _readable(graph: HighLevelGraph, asked: set[str]) -> Iterator[tuple[str, Found]]:
    for name in sorted(asked):
        found = reading.read_graph(graph, name)
        if found is not None and found.ours:
            yield name, found


def _asked(graph: HighLevelGraph, keys: set[Any]) -> set[str]:
    """Names of the arrays whose blocks are asked for, by the user or by layers of others."""
    asked = names_in(keys)
    stack = [n for n in (*asked, *(k for k in keys if isinstance(k, str))) if n in graph.layers]
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name in seen or name not in graph.layers:
            continue
        seen.add(name)
        if reading.read_graph(graph, name) is not None:
            continue
        below = graph.dependencies[name]
        asked |= below
        stack += below
    return asked & set(graph.layers)


class _Tops:
    """The recipes of ours that an array rests on, as they stand in its graph."""

    def __init__(self, graph: HighLevelGraph, found: Found) -> None:
        layers = (layer for layer in graph.layers.values() if isinstance(layer, RecipeLayer))
        ours = {id(layer.recipe) for layer in layers}
        self.found = found
        self.recipes: list[Recipe] = []
        self.selects = False
        stack, seen = [found.recipe], set()
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if id(node) in ours:
                self.recipes.append(node)
                continue
            self.selects |= isinstance(node, Sliced)
            stack += node.parents


def _share(tops: Iterable[Recipe]) -> bool:
    """Return True if two recipes have a step in common."""
    seen: set[Any] = set()
    for top in tops:
        steps = {node.token for node in ordered(top)[0]}
        if seen & steps:
            return True
        seen |= steps
    return False


def _joined(layer: Any, layers: Mapping[str, Any]) -> MaterializedLayer | None:
    """A layer that puts blocks together, made to do so in threads and in the blocks' own order."""
    if type(layer) is not MaterializedLayer or len(layer) != 1:
        return None
    ((key, task),) = layer.items()
    if type(task) is not Task or task.func is not dask_core.finalize:
        return None
    names = names_in(task.dependencies)
    if not all(_is_fresh(layers.get(name)) for name in names):
        return None
    return MaterializedLayer({key: Task(key, memory_order.joined, *task.args)})


def _is_fresh(layer: Any) -> bool:
    """Return True if nothing else holds the blocks of a layer, so that they may be handed out."""
    if isinstance(layer, BlockwiseLayer):
        function = layer.task.func
        return isinstance(function, np.ufunc) or function in OPERATORS
    return isinstance(layer, RecipeLayer)

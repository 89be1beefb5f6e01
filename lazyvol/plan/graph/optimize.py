"""Optimisation of dask graphs: one task per block, each step once, only the elements asked for.

Dask optimises a graph before it runs it. By then, arithmetic, indexing and rechunking may stand on
top of lazyvol's layers. Run as they are, a slice of a lazy result would compute whole blocks, and
each array of a long chain would compute all those before it again. So the requested arrays whose
layers can be read as recipes get the tasks of these recipes. Everything else is left to dask.
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

from lazyvol.plan.graph import reading
from lazyvol.plan.graph.elementwise import OPERATORS, ParsedArray
from lazyvol.plan.graph.layers import RecipeLayer, array_names, has_recipe
from lazyvol.plan.graph.results import finalize_variables, join_blocks
from lazyvol.plan.recipes.base import Recipe, topological_order
from lazyvol.plan.recipes.views import Selected

#: dask's option for the function that optimises graphs of arrays
OPTION = "array_optimize"

#: methods by which xarray builds a computed DataArray and a computed Dataset from lists of blocks
XARRAY_FINALIZERS = ("DataArray._dask_finalize", "Dataset._dask_postcompute")


def install() -> None:
    """Set dask's option to ``optimize_graph``, unless the user has set it."""
    if OPTION not in dask.config.config:
        dask.config.set({OPTION: optimize_graph})


def optimize_graph(dsk: Any, keys: Any, **options: Any) -> Any:
    """Replace requested arrays by their recipes, then optimise the graph as dask does."""
    if isinstance(dsk, HighLevelGraph) and any(map(has_recipe, dsk.layers.values())):
        dsk = _with_recipes(dsk, set(flatten([keys])))
    return optimization.optimize(dsk, keys, **options)


def _with_recipes(graph: HighLevelGraph, keys: set[Any]) -> HighLevelGraph:
    layers, dependencies = dict(graph.layers), dict(graph.dependencies)
    for name, parsed in _merged_arrays(graph, _requested_names(graph, keys)):
        layers[name] = RecipeLayer(name, parsed.recipe, parsed.grid, "computed")
        dependencies[name] = {leaf.name for leaf in parsed.recipe.foreign}
    for name, layer in graph.layers.items():
        joining_layer = _joining_layer(layer, layers)
        if joining_layer is not None:
            layers[name] = joining_layer
    rebuilt = HighLevelGraph(layers, dependencies)
    names = {key if isinstance(key, str) else key[0] for key in keys}
    # layers that are no longer needed would be optimised too: 2 s for 1,000 steps
    return rebuilt.cull_layers(names) if names <= set(layers) else rebuilt


def _merged_arrays(graph: HighLevelGraph, names: set[str]) -> Iterator[tuple[str, ParsedArray]]:
    """Yield the arrays to compute as one recipe each, with dask's layers on top of lazyvol's.

    If two arrays depend on blocks of a third one, dask computes these once, unless it would compute
    more of them than is needed, or a step of one more than once.
    """
    bases = {name: _Bases(graph, parsed) for name, parsed in _parsed_arrays(graph, names)}
    used = Counter(id(base) for below in bases.values() for base in below.recipes)
    for name, below in bases.items():
        if has_recipe(graph.layers[name]):
            continue
        is_alone = all(used[id(base)] == 1 for base in below.recipes)
        if is_alone or below.selects or _share_steps(below.recipes):
            yield name, below.parsed


def _parsed_arrays(graph: HighLevelGraph, names: set[str]) -> Iterator[tuple[str, ParsedArray]]:
    for name in sorted(names):
        parsed = reading.read_graph(graph, name)
        if parsed is not None and parsed.has_recipe:
            yield name, parsed


def _requested_names(graph: HighLevelGraph, keys: set[Any]) -> set[str]:
    """Return the names of the arrays whose blocks the user or foreign layers ask for."""
    names = array_names(keys)
    stack = [n for n in (*names, *(k for k in keys if isinstance(k, str))) if n in graph.layers]
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name in seen or name not in graph.layers:
            continue
        seen.add(name)
        if reading.read_graph(graph, name) is not None:
            continue
        below = graph.dependencies[name]
        names |= below
        stack += below
    return names & set(graph.layers)


class _Bases:
    """The recipes of lazyvol's layers that an array is derived from."""

    def __init__(self, graph: HighLevelGraph, parsed: ParsedArray) -> None:
        layers = (layer for layer in graph.layers.values() if isinstance(layer, RecipeLayer))
        of_layers = {id(layer.recipe) for layer in layers}
        self.parsed = parsed
        self.recipes: list[Recipe] = []
        self.selects = False
        stack, seen = [parsed.recipe], set()
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if id(node) in of_layers:
                self.recipes.append(node)
                continue
            self.selects |= isinstance(node, Selected)
            stack += node.parents


def _share_steps(recipes: Iterable[Recipe]) -> bool:
    """Return True if two recipes have a step in common."""
    seen: set[Any] = set()
    for recipe in recipes:
        steps = {node.token for node in topological_order(recipe)[0]}
        if seen & steps:
            return True
        seen |= steps
    return False


def _joining_layer(layer: Any, layers: Mapping[str, Any]) -> MaterializedLayer | None:
    """Return a layer that joins blocks in their memory order, in place of dask's; None if ``layer``
    does not join blocks, or they may be referenced elsewhere."""
    if type(layer) is not MaterializedLayer or len(layer) != 1:
        return None
    ((key, task),) = layer.items()
    if type(task) is not Task:
        return None
    of_xarray = getattr(task.func, "__qualname__", "") in XARRAY_FINALIZERS
    if task.func is not dask_core.finalize and not of_xarray:
        return None
    names = array_names(task.dependencies)
    if not all(_owns_blocks(layers.get(name)) for name in names):
        return None
    if not of_xarray:
        return MaterializedLayer({key: Task(key, join_blocks, *task.args)})
    results, *args = task.args
    return MaterializedLayer({key: Task(key, finalize_variables, results, task.func, *args)})


def _owns_blocks(layer: Any) -> bool:
    """Return True if the blocks of a layer are referenced nowhere else, so that a lone block may be
    returned to the user."""
    if isinstance(layer, BlockwiseLayer):
        function = layer.task.func
        return isinstance(function, np.ufunc) or function in OPERATORS
    return isinstance(layer, RecipeLayer)

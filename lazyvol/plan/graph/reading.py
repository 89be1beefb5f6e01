"""Dask graphs read as recipes: the graph alone defines an array.

The layer that bears an array's name defines the array. A layer of lazyvol holds its recipe. Layers
that dask and xarray build on top of these (elementwise functions, transpositions, indexing,
rechunking) are read one by one, so that any region of the array can still be requested. An array
with any other layer is foreign: dask computes its blocks and passes them to tasks.

Dask optimises a graph before it runs it. By then, arithmetic, indexing and rechunking may stand on
top of lazyvol's layers. Run as they are, a slice of a lazy result would compute whole blocks, and
each array of a long chain would compute all those before it again. So the requested arrays whose
layers can be read as recipes get the tasks of these recipes. Everything else is left to dask.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task
from dask.array import core as dask_core
from dask.array import optimization
from dask.blockwise import Blockwise as BlockwiseLayer
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from lazyvol.errors import LabelError
from lazyvol.plan import regions
from lazyvol.plan.checkpointed_graphs import with_states
from lazyvol.plan.evaluate import memory_order
from lazyvol.plan.execution import each_in_threads
from lazyvol.plan.graph.elementwise import OPERATORS, ParsedArray, read_blockwise
from lazyvol.plan.graph.indexing import read_selection
from lazyvol.plan.graph.layers import RecipeLayer, array_names, blocks_in_memory, has_recipe
from lazyvol.plan.recipes.base import (
    Array,
    Recipe,
    cache_properties,
    steps_above,
    topological_order,
)
from lazyvol.plan.recipes.leaves import Foreign
from lazyvol.plan.recipes.views import Selected
from lazyvol.plan.regions import Grid

#: parsed layers by object id, as long as the layers live; a parsed array does not refer to them
_PARSED: dict[int, tuple[weakref.ref[Any], ParsedArray | None]] = {}


def read_array(array: da.Array) -> ParsedArray | None:
    """Return the recipe of a dask array that is derived from a recipe layer; None otherwise."""
    require_known_chunks(array)
    parsed = read_graph(array.dask, array.name)
    if parsed is None or parsed.grid != array.chunks or parsed.recipe.dtype != array.dtype:
        return None
    return parsed if parsed.has_recipe else None


def require_known_chunks(array: da.Array) -> None:
    """Raise LabelError if the shape of an array is unknown until it is computed."""
    if any(math.isnan(n) for chunks in array.chunks for n in chunks):
        raise LabelError(
            f"chunks must have known sizes, got {array.chunks}; call compute_chunk_sizes() on the "
            "dask array"
        )


def read_graph(graph: HighLevelGraph, name: str) -> ParsedArray | None:
    """Read the layer ``name`` of a graph as a recipe, after the layers below it."""
    layers = graph.layers if isinstance(graph, HighLevelGraph) else {}
    parsed: dict[str, ParsedArray | None] = {}
    stack = [name]
    while stack:
        current = stack[-1]
        layer = layers.get(current)
        if current in parsed or layer is None or id(layer) in _PARSED:
            parsed.setdefault(current, None if layer is None else _PARSED[id(layer)][1])
            stack.pop()
            continue
        inputs = _input_names(layer)
        missing = [n for n in inputs if n not in parsed]
        if missing:
            stack += missing
            continue
        array = _read_layer(current, layer, {n: parsed[n] for n in inputs})
        _remember(layer, array)
        parsed[current] = array
        stack.pop()
    return parsed[name]


def _remember(layer: Any, array: ParsedArray | None) -> None:
    """Cache the array that a layer was read as, until the layer is freed."""
    if array is not None:
        cache_properties(array.recipe)
    number = id(layer)
    _PARSED[number] = weakref.ref(layer, lambda _: _PARSED.pop(number, None)), array


def _input_names(layer: Any) -> list[str]:
    """Return the names of the arrays that a layer is derived from; none if it holds a recipe."""
    if has_recipe(layer):
        return []
    if isinstance(layer, BlockwiseLayer):
        return [n for n, index in layer.indices if index is not None and n not in layer.io_deps]
    if type(layer) is MaterializedLayer and any(isinstance(key, tuple) for key in layer):
        outside = {
            key
            for task in layer.values()
            for key in getattr(task, "dependencies", ())
            if key not in layer
        }
        names = array_names(outside)
        return list(names) if len(names) == 1 else []
    return []


def _read_layer(
    name: str, layer: Any, inputs: Mapping[str, ParsedArray | None]
) -> ParsedArray | None:
    if has_recipe(layer):
        return ParsedArray(layer.recipe, layer.grid, True)
    known = {n: array for n, array in inputs.items() if array is not None}
    if isinstance(layer, BlockwiseLayer):
        return read_blockwise(layer, known) if len(known) == len(inputs) > 0 else None
    if known:
        ((parent_name, parent),) = known.items()
        return read_selection(name, layer, parent_name, parent)
    blocks = blocks_in_memory(layer)
    return None if blocks is None else _read_blocks(name, blocks)


def _read_blocks(name: str, blocks: Mapping[tuple[int, ...], Array]) -> ParsedArray | None:
    """Describe an array whose blocks are numpy arrays in the graph; None if they do not fit."""
    first = next(iter(blocks.values()))
    grid = tuple(_chunks(blocks, axis) for axis in range(first.ndim))
    is_complete = math.prod(len(chunks) for chunks in grid) == len(blocks)
    fits = all(
        len(index) == first.ndim
        and block.dtype == first.dtype
        and block.shape == tuple(grid[a][n] for a, n in enumerate(index))
        for index, block in blocks.items()
    )
    if not (is_complete and fits):
        return None
    return ParsedArray(Foreign(name, grid, first.dtype, in_memory=True), grid, False)


def _chunks(blocks: Mapping[tuple[int, ...], Array], axis: int) -> tuple[int, ...]:
    """Return the lengths of the blocks along one axis."""
    lengths = {index[axis]: block.shape[axis] for index, block in blocks.items()}
    return tuple(lengths[n] for n in sorted(lengths))


def is_array_in_memory(array: da.Array) -> bool:
    """Return True if the blocks of a dask array are numpy arrays in its graph."""
    layers = getattr(array.dask, "layers", {})
    return blocks_in_memory(layers.get(array.name)) is not None


def trimmed(graph: HighLevelGraph, name: str, grid: Grid, dtype: np.dtype[Any]) -> da.Array:
    """Return the array ``name`` of a graph with only the layers that it needs."""
    needed: dict[str, Any] = {}
    stack = [name]
    while stack:
        current = stack.pop()
        if current not in needed:
            needed[current] = graph.layers[current]
            stack += graph.dependencies[current]
    below = HighLevelGraph(needed, {n: graph.dependencies[n] for n in needed})
    return da.Array(below, name, grid, meta=np.empty((0,) * len(grid), dtype))


# optimisation -------------------------------------------------------------------------------------

#: methods by which xarray builds a computed DataArray and a computed Dataset from lists of blocks
XARRAY_FINALIZERS = ("DataArray._dask_finalize", "Dataset._dask_postcompute")


def optimize_graph(dsk: Any, keys: Any, **options: Any) -> Any:
    """Replace requested arrays by their recipes, then optimise the graph as dask does."""
    if isinstance(dsk, HighLevelGraph) and any(map(has_recipe, dsk.layers.values())):
        dsk = _with_recipes(dsk, set(flatten([keys])))
    return optimization.optimize(with_states(dsk), keys, **options)


def _with_recipes(graph: HighLevelGraph, keys: set[Any]) -> HighLevelGraph:
    """Return a graph in which requested arrays are recipe layers, and their blocks are joined by
    ``join_blocks``."""
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
    """Yield the arrays that are derived from recipe layers, with their names."""
    for name in sorted(names):
        parsed = read_graph(graph, name)
        if parsed is not None and parsed.has_recipe:
            yield name, parsed


def _requested_names(graph: HighLevelGraph, keys: set[Any]) -> set[str]:
    """Return the names of the arrays whose blocks the user or foreign layers request."""
    names = array_names(keys)
    stack = [n for n in (*names, *(k for k in keys if isinstance(k, str))) if n in graph.layers]
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name in seen or name not in graph.layers:
            continue
        seen.add(name)
        if read_graph(graph, name) is not None:
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
        for node in steps_above(parsed.recipe, lambda node: id(node) in of_layers):
            if id(node) in of_layers:
                self.recipes.append(node)
            else:
                self.selects |= isinstance(node, Selected)


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
    return has_recipe(layer)


# computed blocks ----------------------------------------------------------------------------------


def join_blocks(blocks: Any) -> Any:
    """Join nested lists of blocks into one array of their memory order; return a lone block itself.

    Dask joins in C order, which takes a Hessian whose components are whole volumes 2.1 times as
    long (16 x 96^3: 158 against 69 ms of CPU time), in one thread (laplace of 16 x 128^3: 135
    against 110 ms), and copies a lone block.
    """
    by_index = dict(_indexed(blocks))
    if not all(type(b) is np.ndarray or isinstance(b, np.generic) for b in by_index.values()):
        return dask_core.finalize(blocks)  # masked arrays, and those of other libraries
    ndim = len(next(iter(by_index)))
    first = by_index[(0,) * ndim]
    if len(by_index) == 1:
        return first
    grid = tuple(_chunks(by_index, axis) for axis in range(ndim))
    order = memory_order(first)
    joined = np.empty([sum(grid[a]) for a in order], first.dtype).transpose(np.argsort(order))

    def insert(box: tuple[tuple[int, ...], regions.Region]) -> None:
        joined[box[1]] = by_index[box[0]]

    each_in_threads(insert, list(regions.boxes(grid)))
    return joined


@dataclass(frozen=True)
class JoinedOnCopy:
    """Blocks that are joined by ``copy``, which dask calls to get the array of a lone block."""

    blocks: Any

    def copy(self) -> Any:
        """Return the joined blocks."""
        return join_blocks(self.blocks)


def finalize_variables(results: Iterable[Any], finalize: Callable[..., Any], *args: Any) -> Any:
    """Call xarray's ``finalize`` so that the blocks of every variable are joined as by lazyvol."""
    return finalize([JoinedOnCopy(blocks) for blocks in results], *args)


def _indexed(blocks: Any) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Yield the blocks in nested lists with their indices."""
    if not isinstance(blocks, list | tuple):
        yield (), blocks
        return
    for n, nested in enumerate(blocks):
        for index, block in _indexed(nested):
            yield (n, *index), block

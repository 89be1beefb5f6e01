"""Dask graphs read as recipes: the graph alone defines an array.

The layer that bears an array's name defines the array. A layer of lazyvol holds its recipe. Layers
that dask and xarray build on top of these (elementwise functions, transpositions, indexing,
rechunking) are read one by one, so that any region of the array can still be asked for. An array
with any other layer is foreign: dask computes its blocks and passes them to tasks.
"""

import math
import weakref
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
from dask.blockwise import Blockwise as BlockwiseLayer
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from lazyvol.errors import LabelError
from lazyvol.plan.graph.elementwise import ParsedArray, read_blockwise
from lazyvol.plan.graph.indexing import read_selection
from lazyvol.plan.graph.layers import array_names, blocks_in_memory, has_recipe
from lazyvol.plan.recipes.base import Array, cache_properties
from lazyvol.plan.recipes.leaves import Foreign
from lazyvol.plan.regions import Grid

#: parsed layers by name; a layer that was replaced under its name is read again
_PARSED: dict[str, tuple[Any, ParsedArray | None]] = {}
#: layers that are remembered
REMEMBERED = 20_000


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
        if current in parsed or layer is None or _is_remembered(current, layer, parsed):
            parsed.setdefault(current, None)
            stack.pop()
            continue
        inputs = _input_names(layer)
        missing = [n for n in inputs if n not in parsed]
        if missing:
            stack += missing
            continue
        array = _read_layer(current, layer, {n: parsed[n] for n in inputs})
        _remember(current, layer, array)
        parsed[current] = array
        stack.pop()
    return parsed[name]


def _is_remembered(name: str, layer: Any, parsed: dict[str, ParsedArray | None]) -> bool:
    """Copy the remembered array of a layer to ``parsed``; return False if there is none."""
    known = _PARSED.get(name)
    if known is None or known[0]() is not layer:
        return False
    parsed[name] = known[1]
    return True


def _remember(name: str, layer: Any, array: ParsedArray | None) -> None:
    if array is not None:
        cache_properties(array.recipe)
    if len(_PARSED) >= REMEMBERED:
        _PARSED.clear()
    _PARSED[name] = weakref.ref(layer), array


def _input_names(layer: Any) -> list[str]:
    """Return the names of the arrays that a layer is derived from; none if it holds a recipe."""
    if has_recipe(layer):
        return []
    if isinstance(layer, BlockwiseLayer):
        return [n for n, index in layer.indices if index is not None and n not in layer.io_deps]
    if type(layer) is MaterializedLayer:
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

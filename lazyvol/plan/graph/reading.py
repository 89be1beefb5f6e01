"""Dask graphs read as recipes: the graph is the truth about an array.

The layer that bears an array's name says what the array is. A layer of ours says it outright.
Layers that dask and xarray build on top of ours (elementwise functions, transpositions, indices,
other chunks) are read, layer by layer, so that any region of the array can still be asked for.
Whatever is not recognised is someone else's: its blocks are computed by dask and handed to tasks.
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
from lazyvol.plan.graph.elementwise import Found, read_blockwise
from lazyvol.plan.graph.indexing import read_selection
from lazyvol.plan.graph.layers import held_blocks, is_ours, names_in
from lazyvol.plan.recipes.base import Array, Foreign, settle
from lazyvol.plan.regions import Grid

#: what was read of layers, by name; a layer that was replaced under its name is read anew
_READ: dict[str, tuple[Any, Found | None]] = {}
#: layers that are remembered
REMEMBERED = 20_000


def read_array(array: da.Array) -> Found | None:
    """The recipe of a dask array that rests on arrays of ours; None for someone else's."""
    require_known_chunks(array)
    found = read_graph(array.dask, array.name)
    if found is None or found.grid != array.chunks or found.recipe.dtype != array.dtype:
        return None
    return found if found.ours else None


def require_known_chunks(array: da.Array) -> None:
    """Refuse an array whose shape is not known before it is computed."""
    if any(math.isnan(n) for chunks in array.chunks for n in chunks):
        raise LabelError(
            f"chunks must have known sizes, got {array.chunks}; call compute_chunk_sizes() on the "
            f"dask array"
        )


def read_graph(graph: HighLevelGraph, name: str) -> Found | None:
    """What the layer ``name`` of a graph says, read from the layers below it up."""
    layers = graph.layers if isinstance(graph, HighLevelGraph) else {}
    done: dict[str, Found | None] = {}
    stack = [name]
    while stack:
        own = stack[-1]
        layer = layers.get(own)
        if own in done or layer is None or _remembered(own, layer, done):
            done.setdefault(own, None)
            stack.pop()
            continue
        inputs = _inputs(layer)
        missing = [n for n in inputs if n not in done]
        if missing:
            stack += missing
            continue
        _remember(own, layer, _read(own, layer, {n: done[n] for n in inputs}), done)
        stack.pop()
    return done[name]


def _remembered(name: str, layer: Any, done: dict[str, Found | None]) -> bool:
    known = _READ.get(name)
    if known is None or known[0]() is not layer:
        return False
    done[name] = known[1]
    return True


def _remember(name: str, layer: Any, found: Found | None, done: dict[str, Found | None]) -> None:
    if found is not None:
        settle(found.recipe)
    done[name] = found
    if len(_READ) >= REMEMBERED:
        _READ.clear()
    _READ[name] = weakref.ref(layer), found


def _inputs(layer: Any) -> list[str]:
    """Names of the arrays that a layer may be read from; none where it says itself what it is."""
    if is_ours(layer):
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
        names = names_in(outside)
        return list(names) if len(names) == 1 else []
    return []


def _read(name: str, layer: Any, inputs: Mapping[str, Found | None]) -> Found | None:
    if is_ours(layer):
        return Found(layer.recipe, layer.grid, True)
    known = {n: found for n, found in inputs.items() if found is not None}
    if isinstance(layer, BlockwiseLayer):
        return read_blockwise(layer, known) if len(known) == len(inputs) > 0 else None
    if known:
        ((parent_name, parent),) = known.items()
        return read_selection(name, layer, parent_name, parent)
    blocks = held_blocks(layer)
    return None if blocks is None else _held(name, blocks)


def _held(name: str, blocks: Mapping[tuple[int, ...], Array]) -> Found | None:
    """An array whose blocks are numpy arrays in the graph."""
    first = next(iter(blocks.values()))
    grid = tuple(_along(blocks, axis) for axis in range(first.ndim))
    whole = math.prod(len(chunks) for chunks in grid) == len(blocks)
    fits = all(
        len(index) == first.ndim
        and block.dtype == first.dtype
        and block.shape == tuple(grid[a][n] for a, n in enumerate(index))
        for index, block in blocks.items()
    )
    return (
        Found(Foreign(name, grid, first.dtype, held=True), grid, False) if whole and fits else None
    )


def _along(blocks: Mapping[tuple[int, ...], Array], axis: int) -> tuple[int, ...]:
    """Lengths of the blocks along one axis."""
    lengths = {index[axis]: block.shape[axis] for index, block in blocks.items()}
    return tuple(lengths[n] for n in sorted(lengths))


def is_held(array: da.Array) -> bool:
    """Return True if the blocks of a dask array are numpy arrays in its graph."""
    layers = getattr(array.dask, "layers", {})
    return held_blocks(layers.get(array.name)) is not None


def trimmed(graph: HighLevelGraph, name: str, grid: Grid, dtype: np.dtype[Any]) -> da.Array:
    """The array ``name`` of a graph, with the layers that it needs and no others."""
    needed: dict[str, Any] = {}
    stack = [name]
    while stack:
        own = stack.pop()
        if own not in needed:
            needed[own] = graph.layers[own]
            stack += graph.dependencies[own]
    below = HighLevelGraph(needed, {n: graph.dependencies[n] for n in needed})
    return da.Array(below, name, grid, meta=np.empty((0,) * len(grid), dtype))

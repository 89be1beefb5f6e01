"""Lazy arrays: recipes as plain dask arrays, one task per block.

What leaves this layer is a ``dask.array.Array`` and nothing more. ``described`` reads its recipe
back out of its graph; ``Lazy`` is that description while a graph is planned.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from lazyvol.plan.budget import Budget, Step, fitted, foreign_step, limited, recipe_step
from lazyvol.plan.graph import optimize, reading
from lazyvol.plan.graph.layers import RecipeLayer, ResultLayer, is_ours
from lazyvol.plan.recipes.base import Foreign, Memory, Recipe, Stored, settle
from lazyvol.plan.regions import Grid


@dataclass(eq=False)
class Lazy:
    """An array while graphs are planned: its recipe, its blocks, and what must run before.

    ``foreign`` are the dask arrays whose blocks the recipe needs, by name. ``below`` are the steps
    that must have run before it can be read, ``steps`` these and its own.
    """

    recipe: Recipe
    chunks: Grid
    foreign: Mapping[str, da.Array]
    below: tuple[Step, ...]
    steps: tuple[Step, ...]
    array: da.Array
    origin: "Origin | None" = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.recipe.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.recipe.dtype

    @property
    def ndim(self) -> int:
        return self.recipe.ndim

    @property
    def name(self) -> str:
        return str(self.array.name)


@dataclass(frozen=True)
class Origin:
    """How an array was made, to make it again under another budget."""

    make: Callable[..., Any]
    arrays: tuple[Any, ...] = ()
    key: str | None = None


def derived(make: Callable[..., Any], *arrays: Any) -> Any:
    """``make(*arrays)``, which remembers that it was made so.

    ``make`` may return one lazy array or a dict of them; it must not hold arrays itself.
    """
    made = make(*arrays)
    for key, array in made.items() if isinstance(made, dict) else [(None, made)]:
        if isinstance(array, Lazy):
            array.origin = Origin(make, arrays, key)
    return made


def refit(array: Any, budget: Budget, done: dict[str, Any] | None = None) -> Any:
    """``array`` made again, with everything below it, so that it fits ``budget``."""
    if not isinstance(array, da.Array):
        return array
    done = {} if done is None else done
    with limited(budget.memory, budget.workers):
        return _again(described(array), done).array


def _again(lazy: Any, done: dict[str, Any]) -> Any:
    """A lazy array made again; what it was made of comes first, without recursion."""
    stack = [lazy]
    while stack:
        own = stack[-1]
        if not isinstance(own, Lazy) or own.name in done:
            stack.pop()
            continue
        if own.origin is None:
            done[own.name] = own
            continue
        missing = [a for a in own.origin.arrays if isinstance(a, Lazy) and a.name not in done]
        if missing:
            stack += missing
            continue
        origin = own.origin
        made = derived(
            origin.make, *(done[a.name] if isinstance(a, Lazy) else a for a in origin.arrays)
        )
        done[own.name] = made if origin.key is None else made[origin.key]
    return done[lazy.name] if isinstance(lazy, Lazy) else lazy


@dataclass(frozen=True, eq=False)
class Blocks:
    """A recipe cut into blocks, which becomes a lazy array, or values in memory."""

    recipe: Recipe
    grid: Grid
    title: str


def lazily(make: Callable[..., Blocks | Lazy], *arrays: Any) -> Lazy:
    """Lazy array of what ``make(*arrays)`` says; it remembers how it was made."""
    return cast(Lazy, derived(partial(_lazily, make), *arrays))


def _lazily(make: Callable[..., Blocks | Lazy], *arrays: Any) -> Lazy:
    made = make(*arrays)
    if isinstance(made, Lazy):
        return made
    return lazy(made.recipe, made.grid, *arrays, title=made.title)


def lazy(recipe: Recipe, grid: Grid, *arrays: Any, title: str = "recipe") -> Lazy:
    """A recipe over ``arrays`` as a dask array, one task per block of ``grid``.

    Under a memory limit the blocks are cut further, until the tasks that run at once fit it.
    """
    settle(recipe)
    grid = fitted(recipe, grid, Budget.current())
    needed = {leaf.name for leaf in recipe.foreign}
    foreign = {n: a for n, a in foreign_of(*arrays).items() if n in needed}
    below = steps_of(*arrays)
    name = f"lazyvol-{title}-{tokenize(recipe.token, grid)}"
    layer = RecipeLayer(name, recipe, grid, title)
    array = dask_array(layer, foreign.values())
    own = recipe_step(title, recipe, grid, below)
    layer.lazy = Lazy(recipe, grid, foreign, below, (*below, own), array)
    recipe.__dict__[OWNER] = layer.lazy
    return layer.lazy


#: where a recipe remembers the array that was made of it, as long as it stays in this process
OWNER = "_owner"


def dask_array(layer: RecipeLayer | ResultLayer, dependencies: Iterable[da.Array]) -> da.Array:
    """A layer of ours as a dask array."""
    optimize.install()
    graph = HighLevelGraph.from_collections(layer.name, layer, dependencies=list(dependencies))
    return da.Array(
        graph, layer.name, layer.grid, meta=np.empty((0,) * len(layer.grid), layer.dtype)
    )


def result(
    layer: ResultLayer, dependencies: Iterable[da.Array], below: Iterable[Step], own: Step | None
) -> Lazy:
    """Blocks that several tasks make as a lazy array: they are read as they are."""
    array = dask_array(layer, dependencies)
    steps = (*below, *(() if own is None else (own,)))
    foreign = {layer.name: array}
    layer.lazy = Lazy(layer.recipe, layer.grid, foreign, steps, steps, array)
    return layer.lazy


def described(array: da.Array) -> Lazy:
    """What a dask array is: its recipe, found in its graph, or its blocks."""
    layer = getattr(array.dask, "layers", {}).get(array.name)
    if is_ours(layer) and layer.lazy is not None and layer.grid == array.chunks:
        return layer.lazy
    found = None if isinstance(layer, ResultLayer) else reading.read_array(array)
    if found is None:
        return _foreign(array)
    foreign = {
        leaf.name: reading.trimmed(array.dask, leaf.name, leaf.grid, leaf.dtype)
        for leaf in found.recipe.foreign
    }
    parts = _parts(found.recipe, foreign)
    below = _together(p.below for p in parts)
    own = recipe_step("pointwise", found.recipe, found.grid, below)
    make = partial(_rebuilt, found.recipe, found.grid, tuple(p.recipe for p in parts))
    origin = Origin(make, tuple(parts))
    return Lazy(found.recipe, found.grid, foreign, below, (*below, own), array, origin)


def _foreign(array: da.Array) -> Lazy:
    """Someone else's array: its blocks are computed by dask, on top of steps of ours or not."""
    leaf = Foreign(array.name, array.chunks, array.dtype, reading.is_held(array))
    layers = getattr(array.dask, "layers", {}).values()
    ours = [layer.lazy for layer in layers if is_ours(layer) and layer.lazy is not None]
    own = foreign_step(array.name, array.npartitions)
    steps = (*_together(lazy.steps for lazy in ours), own)
    return Lazy(leaf, array.chunks, {array.name: array}, steps, steps, array)


def _parts(recipe: Recipe, foreign: Mapping[str, da.Array]) -> list[Lazy]:
    """The arrays of ours, and the foreign ones, that a recipe read from a graph rests on."""
    parts: list[Lazy] = []
    stack, seen = [recipe], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if (owner := node.__dict__.get(OWNER)) is not None:
            parts.append(owner)
        elif isinstance(node, Foreign):
            parts.append(described(foreign[node.name]))
        else:
            stack += node.parents
    return parts


def _rebuilt(recipe: Recipe, grid: Grid, old: tuple[Recipe, ...], *parts: Lazy) -> Lazy:
    """A recipe with other recipes in the place of those it rests on."""
    made = {id(o): p.recipe for o, p in zip(old, parts, strict=True)}
    stack = [recipe]
    while stack:
        node = stack[-1]
        missing = [p for p in node.parents if id(p) not in made]
        if id(node) not in made and missing:
            stack += missing
            continue
        if id(node) not in made:
            parents = tuple(made[id(p)] for p in node.parents)
            made[id(node)] = node if parents == node.parents else node.over(parents)
        stack.pop()
    return lazy(made[id(recipe)], grid, *parts, title="pointwise")


def recipe_of(array: Any) -> Recipe:
    """The recipe behind any array: a lazy one's own, else its blocks or its values."""
    if isinstance(array, Lazy):
        return array.recipe
    if isinstance(array, da.Array):
        return described(array).recipe
    return Memory(np.asarray(array))


def foreign_of(*arrays: Any) -> dict[str, da.Array]:
    """Dask arrays, by name, whose blocks the recipes of ``arrays`` need."""
    found: dict[str, da.Array] = {}
    for array in arrays:
        if isinstance(array, Lazy):
            found.update(array.foreign)
    return found


def steps_of(*arrays: Any) -> tuple[Step, ...]:
    """Steps that must have run before ``arrays`` can be read, without the reading itself."""
    return _together(a.below for a in arrays if isinstance(a, Lazy))


def _together(steps: Iterable[Iterable[Step]]) -> tuple[Step, ...]:
    """Steps of several arrays, each once."""
    return tuple({s.token: s for some in steps for s in some}.values())


def source_array(source: Any, grid: Grid) -> da.Array:
    """A format reader's source as a dask array."""
    made: Lazy = derived(partial(lazy, Stored(source), grid, title="open"))
    return made.array

"""Lazy arrays: recipes as plain dask arrays, one task per block.

Only plain ``dask.array.Array`` objects leave the plan. ``as_lazy_array`` reads the recipe of one
back from its graph; ``LazyArray`` describes it while a graph is planned.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import dask
import dask.array as da
import numpy as np
from dask._task_spec import Alias
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from lazyvol.plan import regions
from lazyvol.plan.budget import Budget, Step, fit_to_budget, foreign_step, limited, recipe_step
from lazyvol.plan.graph import reading
from lazyvol.plan.graph.layers import RecipeLayer, ResultLayer, has_recipe
from lazyvol.plan.recipes.base import Recipe, Source, cache_properties, steps_above
from lazyvol.plan.recipes.leaves import Foreign, InMemory, Stored
from lazyvol.plan.regions import Grid


@dataclass(eq=False)
class LazyArray:
    """A dask array while graphs are planned: its recipe, its blocks, and the steps before it.

    ``foreign`` are the dask arrays whose blocks the recipe needs, by name. ``below`` are the steps
    that must run before it can be read; ``steps`` are these and its own.
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
    """The call that built an array, to build it again under another budget."""

    build: Callable[..., Any]
    arrays: tuple[Any, ...] = ()
    key: str | None = None


@dataclass(frozen=True, eq=False)
class BlockedRecipe:
    """A recipe and the blocks to compute it in."""

    recipe: Recipe
    grid: Grid
    title: str


def deferred(build: Callable[..., Any], *arrays: Any) -> Any:
    """Return ``build(*arrays)`` as a lazy array, which remembers the call as its origin.

    ``build`` returns a recipe with its blocks, a lazy array, or a dict of lazy arrays; it must not
    hold arrays itself.
    """
    built = build(*arrays)
    if isinstance(built, BlockedRecipe):
        built = lazy_array(built.recipe, built.grid, *arrays, title=built.title)
    for key, array in built.items() if isinstance(built, dict) else [(None, built)]:
        array.origin = Origin(build, arrays, key)
    return built


def refit(array: Any, budget: Budget, refitted: dict[str, Any] | None = None) -> Any:
    """Build ``array`` again, with everything below it, so that it fits ``budget``."""
    if not isinstance(array, da.Array):
        return array
    refitted = {} if refitted is None else refitted
    with limited(budget.memory, budget.workers):
        return _rebuild(as_lazy_array(array), refitted).array


def _rebuild(lazy: LazyArray, rebuilt: dict[str, Any]) -> LazyArray:
    """Build a lazy array again after the arrays it depends on, without recursion."""
    stack = [lazy]
    while stack:
        current = stack[-1]
        if current.name in rebuilt:
            stack.pop()
            continue
        origin = current.origin
        if origin is None:
            rebuilt[current.name] = current
            continue
        inputs = [a for a in origin.arrays if isinstance(a, LazyArray)]
        missing = [a for a in inputs if a.name not in rebuilt]
        if missing:
            stack += missing
            continue
        arrays = (rebuilt[a.name] if isinstance(a, LazyArray) else a for a in origin.arrays)
        built = deferred(origin.build, *arrays)
        rebuilt[current.name] = built if origin.key is None else built[origin.key]
    return cast(LazyArray, rebuilt[lazy.name])


#: number of foreign blocks above which neighbours are merged, and the largest merged block in
#: bytes: a filter's task refers to 27 blocks, and the graph of 262,144 blocks takes 115 s
MANY_BLOCKS, SMALL_BLOCK = 10_000, 8 << 20


def lazy_array(recipe: Recipe, grid: Grid, *arrays: Any, title: str = "recipe") -> LazyArray:
    """Return a recipe over ``arrays`` as a dask array, one task per block of ``grid``.

    Under a memory limit, blocks are divided until the tasks that run at once fit. Very many small
    blocks of foreign arrays are merged.
    """
    cache_properties(recipe)
    if recipe.foreign:
        grid = regions.merged(grid, MANY_BLOCKS, SMALL_BLOCK // max(1, recipe.dtype.itemsize))
    grid = fit_to_budget(recipe, grid, Budget.current())
    names = {leaf.name for leaf in recipe.foreign}
    foreign = {n: a for n, a in foreign_arrays(*arrays).items() if n in names}
    below = steps_below(*arrays)
    name = f"lazyvol-{title}-{tokenize(recipe.token, regions.run_lengths(grid))}"
    layer = RecipeLayer(name, recipe, grid, title)
    array = dask_array(layer, foreign.values())
    step = recipe_step(title, recipe, grid, below)
    layer.lazy = LazyArray(recipe, grid, foreign, below, (*below, step), array)
    recipe.__dict__[LAZY_ARRAY] = weakref.ref(layer.lazy)
    return layer.lazy


#: attribute in which a recipe refers to its lazy array, except in tasks. The reference is weak,
#: because recipes are cached as long as the layers of the array's graph live
LAZY_ARRAY = "_lazy_array"


def _lazy_array_of(recipe: Recipe) -> LazyArray | None:
    """Return the lazy array that computes a recipe; None if there is none, or no longer."""
    reference = recipe.__dict__.get(LAZY_ARRAY)
    return None if reference is None else reference()


#: dask's option for the function that optimises graphs of arrays
OPTION = "array_optimize"


def dask_array(layer: RecipeLayer | ResultLayer, dependencies: Iterable[Any]) -> da.Array:
    """Return a layer as a dask array, and let dask optimise graphs of arrays by our function."""
    if OPTION not in dask.config.config:  # else the user's own
        dask.config.set({OPTION: reading.optimize_graph})
    graph = HighLevelGraph.from_collections(layer.name, layer, dependencies=list(dependencies))
    meta = np.empty((0,) * len(layer.grid), layer.dtype)
    return da.Array(graph, layer.name, layer.grid, meta=meta)


def result_array(
    layer: ResultLayer, dependencies: Iterable[Any], below: Iterable[Step], step: Step | None
) -> LazyArray:
    """Return the blocks of a result layer as a lazy array."""
    array = dask_array(layer, dependencies)
    steps = (*below, *(() if step is None else (step,)))
    layer.lazy = LazyArray(layer.recipe, layer.grid, {layer.name: array}, steps, steps, array)
    return layer.lazy


def as_lazy_array(array: da.Array) -> LazyArray:
    """Describe a dask array: by the recipe in its graph, else as a foreign array."""
    layer = getattr(array.dask, "layers", {}).get(array.name)
    if has_recipe(layer) and layer.lazy is not None and layer.grid == array.chunks:
        return layer.lazy
    parsed = None if isinstance(layer, ResultLayer) else reading.read_array(array)
    if parsed is None:
        return _foreign_array(array)
    foreign = {
        leaf.name: reading.trimmed(array.dask, leaf.name, leaf.grid, leaf.dtype)
        for leaf in parsed.recipe.foreign
    }
    inputs = _inputs(parsed.recipe, foreign)
    below = _unique(a.below for a in inputs)
    step = recipe_step("pointwise", parsed.recipe, parsed.grid, below)
    build = partial(_replace_inputs, parsed.recipe, parsed.grid, tuple(a.recipe for a in inputs))
    origin = Origin(build, tuple(inputs))
    steps = (*below, step)
    lazy = LazyArray(parsed.recipe, parsed.grid, foreign, below, steps, array, origin)
    if _lazy_array_of(lazy.recipe) is None:
        lazy.recipe.__dict__[LAZY_ARRAY] = weakref.ref(lazy)
    return lazy


def _foreign_array(array: da.Array) -> LazyArray:
    """Describe an array whose blocks dask computes, possibly from arrays of lazyvol."""
    leaf = Foreign(array.name, array.chunks, array.dtype, reading.is_array_in_memory(array))
    layers = getattr(array.dask, "layers", {}).values()
    below = _unique(x.lazy.steps for x in layers if has_recipe(x) and x.lazy is not None)
    steps = (*below, foreign_step(array.name, array.npartitions))
    return LazyArray(leaf, array.chunks, {array.name: array}, steps, steps, array)


def _inputs(recipe: Recipe, foreign: Mapping[str, da.Array]) -> list[LazyArray]:
    """Return the lazy arrays and the foreign arrays below a recipe that was read from a graph."""
    inputs: list[LazyArray] = []

    def is_input(node: Recipe) -> bool:
        lazy = _lazy_array_of(node)
        if lazy is not None:
            inputs.append(lazy)
        elif isinstance(node, Foreign):
            inputs.append(as_lazy_array(foreign[node.name]))
        return lazy is not None

    list(steps_above(recipe, is_input))
    return inputs


def _replace_inputs(
    recipe: Recipe, grid: Grid, old: tuple[Recipe, ...], *inputs: LazyArray
) -> LazyArray:
    """Build a recipe over other inputs; ``old`` are the recipes of its present inputs."""
    replaced = {id(o): a.recipe for o, a in zip(old, inputs, strict=True)}
    return lazy_array(_rebuilt(recipe, replaced), grid, *inputs, title="pointwise")


def _rebuilt(recipe: Recipe, replaced: dict[int, Recipe]) -> Recipe:
    """Return a recipe over other recipes, which ``replaced`` holds by the ids of the old ones."""
    stack = [recipe]
    while stack:
        node = stack[-1]
        missing = [p for p in node.parents if id(p) not in replaced]
        if id(node) not in replaced and missing:
            stack += missing
            continue
        if id(node) not in replaced:
            parents = tuple(replaced[id(p)] for p in node.parents)
            replaced[id(node)] = node if parents == node.parents else node.with_parents(parents)
        stack.pop()
    return replaced[id(recipe)]


def with_sources(array: da.Array, replace: Callable[[Source], Source]) -> da.Array:
    """Return an array that reads other sources of equal values; foreign arrays below it stay."""
    lazy = as_lazy_array(array)
    steps = steps_above(lazy.recipe, lambda _: False)
    replaced: dict[int, Recipe] = {
        id(s): Stored(replace(s.source)) for s in steps if isinstance(s, Stored)
    }
    if not replaced:
        return array
    inputs = (as_lazy_array(foreign) for foreign in lazy.foreign.values())
    recipe = _rebuilt(lazy.recipe, replaced)
    return lazy_array(recipe, lazy.chunks, *inputs, title="other-sources").array


def computed_once(lazy: LazyArray) -> LazyArray:
    """Return an array whose blocks are computed once and passed to the tasks that need them."""
    if isinstance(lazy.recipe, Foreign):
        return lazy
    return cast(LazyArray, deferred(_computed_once, lazy))


def _computed_once(lazy: LazyArray) -> LazyArray:
    name = f"{lazy.name}-computed-once"
    tasks = {
        (name, *index): Alias((name, *index), (lazy.name, *index))
        for index, _ in regions.boxes(lazy.chunks)
    }
    layer = ResultLayer(name, tasks, lazy.chunks, lazy.dtype)
    return result_array(layer, [lazy.array], lazy.steps, None)


def recipe_of(array: Any) -> Recipe:
    """Return the recipe of any array: of a lazy one, of its blocks, or of its values."""
    if isinstance(array, LazyArray):
        return array.recipe
    if isinstance(array, da.Array):
        return as_lazy_array(array).recipe
    return InMemory(np.asarray(array))


def foreign_arrays(*arrays: Any) -> dict[str, da.Array]:
    """Return the dask arrays, by name, whose blocks the recipes of ``arrays`` need."""
    foreign: dict[str, da.Array] = {}
    for array in arrays:
        if isinstance(array, LazyArray):
            foreign.update(array.foreign)
    return foreign


def steps_below(*arrays: Any) -> tuple[Step, ...]:
    """Return the steps that must run before ``arrays`` can be read."""
    return _unique(a.below for a in arrays if isinstance(a, LazyArray))


def _unique(steps: Iterable[Iterable[Step]]) -> tuple[Step, ...]:
    """Return the steps of several arrays, each once."""
    return tuple({s.token: s for group in steps for s in group}.values())


def source_array(source: Any, grid: Grid) -> da.Array:
    """Return a format reader's source as a dask array."""
    return cast(da.Array, deferred(partial(BlockedRecipe, Stored(source), grid, "open")).array)

"""Lazy arrays: recipes as dask arrays, one task per block.

A ``LazyArray`` is a plain dask array that remembers its recipe, so that the next operation can
ask it for any region and a selection reaches the stored data. Everything dask and xarray do with
a dask array still works; what they return is then foreign, and read block by block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from lazyvol.plan import arithmetic, planes, regions
from lazyvol.plan.budget import Budget, Step, fitted, foreign_step, limited, recipe_step
from lazyvol.plan.indexing import cut, is_full, picks, selects
from lazyvol.plan.recipe import Array, Foreign, Key, Memory, Recipe, Stored, foreign_blocks, leaves
from lazyvol.plan.regions import Grid, Region
from lazyvol.plan.selecting import Aligned, Sliced
from lazyvol.plan.threads import one_thread_each


class LazyArray(da.Array):  # type: ignore[misc]
    """A dask array that can still tell how any region of it is made."""

    recipe: Recipe
    foreign: Mapping[str, da.Array]
    steps: tuple[Step, ...]
    origin: "Origin"

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (self.recipe, self.foreign, self.steps, self.origin)
        return (_remember, (super().__reduce__(), *facts))

    def __dask_postcompute__(self) -> tuple[Any, ...]:
        return planes.joined, ()

    def __getitem__(self, index: Any) -> da.Array:
        if selects(index, self.shape):
            return derived(partial(_select, index), self)
        return super().__getitem__(index)

    def transpose(self, *axes: Any) -> da.Array:
        """The array with its axes in another order; still lazy by region."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(a % self.ndim for a in order) if order else tuple(range(self.ndim))[::-1]
        if order == tuple(range(self.ndim)):
            return self
        return derived(partial(_turned, order), self)

    def astype(self, dtype: Any, **kwargs: Any) -> da.Array:
        """The array in another dtype; still lazy by region where nothing else is asked."""
        if set(kwargs) - {"copy"}:
            return super().astype(dtype, **kwargs)
        if np.dtype(dtype) == self.dtype:
            return self
        return derived(partial(arithmetic.apply, arithmetic.Cast(np.dtype(dtype))), self)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__" and not kwargs and ufunc.nout == 1 and arithmetic.fits(*inputs):
            return derived(partial(arithmetic.apply, ufunc), *inputs)
        return super().__array_ufunc__(ufunc, method, *inputs, **kwargs)


arithmetic.install_operators(LazyArray)


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
        if isinstance(array, LazyArray):
            array.origin = Origin(make, arrays, key)
    return made


def refit(array: Any, budget: Budget, done: dict[str, Any] | None = None) -> Any:
    """``array`` made again, with everything below it, so that it fits ``budget``."""
    done = {} if done is None else done
    with limited(budget.memory, budget.workers):
        return _again(array, done)


def _again(array: Any, done: dict[str, Any]) -> Any:
    if not isinstance(array, LazyArray):
        return array
    if array.name not in done:
        origin = array.origin
        made = derived(origin.make, *(_again(a, done) for a in origin.arrays))
        done[array.name] = made if origin.key is None else made[origin.key]
    return done[array.name]


def _remember(
    plain: tuple[Callable[..., da.Array], tuple[Any, ...]],
    recipe: Recipe,
    foreign: Mapping[str, da.Array],
    steps: tuple[Step, ...],
    origin: Origin,
) -> LazyArray:
    make, args = plain
    found = dressed(make(*args), recipe, foreign, steps)
    found.origin = origin
    return found


def dressed(
    array: da.Array, recipe: Recipe, foreign: Mapping[str, da.Array], steps: tuple[Step, ...]
) -> LazyArray:
    """A dask array with what makes it a lazy array."""
    lazy: LazyArray = LazyArray(array.dask, array.name, array.chunks, meta=array._meta)
    lazy.recipe, lazy.foreign, lazy.steps = recipe, foreign, steps
    return lazy


@dataclass(frozen=True, eq=False)
class Reader:
    """A recipe that dask may index: what its tasks hold."""

    recipe: Recipe

    @property
    def shape(self) -> tuple[int, ...]:
        return self.recipe.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.recipe.dtype

    @property
    def ndim(self) -> int:
        return self.recipe.ndim

    def __getitem__(self, index: Any) -> Array:
        found = picks(index, self.shape)
        if found is None:
            raise IndexError(f"a recipe is indexed by integers, slices and lists, got {index=}")
        part = Sliced(self.recipe, found)
        with one_thread_each():
            return finished(part, part.read(regions.whole(part.shape), {}))

    def __dask_tokenize__(self) -> str:
        return self.recipe.token


@dataclass(frozen=True)
class Wanted:
    """Where the foreign blocks of one task lie: name and box, in the order they are handed."""

    places: tuple[tuple[str, Region], ...]

    def given(self, blocks: Sequence[Array]) -> dict[str, list[tuple[Region, Array]]]:
        """Blocks by the name of the array they come from."""
        found: dict[str, list[tuple[Region, Array]]] = {}
        for (name, box), values in zip(self.places, blocks, strict=True):
            found.setdefault(name, []).append((box, values))
        return found


def finished(recipe: Recipe, values: Array, blocks: Sequence[Array] = ()) -> Array:
    """What leaves a task that was handed ``blocks``: of the declared dtype, and safe to keep.

    A view of a larger block would keep all of it; one of a user's own array could be written to.
    """
    values = np.asarray(values, recipe.dtype)
    owner = values if values.base is None else values.base
    whole = isinstance(owner, np.ndarray) and owner.nbytes <= values.nbytes
    own = whole and not (is_local(recipe) and _is_of(owner, recipe, blocks))
    return values if own and planes.is_dense(values) else values.copy("K")


def _is_of(owner: Array, recipe: Recipe, blocks: Sequence[Array]) -> bool:
    """Whether memory is that of an array behind a recipe."""
    held = [leaf.values for leaf in leaves(recipe) if isinstance(leaf, Memory)]
    return any(np.may_share_memory(owner, a) for a in (*held, *blocks))


def run_block(recipe: Recipe, region: Region, wanted: Wanted, blocks: Sequence[Array]) -> Array:
    """One task of a recipe that rests on foreign blocks."""
    with one_thread_each():
        return finished(recipe, recipe.read(region, wanted.given(blocks)), blocks)


def needs(*parts: tuple[Recipe, Region]) -> tuple[Wanted, list[Key]]:
    """Foreign blocks behind regions of recipes: where they lie, and their keys."""
    found: dict[Key, tuple[Foreign, Region]] = {}
    for recipe, region in parts:
        found.update(foreign_blocks(recipe, region))
    return Wanted(tuple((leaf.name, box) for leaf, box in found.values())), list(found)


@dataclass(frozen=True, eq=False)
class Blocks:
    """A recipe cut into blocks, which becomes a lazy array, or values in memory."""

    recipe: Recipe
    grid: Grid
    title: str


def lazily(make: Callable[..., "Blocks | LazyArray"], *arrays: Any) -> LazyArray:
    """Lazy array of what ``make(*arrays)`` says; it remembers how it was made."""
    return cast(LazyArray, derived(partial(_lazily, make), *arrays))


def _lazily(make: Callable[..., "Blocks | LazyArray"], *arrays: Any) -> LazyArray:
    made = make(*arrays)
    if isinstance(made, LazyArray):
        return made
    return lazy(made.recipe, made.grid, *arrays, title=made.title)


def lazy(recipe: Recipe, grid: Grid, *arrays: Any, title: str = "recipe") -> LazyArray:
    """A recipe over ``arrays`` as a dask array, one task per block of ``grid``.

    Under a memory limit the blocks are cut further, until the tasks that run at once fit it.
    """
    grid = fitted(recipe, grid, Budget.current())
    foreign, steps = foreign_of(*arrays), steps_of(*arrays)
    name = f"lazyvol-{title}-{tokenize(recipe.token, grid)}"
    meta = np.empty((0,) * recipe.ndim, recipe.dtype)
    if not foreign and recipe.ndim:
        array = da.from_array(
            Reader(recipe), grid, name=name, asarray=False, fancy=False, meta=meta
        )
    else:
        array = _on_blocks(recipe, grid, foreign, name, meta)
    return dressed(array, recipe, foreign, (*steps, recipe_step(title, recipe, grid, steps)))


def _on_blocks(
    recipe: Recipe, grid: Grid, foreign: Mapping[str, da.Array], name: str, meta: Array
) -> da.Array:
    shared = f"{name}-recipe"
    tasks: dict[Any, Any] = {shared: recipe}
    for index, region in regions.boxes(grid):
        wanted, keys = needs((recipe, region))
        tasks[(name, *index)] = (run_block, shared, region, wanted, keys)
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=list(foreign.values()))
    return da.Array(graph, name, grid, meta=meta)


def recipe_of(array: Any) -> Recipe:
    """The recipe behind any array: a lazy one's own, else its blocks or its values."""
    if isinstance(array, LazyArray):
        return array.recipe
    if isinstance(array, da.Array):
        return Foreign(array.name, array.chunks, array.dtype, _is_held(array))
    return Memory(np.asarray(array))


def _is_held(array: da.Array) -> bool:
    """Whether the blocks of a dask array are numpy arrays that lie in its graph."""
    layer = getattr(array.dask, "layers", {}).get(array.name)
    return isinstance(layer, MaterializedLayer) and all(
        isinstance(block, np.ndarray) for block in layer.values()
    )


def foreign_of(*arrays: Any) -> dict[str, da.Array]:
    """Dask arrays, by name, whose blocks the recipes of ``arrays`` need."""
    found: dict[str, da.Array] = {}
    for array in arrays:
        if isinstance(array, LazyArray):
            found.update(array.foreign)
        elif isinstance(array, da.Array):
            found[array.name] = array
    return found


def steps_of(*arrays: Any) -> tuple[Step, ...]:
    """Steps that must have run before ``arrays`` can be read, without the reading itself."""
    found: dict[str, Step] = {}
    for array in arrays:
        if isinstance(array, LazyArray):
            below = array.steps if isinstance(array.recipe, Foreign) else array.steps[:-1]
            found.update((s.token, s) for s in below)
        elif isinstance(array, da.Array):
            step = foreign_step(array.name, array.npartitions)
            found[step.token] = step
    return tuple(found.values())


def source_array(source: Any, grid: Grid) -> LazyArray:
    """A format reader's source as a lazy array."""
    made: LazyArray = derived(partial(lazy, Stored(source), grid, title="open"))
    return made


def is_local(recipe: Recipe) -> bool:
    """Whether a recipe rests on someone's array in memory."""
    return any(isinstance(leaf, Memory) or is_held(leaf) for leaf in leaves(recipe))


def is_held(leaf: Recipe) -> bool:
    """Whether a leaf is a foreign array whose blocks are in memory already."""
    return isinstance(leaf, Foreign) and leaf.held


def _select(index: Any, array: LazyArray) -> LazyArray:
    plain = index if isinstance(index, tuple) else (index,)
    if any(i is None for i in plain):
        return _with_new_axes(plain, array)
    recipe = Sliced(array.recipe, picks(index, array.shape) or ())
    grid = tuple(cut(array.chunks[a], recipe.picks[a]) for a in recipe.kept)
    return lazy(recipe, grid, array, title="select")


def _with_new_axes(index: tuple[Any, ...], array: LazyArray) -> LazyArray:
    """``array[None, :, None]``: xarray broadcasts this way."""
    if Ellipsis not in index:
        index = (*index, Ellipsis)
    at = index.index(Ellipsis)
    fill = (slice(None),) * (array.ndim - sum(is_full(i) for i in index))
    numbers = iter(range(array.ndim))
    full = index[:at] + fill + index[at + 1 :]
    return _turned(tuple(None if i is None else next(numbers) for i in full), array)


def _turned(axes: tuple[int | None, ...], array: LazyArray) -> LazyArray:
    grid = tuple((1,) if a is None else array.chunks[a] for a in axes)
    return lazy(Aligned(array.recipe, axes), grid, array, title="turn")

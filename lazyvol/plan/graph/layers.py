"""Layers of dask graphs that say what they are: the recipe of an array is read from its graph.

A stack holds a plain dask array. The layer of the graph that bears the array's name is one of
these where the array is ours: then its recipe is known, and stays true, since whatever dask or
xarray make of the array (or put in its place) has a layer of another name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import clone_key
from dask.highlevelgraph import Layer, MaterializedLayer

from lazyvol.plan import regions
from lazyvol.plan.blas_threads import one_thread_each
from lazyvol.plan.evaluate import evaluate, program_of
from lazyvol.plan.graph.results import finished
from lazyvol.plan.recipes.base import Array, Foreign, Recipe, leaves
from lazyvol.plan.recipes.handed_blocks import handed
from lazyvol.plan.regions import Grid, Region

if TYPE_CHECKING:
    from lazyvol.plan.graph.lazy_array import Lazy

#: names and regions of the foreign blocks that a task is handed, in their order
Places = Sequence[tuple[str, Region]]


def run_block(recipe: Recipe, region: Region, places: Places, blocks: Sequence[Array]) -> Array:
    """One task: the values of a region, out of stored data and the blocks it is handed."""
    with one_thread_each():
        return finished(recipe, evaluate(recipe, region, handed(places, blocks)), blocks)


def needs(*parts: tuple[Recipe, Region]) -> tuple[Places, List]:
    """Foreign blocks behind regions of recipes: their names and regions, and their keys."""
    found: dict[Any, tuple[Foreign, Region]] = {}
    for recipe, region in parts:
        if recipe.foreign:
            found.update(program_of(recipe).foreign_blocks(region))
    places = tuple((leaf.name, box) for leaf, box in found.values())
    return places, List(*(TaskRef(key) for key in found))


class RecipeLayer(Layer):  # type: ignore[misc]
    """Blocks of a recipe, one task each; tasks are made when a scheduler asks for them."""

    has_legacy_tasks = False

    def __init__(self, name: str, recipe: Recipe, grid: Grid, title: str) -> None:
        super().__init__()
        self.name, self.recipe, self.grid, self.title = name, recipe, grid, title
        #: how the array was made, and what it rests on; known where it was made
        self.lazy: Lazy | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        grids = {leaf.name: leaf.grid for leaf in self.recipe.foreign}
        return _unpickled, (self.name, self.recipe, self.grid, self.title, grids, self.annotations)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.recipe.dtype

    def __getitem__(self, key: Any) -> Task:
        if key not in self:
            raise KeyError(key)
        region = tuple(self._spans[axis][n] for axis, n in enumerate(key[1:]))
        places, blocks = needs((self.recipe, region))
        return Task(key, run_block, self.recipe, region, places, blocks)

    @property
    def _spans(self) -> list[list[slice]]:
        found: list[list[slice]] | None = self.__dict__.get("_all_spans")
        if found is None:
            found = self.__dict__["_all_spans"] = [regions.spans(c) for c in self.grid]
        return found

    def __contains__(self, key: Any) -> bool:
        return (
            isinstance(key, tuple)
            and len(key) == len(self.grid) + 1
            and key[0] == self.name
            and all(0 <= n < len(c) for n, c in zip(key[1:], self.grid, strict=True))
        )

    def __iter__(self) -> Iterator[Any]:
        return ((self.name, *index) for index, _ in regions.boxes(self.grid))

    def __len__(self) -> int:
        return regions.count(self.grid)

    def is_materialized(self) -> bool:
        return False

    def get_output_keys(self) -> Any:
        return self.keys()

    def cull(
        self, keys: set[Any], all_hlg_keys: Collection[Any]
    ) -> tuple[Layer, Mapping[Any, Any]]:
        tasks = {key: self[key] for key in keys if key in self}
        layer = MaterializedLayer(tasks, annotations=self.annotations)
        return layer, {key: set(task.dependencies) for key, task in tasks.items()}

    def clone(
        self, keys: set[Any], seed: Any, bind_to: Any = None
    ) -> tuple[MaterializedLayer, bool]:
        return _cloned(self, keys, seed, bind_to)


def _unpickled(
    name: str, recipe: Recipe, grid: Grid, title: str, grids: Mapping[str, Grid], annotations: Any
) -> RecipeLayer:
    for leaf in leaves(recipe):
        if isinstance(leaf, Foreign):
            leaf.__dict__["grid"] = grids[leaf.name]
    layer = RecipeLayer(name, recipe, grid, title)
    layer.annotations = annotations
    return layer


class TaskLayer(MaterializedLayer):  # type: ignore[misc]
    """Tasks of ours under names of their own."""

    def clone(
        self, keys: set[Any], seed: Any, bind_to: Any = None
    ) -> tuple[MaterializedLayer, bool]:
        return _cloned(self, keys, seed, bind_to)


def _cloned(
    layer: Mapping[Any, Task], keys: set[Any], seed: Any, bind_to: Any
) -> tuple[TaskLayer, bool]:
    """A layer under other keys; dask's own cloning leaves the arguments of tasks as they were."""
    tasks: dict[Any, Any] = {}
    bound = False
    for key, task in layer.items():
        own = clone_key(key, seed) if key in keys else key
        renamed = {d: clone_key(d, seed) for d in task.dependencies if d in keys}
        tasks[own] = task.substitute(renamed, key=own)
        if bind_to is not None and key in keys and not renamed:
            tasks[own] = Task(own, _after, TaskRef(bind_to), task.func, *task.args)
            bound = True
    return TaskLayer(tasks), bound


def _after(_: Any, function: Any, *arguments: Any) -> Any:
    return function(*arguments)


class ResultLayer(TaskLayer):
    """Blocks that several tasks have made before they are read: results of folds, tables."""

    def __init__(self, name: str, tasks: Mapping[Any, Any], grid: Grid, dtype: np.dtype[Any]):
        super().__init__(dict(tasks))
        self.name, self.grid, self.dtype = name, grid, dtype
        self.lazy: Lazy | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lazy": None}

    @property
    def recipe(self) -> Recipe:
        return Foreign(self.name, self.grid, self.dtype)


def is_ours(layer: Any) -> TypeGuard[RecipeLayer | ResultLayer]:
    """Return True for a layer that says what it is."""
    return isinstance(layer, RecipeLayer | ResultLayer)


def held_blocks(layer: Any) -> dict[tuple[int, ...], Array] | None:
    """Blocks by index of a layer that holds numpy arrays and nothing else; else None."""
    if type(layer) is not MaterializedLayer or not layer:
        return None
    found: dict[tuple[int, ...], Array] = {}
    for key, value in layer.items():
        block = getattr(value, "value", value)
        if not isinstance(block, np.ndarray) or not isinstance(key, tuple):
            return None
        found[key[1:]] = block
    return found


def names_in(keys: Iterable[Any]) -> set[str]:
    """Names of the arrays that keys of blocks belong to."""
    return {key[0] for key in keys if isinstance(key, tuple) and key and isinstance(key[0], str)}

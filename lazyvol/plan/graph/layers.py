"""Layers of dask graphs that hold the recipe of their array.

A stack holds a plain dask array. If lazyvol built the array, the layer of its graph that bears the
array's name is one of these, and holds its recipe. The recipe stays true: an array that dask or
xarray derive from this one (or put in its place) has a layer of another name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import clone_key
from dask.highlevelgraph import Layer, MaterializedLayer

from lazyvol.plan import regions
from lazyvol.plan.evaluate import program_of, run_shared
from lazyvol.plan.recipes.base import Array, Recipe, Shared, leaves
from lazyvol.plan.recipes.leaves import BlockRefs, Foreign
from lazyvol.plan.regions import Grid, Region

if TYPE_CHECKING:
    from lazyvol.plan.graph.lazy_array import LazyArray


def required_blocks(*parts: tuple[Recipe, Region]) -> tuple[BlockRefs, List]:
    """Return the foreign blocks that regions of recipes depend on: references and task keys."""
    required: dict[Any, tuple[Foreign, Region]] = {}
    for recipe, region in parts:
        if recipe.foreign:
            required.update(program_of(recipe).foreign_blocks(region))
    refs = tuple((leaf.name, box) for leaf, box in required.values())
    return refs, List(*(TaskRef(key) for key in required))


class RecipeLayer(Layer):  # type: ignore[misc]
    """Blocks of a recipe, one task each; tasks are built when a scheduler asks for them."""

    has_legacy_tasks = False

    def __init__(self, name: str, recipe: Recipe, grid: Grid, title: str) -> None:
        super().__init__()
        self.name, self.recipe, self.grid, self.title = name, recipe, grid, title
        #: the call that built the array, and its dependencies; known in the process that built it
        self.lazy: LazyArray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        grids = {leaf.name: leaf.grid for leaf in self.recipe.foreign}
        return _unpickle, (self.name, self.recipe, self.grid, self.title, grids, self.annotations)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.recipe.dtype

    def __getitem__(self, key: Any) -> Task:
        if key not in self:
            raise KeyError(key)
        region = tuple(self._spans[axis][n] for axis, n in enumerate(key[1:]))
        refs, blocks = required_blocks((self.recipe, region))
        return Task(key, run_shared, self._shared, region, refs, blocks)

    @cached_property
    def _shared(self) -> Shared[Recipe]:
        return Shared(self.recipe)

    @cached_property
    def _spans(self) -> list[list[slice]]:
        return [regions.chunk_slices(c) for c in self.grid]

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
        return _clone(self, keys, seed, bind_to)


def _unpickle(
    name: str, recipe: Recipe, grid: Grid, title: str, grids: Mapping[str, Grid], annotations: Any
) -> RecipeLayer:
    for leaf in leaves(recipe):
        if isinstance(leaf, Foreign):
            leaf.__dict__["grid"] = grids[leaf.name]
    layer = RecipeLayer(name, recipe, grid, title)
    layer.annotations = annotations
    return layer


class TaskLayer(MaterializedLayer):  # type: ignore[misc]
    """Materialised tasks that can be cloned under other keys."""

    def clone(
        self, keys: set[Any], seed: Any, bind_to: Any = None
    ) -> tuple[MaterializedLayer, bool]:
        return _clone(self, keys, seed, bind_to)


def _clone(
    layer: Mapping[Any, Task], keys: set[Any], seed: Any, bind_to: Any
) -> tuple[TaskLayer, bool]:
    """Copy a layer under other keys; dask's own cloning does not rename the arguments of tasks."""
    tasks: dict[Any, Any] = {}
    is_bound = False
    for key, task in layer.items():
        new_key = clone_key(key, seed) if key in keys else key
        renamed = {d: clone_key(d, seed) for d in task.dependencies if d in keys}
        tasks[new_key] = task.substitute(renamed, key=new_key)
        if bind_to is not None and key in keys and not renamed:
            tasks[new_key] = Task(new_key, _call_after, TaskRef(bind_to), task.func, *task.args)
            is_bound = True
    return TaskLayer(tasks), is_bound


def _call_after(_: Any, function: Any, *arguments: Any) -> Any:
    return function(*arguments)


class ResultLayer(TaskLayer):
    """Blocks that other tasks must have computed before they are read: results of folds, tables."""

    def __init__(self, name: str, tasks: Mapping[Any, Any], grid: Grid, dtype: np.dtype[Any]):
        super().__init__(dict(tasks))
        self.name, self.grid, self.dtype = name, grid, dtype
        self.lazy: LazyArray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lazy": None}

    @property
    def recipe(self) -> Recipe:
        return Foreign(self.name, self.grid, self.dtype)


def has_recipe(layer: Any) -> TypeGuard[RecipeLayer | ResultLayer]:
    """Return True for a layer that holds the recipe of its array."""
    return isinstance(layer, RecipeLayer | ResultLayer)


def blocks_in_memory(layer: Any) -> dict[tuple[int, ...], Array] | None:
    """Return the blocks of a layer by index if all are numpy arrays without masks, else None."""
    if type(layer) is not MaterializedLayer or not layer:
        return None
    blocks: dict[tuple[int, ...], Array] = {}
    for key, value in layer.items():
        block = getattr(value, "value", value)
        if type(block) is not np.ndarray or not isinstance(key, tuple):
            return None
        blocks[key[1:]] = block
    return blocks


def array_names(keys: Iterable[Any]) -> set[str]:
    """Return the names of the arrays that block keys belong to."""
    return {key[0] for key in keys if isinstance(key, tuple) and key and isinstance(key[0], str)}

"""Values that leave a task: of the declared type, and safe to keep."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.plan import memory_order
from lazyvol.plan.recipes.base import Array, Foreign, Memory, Recipe, leaves


def finished(recipe: Recipe, values: Array, blocks: Sequence[Any] = ()) -> Array:
    """Cast values to the declared type; copy what must not leave a task.

    A view of a larger block would keep all of it in memory; a view of a user's own array, or of
    one of ``blocks``, which the task was handed, could be written to.
    """
    values = np.asarray(values, recipe.dtype)
    owner = values if values.base is None else values.base
    whole = isinstance(owner, np.ndarray) and owner.nbytes <= values.nbytes
    own = whole and not _is_of(owner, recipe, blocks)
    return values if own and memory_order.is_dense(values) else values.copy("K")


def _is_of(owner: Array, recipe: Recipe, blocks: Sequence[Any]) -> bool:
    """Return True if memory is that of an array behind a recipe."""
    held = [leaf.values for leaf in leaves(recipe) if isinstance(leaf, Memory)]
    return any(np.may_share_memory(owner, a) for a in (*held, *blocks) if isinstance(a, np.ndarray))


def is_held(leaf: Recipe) -> bool:
    """Return True if a leaf is a foreign array whose blocks are in memory already."""
    return isinstance(leaf, Foreign) and leaf.held

"""Values that leave tasks: of the declared dtype and safe to keep, or joined into one array."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyvol.plan import regions
from lazyvol.plan.blas_threads import each_in_threads
from lazyvol.plan.recipes.base import Array, Recipe, leaves
from lazyvol.plan.recipes.leaves import InMemory


def owned_result(recipe: Recipe, values: Array, blocks: Sequence[Any] = ()) -> Array:
    """Cast a task's result to the declared dtype; copy it if it must not leave the task.

    A view of a larger buffer would keep the whole buffer in memory. A view of a user's array, or of
    one of the task's input ``blocks``, could be written to.
    """
    values = np.asarray(values, recipe.dtype)
    owner = values if values.base is None else values.base
    owns_memory = isinstance(owner, np.ndarray) and owner.nbytes <= values.nbytes
    is_safe = owns_memory and not _is_input(owner, recipe, blocks)
    return values if is_safe and is_dense(values) else values.copy("K")


def _is_input(owner: Array, recipe: Recipe, blocks: Sequence[Any]) -> bool:
    """Return True if memory belongs to an input array of a task."""
    inputs = [leaf.values for leaf in leaves(recipe) if isinstance(leaf, InMemory)]
    inputs += [b for b in blocks if isinstance(b, np.ndarray)]
    return any(np.may_share_memory(owner, a) for a in inputs)


def is_dense(values: Array) -> bool:
    """Return True if values are contiguous in memory, in any order of their axes."""
    return bool(values.transpose(_memory_order(values)).flags.c_contiguous)


def _memory_order(values: Array) -> list[int]:
    """Return the axes from the slowest in memory to the fastest."""
    return sorted(range(values.ndim), key=lambda axis: -values.strides[axis])


def join_blocks(blocks: Any) -> Array:
    """Join nested lists of blocks into one array of their memory order; return a lone block itself.

    Dask joins in C order, which takes a Hessian whose components are whole volumes 2.1 times as
    long (16 x 96^3: 158 against 69 ms of CPU time), in one thread (laplace of 16 x 128^3: 135
    against 110 ms), and copies a lone block.
    """
    by_index = dict(_indexed(blocks))
    ndim = len(next(iter(by_index)))
    first = by_index[(0,) * ndim]
    if len(by_index) == 1:
        return first
    grid = tuple(_chunks(by_index, axis) for axis in range(ndim))
    order = _memory_order(first)
    joined = np.empty([sum(grid[a]) for a in order], first.dtype).transpose(np.argsort(order))

    def insert(box: tuple[tuple[int, ...], regions.Region]) -> None:
        joined[box[1]] = by_index[box[0]]

    each_in_threads(insert, list(regions.boxes(grid)))
    return joined


@dataclass(frozen=True)
class JoinedOnCopy:
    """Blocks that are joined by ``copy``, which dask calls to get the array of a lone block."""

    blocks: Any

    def copy(self) -> Array:
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


def _chunks(by_index: dict[tuple[int, ...], Array], axis: int) -> tuple[int, ...]:
    """Return the lengths of the blocks along one axis."""
    lengths = {
        index[axis]: block.shape[axis]
        for index, block in by_index.items()
        if not any(index[:axis] + index[axis + 1 :])
    }
    return tuple(lengths[n] for n in range(len(lengths)))

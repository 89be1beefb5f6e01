"""How values lie in memory, and how blocks become one array.

Components are the last axes of a result and come first in memory, whole volumes each, written and
read as runs: nine side by side of each voxel took twice as long to write (128^3 float32).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lazyvol.plan import regions
from lazyvol.plan.blas_threads import each_here

Array = np.ndarray[Any, np.dtype[Any]]


def empty(shape: Sequence[int], dtype: np.dtype[Any], planes: int) -> Array:
    """Memory whose last ``planes`` axes come first."""
    own = len(shape) - planes
    return _last(np.empty((*shape[own:], *shape[:own]), dtype), planes)


def is_dense(values: Array) -> bool:
    """Whether values lie without gaps, whatever the order of their axes."""
    return bool(values.transpose(_order(values)).flags.c_contiguous)


def runs(values: Array, planes: int) -> bool:
    """Whether the values of each plane lie in their order, without gaps."""
    return bool(_first(values, planes)[(0,) * planes].flags.c_contiguous)


#: bytes that several threads copy in less time than one: fresh memory costs most of it
SEVERAL = 2**23


def joined(blocks: Any) -> Array:
    """Nested lists of blocks as one array that lies as they do; a lone block as it is.

    Dask joins in one thread, into another order, and copies a lone block.
    """
    parts = dict(_nested(blocks))
    ndim = len(next(iter(parts)))
    if len(parts) == 1:
        return next(iter(parts.values()))
    grid = tuple(_lengths(parts, axis) for axis in range(ndim))
    first = parts[(0,) * ndim]
    order = _order(first)
    shape = [sum(grid[axis]) for axis in order]
    found = np.empty(shape, first.dtype).transpose(np.argsort(order))

    def put(place: tuple[tuple[int, ...], regions.Region]) -> None:
        index, box = place
        found[box] = parts[index]

    each_here(put, list(regions.boxes(grid)), several=found.nbytes > SEVERAL)
    return found


def _nested(blocks: Any) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Blocks with their places in nested lists."""
    if not isinstance(blocks, list | tuple):
        yield (), blocks
        return
    for n, below in enumerate(blocks):
        for index, block in _nested(below):
            yield (n, *index), block


def _lengths(parts: dict[tuple[int, ...], Array], axis: int) -> tuple[int, ...]:
    """Lengths of the blocks along one axis."""
    along = {i[axis]: b.shape[axis] for i, b in parts.items() if not any(i[:axis] + i[axis + 1 :])}
    return tuple(along[n] for n in range(len(along)))


def _order(values: Array) -> list[int]:
    """Axes from the slowest in memory to the fastest."""
    return sorted(range(values.ndim), key=lambda axis: -values.strides[axis])


def _first(values: Array, planes: int) -> Array:
    own = values.ndim - planes
    return values.transpose(*range(own, values.ndim), *range(own))


def _last(values: Array, planes: int) -> Array:
    return values.transpose(*range(planes, values.ndim), *range(planes))

"""Values whose last axes come first in memory: components that are whole volumes each.

Written, and read one by one, as runs: nine components side by side of each voxel took twice as long
to write as nine volumes (128^3 float32, two threads).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import numpy as np
from dask.system import CPU_COUNT

from lazyvol.plan import regions

Array = np.ndarray[Any, np.dtype[Any]]


def empty(shape: Sequence[int], dtype: np.dtype[Any], planes: int) -> Array:
    """Memory whose last ``planes`` axes come first."""
    own = len(shape) - planes
    return _last(np.empty((*shape[own:], *shape[:own]), dtype), planes)


def is_dense(values: Array, planes: int) -> bool:
    """Whether all values lie in their order, without gaps."""
    return bool(_first(values, planes).flags.c_contiguous)


def dense(values: Array, planes: int) -> Array:
    """A copy in that order."""
    return _last(_first(values, planes).copy(), planes)


def runs(values: Array, planes: int) -> bool:
    """Whether the values of each plane lie in their order, without gaps."""
    return bool(_first(values, planes)[(0,) * planes].flags.c_contiguous)


#: bytes that several threads copy in less time than one: fresh memory costs most of it
SEVERAL = 2**23


def joined(blocks: Any, planes: int) -> Array:
    """Nested lists of blocks as one array; a lone block as it is.

    Dask joins in one thread, and copies a lone block.
    """
    parts = dict(_nested(blocks))
    ndim = len(next(iter(parts)))
    if len(parts) == 1:
        return next(iter(parts.values()))
    grid = tuple(_lengths(parts, axis) for axis in range(ndim))
    found = empty([sum(own) for own in grid], parts[(0,) * ndim].dtype, planes)

    def put(place: tuple[tuple[int, ...], regions.Region]) -> None:
        index, box = place
        found[box] = parts[index]

    threads = int(dask.config.get("num_workers", None) or CPU_COUNT)
    with ThreadPoolExecutor(threads if found.nbytes > SEVERAL else 1) as pool:
        list(pool.map(put, regions.boxes(grid)))
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


def _first(values: Array, planes: int) -> Array:
    own = values.ndim - planes
    return values.transpose(*range(own, values.ndim), *range(own))


def _last(values: Array, planes: int) -> Array:
    return values.transpose(*range(planes, values.ndim), *range(planes))

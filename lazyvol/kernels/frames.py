"""What is made of derivatives, and the volumes of a block that it is made of one by one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels import rows
from lazyvol.kernels.separable import readable_type, taken

Array = np.ndarray[Any, np.dtype[Any]]

#: bytes of six fields in float64 that are made together, and used up before the next ones
TILE = 2**21


@dataclass(frozen=True)
class Task:
    """What is made of derivatives along ``axes`` (one to three, slowest first), in ``dtype``.

    ``spacing`` is per axis, of either sign. ``options`` are those of vesselness: the sign of a
    ridge's curvature, 1 / 2 alpha^2, 1 / 2 beta^2 and 1 / 2 c^2.
    """

    what: int
    axes: tuple[int, ...]
    spacing: tuple[float, ...]
    dtype: np.dtype[Any]
    options: tuple[float, ...] = ()

    @property
    def order(self) -> int:
        """Of the derivatives."""
        return 1 if self.what in (rows.GRADIENT, rows.LENGTH) else 2

    @property
    def components(self) -> tuple[int, ...]:
        """Lengths of the result's last axes."""
        n = len(self.axes)
        own = {rows.HESSIAN: (n, n), rows.SHAPE: (2,)}
        return () if self.what in rows.SCALAR else own.get(self.what, (n,))

    @property
    def fine(self) -> bool:
        """Whether eigenvalues are asked for to the precision of float64."""
        return self.dtype.itemsize > 4


def each(
    block: Array,
    inner: Sequence[int],
    task: Task,
    make: Callable[[Array, Array], None],
    out: Array | None = None,
) -> Array:
    """``make(volume, out)`` for every volume over the task's axes, these in its order.

    ``inner`` are the lengths of the result, whose axes are in the block's order; axes of the block
    after them stay where they are. The result is ``out`` where that has its order and type. Its
    components come last among its axes and first in memory.
    """
    lead = [a for a in range(len(inner)) if a not in task.axes]
    order, after = [*lead, *task.axes], range(len(inner), block.ndim)
    turned = block.transpose(*order, *after)
    shape, new = (*(inner[a] for a in order), *task.components), len(task.components)
    out = taken(out if order == sorted(order) else None, shape, readable_type(task.dtype), new)
    if out.size:
        for index in np.ndindex(*(inner[a] for a in lead)):
            make(turned[index], out[index])
    back = [*np.argsort(order).tolist(), *range(len(inner), out.ndim)]
    return out.astype(task.dtype, copy=False).transpose(back)


def flat(out: Array, components: int) -> tuple[Array, int]:
    """From the first value of a volume's first component to the last of its last, and how far
    apart two components lie. (What lies between may be of other volumes.)"""
    volumes = out.transpose(*range(out.ndim - components, out.ndim), *range(out.ndim - components))
    count = prod(volumes.shape[:components])
    apart = volumes.strides[components - 1] // out.itemsize if count > 1 else 0
    first = volumes[(0,) * components].reshape(-1)
    length = first.size + (count - 1) * apart
    return np.lib.stride_tricks.as_strided(first, (length,), (out.itemsize,)), apart


def tiles(shape: Sequence[int], size: int = TILE) -> Iterator[tuple[slice, ...]]:
    """Parts of a volume that follow each other in memory, of so many bytes of fields.

    Whole planes, or rows of one plane.
    """
    *outer, last = shape
    rest = prod(shape[1:])
    thick = max(1, size // (48 * max(1, rest)))
    if len(outer) < 2 or 48 * rest <= size:
        ranges = [(0, shape[0])] if not outer else _cut(shape[0], thick)
        for low, high in ranges:
            yield (slice(low, high), *(slice(0, n) for n in shape[1:]))
        return
    high = max(1, size // (48 * max(1, last)))
    for z in range(shape[0]):
        for low, end in _cut(shape[1], high):
            yield slice(z, z + 1), slice(low, end), slice(0, last)


def _cut(length: int, most: int) -> list[tuple[int, int]]:
    return [(low, min(low + most, length)) for low in range(0, length, most)]

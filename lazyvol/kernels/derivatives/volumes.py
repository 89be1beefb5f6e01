"""What is made of derivatives, and the volumes of a block that it is made of one by one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from math import ceil, prod
from typing import Any

import numpy as np

from lazyvol.kernels.arrays import allocate_output, kernel_float
from lazyvol.kernels.derivatives import outputs

Array = np.ndarray[Any, np.dtype[Any]]

#: bytes of six fields in float64 that are made together, and used up before the next ones
TILE = 6 * 2**20
#: lengths of such a tile along x, at most, and along y, at least: what a sweep sums at once, or
#: more for sums that are not swept. All else goes into z, whose halo is summed along x and y once
#: for each tile (six derivatives of scale 2: 28 ns per voxel by 64 planes, 120 by 2)
WIDE, SWEPT, OTHER = 128, 16, 64
#: voxels of halo along y up to which sums are swept
REACH = 32
#: values that lie together (channels) up to which they are gone through one by one
CHANNELS = 32
#: which row of a field of second derivatives is of two axes
PAIRS = {pair: n for n, pair in enumerate(combinations_with_replacement(range(3), 2))}


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
        return 1 if self.what in (outputs.GRADIENT, outputs.LENGTH) else 2

    @property
    def components(self) -> tuple[int, ...]:
        """Lengths of the result's last axes."""
        n = len(self.axes)
        own = {outputs.HESSIAN: (n, n), outputs.SHAPE: (2,)}
        return () if self.what in outputs.SCALAR else own.get(self.what, (n,))

    @property
    def fine(self) -> bool:
        """Whether eigenvalues are asked for to the precision of float64."""
        return self.dtype.itemsize > 4


@dataclass(frozen=True)
class Frame:
    """How an array becomes volumes of three axes.

    ``groups`` are the array's axes behind each: one that something is done ``along`` (the number of
    it among a task's, else None), a run of neighbouring others, or none. Axes in ``loops`` are
    gone through one by one.
    """

    groups: tuple[tuple[int, ...], ...]
    along: tuple[int | None, ...]
    loops: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], axes: Sequence[int]) -> "Frame":
        """The frame of an array for a task along one to three of its axes."""
        runs: list[tuple[int, ...]] = []
        for axis in range(len(shape)):
            if not runs or axis in axes or runs[-1][-1] in axes:
                runs.append((axis,))
            else:
                runs[-1] += (axis,)
        last = [g for g in runs[-1:] if g[0] not in axes and prod(shape[a] for a in g) <= CHANNELS]
        idle = last + [g for g in runs if g[0] not in axes and g not in last]
        idle = idle[: max(len(last), len(runs) - 3)]
        kept = [g for g in runs if g not in idle]
        groups = (*((),) * (3 - len(kept)), *kept)
        along = tuple(axes.index(g[0]) if g and g[0] in axes else None for g in groups)
        return cls(groups, along, tuple(a for g in idle for a in g))

    def per_axis(self, values: Sequence[Any], other: Any) -> list[Any]:
        """One value for each axis of a volume, out of one for each axis of the task."""
        return [other if n is None else values[n] for n in self.along]

    def lengths(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of a volume, out of an array's."""
        return tuple(prod(shape[a] for a in group) for group in self.groups)

    def volumes(self, array: Array, ndim: int) -> Iterator[Array]:
        """Every volume of an array of ``ndim`` axes and others after them, which stay."""
        shape = (*self.lengths(array.shape), *array.shape[ndim:])
        pick: list[Any] = [slice(None)] * array.ndim
        for index in product(*(range(array.shape[a]) for a in self.loops)):
            for axis, place in zip(self.loops, index, strict=True):
                pick[axis] = place
            yield array[tuple(pick)].reshape(shape)

    def rows(self, order: int) -> Array:
        """Row of each derivative of an order: those of axes that a task lacks come first."""
        idle = iter(range(self.along.count(None)))
        first = self.along.count(None)
        place = [next(idle) if n is None else first + n for n in self.along]
        if order == 1:
            return np.array(place)
        return np.array([PAIRS[min(a, b), max(a, b)] for a, b in _pairs(place)])


def _pairs(place: Sequence[int]) -> list[tuple[int, int]]:
    return list(combinations_with_replacement(place, 2))


def each(
    block: Array,
    inner: Sequence[int],
    task: Task,
    make: Callable[[Array, Array], None],
    out: Array | None = None,
) -> Array:
    """``make(volume, out)`` for every volume of a block.

    ``inner`` are the lengths of the result; axes of the block after them stay where they are. The
    result is ``out`` where that has its type. Its components come last among its axes and first
    in memory.
    """
    ndim, dtype = len(inner), kernel_float(task.dtype)
    out = allocate_output(out, (*inner, *task.components), dtype, len(task.components))
    frame = Frame.of(inner, task.axes)
    if out.size:
        pairs = zip(frame.volumes(block, ndim), frame.volumes(out, ndim), strict=True)
        for volume, place in pairs:
            _make(make, volume, place, len(task.components))
    return out.astype(task.dtype, copy=False)


def _make(make: Callable[[Array, Array], None], volume: Array, place: Array, planes: int) -> None:
    """A volume made in its place, or apart where its rows have gaps."""
    if place.strides[2] == place.itemsize or place.shape[2] == 1:
        make(volume, place)
    else:
        made = allocate_output(None, place.shape, place.dtype, planes)
        make(volume, made)
        place[...] = made


def flat(out: Array) -> tuple[Array, Array, int]:
    """From the first value of a volume's first component to the last of its last; how far apart
    planes and rows lie, and components. (What lies between may be of other volumes.)"""
    steps = np.array(out.strides) // out.itemsize
    length = 1 + int(((np.array(out.shape) - 1) * steps).sum())
    apart = int(steps[-1]) if out.ndim > 3 else 0
    return np.lib.stride_tricks.as_strided(out, (length,), (out.itemsize,)), steps[:2], apart


def tiles(
    shape: Sequence[int], halo: Sequence[int], size: int = TILE
) -> Iterator[tuple[slice, ...]]:
    """Boxes of a volume, of so many bytes of fields, each made out of a box with a ``halo``."""
    room, high = max(1, size // 48), SWEPT if halo[1] <= REACH else OTHER
    x = _even(shape[2], WIDE)
    z = _even(shape[0], room // (high * x))
    y = _even(shape[1], max(high, room // (z * x)))
    for place in product(*(_cut(n, step) for n, step in zip(shape, (z, y, x), strict=True))):
        yield tuple(slice(low, high) for low, high in place)


def _even(length: int, most: int) -> int:
    """Length of equal parts that are no longer than ``most``."""
    return ceil(length / ceil(length / max(1, most)))


def _cut(length: int, most: int) -> list[tuple[int, int]]:
    return [(low, min(low + most, length)) for low in range(0, length, most)]

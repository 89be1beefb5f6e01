"""Results computed from derivatives: their kinds, the volumes of a block, and writing them.

Derivatives of a row of voxels are in the rows of a buffer of ``eigenvalues``: three first ones, or
six second ones, zeros along axes that a block lacks (the first ones). Results are computed there
and written at once, so that a field of derivatives is never whole. Each component goes to its own
part of a flat array: components side by side took twice as long to store.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from math import ceil, prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled, inlined
from lazyvol.kernels.arrays import allocate_output, kernel_float
from lazyvol.kernels.derivatives import eigenvalues, vesselness
from lazyvol.kernels.derivatives.eigenvalues import STRIDE, WIDTH

Array = np.ndarray[Any, np.dtype[Any]]

#: the results; VESSELNESS_PARTS are the shape factor and the norm of the Hessian
GRADIENT, MAGNITUDE = 0, 1
HESSIAN, TRACE, EIGENVALUES, VESSELNESS, NORM, VESSELNESS_PARTS = 2, 3, 4, 5, 6, 7
#: results of one number per voxel
SCALAR = (MAGNITUDE, TRACE, VESSELNESS, NORM)

#: bytes of six float64 fields that are computed together, then written
TILE = 6 * 2**20
#: largest length of a tile along x; smallest one along y, of sums swept along two axes and of
#: others. The rest of a tile goes into z, whose halo is summed along x and y once per tile (six
#: derivatives of scale 2: 28 ns per voxel with 64 planes, 120 with 2)
TILE_X, TILE_Y_SWEPT, TILE_Y = 128, 16, 64
#: largest halo along y of sums that are swept
SWEPT_HALO = 32
#: largest number of adjacent values (channels) that are iterated one by one
CHANNELS = 32
#: relative error of a norm of second derivatives by rounding
ROUNDING = 16.0 * float(np.finfo(np.float64).eps)
#: row of the second derivative along two axes
ROW_OF_PAIR = {pair: n for n, pair in enumerate(combinations_with_replacement(range(3), 2))}


@dataclass(frozen=True)
class DerivativeTask:
    """A result in ``dtype`` of derivatives along ``axes`` (one to three, slowest first).

    ``spacing`` is the signed voxel size per axis. ``options`` are those of vesselness: the sign of
    a ridge's curvature, 1 / 2 alpha^2, 1 / 2 beta^2 and 1 / 2 c^2.
    """

    output: int
    axes: tuple[int, ...]
    spacing: tuple[float, ...]
    dtype: np.dtype[Any]
    options: tuple[float, ...] = ()

    @property
    def order(self) -> int:
        """Order of the derivatives."""
        return 1 if self.output in (GRADIENT, MAGNITUDE) else 2

    @property
    def components(self) -> tuple[int, ...]:
        """Lengths of the result's last axes."""
        n = len(self.axes)
        shapes = {HESSIAN: (n, n), VESSELNESS_PARTS: (2,)}
        return () if self.output in SCALAR else shapes.get(self.output, (n,))

    @property
    def numbers(self) -> Array | None:
        """The options as an array; None if there are none."""
        return np.array(self.options) if self.options else None

    @property
    def is_double(self) -> bool:
        """True if eigenvalues are computed to the precision of float64."""
        return self.dtype.itemsize > 4


@dataclass(frozen=True)
class VolumeFrame:
    """The division of an array into volumes of three axes.

    ``groups`` are the array's axes behind each axis of a volume: one that is differentiated, a run
    of adjacent others, or none. ``task_axes`` are the positions of the former among a task's axes,
    else None. Axes in ``loops`` are iterated.
    """

    groups: tuple[tuple[int, ...], ...]
    task_axes: tuple[int | None, ...]
    loops: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], axes: Sequence[int]) -> "VolumeFrame":
        """Return the frame of an array for a task along one to three of its axes."""
        runs: list[tuple[int, ...]] = []
        for axis in range(len(shape)):
            if not runs or axis in axes or runs[-1][-1] in axes:
                runs.append((axis,))
            else:
                runs[-1] += (axis,)
        last = [g for g in runs[-1:] if g[0] not in axes and prod(shape[a] for a in g) <= CHANNELS]
        loops = last + [g for g in runs if g[0] not in axes and g not in last]
        loops = loops[: max(len(last), len(runs) - 3)]
        kept = [g for g in runs if g not in loops]
        groups = (*((),) * (3 - len(kept)), *kept)
        task_axes = tuple(axes.index(g[0]) if g and g[0] in axes else None for g in groups)
        return cls(groups, task_axes, tuple(a for g in loops for a in g))

    def per_axis(self, values: Sequence[Any], default: Any) -> list[Any]:
        """Return a value for each axis of a volume from one for each axis of the task."""
        return [default if n is None else values[n] for n in self.task_axes]

    def volumes(self, array: Array, ndim: int) -> Iterator[Array]:
        """Yield every volume of an array of ``ndim`` axes; axes after these stay."""
        lengths = tuple(prod(array.shape[a] for a in group) for group in self.groups)
        index: list[Any] = [slice(None)] * array.ndim
        for places in product(*(range(array.shape[a]) for a in self.loops)):
            for axis, place in zip(self.loops, places, strict=True):
                index[axis] = place
            yield array[tuple(index)].reshape(*lengths, *array.shape[ndim:])

    def rows(self, order: int) -> Array:
        """Return the buffer row of each derivative; those of axes that a task lacks come first."""
        absent = self.task_axes.count(None)
        unused = iter(range(absent))
        axes = [next(unused) if n is None else absent + n for n in self.task_axes]
        if order == 1:
            return np.array(axes)
        pairs = combinations_with_replacement(axes, 2)
        return np.array([ROW_OF_PAIR[min(a, b), max(a, b)] for a, b in pairs])


def compute_volumes(
    block: Array,
    inner: Sequence[int],
    task: DerivativeTask,
    compute: Callable[[Array, Array], None],
    out: Array | None = None,
) -> Array:
    """Call ``compute(volume, out)`` for every volume of a block; return the task's result.

    ``inner`` are the lengths of the result along the block's first axes; axes of the block after
    them stay. The result is ``out`` if that has its dtype. Its components are its last axes and
    come first in memory.
    """
    ndim, dtype, planes = len(inner), kernel_float(task.dtype), len(task.components)
    out = allocate_output(out, (*inner, *task.components), dtype, planes)
    frame = VolumeFrame.of(inner, task.axes)
    if out.size:
        pairs = zip(frame.volumes(block, ndim), frame.volumes(out, ndim), strict=True)
        for volume, result in pairs:
            if result.strides[2] == result.itemsize or result.shape[2] == 1:
                compute(volume, result)
            else:  # rows with gaps: compute in contiguous memory, then copy
                contiguous = allocate_output(None, result.shape, result.dtype, planes)
                compute(volume, contiguous)
                result[...] = contiguous
    return out.astype(task.dtype, copy=False)


def zero_rounding(out: Array, values: Array, task: DerivativeTask, rounding: float) -> None:
    """Set norms to 0 that are below ``rounding`` times the largest value: rounding errors.

    Half of the largest norm scales vesselness, which would find ridges in a constant volume.
    """
    if task.output == NORM:
        largest = np.abs(values, dtype=np.float64).max(initial=0.0, where=np.isfinite(values))
        out[out <= rounding * largest] = 0.0


def flat_view(out: Array) -> tuple[Array, Array, int]:
    """Return a volume's result as flat memory, the strides of planes and rows, and of components.

    The flat array extends from the first element of the first component to the last element of
    the last one; elements between them may belong to other volumes.
    """
    steps = np.array(out.strides) // out.itemsize
    length = 1 + int(((np.array(out.shape) - 1) * steps).sum())
    component_step = int(steps[-1]) if out.ndim > 3 else 0
    flat = np.lib.stride_tricks.as_strided(out, (length,), (out.itemsize,))
    return flat, steps[:2], component_step


def tiles(
    shape: Sequence[int], halo: Sequence[int], size: int = TILE
) -> Iterator[tuple[slice, ...]]:
    """Yield the tiles of a volume: ``size`` bytes of fields each, without their ``halo``."""
    voxels = max(1, size // 48)
    least_y = TILE_Y_SWEPT if halo[1] <= SWEPT_HALO else TILE_Y
    x = _equal_parts(shape[2], TILE_X)
    z = _equal_parts(shape[0], voxels // (least_y * x))
    y = _equal_parts(shape[1], max(least_y, voxels // (z * x)))
    parts = [
        [slice(i, min(i + step, n)) for i in range(0, n, step)]
        for n, step in zip(shape, (z, y, x), strict=True)
    ]
    yield from product(*parts)


def _equal_parts(length: int, longest: int) -> int:
    """Return the length of equal parts that are no longer than ``longest``."""
    return ceil(length / ceil(length / max(1, longest)))


@inlined
def write_result(
    s: Array, n: int, output: int, axes: int, is_double: bool, options: Array | None, out: Array,
    start: int, component_step: int,
) -> None:  # fmt: skip
    """Compute ``output`` of ``n`` voxels of a block with ``axes`` axes; write it to ``out``.

    The first component begins at ``start``. ``options`` are those of ``DerivativeTask``; without
    any, vesselness is not compiled.
    """
    if output == GRADIENT:
        _write_rows(s, n, 3 - axes, axes, out, start, component_step)
    elif output == MAGNITUDE:
        _write_magnitude(s, n, out, start)
    elif output == TRACE:
        first = np.uint64(start)
        for i in range(n):
            out[first + np.uint64(i)] = s[i] + s[3 * STRIDE + i] + s[5 * STRIDE + i]
    elif output == HESSIAN:
        _write_matrices(s, n, axes, out, start, component_step)
    else:
        _replace_by_eigenvalues(s, n, axes, is_double)
        _write_from_eigenvalues(s, n, output, axes, options, out, start, component_step)


@inlined
def _write_from_eigenvalues(
    s: Array, n: int, output: int, axes: int, options: Array | None, out: Array, start: int,
    component_step: int,
) -> None:  # fmt: skip
    planar = axes == 2
    if options is None:
        _write_rows(s, n, 0, axes, out, start, component_step)
    elif output == VESSELNESS:
        vesselness.vesselness(s, n, planar, options[0], options[1], options[2], options[3])
        _write_rows(s, n, 0, 1, out, start, component_step)
    else:
        vesselness.shape_factor(s, n, planar, options[0], options[1], options[2])
        for i in range(n):
            s[STRIDE + i] = np.sqrt(s[STRIDE + i]) * s[3 * STRIDE + i]
        first, count = (1, 1) if output == NORM else (0, 2)
        _write_rows(s, n, first, count, out, start, component_step)


@inlined
def _replace_by_eigenvalues(s: Array, n: int, axes: int, is_double: bool) -> None:
    if axes == 1:
        for i in range(n):
            s[i] = s[5 * STRIDE + i]
    elif axes == 2:
        eigenvalues.eigenvalues_2x2(s, n)
    elif is_double:
        eigenvalues.eigenvalues_3x3_float64(s, n)
    else:
        eigenvalues.eigenvalues_3x3_float32(s, n)


@compiled
def _write_magnitude(s: Array, n: int, out: Array, start: int) -> None:
    """Write the Euclidean norm of vectors whose squares may overflow or vanish."""
    first = np.uint64(start)
    for i in range(n):
        a, b, c = s[i], s[STRIDE + i], s[2 * STRIDE + i]
        scale, unscale = eigenvalues.safe_scale(max(max(abs(a), abs(b)), abs(c)))
        a, b, c = a * scale, b * scale, c * scale
        out[first + np.uint64(i)] = np.sqrt(a * a + b * b + c * c) * unscale


@compiled
def _write_rows(
    s: Array, n: int, first: int, count: int, out: Array, start: int, component_step: int
) -> None:
    """Write ``count`` rows from ``first`` as components."""
    for c in range(count):
        row, to = np.uint64((first + c) * STRIDE), np.uint64(start + c * component_step)
        for i in range(n):
            k = np.uint64(i)
            out[to + k] = s[row + k]


@inlined
def _write_matrices(s: Array, n: int, axes: int, out: Array, start: int, step: int) -> None:
    """Write all elements of symmetric matrices, row by row."""
    for r in range(axes):
        for c in range(axes):
            low, high = min(r, c) + 3 - axes, max(r, c) + 3 - axes
            row = low * (5 - low) // 2 + high
            _write_rows(s, n, row, 1, out, start + (r * axes + c) * step, step)


def write_fields(fields: Sequence[Array | None], task: DerivativeTask, out: Array) -> None:
    """Compute the task's result of a tile's fields of derivatives; write it to ``out``.

    Fields are flat, in the order of the buffer's rows; None means zeros.
    """
    zeros = np.zeros(next(f.size for f in fields if f is not None))
    complete = [zeros if f is None else f for f in fields] + [zeros] * (6 - len(fields))
    _write_fields(
        tuple(complete), np.array(out.shape[:3]), task.output, len(task.axes), task.is_double,
        task.numbers, *flat_view(out),
    )  # fmt: skip


@compiled
def _write_fields(
    fields: tuple[Array, ...], shape: Array, output: int, axes: int, is_double: bool,
    options: Array | None, out: Array, steps: Array, component_step: int,
) -> None:  # fmt: skip
    s = np.empty(6 * STRIDE)
    for z in range(shape[0]):
        for y in range(shape[1]):
            row, to = (z * shape[1] + y) * shape[2], z * steps[0] + y * steps[1]
            for x in range(0, shape[2], WIDTH):
                n = min(WIDTH, shape[2] - x)
                for r in range(len(fields)):
                    values = fields[r][row + x : row + x + n]
                    copy = s[r * STRIDE : r * STRIDE + n]
                    for i in range(n):
                        copy[i] = values[i]
                write_result(s, n, output, axes, is_double, options, out, to + x, component_step)

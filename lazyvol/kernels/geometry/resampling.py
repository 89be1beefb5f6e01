"""Volumes at other positions, by B-splines of any order, box by box.

Linear and cubic affine maps of volumes are compiled; ``scipy.ndimage.map_coordinates`` evaluates
all others. A box gives the values of the whole volume: the error of spline coefficients at the cut
ends of a box decays by a factor ``POLES[order]`` per voxel, and the box extends until the error is
below the rounding of the result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, floor, log, prod
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.ndimage as ndi

from lazyvol.kernels.arrays import each_particle
from lazyvol.kernels.geometry.affine import PADDING, ROUNDING, sample_into, spline_of
from lazyvol.kernels.geometry.splines import NEAREST_PADDING, BoundaryMode
from lazyvol.kernels.magnitude import near_one

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]
Mode: TypeAlias = Literal[
    "reflect", "mirror", "nearest", "constant", "wrap", "grid-constant", "grid-wrap"
]

#: largest pole of the prefilter of each order (Unser, IEEE Signal Processing Magazine 16(6), 1999)
POLES = {2: 0.171573, 3: 0.267950, 4: 0.361341, 5: 0.430576}
#: voxels by which scipy extends a volume in these modes before the prefilter
EXTENDED = {"nearest": 12, "grid-constant": 12}
#: modes in which a box that reaches a border must hold the opposite one
PERIODIC = ("wrap", "grid-wrap")
#: modes of compiled code, by their names in scipy's transforms
COMPILED: dict[str, BoundaryMode] = {
    "constant": "constant", "nearest": "nearest", "mirror": "mirror", "reflect": "reflect",
    "grid-wrap": "wrap",
}  # fmt: skip
#: positions that are evaluated at once
BATCH = 2**14
#: distance from the volume, in voxels, beyond which positions are not evaluated
FARTHEST = 2.0**31


@dataclass(frozen=True)
class Spline:
    """The interpolation: its order from 0 to 5, and the volume beyond its border as in scipy."""

    order: int
    mode: Mode
    fill: float

    def is_compiled(self, ndim: int) -> bool:
        """Return True if affine maps of volumes have compiled code: 2 to 4 times as fast."""
        return ndim == 3 and self.order in (1, 3) and self.mode in COMPILED

    def divided(self, factor: float) -> "Spline":
        """Return the interpolation of a volume that was divided by ``factor``."""
        return self if factor == 1.0 else replace(self, fill=self.fill / factor)

    @property
    def extension(self) -> int:
        """Voxels by which a box is extended before the prefilter."""
        return EXTENDED.get(self.mode, 0) if self.order > 1 else 0

    def reach(self, dtype: np.dtype[Any]) -> int:
        """Voxels on each side of a position that a value of a float dtype depends on."""
        near = self.order // 2 + 1
        if self.order < 2:
            return near
        return near + ceil(log(np.finfo(dtype).eps / 8) / log(POLES[self.order]))

    def span(self, low: float, high: float, n: int, reach: int) -> slice:
        """Return the voxels of an axis of ``n`` that values at positions low to high depend on."""
        first, last = floor(low) - reach, ceil(high) + reach
        if self.mode in PERIODIC:
            return slice(first, last + 1) if first >= 0 and last < n else slice(0, n)
        if self.mode in ("reflect", "mirror"):
            if low < 1 - n or high > 2 * n - 2:
                return slice(0, n)
            last = max(last, reach - floor(low))
            first = min(first, 2 * (n - 1) - ceil(high) - reach)
        else:
            first = min(first, n - 1 - reach)
            last = max(last, reach)
        return slice(max(0, first), min(n, last + 1))

    def coefficients(self, volume: Array) -> Array:
        """Return the samples or, from order 2, the coefficients of a volume, extended."""
        if volume.dtype == np.float16:  # which scipy does not read
            volume = volume.astype(np.float32)
        if self.order < 2:
            return volume
        if self.extension:
            constant = {"constant_values": self.fill} if self.mode == "grid-constant" else {}
            kind: Any = "constant" if constant else "edge"
            volume = np.pad(volume, self.extension, kind, **constant)
        return np.asarray(ndi.spline_filter(volume, self.order, np.float64, self.mode))

    def batch_bytes(self, shape: Sequence[int]) -> int:
        """Return the bytes of the values of a volume of ``shape`` and of their positions."""
        if self.is_compiled(len(shape)):
            return 8 * prod(shape)
        return batch_bytes(len(shape), prod(shape[1:]))

    def evaluate(self, coefficients: Array, positions: Array) -> Array:
        """Return the values at positions (axis, ...) in voxels of the volume."""
        dtype = coefficients.dtype if self.order == 0 else np.float64
        if self.extension:
            positions += self.extension
        elif self.mode == "constant":
            snap_to_border(positions, coefficients.shape)
        return np.asarray(
            ndi.map_coordinates(
                coefficients, positions, dtype, self.order, self.mode, self.fill, prefilter=False
            )
        )


def snap_to_border(positions: Array, shape: Sequence[int]) -> None:
    """Move positions that are beyond the border by rounding onto it, in place.

    Without this, as in scipy, some scaled volumes lose their last plane to the constant.
    """
    for p, n in zip(positions, shape, strict=True):
        for border, low, high in ((0, -ROUNDING, 0), (n - 1, n - 1, n - 1 + ROUNDING)):
            is_close = (p >= low) & (p <= high)
            if is_close.any():
                p[is_close] = border


@dataclass(frozen=True)
class AffineSampling:
    """Voxel i of the result has the value at ``matrix @ i + offset`` of a volume of ``shape``.

    Matrix, offset and shape refer to ``axes`` of the stack, in this order; the result keeps these
    axes.
    """

    axes: tuple[int, ...]
    shape: tuple[int, ...]
    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    spline: Spline
    dtype: np.dtype[Any]

    @cached_property
    def reach(self) -> int:
        return self.spline.reach(self.dtype)

    def source(self, region: Region) -> Region:
        """Return the box of the stack that a region of the result depends on."""
        spans = [region[a] for a in self.axes]
        source = list(region)
        for axis, n, row, start in zip(
            self.axes, self.shape, self.matrix, self.offset, strict=True
        ):
            ends = [(m * s.start, m * (s.stop - 1)) for m, s in zip(row, spans, strict=True)]
            low, high = start + sum(map(min, ends)), start + sum(map(max, ends))
            source[axis] = self.spline.span(low, high, n, self.reach)
        return tuple(source)

    def working_bytes(self, region: Region) -> int:
        """Return the bytes of the coefficients of one volume, and of a batch of positions."""
        lengths = [s.stop - s.start for a, s in enumerate(self.source(region)) if a in self.axes]
        shape = [region[a].stop - region[a].start for a in self.axes]
        return spline_bytes(self.spline, lengths) + self.spline.batch_bytes(shape)

    def sample(self, block: Array, region: Region) -> Array:
        """Return a region of the result from the values of its source."""
        out = np.empty([s.stop - s.start for s in region], self.dtype)
        volumes, results = axes_last(block, self.axes), axes_last(out, self.axes)
        starts = [self.source(region)[a].start for a in self.axes]
        spans = [region[a] for a in self.axes]
        for index in np.ndindex(volumes.shape[: -len(self.axes)]):
            sample_affine(
                volumes[index], starts, self.matrix, self.offset, self.spline, spans, results[index]
            )
        return out


def sample_particles(
    block: Array, *numbers: Array, axes: Sequence[int], shape: Sequence[int], spline: Spline,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return every particle on a grid of ``shape`` along ``axes``, each under its affine map.

    ``numbers`` are, row by row, the elements of each particle's matrix and offset.
    """
    n = len(axes)
    lengths = [shape[axes.index(a)] if a in axes else m for a, m in enumerate(block.shape)]
    out = np.empty(lengths, dtype)
    volumes, results = axes_last(block, axes), axes_last(out, axes)
    spans = [slice(0, m) for m in shape]
    for index, *values in each_particle(volumes.shape[:-n], *numbers, axes=axes):
        rows = np.reshape(values, (n, n + 1))
        matrix, offset = rows[:, :n].tolist(), rows[:, n].tolist()
        sample_affine(volumes[index], (0,) * n, matrix, offset, spline, spans, results[index])
    return out


def sample_affine(
    volume: Array, starts: Sequence[int], matrix: Sequence[Sequence[float]],
    offset: Sequence[float], spline: Spline, spans: Sequence[slice], out: Array,
) -> None:  # fmt: skip
    """Write the values of voxels in ``spans`` to ``out``; the volume begins at ``starts``."""
    volume, factor = near_one(volume)
    spline = spline.divided(factor)
    if spline.is_compiled(volume.ndim):
        _sample_compiled(volume, starts, matrix, offset, spline, spans, out)
    else:
        coefficients = spline.coefficients(volume)
        for rows, positions in affine_positions(matrix, offset, spans):
            for p, start in zip(positions, starts, strict=True):
                p -= start
            out[rows] = spline.evaluate(coefficients, positions)
    if factor != 1.0:
        out *= factor


def _sample_compiled(
    volume: Array, starts: Sequence[int], matrix: Sequence[Sequence[float]],
    offset: Sequence[float], spline: Spline, spans: Sequence[slice], out: Array,
) -> None:  # fmt: skip
    """Write the values of voxels in ``spans`` to ``out`` by compiled code.

    Positions are rounded differently in every region: by 1e-13 of a voxel.
    """
    mode = COMPILED[spline.mode]
    rows, first = np.array(matrix), np.array([s.start for s in spans], np.float64)
    shift = np.array(offset) + rows @ first - np.array(starts, np.float64)
    is_direct = out.flags.c_contiguous and out.dtype in (np.float32, np.float64)
    target = out if is_direct else np.empty(out.shape, np.promote_types(out.dtype, np.float32))
    coefficients = spline_of(volume, spline.order, mode)
    sample_into(target, coefficients, rows, shift, spline.order, mode, spline.fill)
    if target is not out:
        out[...] = target


def sample_points(
    block: Array, points: Array, *, axes: Sequence[int], origin: Sequence[float],
    step: Sequence[float], spline: Spline, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return the values of every volume at points (axis, ...): the other axes, then those of the
    points.

    Voxel i is at ``origin + i * step``. Points that are not finite give NaN.
    """
    volumes = axes_last(block, axes)
    lead = volumes.shape[: -len(axes)]
    out = np.empty((*lead, prod(points.shape[1:])), dtype)
    flat = points.reshape(len(axes), -1)
    for index in np.ndindex(lead):
        volume, factor = near_one(volumes[index])
        scaled = spline.divided(factor)
        coefficients = scaled.coefficients(volume)
        for first in range(0, flat.shape[1], BATCH):
            batch = slice(first, first + BATCH)
            positions = (flat[:, batch] - np.reshape(origin, (-1, 1))) / np.reshape(step, (-1, 1))
            is_far = ~(np.abs(positions).max(0) <= FARTHEST)
            positions[:, is_far] = 0
            values = scaled.evaluate(coefficients, positions)
            values = values if factor == 1.0 else values * factor
            values[is_far] = np.nan if values.dtype.kind == "f" else spline.fill
            out[index][batch] = values
    return out.reshape(*lead, *points.shape[1:])


def batch_bytes(ndim: int, points: int = BATCH) -> int:
    """Return the bytes of a batch of positions, or of more ``points``, and of their values."""
    return max(BATCH, points) * 8 * (ndim + 4)


def axes_last(block: Array, axes: Sequence[int]) -> Array:
    """Return a view of a block with ``axes`` as the last ones."""
    return np.moveaxis(block, axes, range(-len(axes), 0))


def spline_bytes(spline: Spline, lengths: Sequence[int]) -> int:
    """Return the bytes of the coefficients of a volume, and of their computation."""
    if spline.is_compiled(len(lengths)):
        margin = PADDING + (NEAREST_PADDING if spline.extension else 0)
        padded = prod(n + 2 * margin for n in lengths)
        return 8 * padded * (1 if spline.order == 1 else 2)
    voxels = prod(n + 2 * spline.extension for n in lengths)
    if spline.order < 2:
        return 4 * voxels
    return (16 if spline.extension else 8) * voxels


def affine_positions(
    matrix: Sequence[Sequence[float]], offset: Sequence[float], spans: Sequence[slice]
) -> Iterator[tuple[slice, Array]]:
    """Yield rows of a region along its first axis, and the positions (axis, ...) of their voxels.

    The position of a voxel is bitwise equal in any region.
    """
    lengths = [s.stop - s.start for s in spans]
    step = max(1, BATCH // max(1, prod(lengths[1:])))
    index = [np.arange(s.start, s.stop, dtype=np.float64) for s in spans]
    for first in range(0, lengths[0], step):
        rows = slice(first, min(first + step, lengths[0]))
        grids = np.meshgrid(index[0][rows], *index[1:], indexing="ij", sparse=True)
        positions = np.empty((len(spans), rows.stop - rows.start, *lengths[1:]))
        for p, coefficients, start in zip(positions, matrix, offset, strict=True):
            p[...] = start
            for m, grid in zip(coefficients, grids, strict=True):
                if m:
                    p += m * grid
        yield rows, positions

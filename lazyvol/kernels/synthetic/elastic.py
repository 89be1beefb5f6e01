"""Elastic deformation: each voxel takes the value at a position displaced by a random field.

Results are those of ``scipy.ndimage.map_coordinates`` on the whole array. Displacements are
computed block by block, from position and seed. The integer part of a displacement is added to the
voxel's index and the fraction is interpolated, so that results are bitwise equal for any blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.geometry.splines import cubic_weights
from lazyvol.kernels.synthetic.gaussian_field import TRUNCATE, Field, Region, Start
from lazyvol.kernels.synthetic.philox import volume_numbers

Array = np.ndarray[Any, np.dtype[Any]]

#: voxels beyond a block after which cubic coefficients are exact in float32 and float64: the
#: influence of a voxel falls by 0.268 per step
SPLINE_HALO = {4: 14, 8: 28}


@compiled
def _interpolate_linear(
    out: Array, grown: Array, moves: Array, plane: int, low: int, halo: Array
) -> None:
    """Interpolate rows from ``low`` on of ``plane`` at displaced voxels, trilinearly.

    ``grown`` begins ``halo`` voxels before the first voxel along each axis.
    """
    for j in range(out.shape[0]):
        for k in range(out.shape[1]):
            mz, my, mx = moves[0, j, k], moves[1, j, k], moves[2, j, k]
            fz, fy, fx = np.floor(mz), np.floor(my), np.floor(mx)
            az, ay, ax = mz - fz, my - fy, mx - fx
            z, y, x = plane + halo[0] + int(fz), low + j + halo[1] + int(fy), k + halo[2] + int(fx)
            # without displacement the neighbour may be outside: it has weight 0 and is not read
            z1, y1, x1 = z + (az > 0.0), y + (ay > 0.0), x + (ax > 0.0)
            bx, by = 1.0 - ax, 1.0 - ay
            near = by * (bx * grown[z, y, x] + ax * grown[z, y, x1])
            near += ay * (bx * grown[z, y1, x] + ax * grown[z, y1, x1])
            far = by * (bx * grown[z1, y, x] + ax * grown[z1, y, x1])
            far += ay * (bx * grown[z1, y1, x] + ax * grown[z1, y1, x1])
            out[j, k] = (1.0 - az) * near + az * far


@compiled
def _interpolate_cubic(
    out: Array, grown: Array, moves: Array, plane: int, low: int, halo: Array
) -> None:
    """Interpolate by cubic B-splines with coefficients ``grown``, arguments as in
    ``_interpolate_linear``.

    Axes of length 1 are not displaced along; the last axis is never one of them.
    """
    weights = np.ones((3, 4))
    voxel, first = np.empty(3, np.int64), np.empty(3, np.int64)
    count = np.array([4 if n > 1 else 1 for n in grown.shape])
    for j in range(out.shape[0]):
        for k in range(out.shape[1]):
            voxel[0], voxel[1], voxel[2] = plane, low + j, k
            for a in range(3):
                first[a] = voxel[a] + halo[a]
                if count[a] > 1:
                    whole = np.floor(moves[a, j, k])
                    w0, w1, w2, w3 = cubic_weights(moves[a, j, k] - whole)
                    weights[a, 0], weights[a, 1], weights[a, 2], weights[a, 3] = w0, w1, w2, w3
                    first[a] += int(whole) - 1
            w0, w1, w2, w3 = weights[2]
            total = 0.0
            for z in range(count[0]):
                for y in range(count[1]):
                    row = grown[first[0] + z, first[1] + y, first[2] : first[2] + 4]
                    along_x = w0 * row[0] + w1 * row[1] + w2 * row[2] + w3 * row[3]
                    total += weights[0, z] * weights[1, y] * along_x
            out[j, k] = total


def deform(
    grown: Array,
    region: Region,
    *,
    axes: tuple[int, ...],
    rest: tuple[int, ...],
    halo: tuple[int, ...],
    shape: tuple[int, ...],
    fields: tuple[Field, ...],
    scales: tuple[float, ...],
    bounds: tuple[float, ...],
    order: int,
    dtype: np.dtype[Any],
) -> Array:
    """Return the interior of a grown block, deformed along ``axes``; ``rest`` count volumes.

    The displacement along each axis is that of ``fields`` times ``scales``, clipped to ``bounds``,
    in voxels; ``halo`` is that of ``grown``.
    """
    permutation, missing = (*rest, *axes), (0,) * (3 - len(axes))
    lengths = tuple(region[a].stop - region[a].start for a in permutation)
    out = np.empty(lengths, np.promote_types(dtype, np.float32))
    source = grown.transpose(permutation)
    start = (*missing, *(region[a].start for a in axes))
    zyx_halo = np.array((*missing, *halo))
    displacement = Displacement(fields, scales, bounds)
    numbers = volume_numbers(tuple(region[a] for a in rest), tuple(shape[a] for a in rest))
    for volume, index in zip(numbers.tolist(), np.ndindex(lengths[: len(rest)]), strict=True):
        values = _interpolation_values(source[index], order, dtype)
        block, target = (a.reshape((1,) * len(missing) + a.shape) for a in (values, out[index]))
        displacement.interpolate(target, block, volume, start, zyx_halo, order)
    return out.transpose(np.argsort(permutation)).astype(dtype, copy=False)


@dataclass(frozen=True)
class Displacement:
    """Displacements along the last of the axes z, y, x: fields, their scales and bounds."""

    fields: tuple[Field, ...]
    scales: tuple[float, ...]
    bounds: tuple[float, ...]

    def interpolate(
        self, out: Array, block: Array, volume: int, start: Start, halo: Array, order: int
    ) -> None:
        """Interpolate ``block`` at every displaced voxel of ``out``, tile by tile and plane by
        plane."""
        interpolate = _interpolate_cubic if order == 3 else _interpolate_linear
        step = self.fields[0].tile_rows(out.shape[2])
        for low in range(0, out.shape[1], step):
            tile = out[:, low : low + step]
            corner = (start[0], start[1] + low, start[2])
            moves = np.zeros((3, *tile.shape[1:]))
            fields = [f.plane_writers(volume, corner, tile.shape, moves.dtype) for f in self.fields]
            for plane, writers in enumerate(zip(*fields, strict=True)):
                self._write_moves(moves[3 - len(fields) :], writers)
                interpolate(tile[plane], block, moves, plane, low, halo)

    def _write_moves(
        self, moves: Array, writers: tuple[Callable[[Array, float], None], ...]
    ) -> None:
        """Write the clipped displacements of one plane, one array (y, x) for each field."""
        for move, write, scale, bound in zip(moves, writers, self.scales, self.bounds, strict=True):
            write(move, scale)
            np.clip(move, -bound, bound, out=move)


def margin(bound: float, order: int, dtype: np.dtype[Any]) -> int:
    """Return the halo in voxels for displacements of up to ``bound`` and for interpolation."""
    voxels = int(np.ceil(bound)) + 1
    if order == 1:
        return voxels
    return voxels + 1 + SPLINE_HALO[min(8, np.promote_types(dtype, np.float32).itemsize)]


def scratch(order: int, source: np.dtype[Any], dtype: np.dtype[Any]) -> float:
    """Return the bytes per voxel of a cast block and of its float64 coefficients."""
    computed = np.promote_types(dtype, np.float32)
    return (0.0 if source == computed else computed.itemsize) + (8.0 if order == 3 else 0.0)


def _interpolation_values(block: Array, order: int, dtype: np.dtype[Any]) -> Array:
    """Return the values to interpolate, or their cubic B-spline coefficients."""
    values = np.ascontiguousarray(block, np.promote_types(dtype, np.float32))
    return ndi.spline_filter(values, 3, np.float64, "mirror") if order == 3 else values


def standard_deviation(sigmas: tuple[float, ...]) -> float:
    """Return the deviation of uniform noise from -1 to 1 after normalized Gaussian filters."""
    squares = []
    for sigma in sigmas:
        radius = int(TRUNCATE * sigma + 0.5)
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
        squares.append(float((weights**2).sum() / weights.sum() ** 2))
    return float(np.sqrt(prod(squares) / 3.0))

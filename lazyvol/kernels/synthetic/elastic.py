"""Elastic deformation: each voxel from a place nearby that a smooth random field says.

As ``scipy.ndimage.map_coordinates`` on the whole array, but the displacements are made where they
are needed, from position and seed. Ours adds the whole part of a displacement to the voxel's
number and interpolates by the rest, so blocks agree bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.synthetic.gaussian_field import REACH, Corner, Field, Region, leads

Array = np.ndarray[Any, np.dtype[Any]]

#: voxels beyond a block behind which a cubic spline's coefficients are right to the type: the
#: influence of a voxel falls as 0.268 per step
SPLINE = {4: 14, 8: 28}


@compiled
def _linear(out: Array, grown: Array, moves: Array, at: int, low: int, halo: Array) -> None:
    """Rows from ``low`` of plane ``at`` by trilinear interpolation at displaced voxels.

    ``halo`` voxels of ``grown`` lie before the first of the plane along each axis.
    """
    for j in range(out.shape[0]):
        for k in range(out.shape[1]):
            mz, my, mx = moves[0, j, k], moves[1, j, k], moves[2, j, k]
            fz, fy, fx = np.floor(mz), np.floor(my), np.floor(mx)
            az, ay, ax = mz - fz, my - fy, mx - fx
            z, y, x = at + halo[0] + int(fz), low + j + halo[1] + int(fy), k + halo[2] + int(fx)
            # where nothing moves the neighbour may lie outside: it has weight 0 and is not read
            z1, y1, x1 = z + (az > 0.0), y + (ay > 0.0), x + (ax > 0.0)
            bx, by = 1.0 - ax, 1.0 - ay
            near = by * (bx * grown[z, y, x] + ax * grown[z, y, x1])
            near += ay * (bx * grown[z, y1, x] + ax * grown[z, y1, x1])
            far = by * (bx * grown[z1, y, x] + ax * grown[z1, y, x1])
            far += ay * (bx * grown[z1, y1, x] + ax * grown[z1, y1, x1])
            out[j, k] = (1.0 - az) * near + az * far


@compiled
def _spline(weights: Array, a: float) -> None:
    """Weights of the cubic B-spline at the four knots around a fraction."""
    b = 1.0 - a
    weights[0] = b * b * b / 6.0
    weights[1] = (4.0 + a * a * (3.0 * a - 6.0)) / 6.0
    weights[2] = (4.0 + b * b * (3.0 * b - 6.0)) / 6.0
    weights[3] = a * a * a / 6.0


@compiled
def _cubic(out: Array, grown: Array, moves: Array, at: int, low: int, halo: Array) -> None:
    """The same by cubic splines with the coefficients ``grown``; axes of length 1 stay as is.

    The last axis is never one of them: those come first.
    """
    weights = np.ones((3, 4))
    place, first = np.empty(3, np.int64), np.empty(3, np.int64)
    count = np.array([4 if n > 1 else 1 for n in grown.shape])
    for j in range(out.shape[0]):
        for k in range(out.shape[1]):
            place[0], place[1], place[2] = at, low + j, k
            for a in range(3):
                first[a] = place[a] + halo[a]
                if count[a] > 1:
                    whole = np.floor(moves[a, j, k])
                    _spline(weights[a], moves[a, j, k] - whole)
                    first[a] += int(whole) - 1
            w0, w1, w2, w3 = weights[2]
            total = 0.0
            for z in range(count[0]):
                for y in range(count[1]):
                    row = grown[first[0] + z, first[1] + y, first[2] : first[2] + 4]
                    across = w0 * row[0] + w1 * row[1] + w2 * row[2] + w3 * row[3]
                    total += weights[0, z] * weights[1, y] * across
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
    """Interior of a grown block, deformed along ``axes``; those in ``rest`` count volumes.

    ``fields`` gives the displacement along each of them, times ``scales`` and clipped to
    ``bounds``, in voxels; ``halo`` is that of ``grown`` there.
    """
    turn, pad = (*rest, *axes), (1,) * (3 - len(axes))
    lengths = tuple(region[a].stop - region[a].start for a in turn)
    made = np.empty(lengths, working(dtype))
    volumes = grown.transpose(turn)
    corner = (*(0 for _ in pad), *(region[a].start for a in axes))
    before = np.array((*(0 for _ in pad), *halo))
    moves = Moves(fields, scales, bounds)
    numbers = leads(tuple(region[a] for a in rest), tuple(shape[a] for a in rest))
    for lead, index in zip(numbers, np.ndindex(lengths[: len(rest)]), strict=True):
        knots = _knots(volumes[index], order, dtype)
        block, out = knots.reshape(pad + knots.shape), made[index]
        moves.follow(out.reshape(pad + out.shape), block, lead, corner, before, order)
    return made.transpose(np.argsort(turn)).astype(dtype, copy=False)


@dataclass(frozen=True)
class Moves:
    """Displacements along the last of the axes z, y, x: fields, their scales and bounds."""

    fields: tuple[Field, ...]
    scales: tuple[float, ...]
    bounds: tuple[float, ...]

    def follow(
        self, out: Array, block: Array, lead: int, corner: Corner, halo: Array, order: int
    ) -> None:
        """Interpolate ``block`` at every displaced voxel of ``out``, plane by plane of a tile."""
        interpolate = _cubic if order == 3 else _linear
        step = self.fields[0].rows(out.shape[2])
        for low in range(0, out.shape[1], step):
            tile = out[:, low : low + step]
            start = (corner[0], corner[1] + low, corner[2])
            found = np.zeros((3, *tile.shape[1:]))
            fields = [f.planes(lead, start, tile.shape, found.dtype) for f in self.fields]
            for at, components in enumerate(zip(*fields, strict=True)):
                self._see(found[3 - len(fields) :], components)
                interpolate(tile[at], block, found, at, low, halo)

    def _see(self, found: Array, components: tuple[Callable[[Array, float], None], ...]) -> None:
        for plane, see, scale, bound in zip(
            found, components, self.scales, self.bounds, strict=True
        ):
            see(plane, scale)
            np.clip(plane, -bound, bound, out=plane)


def working(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Float type to compute ``dtype`` in."""
    return np.promote_types(dtype, np.float32)


def margin(bound: float, order: int, dtype: np.dtype[Any]) -> int:
    """Voxels beyond a block that displacements of up to ``bound`` and interpolation need."""
    reach = int(np.ceil(bound)) + 1
    return reach + 1 + SPLINE[min(8, working(dtype).itemsize)] if order == 3 else reach


def scratch(order: int, given: np.dtype[Any], dtype: np.dtype[Any]) -> float:
    """Bytes per voxel of the grown block: it in a plain type, and splines in float64."""
    plain = working(dtype)
    return (0.0 if given == plain else plain.itemsize) + (8.0 if order == 3 else 0.0)


def _knots(block: Array, order: int, dtype: np.dtype[Any]) -> Array:
    """What is interpolated between: values, or the coefficients of splines through them."""
    plain = np.ascontiguousarray(block, working(dtype))
    return ndi.spline_filter(plain, 3, np.float64, "mirror") if order == 3 else plain


def deviation(deviations: tuple[float, ...]) -> float:
    """Standard deviation of uniform noise from -1 to 1 after a Gaussian of weight 1."""
    squares = []
    for s in deviations:
        places = np.arange(-int(REACH * s + 0.5), int(REACH * s + 0.5) + 1)
        weights = np.exp(-0.5 * (places / max(s, 1e-9)) ** 2)
        squares.append(float((weights**2).sum() / weights.sum() ** 2))
    return float(np.sqrt(prod(squares) / 3.0))

"""Values between voxels by splines of order 1 and 3: what lies beyond a border, weights, filters.

As ``scipy.ndimage`` does it (Unser, IEEE Signal Processing Magazine 16(6), 1999), with the names
of its filters for borders: its ``grid-wrap`` is ``wrap`` here.
"""

from math import floor
from typing import Any, Literal, TypeAlias

import numpy as np

from lazyvol.kernels._numba import compiled

Array = np.ndarray[Any, np.dtype[Any]]
BoundaryMode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap"]

#: the pole of the cubic spline's filter, and the filter's gain
POLE = np.sqrt(3.0) - 2.0
GAIN = 6.0
#: terms of a sum of its powers: the next is below 1e-22
TERMS = 40
#: voxels by which ``nearest`` is continued before it is filtered, as in scipy
EDGE = 12
#: what a line is taken to be beyond its ends while it is filtered
ENDS = {"constant": 0, "mirror": 0, "reflect": 1, "nearest": 1, "wrap": 2}


def positions(at: Array, n: int, mode: BoundaryMode) -> Array:
    """Elements 0 ... n - 1 that stand for integer positions of any size."""
    if mode == "wrap":
        return np.asarray(at % n)
    if mode == "nearest" or n == 1:
        return np.asarray(np.clip(at, 0, n - 1))
    if mode == "reflect":
        turned = at % (2 * n)
        return np.asarray(np.minimum(turned, 2 * n - 1 - turned))
    turned = at % (2 * n - 2)
    return np.asarray(np.minimum(turned, 2 * n - 2 - turned))


def weights(t: Array, order: int) -> Array:
    """Weights of the neighbours of a point ``t`` beyond a voxel: (..., order + 1)."""
    if order == 1:
        return np.stack([1 - t, t], -1)
    u = 1 - t
    cubes = (u**3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * u**2 + 3 * u**3, t**3)
    return np.stack(cubes, -1) / 6


def continued(volume: Array, margin: int, mode: BoundaryMode) -> Array:
    """A volume with ``margin`` more voxels on every side, float64, contiguous."""
    shape = [n + 2 * margin for n in volume.shape]
    grids = [positions(np.arange(-margin, n + margin), n, mode) for n in volume.shape]
    out = np.empty(shape, np.float64)
    out[...] = volume[np.ix_(*grids)]
    return out


@compiled
def _first(lines: Array, m: int, ends: int) -> None:
    """Start of the filter's way forth for ``m`` lines side by side, by what lies before them."""
    n = lines.shape[0]
    low, power = (n - 1, POLE ** (n - 1)) if ends == 0 else (n, POLE**n)
    for j in range(m):
        total, z = 0.0, 1.0
        for i in range(min(n, TERMS)):
            if ends == 2:
                total += z * lines[(n - i) % n, j]
            elif ends == 1:
                total += z * POLE * (lines[i, j] + power * lines[n - 1 - i, j])
            elif 0 < i < n - 1:
                total += z * (lines[i, j] + power * lines[n - 1 - i, j])
            z *= POLE
        if ends == 2:
            lines[0, j] = total / (1.0 - power)
        elif ends == 1:
            lines[0, j] += total / (1.0 - power * power)
        else:
            total += lines[0, j] + power * lines[low, j]
            lines[0, j] = total / (1.0 - power * power)


@compiled
def _last(lines: Array, m: int, ends: int) -> None:
    """Start of the filter's way back."""
    n = lines.shape[0]
    for j in range(m):
        if ends == 0:
            lines[n - 1, j] = (POLE * lines[n - 2, j] + lines[n - 1, j]) * POLE / (POLE * POLE - 1)
        elif ends == 1:
            lines[n - 1, j] *= POLE / (POLE - 1.0)
        else:
            total, z = lines[n - 1, j], POLE
            for i in range(min(n - 1, TERMS)):
                total += z * lines[i, j]
                z *= POLE
            lines[n - 1, j] = total * POLE / (POLE**n - 1.0)


@compiled
def filtered(lines: Array, m: int, ends: int) -> None:
    """Samples to coefficients of the cubic spline, down the first ``m`` columns, in place."""
    n = lines.shape[0]
    if n < 2:
        return
    for i in range(n):
        for j in range(m):
            lines[i, j] *= GAIN
    _first(lines, m, ends)
    for i in range(1, n):
        for j in range(m):
            lines[i, j] += POLE * lines[i - 1, j]
    _last(lines, m, ends)
    for i in range(n - 2, -1, -1):
        for j in range(m):
            lines[i, j] = POLE * (lines[i + 1, j] - lines[i, j])


#: lines that are filtered side by side: 64 of 200 float64 lie in the second-level cache
WIDTH = 64


@compiled
def _filter_all(volume: Array, ends: int) -> None:
    """Filter lines along the middle one of three axes."""
    before, n, after = volume.shape
    lines = np.empty((n, WIDTH))
    for b in range(before):
        for start in range(0, after, WIDTH):
            m = min(WIDTH, after - start)
            for i in range(n):
                for j in range(m):
                    lines[i, j] = volume[b, i, start + j]
            filtered(lines, m, ends)
            for i in range(n):
                for j in range(m):
                    volume[b, i, start + j] = lines[i, j]


@compiled
def _filter_rows(volume: Array, ends: int) -> None:
    """Filter lines along the last of two axes, many at a time."""
    before, n = volume.shape
    lines = np.empty((n, WIDTH))
    for start in range(0, before, WIDTH):
        m = min(WIDTH, before - start)
        for j in range(m):
            for i in range(n):
                lines[i, j] = volume[start + j, i]
        filtered(lines, m, ends)
        for j in range(m):
            for i in range(n):
                volume[start + j, i] = lines[i, j]


def coefficients(volume: Array, mode: BoundaryMode) -> None:
    """Samples to coefficients of the cubic spline along all three axes, in place.

    Lines are filtered side by side in vector registers (64^3: 1.3 ms, scipy.ndimage 7.8), and
    from the exact start: scipy's is off by 8e-6 where a line of 5 is reflected.
    """
    nz, ny, nx = volume.shape
    ends = ENDS[mode]
    _filter_all(volume.reshape(1, nz, ny * nx), ends)
    _filter_all(volume, ends)
    _filter_rows(volume.reshape(nz * ny, nx), ends)


@compiled
def _gather(lines: Array, m: int, index: Array, weight: Array, out: Array) -> None:
    for i in range(index.shape[0]):
        for j in range(m):
            out[i, j] = weight[i, 0] * lines[index[i, 0], j]
        for t in range(1, index.shape[1]):
            w, at = weight[i, t], index[i, t]
            for j in range(m):
                out[i, j] += w * lines[at, j]


@compiled
def _slide(
    volume: Array, source: Array, index: Array, weight: Array, ends: int, inside: Array, fill: float
) -> None:
    """Lines along the middle axis at other places: ``source`` continues them before the filter."""
    before, n, after = volume.shape
    lines, out = np.empty((source.size, WIDTH)), np.empty((n, WIDTH))
    for b in range(before):
        for start in range(0, after, WIDTH):
            m = min(WIDTH, after - start)
            for i in range(source.size):
                for j in range(m):
                    lines[i, j] = volume[b, source[i], start + j]
            if index.shape[1] == 4:
                filtered(lines, m, ends)
            _gather(lines, m, index, weight, out)
            for i in range(n):
                for j in range(m):
                    volume[b, i, start + j] = out[i, j] if inside[i] else fill


@compiled
def _slide_rows(
    volume: Array, source: Array, index: Array, weight: Array, ends: int, inside: Array, fill: float
) -> None:
    """The same along the last of two axes."""
    before, n = volume.shape
    lines, out = np.empty((source.size, WIDTH)), np.empty((n, WIDTH))
    for start in range(0, before, WIDTH):
        m = min(WIDTH, before - start)
        for j in range(m):
            for i in range(source.size):
                lines[i, j] = volume[start + j, source[i]]
        if index.shape[1] == 4:
            filtered(lines, m, ends)
        _gather(lines, m, index, weight, out)
        for j in range(m):
            for i in range(n):
                volume[start + j, i] = out[i, j] if inside[i] else fill


def slide(
    volume: Array, axis: int, distance: float, *, order: int, mode: BoundaryMode, fill: float
) -> None:
    """Move three axes' float64 values by ``distance`` voxels along one of them, in place.

    Whole voxels are moved as they are. A shift is separable, so it costs three times 4 products
    and not 64 (64^3 on one core: scipy.ndimage.shift 52 ms, this 3).
    """
    n = volume.shape[axis]
    index, weight, source, inside = _line(n, distance, order, mode)
    args = (source, index, weight, ENDS[mode], inside, fill)
    if axis == 2:
        _slide_rows(volume.reshape(-1, n), *args)
    else:
        _slide(volume.reshape(1, n, -1) if axis == 0 else volume, *args)


def _line(
    n: int, distance: float, order: int, mode: BoundaryMode
) -> tuple[Array, Array, Array, Array]:
    """For a line of ``n``: which neighbours every element takes, with what weights, out of
    which continued line, and whether it comes from inside."""
    at = np.arange(n) - distance
    inside = (at >= 0) & (at <= n - 1) if mode == "constant" else np.ones(n, bool)
    if distance == floor(distance):
        index = positions(at.astype(np.int64), n, mode)[:, None]
        return index, np.ones((n, 1)), np.arange(n), inside
    margin = EDGE if mode == "nearest" and order > 1 else 0
    if mode == "nearest":
        at = np.clip(at, -margin, n - 1 + margin)
    whole = np.floor(at).astype(np.int64)
    reach = np.arange(order + 1) - (order - 1) // 2
    near = whole[:, None] + reach
    source = np.clip(np.arange(-margin, n + margin), 0, n - 1)
    beyond: BoundaryMode = "reflect" if margin else mode  # as the coefficients were made
    index = positions(near + margin, n + 2 * margin, beyond)
    return index, weights(at - whole, order), source, inside

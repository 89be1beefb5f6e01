"""Membranes, grids of lines and masks of the frequencies of a tilt series, by formula."""

from math import inf, radians
from typing import Any

import numpy as np

from lazyvol.kernels.geometry.solids import Region, Triple, add_soft_edges, offsets, zeros

Array = np.ndarray[Any, np.dtype[Any]]


def membrane(
    region: Region, *, centre: Triple, step: Triple, along: Triple, radius: float,
    thickness: float, leaflet: float, soft: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return one region of a membrane of two leaflets; a single layer if they touch.

    It is a plane normal to ``along`` for a ``radius`` of inf, else a sphere.
    """
    out, space = zeros(region, dtype)
    gap = thickness / 2 - leaflet
    gap = gap if gap > 0 else -inf
    z, y, x = offsets(region, centre, step)
    for plane, dz in zip(space, z, strict=True):
        if radius == inf:
            distance = np.abs((dz * along[0] + y * along[1])[:, None] + x * along[2])
        else:
            distance = np.abs(np.sqrt((dz * dz + y * y)[:, None] + x * x) - radius)
        add_soft_edges(plane, np.maximum(distance - thickness / 2, gap - distance), soft)
    return out


def grid_lines(
    region: Region, *, centre: Triple, step: Triple, spacing: Triple, half: float, soft: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return one region of lines (walls in 3-D) every ``spacing`` along axes where it is > 0."""
    out, space = zeros(region, dtype)
    for axis, position in enumerate(offsets(region, centre, step)):
        period = spacing[axis]
        if period:
            outside = np.abs(position - period * np.round(position / period)) - half
            line = np.zeros((1, len(outside)))
            add_soft_edges(line, outside[None], soft)
            line = line.reshape([-1 if a == axis else 1 for a in range(3)])
            np.maximum(space, line, out=space)
    return out


def wedge(
    region: Region, *, shape: tuple[int, ...], step: tuple[float, ...], beam: int, across: int,
    tilts: tuple[float, float], centred: bool, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return one region of a mask of the frequencies that a tilt series measures (1, else 0).

    A projection at tilt t measures the plane where the frequency along ``beam`` is tan(t) times
    that along ``across``.
    """
    axes = zip(region, shape, step, strict=True)
    frequencies = [_frequencies(span, n, s, centred) for span, n, s in axes]
    grids = np.meshgrid(frequencies[beam], frequencies[across], indexing="ij")
    low, high = (_height_above_plane(*grids, t) for t in tilts)
    # between the two planes, on both sides of the tilt axis
    measured = (low >= -ROUNDING) & (high <= ROUNDING) | (low <= ROUNDING) & (high >= -ROUNDING)
    plane = measured.astype(dtype)
    if beam > across:
        plane = plane.T
    broadcast = tuple(slice(None) if a in (beam, across) else None for a in range(len(region)))
    lengths = tuple(s.stop - s.start for s in region)
    return np.ascontiguousarray(np.broadcast_to(plane[broadcast], lengths))


#: relative rounding within which a frequency on the plane of an extreme tilt is measured
ROUNDING = 1e-9


def _height_above_plane(beam: Array, across: Array, degrees: float) -> Array:
    """Return the distance of frequencies from the plane of a tilt, relative to their length."""
    size = np.maximum(np.hypot(beam, across), 1e-300)
    t = radians(degrees)
    return np.asarray((beam * np.cos(t) - across * np.sin(t)) / size)


def _frequencies(span: slice, n: int, step: float, centred: bool) -> Array:
    """Return the frequencies of a span of one axis, in the order of ``fftfreq`` or centred."""
    index = np.arange(span.start, span.stop)
    signed = index - n // 2 if centred else (index + n // 2) % n - n // 2
    return np.asarray(signed / (n * step))

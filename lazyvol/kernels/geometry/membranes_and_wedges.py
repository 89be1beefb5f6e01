"""Membranes, grids of lines and masks of the frequencies of a tilt series, by formula."""

from math import inf, radians
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.geometry.solids import Region, Triple, soft_edge, zeros, zyx_start

Array = np.ndarray[Any, np.dtype[Any]]


@compiled
def _add_membrane(
    out: Array, start: Triple, centre: Triple, step: Triple, along: Triple, radius: float,
    half: float, hollow: float, soft: float,
) -> None:  # fmt: skip
    """Add the shell between the distances ``hollow`` and ``half`` from a sphere or plane.

    The plane (a ``radius`` of inf) is normal to ``along``.
    """
    for i in range(out.shape[0]):
        dz = (start[0] + i - centre[0]) * step[0]
        for j in range(out.shape[1]):
            dy = (start[1] + j - centre[1]) * step[1]
            for k in range(out.shape[2]):
                dx = (start[2] + k - centre[2]) * step[2]
                if radius == inf:
                    distance = abs(dz * along[0] + dy * along[1] + dx * along[2])
                else:
                    distance = abs(np.sqrt(dz * dz + dy * dy + dx * dx) - radius)
                out[i, j, k] += soft_edge(max(distance - half, hollow - distance), soft)


def membrane(
    region: Region, *, centre: Triple, step: Triple, along: Triple, radius: float,
    thickness: float, leaflet: float, soft: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return one region of a membrane of two leaflets; a single layer if they touch."""
    out, space = zeros(region, dtype)
    hollow = thickness / 2 - leaflet
    hollow = hollow if hollow > 0 else -inf
    _add_membrane(
        space, zyx_start(region), centre, step, along, radius, thickness / 2, hollow, soft
    )
    return out


def grid_lines(
    region: Region, *, centre: Triple, step: Triple, spacing: Triple, half: float, soft: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return one region of lines (walls in 3-D) every ``spacing`` along axes where it is > 0."""
    out, _ = zeros(region, dtype)
    lead = 3 - len(region)
    for axis, span in enumerate(region):
        period = spacing[lead + axis]
        if period:
            position = (np.arange(span.start, span.stop) - centre[lead + axis]) * step[lead + axis]
            outside = np.abs(position - period * np.round(position / period)) - half
            line = np.array([soft_edge(distance, soft) for distance in outside])
            np.maximum(out, line.reshape((-1,) + (1,) * (len(region) - axis - 1)), out=out)
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

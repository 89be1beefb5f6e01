"""Sheets, shells, grids of lines and wedges of frequencies: value of each voxel by a formula."""

from math import inf, radians
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.geometry.solids import Region, Triple, blank, edge, starts

Array = np.ndarray[Any, np.dtype[Any]]


@compiled
def _add_membrane(
    out: Array, start: Triple, centre: Triple, step: Triple, along: Triple, radius: float,
    half: float, hollow: float, soft: float,
) -> None:  # fmt: skip
    """Add what lies within ``half`` of a sphere, or of a plane, but not within ``hollow``."""
    for i in range(out.shape[0]):
        dz = (start[0] + i - centre[0]) * step[0]
        for j in range(out.shape[1]):
            dy = (start[1] + j - centre[1]) * step[1]
            for k in range(out.shape[2]):
                dx = (start[2] + k - centre[2]) * step[2]
                if radius == inf:
                    off = abs(dz * along[0] + dy * along[1] + dx * along[2])
                else:
                    off = abs(np.sqrt(dz * dz + dy * dy + dx * dx) - radius)
                out[i, j, k] += edge(max(off - half, hollow - off), soft)


def membrane(
    region: Region, *, centre: Triple, step: Triple, along: Triple, radius: float,
    thickness: float, leaflet: float, soft: float, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """One region of a membrane of two leaflets, or of one where they meet in the middle."""
    out, space = blank(region, dtype)
    hollow = thickness / 2 - leaflet
    hollow = hollow if hollow > 0 else -inf
    _add_membrane(space, starts(region), centre, step, along, radius, thickness / 2, hollow, soft)
    return out


def grid_lines(
    region: Region, *, centre: Triple, step: Triple, spacing: Triple, half: float, soft: float,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """One region of lines (in 3-D: walls) every ``spacing`` along axes where that is not 0."""
    out, _ = blank(region, dtype)
    lead = 3 - len(region)
    for axis, span in enumerate(region):
        period = spacing[lead + axis]
        if period:
            place = (np.arange(span.start, span.stop) - centre[lead + axis]) * step[lead + axis]
            off = np.abs(place - period * np.round(place / period)) - half
            line = np.array([edge(value, soft) for value in off])
            np.maximum(out, line.reshape((-1,) + (1,) * (len(region) - axis - 1)), out=out)
    return out


def wedge(
    region: Region, *, shape: tuple[int, ...], step: tuple[float, ...], beam: int, across: int,
    tilts: tuple[float, float], centred: bool, dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """One region of the frequencies that a tilt series measures: 1, the others 0.

    A tilt of t sees the plane where the frequency along ``beam`` is tan(t) times that ``across``.
    """
    axes = zip(region, shape, step, strict=True)
    found = [_frequencies(span, n, s, centred) for span, n, s in axes]
    places = np.meshgrid(found[beam], found[across], indexing="ij")
    low, high = (_plane(*places, t) for t in tilts)
    # between the two planes, on both sides of the axis
    seen = (low >= -TIE) & (high <= TIE) | (low <= TIE) & (high >= -TIE)
    plane = seen.astype(dtype)
    if beam > across:
        plane = plane.T
    spread = tuple(slice(None) if a in (beam, across) else None for a in range(len(region)))
    lengths = tuple(s.stop - s.start for s in region)
    return np.ascontiguousarray(np.broadcast_to(plane[spread], lengths))


#: a frequency on the plane of the last tilt counts, whatever rounding does to it
TIE = 1e-9


def _plane(beam: Array, across: Array, degrees: float) -> Array:
    """How far frequencies lie above the plane of a tilt, over their own size."""
    size = np.maximum(np.hypot(beam, across), 1e-300)
    t = radians(degrees)
    return np.asarray((beam * np.cos(t) - across * np.sin(t)) / size)


def _frequencies(span: slice, n: int, step: float, centred: bool) -> Array:
    """Frequencies of the elements of one axis of a transform, as ``fftfreq`` or shifted."""
    index = np.arange(span.start, span.stop)
    signed = index - n // 2 if centred else (index + n // 2) % n - n // 2
    return np.asarray(signed / (n * step))

"""Neighbourhoods that reach far beyond a short axis, in memory that is bounded by the axis.

A stencil pads all of its axes at once: a Gaussian of 300 voxels on volumes of 5^3 asked for
104 GiB. Two facts bound that. Beyond its border an axis of n voxels repeats itself, so weights that
reach further than one period (2 n voxels at the most) are added up to those of one period. And a
filter that is made axis by axis needs no more than one padded axis at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels.arrays import DOUBLE
from lazyvol.kernels.filters.separable import along
from lazyvol.kernels.geometry.splines import BoundaryMode, positions

Array = np.ndarray[Any, np.dtype[Any]]
#: voxels before and after
Reach = tuple[int, int]

#: times the memory of an array that it may take with what lies beyond its border, and values up
#: to which that does not matter
WIDE, SMALL = 8, 2**22
#: values that volumes which are filtered together may have when they are grown
ROOM = 2**20


def shortened(
    weights: Array, reach: Reach, n: int, mode: str, axis: int = 0
) -> tuple[Array, Reach]:
    """Weights along ``axis`` that give what ``weights`` give on an axis of ``n`` voxels.

    Weight j is that of the voxel ``j - reach[0]`` away. Those that meet equal voxels from every
    place of the axis are added up; the result reaches at most ``n`` voxels to each side.
    """
    before, after = reach
    away = np.arange(-before, after + 1)
    if mode == "valid" or n == 0:
        return weights, reach
    if mode in ("nearest", "constant"):
        most = n if mode == "constant" else n - 1
        places = np.clip(away, -most, most)
    else:
        period = {"wrap": n, "reflect": 2 * n, "mirror": max(1, 2 * n - 2)}[mode]
        if len(away) <= period:
            return weights, reach
        places = (away + period // 2) % period - period // 2
    first, last = int(places.min()), int(places.max())
    if last - first + 1 == len(away):
        return weights, reach
    moved = np.moveaxis(weights, axis, 0)
    found = np.zeros((last - first + 1, *moved.shape[1:]), weights.dtype)
    np.add.at(found, places - first, moved)
    return np.ascontiguousarray(np.moveaxis(found, 0, axis)), (-first, last)


def continued(block: Array, reach: Sequence[Reach], mode: BoundaryMode, fill: Any) -> Array:
    """A block of whole axes with what lies beyond their border."""
    for axis, (before, after) in enumerate(reach):
        n = block.shape[axis]
        if mode == "constant" and before + after:
            around = [(before, after) if a == axis else (0, 0) for a in range(block.ndim)]
            block = np.pad(block, around, constant_values=fill)
        elif before + after:
            block = np.take(block, positions(np.arange(-before, n + after), n, mode), axis)
    return block


def is_wide(shape: Sequence[int], reach: Sequence[Reach]) -> bool:
    """Whether an array with what lies beyond its border takes too much memory at once."""
    grown = prod(n + sum(own) for n, own in zip(shape, reach, strict=True))
    return grown > max(SMALL, WIDE * prod(shape))


@dataclass(frozen=True)
class Pass:
    """One pass of a filter over a volume: ``kernel(grown) -> valid part``.

    ``fill`` lies beyond a constant border: what the passes before have made of the stack's own.
    """

    kernel: Callable[[Array], Array]
    reach: tuple[Reach, ...]
    fill: Any = 0.0


def filtered(
    block: Array,
    *,
    passes: Sequence[Pass],
    axes: Sequence[int],
    mode: BoundaryMode,
    dtype: np.dtype[Any],
) -> Array:
    """A block whose ``axes`` are whole, pass by pass, some volumes at a time."""
    out = np.empty(block.shape, dtype)
    for index in _volumes(block.shape, axes, passes) if block.size else ():
        some = block[index]
        for step in passes:
            some = step.kernel(continued(some, step.reach, mode, step.fill))
        out[index] = some
    return out


def _volumes(
    shape: Sequence[int], axes: Sequence[int], passes: Sequence[Pass]
) -> Iterator[tuple[slice, ...]]:
    """As many volumes as are ``ROOM`` values when they are grown, along their longest axis."""
    lead = [a for a in range(len(shape)) if a not in axes]
    longest = max(lead, key=lambda a: shape[a], default=None)
    volume = [(a, n) for a, n in enumerate(shape) if a in axes]
    grown = max((prod(n + sum(p.reach[a]) for a, n in volume) for p in passes), default=1)
    steps = [n if a in axes else 1 for a, n in enumerate(shape)]
    if longest is not None:
        steps[longest] = max(1, ROOM // grown)
    for at in product(*(range(0, n, step) for n, step in zip(shape, steps, strict=True))):
        yield tuple(slice(i, i + step) for i, step in zip(at, steps, strict=True))


def axis_by_axis(
    volume: Array, weights: Sequence[Array | None], mode: BoundaryMode, fill: float
) -> Array:
    """Weighted sums of a whole volume in float64, every axis padded by itself; weights are of odd
    lengths."""
    beyond = fill
    for axis, given in enumerate(weights):
        if given is None:
            continue
        half = len(given) // 2
        taps, own = shortened(given, (half, half), volume.shape[axis], mode)
        reach = [own if a == axis else (0, 0) for a in range(volume.ndim)]
        volume = along(continued(volume, reach, mode, beyond), taps, axis, dtype=DOUBLE)
        beyond = beyond * float(given.sum())
    return np.asarray(volume, DOUBLE)

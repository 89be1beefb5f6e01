"""Neighbourhoods that reach far beyond a short axis, in memory that is bounded by the axis.

A stencil pads all of its axes at once: a Gaussian of 300 voxels on volumes of 5^3 asked for
104 GiB. Two facts bound that. Beyond its border an axis of n voxels repeats itself, so weights that
reach further than one period (2 n voxels at the most) are added up to those of one period. And a
filter that is made axis by axis needs no more than one padded axis at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from lazyvol.kernels.separable import DOUBLE, along
from lazyvol.kernels.splines import positions

Array = np.ndarray[Any, np.dtype[Any]]
#: voxels before and after
Reach = tuple[int, int]


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


def continued(block: Array, reach: Sequence[Reach], mode: str, fill: Any) -> Array:
    """A block of whole axes with what lies beyond their border."""
    for axis, (before, after) in enumerate(reach):
        n = block.shape[axis]
        if mode == "constant" and before + after:
            around = [(before, after) if a == axis else (0, 0) for a in range(block.ndim)]
            block = np.pad(block, around, constant_values=fill)
        elif before + after:
            block = np.take(block, positions(np.arange(-before, n + after), n, mode), axis)
    return block


@dataclass(frozen=True)
class Pass:
    """One pass of a filter over a volume: ``kernel(grown) -> valid part``.

    ``fill`` lies beyond a constant border: what the passes before have made of the stack's own.
    """

    kernel: Callable[[Array], Array]
    reach: tuple[Reach, ...]
    fill: Any = 0.0


def filtered(
    block: Array, *, passes: Sequence[Pass], axes: Sequence[int], mode: str, dtype: np.dtype[Any]
) -> Array:
    """Every volume of a block whose ``axes`` are whole, pass by pass."""
    out = np.empty(block.shape, dtype)
    lead = [range(1) if a in axes else range(n) for a, n in enumerate(block.shape)]
    for at in product(*lead) if block.size else ():
        index = tuple(slice(None) if a in axes else slice(i, i + 1) for a, i in enumerate(at))
        volume = block[index]
        for step in passes:
            volume = step.kernel(continued(volume, step.reach, mode, step.fill))
        out[index] = volume
    return out


def axis_by_axis(volume: Array, weights: Sequence[Array | None], mode: str, fill: float) -> Array:
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

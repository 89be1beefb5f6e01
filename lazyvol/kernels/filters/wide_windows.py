"""Filters whose windows extend far beyond a short axis, in memory proportional to the axis.

A stencil pads all axes at once: a Gaussian of 300 voxels on volumes of 5^3 would need 104 GiB. Two
facts limit the padding. Beyond its border an axis of n voxels is periodic, so weights beyond one
period (2 n voxels at most) are added to those within it. And a filter that is applied axis by axis
needs one padded axis at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels.arrays import DOUBLE
from lazyvol.kernels.filters.separable import along
from lazyvol.kernels.geometry.splines import BoundaryMode, boundary_indices

Array = np.ndarray[Any, np.dtype[Any]]
#: voxels before and after
Reach = tuple[int, int]

#: largest ratio of padded to own size of an array, and padded values up to which any ratio is
#: accepted
WIDE, SMALL = 8, 2**22
#: padded values of the volumes that are filtered together
ROOM = 2**20


def fold_weights(
    weights: Array, reach: Reach, n: int, mode: str, axis: int = 0
) -> tuple[Array, Reach]:
    """Return shorter weights along ``axis`` with an equal effect on an axis of ``n`` voxels.

    Weight j is that of the voxel ``j - reach[0]`` away. Weights that meet equal voxels from every
    position are added up; the result reaches at most ``n`` voxels to each side.
    """
    before, after = reach
    distances = np.arange(-before, after + 1)
    if mode == "valid" or n == 0:
        return weights, reach
    if mode in ("nearest", "constant"):
        farthest = n if mode == "constant" else n - 1
        folded = np.clip(distances, -farthest, farthest)
    else:
        period = {"wrap": n, "reflect": 2 * n, "mirror": max(1, 2 * n - 2)}[mode]
        if len(distances) <= period:
            return weights, reach
        folded = (distances + period // 2) % period - period // 2
    first, last = int(folded.min()), int(folded.max())
    if last - first + 1 == len(distances):
        return weights, reach
    moved = np.moveaxis(weights, axis, 0)
    sums = np.zeros((last - first + 1, *moved.shape[1:]), weights.dtype)
    np.add.at(sums, folded - first, moved)
    return np.ascontiguousarray(np.moveaxis(sums, 0, axis)), (-first, last)


def pad(block: Array, reach: Sequence[Reach], mode: BoundaryMode, fill: Any) -> Array:
    """Return a block of whole axes padded by ``reach``."""
    for axis, (before, after) in enumerate(reach):
        n = block.shape[axis]
        if mode == "constant" and before + after:
            widths = [(before, after) if a == axis else (0, 0) for a in range(block.ndim)]
            block = np.pad(block, widths, constant_values=fill)
        elif before + after:
            block = np.take(block, boundary_indices(np.arange(-before, n + after), n, mode), axis)
    return block


def is_wide(shape: Sequence[int], reach: Sequence[Reach]) -> bool:
    """Return True if an array padded along all axes at once would take too much memory."""
    padded = prod(n + sum(r) for n, r in zip(shape, reach, strict=True))
    return padded > max(SMALL, WIDE * prod(shape))


@dataclass(frozen=True)
class FilterPass:
    """One pass of a filter over a volume: ``kernel(padded) -> valid part``.

    ``fill`` is the value beyond a constant border, as changed by the passes before.
    """

    kernel: Callable[[Array], Array]
    reach: tuple[Reach, ...]
    fill: Any = 0.0


def apply_passes(
    block: Array,
    *,
    passes: Sequence[FilterPass],
    axes: Sequence[int],
    mode: BoundaryMode,
    dtype: np.dtype[Any],
) -> Array:
    """Apply all passes to a block whose ``axes`` are whole, some volumes at a time."""
    out = np.empty(block.shape, dtype)
    for index in _volume_groups(block.shape, axes, passes) if block.size else ():
        volumes = block[index]
        for step in passes:
            volumes = step.kernel(pad(volumes, step.reach, mode, step.fill))
        out[index] = volumes
    return out


def _volume_groups(
    shape: Sequence[int], axes: Sequence[int], passes: Sequence[FilterPass]
) -> Iterator[tuple[slice, ...]]:
    """Yield slices of as many volumes as have ``ROOM`` padded values, along the longest axis."""
    lead = [a for a in range(len(shape)) if a not in axes]
    longest = max(lead, key=lambda a: shape[a], default=None)
    volume = [(a, n) for a, n in enumerate(shape) if a in axes]
    padded = max((prod(n + sum(p.reach[a]) for a, n in volume) for p in passes), default=1)
    steps = [n if a in axes else 1 for a, n in enumerate(shape)]
    if longest is not None:
        steps[longest] = max(1, ROOM // padded)
    for starts in product(*(range(0, n, step) for n, step in zip(shape, steps, strict=True))):
        yield tuple(slice(i, i + step) for i, step in zip(starts, steps, strict=True))


def correlate_axis_by_axis(
    volume: Array, weights: Sequence[Array | None], mode: BoundaryMode, fill: float
) -> Array:
    """Return weighted sums of a whole volume in float64, padded along one axis at a time.

    Weights have odd lengths.
    """
    for axis, axis_weights in enumerate(weights):
        if axis_weights is None:
            continue
        half = len(axis_weights) // 2
        taps, folded = fold_weights(axis_weights, (half, half), volume.shape[axis], mode)
        reach = [folded if a == axis else (0, 0) for a in range(volume.ndim)]
        volume = along(pad(volume, reach, mode, fill), taps, axis, dtype=DOUBLE)
        fill = fill * float(axis_weights.sum())
    return np.asarray(volume, DOUBLE)

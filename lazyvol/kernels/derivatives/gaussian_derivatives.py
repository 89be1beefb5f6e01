"""Derivatives of blocks, and what is made of them, along some of their axes.

All others are left alone. Results have the block's axes in its own order, components last (and
first in memory, see ``frames``).
"""

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from lazyvol.kernels.arrays import contiguous_floats
from lazyvol.kernels.derivatives import finite_differences, outputs, structure_tensor
from lazyvol.kernels.derivatives.volumes import Frame, Task, each, flat, tiles
from lazyvol.kernels.filters.separable import gaussian_weights, separable
from lazyvol.kernels.filters.wide_windows import axis_by_axis
from lazyvol.kernels.geometry.splines import BoundaryMode

Array = np.ndarray[Any, np.dtype[Any]]
Halo = Sequence[tuple[int, int]]

#: orders of the derivatives along z, y, x behind each row
ORDERS = {
    1: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    2: ((2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2)),
}
#: what ``numpy.pad`` calls a border; that of a constant is filled afterwards
CONTINUED = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge", "constant": "edge"}
ROWS = 6
#: bytes of six fields of means: thicker tiles than those of derivatives, as products are made for
#: each of them and its halo
PRODUCTS = 2**23
DOUBLE = np.dtype(np.float64)
#: roundings of the largest value up to which a second derivative may be off
ROUNDINGS = 16.0


def of_differences(block: Array, halo: Halo, *, task: Task, out: Array | None = None) -> Array:
    """``task`` of derivatives as ``numpy.gradient`` takes them.

    The halo, one voxel for each order, ends at the border of the array.
    """
    inner = [n - lo - hi for n, (lo, hi) in zip(block.shape, halo, strict=True)]
    frame = Frame.of(inner, task.axes)
    start = np.array(frame.per_axis([halo[a][0] for a in task.axes], 0))
    inverse = np.array(frame.per_axis([1 / h for h in task.spacing], 0.0))
    found, options = (frame.rows(task.order), task.what, len(task.axes)), np.array(task.options)
    # a difference of differences weighs 1 in all, over the squared distance
    rounded = ROUNDINGS * float(np.finfo(DOUBLE).eps) * float((inverse**2).sum())

    def make(volume: Array, out: Array) -> None:
        lengths, shape = np.array(volume.shape), np.array(out.shape[:3])
        given = (contiguous_floats(volume).reshape(-1), lengths, start, shape, inverse, *found)
        if task.order == 1:
            finite_differences.first(*given, *flat(out))
        else:
            finite_differences.second(*given, task.fine, options, *flat(out))
            _silence(out, volume, task, rounded)

    return each(block, inner, task, make, out)


def gaussians(
    sigma: Sequence[float], truncate: float, spacing: Sequence[float]
) -> list[list[Array]]:
    """Weights of the orders 0, 1 and 2 along each axis, of ``sigma`` in voxels, per length."""
    return [
        [gaussian_weights(s, truncate, order, 1) / h**order for order in range(3)]
        for s, h in zip(sigma, spacing, strict=True)
    ]


def of_gaussians(
    block: Array, *, task: Task, sigma: Sequence[float], truncate: float, out: Array | None = None
) -> Array:
    """``task`` of derivatives of a Gaussian, ``sigma`` in voxels; the halo is its reach."""
    weights = gaussians(sigma, truncate, task.spacing)
    lost = [len(w[0]) - 1 for w in weights]
    inner = _less(block.shape, dict(zip(task.axes, lost, strict=True)))
    frame = Frame.of(inner, task.axes)
    own, more = frame.per_axis(weights, None), frame.per_axis(lost, 0)

    def make(volume: Array, out: Array) -> None:
        for place in tiles(out.shape[:3], more):
            grown = tuple(slice(p.start, p.stop + n) for p, n in zip(place, more, strict=True))
            _emit(_derivatives(volume[grown], own, frame, task), task, out[place])
            _silence(out[place], volume[grown], task, noise(own))

    return each(block, inner, task, make, out)


def of_whole_gaussians(
    block: Array,
    *,
    task: Task,
    sigma: Sequence[float],
    truncate: float,
    mode: BoundaryMode,
    fill: float,
) -> Array:
    """``of_gaussians`` of a block whose axes are whole: one of them is padded at a time."""
    weights = gaussians(sigma, truncate, task.spacing)
    frame = Frame.of(block.shape, task.axes)
    own = frame.per_axis(weights, None)

    def make(volume: Array, out: Array) -> None:
        def summed(orders: Sequence[int]) -> Array:
            taps = [None if w is None else w[n] for w, n in zip(own, orders, strict=True)]
            return axis_by_axis(volume, taps, mode, fill)

        _emit(_fields(summed, frame, task), task, out)
        _silence(out, volume, task, noise(own))

    return each(block, block.shape, task, make)


def of_products(
    block: Array, halo: Halo, *, task: Task, sigma: Sequence[float], truncate: float, mode: str
) -> Array:
    """``task`` of Gaussian means of the products of the components, the block's last axis.

    The halo ends at the border of the array, where products are continued by ``mode``; along the
    components it says which of the results are asked for.
    """
    weights = [gaussian_weights(s, truncate) for s in sigma]
    inner = _less(block.shape[:-1], {a: sum(halo[a]) for a in task.axes})
    frame = Frame.of(inner, task.axes)
    continued = [
        _sources(inner[a], halo[a], len(w) // 2, mode)
        for a, w in zip(task.axes, weights, strict=True)
    ]
    own, sources = frame.per_axis(weights, None), frame.per_axis(continued, None)
    more = frame.per_axis([len(w) - 1 for w in weights], 0)

    def make(volume: Array, out: Array) -> None:
        parts = [contiguous_floats(volume[..., n]) for n in range(volume.shape[-1])]
        for place in tiles(out.shape[:3], more, PRODUCTS):
            grown = [
                np.arange(p.start, p.stop) if w is None else s[p.start : p.stop + len(w) - 1]
                for s, p, w in zip(sources, place, own, strict=True)
            ]
            _emit(_means(parts, grown, own), task, out[place])

    made = each(block, inner, task, make)
    low, high = halo[-1]
    return made[(*(slice(None),) * len(inner), slice(low, block.shape[-1] - high))]


def of_whole_products(
    block: Array, *, task: Task, sigma: Sequence[float], truncate: float, mode: BoundaryMode
) -> Array:
    """``of_products`` of a block whose axes are whole: one of them is padded at a time."""
    inner = block.shape[:-1]
    frame = Frame.of(inner, task.axes)
    own = frame.per_axis([gaussian_weights(s, truncate) for s in sigma], None)

    def make(volume: Array, out: Array) -> None:
        parts = [np.asarray(volume[..., n], DOUBLE) for n in range(volume.shape[-1])]
        fields = [
            None if a < 0 else axis_by_axis(parts[a] * parts[b], own, mode, 0.0).reshape(-1)
            for a, b in _components(len(parts))
        ]
        _emit(_filled(fields), task, out)

    return each(block, inner, task, make)


def radius(sigma: float, truncate: float, least: int = 0) -> int:
    """Voxels to each side that a Gaussian reaches; its derivatives reach 1 at ``least``."""
    return max(least, int(truncate * sigma + 0.5))


def _less(shape: Sequence[int], lost: dict[int, int]) -> list[int]:
    """A block's lengths without its halo."""
    return [n - lost.get(a, 0) for a, n in enumerate(shape)]


def _derivatives(
    tile: Array, weights: Sequence[Sequence[Array] | None], frame: Frame, task: Task
) -> list[Array]:
    """Derivatives of a tile, flat.

    Each by itself: to share the sums along the first axis was not faster, 32 ns per voxel for the
    six of 17 taps an axis against 31.
    """

    def summed(orders: Sequence[int]) -> Array:
        own = [None if w is None else w[n] for w, n in zip(weights, orders, strict=True)]
        return separable(tile, own, dtype=DOUBLE)

    return _fields(summed, frame, task)


def _fields(summed: Callable[[Sequence[int]], Array], frame: Frame, task: Task) -> list[Array]:
    """What ``summed`` makes of the orders along the axes of a volume, flat; zeros along axes that
    are not there, and where a trace needs none."""
    absent = 3 - len(task.axes)
    fields: list[Array | None] = []
    for orders in ORDERS[task.order]:
        if any(orders[:absent]) or (task.what == outputs.TRACE and 1 in orders):
            fields.append(None)
        else:
            fields.append(summed(frame.per_axis(orders[absent:], 0)).reshape(-1))
    return _filled(fields)


def _means(
    parts: Sequence[Array], sources: Sequence[Array], weights: Sequence[Array | None]
) -> list[Array]:
    """Gaussian means of products of components, flat; zeros along axes that are not there."""
    lengths = np.array(parts[0].shape)
    product = np.empty([len(s) for s in sources])
    fields: list[Array | None] = []
    for a, b in _components(len(parts)):
        if a < 0:
            fields.append(None)
            continue
        one, other = parts[a].reshape(-1), parts[b].reshape(-1)
        structure_tensor.multiply(one, other, lengths, *sources, product.reshape(-1))
        fields.append(separable(product, weights, dtype=DOUBLE).reshape(-1))
    return _filled(fields)


def _components(n: int) -> list[tuple[int, int]]:
    """Pairs of ``n`` components behind the rows; those of axes that are not there are negative."""
    return list(combinations_with_replacement(range(n - 3, n), 2))


def noise(weights: Sequence[Sequence[Array] | None]) -> float:
    """Norm of second derivatives that rounding alone may make of values up to 1."""
    curved = [float(np.abs(w[2]).sum()) for w in weights if w is not None]
    return ROUNDINGS * float(np.finfo(DOUBLE).eps) * sum(curved)


def _silence(out: Array, values: Array, task: Task, unit: float) -> None:
    """Norms that are no more than rounding of the values made 0: half of the largest of them would
    make ridges of it."""
    if task.what == outputs.NORM:
        largest = np.abs(values, dtype=DOUBLE).max(initial=0.0, where=np.isfinite(values))
        out[out <= unit * largest] = 0.0


def _filled(fields: list[Array | None]) -> list[Array]:
    """As many fields as there are rows."""
    size = next(f.size for f in fields if f is not None)
    zeros = np.zeros(size)
    padded = [zeros if f is None else f for f in fields]
    return padded + [zeros] * (ROWS - len(padded))


def _sources(length: int, halo: tuple[int, int], reach: int, mode: str) -> Array:
    """For each position that means of ``length`` voxels see: where it is in the block, or -1."""
    missing = (reach - halo[0], reach - halo[1])
    there = np.arange(length + sum(halo))
    found = np.pad(there, missing, CONTINUED[mode])  # type: ignore[call-overload]
    if mode == "constant":
        found[: missing[0]] = -1
        found[len(found) - missing[1] :] = -1
    return np.asarray(found)


def _emit(fields: Sequence[Array], task: Task, out: Array) -> None:
    given = (task.what, len(task.axes), task.fine, np.array(task.options))
    outputs.emit_fields(tuple(fields), np.array(out.shape[:3]), *given, *flat(out))

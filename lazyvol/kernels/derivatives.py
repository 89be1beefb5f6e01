"""Derivatives of blocks, and what is made of them, along some of their axes.

All others are left alone. Results have the block's axes in its own order, components last (and
first in memory, see ``frames``).
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from lazyvol.kernels import differences, rows, slopes
from lazyvol.kernels.frames import Frame, Task, each, flat, tiles
from lazyvol.kernels.separable import gaussian_weights, readable, separable

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


def of_differences(block: Array, halo: Halo, *, task: Task, out: Array | None = None) -> Array:
    """``task`` of derivatives as ``numpy.gradient`` takes them.

    The halo, one voxel for each order, ends at the border of the array.
    """
    inner = [n - lo - hi for n, (lo, hi) in zip(block.shape, halo, strict=True)]
    frame = Frame.of(inner, task.axes)
    start = np.array(frame.per_axis([halo[a][0] for a in task.axes], 0))
    inverse = np.array(frame.per_axis([1 / h for h in task.spacing], 0.0))
    found, options = (frame.rows(task.order), task.what, len(task.axes)), np.array(task.options)

    def make(volume: Array, out: Array) -> None:
        lengths, shape = np.array(volume.shape), np.array(out.shape[:3])
        given = (readable(volume).reshape(-1), lengths, start, shape, inverse, *found)
        if task.order == 1:
            differences.first(*given, *flat(out))
        else:
            differences.second(*given, task.fine, options, *flat(out))

    return each(block, inner, task, make, out)


def of_gaussians(
    block: Array, *, task: Task, sigma: Sequence[float], truncate: float, out: Array | None = None
) -> Array:
    """``task`` of derivatives of a Gaussian, ``sigma`` in voxels; the halo is its reach."""
    weights = [
        [gaussian_weights(s, truncate, order) / h**order for order in range(3)]
        for s, h in zip(sigma, task.spacing, strict=True)
    ]
    lost = [2 * radius(s, truncate) for s in sigma]
    inner = _less(block.shape, dict(zip(task.axes, lost, strict=True)))
    frame = Frame.of(inner, task.axes)
    own, more = frame.per_axis(weights, None), frame.per_axis(lost, 0)

    def make(volume: Array, out: Array) -> None:
        for place in tiles(out.shape[:3], more):
            grown = tuple(slice(p.start, p.stop + n) for p, n in zip(place, more, strict=True))
            _emit(_derivatives(volume[grown], own, frame, task), task, out[place])

    return each(block, inner, task, make, out)


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
        parts = [readable(volume[..., n]) for n in range(volume.shape[-1])]
        for place in tiles(out.shape[:3], more, PRODUCTS):
            grown = [
                np.arange(p.start, p.stop) if w is None else s[p.start : p.stop + len(w) - 1]
                for s, p, w in zip(sources, place, own, strict=True)
            ]
            _emit(_means(parts, grown, own), task, out[place])

    made = each(block, inner, task, make)
    low, high = halo[-1]
    return made[(*(slice(None),) * len(inner), slice(low, block.shape[-1] - high))]


def radius(sigma: float, truncate: float) -> int:
    """Voxels to each side that a Gaussian reaches."""
    return len(gaussian_weights(sigma, truncate)) // 2


def _less(shape: Sequence[int], lost: dict[int, int]) -> list[int]:
    """A block's lengths without its halo."""
    return [n - lost.get(a, 0) for a, n in enumerate(shape)]


def _derivatives(
    tile: Array, weights: Sequence[Sequence[Array] | None], frame: Frame, task: Task
) -> list[Array]:
    """Derivatives, flat; zeros along axes that are not there, and where a trace needs none.

    Each by itself: to share the sums along the first axis was not faster, 32 ns per voxel for the
    six of 17 taps an axis against 31.
    """
    absent = 3 - len(task.axes)
    fields: list[Array | None] = []
    for orders in ORDERS[task.order]:
        if any(orders[:absent]) or (task.what == rows.TRACE and 1 in orders):
            fields.append(None)
            continue
        each_axis = zip(weights, frame.per_axis(orders[absent:], 0), strict=True)
        own = [None if w is None else w[order] for w, order in each_axis]
        fields.append(separable(tile, own, dtype=DOUBLE).reshape(-1))
    return _filled(fields)


def _means(
    parts: Sequence[Array], sources: Sequence[Array], weights: Sequence[Array | None]
) -> list[Array]:
    """Gaussian means of products of components, flat; zeros along axes that are not there."""
    n, absent = len(parts), 3 - len(parts)
    lengths = np.array(parts[0].shape)
    product = np.empty([len(s) for s in sources])
    fields: list[Array | None] = []
    for a, b in combinations_with_replacement(range(-absent, n), 2):
        if a < 0:
            fields.append(None)
            continue
        one, other = parts[a].reshape(-1), parts[b].reshape(-1)
        slopes.multiply(one, other, lengths, *sources, product.reshape(-1))
        fields.append(separable(product, weights, dtype=DOUBLE).reshape(-1))
    return _filled(fields)


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
    rows.emit_fields(tuple(fields), np.array(out.shape[:3]), *given, *flat(out))

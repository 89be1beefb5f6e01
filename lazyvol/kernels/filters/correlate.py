"""Correlation of a block with weights of any shape: product by product, or by Fourier transforms.

Weights have the axes of the block, of length 1 where they leave it alone. All give the valid part:
``out[i] = sum_t weights[t] * block[i + t]`` where every ``i + t`` lies in the block.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product
from math import ceil, log2, prod
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels._numba import compiled_products
from lazyvol.kernels.arrays import DOUBLE, allocate_output, contiguous_floats, kernel_float
from lazyvol.kernels.filters import rowwise
from lazyvol.kernels.filters.taps import weighted

Array = np.ndarray[Any, np.dtype[Any]]

#: products that take as long as a transform there and back takes per value and log2(values):
#: 0.85 to 1.1 ns of it from 32^3 to 256^3, against 0.023 to 0.035 ns for a product. Of 128^3
#: float32, 9^3 random weights take 17 ns per voxel by products and 24 by transforms, 11^3 take
#: 65 and 36
HALVING = 32
#: length of a tile that is transformed at once: of 144 they leave the cache (11^3 weights take
#: 42 ns per voxel against 26); weights of a third of it and more get longer ones
TILE = 96
#: values of a plane that are summed before they go to the result
STRIP = 2**14
#: relative distance from a product of one row per axis at which weights still are one
ROUNDING = 16 * np.finfo(np.float64).eps


def factors(weights: Array) -> list[Array] | None:
    """Weights per axis whose outer product the given ones are, to rounding; None if they are not.

    Rows through the largest weight: each element is off by few roundings of its own size.
    """
    peak = np.unravel_index(np.argmax(np.abs(weights)), weights.shape)
    top = weights[peak]
    if top == 0:
        return None
    longest = int(np.argmax(weights.shape))
    rows = [_row(weights, peak, a) / (1.0 if a == longest else top) for a in range(weights.ndim)]
    made = reduce(np.multiply.outer, rows)
    near = np.abs(made - weights) <= ROUNDING * np.abs(weights)
    return rows if bool(near.all()) else None


def _row(weights: Array, peak: Sequence[Any], axis: int) -> Array:
    return np.asarray(weights[(*peak[:axis], slice(None), *peak[axis + 1 :])])


def correlate(
    block: Array, *, weights: Array, dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """The valid part, in float64 arithmetic, in the way that takes less time for this block.

    A block with NaN or infinities is done by products: transforms would spread them everywhere.
    """
    if transforms_pay(block.shape, weights) and np.isfinite(block).all():
        return by_transforms(block, weights, dtype, out)
    return by_products(block, weights, dtype, out)


def transforms_pay(shape: Sequence[int], weights: Array) -> bool:
    """Whether transforms of a block take less time than its products."""
    kept = [n - w + 1 for n, w in zip(shape, weights.shape, strict=True)]
    if min(kept) < 1:
        return False
    axes = [a for a, w in enumerate(weights.shape) if w > 1]
    lengths, counts = _tiles([shape[a] for a in axes], [weights.shape[a] for a in axes])
    others = prod(n for a, n in enumerate(shape) if a not in axes)
    values = prod(lengths)
    # the weights are transformed too, which costs half as much
    transforms = (others * prod(counts) + 0.5) * values * HALVING * log2(max(2, values))
    return bool(transforms < np.count_nonzero(weights) * prod(kept))


def by_products(
    block: Array, weights: Array, dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Product by product; weights of 0 are left out."""
    if block.ndim < 3:
        lifted = None if out is None else out[None]
        return np.asarray(by_products(block[None], weights[None], dtype, lifted)[0])
    kept = _kept(block.shape, weights.shape)
    out = allocate_output(out, kept, kernel_float(dtype))
    weighty = [a for a, w in enumerate(weights.shape) if w > 1]
    first = min([*weighty, block.ndim - 3])
    small = weights.reshape(weights.shape[first:])
    plan = rowwise.planned(small)
    if out.size:
        for index in np.ndindex(kept[:first]):
            if plan is None:
                _volume(out[index], contiguous_floats(block[index]), small)
            else:
                rowwise.correlate(out[index], contiguous_floats(block[index]), plan)
    return out.astype(dtype, copy=False)


def _volume(out: Array, volume: Array, weights: Array) -> None:
    """One volume, plane after plane, in strips of rows."""
    at = np.nonzero(weights)
    offsets = np.ravel_multi_index(at, volume.shape).astype(np.uint64)
    *lead, rows, columns = out.shape
    planes = np.ravel_multi_index(np.indices(lead).reshape(len(lead), -1), volume.shape[:-2])
    starts = planes.astype(np.int64) * prod(volume.shape[-2:])
    width = volume.shape[-1]
    high = min(rows, max(1, STRIP // width))
    _planes(
        out.reshape(-1, rows, columns), volume.reshape(-1), starts, width, offsets,
        np.asarray(weights[at], np.float64), np.empty(high * width), high,
    )  # fmt: skip


@compiled_products
def _planes(
    out: Array, x: Array, starts: Array, width: int, offsets: Array, weights: Array, sums: Array,
    high: int,
) -> None:  # fmt: skip
    """(plane, row, column) of planes that start at ``starts``, ``high`` rows at a time."""
    for plane in range(out.shape[0]):
        for row in range(0, out.shape[1], high):
            rows = min(high, out.shape[1] - row)
            lanes = (rows - 1) * width + out.shape[2]
            weighted(sums, x, starts[plane] + row * width, lanes, offsets, weights)
            for r in range(rows):
                line = out[plane, row + r]
                for i in range(line.size):
                    line[i] = sums[r * width + i]


def by_transforms(
    block: Array, weights: Array, dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Tile after tile by Fourier transforms in float64, of which the valid part is kept.

    In float32 they would be off by more than products are: errors are those of the largest values.
    """
    axes = [a for a, w in enumerate(weights.shape) if w > 1]
    order = [a for a in range(block.ndim) if a not in axes] + axes
    small = weights.transpose(order).reshape([weights.shape[a] for a in axes])
    out = allocate_output(out, _kept(block.shape, weights.shape), dtype)
    source, target = block.transpose(order), out.transpose(order)
    lengths, _ = _tiles(source.shape[-len(axes) :], small.shape)
    inverse = tuple(range(len(axes)))
    wave = np.conj(scipy.fft.rfftn(np.asarray(small, DOUBLE), lengths, axes=inverse, workers=1))
    for index in np.ndindex(target.shape[: -len(axes)]):
        for read, put in _cuts(target[index].shape, lengths, small.shape):
            tile = np.asarray(source[index][read], DOUBLE)
            found = scipy.fft.rfftn(tile, lengths, axes=inverse, workers=1)
            found *= wave
            whole = scipy.fft.irfftn(found, lengths, axes=inverse, workers=1, overwrite_x=True)
            target[index][put] = whole[tuple(slice(0, p.stop - p.start) for p in put)]
    return out


def _tiles(shape: Sequence[int], weights: Sequence[int]) -> tuple[list[int], list[int]]:
    """Lengths of the transforms, and their number, along each axis."""
    lengths, counts = [], []
    for n, w in zip(shape, weights, strict=True):
        kept, most = n - w + 1, max(TILE, 3 * w) - w + 1
        counts.append(ceil(kept / most))
        lengths.append(scipy.fft.next_fast_len(ceil(kept / counts[-1]) + w - 1, real=True))
    return lengths, counts


def _cuts(
    kept: Sequence[int], lengths: Sequence[int], weights: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """What each transform reads of a volume, and what part of the result it makes."""
    own = []
    for n, length, w in zip(kept, lengths, weights, strict=True):
        step = length - w + 1
        ends = [(start, min(start + step, n)) for start in range(0, n, step)]
        own.append([(slice(a, b + w - 1), slice(a, b)) for a, b in ends])
    for chosen in product(*own):
        yield tuple(r for r, _ in chosen), tuple(p for _, p in chosen)


def _kept(shape: Sequence[int], weights: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(0, n - w + 1) for n, w in zip(shape, weights, strict=True))

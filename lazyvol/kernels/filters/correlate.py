"""Correlation of a block with weights of any shape, directly or by Fourier transforms.

Weights have as many axes as the block, of length 1 where they do not reach. Results are the valid
part, ``out[i] = sum_t weights[t] * block[i + t]``.
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
from lazyvol.kernels.filters import dense_correlation
from lazyvol.kernels.filters.weighted_sums import weighted_sums

Array = np.ndarray[Any, np.dtype[Any]]

#: products that take as long as a transform and its inverse take per value and log2(values): 0.85
#: to 1.1 ns from 32^3 to 256^3, against 0.023 to 0.035 ns for a product. Of 128^3 float32, 9^3
#: random weights take 17 ns per voxel directly and 24 by transforms, 11^3 take 65 and 36
PRODUCTS_PER_LEVEL = 32
#: length of a transformed tile: tiles of 144 leave the cache (11^3 weights take 42 ns per voxel
#: against 26); weights of a third of that or more get longer tiles
TILE = 96
#: values of a plane that are summed before they are copied to the result
STRIP = 2**14
#: relative deviation from an outer product up to which weights count as separable
ROUNDING = 16 * np.finfo(np.float64).eps


def factors(weights: Array) -> list[Array] | None:
    """Return one row of weights per axis whose outer product is ``weights``, or None.

    Rows are taken through the largest weight, so each element is exact to a few roundings.
    """
    peak = np.unravel_index(np.argmax(np.abs(weights)), weights.shape)
    largest = weights[peak]
    if largest == 0:
        return None
    longest = int(np.argmax(weights.shape))
    rows = [
        _row(weights, peak, a) / (1.0 if a == longest else largest) for a in range(weights.ndim)
    ]
    outer = reduce(np.multiply.outer, rows)
    near = np.abs(outer - weights) <= ROUNDING * np.abs(weights)
    return rows if bool(near.all()) else None


def _row(weights: Array, peak: Sequence[Any], axis: int) -> Array:
    return np.asarray(weights[(*peak[:axis], slice(None), *peak[axis + 1 :])])


def correlate(
    block: Array, *, weights: Array, dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Return the valid part in float64 arithmetic, by the method that is faster for this block.

    A block with NaN or infinities is summed directly: transforms would spread them to all voxels.
    """
    if transforms_pay(block.shape, weights) and np.isfinite(block).all():
        return by_transforms(block, weights, dtype, out)
    return by_products(block, weights, dtype, out)


def transforms_pay(shape: Sequence[int], weights: Array) -> bool:
    """Return True if transforms of a block are estimated to take less time than its products."""
    kept = [n - w + 1 for n, w in zip(shape, weights.shape, strict=True)]
    if min(kept) < 1:
        return False
    axes = [a for a, w in enumerate(weights.shape) if w > 1]
    lengths, counts = _tiles([shape[a] for a in axes], [weights.shape[a] for a in axes])
    others = prod(n for a, n in enumerate(shape) if a not in axes)
    values = prod(lengths)
    # the weights are transformed too, which costs half as much
    levels = (others * prod(counts) + 0.5) * values * log2(max(2, values))
    return bool(PRODUCTS_PER_LEVEL * levels < np.count_nonzero(weights) * prod(kept))


def by_products(
    block: Array, weights: Array, dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Return the valid part summed directly; weights of 0 are skipped."""
    if block.ndim < 3:
        lifted = None if out is None else out[None]
        return np.asarray(by_products(block[None], weights[None], dtype, lifted)[0])
    kept = _valid_shape(block.shape, weights.shape)
    out = allocate_output(out, kept, kernel_float(dtype))
    weighted = [a for a, w in enumerate(weights.shape) if w > 1]
    first = min([*weighted, block.ndim - 3])
    inner = weights.reshape(weights.shape[first:])
    schedule = dense_correlation.schedule(inner)
    if out.size:
        for index in np.ndindex(kept[:first]):
            volume = contiguous_floats(block[index])
            if schedule is None:
                _correlate_volume(out[index], volume, inner)
            else:
                dense_correlation.correlate_rows(out[index], volume, schedule)
    return out.astype(dtype, copy=False)


def _correlate_volume(out: Array, volume: Array, weights: Array) -> None:
    """Correlate one volume, plane after plane, in strips of rows."""
    taps = np.nonzero(weights)
    offsets = np.ravel_multi_index(taps, volume.shape).astype(np.uint64)
    *lead, rows, columns = out.shape
    planes = np.ravel_multi_index(np.indices(lead).reshape(len(lead), -1), volume.shape[:-2])
    starts = planes.astype(np.int64) * prod(volume.shape[-2:])
    width = volume.shape[-1]
    high = min(rows, max(1, STRIP // width))
    _correlate_planes(
        out.reshape(-1, rows, columns), volume.reshape(-1), starts, width, offsets,
        weights[taps].astype(DOUBLE), np.empty(high * width), high,
    )  # fmt: skip


@compiled_products
def _correlate_planes(
    out: Array, x: Array, starts: Array, width: int, offsets: Array, weights: Array, sums: Array,
    high: int,
) -> None:  # fmt: skip
    """Correlate the planes that begin at ``starts``, ``high`` rows of ``width`` at a time."""
    for plane in range(out.shape[0]):
        for row in range(0, out.shape[1], high):
            rows = min(high, out.shape[1] - row)
            span = (rows - 1) * width + out.shape[2]
            weighted_sums(sums, x, starts[plane] + row * width, span, offsets, weights)
            for r in range(rows):
                line = out[plane, row + r]
                for i in range(line.size):
                    line[i] = sums[r * width + i]


def by_transforms(
    block: Array, weights: Array, dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Return the valid part by overlap-save: Fourier transforms of tiles, in float64.

    In float32 they would be less accurate than products: errors scale with the largest value.
    """
    axes = [a for a, w in enumerate(weights.shape) if w > 1]
    order = [a for a in range(block.ndim) if a not in axes] + axes
    inner = weights.transpose(order).reshape([weights.shape[a] for a in axes])
    out = allocate_output(out, _valid_shape(block.shape, weights.shape), dtype)
    source, target = block.transpose(order), out.transpose(order)
    lengths, _ = _tiles(source.shape[-len(axes) :], inner.shape)
    tile_axes = tuple(range(len(axes)))
    transfer = np.conj(
        scipy.fft.rfftn(np.asarray(inner, DOUBLE), lengths, axes=tile_axes, workers=1)
    )
    for index in np.ndindex(target.shape[: -len(axes)]):
        for read, write in _cuts(target[index].shape, lengths, inner.shape):
            tile = np.asarray(source[index][read], DOUBLE)
            spectrum = scipy.fft.rfftn(tile, lengths, axes=tile_axes, workers=1)
            spectrum *= transfer
            values = scipy.fft.irfftn(
                spectrum, lengths, axes=tile_axes, workers=1, overwrite_x=True
            )
            target[index][write] = values[tuple(slice(0, w.stop - w.start) for w in write)]
    return out


def _tiles(shape: Sequence[int], weights: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the length and the number of transforms along each axis."""
    lengths, counts = [], []
    for n, w in zip(shape, weights, strict=True):
        results, per_tile = n - w + 1, max(TILE, 3 * w) - w + 1
        counts.append(ceil(results / per_tile))
        lengths.append(scipy.fft.next_fast_len(ceil(results / counts[-1]) + w - 1, real=True))
    return lengths, counts


def _cuts(
    kept: Sequence[int], lengths: Sequence[int], weights: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield, for each transform, the slices it reads and the slices of the result it computes."""
    per_axis = []
    for n, length, w in zip(kept, lengths, weights, strict=True):
        step = length - w + 1
        ends = [(start, min(start + step, n)) for start in range(0, n, step)]
        per_axis.append([(slice(a, b + w - 1), slice(a, b)) for a, b in ends])
    for combination in product(*per_axis):
        yield tuple(r for r, _ in combination), tuple(w for _, w in combination)


def _valid_shape(shape: Sequence[int], weights: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(0, n - w + 1) for n, w in zip(shape, weights, strict=True))

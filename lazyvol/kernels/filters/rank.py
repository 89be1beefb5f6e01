"""Rank filters: the value of rank k in every window of a block.

Values are mapped to unsigned integers in equal order, and the result is computed from its highest
bit down: a bit is set where at most ``rank`` values are smaller. Counting takes a few instructions
per voxel, vectorized over many voxels: 3^3 windows of float32 take 36 ns per voxel, of uint8 9
(scipy.ndimage 400 and 450; see bench_filters).
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.filters import sliding_window

Array = np.ndarray[Any, np.dtype[Any]]

#: values whose bits are computed together
RUN = 512


def select_rank(
    block: Array, *, sizes: Sequence[int], rank: int, counts: Array | None = None
) -> Array:
    """Return value number ``rank``, ascending from 0, of every window; NaN where it has one.

    ``counts`` are whole numbers in the shape of a window: the multiplicity of the value at each
    position, 0 to leave it out. By default every value counts once.
    """
    if block.ndim < 3:
        lifted = None if counts is None else counts[None]
        return np.asarray(select_rank(block[None], sizes=(1, *sizes), rank=rank, counts=lifted)[0])
    kept = tuple(max(0, n - s + 1) for n, s in zip(block.shape, sizes, strict=True))
    out = np.empty(kept, block.dtype)
    first = next((a for a, s in enumerate(sizes) if s > 1), block.ndim)
    first = min(first, block.ndim - 3)
    inner = np.ones(sizes[first:], np.int64) if counts is None else counts[(0,) * first]
    if out.size:
        for index in np.ndindex(kept[:first]):
            out[index] = _select_in_volume(block[index], kept[first:], sizes[first:], rank, inner)
    return out


def _select_in_volume(
    volume: Array, kept: Sequence[int], sizes: Sequence[int], rank: int, counts: Array
) -> Array:
    count = int(counts.sum())
    used = np.flatnonzero(counts)
    weights = counts.reshape(-1)[used] if counts.max() > 1 else np.empty(0)
    keys = _to_keys(volume, count)
    least = keys.min()
    keys -= least
    *lead, rows, columns = kept
    width = keys.shape[-1]
    high = min(rows, max(1, RUN // width))
    offsets = _flat_indices(sizes, keys.shape)[used].astype(np.uint64)
    starts = _flat_indices(lead, keys.shape[:-2]) * prod(keys.shape[-2:])
    selected = np.empty((len(starts), rows, columns), keys.dtype)
    _select_in_planes(
        selected, keys.reshape(-1), starts, width, offsets, weights.astype(keys.dtype),
        rank, int(keys.max()).bit_length(), np.empty(max(RUN, high * width), keys.dtype),
        *np.empty((2, RUN), keys.dtype), high,
    )  # fmt: skip
    selected += least
    return _restore_nan(_from_keys(selected.reshape(kept), volume.dtype), volume, sizes, counts)


def _flat_indices(lengths: Sequence[int], shape: Sequence[int]) -> Array:
    """Return the flat indices of the first ``lengths`` elements along each axis of ``shape``."""
    index = np.indices(lengths).reshape(len(lengths), -1)
    return np.asarray(np.ravel_multi_index(tuple(index), tuple(shape)))


def _restore_nan(selected: Array, volume: Array, sizes: Sequence[int], counts: Array) -> Array:
    """Set NaN where a window has one."""
    if volume.dtype.kind != "f" or not (is_nan := np.isnan(volume)).any():
        return selected
    if counts.all():
        selected[sliding_window.maximum(is_nan, sizes=sizes)] = np.nan
        return selected
    for place in np.argwhere(counts):
        span = zip(place.tolist(), selected.shape, strict=True)
        selected[is_nan[tuple(slice(i, i + n) for i, n in span)]] = np.nan
    return selected


def _to_keys(volume: Array, count: int) -> Array:
    """Return unsigned integers in the order of the values, wide enough to hold ``count``."""
    dtype = volume.dtype.newbyteorder("=")
    unsigned = np.dtype(f"u{dtype.itemsize}")
    keys = np.array(volume, dtype, order="C").view(unsigned)
    sign = unsigned.type(1 << (8 * dtype.itemsize - 1))
    if dtype.kind == "f":  # flip all bits of negative numbers, the sign bit of others
        keys ^= np.where(keys & sign, ~unsigned.type(0), sign)
    elif dtype.kind == "i":
        keys ^= sign
    return keys.astype(np.promote_types(unsigned, np.min_scalar_type(count)), copy=False)


def _from_keys(keys: Array, dtype: np.dtype[Any]) -> Array:
    """Return the values of keys."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = keys.astype(unsigned, copy=False)
    sign = unsigned.type(1 << (8 * dtype.itemsize - 1))
    if dtype.kind == "f":
        bits ^= np.where(bits & sign, sign, ~unsigned.type(0))
    elif dtype.kind == "i":
        bits ^= sign
    return bits.view(dtype.newbyteorder("="))


@compiled
def _select_in_planes(
    out: Array, x: Array, starts: Array, width: int, offsets: Array, multiplicities: Array,
    rank: int, bits: int, selected: Array, trial: Array, counts: Array, high: int,
) -> None:  # fmt: skip
    """Select in the planes that begin at ``starts``, ``high`` rows of ``width`` at a time."""
    for plane in range(out.shape[0]):
        for row in range(0, out.shape[1], high):
            rows = min(high, out.shape[1] - row)
            span = (rows - 1) * width + out.shape[2]
            for first in range(0, span, RUN):
                n = min(RUN, span - first)
                at = starts[plane] + row * width + first
                _select(
                    selected, first, x, at, n, offsets, multiplicities, rank, bits, trial, counts
                )
            for r in range(rows):
                line = out[plane, row + r]
                for i in range(line.size):
                    line[i] = selected[r * width + i]


@compiled
def _select(
    selected: Array, to: int, x: Array, at: int, n: int, o: Array, multiplicities: Array, rank: int,
    bits: int, trial: Array, counts: Array,
) -> None:  # fmt: skip
    """Select keys of ``rank`` among ``x[at + o + i]`` for ``i < n``, bit by bit.

    The trial keys are stored in an array, because compiled code compares scalars in a wider type.
    """
    p, q, end = np.uint64(at), np.uint64(to), np.uint64(n)
    for i in range(end):
        selected[q + i] = 0
    for bit in range(bits - 1, -1, -1):
        mask = np.uint64(1) << np.uint64(bit)
        for i in range(end):
            trial[i] = selected[q + i] | mask
            counts[i] = 0
        t = 0
        while t < multiplicities.size:
            a, count = p + o[t], multiplicities[t]
            for i in range(end):
                if x[a + i] < trial[i]:
                    counts[i] += count
            t += 1
        while t + 8 <= o.size:
            _count_eight(counts, trial, x, p, end, o, t)
            t += 8
        while t < o.size:
            a = p + o[t]
            for i in range(end):
                counts[i] += x[a + i] < trial[i]
            t += 1
        for i in range(end):
            if counts[i] <= rank:
                selected[q + i] = trial[i]


@compiled
def _count_eight(
    counts: Array, trial: Array, x: Array, p: int, end: int, o: Array, t: int
) -> None:  # fmt: skip
    a, b, c, d = p + o[t], p + o[t + 1], p + o[t + 2], p + o[t + 3]
    e, f, g, h = p + o[t + 4], p + o[t + 5], p + o[t + 6], p + o[t + 7]
    for i in range(end):
        key = trial[i]
        counts[i] += (
            (x[a + i] < key) + (x[b + i] < key) + (x[c + i] < key) + (x[d + i] < key)
            + (x[e + i] < key) + (x[f + i] < key) + (x[g + i] < key) + (x[h + i] < key)
        )  # fmt: skip

"""The value of a given rank in every window of a block.

Values become unsigned integers in the same order, and the one that is asked for is found from its
highest bit down: it has a bit where no more values than its rank lie below. Counting those is the
same few instructions for every voxel, for many of them at once: 3^3 windows of float32 take 36 ns
per voxel, those of uint8 9 (scipy.ndimage 400 and 450; see bench_filters).
"""

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.filters import sliding_window

Array = np.ndarray[Any, np.dtype[Any]]

#: values whose bits are found together
RUN = 512


def ranked(
    block: Array, *, sizes: Sequence[int], rank: int, times: Sequence[Array] | None = None
) -> Array:
    """Value number ``rank`` from 0, in rising order, of every window; NaN where it has one.

    ``times`` says how often the values at each place of a window along each axis count in it:
    their product, a whole number. By default every value counts once.
    """
    if block.ndim < 3:
        more = None if times is None else (np.ones(1, np.int64), *times)
        return np.asarray(ranked(block[None], sizes=(1, *sizes), rank=rank, times=more)[0])
    kept = tuple(max(0, n - s + 1) for n, s in zip(block.shape, sizes, strict=True))
    out = np.empty(kept, block.dtype)
    first = next((a for a, s in enumerate(sizes) if s > 1), block.ndim)
    first = min(first, block.ndim - 3)
    if out.size:
        for index in np.ndindex(kept[:first]):
            own = None if times is None else times[first:]
            out[index] = _volume(block[index], kept[first:], sizes[first:], rank, own)
    return out


def _volume(
    volume: Array, kept: Sequence[int], sizes: Sequence[int], rank: int,
    times: Sequence[Array] | None,
) -> Array:  # fmt: skip
    count = prod(sizes) if times is None else prod(int(t.sum()) for t in times)
    keys = _keys(volume, count)
    least = keys.min()
    keys -= least
    *lead, rows, columns = kept
    width = keys.shape[-1]
    high = min(rows, max(1, RUN // width))
    offsets = _places(sizes, keys.shape).astype(np.uint64)
    starts = _places(lead, keys.shape[:-2]) * prod(keys.shape[-2:])
    found = np.empty((len(starts), rows, columns), keys.dtype)
    often = np.empty(0) if times is None else reduce(np.multiply.outer, times)
    _planes(
        found, keys.reshape(-1), starts, width, offsets, often.reshape(-1).astype(keys.dtype),
        rank, int(keys.max()).bit_length(), np.empty(max(RUN, high * width), keys.dtype),
        *np.empty((2, RUN), keys.dtype), high,
    )  # fmt: skip
    found += least
    return _masked(_values(found.reshape(kept), volume.dtype), volume, sizes)


def _places(lengths: Sequence[int], shape: Sequence[int]) -> Array:
    """Flat places of the first ``lengths`` elements along each axis of an array."""
    at = np.indices(lengths).reshape(len(lengths), -1)
    return np.asarray(np.ravel_multi_index(tuple(at), tuple(shape)))


def _masked(found: Array, volume: Array, sizes: Sequence[int]) -> Array:
    """``found`` with NaN where a window has one."""
    if volume.dtype.kind == "f" and np.isnan(volume).any():
        found[sliding_window.maximum(np.isnan(volume), sizes=sizes)] = np.nan
    return found


def _keys(volume: Array, count: int) -> Array:
    """Unsigned integers in the order of the values, wide enough to count a window."""
    dtype = volume.dtype.newbyteorder("=")
    unsigned = np.dtype(f"u{dtype.itemsize}")
    keys = np.array(volume, dtype, order="C").view(unsigned)
    top = unsigned.type(1 << (8 * dtype.itemsize - 1))
    if dtype.kind == "f":  # of negative numbers all bits turn, of others the sign's
        keys ^= np.where(keys & top, ~unsigned.type(0), top)
    elif dtype.kind == "i":
        keys ^= top
    return keys.astype(np.promote_types(unsigned, np.min_scalar_type(count)), copy=False)


def _values(keys: Array, dtype: np.dtype[Any]) -> Array:
    """The values of keys."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = keys.astype(unsigned, copy=False)
    top = unsigned.type(1 << (8 * dtype.itemsize - 1))
    if dtype.kind == "f":
        bits ^= np.where(bits & top, top, ~unsigned.type(0))
    elif dtype.kind == "i":
        bits ^= top
    return bits.view(dtype.newbyteorder("="))


@compiled
def _planes(
    out: Array, x: Array, starts: Array, width: int, offsets: Array, times: Array, rank: int,
    bits: int, found: Array, trial: Array, counts: Array, high: int,
) -> None:  # fmt: skip
    """(plane, row, column) of planes that start at ``starts``, ``high`` rows at a time."""
    for plane in range(out.shape[0]):
        for row in range(0, out.shape[1], high):
            rows = min(high, out.shape[1] - row)
            lanes = (rows - 1) * width + out.shape[2]
            for first in range(0, lanes, RUN):
                n = min(RUN, lanes - first)
                at = starts[plane] + row * width + first
                _select(found, first, x, at, n, offsets, times, rank, bits, trial, counts)
            for r in range(rows):
                line = out[plane, row + r]
                for i in range(line.size):
                    line[i] = found[r * width + i]


@compiled
def _select(
    found: Array, to: int, x: Array, at: int, n: int, o: Array, times: Array, rank: int,
    bits: int, trial: Array, counts: Array,
) -> None:  # fmt: skip
    """Keys of ``rank`` among ``x[at + offsets + i]`` for ``i < n``, bit by bit; each counts as
    often as ``times`` says, if it does.

    What is tried stands in an array: compiled code compares in the type of the keys only what it
    reads in it.
    """
    p, q, end = np.uint64(at), np.uint64(to), np.uint64(n)
    for i in range(end):
        found[q + i] = 0
    for bit in range(bits - 1, -1, -1):
        one = np.uint64(1) << np.uint64(bit)
        for i in range(end):
            trial[i] = found[q + i] | one
            counts[i] = 0
        t = 0
        while t < times.size:
            a, often = p + o[t], times[t]
            for i in range(end):
                if x[a + i] < trial[i]:
                    counts[i] += often
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
                found[q + i] = trial[i]


@compiled
def _count_eight(
    counts: Array, trial: Array, x: Array, p: int, end: int, o: Array, t: int
) -> None:  # fmt: skip
    a, b, c, d = p + o[t], p + o[t + 1], p + o[t + 2], p + o[t + 3]
    e, f, g, h = p + o[t + 4], p + o[t + 5], p + o[t + 6], p + o[t + 7]
    for i in range(end):
        most = trial[i]
        counts[i] += (
            (x[a + i] < most) + (x[b + i] < most) + (x[c + i] < most) + (x[d + i] < most)
            + (x[e + i] < most) + (x[f + i] < most) + (x[g + i] < most) + (x[h + i] < most)
        )  # fmt: skip

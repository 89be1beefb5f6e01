"""Share of nonzero elements and mean of every block of an array.

Rows that contribute to one row of the result are added four at a time, each a contiguous run of
memory, so that a sum is stored once for four loads: as fast as a plain sum reads float32 in blocks
of 4^3, where adding row after row took twice as long.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from math import prod
from operator import add
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import numba_compatible, read_only

Array = np.ndarray[Any, np.dtype[Any]]

#: unsigned indices: signed ones are checked for negative values, which prevents vectorisation
UNSIGNED = np.uint64


def block_fill(
    block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Return the share of nonzero elements (NaN is one) in each block of ``sizes``.

    The result is written to ``out`` if that is contiguous memory of its shape and dtype.
    """
    return _reduce_blocks(block, sizes, dtype, True, out)


def block_mean(
    block: Array, *, sizes: Sequence[int], dtype: np.dtype[Any], out: Array | None = None
) -> Array:
    """Return the mean of each block of ``sizes``, summed in float64; ``out`` as in block_fill."""
    return _reduce_blocks(block, sizes, dtype, False, out)


def _reduce_blocks(
    block: Array, sizes: Sequence[int], dtype: np.dtype[Any], counting: bool, out: Array | None
) -> Array:
    """Reduce every block of ``sizes``; those at the end of an axis may be shorter."""
    values = numba_compatible(block)
    wide = np.promote_types(dtype, np.float32)  # numba has no float16
    shape = tuple(-(-n // f) for n, f in zip(block.shape, sizes, strict=True))
    result = np.empty(shape, wide) if out is None or out.dtype != wide else out
    if result.size:
        for parts in product(*map(spans, block.shape, sizes)):
            target, source, size = zip(*parts, strict=True)
            part = result[target]
            if part.flags.c_contiguous:
                _reduce_whole_blocks(values[source], size, counting, part)
            else:
                memory = np.empty(part.shape, wide)
                _reduce_whole_blocks(values[source], size, counting, memory)
                part[...] = memory
    return result.astype(dtype, copy=False)


def spans(length: int, size: int) -> list[tuple[slice, slice, int]]:
    """Return spans of an axis with blocks of one size: in the result, in the array, the size."""
    full, rest = divmod(length, size)
    spans = [(slice(0, full), slice(0, full * size), size)] if full else []
    return spans + [(slice(full, full + 1), slice(full * size, length), rest)] * (rest > 0)


def _reduce_whole_blocks(values: Array, sizes: Sequence[int], counting: bool, out: Array) -> None:
    """Reduce blocks of ``sizes``, which divide the shape, into contiguous ``out``."""
    last = max((a for a, f in enumerate(sizes) if f > 1), default=values.ndim - 1)
    values = _with_contiguous_rows(values, last)
    shape, item = values.shape, values.itemsize
    steps = [s // item for s in values.strides]
    width = prod(shape[last + 1 :])
    row = shape[last] * width
    block_starts = [range(0, n, f) for n, f in zip(shape, sizes[:last], strict=False)]
    starts = _flat_offsets(block_starts, steps[:last])
    # the first axis varies fastest: the four rows that are added together are in four memory pages
    offsets = _flat_offsets([range(f) for f in reversed(sizes[:last])], steps[:last][::-1])
    span = 1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    flat = read_only(as_strided(values, (span,), (item,)))
    sums = np.empty(row, np.int32 if counting else np.float64)
    _fill(
        flat, starts, offsets, sums, sizes[last], width, float(prod(sizes)), counting or None,
        out.reshape(starts.size, row // sizes[last]),
    )  # fmt: skip


def _with_contiguous_rows(values: Array, last: int) -> Array:
    """Copy ``values`` if axes from ``last`` on are not contiguous or an axis runs backwards."""
    item, steps = values.itemsize, values.strides
    row_steps = np.empty(values.shape[last:], np.int8).strides
    contiguous = all(
        s == t * item or n == 1
        for s, t, n in zip(steps[last:], row_steps, values.shape[last:], strict=True)
    )
    forward = all(s >= 0 and s % item == 0 for s in steps)
    return values if contiguous and forward else np.ascontiguousarray(values)


def _flat_offsets(indices: Sequence[range], steps: Sequence[int]) -> Array:
    """Return the flat offsets of all combinations of indices along some axes, in C order."""
    axes = [np.array(i, np.int64) * s for i, s in zip(indices, steps, strict=True)]
    return np.asarray(reduce(add, np.ix_(*axes), np.zeros((), np.int64))).ravel()


@compiled
def _fill(flat, starts, offsets, sums, size, width, count, counting, out):  # type: ignore[no-untyped-def]
    """Compute each row of ``out`` from the rows of ``flat`` at one of ``starts`` plus ``offsets``.

    ``counting`` is None for sums, which selects the branch when this is compiled.
    """
    n, rows = UNSIGNED(sums.size), offsets.size
    for i in range(starts.size):
        for j in range(0, rows - 3, 4):
            a = UNSIGNED(starts[i] + offsets[j])
            b = UNSIGNED(starts[i] + offsets[j + 1])
            c = UNSIGNED(starts[i] + offsets[j + 2])
            d = UNSIGNED(starts[i] + offsets[j + 3])
            _add_four(sums, flat, a, b, c, d, n, j > 0, counting)
        for j in range(rows // 4 * 4, rows):
            _add_one(sums, flat, UNSIGNED(starts[i] + offsets[j]), n, j > 0, counting)
        _join_columns(sums, size, width, count, out, UNSIGNED(i))


@compiled
def _term(value, counting):  # type: ignore[no-untyped-def]
    if counting is None:
        return np.float64(value)
    return np.int32(1) if value != 0 else np.int32(0)


@compiled
def _add_four(sums, x, a, b, c, d, n, more, counting):  # type: ignore[no-untyped-def]
    """Add four rows to ``sums`` if there are ``more`` before them, else overwrite it."""
    for j in range(n):
        pair = _term(x[a + j], counting) + _term(x[b + j], counting)
        four = pair + (_term(x[c + j], counting) + _term(x[d + j], counting))
        sums[j] = sums[j] + four if more else four


@compiled
def _add_one(sums, x, a, n, more, counting):  # type: ignore[no-untyped-def]
    for j in range(n):
        term = _term(x[a + j], counting)
        sums[j] = sums[j] + term if more else term


@compiled
def _join_columns(sums, size, width, count, out, i):  # type: ignore[no-untyped-def]
    """Add ``size`` neighbours of a row, ``width`` elements apart, and divide by ``count``."""
    n, wide, size = UNSIGNED(sums.size), UNSIGNED(width), UNSIGNED(size)
    one, two = UNSIGNED(1), UNSIGNED(2)
    while width == 1 and size % two == 0:
        n, size = n // two, size // two
        for x in range(n):
            sums[x] = sums[two * x] + sums[two * x + one]
    for x in range(n // (size * wide)):
        for c in range(wide):
            total = sums[x * size * wide + c]
            for q in range(one, size):
                total += sums[(x * size + q) * wide + c]
            out[i, x * wide + c] = total / count

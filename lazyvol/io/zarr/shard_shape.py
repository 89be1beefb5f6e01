"""Choose the shapes of the shards and inner chunks of a new array."""

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

#: one task writes a shard, and one file holds it
SHARD_BYTES = 256 << 20
#: a small read decodes an inner chunk
CHUNK_BYTES = 8 << 20
#: edges of an inner chunk by number of axes; the first of four or more is the stack
EDGES = {1: (1 << 20,), 2: (1024, 1024), 3: (128, 128, 128)}
STACK_EDGE = 8
SPACE_EDGE = 64

Lengths = tuple[int, ...]


def shard_grid(
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    blocks: Sequence[int] | None = None,
    max_bytes: int = SHARD_BYTES,
    multiples: Sequence[int] | None = None,
) -> tuple[Lengths, Lengths]:
    """Return the shapes of the inner chunks and of the shards of a new array.

    An inner chunk is about (8, 64, 64, 64) or (128, 128, 128), at most 8 MiB, with little padding
    in the last one. A shard is a multiple of an inner chunk: as many whole volumes as fit in
    ``max_bytes``, or slabs of one volume.

    Parameters
    ----------
    shape
        Shape of the array.
    dtype
        Dtype of the array.
    blocks
        Length along each axis of the blocks it will be written in, for all but the last block.
        Shards divide them, and exceed ``max_bytes`` only if a block has no suitable divisor.
    max_bytes
        Bytes of a decoded shard.
    multiples
        Numbers that divide the chunks of axes with several, for the levels of a pyramid.

    Examples
    --------
    >>> shard_grid((5000, 200, 200, 200), "float32")
    ((8, 50, 50, 50), (8, 200, 200, 200))
    >>> shard_grid((5000, 160, 160, 160), "float32", blocks=(4, 160, 160, 160))
    ((4, 54, 54, 54), (4, 162, 162, 162))
    >>> shard_grid((1000, 1000, 1000), "float32")
    ((125, 125, 125), (125, 500, 1000))
    """
    size = np.dtype(dtype).itemsize
    units = [min(n, b) for n, b in zip(shape, blocks or shape, strict=True)]
    fixed = [u < n for n, u in zip(shape, units, strict=True)]
    edges = _fitted_edges([max(1, u) for u in units], size, min(CHUNK_BYTES, max_bytes))
    chunks = [_edge(max(1, u), e, f) for u, e, f in zip(units, edges, fixed, strict=True)]
    for axis, m in enumerate(multiples or ()):
        if chunks[axis] < units[axis]:
            chunks[axis] = -(-chunks[axis] // m) * m
    counts = [-(-max(1, u) // c) for u, c in zip(units, chunks, strict=True)]
    if len(chunks) > 3:
        volume_bytes = prod(c * n for c, n in zip(chunks[1:], counts[1:], strict=True)) * size
        chunks[0] = _edge(
            max(1, units[0]), max(1, min(chunks[0], max_bytes // volume_bytes)), fixed[0]
        )
        counts[0] = -(-max(1, units[0]) // chunks[0])
    per_shard = _chunks_per_shard(counts, fixed, max(1, max_bytes // (prod(chunks) * size)))
    return tuple(chunks), tuple(c * n for c, n in zip(chunks, per_shard, strict=True))


def _fitted_edges(units: Sequence[int], size: int, max_bytes: int) -> list[int]:
    """Return edges of an inner chunk; first the stack edge, then the longest is halved."""
    usual = EDGES.get(len(units)) or (STACK_EDGE, *(SPACE_EDGE,) * (len(units) - 1))
    edges = [min(u, e) for u, e in zip(units, usual, strict=False)]
    while prod(edges) * size > max_bytes and max(edges) > 1:
        axis = 0 if len(edges) > 3 and edges[0] > 1 else edges.index(max(edges))
        edges[axis] = -(-edges[axis] // 2)
    return edges


def _edge(unit: int, edge: int, fixed: bool) -> int:
    """Return a chunk length near ``edge``: equal parts of an axis, or a divisor of a block."""
    if not fixed:
        return -(-unit // -(-unit // edge))
    divisors = _divisors(unit)
    below = max(d for d in divisors if d <= edge)
    return below if 4 * below >= edge else min(d for d in divisors if d >= edge)


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _chunks_per_shard(counts: Sequence[int], fixed: Sequence[bool], limit: int) -> list[int]:
    """Return the chunks of a shard along each axis, at most ``limit``, last axes first."""
    per_shard = [1] * len(counts)
    for axis in reversed(range(len(counts))):
        number = min(counts[axis], limit)
        if fixed[axis]:
            number = max(d for d in _divisors(counts[axis]) if d <= number)
        per_shard[axis] = number
        limit //= number
        if number < counts[axis]:
            break
    return per_shard

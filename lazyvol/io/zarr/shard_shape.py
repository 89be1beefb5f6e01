"""Choose the shapes of the shards and inner chunks of a new array."""

from collections.abc import Sequence
from math import gcd, prod

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
    max_bytes: int = SHARD_BYTES,
    *,
    input_rows: int = 1,
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
    max_bytes
        Bytes of a decoded shard.
    input_rows
        Length along the first axis of the chunks that the values are computed from. Shards are
        as long as is best for reading each of these chunks once.
    multiples
        Numbers that divide the chunks of axes with several, for the levels of a pyramid.

    Examples
    --------
    >>> shard_grid((5000, 200, 200, 200), "float32")
    ((8, 50, 50, 50), (8, 200, 200, 200))
    >>> shard_grid((5000, 160, 160, 160), "float32", input_rows=6)
    ((6, 54, 54, 54), (12, 162, 162, 162))
    >>> shard_grid((1000, 1000, 1000), "float32")
    ((125, 125, 125), (125, 500, 1000))
    """
    size = np.dtype(dtype).itemsize
    units = [max(1, n) for n in shape]
    edges = _fitted_edges(units, size, min(CHUNK_BYTES, max_bytes))
    chunks = [_equal_edge(u, e) for u, e in zip(units, edges, strict=True)]
    for axis, m in enumerate(multiples or ()):
        if chunks[axis] < units[axis]:
            chunks[axis] = -(-chunks[axis] // m) * m
    counts = [-(-u // c) for u, c in zip(units, chunks, strict=True)]
    if len(chunks) > 3:
        volume_bytes = prod(c * n for c, n in zip(chunks[1:], counts[1:], strict=True)) * size
        chunks[0] = _equal_edge(units[0], max(1, min(chunks[0], max_bytes // volume_bytes)))
    if chunks:
        chunks[0] = _aligned_edge(chunks[0], input_rows)
        counts[0] = -(-units[0] // chunks[0])
    per_shard = _chunks_per_shard(counts, max(1, max_bytes // (prod(chunks) * size)))
    if chunks and per_shard[0] < counts[0]:
        per_shard[0] = _aligned_count(per_shard[0], chunks[0], input_rows)
    return tuple(chunks), tuple(c * n for c, n in zip(chunks, per_shard, strict=True))


def _fitted_edges(units: Sequence[int], size: int, max_bytes: int) -> list[int]:
    """Return edges of an inner chunk; first the stack edge, then the longest is halved."""
    usual = EDGES.get(len(units)) or (STACK_EDGE, *(SPACE_EDGE,) * (len(units) - 1))
    edges = [min(u, e) for u, e in zip(units, usual, strict=False)]
    while prod(edges) * size > max_bytes and max(edges) > 1:
        axis = 0 if len(edges) > 3 and edges[0] > 1 else edges.index(max(edges))
        edges[axis] = -(-edges[axis] // 2)
    return edges


def _equal_edge(length: int, edge: int) -> int:
    """Return a chunk length of at most ``edge`` that divides an axis into equal parts."""
    return -(-length // -(-length // edge))


def _aligned_edge(edge: int, input_rows: int) -> int:
    """Return a chunk length of at most ``edge`` of which ``input_rows`` is a multiple or part.

    It is ``edge`` if only a much shorter one would do.
    """
    if edge >= input_rows:
        return edge // input_rows * input_rows
    divisor = max(d for d in range(1, edge + 1) if input_rows % d == 0)
    return divisor if 4 * divisor >= edge else edge


def _aligned_count(number: int, chunk: int, input_rows: int) -> int:
    """Return the chunks of a shard, at most ``number``, for which input chunks are read least.

    Shards of r rows read a chunk of n rows 1 + (n - gcd(n, r)) / r times on average.
    """
    multiple = input_rows // gcd(input_rows, chunk)
    if number >= multiple:
        return number // multiple * multiple

    def repeated(count: int) -> float:
        rows = count * chunk
        return (input_rows - gcd(input_rows, rows)) / rows

    return min(range(number, 0, -1), key=repeated)


def _chunks_per_shard(counts: Sequence[int], limit: int) -> list[int]:
    """Return the chunks of a shard along each axis, at most ``limit``, last axes first."""
    per_shard = [1] * len(counts)
    for axis in reversed(range(len(counts))):
        per_shard[axis] = min(counts[axis], limit)
        limit //= per_shard[axis]
        if per_shard[axis] < counts[axis]:
            break
    return per_shard

"""Regions: integer arithmetic on boxes of a grid. No arrays here.

A region is a tuple of slices with ``start <= stop`` and step 1, one per axis. A grid is a tuple
of chunk lengths per axis, as dask writes them: ``((4, 4, 2), (7,))``.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise, product, zip_longest
from math import ceil, prod
from typing import TypeAlias

Region: TypeAlias = tuple[slice, ...]
Grid: TypeAlias = tuple[tuple[int, ...], ...]
Index: TypeAlias = tuple[int, ...]


def whole(shape: Sequence[int]) -> Region:
    """Return the region that covers an array of ``shape``."""
    return tuple(slice(0, n) for n in shape)


def lengths(region: Region) -> tuple[int, ...]:
    """Return the shape of a region."""
    return tuple(s.stop - s.start for s in region)


def size(region: Region) -> int:
    """Return the number of elements in a region."""
    return prod(lengths(region))


def starts(region: Region) -> tuple[int, ...]:
    """Return the first index of a region along each axis."""
    return tuple(s.start for s in region)


def shift(region: Region, offsets: Sequence[int]) -> Region:
    """Return a region moved by ``offsets``."""
    return tuple(slice(s.start + o, s.stop + o) for s, o in zip(region, offsets, strict=True))


def relative(region: Region, origin: Region) -> Region:
    """Return ``region`` in the coordinates of an array that starts where ``origin`` starts."""
    return shift(region, [-s for s in starts(origin)])


def intersect(a: Region, b: Region) -> Region:
    """Return the overlap of two regions; an axis without overlap has length 0."""
    low = [max(s.start, t.start) for s, t in zip(a, b, strict=True)]
    high = [min(s.stop, t.stop) for s, t in zip(a, b, strict=True)]
    return tuple(slice(lo, max(lo, hi)) for lo, hi in zip(low, high, strict=True))


def hull(a: Region, b: Region) -> Region:
    """Return the smallest region that contains both."""
    return tuple(
        slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True)
    )


def contains(outer: Region, inner: Region) -> bool:
    """Return True if ``outer`` contains ``inner``."""
    return all(s.start <= t.start and t.stop <= s.stop for s, t in zip(outer, inner, strict=True))


def uniform_chunks(length: int, chunk: int) -> tuple[int, ...]:
    """Return the lengths of chunks of ``chunk`` along an axis; the last may be shorter."""
    if length == 0:
        return (0,)
    full, remainder = divmod(length, max(1, chunk))
    return (max(1, chunk),) * full + ((remainder,) if remainder else ())


def even_chunks(length: int, count: int, multiple: int = 1) -> tuple[int, ...]:
    """Return the lengths of about ``count`` equal chunks, each a multiple of ``multiple``."""
    units = -(-length // multiple)
    return uniform_chunks(length, -(-units // max(1, min(count, units) or 1)) * multiple)


def part_length(length: int, parts: int) -> int:
    """Return a divisor of ``length`` that divides it into at most ``parts``, if one is near.

    >>> part_length(8, 3), part_length(13, 3)
    (4, 13)
    """
    wanted = length / max(1, parts)
    divisor = next(d for d in range(ceil(wanted), length + 1) if length % d == 0)
    return divisor if divisor <= 2 * wanted else length


def round_down(length: int, multiple: int, full: int) -> int:
    """Round ``length`` down to a multiple, unless it reaches the ``full`` length of the axis."""
    return full if length >= full else length // multiple * multiple


def block_grid(shape: Sequence[int], multiples: Sequence[int], item: int, target: int) -> Grid:
    """Return blocks of about ``target`` bytes in whole stored chunks, whole along the last axes.

    ``multiples`` are the lengths of a stored chunk, ``item`` the bytes of an element. A stored
    chunk larger than the target is one block.
    """
    chunks = [max(1, min(m, n)) for m, n in zip(multiples, shape, strict=True)]
    room = max(1, target // max(1, item))
    for a in reversed(range(len(shape))):
        others = prod(chunks) // chunks[a]
        fits = round_down(max(1, room // max(1, others)), max(1, multiples[a]), shape[a])
        chunks[a] = max(chunks[a], fits)
    return tuple(uniform_chunks(n, c) for n, c in zip(shape, chunks, strict=True))


def merged(grid: Grid, most: int, elements: int) -> Grid:
    """Merge neighbouring blocks in pairs, until there are at most ``most``.

    Blocks of more than ``elements`` are not made.

    >>> merged(((1,) * 5, (3, 3)), 4, 100)
    ((4, 1), (3, 3))
    """
    while count(grid) > most and 2 * prod(map(max, grid)) <= elements:
        axis = max(range(len(grid)), key=lambda a: len(grid[a]))
        pairs = zip_longest(grid[axis][::2], grid[axis][1::2], fillvalue=0)
        grid = (*grid[:axis], tuple(map(sum, pairs)), *grid[axis + 1 :])
    return grid


def edges(chunks: Sequence[int]) -> tuple[int, ...]:
    """Return the positions where chunks begin and end: one more than there are chunks."""
    return (0, *accumulate(chunks))


def chunk_slices(chunks: Sequence[int]) -> list[slice]:
    """Return the chunks of one axis as slices."""
    return [slice(a, b) for a, b in pairwise(edges(chunks))]


def boxes(grid: Grid) -> Iterator[tuple[Index, Region]]:
    """Yield index and region of every block of a grid, in C order.

    The first axis, which may have millions of blocks, is never held as a list.
    """
    if not grid:
        yield (), ()
        return
    inner = [list(enumerate(chunk_slices(chunks))) for chunks in grid[1:]]
    for first, (start, stop) in enumerate(pairwise(accumulate(grid[0], initial=0))):
        for block in product(*inner):
            yield (first, *(i for i, _ in block)), (slice(start, stop), *(s for _, s in block))


def count(grid: Grid) -> int:
    """Return the number of blocks in a grid."""
    return prod(len(chunks) for chunks in grid)


def run_lengths(grid: Grid) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return the runs of equal chunks along each axis as (length, number): a grid in a few words.

    >>> run_lengths(((4, 4, 4, 2), (7,)))
    (((4, 3), (2, 1)), ((7, 1),))
    """
    return tuple(tuple((n, len(list(run))) for n, run in groupby(chunks)) for chunks in grid)


def tiles(region: Region, shape: Sequence[int], multiples: Sequence[int]) -> Iterator[Region]:
    """Yield tiles of at most ``shape`` that cover ``region`` in C order.

    Tiles begin at multiples of the stored chunk, not at the region's own start, so that every
    stored chunk is read once.
    """
    axes = [
        _cut(span, max(1, n), max(1, m))
        for span, n, m in zip(region, shape, multiples, strict=True)
    ]
    yield from product(*axes)


def _cut(span: slice, length: int, multiple: int) -> list[slice]:
    if span.start % multiple == 0 and span.stop - span.start <= length:
        return [span]
    length = length if length < multiple else length // multiple * multiple
    pieces, start = [], span.start
    while start < span.stop:
        origin = start // multiple * multiple if length >= multiple else start
        stop = min(span.stop, origin + length)
        pieces.append(slice(start, stop))
        start = stop
    return pieces


def overlapping(block_edges: Sequence[Sequence[int]], region: Region) -> list[tuple[Index, Region]]:
    """Return index and region of the blocks that share elements with ``region``.

    ``block_edges`` are the ``edges`` of the blocks of each axis.
    """
    axes = [
        [(i, slice(positions[i], positions[i + 1])) for i in _overlapping(positions, span)]
        for positions, span in zip(block_edges, region, strict=True)
    ]
    return [(tuple(i for i, _ in b), tuple(s for _, s in b)) for b in product(*axes)]


def _overlapping(positions: Sequence[int], span: slice) -> range:
    first = max(0, bisect_right(positions, span.start) - 1)
    return range(first, min(len(positions) - 1, max(first, bisect_left(positions, span.stop))))


def touched(region: Region, chunks: Sequence[int]) -> int:
    """Return the elements in the stored chunks that ``region`` touches, edge chunks whole."""
    if any(s.stop <= s.start for s in region):
        return 0
    return prod((-(-s.stop // c) - s.start // c) * c for s, c in zip(region, chunks, strict=True))


def runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Return the runs ``(start, stop)`` of consecutive rising numbers in ``indices``, in order."""
    intervals: list[tuple[int, int]] = []
    for i in indices:
        if intervals and intervals[-1][1] == i:
            intervals[-1] = (intervals[-1][0], i + 1)
        else:
            intervals.append((i, i + 1))
    return intervals

"""Regions: integer arithmetic on boxes of a grid. No arrays here.

A region is a tuple of slices with ``start <= stop`` and step 1, one per axis. A grid is a tuple
of chunk lengths per axis, as dask writes them: ``((4, 4, 2), (7,))``.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise, product
from math import prod
from typing import TypeAlias

Region: TypeAlias = tuple[slice, ...]
Grid: TypeAlias = tuple[tuple[int, ...], ...]
Index: TypeAlias = tuple[int, ...]


def whole(shape: Sequence[int]) -> Region:
    """Region that covers all of an array of ``shape``."""
    return tuple(slice(0, n) for n in shape)


def lengths(region: Region) -> tuple[int, ...]:
    """Shape of a region."""
    return tuple(s.stop - s.start for s in region)


def size(region: Region) -> int:
    """Number of elements in a region."""
    return prod(lengths(region))


def starts(region: Region) -> tuple[int, ...]:
    """First index of a region along each axis."""
    return tuple(s.start for s in region)


def shift(region: Region, offsets: Sequence[int]) -> Region:
    """Region moved by ``offsets``."""
    return tuple(slice(s.start + o, s.stop + o) for s, o in zip(region, offsets, strict=True))


def relative(region: Region, origin: Region) -> Region:
    """``region`` in the coordinates of an array that starts where ``origin`` starts."""
    return shift(region, [-s for s in starts(origin)])


def intersect(a: Region, b: Region) -> Region:
    """Overlap of two regions; an axis without overlap has length 0."""
    low = [max(s.start, t.start) for s, t in zip(a, b, strict=True)]
    high = [min(s.stop, t.stop) for s, t in zip(a, b, strict=True)]
    return tuple(slice(lo, max(lo, hi)) for lo, hi in zip(low, high, strict=True))


def cover(length: int, step: int) -> tuple[int, ...]:
    """Chunk lengths that cut ``length`` into steps of ``step``; the last may be shorter."""
    if length == 0:
        return (0,)
    full, rest = divmod(length, max(1, step))
    return (max(1, step),) * full + ((rest,) if rest else ())


def even(length: int, parts: int, grain: int = 1) -> tuple[int, ...]:
    """Chunk lengths that cut ``length`` into about ``parts``, each a multiple of ``grain``."""
    units = -(-length // grain)
    return cover(length, -(-units // max(1, min(parts, units) or 1)) * grain)


def edges(chunks: Sequence[int]) -> tuple[int, ...]:
    """Positions where chunks begin and end: one more than there are chunks."""
    return (0, *accumulate(chunks))


def spans(chunks: Sequence[int]) -> list[slice]:
    """Chunks of one axis as slices."""
    return [slice(a, b) for a, b in pairwise(edges(chunks))]


def boxes(grid: Grid) -> Iterator[tuple[Index, Region]]:
    """Index and region of every block of a grid, in C order."""
    axes = [list(enumerate(spans(chunks))) for chunks in grid]
    for block in product(*axes):
        yield tuple(i for i, _ in block), tuple(s for _, s in block)


def count(grid: Grid) -> int:
    """Number of blocks in a grid."""
    return prod(len(chunks) for chunks in grid)


def tiles(region: Region, step: Sequence[int], grain: Sequence[int]) -> Iterator[Region]:
    """Boxes of at most ``step`` that cover ``region`` in C order, cut at multiples of ``grain``.

    Cutting on the stored grid, not at the region's own start, reads every stored chunk once.
    """
    axes = [
        _cuts(span, max(1, n), max(1, g)) for span, n, g in zip(region, step, grain, strict=True)
    ]
    yield from product(*axes)


def _cuts(span: slice, step: int, grain: int) -> list[slice]:
    if span.start % grain == 0 and span.stop - span.start <= step:
        return [span]
    step = step if step < grain else step // grain * grain
    cuts, at = [], span.start
    while at < span.stop:
        to = min(span.stop, (at // grain * grain if step >= grain else at) + step)
        cuts.append(slice(at, to))
        at = to
    return cuts


def overlapping(cuts: Sequence[Sequence[int]], region: Region) -> list[tuple[Index, Region]]:
    """Index and region of the blocks between ``cuts`` (the ``edges`` of each axis) that share
    elements with ``region``."""
    axes = [
        [(i, slice(edge[i], edge[i + 1])) for i in _between(edge, want)]
        for edge, want in zip(cuts, region, strict=True)
    ]
    return [(tuple(i for i, _ in b), tuple(s for _, s in b)) for b in product(*axes)]


def _between(edge: Sequence[int], want: slice) -> range:
    first = max(0, bisect_right(edge, want.start) - 1)
    return range(first, min(len(edge) - 1, max(first, bisect_left(edge, want.stop))))


def touched(region: Region, chunks: Sequence[int]) -> int:
    """Elements in the stored chunks that ``region`` touches, edge chunks counted whole."""
    if any(s.stop <= s.start for s in region):
        return 0
    return prod((-(-s.stop // c) - s.start // c) * c for s, c in zip(region, chunks, strict=True))


def runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches ``(start, stop)`` of consecutive rising numbers in ``indices``, in order."""
    found: list[tuple[int, int]] = []
    for i in indices:
        if found and found[-1][1] == i:
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found


def hull(a: Region, b: Region) -> Region:
    """Smallest region that holds both."""
    return tuple(
        slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True)
    )

"""Borders: the stored index whose value a position outside the array has. Integers alone.

The five modes are those of ``scipy.ndimage``. They continue an axis ``a b c d`` as
``reflect`` d c b a | a b c d | d c b a, ``mirror`` d c b | a b c d | c b a,
``nearest`` a a a | a b c d | d d d, ``wrap`` b c d | a b c d | a b c,
``constant`` v v v | a b c d | v v v.
"""

from functools import lru_cache
from itertools import chain
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap"]
MODES: tuple[Mode, ...] = ("reflect", "mirror", "nearest", "constant", "wrap")


def stored_index(position: int, length: int, mode: Mode) -> int:
    """Return the index in ``range(length)`` that ``mode`` puts at any ``position``."""
    if mode == "wrap":
        return position % length
    if mode == "reflect":
        folded = position % (2 * length)
        return min(folded, 2 * length - 1 - folded)
    if mode == "mirror":
        period = max(1, 2 * length - 2)
        folded = position % period
        return min(folded, period - folded) if length > 1 else 0
    return min(max(position, 0), length - 1)


#: spans whose reads are remembered: a task asks for those of its region five times, and the regions
#: of a stack share theirs (0.25 of the 0.9 ms that a task of a Gaussian costs beside its kernel)
REMEMBERED = 4096

#: place in a span, and the stored slice it is read from
Read: TypeAlias = tuple[slice, slice]


def reads(span: slice, length: int, mode: Mode) -> tuple[Read, ...]:
    """Return the reads that fill a grown ``span`` of one axis: (place in the span, stored slice).

    All modes but ``wrap`` read the part of the span inside the array; most outside positions are
    copies of values in that part. Positions that are not (a halo longer before than after reflects
    voxels behind the span) are read one by one. ``wrap`` reads from the far side.
    """
    return _reads(span.start, span.stop, length, mode)


@lru_cache(REMEMBERED)
def _reads(start: int, stop: int, length: int, mode: Mode) -> tuple[Read, ...]:
    if mode == "wrap":
        return tuple(_wrapped_reads(start, stop, length))
    low, high = max(0, start), min(length, stop)
    pairs = [(slice(low - start, high - start), slice(low, high))]
    for p, q in _outside(start, stop, length, mode):
        if not low <= q < high:
            pairs.append((slice(p - start, p - start + 1), slice(q, q + 1)))
    return tuple(pairs)


def _wrapped_reads(start: int, stop: int, length: int) -> list[Read]:
    pairs, position = [], start
    while position < stop:
        index = position % length
        n = min(length - index, stop - position)
        pairs.append((slice(position - start, position - start + n), slice(index, index + n)))
        position += n
    return pairs


def copies(span: slice, length: int, mode: Mode) -> tuple[list[int], list[int]]:
    """Return the outside places of ``span`` that copy inside ones, and the places they copy."""
    return _copies(span.start, span.stop, length, mode)


@lru_cache(REMEMBERED)
def _copies(start: int, stop: int, length: int, mode: Mode) -> tuple[list[int], list[int]]:
    low, high = max(0, start), min(length, stop)
    pairs = [(p, q) for p, q in _outside(start, stop, length, mode) if low <= q < high]
    return [p - start for p, _ in pairs], [q - start for _, q in pairs]


def _outside(start: int, stop: int, length: int, mode: Mode) -> list[tuple[int, int]]:
    """Return the positions of a span outside the array, each with the index it repeats."""
    if not length:
        return []
    positions = chain(range(start, min(0, stop)), range(max(length, start), stop))
    if mode == "constant":
        return [(p, max(0, start)) for p in positions]
    return [(p, stored_index(p, length, mode)) for p in positions]

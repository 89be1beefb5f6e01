"""Borders: the stored index whose value a position outside the array has. Integers alone.

The five modes are those of ``scipy.ndimage``. They continue an axis ``a b c d`` as
``reflect`` d c b a | a b c d | d c b a, ``mirror`` d c b | a b c d | c b a,
``nearest`` a a a | a b c d | d d d, ``wrap`` b c d | a b c d | a b c,
``constant`` v v v | a b c d | v v v.
"""

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


def reads(span: slice, length: int, mode: Mode) -> list[tuple[slice, slice]]:
    """Return the reads that fill a grown ``span`` of one axis: (place in the span, stored slice).

    All modes but ``wrap`` read the part of the span inside the array; most outside positions are
    copies of values in that part. Positions that are not (a halo longer before than after reflects
    voxels behind the span) are read one by one. ``wrap`` reads from the far side.
    """
    if mode == "wrap":
        return _wrapped_reads(span, length)
    low, high = max(0, span.start), min(length, span.stop)
    pairs = [(slice(low - span.start, high - span.start), slice(low, high))]
    for p, q in _outside(span, length, mode):
        if not low <= q < high:
            pairs.append((slice(p - span.start, p - span.start + 1), slice(q, q + 1)))
    return pairs


def _wrapped_reads(span: slice, length: int) -> list[tuple[slice, slice]]:
    pairs, position = [], span.start
    while position < span.stop:
        index = position % length
        n = min(length - index, span.stop - position)
        place = slice(position - span.start, position - span.start + n)
        pairs.append((place, slice(index, index + n)))
        position += n
    return pairs


def copies(span: slice, length: int, mode: Mode) -> tuple[list[int], list[int]]:
    """Return the outside places of ``span`` that copy inside ones, and the places they copy."""
    low, high = max(0, span.start), min(length, span.stop)
    pairs = [(p, q) for p, q in _outside(span, length, mode) if low <= q < high]
    return [p - span.start for p, _ in pairs], [q - span.start for _, q in pairs]


def _outside(span: slice, length: int, mode: Mode) -> list[tuple[int, int]]:
    """Return the positions of ``span`` outside the array, each with the index it repeats."""
    positions = [p for p in range(span.start, span.stop) if not 0 <= p < length] if length else []
    if mode == "constant":
        return [(p, max(0, span.start)) for p in positions]
    return [(p, stored_index(p, length, mode)) for p in positions]

"""Borders: which stored index stands behind a position outside the array. Integers alone.

The five modes are those of ``scipy.ndimage``: for an axis ``a b c d`` they continue it as
``reflect`` d c b a | a b c d | d c b a, ``mirror`` d c b | a b c d | c b a,
``nearest`` a a a | a b c d | d d d, ``wrap`` b c d | a b c d | a b c,
``constant`` v v v | a b c d | v v v.
"""

from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap"]
MODES: tuple[Mode, ...] = ("reflect", "mirror", "nearest", "constant", "wrap")


def inside(position: int, length: int, mode: Mode) -> int:
    """Index in ``range(length)`` that ``mode`` puts at ``position``, however far outside."""
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


def pieces(span: slice, length: int, mode: Mode) -> list[tuple[slice, slice]]:
    """Reads that fill a grown ``span`` of one axis, as (place in the span, stored slice).

    All modes but ``wrap`` need one read, the part of the span inside the array: what lies
    outside is mostly a copy of what was read. Where it is not (a halo longer before than after
    reflects what lies behind the span) it is read by itself. ``wrap`` reads from the far side.
    """
    if mode != "wrap":
        low, high = max(0, span.start), min(length, span.stop)
        found = [(slice(low - span.start, high - span.start), slice(low, high))]
        for p, q in _outside(span, length, mode):
            if not low <= q < high:
                found.append((slice(p - span.start, p - span.start + 1), slice(q, q + 1)))
        return found
    found, at = [], span.start
    while at < span.stop:
        index = at % length
        n = min(length - index, span.stop - at)
        found.append((slice(at - span.start, at - span.start + n), slice(index, index + n)))
        at += n
    return found


def sources(span: slice, length: int, mode: Mode) -> tuple[list[int], list[int]]:
    """For the outside positions of ``span`` that copy inside ones: their places, and theirs."""
    low, high = max(0, span.start), min(length, span.stop)
    pairs = [(p, q) for p, q in _outside(span, length, mode) if low <= q < high]
    return [p - span.start for p, _ in pairs], [q - span.start for _, q in pairs]


def _outside(span: slice, length: int, mode: Mode) -> list[tuple[int, int]]:
    """Positions of ``span`` beyond the array, each with the one inside that it repeats."""
    if mode == "constant":
        return [(p, max(0, span.start)) for p in _beyond(span, length)]
    return [(p, inside(p, length, mode)) for p in _beyond(span, length)]


def _beyond(span: slice, length: int) -> list[int]:
    return [p for p in range(span.start, span.stop) if not 0 <= p < length] if length else []

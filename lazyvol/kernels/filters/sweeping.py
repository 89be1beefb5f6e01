"""Weighted sums along three axes of a volume in one sweep: rows, within rows, planes.

A strip of rows goes from plane to plane. What a plane's rows and columns sum up to waits, in the
second cache, for the planes that the sums over planes need.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled_products
from lazyvol.kernels.filters import fours
from lazyvol.kernels.filters.fours import (
    LANES,
    PITCH,
    VECTOR,
    add,
    add_within,
    clear,
    move,
    rows_of,
    shares,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: rows of a strip, and planes that are summed at once
ROWS, PLANES = 16, 16
#: taps along planes that strips wait for
DEEPEST = 65


def fits(weights: Sequence[Array], step: int) -> bool:
    """Whether sums of such weights find room in the memory of a sweep, 2 MiB at most."""
    wz, _, wx = weights
    double = all(w.dtype == np.float64 for w in weights)
    return double and len(wz) <= DEEPEST and fours.fits(step * (len(wx) - 1) + 1)


def sweep(out: Array, x: Array, weights: Sequence[Array], step: int) -> None:
    """The valid part of C-contiguous ``x`` into C-contiguous ``out``, in float64.

    Taps of the last axis lie ``step`` values apart.
    """
    wz, wy, wx = weights
    parts = [_parts(len(w)) for w in weights]
    deep = PLANES + len(wz) - 1
    _strips(
        out.reshape(-1), x.reshape(-1), x.shape, out.shape, (wz, wy, wx), tuple(parts), step,
        rows_of(ROWS + len(wy) + 3), rows_of(max(ROWS, PLANES) + 4), rows_of(ROWS * deep + 4),
    )  # fmt: skip


def _parts(taps: int) -> Array:
    """How many taps are summed at once, the first of them, and the row that one meets."""
    counts = shares(taps)
    first = np.cumsum([0, *counts[:-1]])
    return np.array([counts, first, first * PITCH])


@compiled_products
def _strips(
    out: Array, x: Array, lengths: tuple[int, ...], kept: tuple[int, ...],
    weights: tuple[Array, ...], parts: tuple[Array, ...], step: int, rows: Array, sums: Array,
    waiting: Array,
) -> None:  # fmt: skip
    wide = step * (weights[2].size - 1)
    for first in range(0, kept[1], ROWS):
        high = min(ROWS, kept[1] - first)
        for low in range(0, kept[2], LANES):
            n = min(LANES, kept[2] - low)
            _strip(
                out, x, lengths, kept, weights, parts, step, rows, sums, waiting,
                first, high, low, n, n + wide,
            )  # fmt: skip


@compiled_products
def _strip(
    out: Array, x: Array, lengths: tuple[int, ...], kept: tuple[int, ...],
    weights: tuple[Array, ...], parts: tuple[Array, ...], step: int, rows: Array, sums: Array,
    waiting: Array, first: int, high: int, low: int, n: int, wide: int,
) -> None:  # fmt: skip
    """All planes of ``high`` rows and ``n`` columns."""
    wz, wy, wx = weights
    before = wz.size - 1
    deep = PLANES + before
    for start in range(0, kept[0], PLANES):
        planes = min(PLANES, kept[0] - start)
        for slot in range(before if start else 0, before + planes):
            at = ((start + slot) * lengths[1] + first) * lengths[2] + low
            for r in range(high + wy.size - 1):
                move(rows, r * PITCH, x, at + r * lengths[2], wide)
            _down(sums, rows, 0, high, wide, wy, parts[1])
            _within(waiting, slot, deep, sums, high, n, step, wx, parts[2])
        for r in range(high):
            _down(sums, waiting, r * deep, planes, n, wz, parts[0])
            for z in range(planes):
                place = ((start + z) * kept[1] + first + r) * kept[2] + low
                move(out, place, sums, z * PITCH, n)
            for slot in range(before):
                place = (r * deep + slot) * PITCH
                move(waiting, place, waiting, place + PLANES * PITCH, n)


@compiled_products
def _down(
    out: Array, x: Array, first: int, high: int, n: int, weights: Array, parts: Array
) -> None:
    """``high`` sums over rows of ``x`` from the row ``first`` on."""
    groups, lanes = (high + 3) // 4, (n + VECTOR - 1) // VECTOR * VECTOR
    clear(out, 0, 4 * groups, lanes)
    for p in range(parts.shape[1]):
        row = parts[2, p : p + 1]
        add(out, x, first * PITCH, lanes, groups, weights, parts[1, p], parts[0, p], row)


@compiled_products
def _within(
    out: Array, slot: int, deep: int, x: Array, high: int, n: int, step: int, weights: Array,
    parts: Array,
) -> None:  # fmt: skip
    """Sums within each of ``high`` rows of ``x``, to every ``deep``-th row of ``out``."""
    lanes = (n + VECTOR - 1) // VECTOR * VECTOR
    for p in range(parts.shape[1]):
        add_within(
            out, slot * PITCH, deep * PITCH, x, high, lanes, weights, parts[1, p], parts[0, p], step
        )

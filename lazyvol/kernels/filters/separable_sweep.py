"""Separable correlation along three axes in one pass over a volume.

A strip of rows moves from plane to plane: sums over rows and within rows of each plane stay in the
L2 cache until all planes that a sum over planes needs are computed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled_products, inlined
from lazyvol.kernels.filters.weighted_sums import (
    PITCH,
    ROW_RESULTS,
    VECTOR,
    add_columns,
    add_within_rows,
    allocate_rows,
    copy_values,
    fits_in_row,
    split_taps,
    zero_rows,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: rows of a strip, and planes that are summed at once
ROWS, PLANES = 16, 16
#: most taps along planes: the sums that are kept take 2 MiB
MAX_PLANE_TAPS = 65


def fits(weights: Sequence[Array], step: int) -> bool:
    """Return True if these weights are float64 and short enough for the buffers of a sweep."""
    wz, _, wx = weights
    double = all(w.dtype == np.float64 for w in weights)
    return double and len(wz) <= MAX_PLANE_TAPS and fits_in_row(step * (len(wx) - 1) + 1)


def sweep(out: Array, x: Array, weights: Sequence[Array], step: int) -> None:
    """Write the valid part of C-contiguous ``x`` to C-contiguous ``out``, summed in float64.

    Taps of the last axis are ``step`` values apart.
    """
    wz, wy, wx = weights
    parts = tuple(_tap_parts(len(w)) for w in weights)
    depth = PLANES + len(wz) - 1
    _sweep_strips(
        out.reshape(-1), x.reshape(-1), x.shape, out.shape, (wz, wy, wx), parts, step,
        allocate_rows(ROWS + len(wy) + 3), allocate_rows(max(ROWS, PLANES) + 4),
        allocate_rows(ROWS * depth + 4),
    )  # fmt: skip


def _tap_parts(taps: int) -> Array:
    """Return three rows: taps of each part, its first tap, the buffer offset of that tap's row."""
    counts = split_taps(taps)
    first = np.cumsum([0, *counts[:-1]])
    return np.array([counts, first, first * PITCH])


@compiled_products
def _sweep_strips(
    out: Array, x: Array, lengths: tuple[int, ...], kept: tuple[int, ...],
    weights: tuple[Array, ...], parts: tuple[Array, ...], step: int, rows: Array, sums: Array,
    waiting: Array,
) -> None:  # fmt: skip
    wide = step * (weights[2].size - 1)
    for first in range(0, kept[1], ROWS):
        high = min(ROWS, kept[1] - first)
        for low in range(0, kept[2], ROW_RESULTS):
            n = min(ROW_RESULTS, kept[2] - low)
            _sweep_strip(
                out, x, lengths, kept, weights, parts, step, rows, sums, waiting,
                first, high, low, n, n + wide,
            )  # fmt: skip


@inlined
def _sweep_strip(
    out: Array, x: Array, lengths: tuple[int, ...], kept: tuple[int, ...],
    weights: tuple[Array, ...], parts: tuple[Array, ...], step: int, rows: Array, sums: Array,
    waiting: Array, first: int, high: int, low: int, n: int, wide: int,
) -> None:  # fmt: skip
    """Sum all planes of ``high`` rows from ``first`` on and ``n`` columns from ``low`` on.

    ``waiting`` holds the sums of ``depth`` planes for each row, one buffer row per plane.
    """
    wz, wy, wx = weights
    before = wz.size - 1
    depth = PLANES + before
    for start in range(0, kept[0], PLANES):
        planes = min(PLANES, kept[0] - start)
        for slot in range(before if start else 0, before + planes):
            at = ((start + slot) * lengths[1] + first) * lengths[2] + low
            for r in range(high + wy.size - 1):
                copy_values(rows, r * PITCH, x, at + r * lengths[2], wide)
            _sum_columns(sums, rows, 0, high, wide, wy, parts[1])
            _sum_within_rows(waiting, slot, depth, sums, high, n, step, wx, parts[2])
        for r in range(high):
            _sum_columns(sums, waiting, r * depth, planes, n, wz, parts[0])
            for z in range(planes):
                to = ((start + z) * kept[1] + first + r) * kept[2] + low
                copy_values(out, to, sums, z * PITCH, n)
            for slot in range(before):
                to = (r * depth + slot) * PITCH
                copy_values(waiting, to, waiting, to + PLANES * PITCH, n)


@inlined
def _sum_columns(
    out: Array, x: Array, first: int, high: int, n: int, weights: Array, parts: Array
) -> None:
    """Sum down the buffer rows of ``x`` from ``first`` on into ``high`` rows."""
    groups, padded = (high + 3) // 4, (n + VECTOR - 1) // VECTOR * VECTOR
    zero_rows(out, 4 * groups, padded)
    for p in range(parts.shape[1]):
        row = parts[2, p : p + 1]
        add_columns(out, x, first * PITCH, padded, groups, weights, parts[1, p], parts[0, p], row)


@inlined
def _sum_within_rows(
    out: Array, slot: int, depth: int, x: Array, high: int, n: int, step: int, weights: Array,
    parts: Array,
) -> None:  # fmt: skip
    """Sum within each of ``high`` rows of ``x``, into every ``depth``-th row of ``out``."""
    padded = (n + VECTOR - 1) // VECTOR * VECTOR
    for p in range(parts.shape[1]):
        add_within_rows(
            out, slot * PITCH, depth * PITCH, x, high, padded, weights, parts[1, p], parts[0, p],
            step,
        )  # fmt: skip

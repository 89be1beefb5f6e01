"""Statistics of every label of many volumes, tile by tile.

The runs of a tile (neighbours along x of one label) are listed first; then a separate loop adds
them to each part of the state, in which sums stay in registers and moments of positions follow from
the ends of a run. (One loop for all parts took three times as long.) Sums of values are
double-double, those of positions exact integers, so results depend neither on tiles nor on their
order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyvol.kernels._numba import Kernel, compiled
from lazyvol.kernels.arrays import read_only
from lazyvol.kernels.magnitude import require_exact
from lazyvol.kernels.objects.numbers import find_runs, wide_labels
from lazyvol.kernels.reductions import moments
from lazyvol.kernels.reductions.double_double import merge, two_product, two_sum
from lazyvol.kernels.reductions.histogram import bin_of

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: arrays of the collected values, which have a row for each volume
COLLECTED = ("values", "slots", "filled")
#: runs that are listed at once: their list stays in the second-level cache
RUNS = 2**13
#: position of an extreme before any value was seen
NOWHERE = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Tally:
    """The lists of labels to measure, and the parts of a state that their table needs.

    Volume number ``n`` has the sorted ``labels[ends[n]:ends[n + 1]]``, at most ``most`` of them;
    ``shape`` is that of a volume, with three axes. ``edges`` are those of the histogram, ``room``
    is the number of values that are collected of each volume, in ``dtype``.
    """

    parts: tuple[str, ...]
    labels: Array
    ends: Array
    most: int
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    edges: Array
    room: int = 0

    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any], Any]]:
        """Return shape, dtype and first value of every array of a state, for one volume."""
        whole, real, n = np.dtype(np.int64), np.dtype(np.float64), self.most
        known: dict[str, dict[str, tuple[tuple[int, ...], np.dtype[Any], Any]]] = {
            "sum": dict.fromkeys(("sum", "sum_rest"), ((n,), real, 0)),
            "square": dict.fromkeys(("square", "square_rest"), ((n,), real, 0)),
            "extremes": {
                "low": ((n,), real, np.inf), "high": ((n,), real, -np.inf),
                "low_at": ((n,), whole, NOWHERE), "high_at": ((n,), whole, NOWHERE),
            },
            "first": {"first": ((n, 3), whole, 0)},
            "second": {"second": ((n, 6), whole, 0)},
            "box": {"box_start": ((n, 3), whole, NOWHERE), "box_stop": ((n, 3), whole, 0)},
            "weighted": dict.fromkeys(("weighted", "weighted_rest"), ((n, 3), real, 0)),
            "bins": {"bins": ((n, len(self.edges) - 1), whole, 0)},
            "values": {
                "values": ((self.room,), self.dtype, None),
                "slots": ((self.room,), np.dtype(np.int32), None), "filled": ((), whole, 0),
            },
        }  # fmt: skip
        arrays = dict.fromkeys(("voxels", "count"), ((n,), whole, 0))
        return arrays | {name: a for part in self.parts for name, a in known[part].items()}

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of one volume."""
        return int(
            sum(np.prod(s, dtype=np.int64) * d.itemsize for s, d, _ in self.arrays().values())
        )


def start(shape: tuple[int, ...], *, tally: Tally) -> State:
    """Return an empty state; the memory for collected values is not initialized."""
    return {
        name: np.empty((*shape, *size), dtype) if value is None
        else np.full((*shape, *size), value, dtype)
        for name, (size, dtype, value) in tally.arrays().items()
    }  # fmt: skip


def update(state: State, axes: Sequence[int], *blocks: Array, tally: Tally, measured: bool) -> None:
    """Add a tile: values if they are ``measured``, labels, numbers of volumes, positions.

    The numbers of the volumes are left out of a single one; positions are indices along each
    reduced axis.
    """
    labels, *others = blocks[measured:]
    positions = others[len(others) - len(axes) :]
    frames = others[0].reshape(-1) if len(others) > len(axes) else np.zeros(1, np.int64)
    origin = np.array([0] * (3 - len(axes)) + [int(p.flat[0]) for p in positions], np.int64)
    lengths = (*(1,) * (3 - len(axes)), *(p.size for p in positions))
    numbers = wide_labels(labels).reshape(-1, *lengths)
    values = np.zeros((0, lengths[-1])) if not measured else blocks[0]
    if measured and values.dtype.kind in "iu":
        require_exact("table", values, labels > 0)
    rows = read_only(np.ascontiguousarray(values, np.float64).reshape(-1, lengths[-1]))
    objects = _by_object(state, len(frames), tally.most)
    runs = np.empty((max(RUNS, lengths[-1]), 6), np.int64)
    row = 0
    while row < len(frames) * lengths[0] * lengths[1]:
        n, row = find_runs(numbers, row, tally.labels, tally.ends, frames, tally.most, origin, runs)
        _add_runs(objects, runs[:n], rows, origin[2], tally)


def _by_object(state: State, volumes: int, most: int) -> State:
    """Return views of the state by object, those of collected values by volume."""
    return {
        name: a.reshape(volumes, *a.shape[len(state["voxels"].shape) - 1 :])
        if name in COLLECTED else a.reshape(volumes * most, *a.shape[len(state["voxels"].shape) :])
        for name, a in state.items()
    }  # fmt: skip


def _add_runs(state: State, runs: Array, rows: Array, x: int, tally: Tally) -> None:
    """Add runs to all parts of the state; ``x`` is the index of the first value of a row."""
    _count(runs, rows, state["voxels"], state["count"])
    if "first" in state:
        _add_indices(runs, x, state["first"])
    if "second" in state:
        _add_products(runs, x, state["second"])
    if "box_start" in state:
        _extend(runs, x, state["box_start"], state["box_stop"])
    if "sum" in state:
        _add_values(runs, rows, state["sum"], state["sum_rest"])
    if "square" in state:
        _add_squares(runs, rows, state["square"], state["square_rest"])
    if "weighted" in state:
        _add_moments(runs, rows, x, state["weighted"], state["weighted_rest"])
    if "low" in state:
        shape = np.array(tally.shape)
        _lower(runs, rows, x, shape, 1.0, state["low"], state["low_at"])
        _lower(runs, rows, x, shape, -1.0, state["high"], state["high_at"])
    if "bins" in state:
        _add_to_bins(runs, rows, tally.edges, state["bins"])
    if "values" in state:
        _collect(runs, rows, tally.most, state["values"], state["slots"], state["filled"])


@compiled
def _count(runs, rows, voxels, count):  # type: ignore[no-untyped-def]
    """Count voxels, and the values that are not NaN."""
    for r in range(len(runs)):
        s, row, begin, stop = runs[r, 0], runs[r, 1], runs[r, 4], runs[r, 5]
        voxels[s] += stop - begin
        if len(rows):
            for i in range(begin, stop):
                count[s] += rows[row, i] == rows[row, i]


@compiled
def _add_indices(runs, x, first):  # type: ignore[no-untyped-def]
    """Add the indices of all voxels."""
    for r in range(len(runs)):
        s, z, y, begin, stop = runs[r, 0], runs[r, 2], runs[r, 3], runs[r, 4], runs[r, 5]
        n = stop - begin
        first[s, 0] += z * n
        first[s, 1] += y * n
        first[s, 2] += (2 * x + begin + stop - 1) * n // 2


@compiled
def _add_products(runs, x, second):  # type: ignore[no-untyped-def]
    """Add the products of the indices of all voxels: zz, yy, xx, zy, zx, yx."""
    for r in range(len(runs)):
        s, z, y, begin, stop = runs[r, 0], runs[r, 2], runs[r, 3], runs[r, 4], runs[r, 5]
        n, b, e = stop - begin, x + begin, x + stop
        along = (b + e - 1) * n // 2
        second[s, 0] += z * z * n
        second[s, 1] += y * y * n
        second[s, 2] += ((e - 1) * e * (2 * e - 1) - (b - 1) * b * (2 * b - 1)) // 6
        second[s, 3] += z * y * n
        second[s, 4] += z * along
        second[s, 5] += y * along


@compiled
def _extend(runs, x, start, stop):  # type: ignore[no-untyped-def]
    """Extend boxes to hold all runs."""
    for r in range(len(runs)):
        s, z, y, begin, end = runs[r, 0], runs[r, 2], runs[r, 3], runs[r, 4], runs[r, 5]
        start[s, 0], stop[s, 0] = min(start[s, 0], z), max(stop[s, 0], z + 1)
        start[s, 1], stop[s, 1] = min(start[s, 1], y), max(stop[s, 1], y + 1)
        start[s, 2], stop[s, 2] = min(start[s, 2], x + begin), max(stop[s, 2], x + end)


def _sum_kernel(squares: bool) -> Kernel:
    """Return a kernel that adds the values that are not NaN, or their squares, in double-double."""

    @compiled
    def add(runs, rows, sums, rests):  # type: ignore[no-untyped-def]
        for r in range(len(runs)):
            s, row, begin, stop = runs[r, 0], runs[r, 1], runs[r, 4], runs[r, 5]
            high, low = sums[s], rests[s]
            for i in range(begin, stop):
                v = rows[row, i]
                if v == v:
                    p, q = two_product(v, v) if squares else (v, 0.0)
                    high, e = two_sum(high, p)
                    low += e + q
            sums[s], rests[s] = high, low

    return add


_add_values, _add_squares = _sum_kernel(False), _sum_kernel(True)


@compiled
def _add_moments(runs, rows, x, sums, rests):  # type: ignore[no-untyped-def]
    """Add the values times their indices, in double-double."""
    for r in range(len(runs)):
        s, row, z, y, begin, stop = (
            runs[r, 0],
            runs[r, 1],
            runs[r, 2],
            runs[r, 3],
            runs[r, 4],
            runs[r, 5],
        )
        total, rest, high, low = 0.0, 0.0, sums[s, 2], rests[s, 2]
        for i in range(begin, stop):
            v = rows[row, i]
            if v == v:
                total, e = two_sum(total, v)
                rest += e
                p, q = two_product(v, np.float64(x + i))
                high, e = two_sum(high, p)
                low += e + q
        sums[s, 2], rests[s, 2] = high, low
        for axis in range(2):
            index = np.float64(y if axis else z)
            p, q = two_product(total, index)
            sums[s, axis], e = two_sum(sums[s, axis], p)
            rests[s, axis] += e + q + rest * index


@compiled
def _lower(runs, rows, x, shape, sign, extreme, place):  # type: ignore[no-untyped-def]
    """Lower minima, or raise maxima where ``sign`` is -1; of equal values the first counts."""
    for r in range(len(runs)):
        s, row, z, y, begin, stop = (
            runs[r, 0],
            runs[r, 1],
            runs[r, 2],
            runs[r, 3],
            runs[r, 4],
            runs[r, 5],
        )
        start = (z * shape[1] + y) * shape[2] + x
        least, at = sign * extreme[s], place[s]
        for i in range(begin, stop):
            v = sign * rows[row, i]
            if v < least or (v == least and start + i < at):
                least, at = v, start + i
        extreme[s], place[s] = sign * least, at


@compiled
def _add_to_bins(runs, rows, edges, bins):  # type: ignore[no-untyped-def]
    """Count values in bins."""
    for r in range(len(runs)):
        s, row, begin, stop = runs[r, 0], runs[r, 1], runs[r, 4], runs[r, 5]
        for i in range(begin, stop):
            k = bin_of(rows[row, i], edges)
            if k >= 0:
                bins[s, k] += 1


@compiled
def _collect(runs, rows, most, kept, slots, filled):  # type: ignore[no-untyped-def]
    """Append the values that are not NaN to those of their volume, with their object."""
    for r in range(len(runs)):
        s, row, begin, stop = runs[r, 0], runs[r, 1], runs[r, 4], runs[r, 5]
        a = s // most
        n = filled[a]
        for i in range(begin, stop):
            if rows[row, i] == rows[row, i]:
                kept[a, n], slots[a, n] = rows[row, i], s - a * most
                n += 1
        filled[a] = n


def combine(a: State, b: State) -> State:
    """Merge state ``b`` into ``a``."""
    if "low" in a:
        _take_better(a, b, "low", np.less)
        _take_better(a, b, "high", np.greater)
    if "box_start" in a:
        np.minimum(a["box_start"], b["box_start"], out=a["box_start"])
        np.maximum(a["box_stop"], b["box_stop"], out=a["box_stop"])
    for name in ("voxels", "first", "second", "bins"):
        if name in a:
            a[name] += b[name]
    if "weighted" in a:
        rests = (a["weighted_rest"], b["weighted_rest"])
        merge(*(np.ravel(x) for x in (a["weighted"], rests[0], b["weighted"], rests[1])))
    if "filled" in a:
        _append(a, b)
    sums: State = {n: a[n] for n in ("sum", "sum_rest", "square", "square_rest", "count") if n in a}
    moments.combine(sums, b)
    return a


def _take_better(a: State, b: State, name: str, better: np.ufunc) -> None:
    """Keep the better extreme of both states, of equal ones the first in the volume."""
    at = f"{name}_at"
    taken = better(b[name], a[name]) | ((b[name] == a[name]) & (b[at] < a[at]))
    np.copyto(a[name], b[name], where=taken)
    np.copyto(a[at], b[at], where=taken)


def _append(a: State, b: State) -> None:
    """Append the collected values of ``b`` to those of ``a``."""
    for index in np.ndindex(a["filled"].shape):
        n, more = int(a["filled"][index]), int(b["filled"][index])
        for name in ("values", "slots"):
            a[name][index][n : n + more] = b[name][index][:more]
        a["filled"][index] = n + more

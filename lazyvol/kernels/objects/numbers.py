"""The different labels of a volume, and the place of a label in a sorted list."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.arrays import numba_compatible, read_only

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: slots of an empty table of labels; a table that is half full grows by a factor of 4
SLOTS = 1024


def wide_labels(block: Array) -> Array:
    """Return contiguous labels in int64, the only type that kernels are compiled for."""
    return read_only(np.ascontiguousarray(block, np.int64))


def start(shape: tuple[int, ...]) -> State:
    """Return a state with no labels: for each volume a pair of sorted labels and their voxels."""
    pairs = np.empty(shape, object)
    for index in np.ndindex(shape):
        pairs[index] = (np.empty(0, np.int64), np.empty(0, np.int64))
    return {"labels": pairs}


def update(state: State, axes: Sequence[int], block: Array, *, most: int) -> None:
    """Add the labels of a block of whole reduced axes, which are the last ones.

    Raise MemoryError if a volume has more than ``most`` labels.
    """
    pairs = state["labels"].reshape(-1)
    volumes = wide_labels(block).reshape(pairs.size, -1)
    for n, volume in enumerate(volumes):
        keys, counts = _tally(volume, np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64))
        filled = keys > 0
        pairs[n] = _merged(pairs[n], (keys[filled], counts[filled]))
        if len(pairs[n][0]) > most:
            raise MemoryError(f"more than {most} labels in a volume")


def combine(a: State, b: State) -> State:
    """Merge state ``b`` into ``a``."""
    for index in np.ndindex(a["labels"].shape):
        a["labels"][index] = _merged(a["labels"][index], b["labels"][index])
    return a


def finish(state: State) -> State:
    """Return the labels and their voxels."""
    return state


def _merged(a: Any, b: Any) -> tuple[Array, Array]:
    """Return the labels of two pairs, sorted, and the sums of their voxels."""
    keys, places = np.unique(np.concatenate([a[0], b[0]]), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, places, np.concatenate([a[1], b[1]]))
    return keys, counts


@compiled
def _slot(keys, label):  # type: ignore[no-untyped-def]
    """Return the slot of a label in a table whose size is a power of 2, or the free one for it."""
    last = keys.size - 1
    i = np.int64((np.uint64(label) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & last
    while keys[i] != 0 and keys[i] != label:
        i = (i + 1) & last
    return i


@compiled
def _tally(labels, keys, counts):  # type: ignore[no-untyped-def]
    """Count the voxels of each positive label, run by run."""
    used, at = 0, 0
    while at < labels.size:
        label, first = labels[at], at
        while at < labels.size and labels[at] == label:
            at += 1
        if label <= 0:
            continue
        i = _slot(keys, label)
        if keys[i] == 0:
            used += 1
            keys[i] = label
        counts[i] += at - first
        if 2 * used > keys.size:
            larger, more = np.zeros(4 * keys.size, np.int64), np.zeros(4 * keys.size, np.int64)
            for j in range(keys.size):
                if keys[j] != 0:
                    k = _slot(larger, keys[j])
                    larger[k], more[k] = keys[j], counts[j]
            keys, counts = larger, more
    return keys, counts


@compiled
def place_of(labels, first, last, label):  # type: ignore[no-untyped-def]
    """Return the place of a label in the sorted ``labels[first:last]``, -1 if it is not there.

    Consecutive labels take one comparison.
    """
    if first >= last:
        return -1
    guess = first + label - labels[first]
    if first <= guess < last and labels[guess] == label:
        return guess - first
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if labels[middle] < label:
            low = middle + 1
        else:
            high = middle
    return low - first if low < last and labels[low] == label else -1


@compiled
def find_runs(labels, row, wanted, ends, frames, most, origin, runs):  # type: ignore[no-untyped-def]
    """List the runs of wanted labels from a row on; return their number and the next row.

    Rows are numbered through all volumes; there are as many runs as fit. A run has the number of
    its object (``most`` for each volume), its row, its indices z and y, and its first and last + 1
    place in the row. Labels have one volume if all volumes share them.
    """
    _, depth, height, width = labels.shape
    n, label, s = 0, np.int64(0), -1
    at = -1
    while row < frames.size * depth * height and n + width <= runs.shape[0]:
        a, i, j = row // (depth * height), row // height % depth, row % height
        if a != at:
            at, label = a, np.int64(0)
        b = a if labels.shape[0] > 1 else 0
        stop = 0
        while stop < width:
            begin, value = stop, labels[b, i, j, stop]
            stop += 1
            while stop < width and labels[b, i, j, stop] == value:
                stop += 1
            if value <= 0:
                continue
            if value != label:
                label = value
                s = place_of(wanted, ends[frames[a]], ends[frames[a] + 1], label)
            if s >= 0:
                runs[n, 0], runs[n, 1] = a * most + s, row
                runs[n, 2], runs[n, 3] = origin[0] + i, origin[1] + j
                runs[n, 4], runs[n, 5] = begin, stop
                n += 1
        row += 1
    return n, row


def selected(block: Array, frames: Array, keep: Array, label: Array, frame: Array) -> Array:
    """Return a block of volumes in which labels without a kept row are 0.

    ``frames`` are the numbers of the volumes; ``keep``, ``label`` and ``frame`` have a row for each
    object of all volumes.
    """
    if not block.size:
        return block.copy()
    rows = np.flatnonzero(keep)
    rows = rows[np.lexsort((label[rows], frame[rows]))]
    kept = np.ascontiguousarray(label[rows], np.int64)
    numbers = frames.reshape(-1)
    ends = np.searchsorted(frame[rows], [numbers, numbers + 1]).astype(np.int64)
    volumes = read_only(np.ascontiguousarray(numba_compatible(block)).reshape(len(numbers), -1))
    out = np.empty(volumes.shape, volumes.dtype)
    _select(volumes, kept, ends[0], ends[1], out)
    return out.reshape(block.shape).view(block.dtype)


@compiled
def _select(volumes, kept, first, last, out):  # type: ignore[no-untyped-def]
    for a in range(volumes.shape[0]):
        label, is_kept = np.int64(0), False
        for i in range(volumes.shape[1]):
            value = np.int64(volumes[a, i])
            if value != label:
                label = value
                is_kept = bool(label > 0 and place_of(kept, first[a], last[a], label) >= 0)
            out[a, i] = value if is_kept else 0

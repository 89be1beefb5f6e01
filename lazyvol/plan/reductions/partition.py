"""Partitions: how a fold is split into tasks, and a task into tiles. Integer arithmetic alone.

The axes of the data are either *kept* (they are axes of the result) or *reduced*. A task owns a
box: a block of the kept axes and a segment of the reduced ones. It reads its box tile by tile, a
few stored chunks at a time, into one state for its kept block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, prod

from lazyvol.plan import regions
from lazyvol.plan.regions import Grid

#: bytes of a tile: a few volumes, so that a state is loaded once for several of them
#: (8 volumes of 160^3 at once: 3.2 GB/s; one at a time: 1.1)
TILE = 64 * 2**20
#: bytes of a tile of an array in memory, which costs nothing to read: as narrow as its contiguous
#: runs, so that the state stays in the second-level cache for all volumes
IN_MEMORY_TILE = 4 * 2**20
#: bytes that a task reads, some 10 s of work: every further task is a state to be merged, and a
#: lost worker loses no more than this
TASK = 4 * 2**30
#: bytes of foreign blocks that a task receives: all are in memory at once, but every further task
#: needs a further state (32 x 160^3 in memory: 0.37 s with four states)
FOREIGN_TASK = 256 * 2**20
#: bytes of a task's state
STATE = 512 * 2**20
#: bytes below which a fold is not worth a second task
SMALL = 8 * 2**20


@dataclass(frozen=True)
class FoldSize:
    """A fold in numbers: ``item_bytes`` per element of data, ``state_bytes`` per kept element.

    A task that ``holds_all`` has all of its data in memory at once (blocks of a foreign graph).
    ``segment_lengths`` limit a tile along each axis: a tile of an array in memory that crosses
    segments would be copied (0: no limit). ``halo`` are the voxels along each axis that a block of
    the data needs besides its own.
    """

    shape: tuple[int, ...]
    reduced: frozenset[int]
    preferred_chunk: tuple[int, ...]
    item_bytes: int
    state_bytes: int
    workers: int
    task_limit: float = TASK
    holds_all: bool = False
    tile_limit: int = TILE
    state_limit: int = STATE
    segment_lengths: tuple[int, ...] = ()
    halo: tuple[int, ...] = ()

    @property
    def kept(self) -> tuple[int, ...]:
        """The axes of the result."""
        return tuple(a for a in range(len(self.shape)) if a not in self.reduced)

    def tighter(self) -> "FoldSize | None":
        """Return the fold with limits that need less memory, or None if there are none.

        First at most one state per worker, then smaller tiles, then smaller states.
        """
        if not self.holds_all and self.task_limit < inf:
            return replace(self, task_limit=inf)
        if self.tile_limit > self.item_bytes * prod(self.preferred_chunk):
            task_limit = self.task_limit / 2 if self.holds_all else self.task_limit
            return replace(self, tile_limit=self.tile_limit // 2, task_limit=task_limit)
        if self.state_limit > self.state_bytes:
            return replace(self, state_limit=self.state_limit // 2)
        return None


@dataclass(frozen=True)
class Partition:
    """The boxes of all tasks (blocks of the kept axes, segments of the reduced), and their tile."""

    grid: Grid
    tile: tuple[int, ...]


def partition_fold(size: FoldSize) -> Partition:
    """Split a fold into few large tasks with tiles within their limit.

    An empty axis is treated as one of length 1.
    """
    lengths = size.shape
    size = replace(size, shape=tuple(max(1, n) for n in lengths))
    multiples = [max(1, min(c, n)) for c, n in zip(size.preferred_chunk, size.shape, strict=True)]
    block = _kept_block(size, multiples)
    chunks = [block.get(a, n) for a, n in enumerate(size.shape)]
    _split(size, multiples, chunks)
    tile = _tile(size, multiples, chunks)
    grid = tuple(regions.uniform_chunks(n, c) for n, c in zip(lengths, chunks, strict=True))
    return Partition(grid, tile)


def _kept_block(size: FoldSize, multiples: Sequence[int]) -> dict[int, int]:
    """Return the length of a task's block along each kept axis: as long as its state allows."""
    room = max(1, size.state_limit // max(1, size.state_bytes))
    block = {a: min(multiples[a], size.shape[a]) for a in size.kept}
    while any(size.halo) and prod(block.values()) > room:  # slabs would be thinner than their halo
        longer = (a for a in size.kept if block[a] > 1)
        axis = min(longer, key=lambda a: _growth(block[a], size.halo[a]))
        block[axis] = ceil(block[axis] / 2)
    for a in size.kept:  # a stored chunk larger than the state is read more than once
        excess = ceil(prod(block.values()) / room)
        block[a] = max(1, block[a] // excess)
    for a in reversed(size.kept):
        others = prod(block.values()) // block[a]
        fits = max(1, room // max(1, others))
        block[a] = max(block[a], regions.round_down(fits, multiples[a], size.shape[a]))
    return block


def _growth(length: int, halo: int) -> float:
    """Return by how much an axis of a block in halves, with their halos, exceeds the block."""
    return 2 * (length / 2 + halo) / (length + halo)


def _split(size: FoldSize, multiples: Sequence[int], chunks: list[int]) -> None:
    """Split ``chunks`` in place until a task reads no more than its limit and no worker is idle."""
    blocks = prod(ceil(n / c) for n, c in zip(size.shape, chunks, strict=True) if c)
    task_bytes = prod(chunks) * size.item_bytes
    parts = max(1, ceil(task_bytes / size.task_limit))
    if task_bytes * blocks > SMALL:
        rounds = ceil(parts * blocks / size.workers)
        parts = max(parts, ceil(rounds * size.workers / max(1, blocks)))
    for a in (*size.kept, *sorted(size.reduced)):
        if parts > 1 and chunks[a] > multiples[a]:
            pieces = regions.even_chunks(chunks[a], parts, multiples[a])
            chunks[a] = pieces[0]
            parts = ceil(parts / len(pieces))


def _tile(size: FoldSize, multiples: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """Return the tile of a task: grown from the stored chunk, along the reduced axes first.

    Its halo counts against the limit.
    """
    halo = size.halo or (0,) * len(chunks)
    tile = [min(m, c) for m, c in zip(multiples, chunks, strict=True)]
    room = max(1, size.tile_limit // size.item_bytes)
    for a in (*sorted(size.reduced, reverse=True), *reversed(size.kept)):
        grown = [min(t + h, n) for t, h, n in zip(tile, halo, size.shape, strict=True)]
        fits = room // max(1, prod(grown[:a] + grown[a + 1 :]))
        fits = max(1, fits if fits >= size.shape[a] else fits - halo[a])
        fits = regions.round_down(fits, multiples[a], chunks[a])
        limit = size.segment_lengths[a] if size.segment_lengths else 0
        tile[a] = max(tile[a], min(fits, limit or fits))
    return tuple(max(1, t) for t in tile)

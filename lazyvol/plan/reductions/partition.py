"""How a fold is cut into tasks and a task into tiles. Integer arithmetic alone.

The axes of the data are either *kept* (they are axes of the result) or *reduced*. A task owns a
box: a block of the kept axes and a segment of the reduced ones. It walks through its box tile by
tile, a few stored chunks at a time, with one state for its kept block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, prod

from lazyvol.plan import regions
from lazyvol.plan.regions import Grid

#: bytes of one tile: a few volumes, so that a state is loaded once for several of them
#: (8 volumes of 160^3 at once: 3.2 GB/s; one at a time: 1.1)
TILE = 64 * 2**20
#: bytes of one tile of an array in memory, which costs nothing to take: as narrow as its runs,
#: so that the state stays in the second-level cache however many volumes follow
VIEWED = 4 * 2**20
#: bytes that one task reads, some 10 s of work: every further task is a state that has to be
#: merged, a lost worker loses no more than this
TASK = 4 * 2**30
#: bytes of foreign blocks that a task is handed: all are in memory at once, but every task more
#: is a fresh state (32 x 160^3 in memory: 0.37 s with four states)
HANDED = 256 * 2**20
#: bytes of one task's state
STATE = 512 * 2**20
#: bytes below which a fold is not worth a second task
SMALL = 8 * 2**20


@dataclass(frozen=True)
class Problem:
    """A fold as numbers: ``item`` bytes per element of data, ``state`` per element kept.

    A task that is ``handed`` its data (blocks of someone else's graph) holds all of it at once,
    so it gets no more than ``HANDED``. A tile is no longer than ``pieces`` of data that are in
    memory, for those across two are copied (0: any length).
    """

    shape: tuple[int, ...]
    reduced: frozenset[int]
    grain: tuple[int, ...]
    item: int
    state: int
    workers: int
    task: float = TASK
    handed: bool = False
    tile: int = TILE
    state_limit: int = STATE
    pieces: tuple[int, ...] = ()

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(a for a in range(len(self.shape)) if a not in self.reduced)

    def tighter(self) -> "Problem | None":
        """The same fold in less memory, or None: a state for each worker and no more, then
        smaller tiles, then smaller states."""
        if not self.handed and self.task < inf:
            return replace(self, task=inf)
        if self.tile > self.item * prod(self.grain):
            task = self.task / 2 if self.handed else self.task
            return replace(self, tile=self.tile // 2, task=task)
        if self.state_limit > self.state:
            return replace(self, state_limit=self.state_limit // 2)
        return None


@dataclass(frozen=True)
class Cut:
    """Blocks of the kept axes and segments of the reduced ones, and the tile of a task."""

    grid: Grid
    tile: tuple[int, ...]


def cut(problem: Problem) -> Cut:
    """Cut a fold so that tasks are few and fat, and tiles stay within their bytes.

    An empty axis is cut as one of length 1.
    """
    lengths = problem.shape
    problem = replace(problem, shape=tuple(max(1, n) for n in lengths))
    grain = [max(1, min(g, n)) for g, n in zip(problem.grain, problem.shape, strict=True)]
    block = _kept_block(problem, grain)
    chunks = [block.get(a, n) for a, n in enumerate(problem.shape)]
    _split(problem, grain, chunks)
    tile = _tile(problem, grain, chunks)
    grid = tuple(regions.cover(n, c) for n, c in zip(lengths, chunks, strict=True))
    return Cut(grid, tile)


def _kept_block(problem: Problem, grain: Sequence[int]) -> dict[int, int]:
    """Length of a task's block along each kept axis: as much as its state may hold."""
    room = max(1, problem.state_limit // max(1, problem.state))
    block = {a: min(grain[a], problem.shape[a]) for a in problem.kept}
    for a in problem.kept:  # a stored chunk larger than the state is read more than once
        over = ceil(prod(block.values()) / room)
        block[a] = max(1, block[a] // over)
    for a in reversed(problem.kept):
        others = prod(block.values()) // block[a]
        fits = max(1, room // max(1, others))
        block[a] = max(block[a], _multiple(fits, grain[a], problem.shape[a]))
    return block


def _multiple(length: int, grain: int, most: int) -> int:
    return most if length >= most else length // grain * grain


def _split(problem: Problem, grain: Sequence[int], chunks: list[int]) -> None:
    """Cut ``chunks`` further until a task reads about its bytes and no worker is idle."""
    blocks = prod(ceil(n / c) for n, c in zip(problem.shape, chunks, strict=True) if c)
    read = prod(chunks) * problem.item
    parts = max(1, ceil(read / problem.task))
    if read * blocks > SMALL:
        rounds = ceil(parts * blocks / problem.workers)
        parts = max(parts, ceil(rounds * problem.workers / max(1, blocks)))
    for a in (*problem.kept, *sorted(problem.reduced)):
        if parts > 1 and chunks[a] > grain[a]:
            pieces = regions.even(chunks[a], parts, grain[a])
            chunks[a] = pieces[0]
            parts = ceil(parts / len(pieces))


def _tile(problem: Problem, grain: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """Tile of a task: grown from the stored chunk, along the reduced axes first."""
    tile = [min(g, c) for g, c in zip(grain, chunks, strict=True)]
    room = max(1, problem.tile // problem.item)
    for a in (*sorted(problem.reduced, reverse=True), *reversed(problem.kept)):
        others = prod(tile) // max(1, tile[a])
        fits = _multiple(max(1, room // max(1, others)), grain[a], chunks[a])
        most = problem.pieces[a] if problem.pieces and problem.pieces[a] else fits
        tile[a] = max(tile[a], min(fits, most))
    return tuple(max(1, t) for t in tile)


def block_grid(shape: Sequence[int], grain: Sequence[int], item: int, target: int) -> Grid:
    """Blocks of about ``target`` bytes in whole stored chunks, whole along the last axes first.

    Small stored chunks do not make small blocks; a stored chunk beyond the target is one block.
    """
    chunks = [max(1, min(g, n)) for g, n in zip(grain, shape, strict=True)]
    room = max(1, target // max(1, item))
    for a in reversed(range(len(shape))):
        others = prod(chunks) // chunks[a]
        fits = _multiple(max(1, room // max(1, others)), max(1, grain[a]), shape[a])
        chunks[a] = max(chunks[a], fits)
    return tuple(regions.cover(n, c) for n, c in zip(shape, chunks, strict=True))

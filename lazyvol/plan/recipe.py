"""Recipes: lazy arrays that can produce any region of themselves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from dask.base import tokenize

from lazyvol.errors import MissingChunkError
from lazyvol.plan import regions
from lazyvol.plan.regions import Grid, Region

Array = np.ndarray[Any, np.dtype[Any]]


@runtime_checkable
class Source(Protocol):
    """Stored data that can be read region by region; what a format reader provides.

    A source is small and picklable: it holds what is needed to find the bytes, never the bytes,
    an open file or a memory map. ``read`` may be called from many threads and processes at once.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    #: the unit of storage: reading less than one such box costs as much as reading all of it
    chunks: tuple[int, ...]
    #: deterministic: the same stored data give the same token, a changed file another
    token: str

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Native-endian, C-contiguous, writable copy of one region (slices with step 1).

        Given ``out`` (contiguous, of the region's shape and the source's dtype) the values go
        there: fresh memory costs more than decoding into it (page faults: 0.6 against 9 GB/s).
        """

    def stored_bytes(self, region: Region) -> int:
        """Bytes that reading ``region`` moves out of the store, before decoding."""

    def peak_bytes(self, region: Region) -> int:
        """Bytes of memory that ``read`` holds at its worst, its result included."""


@dataclass(frozen=True)
class Cost:
    """What one region costs: bytes read from stores, and bytes held in memory at the worst."""

    read: int = 0
    peak: int = 0


#: blocks of foreign dask arrays that a task was handed: name -> [(where it lies, values)]
Given = Mapping[str, Sequence[tuple[Region, Array]]]


class Recipe:
    """A lazy array that can produce any region of itself.

    ``grain`` is the box that is cheapest to ask for (the stored chunk behind it), a length per
    axis. Reading returns memory that the caller must not write to. The last ``planes`` axes come
    first in memory: components that are whole volumes each.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grain: tuple[int, ...]
    planes: int = 0

    @cached_property
    def token(self) -> str:
        """Name that is the same for the same computation on the same data."""
        raise NotImplementedError

    @property
    def parents(self) -> tuple["Recipe", ...]:
        """Recipes this one reads."""
        return ()

    def wants(self, region: Region) -> list[tuple["Recipe", Region]]:
        """What ``region`` needs of each parent."""
        return []

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        """Values of ``region``; ``out`` is memory that may be used for them."""
        raise NotImplementedError

    def cost(self, region: Region) -> Cost:
        """Price of ``region``: what the parents cost, and this recipe's own memory."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def least(self) -> tuple[int, ...]:
        """The smallest box that takes less memory than a larger one."""
        return (1,) * self.ndim

    @property
    def pieces(self) -> tuple[int, ...]:
        """Lengths along each axis that are there already: a region within one piece is a view,
        one across two is copied. 0 along an axis where any length is as good."""
        return (0,) * self.ndim

    def nbytes(self, region: Region) -> int:
        """Bytes of the values in ``region``."""
        return regions.size(region) * self.dtype.itemsize


#: a block of a foreign array: the array's name and the block's index, which is its dask key
Key = tuple[str | int, ...]


def foreign_blocks(recipe: Recipe, region: Region) -> dict[Key, tuple["Foreign", Region]]:
    """Blocks of dask arrays that ``region`` of ``recipe`` rests on: their keys and places."""
    found: dict[Key, tuple[Foreign, Region]] = {}
    if isinstance(recipe, Foreign):
        for index, box in regions.overlapping(recipe.cuts, region):
            found[(recipe.name, *index)] = (recipe, box)
    for parent, part in recipe.wants(region):
        found.update(foreign_blocks(parent, part))
    return found


def foreign_bytes(recipe: Recipe, region: Region) -> int:
    """Bytes of the foreign blocks that a task on ``region`` is handed, beside those in memory."""
    blocks = foreign_blocks(recipe, region).values()
    return sum(leaf.nbytes(box) for leaf, box in blocks if not leaf.held)


def leaves(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes at the bottom of ``recipe``: stored, in memory, foreign or generated."""
    if not recipe.parents:
        yield recipe
    for parent in recipe.parents:
        yield from leaves(parent)


@dataclass(frozen=True, eq=False)
class Stored(Recipe):
    """A format reader's source as a recipe."""

    source: Source

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.source.shape)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return np.dtype(self.source.dtype)

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.source.chunks)

    @cached_property
    def token(self) -> str:
        return self.source.token

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        return self.source.read(region, out)

    def cost(self, region: Region) -> Cost:
        return Cost(self.source.stored_bytes(region), self.source.peak_bytes(region))


#: bytes of an array in memory that are worth taking together: the state of a fold over as many
#: float32 values (32 bytes each) still fits a core's second-level cache
CONTIGUOUS = 2**17


def contiguous(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Lengths along each axis of a run of values that lie together in memory."""
    room, found = CONTIGUOUS // itemsize, []
    for n in reversed(shape):
        found.append(max(1, min(n, room)))
        room //= max(1, n)
    return tuple(reversed(found))


@dataclass(frozen=True, eq=False)
class Memory(Recipe):
    """An array that is already in memory; only ever run in this process."""

    values: Array

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.values.shape)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.values.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return contiguous(self.shape, self.dtype.itemsize)

    @cached_property
    def token(self) -> str:
        return str(tokenize("memory", id(self.values), self.shape, str(self.dtype)))

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        return self.values[region]

    def cost(self, region: Region) -> Cost:
        return Cost()


@dataclass(frozen=True, eq=False)
class Foreign(Recipe):
    """Someone else's dask array: its blocks come to the task as arguments.

    It holds the array's name and grid, not its graph: recipes travel with every task. Blocks
    that are ``held`` are in memory before anything runs, so that any part of them is free.
    """

    name: str
    grid: Grid
    dtype: np.dtype[Any]
    held: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(sum(chunks) for chunks in self.grid)

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        block = tuple(max(chunks, default=1) or 1 for chunks in self.grid)
        if not self.held:
            return block
        run = contiguous(block, self.dtype.itemsize)
        cut = [len(chunks) > 1 for chunks in self.grid]  # across blocks there are no views
        return tuple(b if c else r for b, c, r in zip(block, cut, run, strict=True))

    @property
    def pieces(self) -> tuple[int, ...]:
        block = (max(chunks, default=1) or 1 for chunks in self.grid)
        return tuple(
            n if self.held and len(chunks) > 1 else 0
            for n, chunks in zip(block, self.grid, strict=True)
        )

    @cached_property
    def token(self) -> str:
        return self.name

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        return assemble(given.get(self.name, ()), region, self.dtype, out)

    @cached_property
    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """Where the blocks of each axis begin and end."""
        return tuple(regions.edges(chunks) for chunks in self.grid)

    def cost(self, region: Region) -> Cost:
        """Memory to put the region together; the blocks themselves are the task's to count."""
        several = len(regions.overlapping(self.cuts, region)) > 1
        return Cost(0, self.nbytes(region) if several else 0)


def assemble(
    blocks: Iterable[tuple[Region, Array]],
    region: Region,
    dtype: np.dtype[Any],
    out: Array | None = None,
) -> Array:
    """Values of ``region`` out of the blocks that overlap it; a view where one block has all, else
    in ``out``, or in fresh memory."""
    found, missing = np.empty(0, dtype), regions.size(region)
    for box, values in blocks:
        common = regions.intersect(box, region)
        if common == region:
            return np.asarray(values[regions.relative(region, box)])
        if regions.size(common):
            if not found.size:
                found = np.empty(regions.lengths(region), dtype) if out is None else out
            found[regions.relative(common, region)] = values[regions.relative(common, box)]
            missing -= regions.size(common)
    if missing:  # never to be read as what memory happened to hold
        raise MissingChunkError(f"a task on {region} was not handed {missing} of its elements")
    return found if found.size else np.empty(regions.lengths(region), dtype)

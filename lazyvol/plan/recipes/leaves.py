"""Leaves: stored arrays, arrays in memory, foreign dask arrays, and values from position alone.

A task receives the blocks of foreign arrays that it needs; the leaf assembles its region from them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.errors import LabelError, MissingChunkError
from lazyvol.plan import regions
from lazyvol.plan.failures import retried
from lazyvol.plan.recipes.base import Array, Cost, Leaf, Recipe, Source
from lazyvol.plan.regions import Grid, Region
from lazyvol.stack import filled_with_nan

# blocks of foreign arrays that a task receives ---------------------------------------------------


class ArrayBlocks:
    """The blocks of one foreign array that a task received, indexed by their positions."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, ...], tuple[Region, Array]] = {}
        self._starts: list[list[int]] | None = None

    def add(self, region: Region, values: Array) -> None:
        self._blocks[regions.starts(region)] = (region, values)

    def near(self, region: Region) -> Iterator[tuple[Region, Array]]:
        """Yield the blocks that may overlap a region; a scan of all took 11 s for 1,000 blocks."""
        if not self._blocks:
            return iter(())
        if self._starts is None:
            self._starts = [sorted(set(axis)) for axis in zip(*self._blocks, strict=True)]
        axes = [_near(starts, s) for starts, s in zip(self._starts, region, strict=True)]
        return (self._blocks[start] for start in product(*axes) if start in self._blocks)


def _near(starts: list[int], span: slice) -> list[int]:
    """Return the starts of the blocks of one axis that reach into a span."""
    return starts[max(0, bisect_right(starts, span.start) - 1) : bisect_left(starts, span.stop)]


#: blocks of foreign arrays that a task received, by the array's name
InputBlocks = Mapping[str, ArrayBlocks]


#: array names and regions of the foreign blocks that a task receives, in their order
BlockRefs = Sequence[tuple[str, Region]]


def input_blocks(refs: BlockRefs, blocks: Iterable[Array]) -> InputBlocks:
    """Sort blocks by the array they come from."""
    by_name: dict[str, ArrayBlocks] = {}
    for (name, region), values in zip(refs, blocks, strict=True):
        by_name.setdefault(name, ArrayBlocks()).add(region, _unmasked(name, values))
    return by_name


def _unmasked(name: str, values: Array) -> Array:
    """Return a block with NaN for masked values, which a dask array need not announce."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    filled: Array = filled_with_nan(values, name)
    if filled.dtype != values.dtype:
        raise LabelError(
            f"{name}: blocks of a dask array must hold floats where values are masked, got "
            f"dtype={values.dtype}; fill them, e.g. with dask.array.ma.filled"
        )
    return filled


def assemble(blocks: ArrayBlocks, region: Region, dtype: np.dtype[Any], out: Array | None) -> Array:
    """Assemble the values of ``region`` from the blocks that overlap it.

    Return a view if one block contains the region; otherwise ``out`` or fresh memory. Raise
    MissingChunkError if blocks are missing.
    """
    assembled, missing = np.empty(0, dtype), regions.size(region)
    for box, values in blocks.near(region):
        common = regions.intersect(box, region)
        if common == region:
            return np.asarray(values[regions.relative(region, box)])
        if regions.size(common):
            if not assembled.size:
                assembled = np.empty(regions.lengths(region), dtype) if out is None else out
            assembled[regions.relative(common, region)] = values[regions.relative(common, box)]
            missing -= regions.size(common)
    if missing:  # uninitialised memory must never be returned as data
        raise MissingChunkError(
            f"evaluate: a task must receive all blocks of its region {region}, {missing} of its "
            "elements are missing; recompute the array"
        )
    return assembled if assembled.size else np.empty(regions.lengths(region), dtype)


# leaves -------------------------------------------------------------------------------------------

#: bytes of an array in memory that are worth reading at once: the state of a fold over as many
#: float32 values (32 bytes each) still fits into a core's second-level cache
RUN_BYTES = 2**17


def contiguous_run(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return the lengths along each axis of a run of values that are adjacent in memory."""
    room, reversed_lengths = RUN_BYTES // itemsize, []
    for n in reversed(shape):
        reversed_lengths.append(max(1, min(n, room)))
        room //= max(1, n)
    return tuple(reversed(reversed_lengths))


@dataclass(frozen=True, eq=False)
class Stored(Leaf):
    """A format reader's source as a recipe."""

    source: Source

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.source.shape)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return np.dtype(self.source.dtype)

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.source.chunks)

    @cached_property
    def token(self) -> str:
        return self.source.token

    def fetch(self, region: Region, blocks: InputBlocks, out: Array | None = None) -> Array:
        return retried(partial(self.source.read, region, out))

    def cost(self, region: Region) -> Cost:
        return Cost(self.source.stored_bytes(region), self.source.peak_bytes(region))


@dataclass(frozen=True, eq=False)
class InMemory(Leaf):
    """An array in the memory of this process; never sent to another one."""

    values: Array

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.values.shape)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.values.dtype

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        return contiguous_run(self.shape, self.dtype.itemsize)

    @cached_property
    def token(self) -> str:
        return str(tokenize("memory", id(self.values), self.shape, str(self.dtype)))

    def fetch(self, region: Region, blocks: InputBlocks, out: Array | None = None) -> Array:
        return self.values[region]

    def cost(self, region: Region) -> Cost:
        return Cost()


@dataclass(frozen=True, eq=False)
class Foreign(Leaf):
    """A dask array that lazyvol did not build: its blocks come to the task as arguments.

    It holds the array's name and grid, not its graph. ``in_memory`` is True if the blocks are numpy
    arrays in the graph: then any part of them is free.
    """

    name: str
    grid: Grid
    dtype: np.dtype[Any]
    in_memory: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(sum(chunks) for chunks in self.grid)

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        block = tuple(max(chunks, default=1) or 1 for chunks in self.grid)
        if not self.in_memory:
            return block
        run = contiguous_run(block, self.dtype.itemsize)
        is_split = [len(chunks) > 1 for chunks in self.grid]  # across blocks there are no views
        return tuple(b if s else r for b, s, r in zip(block, is_split, run, strict=True))

    @property
    def segment_lengths(self) -> tuple[int, ...]:
        block = (max(chunks, default=1) or 1 for chunks in self.grid)
        return tuple(
            n if self.in_memory and len(chunks) > 1 else 0
            for n, chunks in zip(block, self.grid, strict=True)
        )

    @cached_property
    def token(self) -> str:
        return self.name

    @cached_property
    def _foreign(self) -> frozenset["Foreign"]:
        return frozenset((self,))

    def pickled_fields(self) -> dict[str, Any]:
        """Leave out the grid: a task receives its blocks, and a grid may take megabytes."""
        shape, chunk = self.shape, self.preferred_chunk
        return {**super().pickled_fields(), "shape": shape, "preferred_chunk": chunk, "grid": None}

    @cached_property
    def _edges(self) -> tuple[tuple[int, ...], ...]:
        return tuple(regions.edges(chunks) for chunks in self.grid)

    def blocks_in(self, region: Region) -> list[tuple[regions.Index, Region]]:
        """Return index and region of the blocks that overlap a region."""
        return regions.overlapping(self._edges, region)

    def fetch(self, region: Region, blocks: InputBlocks, out: Array | None = None) -> Array:
        values = assemble(blocks.get(self.name) or ArrayBlocks(), region, self.dtype, out)
        return np.asarray(values, self.dtype)  # blocks may be of another dtype than was declared

    def cost(self, region: Region) -> Cost:
        """Return the memory to assemble the region; the blocks are counted with the task."""
        return Cost(0, self.nbytes(region) if len(self.blocks_in(region)) > 1 else 0)


def is_in_memory(leaf: Recipe) -> bool:
    """Return True if a leaf is a foreign array whose blocks are in memory already."""
    return isinstance(leaf, Foreign) and leaf.in_memory


def receives_blocks(recipe: Recipe) -> bool:
    """Return True if a task receives foreign blocks, and so holds all its data at once."""
    return not all(leaf.in_memory for leaf in recipe.foreign)


@dataclass(frozen=True, eq=False)
class Generated(Leaf):
    """Values from position alone: ``kernel(region) -> block``, equal for any blocks."""

    kernel: Callable[[Region], Array]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scratch: float = 0.0

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        return (1,) * len(self.shape)

    @cached_property
    def token(self) -> str:
        return str(tokenize("generated", self.kernel, self.shape, str(self.dtype)))

    def fetch(self, region: Region, blocks: InputBlocks, out: Array | None = None) -> Array:
        return np.asarray(self.kernel(region), self.dtype)

    def cost(self, region: Region) -> Cost:
        return Cost(0, self.nbytes(region) + int(self.scratch * regions.size(region)))

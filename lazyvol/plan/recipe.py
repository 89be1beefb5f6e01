"""Recipes: lazy arrays that can produce any region of themselves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from dask.base import tokenize

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
    axis. Reading returns memory that the caller must not write to.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grain: tuple[int, ...]

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
    """Bytes of the foreign blocks that a task on ``region`` is handed."""
    return sum(leaf.nbytes(box) for leaf, box in foreign_blocks(recipe, region).values())


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


#: bytes of an array in memory that are worth taking together: about a core's second-level cache
CONTIGUOUS = 2**20


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
        room, found = CONTIGUOUS // self.dtype.itemsize, []
        for n in reversed(self.shape):
            found.append(max(1, min(n, room)))
            room //= max(1, n)
        return tuple(reversed(found))

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

    It holds the array's name and grid, not its graph: recipes travel with every task.
    """

    name: str
    grid: Grid
    dtype: np.dtype[Any]

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(sum(chunks) for chunks in self.grid)

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(max(chunks, default=1) or 1 for chunks in self.grid)

    @cached_property
    def token(self) -> str:
        return self.name

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        return assemble(given[self.name], region, self.dtype)

    @cached_property
    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """Where the blocks of each axis begin and end."""
        return tuple(regions.edges(chunks) for chunks in self.grid)

    def cost(self, region: Region) -> Cost:
        """Memory to put the region together; the blocks themselves are the task's to count."""
        several = len(regions.overlapping(self.cuts, region)) > 1
        return Cost(0, self.nbytes(region) if several else 0)


def assemble(blocks: Iterable[tuple[Region, Array]], region: Region, dtype: np.dtype[Any]) -> Array:
    """Values of ``region`` out of the blocks that overlap it; a view where one block has all."""
    found: Array | None = None
    for box, values in blocks:
        common = regions.intersect(box, region)
        if common == region:
            return np.asarray(values[regions.relative(region, box)])
        if regions.size(common):
            if found is None:
                found = np.empty(regions.lengths(region), dtype)
            found[regions.relative(common, region)] = values[regions.relative(common, box)]
    return np.empty(regions.lengths(region), dtype) if found is None else found


@dataclass(frozen=True, eq=False)
class Aligned(Recipe):
    """The parent with its axes in another order and with new axes of length 1.

    ``axes`` names, for each axis of the result, the parent's axis, or None for a new one.
    """

    parent: Recipe
    axes: tuple[int | None, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(1 if a is None else self.parent.shape[a] for a in self.axes)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(1 if a is None else self.parent.grain[a] for a in self.axes)

    @cached_property
    def token(self) -> str:
        return str(tokenize("aligned", self.parent.token, self.axes))

    @property
    def parents(self) -> tuple[Recipe, ...]:
        return (self.parent,)

    def _below(self, region: Region) -> Region:
        place = {a: s for a, s in zip(self.axes, region, strict=True) if a is not None}
        return tuple(place[a] for a in range(self.parent.ndim))

    def wants(self, region: Region) -> list[tuple[Recipe, Region]]:
        return [(self.parent, self._below(region))]

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        order = [a for a in self.axes if a is not None]
        if order != sorted(order) or out is None:
            values = self.parent.read(self._below(region), given)
        else:
            flat = out.reshape(regions.lengths(self._below(region)))
            values = self.parent.read(self._below(region), given, flat)
        return values.transpose(order)[tuple(None if a is None else slice(None) for a in self.axes)]

    def cost(self, region: Region) -> Cost:
        return self.parent.cost(self._below(region))


#: what one axis of a selection keeps: one index, a slice with a positive step, or a list
Pick = int | slice | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sliced(Recipe):
    """A selection of the parent: per axis one index (the axis goes), a slice, or a list."""

    parent: Recipe
    picks: tuple[Pick, ...]
    kept: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        kept = tuple(i for i, p in enumerate(self.picks) if not isinstance(p, int))
        object.__setattr__(self, "kept", kept)

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(_picked(self.picks[a], self.parent.shape[a]) for a in self.kept)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(
            max(1, self.parent.grain[a] // p.step)
            if isinstance(p := self.picks[a], slice)
            else 1
            for a in self.kept
        )

    @cached_property
    def token(self) -> str:
        return str(tokenize("sliced", self.parent.token, self.picks))

    @property
    def parents(self) -> tuple[Recipe, ...]:
        return (self.parent,)

    def _reads(self, region: Region) -> list[list[tuple[slice, slice]]]:
        """Per parent axis: pairs of (place in the region's own axis, stored stretch)."""
        spans = dict(zip(self.kept, region, strict=True))
        return [_stretches(p, spans.get(a)) for a, p in enumerate(self.picks)]

    def _parts(self, region: Region) -> Iterator[tuple[Region, Region]]:
        for combo in _product(self._reads(region)):
            yield tuple(place for place, _ in combo), tuple(stored for _, stored in combo)

    def wants(self, region: Region) -> list[tuple[Recipe, Region]]:
        return [(self.parent, stored) for _, stored in self._parts(region)]

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        parts = list(self._parts(region))
        step = tuple(
            0 if isinstance(p, int) else slice(None, None, p.step if isinstance(p, slice) else 1)
            for p in self.picks
        )
        if len(parts) == 1:
            unit = all(not isinstance(p, slice) or p.step == 1 for p in self.picks)
            into = _shaped(out, regions.lengths(parts[0][1])) if unit else None
            values = self.parent.read(parts[0][1], given, into)
            return values if unit and len(self.kept) == len(self.picks) else values[step]
        found = np.empty(regions.lengths(region), self.dtype) if out is None else out
        for place, stored in parts:
            target = tuple(place[a] for a in self.kept)
            found[target] = self.parent.read(stored, given)[step]
        return found

    def cost(self, region: Region) -> Cost:
        costs = [self.parent.cost(stored) for _, stored in self._parts(region)]
        own = self.nbytes(region) if len(costs) > 1 else 0
        return Cost(sum(c.read for c in costs), max((c.peak for c in costs), default=0) + own)


def _shaped(out: Array | None, shape: tuple[int, ...]) -> Array | None:
    return None if out is None else out.reshape(shape)


def _product(
    axes: list[list[tuple[slice, slice]]],
) -> Iterator[tuple[tuple[slice, slice], ...]]:
    if not axes:
        yield ()
        return
    for head in axes[0]:
        for tail in _product(axes[1:]):
            yield (head, *tail)


def _picked(pick: Pick, length: int) -> int:
    if isinstance(pick, slice):
        return len(range(*pick.indices(length)))
    return 1 if isinstance(pick, int) else len(pick)


def _stretches(pick: Pick, span: slice | None) -> list[tuple[slice, slice]]:
    """Stored stretches behind ``span`` of one picked axis, with their places in the result."""
    if isinstance(pick, int):
        return [(slice(0, 1), slice(pick, pick + 1))]
    if span is None or span.stop <= span.start:
        return [(slice(0, 0), slice(0, 0))]
    if isinstance(pick, slice):
        first = pick.start + span.start * pick.step
        last = pick.start + (span.stop - 1) * pick.step
        return [(slice(0, span.stop - span.start), slice(first, last + 1))]
    found, at = [], 0
    for start, stop in regions.runs(pick[span]):
        found.append((slice(at, at + stop - start), slice(start, stop)))
        at += stop - start
    return found

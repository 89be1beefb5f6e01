"""Recipes: lazy arrays that can produce any region of themselves.

A recipe is one step. What it needs is asked of its parents by ``wants``, and it is handed their
values by ``make``: who evaluates a recipe (``lazyvol.plan.evaluate``) walks through all steps in
order, each once. Leaves, which have no parents, are fetched; so are the steps that ``stream``:
these evaluate their parents themselves, one tile after the other, to hold no more than a tile.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipes.handed_blocks import Handed, assemble
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


#: blocks of foreign dask arrays that a task was handed, by the array's name
Given = Mapping[str, Handed]

#: number of a parent, and the region of it that is needed
Want = tuple[int, Region]


class Recipe:
    """A lazy array that can produce any region of itself, as one step over its parents.

    ``grain`` is the box that is cheapest to ask for (the stored chunk behind it), a length per
    axis. Values are returned in memory that the caller must not write to. The last ``planes``
    axes come first in memory: components that are whole volumes each. All recipes that a recipe
    holds are in ``parents``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grain: tuple[int, ...]
    planes: int = 0
    parents: tuple["Recipe", ...]
    #: whether ``fetch`` evaluates the parents itself, tile by tile
    streams: ClassVar[bool] = False

    @cached_property
    def token(self) -> str:
        """Name that is equal for equal computations on equal data."""
        raise NotImplementedError

    def wants(self, region: Region) -> list[Want]:
        """The regions of parents that ``region`` needs."""
        return []

    def make(self, region: Region, parts: Sequence[Array], out: Array | None = None) -> Array:
        """Values of ``region`` out of ``parts``, which answer ``wants`` in their order.

        ``out`` is memory that may be used for them.
        """
        raise NotImplementedError

    def working(self, region: Region) -> int:
        """Bytes that ``make`` takes beside its parts: its result and its own memory."""
        return self.nbytes(region)

    def room(self, region: Region, out: Array | None = None) -> Array | None:
        """Memory into which the parts are put one by one; None where ``make`` takes all at once.

        Of a recipe with room, ``make`` is handed the room as its only part.
        """
        return None

    def room_bytes(self, region: Region) -> int:
        """Bytes of the memory that ``room`` takes."""
        return 0

    def put(self, region: Region, room: Array, number: int, part: Array) -> None:
        """Put the part that answers ``wants(region)[number]`` into the room."""
        raise NotImplementedError

    def lend(self, region: Region, out: Array) -> Array | None:
        """Memory for the values of the only parent, so that ``make`` returns them as a view."""
        return None

    def is_view(self, region: Region) -> bool:
        """Return True if ``make`` returns a view of its only part."""
        return False

    def fetch(self, region: Region, given: Given, out: Array | None = None) -> Array:
        """Values of ``region`` of a leaf, or of a recipe that streams."""
        raise NotImplementedError

    def cost(self, region: Region) -> Cost:
        """Price of ``fetch``."""
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
        """Lengths along each axis that are in memory already: a region within one piece is a
        view, one across two is copied. 0 along an axis where any length is as good."""
        return (0,) * self.ndim

    def nbytes(self, region: Region) -> int:
        """Bytes of the values in ``region``."""
        return regions.size(region) * self.dtype.itemsize

    @cached_property
    def height(self) -> int:
        """Steps of the longest chain down to a leaf."""
        return 1 + max((p.height for p in self.parents), default=0)

    @cached_property
    def _foreign(self) -> frozenset["Foreign"]:
        return frozenset().union(*(p._foreign for p in self.parents))

    @property
    def foreign(self) -> list["Foreign"]:
        """Leaves that are someone's dask array, each name once, in a fixed order."""
        return sorted({leaf.name: leaf for leaf in self._foreign}.values(), key=lambda f: f.name)

    def over(self, parents: tuple["Recipe", ...]) -> "Recipe":
        """The step over other parents."""
        made: Recipe = replace(self, parents=parents)  # type: ignore[type-var]
        return made

    def bare(self) -> dict[str, Any]:
        """What a task needs of the recipe, without its parents."""
        state = {n: v for n, v in self.__dict__.items() if not n.startswith("_")}
        state.pop("parents", None)
        return state

    def __reduce__(self) -> tuple[Any, ...]:
        """Steps as a flat list, down to a depth from which on they are pickled on their own.

        Nested pickles of a chain of a thousand steps exceed the recursion limit; the depth is on a
        fixed grid, so that the recipes of one graph share what they are made on.
        """
        last = (self.height - 1) // SEGMENT * SEGMENT
        nodes, numbers = ordered(self, last)
        flat = [
            node if node.height <= last and node is not self
            else (type(node), node.bare(), [numbers[id(p)] for p in node.parents])
            for node in nodes
        ]  # fmt: skip
        return _assembled, (flat,)


class Leaf(Recipe):
    """A recipe that rests on no other."""

    parents = ()


#: steps that are pickled as one flat list
SEGMENT = 32


def _assembled(flat: Sequence[Any]) -> Recipe:
    nodes: list[Recipe] = []
    for item in flat:
        if isinstance(item, Recipe):
            nodes.append(item)
            continue
        cls, state, parents = item
        node = object.__new__(cls)
        node.__dict__.update(state, parents=tuple(nodes[n] for n in parents))
        nodes.append(node)
    return nodes[-1]


def ordered(root: Recipe, lowest: int = 0) -> tuple[list[Recipe], dict[int, int]]:
    """Recipes behind ``root``, each once, parents before children; ``root`` comes last.

    Recipes of equal tokens count as one: the numbers in the list are given by every object's id.
    Nothing below the height ``lowest`` is walked through.
    """
    nodes: list[Recipe] = []
    numbers: dict[int, int] = {}
    known: dict[Any, int] = {}
    stack = [(root, False)]
    while stack:
        node, done = stack.pop()
        if id(node) in numbers:
            continue
        key = node.__dict__.get("token", id(node))
        if key in known:
            numbers[id(node)] = known[key]
        elif done or (lowest and node.height <= lowest and node is not root):
            numbers[id(node)] = known[key] = len(nodes)
            nodes.append(node)
        else:
            stack.append((node, True))
            stack += [(p, False) for p in reversed(node.parents) if id(p) not in numbers]
    return nodes, numbers


def settle(recipe: Recipe) -> Recipe:
    """Derive what a recipe caches of its parents, from the leaves up: no recursion later.

    What is settled already is not walked through again.
    """
    stack = [recipe]
    while stack:
        node = stack[-1]
        below = [p for p in node.parents if "_settled" not in p.__dict__]
        if below and "_settled" not in node.__dict__:
            stack += below
            continue
        node.__dict__["_settled"] = (node.height, node._foreign, node.grain, node.token)
        stack.pop()
    return recipe


def leaves(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes at the bottom of ``recipe``: stored, in memory, foreign or generated."""
    return (node for node in ordered(recipe)[0] if not node.parents)


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
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.source.chunks)

    @cached_property
    def token(self) -> str:
        return self.source.token

    def fetch(self, region: Region, given: Given, out: Array | None = None) -> Array:
        return self.source.read(region, out)

    def cost(self, region: Region) -> Cost:
        return Cost(self.source.stored_bytes(region), self.source.peak_bytes(region))


#: bytes of an array in memory that are worth taking together: the state of a fold over as many
#: float32 values (32 bytes each) still fits a core's second-level cache
CONTIGUOUS = 2**17


def contiguous(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Lengths along each axis of a run of values that are adjacent in memory."""
    room, found = CONTIGUOUS // itemsize, []
    for n in reversed(shape):
        found.append(max(1, min(n, room)))
        room //= max(1, n)
    return tuple(reversed(found))


@dataclass(frozen=True, eq=False)
class Memory(Leaf):
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

    def fetch(self, region: Region, given: Given, out: Array | None = None) -> Array:
        return self.values[region]

    def cost(self, region: Region) -> Cost:
        return Cost()


@dataclass(frozen=True, eq=False)
class Foreign(Leaf):
    """Someone else's dask array: its blocks come to the task as arguments.

    It holds the array's name and grid, not its graph. Blocks that are ``held`` are in memory
    before anything runs, so that any part of them is free.
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

    @cached_property
    def _foreign(self) -> frozenset["Foreign"]:
        return frozenset((self,))

    def bare(self) -> dict[str, Any]:
        """Without the grid: a task is handed its blocks, and a grid may be megabytes."""
        return {**super().bare(), "shape": self.shape, "grain": self.grain, "grid": None}

    @cached_property
    def _cuts(self) -> tuple[tuple[int, ...], ...]:
        """Positions at which the blocks of each axis begin and end."""
        return tuple(regions.edges(chunks) for chunks in self.grid)

    def blocks(self, region: Region) -> list[tuple[regions.Index, Region]]:
        """Index and region of the blocks behind a region."""
        return regions.overlapping(self._cuts, region)

    def fetch(self, region: Region, given: Given, out: Array | None = None) -> Array:
        values = assemble(given.get(self.name) or Handed(), region, self.dtype, out)
        return np.asarray(values, self.dtype)  # blocks may be of another type than was declared

    def cost(self, region: Region) -> Cost:
        """Memory to put the region together; the blocks themselves are the task's to count."""
        return Cost(0, self.nbytes(region) if len(self.blocks(region)) > 1 else 0)

"""The recipe: a lazy array that can produce any region of itself.

A recipe is one step over its parents. It declares the parents' regions that a region depends on
(``dependencies``) and computes the region from their values (``compute``). The module
``lazyvol.plan.evaluate`` evaluates all steps in order, each once. Two kinds are evaluated by
``fetch`` instead: leaves, which have no parents, and streaming recipes, which evaluate their
parents tile by tile so that no more than a tile is in memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from lazyvol.plan import regions
from lazyvol.plan.regions import Region

if TYPE_CHECKING:
    from lazyvol.plan.recipes.leaves import Foreign, InputBlocks

Array = np.ndarray[Any, np.dtype[Any]]
T = TypeVar("T")


@runtime_checkable
class Source(Protocol):
    """Stored data that can be read region by region; provided by a format reader.

    A source is small and picklable: it holds the path and layout of the bytes, never the bytes, an
    open file or a memory map. ``read`` may be called from many threads and processes at once.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    #: the unit of storage: reading part of a chunk costs as much as reading the whole chunk
    chunks: tuple[int, ...]
    #: deterministic: equal stored data give an equal token, a changed file another one
    token: str

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Return a native-endian, C-contiguous, writable copy of one region (slices with step 1).

        If ``out`` is not None (contiguous, of the region's shape and the source's dtype), the
        values are written to it: decoding into fresh memory is slower (page faults: 0.6 against 9
        GB/s).
        """

    def stored_bytes(self, region: Region) -> int:
        """Return the bytes that reading ``region`` moves from the store, before decoding."""

    def peak_bytes(self, region: Region) -> int:
        """Return the peak memory of ``read`` in bytes, its result included."""


@dataclass(frozen=True)
class Cost:
    """The cost of one region: bytes read from stores, and peak memory in bytes."""

    read: int = 0
    peak: int = 0


#: number of a parent, and its region that is needed
Dependency = tuple[int, Region]


class Recipe:
    """A lazy array that can produce any region of itself, as one step over its parents.

    ``preferred_chunk`` is the cheapest box to request (the stored chunk below it), a length per
    axis. Callers must not write to the values that a recipe returns. Every recipe that a recipe
    refers to is among its ``parents``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    preferred_chunk: tuple[int, ...]
    parents: tuple["Recipe", ...]
    #: True if ``fetch`` evaluates the parents itself, tile by tile
    is_streaming: ClassVar[bool] = False

    @cached_property
    def token(self) -> str:
        """Name that is equal for equal computations on equal data."""
        raise NotImplementedError

    @property
    def parent(self) -> "Recipe":
        """The first parent, of most recipes the only one."""
        return self.parents[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def component_axes(self) -> int:
        """Number of trailing axes that vary slowest in memory: each component is a whole volume."""
        return 0

    @property
    def minimum_region(self) -> tuple[int, ...]:
        """Lengths of the smallest box; computing less takes no less memory."""
        return (1,) * self.ndim

    @property
    def segment_lengths(self) -> tuple[int, ...]:
        """Lengths, along each axis, of the arrays in memory that the values are views of.

        A region within one segment is a view, a region across two is copied. 0 means no limit.
        """
        return (0,) * self.ndim

    def nbytes(self, region: Region) -> int:
        """Return the bytes of the values in ``region``."""
        return regions.size(region) * self.dtype.itemsize

    # evaluation of a step -------------------------------------------------------------------

    def dependencies(self, region: Region) -> list[Dependency]:
        """Return the regions of parents that ``region`` needs."""
        return []

    def compute(self, region: Region, inputs: Sequence[Array], out: Array | None = None) -> Array:
        """Return the values of ``region``; ``inputs`` are those of its ``dependencies``, in order.

        The result may be written to ``out``.
        """
        raise NotImplementedError

    def working_bytes(self, region: Region) -> int:
        """Return the bytes that ``compute`` allocates: its result and its scratch memory."""
        return self.nbytes(region)

    def is_view(self, region: Region) -> bool:
        """Return True if ``compute`` returns a view of its only input."""
        return False

    def output_for_parent(self, region: Region, out: Array) -> Array | None:
        """Return the view of ``out`` to which the only parent may write, or None.

        ``compute`` then returns a view of the parent's values, which already are in ``out``.
        """
        return None

    # inputs that are assembled in one buffer, one by one: no two of them are in memory at once

    def assembly_buffer(self, region: Region, out: Array | None = None) -> Array | None:
        """Return memory for all inputs, or None if ``compute`` takes them as they are.

        With a buffer, ``compute`` gets the buffer as its only input.
        """
        return None

    def assembly_bytes(self, region: Region) -> int:
        """Return the bytes of the assembly buffer; 0 if there is none."""
        return 0

    def insert(self, region: Region, buffer: Array, number: int, values: Array) -> None:
        """Write the values of ``dependencies(region)[number]`` to the assembly buffer."""
        raise NotImplementedError

    # evaluation of a leaf or of a streaming recipe ------------------------------------------

    def fetch(self, region: Region, blocks: "InputBlocks", out: Array | None = None) -> Array:
        """Return the values of ``region``; ``blocks`` are those of foreign arrays."""
        raise NotImplementedError

    def cost(self, region: Region) -> Cost:
        """Return the cost of ``fetch``."""
        raise NotImplementedError

    # the graph of recipes -------------------------------------------------------------------

    @cached_property
    def height(self) -> int:
        """Number of steps in the longest chain down to a leaf."""
        return 1 + max((p.height for p in self.parents), default=0)

    @cached_property
    def _foreign(self) -> frozenset["Foreign"]:
        return frozenset().union(*(p._foreign for p in self.parents))

    @property
    def foreign(self) -> list["Foreign"]:
        """Leaves that are foreign dask arrays, each name once, in a fixed order."""
        return sorted({leaf.name: leaf for leaf in self._foreign}.values(), key=lambda f: f.name)

    def with_parents(self, parents: tuple["Recipe", ...]) -> "Recipe":
        """Return a copy of this step over other parents."""
        recipe: Recipe = replace(self, parents=parents)  # type: ignore[type-var]
        return recipe

    def pickled_fields(self) -> dict[str, Any]:
        """Return the fields that a task needs, without the parents."""
        fields = {n: v for n, v in self.__dict__.items() if not n.startswith("_")}
        fields.pop("parents", None)
        return fields

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the upper steps as a flat list; lower segments are pickled on their own.

        Nested pickles of a chain of a thousand steps exceed the recursion limit. Segments end at
        multiples of PICKLED_STEPS, so that the recipes of one graph share their lower segments.
        """
        lowest = (self.height - 1) // PICKLED_STEPS * PICKLED_STEPS
        nodes, numbers = topological_order(self, lowest)
        flat = [
            node if node.height <= lowest and node is not self
            else (type(node), node.pickled_fields(), [numbers[id(p)] for p in node.parents])
            for node in nodes
        ]  # fmt: skip
        return _unpickle, (flat,)


class Leaf(Recipe):
    """A recipe without parents."""

    parents = ()


#: steps that are pickled as one flat list
PICKLED_STEPS = 32


def _unpickle(flat: Sequence[Any]) -> Recipe:
    nodes: list[Recipe] = []
    for item in flat:
        if isinstance(item, Recipe):
            nodes.append(item)
            continue
        cls, fields, parents = item
        node = object.__new__(cls)
        node.__dict__.update(fields, parents=tuple(nodes[n] for n in parents))
        nodes.append(node)
    return nodes[-1]


def topological_order(root: Recipe, lowest: int = 0) -> tuple[list[Recipe], dict[int, int]]:
    """Return the recipes below ``root``, parents before children, and their numbers by object id.

    ``root`` is the last. Recipes of equal tokens share one number. Recipes up to the height
    ``lowest`` are included, their parents are not.
    """
    nodes: list[Recipe] = []
    numbers: dict[int, int] = {}
    by_token: dict[Any, int] = {}
    stack = [(root, False)]
    while stack:
        node, parents_done = stack.pop()
        if id(node) in numbers:
            continue
        key = node.__dict__.get("token", id(node))
        if key in by_token:
            numbers[id(node)] = by_token[key]
        elif parents_done or (lowest and node.height <= lowest and node is not root):
            numbers[id(node)] = by_token[key] = len(nodes)
            nodes.append(node)
        else:
            stack.append((node, True))
            stack += [(p, False) for p in reversed(node.parents) if id(p) not in numbers]
    return nodes, numbers


def steps_above(root: Recipe, is_base: Callable[[Recipe], bool]) -> Iterator[Recipe]:
    """Yield the recipes from ``root`` down to those that are a base, each once."""
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if not is_base(node):
            stack += node.parents


def cache_properties(recipe: Recipe) -> Recipe:
    """Compute the cached properties of a recipe and its parents, from the leaves up.

    Without it, the first access at the top of a long chain would recurse through the whole chain.
    Recipes that are cached already are not visited again.
    """
    stack = [recipe]
    while stack:
        node = stack[-1]
        uncached = [p for p in node.parents if "_cached" not in p.__dict__]
        if uncached and "_cached" not in node.__dict__:
            stack += uncached
            continue
        node.__dict__["_cached"] = (node.height, node._foreign, node.preferred_chunk, node.token)
        stack.pop()
    return recipe


def leaves(recipe: Recipe) -> Iterator[Recipe]:
    """Yield the leaves of a recipe: stored, in memory, foreign or generated."""
    return (node for node in topological_order(recipe)[0] if not node.parents)


#: values that a process keeps, and the bytes of the largest that it keeps
SHARED_VALUES, LARGEST_SHARED = 8, 1 << 20


class Shared(Generic[T]):
    """A value for the arguments of many tasks: pickled once, and unpickled once per process.

    It must not change. A scheduler receives every task as a separate pickle. To pickle a recipe
    takes 0.5 ms, to load it 0.2 ms: more than the scheduler's own work per task.
    """

    __slots__ = ("_pickled", "value")

    def __init__(self, value: T, pickled: bytes | None = None) -> None:
        self.value, self._pickled = value, pickled

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pickled is None:
            from distributed.protocol.pickle import dumps  # includes functions of a notebook

            self._pickled = dumps(self.value)
        return _shared_value, (self._pickled,)


_recent: OrderedDict[bytes, Shared[Any]] = OrderedDict()
_lock = Lock()


def _shared_value(pickled: bytes) -> Shared[Any]:
    """Return the value of a pickle; tasks of a process share it while it is kept."""
    with _lock:
        shared = _recent.get(pickled)
        if shared is not None:
            _recent.move_to_end(pickled)
            return shared
    from distributed.protocol.pickle import loads

    shared = Shared(loads(pickled), pickled)
    if len(pickled) <= LARGEST_SHARED:
        with _lock:
            _recent[pickled] = shared
            while len(_recent) > SHARED_VALUES:
                _recent.popitem(last=False)
    return shared

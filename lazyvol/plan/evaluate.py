"""Evaluation: every step below a region once, parents first, without recursion.

A region of a recipe needs regions of its parents, and these need regions of theirs. Several
regions of one step are merged into their hull if the hull is no larger than their sum. So a chain
of n steps costs n steps however often they refer to each other: ``s + 0.1 * laplace(s)``, repeated,
needs ``s`` with and without a halo, which is one hull. Values are freed after their last use. The
same schedule, run on byte counts instead of arrays, gives the cost of a region beforehand.

A task evaluates one region with one BLAS thread, and returns values that are safe to keep.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lazyvol.plan import regions
from lazyvol.plan.execution import single_blas_thread
from lazyvol.plan.recipes.base import Array, Cost, Recipe, Shared, leaves, topological_order
from lazyvol.plan.recipes.leaves import (
    BlockRefs,
    Foreign,
    InMemory,
    InputBlocks,
    input_blocks,
    receives_blocks,
)
from lazyvol.plan.regions import Region

#: number of a step, and of one of its boxes
Place = tuple[int, int]


class Use(NamedTuple):
    """One input of a box: the box that contains it, and the input's region."""

    place: Place
    region: Region


class Allocate(NamedTuple):
    """Allocate the assembly buffer of a box."""

    place: Place


class Insert(NamedTuple):
    """Write one input to the assembly buffer of a box."""

    place: Place
    number: int
    use: Use


class Compute(NamedTuple):
    """Compute or fetch a box; its inputs are ready."""

    place: Place


@dataclass
class Requirements:
    """The boxes to compute of every step, the inputs of each box, and how often each is used."""

    boxes: list[list[Region]]
    uses: dict[Place, list[Use]]
    use_counts: dict[Place, int]


class Program:
    """The steps below a recipe in their order of evaluation; the last is the recipe itself."""

    def __init__(self, root: Recipe) -> None:
        self.nodes, numbers = topological_order(root)
        self.parents = [tuple(numbers[id(p)] for p in node.parents) for node in self.nodes]

    def requirements(
        self, region: Region, through_streaming: bool = False, stop: int = -1
    ) -> Requirements:
        """Return the boxes of every step that ``region`` needs, and their uses.

        Parents of streaming recipes are included with ``through_streaming``. The step number
        ``stop`` is treated as a leaf.
        """
        boxes: list[list[Region]] = [[] for _ in self.nodes]
        boxes[-1].append(region)
        uses: dict[Place, list[Use]] = {}
        use_counts: dict[Place, int] = {}
        for n in reversed(range(len(self.nodes))):
            node, parents = self.nodes[n], self.parents[n]
            if n == stop or (node.is_streaming and not through_streaming):
                continue
            for b, box in enumerate(boxes[n]):
                uses[n, b] = [
                    Use((parents[number], _add_box(boxes[parents[number]], part)), part)
                    for number, part in node.dependencies(box)
                ]
                for use in uses[n, b]:
                    use_counts[use.place] = use_counts.get(use.place, 0) + 1
        return Requirements(boxes, uses, use_counts)

    def schedule(self, required: Requirements) -> Iterator[Allocate | Insert | Compute]:
        """Yield the actions depth first: one input with all below it before the next input."""
        computed: set[Place] = set()
        stack: list[list[Any]] = [[(len(self.nodes) - 1, 0), 0, None]]
        while stack:
            frame = stack[-1]
            place, number, has_buffer = frame
            if has_buffer is None:
                frame[2] = has_buffer = self._has_buffer(place, required)
                if has_buffer:
                    yield Allocate(place)
            uses = required.uses.get(place, ())
            if number == len(uses):
                yield Compute(place)
                computed.add(place)
                stack.pop()
            elif uses[number].place in computed:
                if has_buffer:
                    yield Insert(place, number, uses[number])
                frame[1] += 1
            else:
                stack.append([uses[number].place, 0, None])

    def _has_buffer(self, place: Place, required: Requirements) -> bool:
        n, b = place
        return place in required.uses and self.nodes[n].assembly_bytes(required.boxes[n][b]) > 0

    def foreign_blocks(self, region: Region) -> dict[Any, tuple[Foreign, Region]]:
        """Return the blocks of dask arrays below ``region``: their keys, arrays and regions."""
        required = self.requirements(region, through_streaming=True)
        return {
            (node.name, *index): (node, block)
            for node, boxes in zip(self.nodes, required.boxes, strict=True)
            if isinstance(node, Foreign)
            for box in boxes
            for index, block in node.blocks_in(box)
        }


class _Run:
    """One evaluation: the values that are still needed."""

    def __init__(
        self, program: Program, required: Requirements, blocks: InputBlocks, out: Array | None
    ) -> None:
        self.program, self.required, self.blocks = program, required, blocks
        self.uses_left = dict(required.use_counts)
        self.values_of: dict[Place, Array] = {}
        self.buffers: dict[Place, Array] = {}
        self.outputs: dict[Place, Array] = {}
        if out is not None:
            self._pass_down((len(program.nodes) - 1, 0), out)

    def _pass_down(self, place: Place, out: Array) -> None:
        """Pass ``out`` through views down to the step that computes the values."""
        while True:
            self.outputs[place] = out
            uses = self.required.uses.get(place, ())
            if len(uses) != 1 or self.uses_left[uses[0].place] != 1:
                return
            node, box = self._at(place)
            parent_out = node.output_for_parent(box, out)
            if parent_out is None or self._at(uses[0].place)[1] != uses[0].region:
                return
            place, out = uses[0].place, parent_out

    def _at(self, place: Place) -> tuple[Recipe, Region]:
        n, b = place
        return self.program.nodes[n], self.required.boxes[n][b]

    def values(self) -> Array:
        place: Place = (0, 0)
        for action in self.program.schedule(self.required):
            place = action.place
            node, box = self._at(place)
            if isinstance(action, Compute):
                self.values_of[place] = self._compute(place, node, box)
            elif isinstance(action, Insert):
                node.insert(box, self.buffers[place], action.number, self._take(action.use))
            elif (buffer := node.assembly_buffer(box, self.outputs.get(place))) is not None:
                self.buffers[place] = buffer
        return self.values_of[place]

    def _compute(self, place: Place, node: Recipe, box: Region) -> Array:
        out = self.outputs.get(place)
        if place not in self.required.uses or not node.parents:
            return node.fetch(box, self.blocks, out)
        if place in self.buffers:
            return node.compute(box, [self.buffers.pop(place)], out)
        return node.compute(box, [self._take(use) for use in self.required.uses[place]], out)

    def _take(self, use: Use) -> Array:
        """Return one input; free its box after the last use."""
        values, box = self.values_of[use.place], self._at(use.place)[1]
        self.uses_left[use.place] -= 1
        if not self.uses_left[use.place]:
            del self.values_of[use.place]
        return values if use.region == box else values[regions.relative(use.region, box)]


class _CostRun:
    """One evaluation in byte counts: the memory in use after every action, and its maximum."""

    def __init__(self, program: Program, required: Requirements) -> None:
        self.program, self.required = program, required
        self.uses_left = dict(required.use_counts)
        self.owner: dict[Place, Place] = {}
        self.sizes: dict[Place, int] = {}
        self.in_use = self.peak = self.read = 0

    def cost(self) -> Cost:
        for action in self.program.schedule(self.required):
            n, b = action.place
            node, box = self.program.nodes[n], self.required.boxes[n][b]
            if isinstance(action, Allocate):
                self._allocate(node.assembly_bytes(box))
            elif isinstance(action, Insert):
                self._release(action.use)
            else:
                self._compute(action.place, node, box)
        return Cost(self.read, self.peak)

    def _allocate(self, amount: int, remaining: int | None = None) -> None:
        """Count ``amount`` more bytes, of which ``remaining`` stay in use."""
        self.peak = max(self.peak, self.in_use + amount)
        self.in_use += amount if remaining is None else remaining

    def _release(self, use: Use) -> None:
        owner = self.owner[use.place]
        self.uses_left[owner] -= 1
        if not self.uses_left[owner]:
            self.in_use -= self.sizes[owner]

    def _compute(self, place: Place, node: Recipe, box: Region) -> None:
        uses = self.required.uses.get(place)
        self.owner[place] = place
        if uses is None or not node.parents:
            cost = node.cost(box)
            self.read += cost.read
            self.sizes[place] = min(cost.peak, node.nbytes(box))
            self._allocate(cost.peak, self.sizes[place])
        elif buffer := node.assembly_bytes(box):
            self.sizes[place] = node.nbytes(box)
            self._allocate(node.working_bytes(box), self.sizes[place] - buffer)
        elif node.is_view(box) and uses:
            # the array below a view stays in memory as long as the view is used
            self.owner[place] = owner = self.owner[uses[0].place]
            self.uses_left[owner] += self.uses_left.get(place, 1) - 1
        else:
            self.sizes[place] = node.nbytes(box)
            self._allocate(node.working_bytes(box), self.sizes[place])
            for use in uses:
                self._release(use)


#: number of the latest boxes of a step that a new region is compared with: a list of thousands of
#: particles needs thousands of boxes, in order
COMPARED = 8


def _add_box(boxes: list[Region], region: Region) -> int:
    """Add a region to the boxes of a step: to one that contains it or is merged with it, or as a
    new one. Return the box's number."""
    for b in range(max(0, len(boxes) - COMPARED), len(boxes)):
        if regions.contains(boxes[b], region):
            return b
        hull = regions.hull(boxes[b], region)
        if regions.size(hull) <= regions.size(boxes[b]) + regions.size(region):
            boxes[b] = hull
            return b
    boxes.append(region)
    return len(boxes) - 1


def program_of(recipe: Recipe) -> Program:
    """Return the program of a recipe, built once."""
    program: Program | None = recipe.__dict__.get("_program")
    if program is None:
        program = recipe.__dict__["_program"] = Program(recipe)
    return program


def evaluate(
    recipe: Recipe, region: Region, blocks: InputBlocks, out: Array | None = None
) -> Array:
    """Return the values of a region of a recipe, which may be written to ``out``."""
    if recipe.is_streaming or not recipe.parents:
        return recipe.fetch(region, blocks, out)
    program = program_of(recipe)
    return _Run(program, program.requirements(region), blocks, out).values()


def region_cost(recipe: Recipe, region: Region) -> Cost:
    """Return the cost of ``evaluate``: the bytes that are read, and the peak memory."""
    if recipe.is_streaming or not recipe.parents:
        return recipe.cost(region)
    program = program_of(recipe)
    return _CostRun(program, program.requirements(region)).cost()


def foreign_bytes(recipe: Recipe, region: Region) -> int:
    """Return the bytes of the foreign blocks that a task on ``region`` receives.

    Blocks that are in memory before the run are not counted.
    """
    if not receives_blocks(recipe):
        return 0
    blocks = program_of(recipe).foreign_blocks(region).values()
    return sum(leaf.nbytes(box) for leaf, box in blocks if not leaf.in_memory)


# tasks ------------------------------------------------------------------------------------------


def run_block(recipe: Recipe, region: Region, refs: BlockRefs, blocks: Sequence[Array]) -> Array:
    """Run one task: compute the values of a region from stored data and the task's blocks."""
    with single_blas_thread():
        return owned_result(recipe, evaluate(recipe, region, input_blocks(refs, blocks)), blocks)


def run_shared(
    recipe: Shared[Recipe], region: Region, refs: BlockRefs, blocks: Sequence[Array]
) -> Array:
    """Run one of many tasks that share a pickled recipe."""
    return run_block(recipe.value, region, refs, blocks)


def owned_result(recipe: Recipe, values: Array, blocks: Sequence[Any] = ()) -> Array:
    """Cast a task's result to the declared dtype; copy it if it must not leave the task.

    A view of a larger buffer would keep the whole buffer in memory. A view of a user's array, or of
    one of the task's input ``blocks``, could be written to.
    """
    values = np.asarray(values, recipe.dtype)
    owner = values if values.base is None else values.base
    owns_memory = isinstance(owner, np.ndarray) and owner.nbytes <= values.nbytes
    is_safe = owns_memory and not _is_input(owner, recipe, blocks)
    return values if is_safe and is_dense(values) else values.copy("K")


def _is_input(owner: Array, recipe: Recipe, blocks: Sequence[Any]) -> bool:
    """Return True if memory belongs to an input array of a task."""
    inputs = [leaf.values for leaf in leaves(recipe) if isinstance(leaf, InMemory)]
    inputs += [b for b in blocks if isinstance(b, np.ndarray)]
    return any(np.may_share_memory(owner, a) for a in inputs)


def is_dense(values: Array) -> bool:
    """Return True if values are contiguous in memory, in any order of their axes."""
    return bool(values.transpose(memory_order(values)).flags.c_contiguous)


def memory_order(values: Array) -> list[int]:
    """Return the axes from the slowest in memory to the fastest."""
    return sorted(range(values.ndim), key=lambda axis: -values.strides[axis])

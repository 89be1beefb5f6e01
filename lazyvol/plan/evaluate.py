"""Evaluation: every step behind a region once, parents first, without recursion.

A region of a recipe needs regions of its parents, these of theirs. Regions that are asked of one
step are joined to their hull where that is no larger than they are together, so that a chain of n
steps costs n steps however often they refer to each other (``s + 0.1 * laplace(s)``, again and
again, needs the regions of ``s`` and of ``s`` with a halo: one hull). Values are freed after their
last use. The same schedule is played with numbers to say beforehand what a region costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array, Cost, Foreign, Given, Recipe, ordered
from lazyvol.plan.regions import Region

#: number of a step, and of one of its boxes
Place = tuple[int, int]


class Use(NamedTuple):
    """A part of a box: the box it is taken from, and the part's region."""

    place: Place
    region: Region


class Open(NamedTuple):
    """Make room for a box whose parts are put in one by one."""

    place: Place


class Put(NamedTuple):
    """Put one part into the room of a box."""

    place: Place
    number: int
    use: Use


class Make(NamedTuple):
    """Make or fetch a box; its parts are ready."""

    place: Place


@dataclass
class Demand:
    """The boxes that are made of every step, the parts each takes, and how often each serves."""

    boxes: list[list[Region]]
    uses: dict[Place, list[Use]]
    served: dict[Place, int]


class Program:
    """The steps behind a recipe in the order they are evaluated; the last is the recipe."""

    def __init__(self, root: Recipe) -> None:
        self.nodes, numbers = ordered(root)
        self.parents = [tuple(numbers[id(p)] for p in node.parents) for node in self.nodes]

    def demand(self, region: Region, through: bool = False, stop: int = -1) -> Demand:
        """What ``region`` needs of every step; ``through`` looks below those that stream.

        Nothing is asked of what is below the step number ``stop``.
        """
        boxes: list[list[Region]] = [[] for _ in self.nodes]
        boxes[-1].append(region)
        uses: dict[Place, list[Use]] = {}
        served: dict[Place, int] = {}
        for n in reversed(range(len(self.nodes))):
            node, parents = self.nodes[n], self.parents[n]
            if n == stop or (node.streams and not through):
                continue
            for b, box in enumerate(boxes[n]):
                uses[n, b] = [
                    Use((parents[number], _include(boxes[parents[number]], want)), want)
                    for number, want in node.wants(box)
                ]
                for use in uses[n, b]:
                    served[use.place] = served.get(use.place, 0) + 1
        return Demand(boxes, uses, served)

    def schedule(self, demand: Demand) -> Iterator[Open | Put | Make]:
        """Depth first: a parent's parents are done with before the next parent begins."""
        made: set[Place] = set()
        stack: list[list[Any]] = [[(len(self.nodes) - 1, 0), 0, None]]
        while stack:
            frame = stack[-1]
            place, at, roomy = frame
            if roomy is None:
                frame[2] = roomy = self._has_room(place, demand)
                if roomy:
                    yield Open(place)
            uses = demand.uses.get(place, ())
            if at == len(uses):
                yield Make(place)
                made.add(place)
                stack.pop()
            elif uses[at].place in made:
                if roomy:
                    yield Put(place, at, uses[at])
                frame[1] += 1
            else:
                stack.append([uses[at].place, 0, None])

    def _has_room(self, place: Place, demand: Demand) -> bool:
        n, b = place
        return place in demand.uses and self.nodes[n].room_bytes(demand.boxes[n][b]) > 0

    def run(self, region: Region, given: Given, out: Array | None = None) -> Array:
        """Values of ``region``; ``out`` is memory that may be used for them."""
        root = self.nodes[-1]
        if root.streams or not root.parents:
            return root.fetch(region, given, out)
        return _Run(self, self.demand(region), given, out).values()

    def cost(self, region: Region) -> Cost:
        """Price of ``region``: bytes read, and the most that is held at once."""
        root = self.nodes[-1]
        if root.streams or not root.parents:
            return root.cost(region)
        return _Account(self, self.demand(region)).total()

    def foreign_blocks(self, region: Region) -> dict[Any, tuple[Foreign, Region]]:
        """Blocks of dask arrays that ``region`` rests on: their keys, arrays and regions."""
        demand = self.demand(region, through=True)
        return {
            (node.name, *index): (node, box)
            for node, boxes in zip(self.nodes, demand.boxes, strict=True)
            if isinstance(node, Foreign)
            for want in boxes
            for index, box in node.blocks(want)
        }


class _Run:
    """One evaluation: the values that are still needed."""

    def __init__(self, program: Program, demand: Demand, given: Given, out: Array | None) -> None:
        self.program, self.demand, self.given = program, demand, given
        self.left = dict(demand.served)
        self.held: dict[Place, Array] = {}
        self.rooms: dict[Place, Array] = {}
        self.lent: dict[Place, Array] = {}
        if out is not None:
            self._lend((len(program.nodes) - 1, 0), out)

    def _lend(self, place: Place, out: Array) -> None:
        """Hand memory down to the step whose values are its own seen otherwise."""
        while True:
            self.lent[place] = out
            uses = self.demand.uses.get(place, ())
            if len(uses) != 1 or self.left[uses[0].place] != 1:
                return
            node, box = self._at(place)
            below = node.lend(box, out)
            if below is None or self._at(uses[0].place)[1] != uses[0].region:
                return
            place, out = uses[0].place, below

    def _at(self, place: Place) -> tuple[Recipe, Region]:
        n, b = place
        return self.program.nodes[n], self.demand.boxes[n][b]

    def values(self) -> Array:
        place: Place = (0, 0)
        for action in self.program.schedule(self.demand):
            place = action.place
            node, box = self._at(place)
            if isinstance(action, Make):
                self.held[place] = self._made(place, node, box)
            elif isinstance(action, Put):
                node.put(box, self.rooms[place], action.number, self._taken(action.use))
            elif (room := node.room(box, self.lent.get(place))) is not None:
                self.rooms[place] = room
        return self.held[place]

    def _made(self, place: Place, node: Recipe, box: Region) -> Array:
        out = self.lent.get(place)
        if place not in self.demand.uses or not node.parents:
            return node.fetch(box, self.given, out)
        if place in self.rooms:
            return node.make(box, [self.rooms.pop(place)], out)
        return node.make(box, [self._taken(use) for use in self.demand.uses[place]], out)

    def _taken(self, use: Use) -> Array:
        """A part of a box that is held; the box is freed after its last part."""
        whole, box = self.held[use.place], self._at(use.place)[1]
        self.left[use.place] -= 1
        if not self.left[use.place]:
            del self.held[use.place]
        return whole if use.region == box else whole[regions.relative(use.region, box)]


class _Account:
    """One evaluation in numbers: what is held after every action, and the most that was."""

    def __init__(self, program: Program, demand: Demand) -> None:
        self.program, self.demand = program, demand
        self.left = dict(demand.served)
        self.owner: dict[Place, Place] = {}
        self.sizes: dict[Place, int] = {}
        self.live = self.most = self.read = 0

    def total(self) -> Cost:
        for action in self.program.schedule(self.demand):
            n, b = action.place
            node, box = self.program.nodes[n], self.demand.boxes[n][b]
            if isinstance(action, Open):
                self._grow(node.room_bytes(box))
            elif isinstance(action, Put):
                self._release(action.use)
            else:
                self._make(action.place, node, box)
        return Cost(self.read, self.most)

    def _grow(self, amount: int, lasting: int | None = None) -> None:
        """Count ``amount`` bytes more, of which ``lasting`` stay."""
        self.most = max(self.most, self.live + amount)
        self.live += amount if lasting is None else lasting

    def _release(self, use: Use) -> None:
        owner = self.owner[use.place]
        self.left[owner] -= 1
        if not self.left[owner]:
            self.live -= self.sizes[owner]

    def _make(self, place: Place, node: Recipe, box: Region) -> None:
        uses = self.demand.uses.get(place)
        self.owner[place] = place
        if uses is None or not node.parents:
            cost = node.cost(box)
            self.read += cost.read
            self.sizes[place] = min(cost.peak, node.nbytes(box))
            self._grow(cost.peak, self.sizes[place])
        elif room := node.room_bytes(box):
            self.sizes[place] = node.nbytes(box)
            self._grow(node.working(box), self.sizes[place] - room)
        elif node.is_view(box) and uses:
            # what a view rests on stays as long as the view is used
            self.owner[place] = owner = self.owner[uses[0].place]
            self.left[owner] += self.left.get(place, 1) - 1
        else:
            self.sizes[place] = node.nbytes(box)
            self._grow(node.working(box), self.sizes[place])
            for use in uses:
                self._release(use)


def _contains(box: Region, region: Region) -> bool:
    return all(s.start <= t.start and t.stop <= s.stop for s, t in zip(box, region, strict=True))


#: boxes of one step that a further region is compared with; a list of thousands of particles
#: asks for as many, in their order
COMPARED = 8


def _include(boxes: list[Region], region: Region) -> int:
    """Number of the box that a region is added to: one that holds it or is joined, or its own."""
    for b in range(max(0, len(boxes) - COMPARED), len(boxes)):
        if _contains(boxes[b], region):
            return b
        hull = regions.hull(boxes[b], region)
        if regions.size(hull) <= regions.size(boxes[b]) + regions.size(region):
            boxes[b] = hull
            return b
    boxes.append(region)
    return len(boxes) - 1


def program_of(recipe: Recipe) -> Program:
    """The program of a recipe, made once."""
    found: Program | None = recipe.__dict__.get("_program")
    if found is None:
        found = recipe.__dict__["_program"] = Program(recipe)
    return found


def evaluate(recipe: Recipe, region: Region, given: Given, out: Array | None = None) -> Array:
    """Values of a region of a recipe; ``out`` is memory that may be used for them."""
    if recipe.streams or not recipe.parents:
        return recipe.fetch(region, given, out)
    return program_of(recipe).run(region, given, out)


def price(recipe: Recipe, region: Region) -> Cost:
    """What ``evaluate`` will cost."""
    return program_of(recipe).cost(region)


def foreign_bytes(recipe: Recipe, region: Region) -> int:
    """Bytes of the foreign blocks that a task on ``region`` is handed, beside those in memory."""
    if all(leaf.held for leaf in recipe.foreign):
        return 0
    blocks = program_of(recipe).foreign_blocks(region).values()
    return sum(leaf.nbytes(box) for leaf, box in blocks if not leaf.held)

"""What halos cost: how far those of a chain have grown, and whether saving a step would pay.

A task makes every step of a chain on its block and as much around it as the later steps need. Of
blocks that are small against the halo, most of what is made is made by the neighbours too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lazyvol.plan import regions
from lazyvol.plan.evaluate import Program, program_of
from lazyvol.plan.recipes.base import Recipe
from lazyvol.plan.recipes.stencil import Stencil
from lazyvol.plan.regions import Grid, Region

#: voxels made for each voxel that is needed, above which a plan mentions it
NOTICED = 1.25
#: steps that are tried as the one to save
TRIED = 8
#: what writing a voxel and reading it again costs, in steps of one voxel
STORED = 2.0


@dataclass(frozen=True)
class Halo:
    """A chain with a halo: its steps, the longest halo in voxels, and the voxels that are made
    for each one that is needed; the step to save and what is made then, where that would pay."""

    steps: int
    reach: int
    made: float
    save: int | None = None
    made_then: float = 0.0

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        text = f"halo of {self.reach} voxels after {steps}: {self.made:.3g} voxels made for each"
        text += " that is needed"
        if self.save is None:
            return text
        return (
            f"{text}; save the result of step {self.save} and go on from the file, "
            f"and it is {self.made_then:.3g}"
        )


def halo_of(recipe: Recipe, grid: Grid) -> Halo | None:
    """The halo of a typical block of ``grid``; None where it costs next to nothing."""
    program, block = program_of(recipe), _middle(grid)
    stencils = [n for n, node in enumerate(program.nodes) if _has_halo(node)]
    if not stencils or not regions.size(block):
        return None
    made, needed = _made(program, block), _needed(program, block)
    if made <= NOTICED * needed:
        return None
    reach = max(_reaches(program, block), default=0)
    best = min(_splits(program, stencils, block), default=None)
    if best is None or best[0] >= made:
        return Halo(len(stencils), reach, made / needed)
    return Halo(len(stencils), reach, made / needed, best[1], best[0] / needed)


def _has_halo(node: Recipe) -> bool:
    return isinstance(node, Stencil) and any(low or high for low, high in node.depth)


def _middle(grid: Grid) -> Region:
    """A block in the middle, where halos are not cut by borders."""
    return tuple(regions.spans(chunks)[len(chunks) // 2] for chunks in grid)


def _counts(node: Recipe) -> bool:
    """Return True for steps that make values; leaves are read, views cost nothing."""
    return bool(node.parents) and not node.is_view(regions.whole(node.shape))


def _made(program: Program, block: Region, below: int = -1) -> float:
    """Voxels made by all steps above ``below`` for one block."""
    boxes = program.demand(block, stop=below).boxes
    return float(
        sum(
            regions.size(box)
            for n, node in enumerate(program.nodes)
            if n != below and _counts(node)
            for box in boxes[n]
        )
    )


def _needed(program: Program, block: Region) -> float:
    """Voxels made for one block if no step were made twice anywhere."""
    share = regions.size(block) / max(1, prod(program.nodes[-1].shape))
    return share * sum(prod(node.shape) for node in program.nodes if _counts(node))


def _splits(program: Program, stencils: list[int], block: Region) -> Iterator[tuple[float, int]]:
    """Voxels made for one block where a step's result is saved and read again, and how many steps
    with a halo come up to there; for some of the steps that all later ones rest on."""
    stride = max(1, len(program.nodes) // TRIED)
    for n in range(stride, len(program.nodes) - 1, stride):
        cut = next((m for m in range(n, n + stride) if _is_cut(program, m, stencils, block)), None)
        if cut is not None:
            yield _split(program, cut, block), sum(m <= cut for m in stencils)


def _is_cut(program: Program, n: int, stencils: list[int], block: Region) -> bool:
    """Return True if no halo below a step is needed where its result is there."""
    if n >= len(program.nodes) - 1:
        return False
    node = program.nodes[n]
    if node.shape != program.nodes[-1].shape:
        return False
    boxes = program.demand(block, stop=n).boxes
    return bool(boxes[n]) and any(m <= n for m in stencils) and not any(
        boxes[m] for m in stencils if m < n
    )  # fmt: skip


def _split(program: Program, n: int, block: Region) -> float:
    above = _made(program, block, below=n)
    return above + _made(program_of(program.nodes[n]), block) + STORED * regions.size(block)


def _reaches(program: Program, block: Region) -> Iterator[int]:
    """Voxels by which the lowest steps reach beyond a block, along every axis."""
    demand = program.demand(block)
    for n, node in enumerate(program.nodes):
        if node.ndim == len(block) and node.shape == program.nodes[-1].shape:
            for box in demand.boxes[n]:
                yield from (
                    max(s.start - t.start, t.stop - s.stop) for s, t in zip(block, box, strict=True)
                )

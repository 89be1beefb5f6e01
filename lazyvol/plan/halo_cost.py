"""Redundant work from halos: how wide a chain's halo is, and whether saving a step would pay.

A task computes every step of a chain on its block and on a margin that the later steps need. If
blocks are small compared with the halo, most voxels are computed by several tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lazyvol.plan import regions
from lazyvol.plan.evaluate import Program, program_of
from lazyvol.plan.recipes.base import Recipe
from lazyvol.plan.recipes.stencil import Stencil
from lazyvol.plan.regions import Grid, Region

#: voxels computed per voxel needed above which a plan mentions the halo
NOTICEABLE = 1.25
#: number of steps that are tried as the step to save
TRIED = 8
#: cost of writing a voxel and reading it again, in steps of one voxel
STORED = 2.0


@dataclass(frozen=True)
class Halo:
    """A chain with a halo: number of stencil steps, halo in voxels, redundancy.

    ``redundancy`` is the number of voxels computed per voxel needed. ``save_step`` is the step
    whose result is worth saving, or None; ``redundancy_if_saved`` is the redundancy after that.
    """

    steps: int
    reach: int
    redundancy: float
    save_step: int | None = None
    redundancy_if_saved: float = 0.0

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        text = (
            f"halo of {self.reach} voxels after {steps}, {self.redundancy:.3g} voxels computed "
            "per voxel needed"
        )
        if self.save_step is None:
            return text
        return (
            f"{text} ({self.redundancy_if_saved:.3g} if you save the result of step "
            f"{self.save_step} and continue from the file)"
        )


def halo_of(recipe: Recipe, grid: Grid) -> Halo | None:
    """Return the halo of a typical block of ``grid``; None if it costs next to nothing."""
    program, block = program_of(recipe), _middle_block(grid)
    stencils = [n for n, node in enumerate(program.nodes) if _has_halo(node)]
    if not stencils or not regions.size(block):
        return None
    computed, needed = _computed(program, block), _needed(program, block)
    if computed <= NOTICEABLE * needed:
        return None
    reach = max(_reaches(program, block), default=0)
    best = min(_splits(program, stencils, block), default=None)
    if best is None or best[0] >= computed:
        return Halo(len(stencils), reach, computed / needed)
    return Halo(len(stencils), reach, computed / needed, best[1], best[0] / needed)


def _has_halo(node: Recipe) -> bool:
    return isinstance(node, Stencil) and any(low or high for low, high in node.depth)


def _middle_block(grid: Grid) -> Region:
    """Return a block in the middle, where borders do not cut halos."""
    return tuple(regions.chunk_slices(chunks)[len(chunks) // 2] for chunks in grid)


def _computes(node: Recipe) -> bool:
    """Return True for steps that compute values: not for leaves and views."""
    return bool(node.parents) and not node.is_view(regions.whole(node.shape))


def _computed(program: Program, block: Region, below: int = -1) -> float:
    """Return the voxels that all steps above step ``below`` compute for one block."""
    boxes = program.requirements(block, stop=below).boxes
    return float(
        sum(
            regions.size(box)
            for n, node in enumerate(program.nodes)
            if n != below and _computes(node)
            for box in boxes[n]
        )
    )


def _needed(program: Program, block: Region) -> float:
    """Return the voxels computed for one block if no voxel were computed twice anywhere."""
    fraction = regions.size(block) / max(1, prod(program.nodes[-1].shape))
    return fraction * sum(prod(node.shape) for node in program.nodes if _computes(node))


def _splits(program: Program, stencils: list[int], block: Region) -> Iterator[tuple[float, int]]:
    """Yield, for some of the steps that all later ones depend on, the voxels computed for one block
    if that step is saved and read again, and its number among the stencil steps."""
    stride = max(1, len(program.nodes) // TRIED)
    for n in range(stride, len(program.nodes) - 1, stride):
        candidates = (m for m in range(n, n + stride) if _is_cut(program, m, stencils, block))
        cut = next(candidates, None)
        if cut is not None:
            yield _split_cost(program, cut, block), sum(m <= cut for m in stencils)


def _is_cut(program: Program, n: int, stencils: list[int], block: Region) -> bool:
    """Return True if no stencil below step ``n`` is needed once its result is available."""
    if n >= len(program.nodes) - 1 or program.nodes[n].shape != program.nodes[-1].shape:
        return False
    boxes = program.requirements(block, stop=n).boxes
    below = [m for m in stencils if m < n]
    has_stencil = bool(below) or n in stencils
    return bool(boxes[n]) and has_stencil and not any(boxes[m] for m in below)


def _split_cost(program: Program, n: int, block: Region) -> float:
    above = _computed(program, block, below=n)
    return above + _computed(program_of(program.nodes[n]), block) + STORED * regions.size(block)


def _reaches(program: Program, block: Region) -> Iterator[int]:
    """Yield the voxels by which the boxes of all steps extend beyond a block, along every axis."""
    required = program.requirements(block)
    for n, node in enumerate(program.nodes):
        if node.ndim == len(block) and node.shape == program.nodes[-1].shape:
            for box in required.boxes[n]:
                yield from (
                    max(s.start - t.start, t.stop - s.stop) for s, t in zip(block, box, strict=True)
                )

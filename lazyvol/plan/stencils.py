"""Stencil recipes: grow the region, read the parent, fill the border, run the kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.borders import Mode, pieces, sources
from lazyvol.plan.recipe import Array, Cost, Given, Recipe
from lazyvol.plan.regions import Region


@dataclass(frozen=True, eq=False)
class Stencil(Recipe):
    """``kernel(grown) -> interior`` over the parent.

    ``depth`` is the halo before and after each axis, of any length; ``mode`` says what lies
    beyond the array. Two modes leave it out: ``"valid"`` keeps only voxels whose halo lies inside,
    ``"clip"`` ends the halo at the border and calls ``kernel(grown, halo)`` with its lengths.
    An element of the result stands for ``step`` elements of the parent along each axis;
    ``sizes`` are the lengths of axes that the kernel adds at the end. A ``placed`` kernel is told
    next the region of the result that it makes; one that ``fills`` takes memory for its result as
    ``out``, contiguous (each of its planes, where there are ``planes``), or None.
    """

    kernel: Callable[..., Array]
    parent: Recipe
    depth: tuple[tuple[int, int], ...]
    mode: Mode | str
    dtype: np.dtype[Any]
    fill: float = 0.0
    scratch: float = 0.0
    step: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    placed: bool = False
    fills: bool = False
    planes: int = 0

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """``step``, 1 along every axis where none is given."""
        return self.step or (1,) * self.parent.ndim

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        shape = self.parent.shape
        if self.mode == "valid":
            inner = zip(shape, self.depth, self.steps, strict=True)
            return (*(max(0, n - lo - hi) // s for n, (lo, hi), s in inner), *self.sizes)
        return (*(-(-n // s) for n, s in zip(shape, self.steps, strict=True)), *self.sizes)

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        own = zip(self.parent.grain, self.shape, self.steps, strict=False)
        return (*(max(1, min(-(-g // s), n)) for g, n, s in own), *self.sizes)

    @cached_property
    def token(self) -> str:
        options = (
            self.depth, self.mode, str(self.dtype), self.fill, self.steps, self.sizes, self.placed
        )  # fmt: skip
        return str(tokenize("stencil", self.kernel, self.parent.token, options))

    @property
    def parents(self) -> tuple[Recipe, ...]:
        return (self.parent,)

    def _core(self, region: Region) -> Region:
        """The parent's elements that ``region`` stands for, in the parent's positions.

        Of the ``"valid"`` result the first element lies where its halo begins.
        """
        own = zip(region, self.parent.shape, self.steps, strict=False)
        return tuple(slice(r.start * s, max(r.start * s, min(r.stop * s, n))) for r, n, s in own)

    def _grown(self, region: Region) -> Region:
        core = zip(self._core(region), self.depth, self.parent.shape, strict=True)
        if self.mode == "valid":
            return tuple(slice(s.start, s.stop + lo + hi) for s, (lo, hi), _ in core)
        if self.mode == "clip":
            return tuple(
                slice(max(0, s.start - lo), min(n, s.stop + hi)) for s, (lo, hi), n in core
            )
        return tuple(slice(s.start - lo, s.stop + hi) for s, (lo, hi), _ in core)

    def _halo(self, region: Region) -> tuple[tuple[int, int], ...]:
        """Length of the halo before and after each axis, as far as it got."""
        pairs = zip(self._grown(region), self._core(region), strict=True)
        return tuple((core.start - g.start, g.stop - core.stop) for g, core in pairs)

    def _reads(self, grown: Region) -> list[tuple[Region, Region]]:
        mode: Any = "nearest" if self.mode in ("valid", "clip") else self.mode
        axes = [pieces(s, n, mode) for s, n in zip(grown, self.parent.shape, strict=True)]
        return [
            (tuple(p for p, _ in combo), tuple(q for _, q in combo)) for combo in product(*axes)
        ]

    def wants(self, region: Region) -> list[tuple[Recipe, Region]]:
        return [(self.parent, stored) for _, stored in self._reads(self._grown(region))]

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        if regions.size(region) == 0:
            return np.empty(regions.lengths(region), self.dtype)
        block = self._filled(self._grown(region), given)
        told: tuple[Any, ...] = (self._halo(region),) if self.mode == "clip" else ()
        told += (region[: self.parent.ndim],) if self.placed else ()
        new: Any = region[self.parent.ndim :]
        if all(s == slice(0, n) for s, n in zip(new, self.sizes, strict=True)):
            filled = {"out": out} if self.fills else {}
            return np.asarray(self.kernel(block, *told, **filled), self.dtype)
        return np.asarray(self.kernel(block, *told), self.dtype)[(..., *new)]

    def _filled(self, grown: Region, given: Given) -> Array:
        """The parent on ``grown``, what lies outside it continued by the mode."""
        reads = self._reads(grown)
        if _is_whole(reads, grown):
            return self.parent.read(reads[0][1], given)
        block = np.empty(regions.lengths(grown), self.parent.dtype)
        for place, stored in reads:
            block[place] = self.parent.read(stored, given)
        for axis, span in enumerate(grown):
            self._continue(block, axis, span)
        return block

    def _continue(self, block: Array, axis: int, span: slice) -> None:
        """Fill the positions of one axis that lie outside the parent; axes before are done."""
        if self.mode in ("wrap", "valid", "clip"):
            return
        places, copied = sources(span, self.parent.shape[axis], self.mode)  # type: ignore[arg-type]
        lead: tuple[Any, ...] = (slice(None),) * axis
        if places and self.mode == "constant":
            block[(*lead, places)] = self.fill
        elif places:
            block[(*lead, places)] = block[(*lead, copied)]

    def cost(self, region: Region) -> Cost:
        grown = self._grown(region)
        reads = self._reads(grown)
        costs = [self.parent.cost(stored) for _, stored in reads]
        held = self.parent.dtype.itemsize * regions.size(grown)
        made = self.nbytes((*region[: self.parent.ndim], *(slice(0, n) for n in self.sizes)))
        working = 2 * held + made + int(self.scratch * regions.size(grown))
        reading = max(c.peak for c in costs) + (0 if _is_whole(reads, grown) else held)
        return Cost(sum(c.read for c in costs), max(working, reading))


def _is_whole(reads: Sequence[tuple[Region, Region]], grown: Region) -> bool:
    """Whether the parent's one stored region is all of the grown one."""
    return len(reads) == 1 and regions.lengths(reads[0][1]) == regions.lengths(grown)


@dataclass(frozen=True, eq=False)
class Generated(Recipe):
    """Values from position alone: ``kernel(region) -> block``, the same for any blocks."""

    kernel: Callable[[Region], Array]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scratch: float = 0.0

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return (1,) * len(self.shape)

    @cached_property
    def token(self) -> str:
        return str(tokenize("generated", self.kernel, self.shape, str(self.dtype)))

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        return np.asarray(self.kernel(region), self.dtype)

    def cost(self, region: Region) -> Cost:
        return Cost(0, self.nbytes(region) + int(self.scratch * regions.size(region)))

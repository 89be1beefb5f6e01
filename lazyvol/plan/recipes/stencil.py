"""Stencil recipes: grow the region, read the parent, fill the border, run the kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array, Cost, Given, Leaf, Recipe, Want
from lazyvol.plan.recipes.borders import Mode, pieces, sources
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
    parents: tuple[Recipe]
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

    @property
    def parent(self) -> Recipe:
        """The recipe whose neighbourhoods are taken."""
        return self.parents[0]

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

    def wants(self, region: Region) -> list[Want]:
        if regions.size(region) == 0:
            return []
        return [(0, stored) for _, stored in self._reads(self._grown(region))]

    def room(self, region: Region, out: Array | None = None) -> Array | None:
        return np.empty(regions.lengths(self._grown(region)), self.parent.dtype)

    def room_bytes(self, region: Region) -> int:
        grown = self._grown(region)
        if regions.size(region) == 0 or _is_whole(self._reads(grown), grown):
            return 0
        return self.parent.nbytes(grown)

    def put(self, region: Region, room: Array, number: int, part: Array) -> None:
        room[self._reads(self._grown(region))[number][0]] = part

    def make(self, region: Region, parts: Sequence[Array], out: Array | None = None) -> Array:
        if regions.size(region) == 0:
            return np.empty(regions.lengths(region), self.dtype)
        grown, block = self._grown(region), parts[0]
        if not _is_whole(self._reads(grown), grown):
            for axis, span in enumerate(grown):
                self._continue(block, axis, span)
        told: tuple[Any, ...] = (self._halo(region),) if self.mode == "clip" else ()
        told += (region[: self.parent.ndim],) if self.placed else ()
        new: Any = region[self.parent.ndim :]
        if all(s == slice(0, n) for s, n in zip(new, self.sizes, strict=True)):
            filled = {"out": out} if self.fills else {}
            return np.asarray(self.kernel(block, *told, **filled), self.dtype)
        return np.asarray(self.kernel(block, *told), self.dtype)[(..., *new)]

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

    def working(self, region: Region) -> int:
        """The result, the kernel's memory, and a copy of the grown block."""
        grown = regions.size(self._grown(region))
        made = self.nbytes((*region[: self.parent.ndim], *(slice(0, n) for n in self.sizes)))
        return self.parent.dtype.itemsize * grown + made + int(self.scratch * grown)


def _is_whole(reads: Sequence[tuple[Region, Region]], grown: Region) -> bool:
    """Whether the parent's one stored region is all of the grown one."""
    return len(reads) == 1 and regions.lengths(reads[0][1]) == regions.lengths(grown)


@dataclass(frozen=True, eq=False)
class Generated(Leaf):
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

    def fetch(self, region: Region, given: Given, out: Array | None = None) -> Array:
        return np.asarray(self.kernel(region), self.dtype)

    def cost(self, region: Region) -> Cost:
        return Cost(0, self.nbytes(region) + int(self.scratch * regions.size(region)))

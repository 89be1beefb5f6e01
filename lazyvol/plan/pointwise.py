"""Blockwise recipes: one kernel on the same region of several parents."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipe import Array, Cost, Given, Recipe
from lazyvol.plan.regions import Region


@dataclass(frozen=True, eq=False)
class Blockwise(Recipe):
    """``kernel(*blocks)`` on the blocks of its parents that stand behind a region.

    ``axes`` says, for each axis of each parent, which axis of the result it runs along, or None
    where the kernel takes it whole. ``entire`` are axes of the result that the kernel makes
    whole. A parent axis of length 1 is broadcast. ``scratch`` is the kernel's own memory in
    bytes per element of the first parent's block.
    """

    kernel: Callable[..., Array]
    above: tuple[Recipe, ...]
    axes: tuple[tuple[int | None, ...], ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    entire: frozenset[int] = frozenset()
    scratch: float = 0.0

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        found = [1] * len(self.shape)
        for parent, axes in zip(self.above, self.axes, strict=True):
            for own, axis in enumerate(axes):
                if axis is not None:
                    found[axis] = max(found[axis], parent.grain[own])
        return tuple(
            self.shape[a] if a in self.entire else max(1, min(g, self.shape[a]))
            for a, g in enumerate(found)
        )

    @property
    def least(self) -> tuple[int, ...]:
        return tuple(n if a in self.entire else 1 for a, n in enumerate(self.shape))

    @cached_property
    def token(self) -> str:
        tokens = [p.token for p in self.above]
        made = (self.axes, self.shape, str(self.dtype))
        return str(tokenize("blockwise", self.kernel, tokens, made))

    @property
    def parents(self) -> tuple[Recipe, ...]:
        return self.above

    def _made(self, region: Region) -> Region:
        return tuple(
            slice(0, n) if a in self.entire else s
            for a, (s, n) in enumerate(zip(region, self.shape, strict=True))
        )

    def wants(self, region: Region) -> list[tuple[Recipe, Region]]:
        made = self._made(region)
        return [
            (parent, tuple(_along(made, a, n) for a, n in zip(axes, parent.shape, strict=True)))
            for parent, axes in zip(self.above, self.axes, strict=True)
        ]

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        blocks = [parent.read(part, given) for parent, part in self.wants(region)]
        made = np.asarray(self.kernel(*blocks), self.dtype)
        whole = self._made(region)
        return made if whole == region else made[regions.relative(region, whole)]

    def cost(self, region: Region) -> Cost:
        parts = self.wants(region)
        costs = [parent.cost(part) for parent, part in parts]
        blocks = [parent.nbytes(part) for parent, part in parts]
        working = sum(blocks) + self.nbytes(self._made(region))
        working += int(self.scratch * max(regions.size(part) for _, part in parts))
        # one parent after the other: those already read are held, their own temporaries are gone
        before = accumulate(blocks, initial=0)
        reading = max(held + c.peak for held, c in zip(before, costs, strict=False))
        return Cost(sum(c.read for c in costs), max(working, reading))


def _along(region: Region, axis: int | None, length: int) -> slice:
    if axis is None or length == 1:
        return slice(0, length)
    return region[axis]

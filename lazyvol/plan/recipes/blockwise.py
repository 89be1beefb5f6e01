"""Blockwise recipes: one kernel on the same region of several parents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array, Recipe, Want
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
    parents: tuple[Recipe, ...]
    axes: tuple[tuple[int | None, ...], ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    entire: frozenset[int] = frozenset()
    scratch: float = 0.0

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        found = [1] * len(self.shape)
        for parent, axes in zip(self.parents, self.axes, strict=True):
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
        tokens = [p.token for p in self.parents]
        made = (self.axes, self.shape, str(self.dtype))
        return str(tokenize("blockwise", self.kernel, tokens, made))

    def _made(self, region: Region) -> Region:
        return tuple(
            slice(0, n) if a in self.entire else s
            for a, (s, n) in enumerate(zip(region, self.shape, strict=True))
        )

    def wants(self, region: Region) -> list[Want]:
        made = self._made(region)
        return [
            (n, tuple(self._along(made, a, m) for a, m in zip(axes, parent.shape, strict=True)))
            for n, (parent, axes) in enumerate(zip(self.parents, self.axes, strict=True))
        ]

    def _along(self, region: Region, axis: int | None, length: int) -> slice:
        """Stretch of a parent's axis behind a region: all of one that is taken whole or broadcast.

        An axis of length 1 that is not broadcast may be asked for nothing.
        """
        if axis is None or (length == 1 and self.shape[axis] != 1):
            return slice(0, length)
        return region[axis]

    def make(self, region: Region, parts: Sequence[Array], out: Array | None = None) -> Array:
        made = np.asarray(self.kernel(*parts), self.dtype)
        whole = self._made(region)
        return made if whole == region else made[regions.relative(region, whole)]

    def working(self, region: Region) -> int:
        largest = max(regions.size(part) for _, part in self.wants(region))
        return self.nbytes(self._made(region)) + int(self.scratch * largest)

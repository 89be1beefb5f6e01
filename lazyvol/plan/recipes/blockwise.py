"""The blockwise recipe: one kernel on corresponding regions of several parents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array, Dependency, Recipe
from lazyvol.plan.regions import Region


@dataclass(frozen=True, eq=False)
class Blockwise(Recipe):
    """``kernel(*blocks)`` on the parents' blocks of a region.

    ``axes`` gives, for each axis of each parent, the corresponding axis of the result, or None if
    the kernel takes that axis whole. ``whole_axes`` are axes of the result that the kernel always
    computes whole. A parent axis of length 1 is broadcast. ``scratch`` is the kernel's own memory
    in bytes per element of the largest input block.
    """

    kernel: Callable[..., Array]
    parents: tuple[Recipe, ...]
    axes: tuple[tuple[int | None, ...], ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    whole_axes: frozenset[int] = frozenset()
    scratch: float = 0.0

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        chunk = [1] * len(self.shape)
        for parent, axes in zip(self.parents, self.axes, strict=True):
            for parent_axis, axis in enumerate(axes):
                if axis is not None:
                    chunk[axis] = max(chunk[axis], parent.preferred_chunk[parent_axis])
        return tuple(
            self.shape[a] if a in self.whole_axes else max(1, min(n, self.shape[a]))
            for a, n in enumerate(chunk)
        )

    @property
    def minimum_region(self) -> tuple[int, ...]:
        return tuple(n if a in self.whole_axes else 1 for a, n in enumerate(self.shape))

    @cached_property
    def token(self) -> str:
        tokens = [p.token for p in self.parents]
        options = (self.axes, self.shape, str(self.dtype))
        return str(tokenize("blockwise", self.kernel, tokens, options))

    def _computed(self, region: Region) -> Region:
        """Return the region that the kernel computes: whole along ``whole_axes``."""
        return tuple(
            slice(0, n) if a in self.whole_axes else s
            for a, (s, n) in enumerate(zip(region, self.shape, strict=True))
        )

    def dependencies(self, region: Region) -> list[Dependency]:
        computed = self._computed(region)
        return [
            (number, tuple(
                self._parent_span(computed, axis, n)
                for axis, n in zip(axes, parent.shape, strict=True)
            ))
            for number, (parent, axes) in enumerate(zip(self.parents, self.axes, strict=True))
        ]  # fmt: skip

    def _parent_span(self, region: Region, axis: int | None, length: int) -> slice:
        """Return the span of a parent's axis: the whole axis if it is needed whole or broadcast.

        An axis of length 1 that is not broadcast may be asked for an empty span.
        """
        if axis is None or (length == 1 and self.shape[axis] != 1):
            return slice(0, length)
        return region[axis]

    def compute(self, region: Region, inputs: Sequence[Array], out: Array | None = None) -> Array:
        block = np.asarray(self.kernel(*inputs), self.dtype)
        computed = self._computed(region)
        return block if computed == region else block[regions.relative(region, computed)]

    def working_bytes(self, region: Region) -> int:
        largest = max(regions.size(part) for _, part in self.dependencies(region))
        return self.nbytes(self._computed(region)) + int(self.scratch * largest)

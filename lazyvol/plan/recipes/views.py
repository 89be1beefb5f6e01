"""Recipes that only rearrange: axes in another order, and selections of a parent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array, Dependency, Recipe
from lazyvol.plan.regions import Region

#: for each axis of a result, the parent's axis, or None for a new axis of length 1
AxisOrder = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Transposed(Recipe):
    """The parent with its axes in another order and with new axes of length 1."""

    parents: tuple[Recipe]
    axes: AxisOrder

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(1 if a is None else self.parent.shape[a] for a in self.axes)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(1 if a is None else self.parent.preferred_chunk[a] for a in self.axes)

    @property
    def segment_lengths(self) -> tuple[int, ...]:
        return tuple(0 if a is None else self.parent.segment_lengths[a] for a in self.axes)

    @cached_property
    def token(self) -> str:
        return str(tokenize("transposed", self.parent.token, self.axes))

    @property
    def order(self) -> list[int]:
        """The parent's axes in their new order."""
        return [a for a in self.axes if a is not None]

    def _parent_region(self, region: Region) -> Region:
        spans = {a: s for a, s in zip(self.axes, region, strict=True) if a is not None}
        return tuple(spans[a] for a in range(self.parent.ndim))

    def dependencies(self, region: Region) -> list[Dependency]:
        return [(0, self._parent_region(region))]

    def output_for_parent(self, region: Region, out: Array) -> Array | None:
        if self.order != sorted(self.order):
            return None
        return out.reshape(regions.lengths(self._parent_region(region)))

    def compute(self, region: Region, inputs: Sequence[Array], out: Array | None = None) -> Array:
        new_axes = tuple(None if a is None else slice(None) for a in self.axes)
        return inputs[0].transpose(self.order)[new_axes]

    def is_view(self, region: Region) -> bool:
        return True


def transposed(parent: Recipe, axes: Sequence[int | None]) -> Recipe:
    """Return the parent with permuted axes; the parent itself if their order is unchanged."""
    if tuple(axes) == tuple(range(parent.ndim)):
        return parent
    return Transposed((parent,), tuple(axes))


#: the selection along one axis: one index, a range with any step, or a list
Pick = int | range | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Selected(Recipe):
    """A selection of the parent: per axis one index (the axis is dropped), a range, or a list."""

    parents: tuple[Recipe]
    picks: tuple[Pick, ...]
    kept: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        kept = tuple(i for i, p in enumerate(self.picks) if not isinstance(p, int))
        object.__setattr__(self, "kept", kept)

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(1 if isinstance(p := self.picks[a], int) else len(p) for a in self.kept)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        chunk = self.parent.preferred_chunk
        return tuple(
            max(1, chunk[a] // abs(p.step)) if isinstance(p := self.picks[a], range) else 1
            for a in self.kept
        )

    @cached_property
    def token(self) -> str:
        return str(tokenize("selected", self.parent.token, self.picks))

    @cached_property
    def _index(self) -> tuple[Any, ...]:
        """Index of the selected elements within a stored stretch of the parent."""
        return tuple(
            0 if isinstance(p, int) else slice(None, None, p.step if isinstance(p, range) else 1)
            for p in self.picks
        )

    @cached_property
    def _has_unit_steps(self) -> bool:
        """True if every element of a stored stretch is selected, in order."""
        return all(not isinstance(p, range) or p.step == 1 for p in self.picks)

    def _reads(self, region: Region) -> list[tuple[Region, Region]]:
        """Return pairs of (place in ``region``, with all of the parent's axes; stored region).

        Those of the last region are remembered: every insertion asks for them.
        """
        last = self.__dict__.get("_last")
        if last is None or last[0] != region:
            last = self.__dict__["_last"] = (region, self._find_reads(region))
        pairs: list[tuple[Region, Region]] = last[1]
        return pairs

    def _find_reads(self, region: Region) -> list[tuple[Region, Region]]:
        spans = dict(zip(self.kept, region, strict=True))
        chunk = self.parent.preferred_chunk
        axes = [_stretches(p, spans.get(a), chunk[a]) for a, p in enumerate(self.picks)]
        return [
            (tuple(place for place, _ in combo), tuple(stored for _, stored in combo))
            for combo in product(*axes)
        ]

    def dependencies(self, region: Region) -> list[Dependency]:
        return [(0, stored) for _, stored in self._reads(region)]

    def output_for_parent(self, region: Region, out: Array) -> Array | None:
        if not self._has_unit_steps:
            return None
        return out.reshape(regions.lengths(self._reads(region)[0][1]))

    def assembly_buffer(self, region: Region, out: Array | None = None) -> Array | None:
        return np.empty(regions.lengths(region), self.dtype) if out is None else out

    def assembly_bytes(self, region: Region) -> int:
        return self.nbytes(region) if len(self._reads(region)) > 1 else 0

    def insert(self, region: Region, buffer: Array, number: int, values: Array) -> None:
        place = self._reads(region)[number][0]
        buffer[tuple(place[a] for a in self.kept)] = values[self._index]

    def compute(self, region: Region, inputs: Sequence[Array], out: Array | None = None) -> Array:
        if not regions.size(region):  # there may be several reads, and no buffer for them
            return np.empty(regions.lengths(region), self.dtype)
        if self.assembly_bytes(region):
            return inputs[0]
        if self._has_unit_steps and len(self.kept) == len(self.picks):
            return inputs[0]
        values: Array = inputs[0][self._index]
        return values

    def is_view(self, region: Region) -> bool:
        return not self.assembly_bytes(region)

    def working_bytes(self, region: Region) -> int:
        return 0


#: up to as many distant elements are read one by one, even from one stored chunk
FEW = 4


def _stretches(pick: Pick, span: slice | None, chunk: int) -> list[tuple[slice, slice]]:
    """Return the reads of a ``span`` of one selected axis: (place in the span, stored slice)."""
    if isinstance(pick, int):
        return [(slice(0, 1), slice(pick, pick + 1))]
    if span is None or span.stop <= span.start:
        return [(slice(0, 0), slice(0, 0))]
    if isinstance(pick, range):
        ends, stride = (pick[span.start], pick[span.stop - 1]), abs(pick.step)
        if stride > 1 and (stride >= chunk or span.stop - span.start <= FEW):
            return [(slice(n, n + 1), slice(p, p + 1)) for n, p in enumerate(pick[span])]
        return [(slice(0, span.stop - span.start), slice(min(ends), max(ends) + 1))]
    pairs, place = [], 0
    for start, stop in regions.runs(pick[span]):
        pairs.append((slice(place, place + stop - start), slice(start, stop)))
        place += stop - start
    return pairs

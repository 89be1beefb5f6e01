"""Recipes that rearrange: axes in another order, and selections of a parent."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipe import Array, Cost, Given, Recipe
from lazyvol.plan.regions import Region


@dataclass(frozen=True, eq=False)
class Aligned(Recipe):
    """The parent with its axes in another order and with new axes of length 1.

    ``axes`` names, for each axis of the result, the parent's axis, or None for a new one.
    """

    parent: Recipe
    axes: tuple[int | None, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(1 if a is None else self.parent.shape[a] for a in self.axes)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(1 if a is None else self.parent.grain[a] for a in self.axes)

    @property
    def pieces(self) -> tuple[int, ...]:
        return tuple(0 if a is None else self.parent.pieces[a] for a in self.axes)

    @cached_property
    def token(self) -> str:
        return str(tokenize("aligned", self.parent.token, self.axes))

    @property
    def parents(self) -> tuple[Recipe, ...]:
        return (self.parent,)

    def _below(self, region: Region) -> Region:
        place = {a: s for a, s in zip(self.axes, region, strict=True) if a is not None}
        return tuple(place[a] for a in range(self.parent.ndim))

    def wants(self, region: Region) -> list[tuple[Recipe, Region]]:
        return [(self.parent, self._below(region))]

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        order = [a for a in self.axes if a is not None]
        if order != sorted(order) or out is None:
            values = self.parent.read(self._below(region), given)
        else:
            flat = out.reshape(regions.lengths(self._below(region)))
            values = self.parent.read(self._below(region), given, flat)
        return values.transpose(order)[tuple(None if a is None else slice(None) for a in self.axes)]

    def cost(self, region: Region) -> Cost:
        return self.parent.cost(self._below(region))


#: what one axis of a selection keeps: one index, a slice with a positive step, or a list
Pick = int | slice | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sliced(Recipe):
    """A selection of the parent: per axis one index (the axis goes), a slice, or a list."""

    parent: Recipe
    picks: tuple[Pick, ...]
    kept: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        kept = tuple(i for i, p in enumerate(self.picks) if not isinstance(p, int))
        object.__setattr__(self, "kept", kept)

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(_picked(self.picks[a], self.parent.shape[a]) for a in self.kept)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(
            max(1, self.parent.grain[a] // p.step) if isinstance(p := self.picks[a], slice) else 1
            for a in self.kept
        )

    @cached_property
    def token(self) -> str:
        return str(tokenize("sliced", self.parent.token, self.picks))

    @property
    def parents(self) -> tuple[Recipe, ...]:
        return (self.parent,)

    def _reads(self, region: Region) -> list[list[tuple[slice, slice]]]:
        """Per parent axis: pairs of (place in the region's own axis, stored stretch)."""
        spans = dict(zip(self.kept, region, strict=True))
        return [_stretches(p, spans.get(a)) for a, p in enumerate(self.picks)]

    def _parts(self, region: Region) -> Iterator[tuple[Region, Region]]:
        for combo in _product(self._reads(region)):
            yield tuple(place for place, _ in combo), tuple(stored for _, stored in combo)

    def wants(self, region: Region) -> list[tuple[Recipe, Region]]:
        return [(self.parent, stored) for _, stored in self._parts(region)]

    def read(self, region: Region, given: Given, out: Array | None = None) -> Array:
        parts = list(self._parts(region))
        step = tuple(
            0 if isinstance(p, int) else slice(None, None, p.step if isinstance(p, slice) else 1)
            for p in self.picks
        )
        if len(parts) == 1:
            unit = all(not isinstance(p, slice) or p.step == 1 for p in self.picks)
            into = _shaped(out, regions.lengths(parts[0][1])) if unit else None
            values = self.parent.read(parts[0][1], given, into)
            return values if unit and len(self.kept) == len(self.picks) else values[step]
        found = np.empty(regions.lengths(region), self.dtype) if out is None else out
        for place, stored in parts:
            target = tuple(place[a] for a in self.kept)
            found[target] = self.parent.read(stored, given)[step]
        return found

    def cost(self, region: Region) -> Cost:
        costs = [self.parent.cost(stored) for _, stored in self._parts(region)]
        own = self.nbytes(region) if len(costs) > 1 else 0
        return Cost(sum(c.read for c in costs), max((c.peak for c in costs), default=0) + own)


def _shaped(out: Array | None, shape: tuple[int, ...]) -> Array | None:
    return None if out is None else out.reshape(shape)


def _product(
    axes: list[list[tuple[slice, slice]]],
) -> Iterator[tuple[tuple[slice, slice], ...]]:
    if not axes:
        yield ()
        return
    for head in axes[0]:
        for tail in _product(axes[1:]):
            yield (head, *tail)


def _picked(pick: Pick, length: int) -> int:
    if isinstance(pick, slice):
        return len(range(*pick.indices(length)))
    return 1 if isinstance(pick, int) else len(pick)


def _stretches(pick: Pick, span: slice | None) -> list[tuple[slice, slice]]:
    """Stored stretches behind ``span`` of one picked axis, with their places in the result."""
    if isinstance(pick, int):
        return [(slice(0, 1), slice(pick, pick + 1))]
    if span is None or span.stop <= span.start:
        return [(slice(0, 0), slice(0, 0))]
    if isinstance(pick, slice):
        first = pick.start + span.start * pick.step
        last = pick.start + (span.stop - 1) * pick.step
        return [(slice(0, span.stop - span.start), slice(first, last + 1))]
    found, at = [], 0
    for start, stop in regions.runs(pick[span]):
        found.append((slice(at, at + stop - start), slice(start, stop)))
        at += stop - start
    return found

"""Recipes that rearrange: axes in another order, and selections of a parent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array, Recipe, Want
from lazyvol.plan.regions import Region


@dataclass(frozen=True, eq=False)
class Aligned(Recipe):
    """The parent with its axes in another order and with new axes of length 1.

    ``axes`` names, for each axis of the result, the parent's axis, or None for a new one.
    """

    parents: tuple[Recipe]
    axes: tuple[int | None, ...]

    @property
    def parent(self) -> Recipe:
        """The recipe whose axes are turned."""
        return self.parents[0]

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

    def _below(self, region: Region) -> Region:
        place = {a: s for a, s in zip(self.axes, region, strict=True) if a is not None}
        return tuple(place[a] for a in range(self.parent.ndim))

    def wants(self, region: Region) -> list[Want]:
        return [(0, self._below(region))]

    def lend(self, region: Region, out: Array) -> Array | None:
        order = [a for a in self.axes if a is not None]
        if order != sorted(order):
            return None
        return out.reshape(regions.lengths(self._below(region)))

    def make(self, region: Region, parts: Sequence[Array], out: Array | None = None) -> Array:
        order = [a for a in self.axes if a is not None]
        new = tuple(None if a is None else slice(None) for a in self.axes)
        return parts[0].transpose(order)[new]

    def is_view(self, region: Region) -> bool:
        return True


def aligned(parent: Recipe, axes: Sequence[int | None]) -> Recipe:
    """The parent with its axes turned; itself where they are in their order already."""
    if tuple(axes) == tuple(range(parent.ndim)):
        return parent
    return Aligned((parent,), tuple(axes))


#: what one axis of a selection keeps: one index, a range with any step, or a list
Pick = int | range | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sliced(Recipe):
    """A selection of the parent: per axis one index (the axis goes), a range, or a list."""

    parents: tuple[Recipe]
    picks: tuple[Pick, ...]
    kept: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        kept = tuple(i for i, p in enumerate(self.picks) if not isinstance(p, int))
        object.__setattr__(self, "kept", kept)

    @property
    def parent(self) -> Recipe:
        """The recipe that is selected from."""
        return self.parents[0]

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(1 if isinstance(p := self.picks[a], int) else len(p) for a in self.kept)

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.parent.dtype

    @cached_property
    def grain(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(
            max(1, self.parent.grain[a] // abs(p.step)) if isinstance(p := self.picks[a], range)
            else 1
            for a in self.kept
        )  # fmt: skip

    @cached_property
    def token(self) -> str:
        return str(tokenize("sliced", self.parent.token, self.picks))

    @cached_property
    def _step(self) -> tuple[Any, ...]:
        """Index that takes the picked elements out of a stretch of the parent."""
        return tuple(
            0 if isinstance(p, int) else slice(None, None, p.step if isinstance(p, range) else 1)
            for p in self.picks
        )

    @cached_property
    def _is_plain(self) -> bool:
        """Whether every element of a stretch is picked, in its order."""
        return all(not isinstance(p, range) or p.step == 1 for p in self.picks)

    def _parts(self, region: Region) -> list[tuple[Region, Region]]:
        """Pairs of (region within ``region``, one axis for each of the parent; stored stretch).

        Those of the last region are remembered: every part of it asks for them.
        """
        last = self.__dict__.get("_last")
        if last is None or last[0] != region:
            last = self.__dict__["_last"] = (region, self._made_parts(region))
        parts: list[tuple[Region, Region]] = last[1]
        return parts

    def _made_parts(self, region: Region) -> list[tuple[Region, Region]]:
        spans = dict(zip(self.kept, region, strict=True))
        axes = [_stretches(p, spans.get(a), self.parent.grain[a]) for a, p in enumerate(self.picks)]
        return [
            (tuple(place for place, _ in combo), tuple(stored for _, stored in combo))
            for combo in _product(axes)
        ]

    def wants(self, region: Region) -> list[Want]:
        return [(0, stored) for _, stored in self._parts(region)]

    def lend(self, region: Region, out: Array) -> Array | None:
        if not self._is_plain:
            return None
        return out.reshape(regions.lengths(self._parts(region)[0][1]))

    def room(self, region: Region, out: Array | None = None) -> Array | None:
        return np.empty(regions.lengths(region), self.dtype) if out is None else out

    def room_bytes(self, region: Region) -> int:
        return self.nbytes(region) if len(self._parts(region)) > 1 else 0

    def put(self, region: Region, room: Array, number: int, part: Array) -> None:
        place = self._parts(region)[number][0]
        room[tuple(place[a] for a in self.kept)] = part[self._step]

    def make(self, region: Region, parts: Sequence[Array], out: Array | None = None) -> Array:
        if not regions.size(region):  # several parts, and no room to put them into
            return np.empty(regions.lengths(region), self.dtype)
        if self.room_bytes(region):
            return parts[0]
        if self._is_plain and len(self.kept) == len(self.picks):
            return parts[0]
        values: Array = parts[0][self._step]
        return values

    def is_view(self, region: Region) -> bool:
        return not self.room_bytes(region)

    def working(self, region: Region) -> int:
        return 0


def _product(
    axes: list[list[tuple[slice, slice]]],
) -> Iterator[tuple[tuple[slice, slice], ...]]:
    if not axes:
        yield ()
        return
    for head in axes[0]:
        for tail in _product(axes[1:]):
            yield (head, *tail)


#: elements far apart that are read one by one, though each may decode the same stored chunk
FEW = 4


def _stretches(pick: Pick, span: slice | None, grain: int) -> list[tuple[slice, slice]]:
    """Stored stretches behind ``span`` of one picked axis, with their places in the result."""
    if isinstance(pick, int):
        return [(slice(0, 1), slice(pick, pick + 1))]
    if span is None or span.stop <= span.start:
        return [(slice(0, 0), slice(0, 0))]
    if isinstance(pick, range):
        ends, far = (pick[span.start], pick[span.stop - 1]), abs(pick.step)
        if far > 1 and (far >= grain or span.stop - span.start <= FEW):
            return [(slice(n, n + 1), slice(p, p + 1)) for n, p in enumerate(pick[span])]
        return [(slice(0, span.stop - span.start), slice(min(ends), max(ends) + 1))]
    found, at = [], 0
    for start, stop in regions.runs(pick[span]):
        found.append((slice(at, at + stop - start), slice(start, stop)))
        at += stop - start
    return found

"""Streams: a fold bound to its data, and how one task walks through its box with one state."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, TypeAlias

import numpy as np

from lazyvol.plan import regions
from lazyvol.plan.evaluate import evaluate, price
from lazyvol.plan.recipes.base import Array, Cost, Given, Recipe
from lazyvol.plan.reductions.partition import Cut
from lazyvol.plan.regions import Region

State: TypeAlias = dict[str, Array]


@dataclass(frozen=True)
class Output:
    """One array that a fold gives: its dtype, and the dims it has beside the kept ones."""

    dtype: np.dtype[Any]
    dims: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fold:
    """A streaming reduction as a value.

    ``start(shape)`` makes the state of kept elements: named arrays that begin with ``shape``.
    ``update(state, axes, *blocks)`` takes in one tile, in place: the blocks have all axes, of
    which ``axes`` are to be reduced. ``combine(s, t)`` merges two states, free to reuse ``s``.
    ``finish(state)`` gives the outputs. Updating in place costs one read and one write of the
    state per tile; merging a fresh state per tile would cost four times the data.

    ``state_bytes`` and ``finish_bytes`` (what ``finish`` takes, its outputs included) are bytes per
    kept element, ``scratch`` bytes per element of a tile that ``update`` takes beside its blocks.
    """

    start: Callable[[tuple[int, ...]], State]
    update: Callable[..., None]
    combine: Callable[[State, State], State]
    finish: Callable[[State], Mapping[str, Array]]
    outputs: Mapping[str, Output]
    state_bytes: int
    finish_bytes: int = 0
    scratch: float = 0.0

    @property
    def output_bytes(self) -> int:
        """Bytes of all outputs per kept element."""
        return sum(out.dtype.itemsize * prod(out.sizes) for out in self.outputs.values())


def together(*folds: tuple[Fold, Sequence[int]]) -> Fold:
    """Several folds in one read, each with the numbers of the operands that it takes."""
    parts = tuple(f for f, _ in folds)
    return Fold(
        start=partial(_start_all, folds=parts),
        update=partial(_update_all, folds=tuple((f, tuple(taken)) for f, taken in folds)),
        combine=partial(_combine_all, folds=parts),
        finish=partial(_finish_all, folds=parts),
        outputs={name: out for f in parts for name, out in f.outputs.items()},
        state_bytes=sum(f.state_bytes for f in parts),
        finish_bytes=sum(f.finish_bytes for f in parts),
        scratch=max(f.scratch for f in parts),
    )


def _start_all(shape: tuple[int, ...], *, folds: Sequence[Fold]) -> State:
    return {f"{n} {name}": v for n, f in enumerate(folds) for name, v in f.start(shape).items()}


def _of(state: State, n: int) -> State:
    """The state of one of several folds: the same arrays under its own names."""
    return {name.partition(" ")[2]: v for name, v in state.items() if name.startswith(f"{n} ")}


def _update_all(
    state: State, axes: Sequence[int], *blocks: Array, folds: Sequence[tuple[Fold, Sequence[int]]]
) -> None:
    for n, (fold, taken) in enumerate(folds):
        fold.update(_of(state, n), axes, *(blocks[i] for i in taken))


def _combine_all(a: State, b: State, *, folds: Sequence[Fold]) -> State:
    return {
        f"{n} {name}": v
        for n, f in enumerate(folds)
        for name, v in f.combine(_of(a, n), _of(b, n)).items()
    }


def _finish_all(state: State, *, folds: Sequence[Fold]) -> dict[str, Array]:
    return {name: v for n, f in enumerate(folds) for name, v in f.finish(_of(state, n)).items()}


@dataclass(frozen=True, eq=False)
class Stream:
    """A fold bound to its operands: what every task of it holds.

    Operands have the axes of the data, of length 1 where they do not vary.
    """

    fold: Fold
    operands: tuple[Recipe, ...]
    reduced: frozenset[int]
    cut: Cut

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(*(o.shape for o in self.operands))

    @cached_property
    def kept(self) -> tuple[int, ...]:
        return tuple(a for a in range(len(self.shape)) if a not in self.reduced)

    def part(self, operand: Recipe, tile: Region) -> Region:
        """The region of one operand behind a tile."""
        return tuple(slice(0, 1) if n == 1 else s for s, n in zip(tile, operand.shape, strict=True))

    def tiles(self, box: Region) -> Iterable[Region]:
        """Tiles of a task's box, cut on the stored grid of the largest operand."""
        largest = max(self.operands, key=lambda o: prod(o.shape))
        return regions.tiles(box, self.cut.tile, largest.grain)

    def run(self, box: Region, given: Given) -> State:
        """State of one task: walk through its box, reading a tile at a time."""
        state = self.fold.start(tuple(box[a].stop - box[a].start for a in self.kept))
        readers = [_Reused(operand) for operand in self.operands]
        for tile in self.tiles(box):
            blocks = [r.read(self.part(r.recipe, tile), given) for r in readers]
            place = tuple(regions.relative(tile, box)[a] for a in self.kept)
            self._update(state, (*place, ...), blocks)
        return state

    def outputs(self, box: Region, given: Given) -> dict[str, Array]:
        """Finished arrays of a task that has all of its kept block: a tile's width at a time.

        The state is then that of one tile, not of the block: memory never touched before costs
        more than the arithmetic (0.5 GB in memory: 0.3 s with whole states, 0.1 s so).
        """
        kept = [box[a].stop - box[a].start for a in self.kept]
        found = {
            name: np.empty((*kept, *out.sizes), out.dtype)
            for name, out in self.fold.outputs.items()
        }
        for part in self._columns(box):
            inside = regions.relative(part, box)
            place: Any = (*(inside[a] for a in self.kept), ...)
            for name, values in finished_state(self.fold, self.run(part, given)).items():
                found[name][place] = values
        return found

    def _columns(self, box: Region) -> Iterable[Region]:
        """Parts of a box that are whole along the reduced axes and as wide as a tile."""
        grain = max(self.operands, key=lambda o: prod(o.shape)).grain
        lengths = regions.lengths(box)
        whole = [a in self.reduced for a in range(len(lengths))]
        step = [n if w else t for n, w, t in zip(lengths, whole, self.cut.tile, strict=True)]
        return regions.tiles(box, step, [1 if w else g for w, g in zip(whole, grain, strict=True)])

    def _update(self, state: State, place: Any, blocks: Sequence[Array]) -> None:
        """Update the part of the state that a tile touches; kernels get it contiguous."""
        views = {name: values[place] for name, values in state.items()}
        parts = {name: np.ascontiguousarray(v).reshape(v.shape) for name, v in views.items()}
        self.fold.update(parts, tuple(sorted(self.reduced)), *blocks)
        for name, part in parts.items():
            if not np.shares_memory(part, views[name]):
                views[name][...] = part

    def cost(self, box: Region) -> Cost:
        """Bytes a task reads, and its peak: state, tile of every operand, scratch."""
        tiles = list(self.tiles(box))
        parts = [[price(o, self.part(o, t)) for t in tiles] for o in self.operands]
        kept = prod(box[a].stop - box[a].start for a in self.kept)
        most = max((regions.size(t) for t in tiles), default=0)
        peak = sum(max((c.peak for c in costs), default=0) for costs in parts)
        peak += int(self.fold.scratch * most)
        wide, held = kept, 0
        if segments(self) == 1:  # finished column by column
            columns = (regions.lengths(c) for c in self._columns(box))
            wide = max(prod(c[a] for a in self.kept) for c in columns)
            held = self.fold.output_bytes * kept
        working = self.fold.state_bytes * wide + max(peak, self.fold.finish_bytes * wide) + held
        return Cost(_read_once(self.operands, parts), working)


def _read_once(operands: Sequence[Recipe], parts: Sequence[Sequence[Cost]]) -> int:
    """Bytes read: an operand smaller than the data is kept between tiles, so it counts once."""
    largest = max(prod(o.shape) for o in operands)
    return sum(
        sum(c.read for c in costs)
        if prod(o.shape) == largest
        else max((c.read for c in costs), default=0)
        for o, costs in zip(operands, parts, strict=True)
    )


class _Reused:
    """One operand of a task: reads into the same memory, and not twice the same region."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._region: Region | None = None
        self._values: Array | None = None
        self._memory: Array = np.empty(0, recipe.dtype)

    def read(self, region: Region, given: Given) -> Array:
        if self._values is None or region != self._region:
            n = regions.size(region)
            if self._memory.size < n:
                self._memory = np.empty(n, self.recipe.dtype)
            out = self._memory[:n].reshape(regions.lengths(region))
            self._values = evaluate(self.recipe, region, given, out)
            self._region = region
        return self._values


def finished_state(fold: Fold, state: State) -> dict[str, Array]:
    """Finished arrays of the declared dtypes."""
    made = fold.finish(state)
    return {name: np.asarray(made[name], out.dtype) for name, out in fold.outputs.items()}


def segments(stream: Stream) -> int:
    return prod(len(stream.cut.grid[a]) for a in stream.reduced)

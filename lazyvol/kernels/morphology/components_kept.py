"""Components of masks, kept or dropped by a fact about the whole component.

A fact of a component that extends over several blocks is the sum of those of its parts: voxels, or
the number of faces of the volume and of seeds that it touches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyvol.kernels.morphology.connected_components import (
    BlockSummary,
    Grid,
    Index,
    Region,
    label_block,
    merge_components,
    summarize_labels,
)

Array = np.ndarray[Any, np.dtype[Any]]
#: ``facts(code, labels, n, touches)`` returns a whole number for each of ``n`` components of a
#: block; ``touches`` holds for each axis whether the block begins and ends at the volume's border
Facts = Callable[[Array, Array, int, tuple[tuple[bool, bool], ...]], Array]


@dataclass(frozen=True)
class Choice:
    """The components that are kept: those of ``voxels(code)`` whose fact ``is_kept(fact)`` admits.

    ``result(code, kept)`` returns the mask from a block and the voxels of its kept components.
    """

    voxels: Callable[[Array], Array]
    facts: Facts
    is_kept: Callable[[Array], Array]
    result: Callable[[Array, Array], Array]


def choose_in_volumes(block: Array, *, structure: Array, choice: Choice) -> Array:
    """Return the mask of whole volumes, the last axes of a block."""
    out = np.empty(block.shape, bool)
    border = ((True, True),) * structure.ndim
    for index in np.ndindex(block.shape[: block.ndim - structure.ndim]):
        code = block[index]
        labels, n = label_block(choice.voxels(code), structure)
        kept = choice.is_kept(choice.facts(code, labels, n, border))
        out[index] = choice.result(code, _mask(labels, kept))
    return out


def _mask(labels: Array, kept: Array) -> Array:
    """Return the voxels whose component is kept."""
    return np.asarray(np.concatenate([[False], kept])[labels])


def inspect(
    block: Array, region: Region, shape: tuple[int, ...], *, structure: Array, choice: Choice
) -> tuple[BlockSummary, Array]:
    """Return the summary of a block's components, and their facts."""
    code = block.reshape(block.shape[-structure.ndim :])
    labels, n = label_block(choice.voxels(code), structure)
    touches = tuple(
        (s.start == 0, s.stop == length) for s, length in zip(region, shape, strict=True)
    )
    return summarize_labels(labels, n, region, shape), choice.facts(code, labels, n, touches)


def combine(
    inspected: Mapping[Index, tuple[BlockSummary, Array]],
    grid: Grid,
    *,
    structure: Array,
    choice: Choice,
) -> dict[Index, Array]:
    """Return for each block which of its components are kept."""
    summaries = {index: summary for index, (summary, _) in inspected.items()}
    numbers = merge_components(summaries, grid, structure=structure, dtype=np.dtype(np.int64))
    most = max((int(n.max(initial=0)) for n in numbers.values()), default=0)
    total = np.zeros(most + 1, np.int64)
    for index, (_, facts) in inspected.items():
        np.add.at(total, numbers[index][1:], facts)
    kept = choice.is_kept(total)
    return {index: kept[n[1:]] for index, n in numbers.items()}


def choose_in_block(block: Array, kept: Array, *, structure: Array, choice: Choice) -> Array:
    """Return the mask of a block of one volume, from the flags of its kept components."""
    code = block.reshape(block.shape[-structure.ndim :])
    labels, _ = label_block(choice.voxels(code), structure)
    return choice.result(code, _mask(labels, kept)).reshape(block.shape)


def seed_code(seeds: Array, mask: Array) -> Array:
    """Return 1 in the mask, 2 more at seeds."""
    return np.asarray(mask.astype(np.uint8) + 2 * seeds.astype(np.uint8), np.uint8)


# the choices -------------------------------------------------------------------------------------


def holes() -> Choice:
    """Return the choice that fills holes: background that does not touch the volume's border."""
    return Choice(np.logical_not, _border_voxels, _is_zero, np.logical_or)


def large(least: int) -> Choice:
    """Return the choice that keeps components of ``least`` voxels or more."""
    return Choice(_itself, _sizes, _AtLeast(least), _second)


def seeded() -> Choice:
    """Return the choice that keeps components with a seed; bit 1 of a code is the mask, 2 seeds."""
    return Choice(_is_set, _seeds, _AtLeast(1), _second)


@dataclass(frozen=True)
class _AtLeast:
    least: int

    def __call__(self, facts: Array) -> Array:
        return np.asarray(facts >= self.least)


def _itself(code: Array) -> Array:
    return code


def _is_set(code: Array) -> Array:
    return np.asarray(code > 0)


def _is_zero(facts: Array) -> Array:
    return np.asarray(facts == 0)


def _second(code: Array, kept: Array) -> Array:
    return kept


def _sizes(code: Array, labels: Array, n: int, touches: Any) -> Array:
    return np.bincount(labels.ravel(), minlength=n + 1)[1:]


def _seeds(code: Array, labels: Array, n: int, touches: Any) -> Array:
    return np.bincount(labels[(code & 2) > 0], minlength=n + 1)[1:]


def _border_voxels(
    code: Array, labels: Array, n: int, touches: tuple[tuple[bool, bool], ...]
) -> Array:
    """Return the voxels of each component in faces of the volume."""
    counts = np.zeros(n + 1, np.int64)
    for axis, ends in enumerate(touches if labels.size else ()):
        for place, is_border in zip((0, -1), ends, strict=True):
            if is_border:
                counts += np.bincount(labels.take(place, axis).ravel(), minlength=n + 1)
    return counts[1:]

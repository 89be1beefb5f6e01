"""Blocks of whole particles: one after the other as (z, y, x), with the numbers that go with it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def volumes(block: Array, axes: Sequence[int]) -> Array:
    """A view of a block with the axes of a particle last, as three: those missing of length 1."""
    turned = np.moveaxis(block, axes, range(-len(axes), 0))
    missing = (None,) * (3 - len(axes))
    return turned[(..., *missing, *(slice(None),) * len(axes))]


def particles(
    lead: tuple[int, ...], *blocks: Array, axes: Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    """Index of every particle among the leading axes, and its number out of each of ``blocks``,
    which have length 1 along the axes of a particle and where they do not vary."""
    found = [np.broadcast_to(volumes(b, axes)[..., 0, 0, 0], lead) for b in blocks]
    for index in np.ndindex(lead):
        yield (index, *(f[index].item() for f in found))

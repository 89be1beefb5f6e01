"""Base of the sources that read regions of an array."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, lengths


@dataclass(eq=False)
class RegionSource:
    """An array that is read by regions.

    Subclasses set the fields, and add `fill`, ``stored_bytes`` and ``peak_bytes``.
    """

    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region, which is not empty, into ``out``."""
        raise NotImplementedError

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy one region, into ``out`` unless it is None."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        if out.size:
            self.fill(region, out)
        return out

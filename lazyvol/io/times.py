"""Times that are stored as integers."""

from dataclasses import dataclass

import numpy as np

from lazyvol.io.decoding import DecodedSource
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region


@dataclass(eq=False)
class TimesSource(DecodedSource):
    """The 64-bit integers of a source as times."""

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy one region, into ``out`` unless it is None."""
        if out is None:
            return self.source.read(region).view(self.dtype)
        self.source.read(region, out.view(np.int64))
        return out

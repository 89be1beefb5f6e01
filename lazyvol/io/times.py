"""Times that are stored as whole numbers."""

from dataclasses import dataclass

import numpy as np

from lazyvol.io.decoding import Decoding
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region


@dataclass(eq=False)
class Times(Decoding):
    """Whole numbers of a source, 64 bits each, as times of dtype ``kind``."""

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given."""
        if out is None:
            return self.source.read(region).view(self.dtype)
        self.source.read(region, out.view(np.int64))
        return out

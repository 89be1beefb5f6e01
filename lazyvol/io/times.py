"""Times that are stored as integers."""

from dataclasses import dataclass

import numpy as np

from lazyvol.io.decoding import DecodedSource
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region


@dataclass(eq=False)
class TimesSource(DecodedSource):
    """The 64-bit integers of a source as times."""

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        self.source.read(region, out.view(np.int64))

"""Base of the sources that decode the values of another source."""

from dataclasses import dataclass

import numpy as np

from lazyvol.io.region_source import RegionSource
from lazyvol.plan.recipes.base import Source
from lazyvol.plan.regions import Region


@dataclass(eq=False)
class DecodedSource(RegionSource):
    """Values of ``source`` as another dtype, ``decoded_dtype``; subclasses add `fill`."""

    source: Source
    decoded_dtype: str

    def __post_init__(self) -> None:
        self.shape, self.chunks = self.source.shape, self.source.chunks
        self.dtype = np.dtype(self.decoded_dtype)
        self.token = f"{self.source.token}-{self.decoded_dtype}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the files that are read."""
        return tuple(getattr(self.source, "paths", ()))

    def stored_bytes(self, region: Region) -> int:
        """Return the stored bytes that reading a region takes."""
        return self.source.stored_bytes(region)

    def peak_bytes(self, region: Region) -> int:
        """Return the peak memory of reading a region, in bytes."""
        return self.source.peak_bytes(region)

"""Base of the sources that decode the values of another source."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazyvol.plan.recipes.base import Source
from lazyvol.plan.regions import Region


@dataclass(eq=False)
class DecodedSource:
    """Values of ``source`` as another dtype, ``decoded_dtype``; subclasses add `read`."""

    source: Source
    decoded_dtype: str
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

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

"""Sources that decode what another source reads."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazyvol.plan.recipes.base import Source
from lazyvol.plan.regions import Region


@dataclass(eq=False)
class Decoding:
    """What sources over ``source`` share whose values are of dtype ``kind``."""

    source: Source
    kind: str
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape, self.chunks = self.source.shape, self.source.chunks
        self.dtype = np.dtype(self.kind)
        self.token = f"{self.source.token}-{self.kind}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that are read."""
        return tuple(getattr(self.source, "paths", ()))

    def stored_bytes(self, region: Region) -> int:
        """Bytes that reading a region moves out of the store."""
        return self.source.stored_bytes(region)

    def peak_bytes(self, region: Region) -> int:
        """Bytes of memory that reading a region holds at its worst."""
        return self.source.peak_bytes(region)

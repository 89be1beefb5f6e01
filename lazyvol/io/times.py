"""Times that are stored as whole numbers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazyvol.plan.recipe import Array, Source
from lazyvol.plan.regions import Region


@dataclass(eq=False)
class Times:
    """Whole numbers of a source, 64 bits each, as times of dtype ``kind``."""

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

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given."""
        if out is None:
            return self.source.read(region).view(self.dtype)
        self.source.read(region, out.view(np.int64))
        return out

    @property
    def paths(self) -> tuple[str, ...]:
        """Those of the source."""
        return tuple(getattr(self.source, "paths", ()))

    def stored_bytes(self, region: Region) -> int:
        """That of the source."""
        return self.source.stored_bytes(region)

    def peak_bytes(self, region: Region) -> int:
        """That of the source."""
        return self.source.peak_bytes(region)

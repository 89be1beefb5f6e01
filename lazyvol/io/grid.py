"""Read equal arrays of one file as one array: pages of a TIFF file, data sets of an HDF5 file."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import numpy as np

from lazyvol.io.flat_file import FileSource, stored_region, token
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, size, touched

#: the index of a part along each axis of the grid, and the memory for a box of its values
Part = tuple[tuple[int, ...], Array]


@dataclass(eq=False)
class GridSource(FileSource):
    """Equal arrays, the parts, along the axes of a grid; subclasses add `read_parts`.

    Stored axes are those of ``grid``, then those of a part. Axis ``i`` of the opened array is
    stored axis ``order[i]``. ``part_bytes`` is the stored size of one part, ``scratch`` the memory
    in bytes that reading takes besides its result.
    """

    grid: tuple[int, ...]
    part_shape: tuple[int, ...]
    part_chunks: tuple[int, ...]
    part_dtype: str
    order: tuple[int, ...]
    part_bytes: int
    scratch: int

    def __post_init__(self) -> None:
        stored = self.grid + self.part_shape
        one_part = (1,) * len(self.grid) + self.part_chunks
        self.shape = tuple(stored[axis] for axis in self.order)
        self.chunks = tuple(one_part[axis] for axis in self.order)
        self.dtype = np.dtype(self.part_dtype)
        self.token = token(self.file, stored, self.part_dtype, self.order)

    def read_parts(self, parts: Iterator[Part], box: Region) -> None:
        """Read ``box`` of every part to the memory that comes with it."""
        raise NotImplementedError

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        box = stored_region(region, self.order)
        targets = out.transpose([self.order.index(axis) for axis in range(len(self.order))])
        self.read_parts(self._parts(box[: len(self.grid)], targets), box[len(self.grid) :])

    def stored_bytes(self, region: Region) -> int:
        """Return the number of touched chunks times their mean stored size."""
        padded = (ceil(n / c) * c for n, c in zip(self.part_shape, self.part_chunks, strict=True))
        return ceil(self.part_bytes * touched(region, self.chunks) / prod(padded))

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the result and of the memory besides it."""
        return size(region) * self.dtype.itemsize + self.scratch

    @staticmethod
    def _parts(box: Region, targets: Array) -> Iterator[Part]:
        """Yield the position of every part in a box of the grid, and the memory for it."""
        for position in product(*(range(s.start, s.stop) for s in box)):
            index = tuple(i - s.start for i, s in zip(position, box, strict=True))
            yield position, targets[(*index, ...)]

"""Values that were read or computed last, within a limit of memory: slabs, and stored chunks.

A step of the point, or the halo of a filter, needs chunks that were decoded a moment ago. All views
of an explorer share one memory, which first forgets the values that were not used for longest.
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, reduce
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from lazyvol.errors import BudgetError
from lazyvol.plan import regions
from lazyvol.plan.execution import current_limits, limits_set
from lazyvol.plan.graph.lazy_array import with_sources
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Index, Region

#: bytes that are remembered unless the caller has a limit: three layers of 128 slices of 1024^2
#: float32, of which a filter needs two where it crosses from one to the next
MEMORY = 3 << 29
#: bytes of the smallest chunks that are remembered: to look up a smaller one takes as long as to
#: decode it
SMALLEST = 4 << 10

#: chunks that are decoded, now or by another task
Decoded: TypeAlias = dict[Index, Future[Array]]


class Recent:
    """Values by key; those used last stay, up to ``memory`` bytes, and the newest in any case.

    ``memory`` is half of the caller's limit by default; views are computed in the rest. Threads may
    share it.
    """

    def __init__(self, memory: int | None = None) -> None:
        self.limits = current_limits()
        limit = self.limits.memory
        default = MEMORY if limit is None else min(MEMORY, limit // 2)
        self.memory = default if memory is None else memory
        self.nbytes = 0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Any:
        """Return the value of a key, or None if there is none any more."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        """Remember an array, and forget others where it needs their room."""
        with self._lock:
            replaced = self._values.pop(key, None)
            self._values[key] = value
            self.nbytes += value.nbytes - (0 if replaced is None else replaced.nbytes)
            while len(self._values) > 1 and self.nbytes > self.memory:
                self.nbytes -= self._values.popitem(last=False)[1].nbytes


def with_remembered_chunks(array: xr.DataArray, recent: Recent) -> xr.DataArray:
    """Return a lazy array that decodes no stored chunk again that ``recent`` still holds.

    Chunks that are too large for the caller's limit are not remembered.
    """
    if array.chunks is None:
        return array
    memory = None if recent.limits.memory is None else recent.limits.memory - recent.memory
    with limits_set(memory, recent.limits.workers), suppress(BudgetError):
        return array.copy(data=with_sources(array.data, partial(_remembered, recent)))
    return array


def _remembered(recent: Recent, source: Source) -> Source:
    """Return a source that remembers its chunks, unless parts of these are read alone."""
    chunk = tuple(slice(0, min(c, n)) for c, n in zip(source.chunks, source.shape, strict=True))
    voxel = tuple(slice(0, min(1, n)) for n in source.shape)
    large = regions.size(chunk) * source.dtype.itemsize >= SMALLEST
    is_decoded_whole = 2 * source.stored_bytes(voxel) > source.stored_bytes(chunk)
    return RememberedSource(source, recent) if large and is_decoded_whole else source


@dataclass(eq=False)
class RememberedSource:
    """A source whose decoded chunks are remembered in this process.

    A chunk that several tasks need at once is decoded by the first of them. The tasks of a cluster
    get the source without its memory.
    """

    source: Source
    recent: Recent
    _decoding: Decoded = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.source.shape, self.source.dtype
        self.chunks, self.token = self.source.chunks, self.source.token
        axes = zip(self.shape, self.chunks, strict=True)
        self._edges = [regions.edges(regions.uniform_chunks(n, c)) for n, c in axes]

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.source,)

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy one region from remembered chunks; decode the others first."""
        chunks = self._chunks(region)
        if sum(map(regions.size, chunks.values())) * self.dtype.itemsize > self.recent.memory:
            return self.source.read(region, out)
        out = np.empty(regions.lengths(region), self.dtype) if out is None else out
        with self._lock:
            kept = {i: v for i in chunks if (v := self.recent.get((self.token, i))) is not None}
            awaited = {i: f for i, f in self._decoding.items() if i in chunks and i not in kept}
            own: Decoded = {i: Future() for i in chunks if i not in kept and i not in awaited}
            self._decoding |= own
        self._decode({i: chunks[i] for i in own}, own)
        kept |= {i: future.result() for i, future in (own | awaited).items()}
        for i, box in chunks.items():
            common = regions.intersect(box, region)
            out[regions.relative(common, region)] = kept[i][regions.relative(common, box)]
        return out

    def _chunks(self, region: Region) -> dict[Index, Region]:
        """Return the boxes of the chunks that a region touches, by their positions in the grid."""
        return dict(regions.overlapping(self._edges, region)) if regions.size(region) else {}

    def _decode(self, chunks: Mapping[Index, Region], futures: Decoded) -> None:
        """Decode chunks for this task and for those that wait; an error is that of all of them."""
        try:
            for i, values in self._values(chunks).items():
                self.recent.put((self.token, i), values)
                futures[i].set_result(values)
        except BaseException as error:
            for future in futures.values():
                if not future.done():
                    future.set_exception(error)
            raise
        finally:
            with self._lock:
                for i in chunks:
                    del self._decoding[i]

    def _values(self, chunks: Mapping[Index, Region]) -> dict[Index, Array]:
        """Read chunks: those that fill a box at once, since a request of a bucket takes 50 ms."""
        if len(chunks) > 1:
            box = reduce(regions.hull, chunks.values())
            if regions.size(box) == sum(map(regions.size, chunks.values())):
                values = self.source.read(box)
                parts = ((i, values[regions.relative(c, box)]) for i, c in chunks.items())
                return {i: part.copy() for i, part in parts}
        return {i: self.source.read(chunk) for i, chunk in chunks.items()}

    def stored_bytes(self, region: Region) -> int:
        """Return the bytes that the source moves for a region of which nothing is remembered."""
        return self.source.stored_bytes(region)

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the result and of the decoded box; what is remembered is apart."""
        chunks = self._chunks(region).values()
        if not chunks:
            return 0
        box = reduce(regions.hull, chunks)
        return regions.size(region) * self.dtype.itemsize + self.source.peak_bytes(box)


def _itself(source: Source) -> Source:
    return source

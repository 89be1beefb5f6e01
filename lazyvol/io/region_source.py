"""Sources that read regions of an array, and those that read them from other sources."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np

from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, lengths, size, whole


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


@dataclass(eq=False)
class DerivedSource(RegionSource):
    """An array whose values are those of other sources, the members."""

    #: members read directly into the result
    in_place: ClassVar[bool] = True

    def split(self, region: Region) -> Iterable[tuple[Source, Region]]:
        """Return the members in a region, and the region to read of each."""
        raise NotImplementedError

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the files of all members."""
        members = (member for member, _ in self.split(whole(self.shape)))
        return tuple(path for m in members for path in getattr(m, "paths", ()))

    def stored_bytes(self, region: Region) -> int:
        """Sum the stored bytes of the members."""
        return sum(member.stored_bytes(part) for member, part in self.split(region))

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the result and the largest extra memory of a member."""
        shared = self.dtype.itemsize if self.in_place else 0
        extra = (m.peak_bytes(part) - size(part) * shared for m, part in self.split(region))
        return size(region) * self.dtype.itemsize + max(extra, default=0)


@dataclass(eq=False)
class Section(DerivedSource):
    """One index along the first axis of a source."""

    source: Source
    index: int

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.source.shape[1:], self.source.dtype
        self.chunks = self.source.chunks[1:]
        self.token = f"{self.source.token}-{self.index}"

    def __reduce__(self) -> tuple[type["Section"], tuple[Source, int]]:
        """Pickle the source and the index only; the other fields follow from them."""
        return Section, (self.source, self.index)

    def split(self, region: Region) -> Iterable[tuple[Source, Region]]:
        """Return the source, and its region for a region of this section."""
        return [(self.source, (slice(self.index, self.index + 1), *region))]

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        for source, part in self.split(region):
            source.read(part, out[None])


@dataclass(eq=False)
class DecodedSource(DerivedSource):
    """Values of ``source`` as another dtype, ``decoded_dtype``; subclasses add `fill`."""

    source: Source
    decoded_dtype: str

    def __post_init__(self) -> None:
        self.shape, self.chunks = self.source.shape, self.source.chunks
        self.dtype = np.dtype(self.decoded_dtype)
        self.token = f"{self.source.token}-{self.decoded_dtype}"

    def split(self, region: Region) -> Iterable[tuple[Source, Region]]:
        """Return the source with the same region."""
        return [(self.source, region)]


@dataclass(eq=False)
class TimesSource(DecodedSource):
    """The 64-bit integers of a source as times."""

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        self.source.read(region, out.view(np.int64))


@dataclass(eq=False)
class JoinedSource(DerivedSource):
    """Sources of one dtype; subclasses set shape and chunks, and add `fill` and `split`."""

    members: tuple[Source, ...]

    def __post_init__(self) -> None:
        self.dtype = self.members[0].dtype
        tokens = " ".join(member.token for member in self.members)
        self.token = blake2b(tokens.encode(), digest_size=12).hexdigest()


@dataclass(eq=False)
class StackedSource(JoinedSource):
    """Sources of equal shape and dtype, joined along a new axis."""

    axis: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        first, axis = self.members[0], self.axis
        self.shape = (*first.shape[:axis], len(self.members), *first.shape[axis:])
        self.chunks = (*first.chunks[:axis], 1, *first.chunks[axis:])
        self.token = f"stacked-{self.axis}-{self.token}"

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        for index, (member, part) in enumerate(self.split(region)):
            if self.in_place:
                member.read(part, out[index])
            else:
                out[(slice(None),) * self.axis + (index,)] = member.read(part)

    def split(self, region: Region) -> Iterable[tuple[Source, Region]]:
        """Return the members in a region, and the region to read of each."""
        part = region[: self.axis] + region[self.axis + 1 :]
        return ((member, part) for member in self.members[region[self.axis]])

    @property
    def in_place(self) -> bool:  # type: ignore[override]
        """Return True along axis 0, where the values of a member are contiguous."""
        return self.axis == 0


@dataclass(eq=False)
class ConcatenatedSource(JoinedSource):
    """Sources that are alike but for their first axis, joined along it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.members[0]
        self.ends = np.concatenate([[0], np.cumsum([m.shape[0] for m in self.members])])
        self.shape = (int(self.ends[-1]), *first.shape[1:])
        self.chunks = first.chunks
        self.token = f"concatenated-{self.token}"

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        done = 0
        for member, member_region in self.split(region):
            count = lengths(member_region)[0]
            member.read(member_region, out[done : done + count])
            done += count

    def split(self, region: Region) -> Iterator[tuple[Source, Region]]:
        """Yield the members in a region, and the region to read of each."""
        start, stop = region[0].start, region[0].stop
        first = int(np.searchsorted(self.ends, start, "right")) - 1
        while start < stop:
            begin, end = int(self.ends[first]), min(int(self.ends[first + 1]), stop)
            yield self.members[first], (slice(start - begin, end - begin), *region[1:])
            start, first = end, first + 1


@dataclass(eq=False)
class ValuesSource(DerivedSource):
    """A small array in memory, which has no members."""

    values: Array

    def __post_init__(self) -> None:
        self.shape = self.chunks = self.values.shape
        self.dtype = self.values.dtype
        self.token = blake2b(self.values.tobytes(), digest_size=12).hexdigest()

    def split(self, region: Region) -> Iterable[tuple[Source, Region]]:
        """Return nothing."""
        return ()

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        out[...] = self.values[region]

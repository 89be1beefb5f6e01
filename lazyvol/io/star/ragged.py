"""Stacks of unequal numbers of frames, one after the other: a contiguous ragged array."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from lazyvol.errors import LabelError
from lazyvol.io.files import JoinedSource, check_alike
from lazyvol.io.opened import Opened
from lazyvol.io.region_source import RegionSource
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, lengths, size

#: dims of a stack of frames as its file opens, and of the observations of all
FRAMES, OBSERVATIONS = ("k", "y", "x"), ("obs", "y", "x")


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
class ValuesSource(RegionSource):
    """A small array in memory."""

    values: Array

    def __post_init__(self) -> None:
        self.shape = self.chunks = self.values.shape
        self.dtype = self.values.dtype
        self.token = blake2b(self.values.tobytes(), digest_size=12).hexdigest()

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        out[...] = self.values[region]

    def stored_bytes(self, region: Region) -> int:
        """Return 0: nothing is stored."""
        return 0

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the result."""
        return size(region) * self.dtype.itemsize


def is_ragged(images: Sequence[Opened]) -> bool:
    """Return True for stacks of frames that differ in their number."""
    counts = {opened.source.shape[0] for opened in images}
    return len(counts) > 1 and all(opened.dims == FRAMES for opened in images)


def concatenated(rows: Sequence[str], images: Sequence[Opened]) -> Opened:
    """Return the frames of all stacks, (obs, y, x); they must be alike but for their number.

    Raises
    ------
    LabelError
        Two stacks differ in the shape of their frames, dtype or spacing.
    """
    first = images[0]
    facts = _alike(first)
    for row, other in zip(rows, images, strict=True):
        if _alike(other) != facts:
            raise LabelError(
                f"frames of all stacks must be alike: {rows[0]} has shape and dtype {facts}, {row} "
                f"has {_alike(other)}; leave one out or convert it"
            )
        check_alike(rows[0], first, row, replace(other, source=first.source))
    source = ConcatenatedSource(tuple(opened.source for opened in images))
    common = all(dict(opened.origin) == dict(first.origin) for opened in images)
    origin = first.origin if common else {}
    return replace(first, source=source, dims=OBSERVATIONS, origin=origin, coords={})


def _alike(opened: Opened) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of a frame."""
    return opened.source.shape[1:], opened.source.dtype.name


def row_sizes(images: Sequence[Opened]) -> Opened:
    """Return the number of frames of every stack."""
    counts = np.array([opened.source.shape[0] for opened in images], np.int64)
    attrs = {"sample_dimension": "obs", "long_name": "frames of each k"}
    return Opened(source=ValuesSource(counts), dims=("k",), attrs=attrs)

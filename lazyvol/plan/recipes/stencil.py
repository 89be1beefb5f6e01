"""The stencil recipe: grow the region, read the parent, fill the border, run the kernel.

Beyond the border a position stands for a stored index. The five modes are those of
``scipy.ndimage``. They continue an axis ``a b c d`` as ``reflect`` d c b a | a b c d | d c b a,
``mirror`` d c b | a b c d | c b a, ``nearest`` a a a | a b c d | d d d,
``wrap`` b c d | a b c d | a b c, ``constant`` v v v | a b c d | v v v.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, product
from typing import Any, Literal, TypeAlias

import numpy as np
from dask.base import tokenize

from lazyvol.plan import regions
from lazyvol.plan.recipes.base import Array, Dependency, Recipe
from lazyvol.plan.regions import Region

Mode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap"]
MODES: tuple[Mode, ...] = ("reflect", "mirror", "nearest", "constant", "wrap")


@dataclass(frozen=True, eq=False)
class Stencil(Recipe):
    """``kernel(grown) -> interior`` over the parent.

    ``depth`` is the halo before and after each axis, of any length; ``mode`` continues the array
    beyond its border. Two modes do not: ``"valid"`` keeps only voxels whose halo is inside,
    ``"clip"`` ends the halo at the border and calls ``kernel(grown, halo)`` with its lengths. Along
    each axis, one element of the result corresponds to ``step`` elements of the parent; ``sizes``
    are the lengths of new trailing axes, which vary slowest in memory. A kernel that
    ``needs_region`` gets the region of the result as its next argument; one that ``accepts_out``
    gets ``out=``: memory for its result (contiguous, for each component), or None.
    """

    kernel: Callable[..., Array]
    parents: tuple[Recipe]
    depth: tuple[tuple[int, int], ...]
    mode: Mode | str
    dtype: np.dtype[Any]
    fill: float = 0.0
    scratch: float = 0.0
    step: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    needs_region: bool = False
    accepts_out: bool = False

    @property
    def component_axes(self) -> int:
        return len(self.sizes)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """``step``, by default 1 along every axis."""
        return self.step or (1,) * self.parent.ndim

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        shape = self.parent.shape
        if self.mode == "valid":
            inner = zip(shape, self.depth, self.steps, strict=True)
            return (*(max(0, n - lo - hi) // s for n, (lo, hi), s in inner), *self.sizes)
        return (*(-(-n // s) for n, s in zip(shape, self.steps, strict=True)), *self.sizes)

    @cached_property
    def preferred_chunk(self) -> tuple[int, ...]:  # type: ignore[override]
        axes = zip(self.parent.preferred_chunk, self.shape, self.steps, strict=False)
        return (*(max(1, min(-(-c // s), n)) for c, n, s in axes), *self.sizes)

    @cached_property
    def token(self) -> str:
        options = (
            self.depth, self.mode, str(self.dtype), self.fill, self.steps, self.sizes,
            self.needs_region,
        )  # fmt: skip
        return str(tokenize("stencil", self.kernel, self.parent.token, options))

    # regions of the parent ------------------------------------------------------------------

    def _core(self, region: Region) -> Region:
        """Return the parent's elements that ``region`` corresponds to, in the parent's positions.

        For ``"valid"`` they are shifted: the first one is where the first halo begins.
        """
        axes = zip(region, self.parent.shape, self.steps, strict=False)
        return tuple(slice(r.start * s, max(r.start * s, min(r.stop * s, n))) for r, n, s in axes)

    def _grown(self, region: Region) -> Region:
        axes = zip(self._core(region), self.depth, self.parent.shape, strict=True)
        if self.mode == "valid":
            return tuple(slice(s.start, s.stop + lo + hi) for s, (lo, hi), _ in axes)
        if self.mode == "clip":
            return tuple(
                slice(max(0, s.start - lo), min(n, s.stop + hi)) for s, (lo, hi), n in axes
            )
        return tuple(slice(s.start - lo, s.stop + hi) for s, (lo, hi), _ in axes)

    def _clipped_halo(self, region: Region) -> tuple[tuple[int, int], ...]:
        """Return the lengths of the halo before and after each axis."""
        pairs = zip(self._grown(region), self._core(region), strict=True)
        return tuple((core.start - g.start, g.stop - core.stop) for g, core in pairs)

    def _reads(self, grown: Region) -> list[tuple[Region, Region]]:
        """Return pairs of (place in the grown block, stored region of the parent)."""
        mode: Any = "nearest" if self.mode in ("valid", "clip") else self.mode
        axes = [reads(s, n, mode) for s, n in zip(grown, self.parent.shape, strict=True)]
        return [
            (tuple(p for p, _ in combo), tuple(q for _, q in combo)) for combo in product(*axes)
        ]

    def dependencies(self, region: Region) -> list[Dependency]:
        if regions.size(region) == 0:
            return []
        return [(0, stored) for _, stored in self._reads(self._grown(region))]

    # evaluation -----------------------------------------------------------------------------

    def assembly_buffer(self, region: Region, out: Array | None = None) -> Array | None:
        return np.empty(regions.lengths(self._grown(region)), self.parent.dtype)

    def assembly_bytes(self, region: Region) -> int:
        grown = self._grown(region)
        if regions.size(region) == 0 or _is_complete(self._reads(grown), grown):
            return 0
        return self.parent.nbytes(grown)

    def insert(self, region: Region, buffer: Array, number: int, values: Array) -> None:
        buffer[self._reads(self._grown(region))[number][0]] = values

    def compute(self, region: Region, inputs: Sequence[Array], out: Array | None = None) -> Array:
        if regions.size(region) == 0:
            return np.empty(regions.lengths(region), self.dtype)
        grown, block = self._grown(region), inputs[0]
        if not _is_complete(self._reads(grown), grown):
            for axis, span in enumerate(grown):
                self._fill_border(block, axis, span)
        arguments: tuple[Any, ...] = (self._clipped_halo(region),) if self.mode == "clip" else ()
        arguments += (region[: self.parent.ndim],) if self.needs_region else ()
        components: Any = region[self.parent.ndim :]
        if all(s == slice(0, n) for s, n in zip(components, self.sizes, strict=True)):
            options = {"out": out} if self.accepts_out else {}
            return np.asarray(self.kernel(block, *arguments, **options), self.dtype)
        return np.asarray(self.kernel(block, *arguments), self.dtype)[(..., *components)]

    def _fill_border(self, block: Array, axis: int, span: slice) -> None:
        """Fill the positions of one axis outside the parent, after those of all axes before."""
        if self.mode in ("wrap", "valid", "clip"):
            return
        mode: Any = self.mode
        places, copied = copies(span, self.parent.shape[axis], mode)
        lead: tuple[Any, ...] = (slice(None),) * axis
        if places and self.mode == "constant":
            block[(*lead, places)] = self.fill
        elif places:
            block[(*lead, places)] = block[(*lead, copied)]

    def working_bytes(self, region: Region) -> int:
        """Return the bytes of the result, of the kernel, and of a copy of the grown block."""
        grown = regions.size(self._grown(region))
        result = (*region[: self.parent.ndim], *(slice(0, n) for n in self.sizes))
        return self.parent.dtype.itemsize * grown + self.nbytes(result) + int(self.scratch * grown)


def _is_complete(pairs: Sequence[tuple[Region, Region]], grown: Region) -> bool:
    """Return True if a single read provides the whole grown block."""
    return len(pairs) == 1 and regions.lengths(pairs[0][1]) == regions.lengths(grown)


# borders, along one axis --------------------------------------------------------------------------


def stored_index(position: int, length: int, mode: Mode) -> int:
    """Return the index in ``range(length)`` that ``mode`` puts at any ``position``."""
    if mode == "wrap":
        return position % length
    if mode == "reflect":
        folded = position % (2 * length)
        return min(folded, 2 * length - 1 - folded)
    if mode == "mirror":
        period = max(1, 2 * length - 2)
        folded = position % period
        return min(folded, period - folded) if length > 1 else 0
    return min(max(position, 0), length - 1)


#: spans whose reads are remembered: a task asks for those of its region five times, and the regions
#: of a stack share theirs (0.25 of the 0.9 ms that a task of a Gaussian costs beside its kernel)
REMEMBERED = 4096

#: place in a span, and the stored slice it is read from
Read: TypeAlias = tuple[slice, slice]


def reads(span: slice, length: int, mode: Mode) -> tuple[Read, ...]:
    """Return the reads that fill a grown ``span`` of one axis: (place in the span, stored slice).

    All modes but ``wrap`` read the part of the span inside the array; most outside positions are
    copies of values in that part. Positions that are not (a halo longer before than after reflects
    voxels behind the span) are read one by one. ``wrap`` reads from the far side.
    """
    return _reads(span.start, span.stop, length, mode)


@lru_cache(REMEMBERED)
def _reads(start: int, stop: int, length: int, mode: Mode) -> tuple[Read, ...]:
    if mode == "wrap":
        return tuple(_wrapped_reads(start, stop, length))
    low, high = max(0, start), min(length, stop)
    pairs = [(slice(low - start, high - start), slice(low, high))]
    for p, q in _outside(start, stop, length, mode):
        if not low <= q < high:
            pairs.append((slice(p - start, p - start + 1), slice(q, q + 1)))
    return tuple(pairs)


def _wrapped_reads(start: int, stop: int, length: int) -> list[Read]:
    pairs, position = [], start
    while position < stop:
        index = position % length
        n = min(length - index, stop - position)
        pairs.append((slice(position - start, position - start + n), slice(index, index + n)))
        position += n
    return pairs


def copies(span: slice, length: int, mode: Mode) -> tuple[list[int], list[int]]:
    """Return the outside places of ``span`` that copy inside ones, and the places they copy."""
    return _copies(span.start, span.stop, length, mode)


@lru_cache(REMEMBERED)
def _copies(start: int, stop: int, length: int, mode: Mode) -> tuple[list[int], list[int]]:
    low, high = max(0, start), min(length, stop)
    pairs = [(p, q) for p, q in _outside(start, stop, length, mode) if low <= q < high]
    return [p - start for p, _ in pairs], [q - start for _, q in pairs]


def _outside(start: int, stop: int, length: int, mode: Mode) -> list[tuple[int, int]]:
    """Return the positions of a span outside the array, each with the index it repeats."""
    if not length:
        return []
    positions = chain(range(start, 0), range(length, stop))
    if mode == "constant":
        return [(p, max(0, start)) for p in positions]
    return [(p, stored_index(p, length, mode)) for p in positions]

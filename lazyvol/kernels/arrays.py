"""Layouts, dtypes and output memory that kernels of several topics share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)

# dtypes and output memory ----------------------------------------------------------------------


def kernel_float(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return float32 where it holds every value of ``dtype``, else float64."""
    return SINGLE if dtype.itemsize <= 2 or dtype == SINGLE else DOUBLE


def contiguous_floats(block: Array) -> Array:
    """Return a read-only, C-contiguous block of floats, without a copy where it is one."""
    return read_only(np.ascontiguousarray(block, kernel_float(block.dtype)))


def numba_compatible(block: Array) -> Array:
    """Return the values in native byte order: float16 as float32, booleans as uint8."""
    native = block.astype(block.dtype.newbyteorder("="), copy=False)
    if native.dtype == np.float16:
        return native.astype(np.float32)
    return native.view(np.uint8) if native.dtype == bool else native


def read_only(values: Array) -> Array:
    """Return a read-only view: numba compiles a second kernel for writable arrays."""
    view = values.view()
    view.flags.writeable = False
    return view


def allocate_output(
    out: Array | None, shape: Sequence[int], dtype: np.dtype[Any], components: int = 0
) -> Array:
    """Return ``out`` if it has this shape and dtype, else new memory.

    In new memory the last ``components`` axes vary slowest.
    """
    shape = tuple(shape)
    if out is not None and out.shape == shape and out.dtype == dtype:
        return out
    spatial = len(shape) - components
    memory = np.empty((*shape[spatial:], *shape[:spatial]), dtype)
    return memory.transpose(*range(components, len(shape)), *range(components))


# blocks as three axes: before, reduced, after --------------------------------------------------


@dataclass(frozen=True)
class StridedRows:
    """Rows of ``length`` values in flat memory.

    Each row starts at the sum of one of ``kept_offsets`` and one of ``reduced_offsets``.
    """

    values: Array
    kept_offsets: Array
    reduced_offsets: Array
    length: int


def strided_rows(block: Array, axes: Sequence[int]) -> StridedRows:
    """Return the axes after the reduced ones as rows, in the block's own memory.

    The block is copied only if a row has gaps: copying a tile of an array in memory took three
    times as long as its statistics.
    """
    block, first, last = _with_adjacent_axes(block, sorted(axes))
    if not (block.flags.c_contiguous or _has_contiguous_rows(block, last)):
        block = np.ascontiguousarray(block)
    steps = [n // block.itemsize for n in block.strides]
    span = 1 + sum((n - 1) * step for n, step in zip(block.shape, steps, strict=True))
    values = np.lib.stride_tricks.as_strided(block, (span,), (block.itemsize,), writeable=False)
    kept_offsets = _offsets(block.shape[:first], steps[:first])
    reduced_offsets = _offsets(block.shape[first:last], steps[first:last])
    return StridedRows(values, kept_offsets, reduced_offsets, prod(block.shape[last:]))


def _has_contiguous_rows(block: Array, last: int) -> bool:
    """Return True if the axes from ``last`` on are contiguous and no axis runs backwards."""
    forwards = all(n >= 0 and n % block.itemsize == 0 for n in block.strides)
    return forwards and block[(0,) * last].flags.c_contiguous


def _offsets(shape: Sequence[int], steps: Sequence[int]) -> Array:
    """Return the flat offset of every element of some axes, in C order."""
    offsets = np.zeros(1, np.int64)
    for n, step in zip(shape, steps, strict=True):
        offsets = (offsets[:, None] + np.arange(n) * step).reshape(-1)
    return offsets


def trailing_size(shape: Sequence[int], axes: Sequence[int]) -> int:
    """Return the length of the last axis that ``as_three_axes`` gives a block of ``shape``."""
    axes = sorted(axes)
    return prod(shape[axes[-1] + 1 :]) if axes and _are_adjacent(axes) else 1


def as_three_axes(block: Array, axes: Sequence[int]) -> Array:
    """Return a block as C-contiguous (before, reduced, after), a view where that is possible.

    Reduced axes that are not adjacent are moved to the end; ``after`` has length 1 then.
    """
    block, first, last = _with_adjacent_axes(block, sorted(axes))
    shape = block.shape
    lengths = (prod(shape[:first]), prod(shape[first:last]), prod(shape[last:]))
    return np.ascontiguousarray(block.reshape(lengths))


def mask_as_three_axes(mask: Array, shape: Sequence[int], axes: Sequence[int]) -> Array:
    """Return a mask that broadcasts to ``shape`` in the layout of ``as_three_axes``.

    Each of the three axes has the block's length, or 1 where the mask is constant along it.
    """
    mask, first, last = _with_adjacent_axes(mask, sorted(axes))
    order = [a for a in range(len(shape)) if a not in axes] + sorted(axes)
    full = tuple(shape) if _are_adjacent(sorted(axes)) else tuple(shape[a] for a in order)
    expanded, lengths = mask.shape, []
    for group in (slice(0, first), slice(first, last), slice(last, len(full))):
        if prod(mask.shape[group]) > 1:
            expanded = (*expanded[: group.start], *full[group], *expanded[group.stop :])
        lengths.append(prod(expanded[group]))
    return np.ascontiguousarray(np.broadcast_to(mask, expanded).reshape(lengths))


def kept_as_two_axes(state: Array, axes: Sequence[int]) -> Array:
    """Return a contiguous state of the kept elements as a view (before, after)."""
    axes = sorted(axes)
    before = prod(state.shape[: axes[0]]) if axes and _are_adjacent(axes) else state.size
    return state.reshape(before, -1) if state.size else state.reshape(before, 0)


def _with_adjacent_axes(block: Array, axes: Sequence[int]) -> tuple[Array, int, int]:
    """Move reduced axes to the end if they are not adjacent; return their first and last + 1."""
    if not _are_adjacent(axes):
        kept = [a for a in range(block.ndim) if a not in axes]
        block = block.transpose(*kept, *axes)
        axes = list(range(len(kept), block.ndim))
    first, last = (axes[0], axes[-1] + 1) if axes else (block.ndim, block.ndim)
    return block, first, last


def _are_adjacent(axes: Sequence[int]) -> bool:
    return list(axes) == list(range(axes[0], axes[-1] + 1)) if axes else True


# blocks of whole particles ---------------------------------------------------------------------


def particle_volumes(block: Array, axes: Sequence[int]) -> Array:
    """Return a view (..., z, y, x) of a block; a particle axis that is missing has length 1."""
    particles_first = np.moveaxis(block, axes, range(-len(axes), 0))
    missing = (None,) * (3 - len(axes))
    return particles_first[(..., *missing, *(slice(None),) * len(axes))]


def each_particle(
    lead: tuple[int, ...], *tables: Array, axes: Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    """Yield the index of every particle and its number in each table.

    Tables have length 1 along the particle ``axes`` and along ``lead`` axes where they are
    constant.
    """
    numbers = [np.broadcast_to(particle_volumes(t, axes)[..., 0, 0, 0], lead) for t in tables]
    for index in np.ndindex(lead):
        yield (index, *(n[index].item() for n in numbers))

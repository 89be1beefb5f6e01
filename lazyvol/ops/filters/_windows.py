"""Filters over windows that continue beyond the border of a stack.

``Boundary`` defines the continuation. The filters take checked arguments per axis: windows,
standard deviations or weights. They run on blocks with a halo, or on blocks that are whole along a
short axis.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import prod
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels import arrays
from lazyvol.kernels.arrays import DOUBLE
from lazyvol.kernels.filters import correlate, sliding_window, wide_windows
from lazyvol.kernels.filters import rank as rank_kernels
from lazyvol.kernels.filters import separable as separable_kernels
from lazyvol.kernels.filters.wide_windows import FilterPass, Reach, fold_weights
from lazyvol.kernels.geometry.splines import BoundaryMode
from lazyvol.ops._checks import lengths_in_voxels, require_held, require_window
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.stack import (
    Sigma,
    Size,
    dims_of,
    float_of,
    is_by_dim,
    is_number,
    per_dim,
    require_one_unit,
    spacing,
    spatial_dims,
)

Array = np.ndarray[Any, np.dtype[Any]]
Mode: TypeAlias = Literal["reflect", "mirror", "nearest", "constant", "wrap", "valid"]
Weights: TypeAlias = xr.DataArray | Array | Sequence[Any]

#: bytes per voxel of whole volumes in float64 with one axis padded threefold
WHOLE = 8.0 * 5
#: nonzero weights below which transforms are slower for blocks of any size
MIN_TRANSFORMED = 150
#: bytes per voxel of a block for its transforms: spectra, a tile and its result, padded to lengths
#: that transform fast
TRANSFORM_BYTES = 48.0


@dataclass(frozen=True)
class Boundary:
    """A mode of scipy.ndimage beyond the border, with its constant, or ``"valid"``."""

    mode: Mode = "reflect"
    fill: float = 0.0

    def require(self, op: str, stack: xr.DataArray, reach: Sequence[Reach]) -> None:
        """Raise LabelError if ``fill`` or the length of an axis does not suit the mode."""
        if self.mode == "constant":
            require_held(op, stack.dtype, self.fill)
        window = {str(d): sum(r) + 1 for d, r in zip(stack.dims, reach, strict=True)}
        short = {d: stack.sizes[d] for d, n in window.items() if stack.sizes[d] < n}
        if self.mode == "valid" and short:
            raise LabelError(
                f"{op}: mode must not be 'valid' where the stack is shorter than the window "
                f"{ {d: window[d] for d in short} }, got lengths {short}; choose another mode or a "
                f"smaller window"
            )

    def is_wide(self, stack: xr.DataArray, reach: Sequence[Reach]) -> bool:
        """Return True if volumes padded along all axes at once would take too much memory."""
        return self.mode != "valid" and wide_windows.is_wide(stack.shape, reach)


def filter_blocks(
    op: str,
    kernel: Callable[..., Array],
    stack: xr.DataArray,
    reach: Sequence[Reach],
    boundary: Boundary,
    dtype: np.dtype[Any],
    scratch: float,
    *,
    accepts_out: bool = False,
) -> xr.DataArray:
    """Apply ``kernel(padded) -> valid part`` to a stack, in blocks with a halo.

    Where the halo would take too much memory, blocks are whole along the axes that have a reach.
    """
    scratch += _conversion_bytes(stack.dtype) + _conversion_bytes(dtype)
    if boundary.is_wide(stack, reach):
        growth = prod(1 + sum(r) / max(1, n) for r, n in zip(reach, stack.shape, strict=True))
        passes = (FilterPass(kernel, tuple(reach), boundary.fill),)
        scratch = (scratch + stack.dtype.itemsize) * growth
        return _apply_passes(op, passes, stack, boundary, dtype, scratch)
    depth = {str(d): r for d, r in zip(stack.dims, reach, strict=True)}
    return stencil(
        kernel, stack, depth=depth, mode=boundary.mode, fill=boundary.fill, dtype=dtype,
        scratch=scratch, accepts_out=accepts_out, title=op,
    )  # fmt: skip


def filter_axis_by_axis(
    op: str,
    axis_kernel: Callable[[int], tuple[Callable[..., Array], float]],
    stack: xr.DataArray,
    reach: Sequence[Reach],
    boundary: Boundary,
    dtype: np.dtype[Any],
) -> xr.DataArray:
    """Apply a kernel along every axis that has a reach, padded along one axis at a time.

    ``axis_kernel(axis)`` returns the kernel and the factor by which it scales a constant.
    """
    passes, fill = [], boundary.fill
    for axis in range(stack.ndim):
        kernel, factor = axis_kernel(axis)
        axis_reach = tuple(r if a == axis else (0, 0) for a, r in enumerate(reach))
        if axis_reach[axis] != (0, 0) or factor != 1:
            passes.append(FilterPass(kernel, axis_reach, fill))
            fill = fill * factor if factor != 1 else fill
    return _apply_passes(op, passes, stack, boundary, dtype, WHOLE)


def _apply_passes(
    op: str,
    passes: Sequence[FilterPass],
    stack: xr.DataArray,
    boundary: Boundary,
    dtype: np.dtype[Any],
    scratch: float,
) -> xr.DataArray:
    """Apply passes to blocks that are whole along the axes that have a reach."""
    axes = tuple(a for a in range(stack.ndim) if any(p.reach[a] != (0, 0) for p in passes))
    kernel = partial(
        wide_windows.apply_passes, passes=tuple(passes), axes=axes,
        mode=cast(BoundaryMode, boundary.mode), dtype=dtype,
    )  # fmt: skip
    core = [str(stack.dims[a]) for a in axes]
    return blockwise(kernel, stack, core=core, dtype=dtype, scratch=scratch, title=op)


def _conversion_bytes(dtype: np.dtype[Any]) -> float:
    """Return bytes per voxel of a copy in the dtype of kernels; 0 if it needs no copy."""
    converted = arrays.kernel_float(dtype)
    return 0.0 if converted == dtype else float(converted.itemsize)


# filters ------------------------------------------------------------------------------------------


def windows(op: str, stack: xr.DataArray, size: Size, origin: Size = 0) -> list[Reach]:
    """Return the reach of a window along every axis, (0, 0) where it has none."""
    sizes = lengths_in_voxels(op, stack, size)
    require_window(op, "size", max(sizes.values()))
    return placed(op, stack, [sizes.get(str(d), 1) for d in stack.dims], origin)


def placed(op: str, stack: xr.DataArray, lengths: Sequence[int], origin: Size = 0) -> list[Reach]:
    """Return the reach of windows whose centre n // 2 is moved ``origin`` voxels onwards."""
    by_dim = {str(d): n for d, n in zip(stack.dims, lengths, strict=True)}
    long = tuple(d for d, n in by_dim.items() if n > 1)
    moved: dict[str, Any] = (
        per_dim(origin, spatial_dims(stack), "origin", known=stack.dims)
        if is_by_dim(origin)
        else dict.fromkeys(long, origin)
    )
    outside = {d: o for d, o in moved.items() if not -(by_dim[d] // 2) <= o <= (by_dim[d] - 1) // 2}
    if outside:
        raise LabelError(
            f"{op}: origin must be from -(n // 2) to (n - 1) // 2 for windows of n voxels, got "
            f"{outside} for n={ {d: by_dim[d] for d in outside} }; the window holds its voxel"
        )
    shifts = [moved.get(d, 0) for d in by_dim]
    return [(n // 2 + o, n - 1 - n // 2 - o) for n, o in zip(lengths, shifts, strict=True)]


def scales(op: str, stack: xr.DataArray, sigma: Sigma) -> tuple[float, ...]:
    """Return standard deviations in voxels along every axis, 0 where there is none."""
    deviations = per_dim(sigma, spatial_dims(stack), "sigma", known=stack.dims)
    wrong = {d: s for d, s in deviations.items() if not (is_number(s) and 0 <= s < np.inf)}
    if wrong:
        raise LabelError(
            f"{op}: sigma must be 0 or more and finite, got {wrong}; give it in the unit of the "
            f"coordinates"
        )
    if not is_by_dim(sigma):
        require_one_unit(stack, deviations, f"{op}: stack")
    voxels = {d: float(s) / abs(spacing(stack, d)) for d, s in deviations.items()}
    return tuple(voxels.get(str(d), 0.0) for d in stack.dims)


def kernel_weights(
    op: str,
    stack: xr.DataArray,
    kernel: Any,
    *,
    flip: bool,
    origin: Size = 0,
    option: str = "kernel",
) -> tuple[Array, list[Reach]]:
    """Return correlation weights with every axis of a stack, and their reach.

    ``flip`` them for a convolution. The centre of an even length n is its element n // 2, moved by
    ``origin``, as in scipy.ndimage.
    """
    dims = tuple(str(d) for d in stack.dims)
    named = (
        kernel
        if isinstance(kernel, xr.DataArray)
        else _named(op, stack, np.asarray(kernel), option)
    )
    kernel_dims = dims_of(stack, named.dims, subject=f"{op}: {option}")
    values = np.asarray(named.transpose(*(d for d in dims if d in kernel_dims)).values)
    if values.dtype.kind not in "biuf" or values.size == 0 or not np.isfinite(values).all():
        raise LabelError(
            f"{op}: {option} must hold finite weights, one or more, got dtype={values.dtype} and "
            f"shape={values.shape}"
        )
    lengths = tuple(named.sizes.get(d, 1) for d in dims)
    reach = placed(op, stack, lengths, origin)
    weights = values.astype(np.float64).reshape(lengths)
    if flip:
        return np.flip(weights).copy(), [(after, before) for before, after in reach]
    return weights, reach


def footprint_of(op: str, stack: xr.DataArray, footprint: Any) -> Array:
    """Return where a footprint with every axis of a stack is not 0; raise LabelError if nowhere."""
    weights, _ = kernel_weights(op, stack, footprint, flip=False, option="footprint")
    if not weights.any():
        raise LabelError(
            f"{op}: footprint must have a voxel that is not 0, got zeros of shape "
            f"{np.shape(footprint)}; set one"
        )
    return np.asarray(weights != 0)


def _named(op: str, stack: xr.DataArray, kernel: Array, option: str) -> xr.DataArray:
    """Label an array of weights with the last of the spatial dims."""
    dims = spatial_dims(stack)
    if not 1 <= kernel.ndim <= len(dims):
        raise LabelError(
            f"{op}: {option} must have 1 to {len(dims)} axes, for the last of the spatial dims "
            f"{dims}, got shape={kernel.shape}; name its dims with xarray.DataArray({option}, "
            f"dims=...)"
        )
    return xr.DataArray(kernel, dims=dims[len(dims) - kernel.ndim :])


def weighted(
    op: str, stack: xr.DataArray, weights: Array, reach: Sequence[Reach], boundary: Boundary
) -> xr.DataArray:
    """Correlate a stack, axis by axis if the weights are separable."""
    rows = correlate.factors(weights)
    if rows is not None:
        taps = [None if len(r) == 1 and r[0] == 1 else r for r in rows]
        return separable(op, stack, taps, reach, boundary)
    boundary.require(op, stack, reach)
    folded_reach = list(reach)
    for axis, n in enumerate(stack.shape):
        weights, folded_reach[axis] = fold_weights(weights, reach[axis], n, boundary.mode, axis)
    dtype = float_of(stack.dtype)
    kernel = partial(correlate.correlate, weights=weights, dtype=dtype)
    scratch = TRANSFORM_BYTES if np.count_nonzero(weights) >= MIN_TRANSFORMED else 0.0
    return filter_blocks(
        op, kernel, stack, folded_reach, boundary, dtype, scratch, accepts_out=True
    )


def separable(
    op: str,
    stack: xr.DataArray,
    taps: Sequence[Array | None],
    reach: Sequence[Reach],
    boundary: Boundary,
    dtype: np.dtype[Any] | None = None,
) -> xr.DataArray:
    """Correlate a stack along each axis that has weights."""
    boundary.require(op, stack, reach)
    dtype = dtype or float_of(stack.dtype)
    folded = [
        (None, (0, 0)) if w is None else fold_weights(w, r, n, boundary.mode)
        for w, r, n in zip(taps, reach, stack.shape, strict=True)
    ]
    weights, folded_reach = tuple(w for w, _ in folded), [r for _, r in folded]
    if boundary.is_wide(stack, folded_reach):
        axis_kernel = partial(_axis_correlation, weights)
        return filter_axis_by_axis(op, axis_kernel, stack, folded_reach, boundary, dtype)
    kernel = partial(separable_kernels.separable, weights=weights, dtype=dtype)
    by_axis = {a: w for a, w in enumerate(weights) if w is not None}
    swept = separable_kernels.is_swept(stack.shape, by_axis)
    scratch = 0.0 if swept else float(DOUBLE.itemsize * min(2, len(by_axis)))
    return filter_blocks(
        op, kernel, stack, folded_reach, boundary, dtype, scratch, accepts_out=True
    )


def _axis_correlation(
    weights: Sequence[Array | None], axis: int
) -> tuple[Callable[..., Array], float]:
    """Return the correlation along one axis and the sum of its weights."""
    taps = weights[axis]
    if taps is None:
        taps = np.ones(1)
    return partial(separable_kernels.along, weights=taps, axis=axis, dtype=DOUBLE), taps.sum()


def uniform(
    op: str, stack: xr.DataArray, reach: Sequence[Reach], boundary: Boundary
) -> xr.DataArray:
    """Average windows; along axes with a shorter period than the window as weighted sums."""
    boundary.require(op, stack, reach)
    dtype, sizes = float_of(stack.dtype), _lengths(reach)
    multiplicities, folded_reach = _multiplicities(stack, reach, boundary)
    taps = [
        None if len(m) == n else m / n for m, n in zip(multiplicities, sizes, strict=True)
    ]  # None where every voxel counts once
    if any(t is not None for t in taps):
        unweighted = [r if t is None else (0, 0) for t, r in zip(taps, reach, strict=True)]
        weighted_reach = [
            (0, 0) if t is None else r for t, r in zip(taps, folded_reach, strict=True)
        ]
        if not any(map(any, unweighted)):
            return separable(op, stack, taps, weighted_reach, boundary, dtype)
        sums = separable(op, stack, taps, weighted_reach, boundary, DOUBLE)
        return uniform(op, sums, unweighted, boundary).astype(dtype)
    if boundary.is_wide(stack, reach):
        kernels = partial(_axis_window, sliding_window.mean, sizes, dtype=DOUBLE)
        return filter_axis_by_axis(op, kernels, stack, reach, boundary, dtype)
    kernel = partial(sliding_window.mean, sizes=sizes, dtype=dtype)
    return filter_blocks(op, kernel, stack, reach, boundary, dtype, 8.0, accepts_out=True)


def extremum(
    op: str,
    stack: xr.DataArray,
    reach: Sequence[Reach],
    boundary: Boundary,
    kernel: Callable[..., Array],
) -> xr.DataArray:
    """Return the minimum or maximum of windows, by ``kernel``."""
    boundary.require(op, stack, reach)
    multiplicities, folded_reach = _multiplicities(stack, reach, boundary)
    folded = tuple(len(m) for m in multiplicities)
    if boundary.is_wide(stack, folded_reach):
        kernels = partial(_axis_window, kernel, folded)
        return filter_axis_by_axis(op, kernels, stack, folded_reach, boundary, stack.dtype)
    scratch = float(max(4, stack.dtype.itemsize))
    return filter_blocks(
        op, partial(kernel, sizes=folded), stack, folded_reach, boundary, stack.dtype, scratch,
        accepts_out=True,
    )  # fmt: skip


def _axis_window(
    kernel: Callable[..., Array], sizes: Sequence[int], axis: int, **options: Any
) -> tuple[Callable[..., Array], float]:
    """Return the kernel of windows along one axis, and 1: it keeps a constant."""
    axis_sizes = tuple(n if a == axis else 1 for a, n in enumerate(sizes))
    return partial(kernel, sizes=axis_sizes, **options), 1.0


def rank(
    op: str, stack: xr.DataArray, reach: Sequence[Reach], number: int, boundary: Boundary
) -> xr.DataArray:
    """Return value ``number``, ascending from 0, of windows that are boxes."""
    boundary.require(op, stack, reach)
    multiplicities, folded_reach = _multiplicities(stack, reach, boundary)
    counts = None
    if tuple(len(m) for m in multiplicities) != _lengths(reach):
        counts = reduce(np.multiply.outer, multiplicities).astype(np.int64)
    return _select_rank(op, stack, folded_reach, counts, number, boundary)


def rank_in_footprint(
    op: str,
    stack: xr.DataArray,
    footprint: Array,
    reach: Sequence[Reach],
    number: int,
    boundary: Boundary,
) -> xr.DataArray:
    """Return value ``number``, ascending from 0, of the voxels where a footprint is 1."""
    boundary.require(op, stack, reach)
    counts, folded_reach = footprint, list(reach)
    for axis, n in enumerate(stack.shape):
        counts, folded_reach[axis] = fold_weights(counts, reach[axis], n, boundary.mode, axis)
    return _select_rank(op, stack, folded_reach, counts, number, boundary)


def _select_rank(
    op: str,
    stack: xr.DataArray,
    reach: Sequence[Reach],
    counts: Array | None,
    number: int,
    boundary: Boundary,
) -> xr.DataArray:
    kernel = partial(rank_kernels.select_rank, sizes=_lengths(reach), rank=number, counts=counts)
    scratch = 4.0 * max(2, stack.dtype.itemsize)
    return filter_blocks(op, kernel, stack, reach, boundary, stack.dtype, scratch)


def _multiplicities(
    stack: xr.DataArray, reach: Sequence[Reach], boundary: Boundary
) -> tuple[list[Array], list[Reach]]:
    """Return the multiplicity of voxels by distance in a window, per axis, and the reach."""
    axes = zip(map(np.ones, _lengths(reach)), reach, stack.shape, strict=True)
    folded = [fold_weights(w, r, n, boundary.mode) for w, r, n in axes]
    return [w for w, _ in folded], [r for _, r in folded]


def _lengths(reach: Sequence[Reach]) -> tuple[int, ...]:
    """Return the voxels of a window along every axis."""
    return tuple(before + 1 + after for before, after in reach)

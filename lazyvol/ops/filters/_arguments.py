"""Filters of a stack from checked arguments: windows, standard deviations and weights per axis."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.arrays import DOUBLE
from lazyvol.kernels.filters import bandpass as bandpass_kernels
from lazyvol.kernels.filters import correlate, sliding_window
from lazyvol.kernels.filters import rank as rank_kernels
from lazyvol.kernels.filters import separable as separable_kernels
from lazyvol.kernels.filters.wide_windows import Reach, fold_weights
from lazyvol.ops._boundary import Boundary, filter_axis_by_axis, filter_blocks
from lazyvol.ops._checks import lengths_in_voxels, require_voxels
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import (
    Sigma,
    Size,
    dims_of,
    float_of,
    is_number,
    per_dim,
    spacing,
    spatial_dims,
    unit_of,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: nonzero weights below which transforms are slower for blocks of any size
MIN_TRANSFORMED = 150
#: bytes per voxel of a block for its transforms: spectra, a tile and its result, padded to lengths
#: that transform fast
TRANSFORM_BYTES = 48.0
#: bytes per voxel for the transform of a whole volume
BANDPASS_BYTES = 32.0
#: voxels along a dim above which the unit of a length must be wrong
MAX_VOXELS = 2**24


def windows(op: str, stack: xr.DataArray, size: Size) -> tuple[int, ...]:
    """Return the voxels of a window along every axis, 1 where it has none."""
    sizes = lengths_in_voxels(op, stack, size)
    _require_length(op, "size", max(sizes.values()))
    return tuple(sizes.get(str(d), 1) for d in stack.dims)


def scales(op: str, stack: xr.DataArray, sigma: Sigma) -> tuple[float, ...]:
    """Return standard deviations in voxels along every axis, 0 where there is none."""
    deviations = per_dim(sigma, spatial_dims(stack), "sigma", known=stack.dims)
    wrong = {d: s for d, s in deviations.items() if not (is_number(s) and 0 <= s < np.inf)}
    if wrong:
        raise LabelError(
            f"{op}: sigma must be 0 or more and finite, got {wrong}; give it in the unit of the "
            f"coordinates"
        )
    voxels = {d: float(s) / abs(spacing(stack, d)) for d, s in deviations.items()}
    return tuple(voxels.get(str(d), 0.0) for d in stack.dims)


def _require_length(op: str, name: str, voxels: float) -> None:
    """Raise OptionError for windows whose weights alone would take hundreds of MiB."""
    if voxels > MAX_VOXELS:
        raise OptionError(
            f"{op}: {name} must be {MAX_VOXELS} voxels or less along a dim, got {voxels:g}; give "
            f"lengths in the unit of the coordinates and sizes in voxels"
        )


def kernel_weights(
    op: str, stack: xr.DataArray, kernel: Any, *, flip: bool
) -> tuple[Array, tuple[Reach, ...]]:
    """Return correlation weights with every axis of a stack, and their reach.

    ``flip`` them for a convolution. The centre of an even length n is its element n // 2, as in
    scipy.ndimage.
    """
    dims = tuple(str(d) for d in stack.dims)
    named = kernel if isinstance(kernel, xr.DataArray) else _named(op, stack, np.asarray(kernel))
    kernel_dims = dims_of(stack, named.dims, what=f"{op}: kernel")
    values = np.asarray(named.transpose(*(d for d in dims if d in kernel_dims)).values)
    if values.dtype.kind not in "biuf" or values.size == 0 or not np.isfinite(values).all():
        raise LabelError(
            f"{op}: kernel must hold finite weights, one or more, got dtype={values.dtype} and "
            f"shape={values.shape}"
        )
    lengths = tuple(named.sizes.get(d, 1) for d in dims)
    reach = tuple((n // 2, n - 1 - n // 2) for n in lengths)
    weights = values.astype(np.float64).reshape(lengths)
    if flip:
        return np.flip(weights).copy(), tuple((after, before) for before, after in reach)
    return weights, reach


def _named(op: str, stack: xr.DataArray, kernel: Array) -> xr.DataArray:
    """Label an array of weights with the last of the spatial dims."""
    dims = spatial_dims(stack)
    if not 1 <= kernel.ndim <= len(dims):
        raise LabelError(
            f"{op}: kernel must have 1 to {len(dims)} axes, for the last of the spatial dims "
            f"{dims}, got shape={kernel.shape}; name its dims with xarray.DataArray(kernel, "
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


def gaussian(
    stack: xr.DataArray, sigma: Sequence[float], truncate: float, boundary: Boundary
) -> xr.DataArray:
    """Smooth with standard deviations in voxels."""
    if truncate <= 0:
        raise LabelError(f"gaussian: truncate must be above 0 standard deviations, got {truncate}")
    _require_length("gaussian", "sigma times truncate", max(sigma) * float(truncate))
    taps = [separable_kernels.gaussian_weights(s, truncate) if s > 0 else np.ones(1) for s in sigma]
    reach = [(len(w) // 2, len(w) // 2) for w in taps]
    weights = [w if len(w) > 1 else None for w in taps]
    return separable("gaussian", stack, weights, reach, boundary)


def uniform(op: str, stack: xr.DataArray, sizes: Sequence[int], boundary: Boundary) -> xr.DataArray:
    """Average windows; along axes with a shorter period than the window as weighted sums."""
    boundary.require(op, stack, _reach(sizes))
    dtype = float_of(stack.dtype)
    multiplicities, folded_reach = _multiplicities(stack, sizes, boundary)
    taps = [
        None if len(m) == n else m / n for m, n in zip(multiplicities, sizes, strict=True)
    ]  # None where every voxel counts once
    if any(t is not None for t in taps):
        unweighted_sizes = [n if t is None else 1 for t, n in zip(taps, sizes, strict=True)]
        reach = [(0, 0) if t is None else r for t, r in zip(taps, folded_reach, strict=True)]
        if max(unweighted_sizes) == 1:
            return separable(op, stack, taps, reach, boundary, dtype)
        sums = separable(op, stack, taps, reach, boundary, DOUBLE)
        return uniform(op, sums, unweighted_sizes, boundary).astype(dtype)
    if boundary.is_wide(stack, _reach(sizes)):
        kernels = partial(_axis_window, sliding_window.mean, sizes, dtype=DOUBLE)
        return filter_axis_by_axis(op, kernels, stack, _reach(sizes), boundary, dtype)
    kernel = partial(sliding_window.mean, sizes=tuple(sizes), dtype=dtype)
    return filter_blocks(op, kernel, stack, _reach(sizes), boundary, dtype, 8.0, accepts_out=True)


def extremum(
    op: str,
    stack: xr.DataArray,
    sizes: Sequence[int],
    boundary: Boundary,
    kernel: Callable[..., Array],
) -> xr.DataArray:
    """Return the minimum or maximum of windows, by ``kernel``."""
    boundary.require(op, stack, _reach(sizes))
    multiplicities, reach = _multiplicities(stack, sizes, boundary)
    folded = tuple(len(m) for m in multiplicities)
    if boundary.is_wide(stack, reach):
        kernels = partial(_axis_window, kernel, folded)
        return filter_axis_by_axis(op, kernels, stack, reach, boundary, stack.dtype)
    scratch = float(max(4, stack.dtype.itemsize))
    return filter_blocks(
        op, partial(kernel, sizes=folded), stack, reach, boundary, stack.dtype, scratch,
        accepts_out=True,
    )  # fmt: skip


def _axis_window(
    kernel: Callable[..., Array], sizes: Sequence[int], axis: int, **options: Any
) -> tuple[Callable[..., Array], float]:
    """Return the kernel of windows along one axis, and 1: it keeps a constant."""
    axis_sizes = tuple(n if a == axis else 1 for a, n in enumerate(sizes))
    return partial(kernel, sizes=axis_sizes, **options), 1.0


def rank(
    op: str, stack: xr.DataArray, sizes: Sequence[int], number: int, boundary: Boundary
) -> xr.DataArray:
    """Return value ``number``, ascending from 0, of windows."""
    boundary.require(op, stack, _reach(sizes))
    multiplicities, reach = _multiplicities(stack, sizes, boundary)
    folded = tuple(len(m) for m in multiplicities)
    counts = None
    if folded != tuple(sizes):
        counts = tuple(m.astype(np.int64) for m in multiplicities)
    kernel = partial(rank_kernels.select_rank, sizes=folded, rank=number, multiplicities=counts)
    scratch = 4.0 * max(2, stack.dtype.itemsize)
    return filter_blocks(op, kernel, stack, reach, boundary, stack.dtype, scratch)


def _multiplicities(
    stack: xr.DataArray, sizes: Sequence[int], boundary: Boundary
) -> tuple[list[Array], list[Reach]]:
    """Return the multiplicity of voxels by distance in a window, per axis, and the reach."""
    axes = zip(map(np.ones, sizes), _reach(sizes), stack.shape, strict=True)
    folded = [fold_weights(w, r, n, boundary.mode) for w, r, n in axes]
    return [w for w, _ in folded], [r for _, r in folded]


def bandpass(
    stack: xr.DataArray,
    dims: Sequence[str],
    shortest: float | None,
    longest: float | None,
    edge: float,
) -> xr.DataArray:
    """Filter whole volumes to a band of wavelengths."""
    steps = _spacing_in_one_unit(stack, dims)
    wavelengths = [w for w in (shortest, longest) if w is not None]
    low, high = shortest or 0.0, np.inf if longest is None else longest
    if not wavelengths or min(wavelengths) <= 0 or low >= high:
        raise LabelError(
            f"bandpass: shortest and longest must be wavelengths above 0 with shortest < longest, "
            f"one of them or both, got {shortest=} and {longest=}"
        )
    if edge < 0:
        raise LabelError(f"bandpass: edge must be 0 or more Fourier pixels, got {edge}")
    pixel = max(1 / (stack.sizes[d] * h) for d, h in zip(dims, steps, strict=True))
    dtype = float_of(stack.dtype)
    kernel = partial(
        bandpass_kernels.bandpass, axes=tuple(stack.dims.index(d) for d in dims), spacing=steps,
        band=(1 / high, np.inf if shortest is None else 1 / shortest), edge=edge * pixel,
        dtype=dtype,
    )  # fmt: skip
    return blockwise(
        kernel, stack, core=dims, dtype=dtype, scratch=BANDPASS_BYTES, title="bandpass"
    )


def _spacing_in_one_unit(stack: xr.DataArray, dims: Sequence[str]) -> tuple[float, ...]:
    """Return the distances of voxels along ``dims``; raise LabelError if their units differ."""
    if not dims:
        raise LabelError(f"bandpass: dim must name one dim or more of {stack.dims}, got {dims}")
    require_voxels("bandpass: stack", stack, dims)
    units = {d: unit_of(stack, d) for d in dims}
    if len(set(units.values())) > 1:
        raise LabelError(
            f"bandpass: dim must name dims with one unit of length, got {units}; convert the "
            f"coordinates"
        )
    return tuple(abs(spacing(stack, d)) for d in dims)


def _reach(sizes: Sequence[int]) -> list[Reach]:
    return [(n // 2, n - 1 - n // 2) for n in sizes]

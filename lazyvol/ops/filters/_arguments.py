"""What filters are given, checked: windows, scales, borders and kernels, per axis of a stack."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels import arrays
from lazyvol.kernels.filters import bandpass, correlate, separable, sliding_window
from lazyvol.kernels.filters import rank as rank_kernels
from lazyvol.kernels.filters.wide_windows import Reach, shortened
from lazyvol.ops._borders import Boundary, axis_by_axis, bordered
from lazyvol.ops._checks import lengths_in_voxels
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

#: products from which transforms may take less time, whatever the block
MANY = 150
#: bytes of a transform per voxel of a block: spectra, a tile and its result, grown to good lengths
TRANSFORMED = 48.0
#: and of the transform of a whole volume
BANDED = 32.0
#: voxels along a dim beyond which a length is a slip of its unit
FARTHEST = 2**24


def windows(op: str, stack: xr.DataArray, size: Size) -> tuple[int, ...]:
    """Voxels of a window along every axis, 1 where it has none."""
    found = lengths_in_voxels(op, stack, size)
    _require_length("size", max(found.values()))
    return tuple(found.get(str(d), 1) for d in stack.dims)


def scales(stack: xr.DataArray, sigma: Sigma) -> tuple[float, ...]:
    """Standard deviations in voxels along every axis, 0 where there is none."""
    given = _per_dim(stack, sigma, "sigma")
    bad = {d: s for d, s in given.items() if not (is_number(s) and 0 <= s < np.inf)}
    if bad:
        raise LabelError(f"sigma is 0 or more, in the unit of the coordinates, got {bad}")
    found = {d: float(s) / abs(spacing(stack, d)) for d, s in given.items()}
    return tuple(found.get(str(d), 0.0) for d in stack.dims)


def _require_length(what: str, voxels: float) -> None:
    """Refuse neighbourhoods whose weights alone would take hundreds of MiB."""
    if voxels > FARTHEST:
        raise OptionError(
            f"{what} must be {FARTHEST} voxels or less along a dim, got {voxels:g}; give lengths "
            f"in the unit of the coordinates and sizes in voxels"
        )


def _per_dim(stack: xr.DataArray, option: Any, what: str) -> dict[str, Any]:
    """An option for all spatial dims, or for those it names."""
    return per_dim(option, spatial_dims(stack), what, known=stack.dims)


def kernel_of(stack: xr.DataArray, kernel: Any, *, turned: bool) -> tuple[Array, tuple[Reach, ...]]:
    """Weights with every axis of a stack, as they are correlated, and how far they reach.

    ``turned`` for those of a convolution. The middle of an even length n is its element n // 2,
    as scipy.ndimage has it.
    """
    dims = tuple(str(d) for d in stack.dims)
    named = kernel if isinstance(kernel, xr.DataArray) else _named(stack, np.asarray(kernel))
    own = dims_of(stack, named.dims, what="a kernel")
    values = np.asarray(named.transpose(*(d for d in dims if d in own)).values)
    if values.dtype.kind not in "biuf" or values.size == 0 or not np.isfinite(values).all():
        raise LabelError(
            f"a kernel has finite weights, one or more, got dtype={values.dtype} and "
            f"shape={values.shape}"
        )
    lengths = tuple(named.sizes.get(d, 1) for d in dims)
    reach = tuple((n // 2, n - 1 - n // 2) for n in lengths)
    weights = values.astype(np.float64).reshape(lengths)
    if turned:
        return np.flip(weights).copy(), tuple((after, before) for before, after in reach)
    return weights, reach


def _named(stack: xr.DataArray, kernel: Array) -> xr.DataArray:
    """An array as weights along the last of the spatial dims."""
    dims = spatial_dims(stack)
    if not 1 <= kernel.ndim <= len(dims):
        raise LabelError(
            f"a kernel without names is for the last of the spatial dims {dims}, got "
            f"shape={kernel.shape}; name its dims with xarray.DataArray(kernel, dims=...)"
        )
    return xr.DataArray(kernel, dims=dims[len(dims) - kernel.ndim :])


def correlated(
    stack: xr.DataArray, weights: Array, reach: Sequence[Reach], border: Boundary, title: str
) -> xr.DataArray:
    """Weighted sums of neighbours, axis by axis where the weights are a product of rows."""
    rows = correlate.factors(weights)
    if rows is not None:
        taps = [None if len(r) == 1 and r[0] == 1 else r for r in rows]
        return separated(stack, taps, reach, border, title)
    border.require(stack, reach)
    short = list(reach)
    for axis, n in enumerate(stack.shape):
        weights, short[axis] = shortened(weights, reach[axis], n, border.mode, axis)
    dtype = float_of(stack.dtype)
    kernel = partial(correlate.correlate, weights=weights, dtype=dtype)
    transformed = TRANSFORMED if np.count_nonzero(weights) >= MANY else 0.0
    return bordered(kernel, stack, short, border, dtype, transformed, title, accepts_out=True)


def separated(
    stack: xr.DataArray,
    taps: Sequence[Array | None],
    reach: Sequence[Reach],
    border: Boundary,
    title: str,
    dtype: np.dtype[Any] | None = None,
) -> xr.DataArray:
    """Weighted sums along each axis that has weights."""
    border.require(stack, reach)
    dtype = dtype or float_of(stack.dtype)
    pairs = [
        (None, (0, 0)) if w is None else shortened(w, r, n, border.mode)
        for w, r, n in zip(taps, reach, stack.shape, strict=True)
    ]
    weights, short = [w for w, _ in pairs], [r for _, r in pairs]
    if border.is_wide(stack, short):
        return axis_by_axis(partial(_row_kernels, weights), stack, short, border, dtype, title)
    axes = [a for a, w in enumerate(weights) if w is not None]
    passes = 0 if separable.swept((2,) * stack.ndim, axes) else 2
    between = max(arrays.kernel_float(t).itemsize for t in (stack.dtype, dtype))
    kernel = partial(separable.separable, weights=tuple(weights), dtype=dtype)
    scratch = float(passes * between)
    return bordered(kernel, stack, short, border, dtype, scratch, title, accepts_out=True)


def _row_kernels(weights: Sequence[Array | None], axis: int) -> tuple[Callable[..., Array], float]:
    """The kernel along one axis, and what it makes of a constant 1."""
    taps = weights[axis]
    if taps is None:
        taps = np.ones(1)
    return partial(separable.along, weights=taps, axis=axis, dtype=arrays.DOUBLE), taps.sum()


def smoothed(
    stack: xr.DataArray, sigma: Sequence[float], truncate: float, border: Boundary
) -> xr.DataArray:
    """Gaussian means of scales in voxels."""
    if not (is_number(truncate) and 0 < truncate < np.inf):
        raise LabelError(f"a Gaussian is cut at truncate > 0 deviations, got {truncate=}")
    _require_length("sigma times truncate", max(sigma) * float(truncate))
    taps = [separable.gaussian_weights(s, truncate) if s > 0 else np.ones(1) for s in sigma]
    reach = [(len(w) // 2, len(w) // 2) for w in taps]
    given = [w if len(w) > 1 else None for w in taps]
    return separated(stack, given, reach, border, "gaussian")


def averaged(
    stack: xr.DataArray, sizes: Sequence[int], border: Boundary, title: str = "uniform"
) -> xr.DataArray:
    """Means of windows; where one is longer than a period of its axis, as weighted sums."""
    border.require(stack, _reach(sizes))
    dtype = float_of(stack.dtype)
    times, near = _times(stack, sizes, border)
    taps = [None if len(t) == n else t / n for t, n in zip(times, sizes, strict=True)]
    if any(t is not None for t in taps):
        short = [n if t is None else 1 for t, n in zip(taps, sizes, strict=True)]
        reach = [(0, 0) if t is None else r for t, r in zip(taps, near, strict=True)]
        between = dtype if max(short) == 1 else arrays.DOUBLE
        found = separated(stack, taps, reach, border, title, between)
        return found if max(short) == 1 else averaged(found, short, border, title).astype(dtype)
    if border.is_wide(stack, _reach(sizes)):
        kernels = partial(_window_kernels, sliding_window.means, sizes, dtype=arrays.DOUBLE)
        return axis_by_axis(kernels, stack, _reach(sizes), border, dtype, title)
    kernel = partial(sliding_window.means, sizes=tuple(sizes), dtype=dtype)
    return bordered(kernel, stack, _reach(sizes), border, dtype, 8.0, title, accepts_out=True)


def extreme(
    stack: xr.DataArray, sizes: Sequence[int], border: Boundary, title: str
) -> xr.DataArray:
    """Least or greatest values of windows, by the name of a kernel."""
    border.require(stack, _reach(sizes))
    times, reach = _times(stack, sizes, border)
    short, found = tuple(len(t) for t in times), getattr(sliding_window, title)
    if border.is_wide(stack, reach):
        kernels = partial(_window_kernels, found, short)
        return axis_by_axis(kernels, stack, reach, border, stack.dtype, title)
    width = float(max(4, stack.dtype.itemsize))
    kernel = partial(found, sizes=short)
    return bordered(kernel, stack, reach, border, stack.dtype, width, title, accepts_out=True)


def _window_kernels(
    kernel: Callable[..., Array], sizes: Sequence[int], axis: int, **options: Any
) -> tuple[Callable[..., Array], float]:
    """The kernel of windows along one axis, and what it makes of a constant 1."""
    own = tuple(n if a == axis else 1 for a, n in enumerate(sizes))
    return partial(kernel, sizes=own, **options), 1.0


def ranked(
    stack: xr.DataArray, sizes: Sequence[int], rank: int, border: Boundary, title: str
) -> xr.DataArray:
    """Values of a rank, from 0, in windows."""
    border.require(stack, _reach(sizes))
    times, reach = _times(stack, sizes, border)
    short = tuple(len(t) for t in times)
    own = None if short == tuple(sizes) else tuple(t.astype(np.int64) for t in times)
    kernel = partial(rank_kernels.ranked, sizes=short, rank=rank, times=own)
    scratch = 4.0 * max(2, stack.dtype.itemsize)
    return bordered(kernel, stack, reach, border, stack.dtype, scratch, title)


def _times(
    stack: xr.DataArray, sizes: Sequence[int], border: Boundary
) -> tuple[list[Array], list[Reach]]:
    """How often windows have the voxels at each place along each axis, and how far these are."""
    ones = zip(map(np.ones, sizes), _reach(sizes), stack.shape, strict=True)
    pairs = [shortened(w, r, n, border.mode) for w, r, n in ones]
    return [w for w, _ in pairs], [r for _, r in pairs]


def passed(
    stack: xr.DataArray,
    dims: Sequence[str],
    shortest: float | None,
    longest: float | None,
    edge: float,
) -> xr.DataArray:
    """Whole volumes through a band of wavelengths."""
    steps = _steps(stack, dims)
    longer, shorter = np.inf if longest is None else longest, shortest or 0.0
    lengths = [w for w in (shortest, longest) if w is not None]
    if not lengths or not all(0 < w < np.inf for w in lengths) or shorter >= longer:
        raise LabelError(
            f"a band is of wavelengths above 0, shortest < longest, one of them or both, got "
            f"{shortest=} and {longest=}"
        )
    if not 0 <= edge < np.inf:
        raise LabelError(f"edges are 0 or more Fourier pixels wide, got {edge=}")
    pixel = max(1 / (stack.sizes[d] * h) for d, h in zip(dims, steps, strict=True))
    dtype = float_of(stack.dtype)
    kernel = partial(
        bandpass.bandpass, axes=tuple(stack.dims.index(d) for d in dims), steps=steps,
        band=(1 / longer, np.inf if shortest is None else 1 / shortest), edge=edge * pixel,
        dtype=dtype,
    )  # fmt: skip
    return blockwise(kernel, stack, core=dims, dtype=dtype, scratch=BANDED, title="bandpass")


def _steps(stack: xr.DataArray, dims: Sequence[str]) -> tuple[float, ...]:
    """Distances of voxels along ``dims``, which have one unit."""
    if not dims:
        raise LabelError(f"a volume has one dim or more, got {dims} of {stack.dims}")
    empty = {d: 0 for d in dims if stack.sizes[d] == 0}
    if empty:
        raise LabelError(f"a volume has one voxel or more along each of {tuple(dims)}, got {empty}")
    units = {d: unit_of(stack, d) for d in dims}
    if len(set(units.values())) > 1:
        raise LabelError(f"wavelengths are in one unit of length, got {units}; convert them")
    return tuple(abs(spacing(stack, d)) for d in dims)


def _reach(sizes: Sequence[int]) -> list[Reach]:
    return [(n // 2, n - 1 - n // 2) for n in sizes]

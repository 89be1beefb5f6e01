"""Smoothed differences of neighbours, Gaussians, and derivatives of Gaussians, all per voxel."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.filters import combined
from lazyvol.kernels.filters.separable import Weights, gaussian_weights
from lazyvol.kernels.filters.wide_windows import Reach
from lazyvol.kernels.geometry.splines import BoundaryMode
from lazyvol.ops._checks import require_window
from lazyvol.ops.filters import _windows
from lazyvol.ops.filters._windows import Boundary
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import Dims, Sigma, Size, dims_of, float_of, per_dim, spatial_dims

Array = np.ndarray[Any, np.dtype[Any]]

#: weights of the difference of both neighbours
DIFFERENCE = np.array([-1.0, 0.0, 1.0])
#: smallest sigma in voxels of a derivative: of a narrower Gaussian it is a finite difference
SIGMA_MIN = 0.5
#: highest order of a derivative
ORDER_MAX = 4
#: bytes per voxel of a block for the sum, one term, and two arrays between passes
PARTS = 8.0 * 4


def smoothed_differences(
    op: str,
    stack: xr.DataArray,
    dim: Dims,
    smooth: Dims,
    smoothing: Sequence[float],
    boundary: Boundary,
) -> xr.DataArray:
    """Return the difference along a dim with ``smoothing`` across it, or the norm of several."""
    dims = difference_dims(op, stack, dim)
    wide = {*dims, *dims_of(stack, smooth, subject=f"{op}: smooth")}
    reach = [(1, 1) if d in wide else (0, 0) for d in stack.dims]
    parts: list[Weights] = [
        [
            DIFFERENCE if d == along else np.array(smoothing) if d in wide else None
            for d in stack.dims
        ]
        for along in dims
    ]
    if len(parts) == 1:
        return _windows.separable(op, stack, parts[0], reach, boundary)
    return _combined(op, stack, parts, reach, boundary, norm=True)


def difference_dims(op: str, stack: xr.DataArray, dim: Dims) -> tuple[str, ...]:
    """Return the dims of differences, None for the spatial ones; raise LabelError without any."""
    dims = spatial_dims(stack) if dim is None else dims_of(stack, dim, subject=f"{op}: dim")
    if not dims:
        raise LabelError(f"{op}: dim must name one dim or more of {stack.dims}, got {dim!r}")
    return dims


def gaussian_derivative(
    op: str, stack: xr.DataArray, sigma: Sigma, order: Size, truncate: float, boundary: Boundary
) -> xr.DataArray:
    """Return the derivative of the given order along every dim of a stack smoothed by a Gaussian.

    One order is that of all dims that are smoothed.
    """
    deviations = _windows.scales(op, stack, sigma)
    smoothed = [str(d) for d, s in zip(stack.dims, deviations, strict=True) if s > 0]
    if not isinstance(order, int):
        by_dim = per_dim(order, spatial_dims(stack), "order", known=stack.dims)
    else:
        by_dim = dict.fromkeys(smoothed, order)
    wrong = {d: n for d, n in by_dim.items() if not 0 <= n <= ORDER_MAX}
    if wrong:
        raise LabelError(f"{op}: order must be from 0 to {ORDER_MAX}, got {wrong}; apply it twice")
    orders = [by_dim.get(str(d), 0) for d in stack.dims]
    _require_scale(op, stack, deviations, orders)
    weights, reach = _gaussians(op, deviations, [orders], truncate)
    return _windows.separable(op, stack, weights[0], reach, boundary)


def gaussian(
    op: str,
    stack: xr.DataArray,
    deviations: Sequence[float],
    boundary: Boundary,
    truncate: float = 4.0,
) -> xr.DataArray:
    """Return a stack smoothed by a Gaussian with standard deviations in voxels by axis."""
    weights, reach = _gaussians(op, deviations, [[0] * stack.ndim], truncate)
    return _windows.separable(op, stack, weights[0], reach, boundary)


def derivatives_combined(
    op: str,
    stack: xr.DataArray,
    sigma: Sigma,
    order: int,
    truncate: float,
    boundary: Boundary,
    *,
    norm: bool,
) -> xr.DataArray:
    """Return the sum or norm of the derivatives along each of the dims that a Gaussian smooths."""
    deviations = _windows.scales(op, stack, sigma)
    axes = [a for a, s in enumerate(deviations) if s > 0]
    if not axes:
        raise LabelError(f"{op}: sigma must be above 0 along one dim or more, got {sigma!r}")
    orders = [[order if a == axis else 0 for a in range(stack.ndim)] for axis in axes]
    for one in orders:
        _require_scale(op, stack, deviations, one)
    parts, reach = _gaussians(op, deviations, orders, truncate)
    return _combined(op, stack, parts, reach, boundary, norm=norm)


def _gaussians(
    op: str, deviations: Sequence[float], orders: Sequence[Sequence[int]], truncate: float
) -> tuple[list[Weights], list[Reach]]:
    """Return weights of equal lengths for each list of ``orders`` by axis, and their reach."""
    if truncate <= 0:
        raise LabelError(f"{op}: truncate must be above 0 standard deviations, got {truncate}")
    require_window(op, "sigma and truncate", max(deviations) * float(truncate))
    least = (max(map(max, orders)) + 1) // 2  # voxels that the highest order needs on each side
    parts = [
        [
            gaussian_weights(s, truncate, n, least) if s > 0 else np.ones(1)
            for s, n in zip(deviations, one, strict=True)
        ]
        for one in orders
    ]
    reach = [(len(w) // 2, len(w) // 2) for w in parts[0]]
    return [[w if len(w) > 1 else None for w in one] for one in parts], reach


def _require_scale(
    op: str, stack: xr.DataArray, deviations: Sequence[float], orders: Sequence[int]
) -> None:
    """Raise LabelError for a derivative along a dim whose Gaussian is too narrow."""
    axes = zip(stack.dims, deviations, orders, strict=True)
    narrow = {str(d): round(s, 3) for d, s, order in axes if order and s < SIGMA_MIN}
    if narrow:
        raise LabelError(
            f"{op}: sigma must be {SIGMA_MIN} voxels or more along dims of a derivative, got "
            f"{narrow} voxels; raise it, or take differences, e.g. by filters.sobel"
        )


def _combined(
    op: str,
    stack: xr.DataArray,
    parts: Sequence[Weights],
    reach: Sequence[Reach],
    boundary: Boundary,
    *,
    norm: bool,
) -> xr.DataArray:
    """Return the sum or the norm of separable correlations with weights of equal lengths."""
    boundary.require(op, stack, reach)
    options: dict[str, Any] = {"norm": norm, "dtype": float_of(stack.dtype)}
    if boundary.is_wide(stack, reach):
        kernel = partial(
            combined.of_whole_volumes, parts=parts, mode=cast(BoundaryMode, boundary.mode),
            fill=boundary.fill, **options,
        )  # fmt: skip
        core = [str(d) for d, r in zip(stack.dims, reach, strict=True) if any(r)]
        return blockwise(
            kernel, stack, core=core, dtype=options["dtype"], scratch=_windows.WHOLE + PARTS,
            title=op,
        )  # fmt: skip
    kernel = partial(combined.of_block, parts=parts, **options)
    return _windows.filter_blocks(op, kernel, stack, reach, boundary, options["dtype"], PARTS)

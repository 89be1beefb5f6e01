"""What filters are given, checked: windows, scales, borders and kernels, per axis of a stack."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels import convolving, frequencies, ranking, running, separable
from lazyvol.plan.borders import MODES
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.stack import (
    Sigma,
    Size,
    dims_of,
    float_of,
    is_number,
    per_dim,
    require_stack,
    spacing,
    spatial_dims,
    unit_of,
)

Array = np.ndarray[Any, np.dtype[Any]]
#: voxels before and after
Reach = tuple[int, int]

#: products from which transforms may take less time, whatever the block
MANY = 150
#: bytes of a transform per voxel of a block: spectra, a tile and its result, grown to good lengths
TRANSFORMED = 48.0
#: and of the transform of a whole volume
BANDED = 32.0


@dataclass(frozen=True)
class Border:
    """What lies beyond a stack: a mode of scipy.ndimage or ``"valid"``, and its constant."""

    mode: str = "reflect"
    fill: float = 0.0

    def require(self, stack: xr.DataArray, depth: Mapping[str, Reach]) -> None:
        """Refuse a border that there is not, or one that does not fit a stack."""
        if self.mode not in (*MODES, "valid"):
            raise LabelError(f"mode is one of {(*MODES, 'valid')}, got {self.mode!r}")
        if self.mode == "constant" and not _holds(stack.dtype, self.fill):
            raise LabelError(
                f"fill is a value of the stack, got fill={self.fill} for dtype={stack.dtype}; "
                f"convert the stack, e.g. with .astype('float32')"
            )
        short = {d: stack.sizes[d] for d, (a, b) in depth.items() if stack.sizes[d] <= a + b}
        if self.mode == "valid" and short:
            needed = {d: sum(depth[d]) + 1 for d in short}
            raise LabelError(
                f"mode='valid' needs a whole neighbourhood of {needed} voxels within the stack, "
                f"got {short}; choose another mode, or a smaller kernel"
            )


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a value of any float type, or exactly of another type."""
    if dtype.kind == "f":
        return True
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(value == round(value) if np.isfinite(value) else False) and least <= value <= most


def real(stack: xr.DataArray) -> xr.DataArray:
    """``stack``, of real numbers."""
    if require_stack(stack).dtype.kind == "c":
        raise LabelError(
            f"filters are for real numbers, got dtype={stack.dtype}; filter .real and .imag"
        )
    return stack


def windows(stack: xr.DataArray, size: Size) -> tuple[int, ...]:
    """Voxels of a window along every axis, 1 where it has none."""
    given = _per_dim(stack, size, "size")
    found = {d: _whole(n) for d, n in given.items()}
    if min(found.values()) < 1:
        raise LabelError(f"size is in whole voxels, 1 or more, got {size=}")
    return tuple(found.get(str(d), 1) for d in stack.dims)


def scales(stack: xr.DataArray, sigma: Sigma) -> tuple[float, ...]:
    """Standard deviations in voxels along every axis, 0 where there is none."""
    given = _per_dim(stack, sigma, "sigma")
    bad = {d: s for d, s in given.items() if not (is_number(s) and 0 <= s < np.inf)}
    if bad:
        raise LabelError(f"sigma is 0 or more, in the unit of the coordinates, got {bad}")
    found = {d: float(s) / abs(spacing(stack, d)) for d, s in given.items()}
    return tuple(found.get(str(d), 0.0) for d in stack.dims)


def _per_dim(stack: xr.DataArray, option: Any, what: str) -> dict[str, Any]:
    """An option for all spatial dims, or for those it names."""
    return per_dim(option, spatial_dims(real(stack)), what, known=stack.dims)


def _whole(number: Any) -> int:
    """A whole number; 0 where it is none."""
    try:
        return index(number)
    except TypeError:
        return 0


def kernel_of(stack: xr.DataArray, kernel: Any, *, turned: bool) -> tuple[Array, tuple[Reach, ...]]:
    """Weights with every axis of a stack, as they are correlated, and how far they reach.

    ``turned`` for those of a convolution. The middle of an even length n is its element n // 2,
    as scipy.ndimage has it.
    """
    dims = tuple(str(d) for d in real(stack).dims)
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
    stack: xr.DataArray, weights: Array, reach: Sequence[Reach], border: Border, title: str
) -> xr.DataArray:
    """Weighted sums of neighbours, axis by axis where the weights are a product of rows."""
    rows = convolving.factors(weights)
    if rows is not None:
        taps = [None if len(r) == 1 and r[0] == 1 else r for r in rows]
        return separated(stack, taps, reach, border, title)
    dtype = float_of(stack.dtype)
    kernel = partial(convolving.correlate, weights=weights, dtype=dtype)
    transformed = TRANSFORMED if np.count_nonzero(weights) >= MANY else 0.0
    return _bordered(kernel, stack, reach, border, dtype, transformed, title, fills=True)


def separated(
    stack: xr.DataArray,
    taps: Sequence[Array | None],
    reach: Sequence[Reach],
    border: Border,
    title: str,
) -> xr.DataArray:
    """Weighted sums along each axis that has weights."""
    dtype = float_of(stack.dtype)
    axes = [a for a, w in enumerate(taps) if w is not None]
    passes = 0 if separable.swept((2,) * stack.ndim, axes) else 2
    between = max(separable.readable_type(t).itemsize for t in (stack.dtype, dtype))
    kernel = partial(separable.separable, weights=tuple(taps), dtype=dtype)
    scratch = float(passes * between)
    return _bordered(kernel, stack, reach, border, dtype, scratch, title, fills=True)


def smoothed(
    stack: xr.DataArray, sigma: Sequence[float], truncate: float, border: Border
) -> xr.DataArray:
    """Gaussian means of scales in voxels."""
    if not 0 < truncate < np.inf:
        raise LabelError(f"a Gaussian is cut at truncate > 0 deviations, got {truncate=}")
    taps = [separable.gaussian_weights(s, truncate) if s > 0 else np.ones(1) for s in sigma]
    reach = [(len(w) // 2, len(w) // 2) for w in taps]
    given = [w if len(w) > 1 else None for w in taps]
    return separated(stack, given, reach, border, "gaussian")


def averaged(stack: xr.DataArray, sizes: Sequence[int], border: Border) -> xr.DataArray:
    """Means of windows."""
    dtype = float_of(stack.dtype)
    kernel = partial(running.means, sizes=tuple(sizes), dtype=dtype)
    return _bordered(kernel, stack, _reach(sizes), border, dtype, 8.0, "uniform", fills=True)


def extreme(stack: xr.DataArray, sizes: Sequence[int], border: Border, title: str) -> xr.DataArray:
    """Least or greatest values of windows, by the name of a kernel."""
    kernel = partial(getattr(running, title), sizes=tuple(sizes))
    width = float(max(4, stack.dtype.itemsize))
    return _bordered(kernel, stack, _reach(sizes), border, stack.dtype, width, title, fills=True)


def ranked(
    stack: xr.DataArray, sizes: Sequence[int], rank: int, border: Border, title: str
) -> xr.DataArray:
    """Values of a rank, from 0, in windows."""
    kernel = partial(ranking.ranked, sizes=tuple(sizes), rank=rank)
    scratch = 4.0 * max(2, stack.dtype.itemsize)
    return _bordered(kernel, stack, _reach(sizes), border, stack.dtype, scratch, title)


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
        frequencies.bandpass, axes=tuple(stack.dims.index(d) for d in dims), steps=steps,
        band=(1 / longer, np.inf if shortest is None else 1 / shortest), edge=edge * pixel,
        dtype=dtype,
    )  # fmt: skip
    return blockwise(kernel, stack, core=dims, dtype=dtype, scratch=BANDED, title="bandpass")


def _steps(stack: xr.DataArray, dims: Sequence[str]) -> tuple[float, ...]:
    """Distances of voxels along ``dims``, which have one unit."""
    if not dims:
        raise LabelError(f"a volume has one dim or more, got {dims} of {stack.dims}")
    units = {d: unit_of(stack, d) for d in dims}
    if len(set(units.values())) > 1:
        raise LabelError(f"wavelengths are in one unit of length, got {units}; convert them")
    return tuple(abs(spacing(stack, d)) for d in dims)


def _reach(sizes: Sequence[int]) -> list[Reach]:
    return [(n // 2, n - 1 - n // 2) for n in sizes]


def _bordered(
    kernel: Callable[..., Array],
    stack: xr.DataArray,
    reach: Sequence[Reach],
    border: Border,
    dtype: np.dtype[Any],
    scratch: float,
    title: str,
    *,
    fills: bool = False,
) -> xr.DataArray:
    """``kernel`` over a stack that goes on beyond its border."""
    depth = {str(d): r for d, r in zip(stack.dims, reach, strict=True)}
    border.require(stack, depth)
    return stencil(
        kernel, stack, depth=depth, mode=border.mode, fill=border.fill, dtype=dtype, title=title,
        scratch=scratch + _cast(stack.dtype) + _cast(dtype), fills=fills,
    )  # fmt: skip


def _cast(dtype: np.dtype[Any]) -> float:
    """Bytes per voxel of a block in a type that compiled code reads."""
    found = separable.readable_type(dtype)
    return 0.0 if found == dtype else float(found.itemsize)

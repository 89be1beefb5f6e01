"""Volumes to differentiate: dims, spacing, scale and boundary, checked, and verbs over them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.arrays import kernel_float
from lazyvol.kernels.derivatives import finite_differences, gaussian_derivatives
from lazyvol.kernels.derivatives.outputs import DerivativeTask
from lazyvol.kernels.filters import wide_windows
from lazyvol.ops._checks import require_held, require_window
from lazyvol.plan.recipes.stencil import Mode
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.stack import (
    Dims,
    Sigma,
    dims_of,
    float_of,
    is_number,
    per_dim,
    require_one_unit,
    spacing,
    spatial_dims,
    unit_of,
)

#: smallest sigma in voxels: of a narrower Gaussian the derivative is a finite difference
SIGMA_MIN = 0.5
#: bytes per voxel of a whole volume: six float64 fields, one of them padded threefold twice
WHOLE_SCRATCH = 8.0 * 12
#: bytes per voxel of a padded block for tiles of smoothed fields, which take some MiB
TILE_SCRATCH = 1.0


@dataclass(frozen=True)
class Field:
    """A volume and how to differentiate it; ``sigma`` is in voxels, None for differences."""

    volume: xr.DataArray
    dims: tuple[str, ...]
    steps: tuple[float, ...]
    sigma: tuple[float, ...] | None
    mode: Mode
    fill: float
    truncate: float

    @classmethod
    def of(
        cls,
        op: str,
        volume: xr.DataArray,
        dim: Dims,
        sigma: Sigma | None,
        mode: Mode,
        fill: float,
        truncate: float,
    ) -> "Field":
        """Return the field of an operation's options; raise LabelError if they do not fit."""
        dims = derivative_dims(op, volume, dim)
        steps = tuple(spacing(volume, d) for d in dims)
        if sigma is None:
            _require_neighbours(op, volume, dims, mode)
            return cls(volume, dims, steps, None, mode, fill, truncate)
        require_truncate(op, truncate)
        require_fill(op, volume.dtype, mode, fill)
        voxels = sigma_in_voxels(op, volume, dims, sigma, truncate)
        narrow = {d: round(s, 3) for d, s in zip(dims, voxels, strict=True) if s < SIGMA_MIN}
        if narrow:
            raise LabelError(
                f"{op}: sigma must be {SIGMA_MIN} voxels or more, got {narrow} voxels for "
                f"{sigma=}; raise it, or take differences with sigma=None"
            )
        return cls(volume, dims, steps, voxels, mode, fill, truncate)

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of the dims."""
        return tuple(self.volume.dims.index(d) for d in self.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of a result."""
        return float_of(self.volume.dtype)

    def task(
        self, output: int, dtype: np.dtype[Any] | None = None, options: Sequence[float] = ()
    ) -> DerivativeTask:
        """Return the kernels' task for a result."""
        return DerivativeTask(output, self.axes, self.steps, dtype or self.dtype, tuple(options))

    def reach(self, order: int) -> dict[str, int]:
        """Return the halo of a derivative of an order, in voxels on each side."""
        if self.sigma is None:
            return dict.fromkeys(self.dims, order)
        radii = [gaussian_derivatives.radius(s, self.truncate, 1) for s in self.sigma]
        return dict(zip(self.dims, radii, strict=True))

    @property
    def is_wide(self) -> bool:
        """True if a volume with its halo would take too much memory."""
        return self.sigma is not None and is_wide(self.volume, self.reach(2))

    def kernel(self, task: DerivativeTask, whole: bool) -> Callable[..., Any]:
        """Return the kernel of a task for whole volumes, or for blocks with a halo."""
        if self.sigma is None:
            return partial(finite_differences.of_block, task=task)
        scale: dict[str, Any] = {"task": task, "sigma": self.sigma, "truncate": self.truncate}
        if whole:
            return partial(
                gaussian_derivatives.of_whole_volumes,
                **scale,
                mode=self.mode,
                fill=float(self.fill),
            )
        return partial(gaussian_derivatives.of_block, **scale)

    def result(
        self, task: DerivativeTask, title: str, new: Sequence[str] = (), *, power: int = 1
    ) -> xr.DataArray:
        """Return a task's result with ``new`` dims, in the volume's unit to ``power``."""
        kernel = self.kernel(task, self.is_wide)
        sizes = dict(zip(new, task.components, strict=True))
        if self.is_wide:
            array = self.over_volumes(kernel, sizes, task.dtype, title)
        else:
            array = self.over_blocks(
                kernel, sizes, task.dtype, self.reach(task.order), title, accepts_out=True,
            )  # fmt: skip
        return self.with_unit(array, power, power * task.order)

    def over_blocks(
        self, kernel: Callable[..., Any], sizes: Mapping[str, int], dtype: np.dtype[Any],
        depth: Mapping[str, int], title: str, *, scratch: float = 0.0, accepts_out: bool = False,
    ) -> xr.DataArray:  # fmt: skip
        """Apply ``kernel`` to blocks with a halo."""
        source, components = self.volume.dtype, prod(sizes.values())
        scratch += 0.0 if self.sigma is None else TILE_SCRATCH
        scratch += 0.0 if kernel_float(source) == source else kernel_float(source).itemsize
        if kernel_float(dtype) != dtype:
            scratch += components * kernel_float(dtype).itemsize
        return stencil(
            kernel, self.volume, depth=dict(depth), sizes=sizes, dtype=dtype, scratch=scratch,
            mode="clip" if self.sigma is None else self.mode, fill=self.fill,
            accepts_out=accepts_out, labels=self.labels(sizes), title=title,
        )  # fmt: skip

    def over_volumes(
        self, kernel: Callable[..., Any], sizes: Mapping[str, int], dtype: np.dtype[Any], title: str
    ) -> xr.DataArray:
        """Apply ``kernel`` to whole volumes."""
        labels = self.labels(sizes)
        return over_whole_dims(kernel, self.volume, self.dims, sizes, dtype, labels, title)

    def labels(self, new: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return coordinates of those new dims that have an element for each of the dims."""
        return {d: self.dims for d in new if d.startswith("axis")}

    def with_unit(self, array: xr.DataArray, power: int, order: int) -> xr.DataArray:
        """Set the unit of ``array``: the volume's to ``power`` over length to ``order``."""
        unit = _unit_over(self.volume, unit_of(self.volume, self.dims[0]), power, order)
        attrs = {n: v for n, v in array.attrs.items() if n != "units"}
        array.attrs = attrs | ({"units": unit} if unit else {})
        return array


def is_wide(stack: xr.DataArray, reach: Mapping[str, int]) -> bool:
    """Return True if a stack padded by ``reach`` on every side takes too much memory."""
    return wide_windows.is_wide(stack.shape, [(reach.get(str(d), 0),) * 2 for d in stack.dims])


def over_whole_dims(
    kernel: Callable[..., Any], stack: xr.DataArray, dims: Sequence[str], sizes: Mapping[str, int],
    dtype: np.dtype[Any], labels: Mapping[str, Sequence[str]], title: str,
) -> xr.DataArray:  # fmt: skip
    """Apply ``kernel`` to blocks whose ``dims`` are whole; new dims of ``sizes`` come last."""
    result = blockwise(
        kernel, stack, core=dims, out=(*(str(d) for d in stack.dims), *sizes), sizes=sizes,
        dtype=dtype, scratch=WHOLE_SCRATCH, title=title,
    )  # fmt: skip
    return result.assign_coords({d: (d, list(names)) for d, names in labels.items()})


def derivative_dims(op: str, volume: xr.DataArray, dim: Dims) -> tuple[str, ...]:
    """Return the dims to differentiate along; raise LabelError unless one to three, in one unit."""
    dims = spatial_dims(volume) if dim is None else dims_of(volume, dim, subject=f"{op}: dim")
    if not 1 <= len(dims) <= 3:
        raise LabelError(
            f"{op}: dim must name one to three dims, got {dims} of {volume.dims}; pass dim="
        )
    require_one_unit(volume, dims, f"{op}: volume")
    return dims


def sigma_in_voxels(
    op: str, volume: xr.DataArray, dims: Sequence[str], sigma: Sigma, truncate: float
) -> tuple[float, ...]:
    """Convert a scale in the unit of the coordinates to voxels along each dim."""
    lengths = per_dim(sigma, dims, f"{op}: sigma")
    bad = {d: s for d, s in lengths.items() if not (is_number(s) and 0 < s < np.inf)}
    if set(lengths) != set(dims) or bad:
        raise LabelError(
            f"{op}: sigma must be one positive length or one for each of {tuple(dims)}, got "
            f"{sigma!r}; the unit is {unit_of(volume, dims[0])}"
        )
    voxels = tuple(float(lengths[d]) / abs(spacing(volume, d)) for d in dims)
    require_window(op, "sigma and truncate", max(voxels) * truncate)
    return voxels


def require_fill(op: str, dtype: np.dtype[Any], mode: Mode, fill: float) -> None:
    """Raise LabelError unless ``fill`` is finite, and a value of the volume's dtype where used."""
    if not np.isfinite(fill):
        raise LabelError(f"{op}: fill must be finite, got {fill=}; the default is 0.0")
    if mode == "constant":
        require_held(op, dtype, fill)


def require_truncate(op: str, truncate: float) -> None:
    """Raise LabelError unless ``truncate`` is positive."""
    if not 0 < truncate < np.inf:
        raise LabelError(f"{op}: truncate must be above 0, got {truncate=}; the default is 4.0")


def _require_neighbours(op: str, volume: xr.DataArray, dims: Sequence[str], mode: str) -> None:
    """Raise LabelError unless ``dims`` have enough voxels for differences."""
    short = {d: volume.sizes[d] for d in dims if volume.sizes[d] < 2}
    if short:
        raise LabelError(
            f"{op}: volume must have two voxels or more along each of {tuple(dims)} for "
            f"differences, got {short}; leave these out of dim=, or pass a sigma"
        )
    if mode != "reflect":
        raise LabelError(
            f"{op}: mode must be 'reflect' without a sigma, got {mode=}; differences are one-sided "
            f"at the border, pass a sigma for a Gaussian"
        )


def _unit_over(volume: xr.DataArray, length: str, power: int, order: int) -> str | None:
    """Return the volume's unit to ``power`` over ``length`` to ``order``; None without a unit."""
    unit = str(volume.attrs.get("units") or "")
    if not unit or power == 0:
        return None
    unit = f"({unit})" if any(c in unit for c in " /*^") else unit
    numerator = unit if power == 1 else f"{unit}^{power}"
    return f"{numerator}/{length}" if order == 1 else f"{numerator}/{length}^{order}"

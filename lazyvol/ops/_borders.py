"""Kernels over stacks that go on beyond their border, in memory that a short axis bounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, cast

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels import arrays
from lazyvol.kernels.filters import wide_windows
from lazyvol.kernels.filters.wide_windows import Pass, Reach
from lazyvol.plan.recipes.borders import MODES, Mode
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.stack import is_number

Array = np.ndarray[Any, np.dtype[Any]]

#: bytes per voxel of whole volumes in float64, one axis of which is padded threefold
WHOLE = 8.0 * 5


@dataclass(frozen=True)
class Boundary:
    """What lies beyond a stack: a mode of scipy.ndimage or ``"valid"``, and its constant."""

    mode: str = "reflect"
    fill: float = 0.0

    def require(self, stack: xr.DataArray, reach: Sequence[Reach]) -> None:
        """Refuse a border that there is not, or one that does not fit a stack."""
        if self.mode not in (*MODES, "valid"):
            raise LabelError(f"mode is one of {(*MODES, 'valid')}, got {self.mode!r}")
        if not is_number(self.fill):
            raise OptionError(f"fill must be a number, got fill={self.fill!r}; the default is 0.0")
        if self.mode == "constant" and not _holds(stack.dtype, self.fill):
            raise LabelError(
                f"fill is a value of the stack, got fill={self.fill} for dtype={stack.dtype}; "
                f"convert the stack, e.g. with .astype('float32')"
            )
        depth = {str(d): r for d, r in zip(stack.dims, reach, strict=True)}
        short = {d: stack.sizes[d] for d, (a, b) in depth.items() if stack.sizes[d] <= a + b}
        if self.mode == "valid" and short:
            needed = {d: sum(depth[d]) + 1 for d in short}
            raise LabelError(
                f"mode='valid' needs a whole neighbourhood of {needed} voxels within the stack, "
                f"got {short}; choose another mode, or a smaller kernel"
            )

    def is_wide(self, stack: xr.DataArray, reach: Sequence[Reach]) -> bool:
        """Whether volumes with what lies beyond them take too much memory at once."""
        return self.mode != "valid" and wide_windows.is_wide(stack.shape, reach)


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a value of a float type to rounding, or exactly of another type."""
    if dtype.kind == "f":
        return not np.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return bool(value == round(value) if np.isfinite(value) else False) and least <= value <= most


def bordered(
    kernel: Callable[..., Array],
    stack: xr.DataArray,
    reach: Sequence[Reach],
    border: Boundary,
    dtype: np.dtype[Any],
    scratch: float,
    title: str,
    *,
    accepts_out: bool = False,
) -> xr.DataArray:
    """``kernel`` over a stack that goes on beyond its border."""
    depth = {str(d): r for d, r in zip(stack.dims, reach, strict=True)}
    scratch += _cast(stack.dtype) + _cast(dtype)
    if border.is_wide(stack, reach):
        grown = prod(1 + sum(r) / max(1, n) for r, n in zip(reach, stack.shape, strict=True))
        one = Pass(kernel, tuple(reach), border.fill)
        return _of_wholes(
            (one,), stack, border, dtype, (scratch + stack.dtype.itemsize) * grown, title
        )
    return stencil(
        kernel, stack, depth=depth, mode=border.mode, fill=border.fill, dtype=dtype, title=title,
        scratch=scratch, accepts_out=accepts_out,
    )  # fmt: skip


def axis_by_axis(
    kernels: Callable[[int], tuple[Callable[..., Array], float]],
    stack: xr.DataArray,
    reach: Sequence[Reach],
    border: Boundary,
    dtype: np.dtype[Any],
    title: str,
) -> xr.DataArray:
    """A kernel along every axis that has a reach, each of which is padded by itself."""
    passes, beyond = [], border.fill
    for axis in range(stack.ndim):
        kernel, gain = kernels(axis)
        own = tuple(r if a == axis else (0, 0) for a, r in enumerate(reach))
        if own[axis] != (0, 0) or gain != 1:
            passes.append(Pass(kernel, own, beyond))
            beyond = beyond * gain if gain != 1 else beyond
    return _of_wholes(passes, stack, border, dtype, WHOLE, title)


def _of_wholes(
    passes: Sequence[Pass],
    stack: xr.DataArray,
    border: Boundary,
    dtype: np.dtype[Any],
    scratch: float,
    title: str,
) -> xr.DataArray:
    """Passes over blocks whose axes are whole where they reach beyond a voxel."""
    axes = tuple(a for a in range(stack.ndim) if any(p.reach[a] != (0, 0) for p in passes))
    kernel = partial(
        wide_windows.filtered,
        passes=tuple(passes),
        axes=axes,
        mode=cast(Mode, border.mode),
        dtype=dtype,
    )
    core = [str(stack.dims[a]) for a in axes]
    return blockwise(kernel, stack, core=core, dtype=dtype, scratch=scratch, title=title)


def _cast(dtype: np.dtype[Any]) -> float:
    """Bytes per voxel of a block in a type that compiled code reads."""
    found = arrays.kernel_float(dtype)
    return 0.0 if found == dtype else float(found.itemsize)

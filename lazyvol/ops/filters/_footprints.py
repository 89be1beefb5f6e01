"""Windows of rank filters: a box, a ball, or any footprint."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.filters import sliding_window
from lazyvol.kernels.filters.wide_windows import Reach
from lazyvol.ops._ball import ball, with_axes_of
from lazyvol.ops.filters import _windows
from lazyvol.ops.filters._windows import Boundary, Mode
from lazyvol.stack import Size, spatial_dims

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Window:
    """The window of an operation: a box, or a footprint with a stack's axes, 1 where voxels count.

    ``reach`` is its extent before and after the centre along every axis of the stack; ``boundary``
    continues the stack beyond its border.
    """

    op: str
    boundary: Boundary
    reach: list[Reach]
    footprint: Array | None = None

    @property
    def count(self) -> int:
        """Number of voxels that count."""
        if self.footprint is None:
            return prod(before + 1 + after for before, after in self.reach)
        return int(self.footprint.sum())

    def rank(self, stack: xr.DataArray, number: int) -> xr.DataArray:
        """Return value ``number``, ascending from 0, of every window."""
        if self.footprint is None:
            return _windows.rank(self.op, stack, self.reach, number, self.boundary)
        return _windows.rank_in_footprint(
            self.op, stack, self.footprint, self.reach, number, self.boundary
        )

    def minimum(self, stack: xr.DataArray) -> xr.DataArray:
        """Return the minimum of every window: the erosion of grey morphology."""
        if self.footprint is not None:
            return self.rank(stack, 0)
        return _windows.extremum(self.op, stack, self.reach, self.boundary, sliding_window.minimum)

    def maximum(self, stack: xr.DataArray) -> xr.DataArray:
        """Return the maximum of every window."""
        if self.footprint is not None:
            return self.rank(stack, self.count - 1)
        return _windows.extremum(self.op, stack, self.reach, self.boundary, sliding_window.maximum)

    def dilated(self, stack: xr.DataArray) -> xr.DataArray:
        """Return the maximum of every window mirrored at its centre."""
        reach = [(after, before) for before, after in self.reach]
        footprint = None if self.footprint is None else np.flip(self.footprint)
        return replace(self, reach=reach, footprint=footprint).maximum(stack)


def window(
    op: str,
    stack: xr.DataArray,
    size: Size | None,
    radius: float | None,
    footprint: Any,
    origin: Size,
    mode: Mode,
    fill: float,
) -> Window:
    """Return the window of the one option that is given; raise LabelError unless there is one."""
    options = {"size": size, "radius": radius, "footprint": footprint}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise LabelError(
            f"{op}: size must be given, or radius or footprint in its place, got "
            f"{' and '.join(given) or 'none'}; pass one of them"
        )
    if size is not None:
        return Window(op, Boundary(mode, fill), _windows.windows(op, stack, size, origin))
    if radius is not None:
        element = _ball(op, stack, radius)
    else:
        element = _windows.footprint_of(op, stack, footprint).astype(np.int64)
    reach = _windows.placed(op, stack, element.shape, origin)
    return Window(op, Boundary(mode, fill), reach, element)


def _ball(op: str, stack: xr.DataArray, radius: float) -> Array:
    """Return a ball with the axes of a stack, 1 long along dims that are not spatial."""
    dims = spatial_dims(stack)
    if not dims:
        raise LabelError(
            f"{op}: stack must have some of the dims z, y, x for a radius, got {stack.dims}; "
            f"rename them, or pass a size by dim"
        )
    element = ball(f"{op}: stack", stack, dims, radius).astype(np.int64)
    return with_axes_of(stack, element, dims)

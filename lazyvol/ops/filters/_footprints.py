"""Windows of rank filters: a box, a ball, or any footprint."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.filters.wide_windows import Reach
from lazyvol.ops._ball import ball, with_axes_of
from lazyvol.ops.filters import _windows
from lazyvol.ops.filters._windows import Boundary
from lazyvol.stack import Size, spatial_dims

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Window:
    """The reach of a box, or of a footprint with a stack's axes that is 1 where voxels count."""

    reach: list[Reach]
    footprint: Array | None = None

    @property
    def count(self) -> int:
        """Number of voxels that count."""
        if self.footprint is None:
            return prod(before + 1 + after for before, after in self.reach)
        return int(self.footprint.sum())

    def mirrored(self) -> "Window":
        """Return the window mirrored at its centre."""
        reach = [(after, before) for before, after in self.reach]
        return Window(reach, None if self.footprint is None else np.flip(self.footprint))

    def rank(self, op: str, stack: xr.DataArray, number: int, boundary: Boundary) -> xr.DataArray:
        """Return value ``number``, ascending from 0, of every window."""
        if self.footprint is None:
            return _windows.rank(op, stack, self.reach, number, boundary)
        return _windows.rank_in_footprint(op, stack, self.footprint, self.reach, number, boundary)

    def extremum(
        self,
        op: str,
        stack: xr.DataArray,
        boundary: Boundary,
        kernel: Callable[..., Array],
        number: int,
    ) -> xr.DataArray:
        """Return the extreme of every window: by ``kernel`` of a box, else value ``number``."""
        if self.footprint is None:
            return _windows.extremum(op, stack, self.reach, boundary, kernel)
        return self.rank(op, stack, number % self.count, boundary)


def window(
    op: str,
    stack: xr.DataArray,
    size: Size | None,
    radius: float | None,
    footprint: Any,
    origin: Size,
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
        return Window(_windows.windows(op, stack, size, origin))
    if radius is not None:
        element = _ball(op, stack, radius)
    else:
        element = _windows.footprint_of(op, stack, footprint).astype(np.int64)
    return Window(_windows.placed(op, stack, element.shape, origin), element)


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

"""What derivatives are taken of: dims, distances, scale and border of a volume, checked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.arrays import kernel_float
from lazyvol.kernels.derivatives import gaussian_derivatives as kernels
from lazyvol.kernels.derivatives.volumes import Task
from lazyvol.kernels.filters import wide_windows
from lazyvol.plan.recipes.borders import MODES, Mode
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.stack import (
    Dims,
    Sigma,
    dims_of,
    float_of,
    is_number,
    per_dim,
    require_stack,
    spacing,
    spatial_dims,
    unit_of,
)

#: in voxels: the sampled derivative of a narrower Gaussian is a difference of neighbours
NARROWEST = 0.5


@dataclass(frozen=True)
class Grid:
    """A volume and how to differentiate it; ``sigma`` in voxels, None for differences."""

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
        volume: xr.DataArray,
        dim: Dims,
        sigma: Sigma | None,
        mode: Mode,
        fill: float,
        truncate: float,
    ) -> "Grid":
        """The grid that a caller's options mean."""
        dims = differentiated(volume, dim)
        steps = tuple(spacing(volume, d) for d in dims)
        if sigma is None:
            _require_neighbours(volume, dims, mode)
            return cls(volume, dims, steps, None, mode, fill, truncate)
        require_border(mode, fill, truncate)
        voxels = in_voxels(volume, dims, sigma)
        narrow = {d: round(s, 3) for d, s in zip(dims, voxels, strict=True) if s < NARROWEST}
        if narrow:
            raise LabelError(
                f"a derivative needs a sigma of {NARROWEST} voxels or more, got {narrow} voxels "
                f"for {sigma=}; raise it, or take differences with sigma=None"
            )
        return cls(volume, dims, steps, voxels, mode, fill, truncate)

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of the dims."""
        return tuple(self.volume.dims.index(d) for d in self.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a result."""
        return float_of(self.volume.dtype)

    def task(
        self, what: int, dtype: np.dtype[Any] | None = None, options: Sequence[float] = ()
    ) -> Task:
        """What the kernels are to make of the derivatives."""
        return Task(what, self.axes, self.steps, dtype or self.dtype, tuple(options))

    def reach(self, order: int) -> dict[str, int]:
        """Voxels to each side that a derivative of an order sees."""
        if self.sigma is None:
            return dict.fromkeys(self.dims, order)
        return dict(
            zip(self.dims, (kernels.radius(s, self.truncate, 1) for s in self.sigma), strict=True)
        )

    @property
    def is_wide(self) -> bool:
        """Whether a volume and its halo would take too much memory at once."""
        return self.sigma is not None and is_wide(self.volume, self.reach(2))

    def kernel(self, task: Task, whole: bool) -> Callable[..., Any]:
        """The kernel for a task, of whole volumes or of blocks with a halo."""
        if self.sigma is None:
            return partial(kernels.of_differences, task=task)
        scale: dict[str, Any] = {"task": task, "sigma": self.sigma, "truncate": self.truncate}
        if whole:
            return partial(
                kernels.of_whole_gaussians, **scale, mode=self.mode, fill=float(self.fill)
            )
        return partial(kernels.of_gaussians, **scale)

    def made(
        self, task: Task, title: str, new: Sequence[str] = (), *, power: int = 1
    ) -> xr.DataArray:
        """The result of a task, with new dims and unit (``power`` 0: none)."""
        kernel, sizes = (
            self.kernel(task, self.is_wide),
            dict(zip(new, task.components, strict=True)),
        )
        if self.is_wide:
            found = self.whole(kernel, sizes, task.dtype, title)
        else:
            found = self.stencil(
                kernel, sizes, task.dtype, self.reach(task.order), title, fills=True,
                planes=len(new),
            )  # fmt: skip
        return self.labelled(found, power, power * task.order)

    def stencil(
        self, kernel: Callable[..., Any], sizes: Mapping[str, int], dtype: np.dtype[Any],
        depth: Mapping[str, int], title: str, *, scratch: float = 0.0, fills: bool = False,
        planes: int = 0,
    ) -> xr.DataArray:  # fmt: skip
        """``kernel`` over the volume with this grid's border."""
        data, made = self.volume.dtype, prod(sizes.values())
        scratch += 0.0 if self.sigma is None else SMOOTHING
        scratch += 0.0 if kernel_float(data) == data else kernel_float(data).itemsize
        scratch += 0.0 if kernel_float(dtype) == dtype else made * kernel_float(dtype).itemsize
        return stencil(
            kernel, self.volume, depth=dict(depth), sizes=sizes, dtype=dtype, scratch=scratch,
            mode="clip" if self.sigma is None else self.mode, fill=self.fill, fills=fills,
            planes=planes, labels=self.labels(sizes), title=title,
        )  # fmt: skip

    def whole(
        self, kernel: Callable[..., Any], sizes: Mapping[str, int], dtype: np.dtype[Any], title: str
    ) -> xr.DataArray:
        """``kernel`` over whole volumes."""
        return of_wholes(kernel, self.volume, self.dims, sizes, dtype, self.labels(sizes), title)

    def labels(self, new: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Coordinates of new dims along which there is something for each of the dims."""
        return {d: self.dims for d in new if d.startswith("axis")}

    def labelled(self, found: xr.DataArray, power: int, order: int) -> xr.DataArray:
        """``found`` in the volume's unit to ``power`` over length to ``order``."""
        unit = unit_over(self.volume, unit_of(self.volume, self.dims[0]), power, order)
        attrs = {n: v for n, v in found.attrs.items() if n != "units"}
        found.attrs = attrs | ({"units": unit} if unit else {})
        return found


#: bytes per voxel of a whole volume: six fields of float64, one of them padded threefold twice
WHOLE = 8.0 * 12


def is_wide(stack: xr.DataArray, reach: Mapping[str, int]) -> bool:
    """Whether a volume grown by ``reach`` on every side takes too much memory at once."""
    return wide_windows.is_wide(stack.shape, [(reach.get(str(d), 0),) * 2 for d in stack.dims])


def of_wholes(
    kernel: Callable[..., Any], stack: xr.DataArray, dims: Sequence[str], sizes: Mapping[str, int],
    dtype: np.dtype[Any], labels: Mapping[str, Sequence[str]], title: str,
) -> xr.DataArray:  # fmt: skip
    """``kernel`` over blocks whose ``dims`` are whole, with new dims at the end."""
    own = tuple(str(d) for d in stack.dims)
    found = blockwise(
        kernel, stack, core=dims, out=(*own, *sizes), sizes=sizes, dtype=dtype, scratch=WHOLE,
        title=title,
    )  # fmt: skip
    return found.assign_coords({d: (d, list(names)) for d, names in labels.items()})


#: bytes per voxel of a grown block for tiles of smoothed fields, which are of some MiB
SMOOTHING = 1.0


def differentiated(volume: xr.DataArray, dim: Dims) -> tuple[str, ...]:
    """Dims to differentiate along: one to three, in one unit, of real numbers."""
    require_stack(volume)
    if volume.dtype.kind == "c":
        raise LabelError(f"derivatives are of real numbers, got dtype={volume.dtype}; use .real")
    dims = spatial_dims(volume) if dim is None else dims_of(volume, dim)
    if not 1 <= len(dims) <= 3:
        raise LabelError(
            f"derivatives are along one to three dims, got {dims} of {volume.dims}; name them "
            f"with dim="
        )
    units = {d: unit_of(volume, d) for d in dims}
    if len(set(units.values())) > 1:
        raise LabelError(f"derivatives are per one unit of length, got {units}; convert them")
    return dims


def in_voxels(volume: xr.DataArray, dims: Sequence[str], sigma: Sigma) -> tuple[float, ...]:
    """A scale in the unit of the coordinates as one in voxels for each dim."""
    given = per_dim(sigma, dims, "sigma")
    bad = {d: s for d, s in given.items() if not (is_number(s) and 0 < s < np.inf)}
    if set(given) != set(dims) or bad:
        raise LabelError(
            f"sigma is one positive length or one for each of {tuple(dims)}, got {sigma!r}"
        )
    return tuple(float(given[d]) / abs(spacing(volume, d)) for d in dims)


def require_border(mode: str, fill: float, truncate: float) -> None:
    """Refuse a border or a reach that there is not."""
    if mode not in MODES:
        raise LabelError(f"mode is one of {MODES}, got {mode!r}")
    if not np.isfinite(fill) or not 0 < truncate < np.inf:
        raise LabelError(f"fill is finite and truncate above 0, got {fill=} and {truncate=}")


def _require_neighbours(volume: xr.DataArray, dims: Sequence[str], mode: str) -> None:
    short = {d: volume.sizes[d] for d in dims if volume.sizes[d] < 2}
    if short:
        raise LabelError(
            f"differences need two voxels or more along each of {tuple(dims)}, got {short}; leave "
            f"those out of dim=, or give a sigma"
        )
    if mode != "reflect":
        raise LabelError(
            f"mode says what a Gaussian finds beyond the border, differences are one-sided there; "
            f"got {mode=} without a sigma"
        )


def unit_over(volume: xr.DataArray, length: str, power: int, order: int) -> str | None:
    """Unit of a volume to a power, over a length to another; None where there is none."""
    unit = str(volume.attrs.get("units") or "")
    if not unit or power == 0:
        return None
    unit = f"({unit})" if any(c in unit for c in " /*^") else unit
    above = unit if power == 1 else f"{unit}^{power}"
    return f"{above}/{length}" if order == 1 else f"{above}/{length}^{order}"

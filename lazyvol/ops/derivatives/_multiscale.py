"""Measures of a volume at several scales, and of means of its gradient."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.arrays import kernel_float
from lazyvol.kernels.derivatives import gaussian_derivatives as kernels
from lazyvol.kernels.derivatives import multiscale, outputs
from lazyvol.ops import stats
from lazyvol.ops.derivatives._field import (
    SMOOTHING,
    Grid,
    in_voxels,
    is_wide,
    of_wholes,
    require_border,
)
from lazyvol.plan.recipes.borders import Mode
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.stack import Dims, Sigma

#: modes that continue products of derivatives
CONTINUING = tuple(kernels.CONTINUED)


def vesselness(
    grids: Sequence[Grid], fixed: tuple[float, ...], widths: Sequence[float]
) -> xr.DataArray:
    """The largest vesselness over scales, of given 1 / 2 c^2."""
    options = [(*fixed, w) for w in widths]
    return _over(grids, outputs.VESSELNESS, options, grids[0].dtype, "", "vesselness")


def relative_vesselness(grids: Sequence[Grid], fixed: tuple[float, ...]) -> xr.DataArray:
    """The largest vesselness over scales, c half of each volume's largest norm.

    A pass of its own finds the norms.
    """
    dtype, options = kernel_float(grids[0].dtype), [fixed] * len(grids)
    parts = _over(grids, outputs.SHAPE, options, dtype, "part", "vesselness")
    norms = _over(grids, outputs.NORM, options, dtype, "scale", "norm")
    most = stats.max(norms, grids[0].dims, skipna=True)
    peaks = [most.isel(scale=n, drop=True) for n in range(len(grids))]
    return blockwise(
        partial(multiscale.relative_vesselness, dtype=grids[0].dtype), parts, *peaks,
        core=("part",), out=tuple(str(d) for d in grids[0].volume.dims), dtype=grids[0].dtype,
        scratch=16.0, title="vesselness",
    )  # fmt: skip


def _over(
    grids: Sequence[Grid], what: int, options: Sequence[Sequence[float]], dtype: np.dtype[Any],
    new: str, title: str,
) -> xr.DataArray:  # fmt: skip
    """``what`` at every scale: all of them along a ``new`` dim, or the largest."""
    tasks = [g.task(what, dtype, o) for g, o in zip(grids, options, strict=True)]
    reaches, whole = [g.reach(2) for g in grids], any(g.is_wide for g in grids)
    depth = {d: 0 if whole else max(r[d] for r in reaches) for d in grids[0].dims}
    kernel = partial(
        multiscale.of_scales,
        kernels=tuple(g.kernel(t, whole) for g, t in zip(grids, tasks, strict=True)),
        trims=tuple(
            tuple(max(0, depth[d] - r[d]) if d in depth else 0 for d in grids[0].volume.dims)
            for r in reaches
        ),
        apart=bool(new),
    )  # fmt: skip
    each = prod(tasks[0].components)
    sizes = {new: len(grids) * each} if new else {}
    held = dtype.itemsize * each * (len(grids) if new else 1) if len(grids) > 1 else 0
    if whole:
        found = grids[0].whole(kernel, sizes, dtype, title)
    else:
        found = grids[0].stencil(
            kernel, sizes, dtype, depth, title, scratch=held, planes=len(sizes)
        )
    return grids[0].labelled(found, 0, 0)


def tensor(
    what: int, volume: xr.DataArray, sigma: Sigma | None, inner: Sigma | None, mode: Mode,
    truncate: float, dim: Dims, title: str,
) -> xr.DataArray:  # fmt: skip
    """``what`` of Gaussian means of the products of first derivatives."""
    require_border(mode, 0.0, truncate)
    if mode not in CONTINUING:
        raise LabelError(f"products are continued by one of {CONTINUING}, got {mode!r}")
    grid = Grid.of(volume, dim, inner, mode if inner is not None else "reflect", 0.0, truncate)
    if sigma is None:
        raise LabelError("a structure tensor needs the sigma of its means, got None")
    outer = in_voxels(volume, grid.dims, sigma)
    slopes = grid.made(grid.task(outputs.GRADIENT, kernel_float(grid.dtype)), "gradient", ("axis",))
    task = grid.task(what)
    reach = {d: kernels.radius(s, truncate) for d, s in zip(grid.dims, outer, strict=True)}
    new = dict.fromkeys(("axis_other",)[: len(task.components) - 1], len(grid.dims))
    scale: dict[str, Any] = {"task": task, "sigma": outer, "truncate": truncate, "mode": mode}
    if is_wide(volume, reach):
        found = of_wholes(
            partial(kernels.of_whole_products, **scale), slopes, (*grid.dims, "axis"), new,
            task.dtype, grid.labels(new), title,
        )  # fmt: skip
    else:
        found = stencil(
            partial(kernels.of_products, **scale),
            slopes, depth=reach | {"axis": len(grid.dims) - 1}, mode="clip", dtype=task.dtype,
            sizes=new, labels=grid.labels(new), planes=len(task.components), scratch=2 * SMOOTHING,
            title=title,
        )  # fmt: skip
    return grid.labelled(found, 2, 2)

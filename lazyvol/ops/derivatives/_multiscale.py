"""Vesselness over several scales, and structure tensors, which smooth at a second scale."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.arrays import kernel_float
from lazyvol.kernels.derivatives import outputs, structure_tensor
from lazyvol.kernels.derivatives import vesselness as kernels
from lazyvol.kernels.derivatives.gaussian_derivatives import radius
from lazyvol.ops import stats
from lazyvol.ops.derivatives._field import (
    TILE_SCRATCH,
    Field,
    is_wide,
    over_whole_dims,
    require_truncate,
    sigma_in_voxels,
)
from lazyvol.plan.recipes.stencil import Mode
from lazyvol.plan.verbs import blockwise, stencil
from lazyvol.stack import Dims, Sigma

#: modes by which products of derivatives can be continued
PRODUCT_MODES = tuple(structure_tensor.PAD_MODES)


def vesselness(
    fields: Sequence[Field], shape_options: tuple[float, ...], norm_factors: Sequence[float]
) -> xr.DataArray:
    """Return the maximum vesselness over scales; ``norm_factors`` are 1 / 2 c^2 of each."""
    options = [(*shape_options, factor) for factor in norm_factors]
    return _over_scales(fields, outputs.VESSELNESS, options, fields[0].dtype, "", "vesselness")


def relative_vesselness(fields: Sequence[Field], shape_options: tuple[float, ...]) -> xr.DataArray:
    """Return the maximum vesselness over scales, with c half of each volume's largest norm.

    The norms take a further pass.
    """
    dtype, options = kernel_float(fields[0].dtype), [shape_options] * len(fields)
    parts = _over_scales(fields, outputs.VESSELNESS_PARTS, options, dtype, "part", "vesselness")
    norms = _over_scales(fields, outputs.NORM, options, dtype, "scale", "norm")
    largest = stats.max(norms, fields[0].dims, skipna=True)
    return blockwise(
        partial(kernels.vesselness_from_parts, dtype=fields[0].dtype), parts,
        *(largest.isel(scale=n, drop=True) for n in range(len(fields))), core=("part",),
        out=tuple(str(d) for d in fields[0].volume.dims), dtype=fields[0].dtype, scratch=16.0,
        title="vesselness",
    )  # fmt: skip


def _over_scales(
    fields: Sequence[Field], output: int, options: Sequence[Sequence[float]],
    dtype: np.dtype[Any], new: str, title: str,
) -> xr.DataArray:  # fmt: skip
    """Return a result at every scale along the dim ``new``, or its maximum without one."""
    tasks = [f.task(output, dtype, o) for f, o in zip(fields, options, strict=True)]
    reaches, whole = [f.reach(2) for f in fields], any(f.is_wide for f in fields)
    depth = {d: 0 if whole else max(r[d] for r in reaches) for d in fields[0].dims}
    kernel = partial(
        kernels.over_scales,
        kernels=tuple(f.kernel(t, whole) for f, t in zip(fields, tasks, strict=True)),
        trims=tuple(
            tuple(max(0, depth[d] - r[d]) if d in depth else 0 for d in fields[0].volume.dims)
            for r in reaches
        ),
        keep_scales=bool(new),
    )  # fmt: skip
    components = prod(tasks[0].components)
    sizes = {new: len(fields) * components} if new else {}
    if whole:
        array = fields[0].over_volumes(kernel, sizes, dtype, title)
    else:
        held = dtype.itemsize * components * (len(fields) if new else 1) if len(fields) > 1 else 0
        array = fields[0].over_blocks(kernel, sizes, dtype, depth, title, scratch=held)
    return fields[0].with_unit(array, 0, 0)


def tensor(
    op: str, output: int, volume: xr.DataArray, sigma: Sigma | None, inner: Sigma | None,
    mode: Mode, truncate: float, dim: Dims,
) -> xr.DataArray:  # fmt: skip
    """Return ``output`` of the Gaussian means of products of first derivatives."""
    require_truncate(op, truncate)
    if mode not in PRODUCT_MODES:
        raise LabelError(
            f"{op}: mode must be one of {PRODUCT_MODES}, got {mode!r}; the default is 'reflect'"
        )
    field = Field.of(
        op, volume, dim, inner, mode if inner is not None else "reflect", 0.0, truncate
    )
    if sigma is None:
        raise LabelError(f"{op}: sigma must be the scale of the means, got None; pass a length")
    outer = sigma_in_voxels(op, volume, field.dims, sigma, truncate)
    dtype = kernel_float(field.dtype)
    gradient = field.result(field.task(outputs.GRADIENT, dtype), "gradient", ("axis",))
    task = field.task(output)
    reach = {d: radius(s, truncate) for d, s in zip(field.dims, outer, strict=True)}
    sizes = {"axis_other": len(field.dims)} if len(task.components) == 2 else {}
    scale: dict[str, Any] = {"task": task, "sigma": outer, "truncate": truncate, "mode": mode}
    if is_wide(volume, reach):
        array = over_whole_dims(
            partial(structure_tensor.of_whole_volumes, **scale), gradient, (*field.dims, "axis"),
            sizes, task.dtype, field.labels(sizes), op,
        )  # fmt: skip
    else:
        array = stencil(
            partial(structure_tensor.of_block, **scale),
            gradient, depth=reach | {"axis": len(field.dims) - 1}, mode="clip", dtype=task.dtype,
            sizes=sizes, labels=field.labels(sizes),
            scratch=2 * TILE_SCRATCH, title=op,
        )  # fmt: skip
    return field.with_unit(array, 2, 2)

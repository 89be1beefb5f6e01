"""Random fields with a length: noise whose neighbours are alike, and volumes it has deformed."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.synthetic import elastic as deforming
from lazyvol.kernels.synthetic import gaussian_field
from lazyvol.ops._grid import Like, canvas, float_dtype, made, not_negative, seed_of
from lazyvol.plan.verbs import stencil
from lazyvol.stack import (
    SPATIAL,
    STACK,
    Dims,
    Sigma,
    dims_of,
    float_of,
    per_dim,
    require_stack,
    spacing,
    spatial_dims,
)

#: streams of one seed: correlated noise, and displacements along three axes
#: (0 to 2 are ``noise`` and ``particles``)
CORRELATED, DISPLACED = 3, 4
#: displacements end at so many standard deviations: one voxel in 5e8 would go further
FARTHEST = 6.0


@operation
def correlated_noise(
    like: Like,
    length: Sigma,
    *,
    scale: float = 1.0,
    voxel_size: Sigma = 1.0,
    unit: str = "voxel",
    seed: int = 0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Normal noise whose voxels are alike over a length, of any size and any length.

    Two voxels a distance r apart correlate as ``exp(-(r / length)**2 / 2)``; with a length per
    dim, as the product over the dims. Every voxel has mean 0 and deviation ``scale`` in
    expectation, at the borders too: the field goes on beyond them.

    Parameters
    ----------
    like
        Shape, (k, z, y, x) or fewer from the left, or a stack whose dims and positions to take.
        Volumes along k are independent.
    length
        Of the correlation, in the unit of the positions: one number for the spatial dims, or by
        dim; voxels are independent along dims not named.
    scale
        Standard deviation, 0 or more.
    voxel_size, unit
        Of an array given by its shape; the length is then in this unit.
    seed
        From 0 to 2**32 - 1.
    dtype
        A float type.

    Returns
    -------
    xarray.DataArray
        Lazy. Any region of any chunks is the same, bit for bit, and a crop is smaller noise. A
        voxel costs 2 to 30 ns however long the correlation is; its correlation with others is
        right within 2e-5.

    Raises
    ------
    LabelError
        If a length is negative or of a dim that is not there.

    References
    ----------
    Moving averages of white noise: Oliver, Moving averages for Gaussian simulation in two and
    three dimensions, Mathematical Geology 27, 1995.

    Examples
    --------
    >>> import lazyvol as lv
    >>> field = lv.synthetic.correlated_noise((64, 64, 64), 2.0, voxel_size=2.0, unit="nm", seed=1)
    >>> a, b = field[:-1].values, field[1:].values  # 2 nm apart
    >>> abs(float((a * b).mean()) - 0.6065) < 0.03
    True
    """
    if isinstance(like, xr.DataArray) and (voxel_size, unit) != (1.0, "voxel"):
        raise LabelError(
            "voxel_size and unit belong to noise given by its shape; leave them out with a stack"
        )
    where = canvas(like, voxel_size, unit)
    spatial = spatial_dims(where)
    if set(where.dims[len(where.dims) - len(spatial) :]) != set(spatial) or not spatial:
        raise LabelError(
            f"correlated noise needs the spatial dims at the end, got {where.dims}; transpose it"
        )
    lengths = _by_dim("length", length, where, spatial)
    last = [str(d) for d in where.dims[-3:]]
    deviations = _three([lengths.get(d, 0.0) / np.sqrt(2.0) for d in last])
    kernel = partial(
        gaussian_field.values, shape=where.shape, scale=not_negative("scale", scale),
        field=gaussian_field.Field(deviations, seed_of(seed), CORRELATED), dtype=float_dtype(dtype),
    )  # fmt: skip
    return made(kernel, where, dtype, "correlated_noise")


@operation
def elastic(
    stack: xr.DataArray,
    alpha: Sigma,
    sigma: Sigma,
    *,
    seed: int = 0,
    order: Literal[1, 3] = 1,
    dim: Dims = None,
) -> xr.DataArray:
    """Stack that a smooth random field has deformed.

    Every voxel becomes the value at a place displaced by ``alpha`` times uniform noise from -1 to
    1 that a Gaussian of ``sigma`` has smoothed (Simard et al., ICDAR 2003), as
    ``scipy.ndimage.map_coordinates`` sees it in mode ``"reflect"``. For n dims of voxel size v
    the standard deviation of a displacement is about ``alpha * 0.58 * (0.53 * sqrt(v / sigma))**n``
    along each of them. Displacements of more than six of these are cut to that, one in 5e8.

    Parameters
    ----------
    stack
        Volumes or images, with any other dims; each gets a field of its own.
    alpha
        Strength of the displacement, in the unit of the positions: one number or by dim. Dims not
        named are not displaced along.
    sigma
        Deviation of the Gaussian, likewise; 0 for dims not named.
    seed
        From 0 to 2**32 - 1.
    order
        1: linear interpolation. 3: cubic splines.
    dim
        Dims to deform in; all spatial ones of the stack by default. With ``("y", "x")`` every
        slice of a volume is deformed on its own, as sections of an EM stack are.

    Returns
    -------
    xarray.DataArray
        Of the stack's float type, float64 for integers; in the stack's own unit. The same for any
        chunks. A voxel next to NaN is NaN; with splines NaN spreads through its volume.

    Raises
    ------
    LabelError
        If lengths are negative or dims are not spatial dims of the stack.

    Examples
    --------
    >>> import lazyvol as lv
    >>> grid = lv.synthetic.grid_lines((1, 64, 64), 8, 1)
    >>> bent = lv.synthetic.elastic(grid, 30.0, 4.0, dim=("y", "x"), seed=2)
    >>> bent.dims, 0.5 < float(bent.sum() / grid.sum()) < 2.0
    (('z', 'y', 'x'), True)
    """
    require_stack(stack)
    if stack.dtype.kind == "c":
        raise LabelError(f"real voxels are deformed, got {stack.dtype}; take real and imaginary")
    if order not in (1, 3):
        raise LabelError(f"order is 1 (linear) or 3 (cubic splines), got {order!r}")
    dims = spatial_dims(stack) if dim is None else dims_of(stack, dim)
    if not dims or not set(dims) <= set(SPATIAL):
        raise LabelError(f"dim names some of {SPATIAL}, got {dims}; the stack has {stack.dims}")
    strengths = _by_dim("alpha", alpha, stack, dims)
    smooth = _by_dim("sigma", sigma, stack, dims)
    dims = tuple(d for d in SPATIAL if d in dims)
    rest = sorted((str(d) for d in stack.dims if d not in dims), key=lambda d: (d != STACK, d))
    deviations = tuple(smooth.get(d, 0.0) for d in dims)
    typical = deforming.deviation(deviations)
    reach = [strengths.get(d, 0.0) * min(1.0, FARTHEST * typical) for d in dims]
    dtype = float_of(stack.dtype)
    field = partial(
        gaussian_field.Field, _three(deviations), seed_of(seed), normal=False, root=False
    )  # a stream for each axis
    fields = tuple(field(stream=DISPLACED + SPATIAL.index(d)) for d in dims)
    halo = tuple(deforming.margin(bound, order, dtype) for bound in reach)
    kernel = partial(
        deforming.deform, axes=stack.get_axis_num(dims), halo=halo,
        rest=stack.get_axis_num(rest), shape=stack.shape, fields=fields, bounds=tuple(reach),
        scales=tuple(strengths.get(d, 0.0) * typical for d in dims), order=int(order), dtype=dtype,
    )  # fmt: skip
    return stencil(
        kernel, stack, depth=dict(zip(dims, halo, strict=True)), needs_region=True, dtype=dtype,
        scratch=deforming.scratch(order, stack.dtype, dtype), title="elastic",
    )  # fmt: skip


def _by_dim(what: str, given: Sigma, where: xr.DataArray, dims: Sequence[str]) -> dict[str, float]:
    """Sigma in voxels by dim."""
    found = per_dim(given, dims, what)
    return {d: not_negative(what, v) / abs(spacing(where, d)) for d, v in found.items()}


def _three(values: Sequence[float]) -> gaussian_field.Triple:
    """Values of the last axes as those of three."""
    a, b, c = (*(0.0,) * (3 - len(values)), *map(float, values))
    return a, b, c

"""Correlated noise, and volumes deformed by random fields."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.synthetic import elastic as elastic_kernel
from lazyvol.kernels.synthetic import gaussian_field
from lazyvol.ops._checks import require_window
from lazyvol.ops._grid import (
    Like,
    checked_seed,
    float_dtype,
    generate_array,
    grid_of,
    non_negative,
)
from lazyvol.plan.verbs import stencil
from lazyvol.stack import (
    SPATIAL,
    STACK,
    Dims,
    Sigma,
    dims_of,
    float_of,
    is_by_dim,
    per_dim,
    require_one_unit,
    spacing,
    spatial_dims,
)

#: streams of one seed: correlated noise, and the first of three for displacements (0 to 2 are
#: ``noise`` and ``particles``)
CORRELATED, DISPLACEMENT = 3, 4
#: standard deviations at which displacements are clipped: one voxel in 5e8 would move further
MAX_SIGMAS = 6.0
#: voxels by which any volume may be displaced; larger ones by twice their length: the blocks of a
#: displacement have a halo as wide
MIN_LIMIT = 64
#: largest correlation length in voxels: a region depends on 10**6 values of the white noise
MAX_WIDTH = 2**16


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
    """Normal noise with a Gaussian correlation of any length.

    Two voxels at a distance r have the correlation ``exp(-(r / length)**2 / 2)``; with a length
    per dim, the product over the dims. Every voxel has an expected mean of 0 and standard
    deviation of ``scale``, also at the borders: the field continues beyond them.

    Parameters
    ----------
    like
        Shape (k, z, y, x) or fewer from the left, or a stack whose dims and positions are taken.
        Volumes along k are independent.
    length
        Correlation length, in the unit of the positions: one number for the spatial dims, or by
        dim; voxels are independent along dims not named.
    scale
        Standard deviation, 0 or more.
    voxel_size, unit
        Voxel size and unit of an array given by its shape; the length is then in this unit.
    seed
        Whole number from 0 to 2**32 - 1.
    dtype
        Float dtype by name.

    Returns
    -------
    xarray.DataArray
        Lazy, over the dims of ``like``. Every region is bitwise equal for any chunks, and a crop
        equals the noise of a smaller shape. A voxel costs 2 to 30 ns at any length; correlations
        are accurate to 2e-5.

    Raises
    ------
    LabelError
        If a length is negative or of a missing dim, or the spatial dims are not the last ones.
    OptionError
        If an option has the wrong type.

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
            "correlated_noise: voxel_size and unit must be omitted if like is a stack, which has "
            f"its own, got {voxel_size=} and {unit=}"
        )
    grid = grid_of(like, voxel_size, unit)
    spatial = spatial_dims(grid)
    if set(grid.dims[len(grid.dims) - len(spatial) :]) != set(spatial) or not spatial:
        raise LabelError(
            f"correlated_noise: the last dims must be the spatial ones, got {grid.dims}; "
            f"transpose the stack"
        )
    lengths = _voxels_by_dim("length", length, grid, spatial)
    require_window("correlated_noise", "length", max(lengths.values(), default=0.0), MAX_WIDTH)
    sigmas = _zyx([lengths.get(str(d), 0.0) / np.sqrt(2.0) for d in grid.dims[-3:]])
    kernel = partial(
        gaussian_field.field_region, shape=grid.shape, scale=non_negative("scale", scale),
        field=gaussian_field.Field(sigmas, checked_seed(seed), CORRELATED),
        dtype=float_dtype(dtype),
    )  # fmt: skip
    return generate_array(kernel, grid, dtype, "correlated_noise")


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
    """Stack deformed by a smooth random displacement field.

    The displacement of a voxel is ``alpha`` times uniform noise from -1 to 1, smoothed by a
    Gaussian of ``sigma``. Values are interpolated as by ``scipy.ndimage.map_coordinates`` in mode
    ``"reflect"``. For n dims of voxel size v the standard deviation of displacements is about
    ``alpha * 0.58 * (0.53 * sqrt(v / sigma))**n`` along each dim. Displacements are clipped at six
    standard deviations, which concerns one in 5e8.

    Parameters
    ----------
    stack
        Volumes or images, with any other dims; each is deformed independently.
    alpha
        Strength of the displacement, in the unit of the positions: one number, or by dim. There is
        no displacement along dims not named.
    sigma
        Standard deviation of the Gaussian, in the unit of the positions: one number, or by dim; 0
        for dims not named.
    seed
        Whole number from 0 to 2**32 - 1.
    order
        1: linear interpolation. 3: cubic splines.
    dim
        Dims to deform in, by default all spatial ones. With ``("y", "x")`` every slice of a volume
        is deformed on its own, like sections of an EM stack.

    Returns
    -------
    xarray.DataArray
        Same dims, coordinates and unit; floats keep their dtype, integers give float64. Equal
        under any chunks. Voxels next to NaN are NaN; with splines the whole volume is.

    Raises
    ------
    LabelError
        If a length is negative, or ``dim`` names other than spatial dims.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    Simard, Steinkraus and Platt, ICDAR (2003).

    Examples
    --------
    >>> import lazyvol as lv
    >>> grid = lv.synthetic.grid_lines((1, 64, 64), 8, 1)
    >>> bent = lv.synthetic.elastic(grid, 30.0, 4.0, dim=("y", "x"), seed=2)
    >>> bent.dims, 0.5 < float(bent.sum() / grid.sum()) < 2.0
    (('z', 'y', 'x'), True)
    """
    dims = _deformed_dims(stack, dim)
    alphas = _voxels_by_dim("alpha", alpha, stack, dims)
    widths = _voxels_by_dim("sigma", sigma, stack, dims)
    require_window("elastic", "sigma", max(widths.values()), MAX_WIDTH)
    dims = tuple(d for d in SPATIAL if d in dims)
    rest = sorted((str(d) for d in stack.dims if d not in dims), key=lambda d: (d != STACK, d))
    sigmas = tuple(widths.get(d, 0.0) for d in dims)
    noise_deviation = elastic_kernel.standard_deviation(sigmas)
    scales = [alphas.get(d, 0.0) for d in dims]
    bounds = tuple(s * min(1.0, MAX_SIGMAS * noise_deviation) for s in scales)
    farthest = max(MIN_LIMIT, 2 * max(stack.sizes[d] for d in dims))
    if not max(bounds) <= farthest:
        raise LabelError(
            f"elastic: alpha must displace by {farthest} voxels or less, got {max(bounds):g}; give "
            f"it in the unit of the positions"
        )
    dtype = float_of(stack.dtype)
    halo = tuple(elastic_kernel.margin(bound, order, dtype) for bound in bounds)
    kernel = partial(
        elastic_kernel.deform, axes=stack.get_axis_num(dims), halo=halo,
        rest=stack.get_axis_num(rest), shape=stack.shape, bounds=bounds, order=int(order),
        fields=_displacement_fields(_zyx(sigmas), checked_seed(seed), dims),
        scales=tuple(s * noise_deviation for s in scales), dtype=dtype,
    )  # fmt: skip
    return stencil(
        kernel, stack, depth=dict(zip(dims, halo, strict=True)), needs_region=True, dtype=dtype,
        scratch=elastic_kernel.scratch(order, stack.dtype, dtype), title="elastic",
    )  # fmt: skip


def _deformed_dims(stack: xr.DataArray, dim: Dims) -> tuple[str, ...]:
    """Return the dims to deform in; refuse others than spatial ones."""
    dims = spatial_dims(stack) if dim is None else dims_of(stack, dim)
    if not dims or not set(dims) <= set(SPATIAL):
        raise LabelError(
            f"elastic: dim must name some of {SPATIAL}, got {dims} for a stack with the dims "
            f"{stack.dims}"
        )
    return dims


def _displacement_fields(
    sigmas: gaussian_field.Triple, seed: int, dims: Sequence[str]
) -> tuple[gaussian_field.Field, ...]:
    """Return the displacement field along each dim, each from a separate random stream."""
    return tuple(
        gaussian_field.Field(
            sigmas, seed, DISPLACEMENT + SPATIAL.index(d), normal=False, root=False
        )
        for d in dims
    )


def _voxels_by_dim(
    name: str, lengths: Sigma, grid: xr.DataArray, dims: Sequence[str]
) -> dict[str, float]:
    """Return lengths in voxels by dim."""
    by_dim = per_dim(lengths, dims, name)
    if not is_by_dim(lengths):
        require_one_unit(grid, by_dim, "stack")
    return {d: non_negative(name, v) / abs(spacing(grid, d)) for d, v in by_dim.items()}


def _zyx(values: Sequence[float]) -> gaussian_field.Triple:
    """Return values of the last axes as those of three, 0 for missing ones."""
    z, y, x = (*(0.0,) * (3 - len(values)), *map(float, values))
    return z, y, x

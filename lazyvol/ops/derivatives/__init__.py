"""Derivatives of every volume along its spatial dims, and ridges made of them.

All of them accept the same options:

``sigma``
    Scale in the unit of the coordinates: one number, or one for each dim. None takes differences
    of neighbours, as ``numpy.gradient``, one-sided at the border (second derivatives: twice). A
    scale takes derivatives of the Gaussian, of half a voxel or more: sampled, with weights that
    are right for constants (0, on any background), ramps and parabolas. Those of
    ``scipy.ndimage.gaussian_filter`` are off there by what ``truncate`` cuts off: they differ
    by up to 1e-3 (first derivatives) and 8e-3 (second) of the largest weight at ``truncate=4``,
    by less than 3e-12 at 8, for scales of 1.5 voxels or more.
``mode``, ``fill``
    What a Gaussian finds beyond the border, as in ``scipy.ndimage``: ``reflect``, ``mirror``,
    ``nearest``, ``wrap``, or ``constant``: a volume in the middle of ``fill``.
``truncate``
    Reach of a Gaussian in ``sigma``.
``dim``
    Dims to differentiate along, one to three; by default those of z, y, x that the volume has.
    All others (particle, channel) are left alone.

Distances come from the coordinates, so results are per length: they have the volume's unit over
that of the coordinates, to the power of the order. Floats keep their type, integers give float64;
arithmetic is in float64. A NaN makes NaN of all voxels that see it. Components are the last dims
and come first in memory: one of them, ``found.isel(eigen=0)``, is a volume without gaps.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.derivatives import outputs
from lazyvol.ops.derivatives import _multiscale
from lazyvol.ops.derivatives._field import Grid
from lazyvol.plan.recipes.borders import Mode
from lazyvol.stack import ALL_SPATIAL, Dims, Sigma

__all__ = [
    "gradient",
    "gradient_magnitude",
    "hessian",
    "hessian_eigenvalues",
    "laplacian",
    "structure_tensor",
    "structure_tensor_eigenvalues",
    "vesselness",
]


@operation(unbounded=("fill",))
def gradient(
    volume: xr.DataArray,
    *,
    sigma: Sigma | None = None,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
    dim: Dims = ALL_SPATIAL,
) -> xr.DataArray:
    """First derivatives, along a new last dim ``axis`` that names the dim of each.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.mgrid[:3, :4, :5][2] * 6.0, voxel_size=2.0, unit="nm")
    >>> found = lv.derivatives.gradient(ramp)
    >>> found.dims, found.axis.values.tolist(), found[1, 1, 1].values
    (('z', 'y', 'x', 'axis'), ['z', 'y', 'x'], array([0., 0., 3.]))
    """
    grid = Grid.of(volume, dim, sigma, mode, fill, truncate)
    return grid.made(grid.task(outputs.GRADIENT), "gradient", ("axis",))


@operation(unbounded=("fill",))
def gradient_magnitude(
    volume: xr.DataArray,
    *,
    sigma: Sigma | None = None,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
    dim: Dims = ALL_SPATIAL,
) -> xr.DataArray:
    """Euclidean length of the gradient.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:3, :3, :3]
    >>> lv.derivatives.gradient_magnitude(lv.as_stack(3.0 * x + 4.0 * y)).values[1, 1]
    array([5., 5., 5.])
    """
    grid = Grid.of(volume, dim, sigma, mode, fill, truncate)
    return grid.made(grid.task(outputs.LENGTH), "gradient_magnitude")


@operation(unbounded=("fill",))
def hessian(
    volume: xr.DataArray,
    *,
    sigma: Sigma | None = None,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
    dim: Dims = ALL_SPATIAL,
) -> xr.DataArray:
    """Second derivatives, along two new last dims ``axis`` and ``axis_other``.

    All nine are stored; ``hessian_eigenvalues`` never stores them.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:5, :5, :5]
    >>> found = lv.derivatives.hessian(lv.as_stack(1.5 * x**2 + x * y))
    >>> found.dims[3:], found[2, 2, 2].sel(axis="x").values
    (('axis', 'axis_other'), array([0., 1., 3.]))
    """
    grid = Grid.of(volume, dim, sigma, mode, fill, truncate)
    return grid.made(grid.task(outputs.HESSIAN), "hessian", ("axis", "axis_other"))


@operation(unbounded=("fill",))
def laplacian(
    volume: xr.DataArray,
    *,
    sigma: Sigma | None = None,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
    dim: Dims = ALL_SPATIAL,
) -> xr.DataArray:
    """Sum of the second derivatives along every dim: the trace of ``hessian``.

    Without a scale that reaches two voxels to each side, as ``numpy.gradient`` twice.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:5, :5, :5]
    >>> lv.derivatives.laplacian(lv.as_stack(x**2 + 3 * z**2)).values[2, 2, 2]
    np.float64(8.0)
    """
    grid = Grid.of(volume, dim, sigma, mode, fill, truncate)
    return grid.made(grid.task(outputs.TRACE), "laplacian")


@operation(unbounded=("fill",))
def hessian_eigenvalues(
    volume: xr.DataArray,
    *,
    sigma: Sigma | None = None,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
    dim: Dims = ALL_SPATIAL,
) -> xr.DataArray:
    """Eigenvalues of the Hessian, decreasing, along a new last dim ``eigen``.

    In closed form, row by row as the derivatives are taken: right to 3e-8 of the matrix's norm
    for float32 and to 5e-15 for float64, also where they are equal.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:5, :5, :5]
    >>> found = lv.derivatives.hessian_eigenvalues(lv.as_stack(x**2 - 2.0 * y**2))
    >>> found.dims, found.values[2, 2, 2].round(12)
    (('z', 'y', 'x', 'eigen'), array([ 2.,  0., -4.]))
    """
    grid = Grid.of(volume, dim, sigma, mode, fill, truncate)
    return grid.made(grid.task(outputs.EIGENVALUES), "hessian_eigenvalues", ("eigen",))


@operation
def structure_tensor(
    volume: xr.DataArray,
    *,
    sigma: Sigma,
    inner: Sigma | None = None,
    mode: Mode = "reflect",
    truncate: float = 4.0,
    dim: Dims = ALL_SPATIAL,
) -> xr.DataArray:
    """Gaussian means of the products of first derivatives, along ``axis`` and ``axis_other``.

    Parameters
    ----------
    volume
        Stack or volume.
    sigma
        Scale of the means, of any width.
    inner
        Scale of the derivatives; None takes differences.
    mode, truncate, dim
        See above. Products are continued by ``mode`` (not ``wrap``), as ``scikit-image`` does,
        by 0 where it is ``constant``; so is the volume, for an inner scale.

    Returns
    -------
    xarray.DataArray
        All elements of the matrices, in the volume's unit squared over length squared.

    Raises
    ------
    LabelError
        If a scale is not positive, ``mode`` is not one of the four, or ``dim`` is not there.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.mgrid[:3, :4, :5][2] * 2.0)
    >>> lv.derivatives.structure_tensor(ramp, sigma=1.0)[1, 1, 2].sel(axis="x").values
    array([0., 0., 4.])
    """
    return _multiscale.tensor(
        outputs.HESSIAN, volume, sigma, inner, mode, truncate, dim, "structure_tensor"
    )


@operation
def structure_tensor_eigenvalues(
    volume: xr.DataArray,
    *,
    sigma: Sigma,
    inner: Sigma | None = None,
    mode: Mode = "reflect",
    truncate: float = 4.0,
    dim: Dims = ALL_SPATIAL,
) -> xr.DataArray:
    """Eigenvalues of the structure tensor, decreasing, along a new last dim ``eigen``.

    The tensors are never stored. Options are those of ``structure_tensor``.

    Parameters
    ----------
    volume
        Stack or volume.
    sigma
        Scale of the means, of any width.
    inner
        Scale of the derivatives; None takes differences.
    mode, truncate, dim
        As in ``structure_tensor``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.mgrid[:3, :4, :5][2] * 2.0)
    >>> found = lv.derivatives.structure_tensor_eigenvalues(ramp, sigma=1.0)
    >>> found.dims, round(found[1, 1, 2, 0].item(), 12)
    (('z', 'y', 'x', 'eigen'), 4.0)
    """
    made = _multiscale.tensor(
        outputs.EIGENVALUES,
        volume,
        sigma,
        inner,
        mode,
        truncate,
        dim,
        "structure_tensor_eigenvalues",
    )
    return made.drop_vars("axis").rename(axis="eigen")


@operation(unbounded=("fill",))
def vesselness(
    volume: xr.DataArray,
    *,
    sigma: float | Sequence[float] | None = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    c: float | None = None,
    bright: bool = True,
    mode: Mode = "reflect",
    fill: float = 0.0,
    truncate: float = 4.0,
    dim: Dims = ALL_SPATIAL,
) -> xr.DataArray:
    """Likeness of every voxel to a tube, 0 to 1: Frangi's measure of the Hessian's eigenvalues.

    With ``|l1| <= |l2| <= |l3|`` it is ``(1 - exp(-Ra^2 / 2 alpha^2)) exp(-Rb^2 / 2 beta^2)
    (1 - exp(-S^2 / 2 c^2))``, ``Ra = |l2 / l3|``, ``Rb = |l1| / sqrt(|l2 l3|)``, ``S`` the norm,
    and 0 where ``l2`` or ``l3`` has the sign of the other kind of tube. In two dims ``Rb`` is
    ``|l1 / l2|`` and the first factor is left out.

    Parameters
    ----------
    volume
        Stack or volume.
    sigma
        Scale, or several, of which the best counts, in the unit of the coordinates: about the
        radius of a tube over the square root of 2. None takes differences of a volume that is
        smooth already.
    alpha
        How far a plate is from a tube.
    beta
        How far a blob is from a tube.
    c
        How strong a tube is, in the unit of the volume: the norm times ``sigma^2`` (times 1 length
        squared without a scale) that counts by 0.39. None is half of the largest norm of
        each volume, for each scale: a pass of its own before.
    bright
        Tubes are brighter than what is around them; else darker.
    mode, fill, truncate, dim
        See above.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit.

    Raises
    ------
    LabelError
        If an option is not positive, a scale is under half a voxel, or ``dim`` has one dim.

    References
    ----------
    Frangi, A. F., Niessen, W. J., Vincken, K. L. and Viergever, M. A. (1998). Multiscale vessel
    enhancement filtering. MICCAI 1998, 130-137. doi:10.1007/BFb0056195

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:9, :17, :17] - 8.0
    >>> tube = lv.as_stack(np.exp(-(y**2 + x**2) / 8))
    >>> found = lv.derivatives.vesselness(tube, sigma=(1.0, 2.0), c=0.5)
    >>> found.values[4, 8, [0, 8]].round(3)
    array([0.   , 0.192])
    """
    if not all(0 < v < np.inf for v in (alpha, beta, 1.0 if c is None else c)):
        raise LabelError(f"alpha, beta and c are positive, got {alpha=}, {beta=} and {c=}")
    several = () if sigma is None or np.ndim(sigma) == 0 else tuple(np.ravel(sigma).tolist())
    grids = [Grid.of(volume, dim, s, mode, fill, truncate) for s in several or (sigma,)]
    if len(grids[0].dims) == 1:
        raise LabelError(f"a tube has two dims or three, got {grids[0].dims}")
    fixed = (-1.0 if bright else 1.0, 0.5 / alpha**2, 0.5 / beta**2)
    if c is None:
        return _multiscale.relative_vesselness(grids, fixed)
    norms = [1.0 if s is None else float(s) ** 2 for s in several or (sigma,)]
    return _multiscale.vesselness(grids, fixed, [0.5 * (n / c) ** 2 for n in norms])

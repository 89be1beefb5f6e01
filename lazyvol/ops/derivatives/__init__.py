"""Derivatives of every volume along its spatial dims, and measures of ridges computed from them.

Scales (``sigma``) are in the unit of the coordinates, and results are per length: they have the
volume's unit over that of the coordinates, to the power of the order. Floats keep their dtype,
integers give float64; arithmetic is in float64. A NaN makes every voxel NaN that depends on it.
Components are the last dims and come first in memory: ``result.isel(eigen=0)`` is a contiguous
volume.

Without a scale, derivatives are differences of neighbours, one-sided at the border (second
derivatives: differences of differences). With one they are derivatives of a sampled Gaussian whose
weights are exact for constants (0, on any background), ramps and parabolas. The weights of
``scipy.ndimage.gaussian_filter`` are not, because ``truncate`` cuts them off: they differ by up to
1e-3 (first derivatives) and 8e-3 (second) of the largest weight at ``truncate=4``, by less than
3e-12 at 8, for scales of 1.5 voxels or more.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.derivatives import outputs
from lazyvol.ops.derivatives import _multiscale
from lazyvol.ops.derivatives._field import Field
from lazyvol.plan.recipes.stencil import Mode
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
    """First derivatives along every dim, with a new last dim ``axis``.

    Parameters
    ----------
    volume
        Stack or volume of real numbers; dims not in ``dim`` are independent.
    sigma
        Standard deviation of the Gaussian, in the unit of the coordinates: half a voxel or more;
        one number, one per dim, or a mapping by dim. None takes differences of neighbours.
    mode
        Continuation beyond the border, as in ``scipy.ndimage``; without a scale only ``reflect``.
    fill
        Value beyond a ``constant`` border, in the volume's unit: one that its type holds.
    truncate
        Radius of the Gaussian's weights, in ``sigma``.
    dim
        Dims to differentiate along, one to three: by default those of z, y, x that are present.

    Returns
    -------
    xarray.DataArray
        Derivatives by their dim (``axis``), per length.

    Raises
    ------
    LabelError
        If the volume is complex, ``dim`` does not name one to three dims in one unit, a scale is
        below half a voxel, or differences have fewer than two voxels.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``numpy.gradient``; ``scipy.ndimage.gaussian_filter`` with ``order=1``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.mgrid[:3, :4, :5][2] * 6.0, voxel_size=2.0, unit="nm")
    >>> gradient = lv.derivatives.gradient(ramp)
    >>> gradient.dims, gradient.axis.values.tolist(), gradient[1, 1, 1].values
    (('z', 'y', 'x', 'axis'), ['z', 'y', 'x'], array([0., 0., 3.]))
    """
    field = Field.of("gradient", volume, dim, sigma, mode, fill, truncate)
    return field.result(field.task(outputs.GRADIENT), "gradient", ("axis",))


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
    """Euclidean norm of the gradient.

    Parameters
    ----------
    volume, sigma, mode, fill, truncate, dim
        As for ``gradient``.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, per length.

    Raises
    ------
    LabelError, OptionError
        As for ``gradient``.

    References
    ----------
    ``scipy.ndimage.gaussian_gradient_magnitude``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:3, :3, :3]
    >>> lv.derivatives.gradient_magnitude(lv.as_stack(3.0 * x + 4.0 * y)).values[1, 1]
    array([5., 5., 5.])
    """
    field = Field.of("gradient_magnitude", volume, dim, sigma, mode, fill, truncate)
    return field.result(field.task(outputs.MAGNITUDE), "gradient_magnitude")


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
    """Matrices of second derivatives, with new last dims ``axis`` and ``axis_other``.

    Parameters
    ----------
    volume, sigma, mode, fill, truncate, dim
        As for ``gradient``.

    Returns
    -------
    xarray.DataArray
        All elements of the symmetric matrices, per squared length. ``hessian_eigenvalues`` stores
        no matrices.

    Raises
    ------
    LabelError, OptionError
        As for ``gradient``.

    References
    ----------
    ``skimage.feature.hessian_matrix``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:5, :5, :5]
    >>> hessian = lv.derivatives.hessian(lv.as_stack(1.5 * x**2 + x * y))
    >>> hessian.dims[3:], hessian[2, 2, 2].sel(axis="x").values
    (('axis', 'axis_other'), array([0., 1., 3.]))
    """
    field = Field.of("hessian", volume, dim, sigma, mode, fill, truncate)
    return field.result(field.task(outputs.HESSIAN), "hessian", ("axis", "axis_other"))


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

    Parameters
    ----------
    volume, sigma, mode, fill, truncate, dim
        As for ``gradient``.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, per squared length.

    Raises
    ------
    LabelError, OptionError
        As for ``gradient``.

    References
    ----------
    ``scipy.ndimage.gaussian_laplace``. Without a scale, ``numpy.gradient`` twice, which reaches
    two voxels to each side (``scipy.ndimage.laplace`` reaches one).

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:5, :5, :5]
    >>> lv.derivatives.laplacian(lv.as_stack(x**2 + 3 * z**2)).values[2, 2, 2]
    np.float64(8.0)
    """
    field = Field.of("laplacian", volume, dim, sigma, mode, fill, truncate)
    return field.result(field.task(outputs.TRACE), "laplacian")


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
    """Eigenvalues of the Hessian in decreasing order, along a new last dim ``eigen``.

    Parameters
    ----------
    volume, sigma, mode, fill, truncate, dim
        As for ``gradient``.

    Returns
    -------
    xarray.DataArray
        Eigenvalues per squared length, with errors up to 3e-8 of the matrix's norm for float32
        and 5e-15 for float64, also where they are equal.

    Raises
    ------
    LabelError, OptionError
        As for ``gradient``.

    References
    ----------
    ``skimage.feature.hessian_matrix_eigvals``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:5, :5, :5]
    >>> eigenvalues = lv.derivatives.hessian_eigenvalues(lv.as_stack(x**2 - 2.0 * y**2))
    >>> eigenvalues.dims, eigenvalues.values[2, 2, 2].round(12)
    (('z', 'y', 'x', 'eigen'), array([ 2.,  0., -4.]))
    """
    field = Field.of("hessian_eigenvalues", volume, dim, sigma, mode, fill, truncate)
    return field.result(field.task(outputs.EIGENVALUES), "hessian_eigenvalues", ("eigen",))


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
    """Gaussian means of products of first derivatives, along ``axis`` and ``axis_other``.

    Parameters
    ----------
    volume
        Stack or volume of real numbers; dims not in ``dim`` are independent.
    sigma
        Standard deviation of the Gaussian means, in the unit of the coordinates, of any width: one
        number, one per dim, or a mapping by dim.
    inner
        Standard deviation of the derivatives, likewise, half a voxel or more; None takes
        differences of neighbours.
    mode
        Continuation of the products, and of the volume for an ``inner`` scale, beyond the border,
        as in ``scipy.ndimage``: ``reflect``, ``mirror``, ``nearest``, or ``constant`` (by 0).
    truncate
        Radius of the Gaussians' weights, in ``sigma``.
    dim
        Dims to differentiate along, one to three: by default those of z, y, x that are present.

    Returns
    -------
    xarray.DataArray
        All elements of the symmetric matrices, in the volume's unit squared over length squared.

    Raises
    ------
    LabelError
        If a scale is not positive, ``mode`` is not one of the four, or ``dim`` does not name one to
        three dims in one unit.
    OptionError
        If an option has a wrong type.

    References
    ----------
    ``skimage.feature.structure_tensor``, which takes derivatives by Sobel's filter.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.mgrid[:3, :4, :5][2] * 2.0)
    >>> lv.derivatives.structure_tensor(ramp, sigma=1.0)[1, 1, 2].sel(axis="x").values
    array([0., 0., 4.])
    """
    return _multiscale.tensor(
        "structure_tensor", outputs.HESSIAN, volume, sigma, inner, mode, truncate, dim
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
    """Eigenvalues of the structure tensor in decreasing order, along ``eigen``.

    Parameters
    ----------
    volume, sigma, inner, mode, truncate, dim
        As for ``structure_tensor``.

    Returns
    -------
    xarray.DataArray
        Eigenvalues in the volume's unit squared over length squared; no matrices are stored.

    Raises
    ------
    LabelError, OptionError
        As for ``structure_tensor``.

    References
    ----------
    ``skimage.feature.structure_tensor_eigenvalues``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.mgrid[:3, :4, :5][2] * 2.0)
    >>> eigenvalues = lv.derivatives.structure_tensor_eigenvalues(ramp, sigma=1.0)
    >>> eigenvalues.dims, round(eigenvalues[1, 1, 2, 0].item(), 12)
    (('z', 'y', 'x', 'eigen'), 4.0)
    """
    eigenvalues = _multiscale.tensor(
        "structure_tensor_eigenvalues", outputs.EIGENVALUES, volume, sigma, inner, mode, truncate,
        dim,
    )  # fmt: skip
    return eigenvalues.drop_vars("axis").rename(axis="eigen")


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
    """Frangi's vesselness of every voxel, 0 to 1: similarity of its Hessian to that of a tube.

    With ``|l1| <= |l2| <= |l3|`` it is ``(1 - exp(-Ra^2 / 2 alpha^2)) exp(-Rb^2 / 2 beta^2)
    (1 - exp(-S^2 / 2 c^2))``, ``Ra = |l2 / l3|``, ``Rb = |l1| / sqrt(|l2 l3|)``, ``S`` the norm,
    and 0 where ``l2`` or ``l3`` has the sign of the opposite contrast. In two dims ``Rb`` is
    ``|l1 / l2|`` and the first factor is left out.

    Parameters
    ----------
    volume, mode, fill, truncate
        As for ``gradient``.
    sigma
        Scale, or several of which the maximum counts, in the unit of the coordinates: about the
        radius of a tube over the square root of 2. None takes differences of a smooth volume.
    alpha
        Sensitivity to plates: the ``Ra`` at which their factor is 0.39.
    beta
        Sensitivity to blobs: the ``Rb`` at which their factor is 0.61.
    c
        Sensitivity to contrast, in the unit of the volume: the norm times ``sigma^2`` (times 1
        length squared without a scale) at which its factor is 0.39. None is half of the largest
        norm of each volume at each scale, which takes a further pass.
    bright
        True for tubes brighter than their surroundings, False for darker ones.
    dim
        Dims to differentiate along, two or three: by default those of z, y, x that are present.

    Returns
    -------
    xarray.DataArray
        Same dims and coordinates, without a unit.

    Raises
    ------
    LabelError
        If ``alpha``, ``beta`` or ``c`` is not positive, a scale is below half a voxel, or ``dim``
        names one dim.
    OptionError
        If an option has a wrong type.

    References
    ----------
    Frangi, A. F., Niessen, W. J., Vincken, K. L. and Viergever, M. A. (1998). Multiscale vessel
    enhancement filtering. MICCAI 1998, 130-137. doi:10.1007/BFb0056195

    ``skimage.filters.frangi``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> z, y, x = np.mgrid[:9, :17, :17] - 8.0
    >>> tube = lv.as_stack(np.exp(-(y**2 + x**2) / 8))
    >>> vesselness = lv.derivatives.vesselness(tube, sigma=(1.0, 2.0), c=0.5)
    >>> vesselness.values[4, 8, [0, 8]].round(3)
    array([0.   , 0.192])
    """
    for name, value in {"alpha": alpha, "beta": beta, "c": 1.0 if c is None else c}.items():
        if not 1e-100 <= value <= 1e100:  # its square is a float too
            raise LabelError(
                f"vesselness: {name} must be positive, from 1e-100 to 1e100, got {value!r}; the "
                f"default of alpha and beta is 0.5"
            )
    several = () if sigma is None or np.ndim(sigma) == 0 else tuple(np.ravel(sigma).tolist())
    scales = several or (sigma,)
    fields = [Field.of("vesselness", volume, dim, s, mode, fill, truncate) for s in scales]
    if len(fields[0].dims) == 1:
        raise LabelError(
            f"vesselness: dim must name two dims or three, got {fields[0].dims}; name more dims"
        )
    shape_options = (-1.0 if bright else 1.0, 0.5 / alpha**2, 0.5 / beta**2)
    if c is None:
        return _multiscale.relative_vesselness(fields, shape_options)
    norms = [1.0 if s is None else float(s) ** 2 for s in scales]
    return _multiscale.vesselness(fields, shape_options, [0.5 * (n / c) ** 2 for n in norms])

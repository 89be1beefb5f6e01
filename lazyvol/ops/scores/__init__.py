"""Scores of every particle against an average, a volume or another stack.

``against`` is ``"average"`` (that of the stack, from a first read), a volume, or a stack of the
same length. A particle x is left out of the average it is compared with, (n average - x) / (n - 1),
as its noise would correlate with itself.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import moments
from lazyvol.kernels.screening import fourier_shell_correlation
from lazyvol.ops._references import half_sets
from lazyvol.ops.scores._comparison import comparison, with_score_attrs
from lazyvol.ops.scores._profile import correlation, profile
from lazyvol.ops.scores._screen import screen
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import (
    ALL_SPATIAL,
    SPATIAL,
    STACK,
    Dims,
    dataset_of,
    float_of,
    require_one_unit,
    require_stack,
    spacing,
    unit_of,
    with_units,
)

__all__ = [
    "bce",
    "compare",
    "correlation",
    "cosine",
    "fsc",
    "halves",
    "mse",
    "ncc",
    "profile",
    "rmse",
    "screen",
]

METRICS = ("mse", "rmse", "cosine", "ncc", "bce")


@operation
def mse(
    stack: xr.DataArray,
    against: str | xr.DataArray = "average",
    *,
    dim: Dims = ALL_SPATIAL,
    mask: xr.DataArray | None = None,
    leave_one_out: bool | None = None,
) -> xr.DataArray:
    """Mean squared difference between each particle and ``against``.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x).
    against
        ``"average"``, a volume (z, y, x), or a stack with the dims of ``stack``.
    dim
        Dims to compare over, by default all spatial dims; the result keeps the others.
    mask
        True for the voxels that count; over any of the stack's dims.
    leave_one_out
        Subtract each particle from ``against``, an average of all particles, before comparing.
        By default True for ``"average"`` and False otherwise.

    Returns
    -------
    xarray.DataArray
        (k,) for the default ``dim``, in the squared unit of the stack.

    Raises
    ------
    LabelError
        If dims, lengths or units do not fit, or there is no other particle to compare with.

    References
    ----------
    ``skimage.metrics.mean_squared_error`` of one particle.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.stack([np.zeros((2, 2, 2)), np.ones((2, 2, 2))]))
    >>> lv.scores.mse(stack).values
    array([1., 1.])
    """
    return comparison(("mse",), stack, against, dim, mask, leave_one_out).scores()["mse"]


@operation
def rmse(
    stack: xr.DataArray,
    against: str | xr.DataArray = "average",
    *,
    dim: Dims = ALL_SPATIAL,
    mask: xr.DataArray | None = None,
    leave_one_out: bool | None = None,
) -> xr.DataArray:
    """Root mean squared difference between each particle and ``against``.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x).
    against
        ``"average"``, a volume (z, y, x), or a stack with the dims of ``stack``.
    dim
        Dims to compare over, by default all spatial dims; the result keeps the others.
    mask
        True for the voxels that count; over any of the stack's dims.
    leave_one_out
        Subtract each particle from ``against``, an average of all particles, before comparing.
        By default True for ``"average"`` and False otherwise.

    Returns
    -------
    xarray.DataArray
        (k,) for the default ``dim``, in the unit of the stack.

    Raises
    ------
    LabelError
        If dims, lengths or units do not fit, or there is no other particle to compare with.

    References
    ----------
    The root of ``skimage.metrics.mean_squared_error`` of one particle.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.full((1, 2, 2, 2), 5.0))
    >>> lv.scores.rmse(stack, lv.as_stack(np.full((2, 2, 2), 2.0))).values
    array([3.])
    """
    return comparison(("rmse",), stack, against, dim, mask, leave_one_out).scores()["rmse"]


@operation
def cosine(
    stack: xr.DataArray,
    against: str | xr.DataArray = "average",
    *,
    dim: Dims = ALL_SPATIAL,
    mask: xr.DataArray | None = None,
    leave_one_out: bool | None = None,
) -> xr.DataArray:
    """Cosine similarity of each particle and ``against``, without subtracting means.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x).
    against
        ``"average"``, a volume (z, y, x), or a stack with the dims of ``stack``.
    dim
        Dims to compare over, by default all spatial dims; the result keeps the others.
    mask
        True for the voxels that count; over any of the stack's dims.
    leave_one_out
        Subtract each particle from ``against``, an average of all particles, before comparing.
        By default True for ``"average"`` and False otherwise.

    Returns
    -------
    xarray.DataArray
        (k,) for the default ``dim``, from -1 to 1; NaN if one of both is 0 everywhere.

    Raises
    ------
    LabelError
        If dims, lengths or units do not fit, or there is no other particle to compare with.

    References
    ----------
    1 - ``scipy.spatial.distance.cosine`` of one particle.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([[3.0, 4.0], [4.0, -3.0]]).reshape(2, 1, 1, 2))
    >>> lv.scores.cosine(stack, stack.isel(k=0)).values
    array([1., 0.])
    """
    return comparison(("cosine",), stack, against, dim, mask, leave_one_out).scores()["cosine"]


@operation
def ncc(
    stack: xr.DataArray,
    against: str | xr.DataArray = "average",
    *,
    dim: Dims = ALL_SPATIAL,
    mask: xr.DataArray | None = None,
    leave_one_out: bool | None = None,
) -> xr.DataArray:
    """Zero-mean normalized cross-correlation (Pearson's r) of each particle and ``against``.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x).
    against
        ``"average"``, a volume (z, y, x), or a stack with the dims of ``stack``.
    dim
        Dims to compare over, by default all spatial dims; the result keeps the others.
    mask
        True for the voxels that count; over any of the stack's dims.
    leave_one_out
        Subtract each particle from ``against``, an average of all particles, before comparing.
        By default True for ``"average"`` and False otherwise.

    Returns
    -------
    xarray.DataArray
        (k,) for the default ``dim``, from -1 to 1; NaN if one of both is constant.

    Raises
    ------
    LabelError
        If dims, lengths or units do not fit, or there is no other particle to compare with.

    References
    ----------
    ``scipy.stats.pearsonr`` of one particle.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> ramp = lv.as_stack(np.arange(8.0).reshape(1, 2, 2, 2))
    >>> lv.scores.ncc(2 * ramp + 1, ramp.isel(k=0)).values
    array([1.])
    """
    return comparison(("ncc",), stack, against, dim, mask, leave_one_out).scores()["ncc"]


@operation
def bce(
    stack: xr.DataArray,
    against: str | xr.DataArray = "average",
    *,
    dim: Dims = ALL_SPATIAL,
    mask: xr.DataArray | None = None,
    leave_one_out: bool | None = None,
) -> xr.DataArray:
    """Binary cross-entropy of each particle, as a prediction, with ``against`` as the target.

    The mean of ``-(t log p + (1 - t) log(1 - p))``. Predictions p are clipped to
    [1e-7, 1 - 1e-7] and targets t to [0, 1]; ``intensity.rescale`` brings a stack to that range.

    Parameters
    ----------
    stack
        Probabilities, (k, z, y, x).
    against
        ``"average"``, a volume (z, y, x), or a stack with the dims of ``stack``.
    dim
        Dims to compare over, by default all spatial dims; the result keeps the others.
    mask
        True for the voxels that count; over any of the stack's dims.
    leave_one_out
        Subtract each particle from ``against``, an average of all particles, before comparing.
        By default True for ``"average"`` and False otherwise.

    Returns
    -------
    xarray.DataArray
        (k,) for the default ``dim``, in nats.

    Raises
    ------
    LabelError
        If dims, lengths or units do not fit, or there is no other particle to compare with.

    References
    ----------
    ``sklearn.metrics.log_loss`` with soft targets.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.full((1, 2, 2, 2), 0.5))
    >>> lv.scores.bce(stack, lv.as_stack(np.ones((2, 2, 2)))).values.round(4)
    array([0.6931])
    """
    return comparison(("bce",), stack, against, dim, mask, leave_one_out).scores()["bce"]


@operation
def compare(
    stack: xr.DataArray,
    against: str | xr.DataArray = "average",
    *,
    metrics: Sequence[str] = ("mse", "rmse", "cosine", "ncc"),
    dim: Dims = ALL_SPATIAL,
    mask: xr.DataArray | None = None,
    leave_one_out: bool | None = None,
) -> xr.Dataset:
    """Several scores of each particle from one read of the stack.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x).
    against
        ``"average"``, a volume (z, y, x), or a stack with the dims of ``stack``.
    metrics
        Any of mse, rmse, cosine, ncc, bce.
    dim
        Dims to compare over, by default all spatial dims; the result keeps the others.
    mask
        True for the voxels that count; over any of the stack's dims.
    leave_one_out
        Subtract each particle from ``against``, an average of all particles, before comparing.
        By default True for ``"average"`` and False otherwise.

    Returns
    -------
    xarray.Dataset
        One variable per metric, as the functions of these names return it.

    Raises
    ------
    LabelError
        If dims, lengths or units do not fit, or a metric is unknown.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.random.default_rng(0).normal(size=(4, 3, 3, 3)))
    >>> list(lv.scores.compare(stack, metrics=("mse", "ncc")))
    ['mse', 'ncc']
    """
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise LabelError(
            f"compare: metrics must be one or more of {METRICS}, got {tuple(metrics)}; leave out "
            f"{unknown}"
        )
    return dataset_of(comparison(metrics, stack, against, dim, mask, leave_one_out).scores())


@operation
def fsc(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Fourier shell correlation of two volumes over spatial frequency.

    Shells are as wide as the coarsest frequency step of the box and go up to the lowest Nyquist
    frequency, in physical frequencies for boxes of any lengths and voxel sizes. Volumes are in
    memory whole: 200^3 voxels take about 0.4 GB.

    Parameters
    ----------
    a, b
        Volumes (z, y, x), or images or lines with some of these dims, on the same grid.

    Returns
    -------
    xarray.DataArray
        (frequency,), from -1 to 1; frequencies in cycles per unit of length.

    Raises
    ------
    LabelError
        If dims, lengths, voxel sizes or units differ, or a dim has one voxel.

    References
    ----------
    Harauz and van Heel, Optik 73, 146 (1986).

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.random.default_rng(0).normal(size=(8, 8, 8)), voxel_size=2.0)
    >>> lv.scores.fsc(volume, volume).values
    array([1., 1., 1., 1., 1.])
    """
    dims = tuple(str(d) for d in require_stack(a).dims)
    if set(dims) != set(map(str, require_stack(b).dims)) or not set(dims) <= set(SPATIAL):
        raise LabelError(
            f"fsc: a and b must have the same dims among {SPATIAL}, got {dims} and "
            f"{tuple(b.dims)}; select one particle of each, e.g. with .isel(k=0)"
        )
    require_same_grid(a, b)
    flat = [d for d in dims if a.sizes[d] < 2]
    if flat:
        raise LabelError(
            f"fsc: a and b must have two voxels or more along each dim, got {dict(a.sizes)}; "
            f"drop the others with .isel(dict.fromkeys({flat!r}, 0), drop=True)"
        )
    require_one_unit(a, dims, "fsc: a")
    steps = tuple(spacing(a, d) for d in dims)
    n = fourier_shell_correlation.shell_count(a.shape, steps)
    curve = blockwise(
        partial(fourier_shell_correlation.correlation, spacing=steps), a, b, core=dims,
        out=("frequency",), sizes={"frequency": n}, dtype=float_of(a.dtype), scratch=64,
        title="fsc",
    )  # fmt: skip
    width = fourier_shell_correlation.shell_width(a.shape, steps)
    unit = {"units": f"1/{unit_of(a, dims[-1])}"}
    frequency = ("frequency", np.arange(n) * width, unit)
    return with_score_attrs(curve.assign_coords(frequency=frequency), "fsc", a)


@operation
def halves(stack: xr.DataArray) -> xr.Dataset:
    """Averages of the two half-sets, and average and variance of all particles, from one read.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x), two or more. The coordinate ``half`` along k, with two different
        values, assigns them to half-sets; without it these are even and odd particles.

    Returns
    -------
    xarray.Dataset
        ``first``, ``second``, ``average`` and ``variance``, volumes of the stack's float type.

    Raises
    ------
    LabelError
        If there are fewer than two particles, or ``half`` does not have two values.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.arange(4.0).reshape(4, 1, 1, 1))
    >>> averages = lv.scores.halves(stack)
    >>> averages.first.item(), averages.second.item(), averages.average.item()
    (1.0, 2.0, 1.5)
    """
    group = half_sets("halves", stack)
    sizes = np.bincount(group.values, minlength=2)
    dtype = float_of(stack.dtype)
    names = ("first", "second", "average", "variance")
    spec = Fold(
        start=partial(moments.start, parts=("sum_0", "sum_1", "square"), dtype=stack.dtype),
        update=moments.update_groups,
        combine=moments.combine,
        finish=partial(moments.finish_halves, sizes=(int(sizes[0]), int(sizes[1])), dtype=dtype),
        outputs=dict.fromkeys(names, Output(dtype)),
        state_bytes=48,
        finish_bytes=4 * dtype.itemsize + 16,
    )
    averages = fold(spec, stack, group, dims=(STACK,), title="halves")
    averages["variance"].attrs = {str(n): v for n, v in with_units(stack, 2).items()}
    return dataset_of(averages)

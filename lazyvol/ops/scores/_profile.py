"""Correlations with confidence intervals, of two arrays and of the slices along a dim."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.special
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.arguments.rules import show_value
from lazyvol.errors import LabelError, LazyvolError, OptionError
from lazyvol.kernels.reductions import comoments
from lazyvol.kernels.synthetic import particles
from lazyvol.ops._grid import checked_seed, non_negative
from lazyvol.ops._references import require_numbers
from lazyvol.ops.scores._comparison import (
    comoments_fold,
    compared_dims,
    require_two_voxels,
    with_score_attrs,
)
from lazyvol.plan.verbs import blockwise, fold, stencil
from lazyvol.stack import (
    ALL_SPATIAL,
    SPATIAL,
    STACK,
    Dims,
    dataset_of,
    dims_of,
    float_of,
    require_mask,
    require_stack,
    spatial_dims,
)

#: random stream of the noise of ``profile``; 0 to 6 are those of ``synthetic``
NOISE_STREAM = 7

Transform = Callable[[xr.DataArray], xr.DataArray]


@operation
def correlation(
    a: xr.DataArray,
    b: xr.DataArray,
    dim: Dims = ALL_SPATIAL,
    *,
    confidence: float = 0.95,
    mask: xr.DataArray | None = None,
) -> xr.Dataset:
    """Pearson correlation of ``a`` and ``b`` over ``dim``, with Fisher's confidence interval.

    The interval is ``tanh(artanh(r) -+ z / sqrt(n - 3))`` for n voxels. It assumes independent
    voxels: correlated neighbours (a smoothed image) make the true interval wider.

    Parameters
    ----------
    a
        Volume or stack with all dims involved, e.g. an EM stack (z, y, x).
    b
        Array over some or all dims of ``a``, e.g. one slice (y, x).
    dim
        Dims to correlate over, by default all spatial dims of ``a``; the result keeps the others.
    confidence
        Probability that the interval contains the true correlation, between 0 and 1.
    mask
        True for the voxels that count; over any dims of ``a``.

    Returns
    -------
    xarray.Dataset
        ``correlation``, ``lower`` and ``upper``; NaN bounds where n <= 3.

    Raises
    ------
    LabelError
        If dims or lengths do not fit, or ``confidence`` is not between 0 and 1.

    References
    ----------
    Fisher, Biometrika 10, 507 (1915); ``scipy.stats.pearsonr(...).confidence_interval``.

    Examples
    --------
    Every slice of a stack against the bottom one:

    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.random.default_rng(0).normal(size=(3, 8, 8)))
    >>> result = lv.scores.correlation(volume, volume.isel(z=0), dim=("y", "x"))
    >>> result.correlation.values.round(2)[0], bool((result.lower <= result.correlation).all())
    (np.float64(1.0), True)
    """
    if not 0 < confidence < 1:
        raise LabelError(
            f"correlation: confidence must be between 0 and 1, got {confidence}; e.g. 0.95"
        )
    dims = compared_dims(a, dim)
    require_two_voxels("correlation", a, dims)
    names = ("correlation", "lower", "upper")
    dtype = float_of(a.dtype)
    z = float(scipy.special.ndtri((1 + confidence) / 2))
    spec = comoments_fold(partial(comoments.interval, z=z, dtype=dtype), names, dtype)
    masks = () if mask is None else (require_mask("correlation: mask", mask),)
    operands = (a, require_numbers("correlation", "b", require_stack(b), a), *masks)
    outputs = fold(spec, *operands, dims=dims, title="correlation")
    return dataset_of({n: with_score_attrs(outputs[n], n, a) for n in names}).assign_attrs(
        confidence=confidence
    )


@operation
def profile(
    stack: xr.DataArray,
    reference: str | xr.DataArray = "first",
    dim: str = "z",
    *,
    transform: Transform | str | None = None,
    noise: float = 0.0,
    seed: int = 0,
    confidence: float = 0.95,
    mask: xr.DataArray | None = None,
) -> xr.Dataset:
    """Correlation of every slice along ``dim`` with a reference slice, with confidence intervals.

    Shows the depth over which slices resemble the first one, and the loss of correlation by flips,
    noise or a deformation. The slices are changed, the reference is not.

    Parameters
    ----------
    stack
        Volume or stack, e.g. an EM stack (z, y, x); dims that are not spatial are kept.
    reference
        ``"first"`` or ``"last"`` slice along ``dim``, or a slice or volume as an array.
    dim
        Spatial dim of the slices, or ``"k"``: every volume with the first or last one.
    transform
        Applied to the slices: a function of the whole stack that keeps its shape, such as
        ``lambda s: lv.synthetic.elastic(s, 40.0, 6.0, dim=("y", "x"))``; or ``"flip"`` (along
        every dim compared over: an image rotated by 180 degrees), ``"flip_y"``, ``"flip_x"``, ...
    noise
        Standard deviation of the normal noise added afterwards, in the unit of the stack.
    seed
        Seed of the noise, from 0 to 2**32 - 1.
    confidence
        Probability of the interval, between 0 and 1, for independent voxels (``correlation``).
    mask
        True for the voxels that count; over any of the stack's dims.

    Returns
    -------
    xarray.Dataset
        ``correlation``, ``lower`` and ``upper`` along ``dim``; ``plots.correlation`` draws them.

    Raises
    ------
    LabelError
        If an option is none of these, ``transform`` changes the shape, or ``dim`` has one slice.

    References
    ----------
    Fisher, Biometrika 10, 507 (1915).

    Examples
    --------
    >>> import lazyvol as lv
    >>> stack = lv.synthetic.correlated_noise((5, 64, 64), {"z": 2.0, "y": 3.0, "x": 3.0})
    >>> curve = lv.scores.profile(stack).correlation
    >>> curve.values[0].round(2), bool(curve[1] > curve[4])
    (np.float32(1.0), True)
    >>> abs(float(lv.scores.profile(stack, transform="flip_x").correlation[0])) < 0.3
    True
    """
    require_stack(stack)
    dims_of(stack, dim)
    compared = tuple(d for d in spatial_dims(stack) if d != dim)
    if dim not in (STACK, *SPATIAL) or not compared:
        raise LabelError(
            f"profile: dim must be {STACK!r}, or one of two or more spatial dims of the stack, got "
            f"{dim!r}; the stack has {stack.dims}"
        )
    _require_slices(stack, dim)
    fixed = _reference_slice(stack, reference, dim)
    changed = stack if transform is None else _transformed(stack, transform, compared)
    if non_negative("noise", noise) > 0:
        changed = _with_noise(changed, noise, checked_seed(seed))
    return correlation(changed, fixed, compared, confidence=confidence, mask=mask)


def _require_slices(stack: xr.DataArray, dim: str) -> None:
    """Raise LabelError if ``dim`` has one slice, which would be compared with itself."""
    if stack.sizes[dim] != 1:
        return
    longer = [d for d in (STACK, *SPATIAL) if stack.sizes.get(d, 1) > 1]
    suggestion = longer[0] if longer else STACK
    raise LabelError(
        f"profile: dim must name a dim of two slices or more, got dim={dim!r} of length 1 in "
        f"{dict(stack.sizes)}; pass dim={suggestion!r}"
    )


def _reference_slice(stack: xr.DataArray, reference: str | xr.DataArray, dim: str) -> xr.DataArray:
    """Return the first or last slice along ``dim``, or ``reference`` if it is a slice."""
    if isinstance(reference, xr.DataArray):
        return reference
    if reference not in ("first", "last") or not stack.sizes[dim]:
        raise LabelError(
            f"profile: reference must be 'first', 'last' or a slice of the stack, got "
            f"{reference!r} of {stack.sizes[dim]} slices; for slice n pass stack.isel({dim}=n)"
        )
    return stack.isel({dim: 0 if reference == "first" else -1}, drop=True)


def _transformed(
    stack: xr.DataArray, transform: Transform | str, compared: tuple[str, ...]
) -> xr.DataArray:
    """Return the stack after a transform, with its own coordinates."""
    if not isinstance(transform, str):
        changed = require_stack(_called(transform, stack))
        if changed.sizes != stack.sizes:
            raise LabelError(
                f"profile: transform must keep the shape {dict(stack.sizes)}, got "
                f"{dict(changed.sizes)}; crop or pad its result"
            )
        # voxels are compared by index, even if the transform flipped the coordinates too
        return stack.copy(data=changed.transpose(*stack.dims).data)
    flips = {"flip": compared} | {f"flip_{d}": (d,) for d in compared}
    if transform not in flips:
        raise LabelError(
            f"profile: transform must be a function or one of {tuple(flips)}, got {transform!r}"
        )
    dims = flips[transform]
    kernel = partial(np.flip, axis=stack.get_axis_num(dims))
    return blockwise(kernel, stack, core=dims, title=transform)


def _called(transform: Transform, stack: xr.DataArray) -> xr.DataArray:
    """Return the result of a user's function; raise OptionError if it fails."""
    try:
        return transform(stack)
    except LazyvolError:
        raise
    except Exception as error:
        raise OptionError(
            f"profile: transform must be a function of a stack, got {show_value(transform)}, which "
            f"raised {type(error).__name__}; try it on the stack alone"
        ) from error


def _with_noise(stack: xr.DataArray, noise: float, seed: int) -> xr.DataArray:
    """Add noise that depends on seed and position alone, not on the order of the dims."""
    spatial = spatial_dims(stack)
    lead = sorted((d for d in stack.dims if d not in spatial), key=lambda d: (d != STACK, str(d)))
    ordered = stack.transpose(*lead, *spatial)
    dtype: np.dtype[Any] = float_of(stack.dtype)
    kernel = partial(
        particles.add_noise, shape=ordered.shape, seed=seed, stream=NOISE_STREAM, scale=noise,
        dtype=dtype,
    )  # fmt: skip
    return stencil(
        kernel, ordered, depth={}, needs_region=True, dtype=dtype, scratch=8.0, title="noise"
    )

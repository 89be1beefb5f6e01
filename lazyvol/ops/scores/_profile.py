"""Correlations with their confidence, and how they change along a stack."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.special
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import comoments
from lazyvol.kernels.synthetic import particles
from lazyvol.ops._grid import not_negative, seed_of
from lazyvol.ops.scores._comparison import (
    agreement_fold,
    compared_dims,
    relabelled,
    require_several,
)
from lazyvol.plan.verbs import blockwise, fold, stencil
from lazyvol.stack import (
    ALL_SPATIAL,
    SPATIAL,
    STACK,
    Dims,
    dims_of,
    float_of,
    require_stack,
    spatial_dims,
)

#: stream of the noise of one seed (0 to 6 are those of ``synthetic``)
NOISE = 7

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
    """Pearson correlation of ``a`` with ``b`` over ``dim``, with its confidence interval.

    The interval is Fisher's: ``tanh(artanh(r) -+ z / sqrt(n - 3))`` for n voxels (Fisher,
    Biometrika 10, 1915). It holds for independent voxels; neighbours that are correlated (a
    smoothed image) make the true interval wider.

    Parameters
    ----------
    a
        Array with all dims in play, e.g. an EM stack (z, y, x).
    b
        Array over some or all of them, e.g. one slice (y, x).
    dim
        Dims to correlate over; the result keeps the others.
    confidence
        Probability of the interval, between 0 and 1.
    mask
        Only voxels where it is True count.

    Returns
    -------
    xarray.Dataset
        ``correlation``, ``lower`` and ``upper``; NaN bounds where n <= 3.

    Examples
    --------
    Every slice of a stack against the bottom one:

    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.random.default_rng(0).normal(size=(3, 8, 8)))
    >>> found = lv.scores.correlation(volume, volume.isel(z=0), dim=("y", "x"))
    >>> found.correlation.values.round(2)[0], bool((found.lower <= found.correlation).all())
    (np.float64(1.0), True)
    """
    if not 0 < confidence < 1:
        raise LabelError(f"confidence lies between 0 and 1, got {confidence=}")
    dims = compared_dims(a, dim)
    require_several("correlation", a, dims)
    names = ("correlation", "lower", "upper")
    dtype = float_of(a.dtype)
    z = float(scipy.special.ndtri((1 + confidence) / 2))
    spec = agreement_fold(partial(comoments.interval, z=z, dtype=dtype), names, dtype)
    operands = (a, require_stack(b)) if mask is None else (a, require_stack(b), mask)
    found = fold(spec, *operands, dims=dims, title="correlation")
    return xr.Dataset({n: relabelled(found[n], n, a) for n in names}).assign_attrs(
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
    """Correlation of every slice along ``dim`` with one slice, with its confidence interval.

    How far into the depth do slices look like the first, and what do flips, noise or a
    deformation leave of that? The slices are changed, the reference is not.

    Parameters
    ----------
    stack
        Volume or stack, e.g. an EM stack (z, y, x); dims that are not spatial are kept.
    reference
        ``"first"`` or ``"last"`` slice along ``dim``, or any other as an array.
    dim
        Spatial dim to go along, or ``"k"``: every volume with the first or last one.
    transform
        Change of the slices: a function of the whole stack, such as
        ``lambda s: lv.synthetic.elastic(s, 40.0, 6.0, dim=("y", "x"))``; or a flip, ``"flip"``
        (of every dim compared over: half a turn of an image), ``"flip_y"``, ``"flip_x"``, ...
    noise
        Standard deviation of normal noise that is then added, in the stack's own unit.
    seed
        Of the noise, from 0 to 2**32 - 1.
    confidence
        Probability of the interval, between 0 and 1; for independent voxels, see ``correlation``.
    mask
        Only voxels where it is True count.

    Returns
    -------
    xarray.Dataset
        ``correlation``, ``lower`` and ``upper`` along ``dim``; to draw with ``plots.correlation``.

    Raises
    ------
    LabelError
        If an option is none of these, a transform changes the shape, or ``dim`` has one slice.

    Examples
    --------
    >>> import lazyvol as lv
    >>> stack = lv.synthetic.correlated_noise((5, 64, 64), {"z": 2.0, "y": 3.0, "x": 3.0})
    >>> found = lv.scores.profile(stack)
    >>> found.correlation.values[0].round(2), bool(found.correlation[1] > found.correlation[4])
    (np.float32(1.0), True)
    >>> abs(float(lv.scores.profile(stack, transform="flip_x").correlation[0])) < 0.3
    True
    """
    require_stack(stack)
    dims_of(stack, dim)
    over = tuple(d for d in spatial_dims(stack) if d != dim)
    if dim not in (STACK, *SPATIAL) or not over:
        raise LabelError(
            f"a profile goes along {STACK!r} or one of two or more spatial dims, got {dim=}"
        )
    _require_slices(stack, dim)
    kept = _reference(stack, reference, dim)
    changed = stack if transform is None else _transformed(stack, transform, over)
    if not_negative("noise", noise) > 0:
        changed = _noisy(changed, noise, seed_of(seed))
    return correlation(changed, kept, over, confidence=confidence, mask=mask)


def _require_slices(stack: xr.DataArray, dim: str) -> None:
    """Refuse to go along a dim that has one slice, which would be compared with itself."""
    if stack.sizes[dim] != 1:
        return
    longer = [d for d in (STACK, *SPATIAL) if stack.sizes.get(d, 1) > 1]
    best = longer[0] if longer else STACK
    raise LabelError(
        f"profile: dim must name a dim of two slices or more, got dim={dim!r} of length 1 in "
        f"{dict(stack.sizes)}; pass dim={best!r}"
    )


def _reference(stack: xr.DataArray, reference: str | xr.DataArray, dim: str) -> xr.DataArray:
    if isinstance(reference, xr.DataArray):
        return reference
    if reference not in ("first", "last") or not stack.sizes[dim]:
        raise LabelError(
            f"reference is 'first', 'last' or a slice of the stack, got {reference!r} of "
            f"{stack.sizes[dim]} slices; for number n pass stack.isel({dim}=n)"
        )
    return stack.isel({dim: 0 if reference == "first" else -1}, drop=True)


def _transformed(
    stack: xr.DataArray, transform: Transform | str, over: tuple[str, ...]
) -> xr.DataArray:
    if not isinstance(transform, str):
        changed = require_stack(transform(stack))
        if changed.sizes != stack.sizes:
            raise LabelError(
                f"a transform keeps the shape, got {dict(changed.sizes)} for {dict(stack.sizes)}"
            )
        # values are compared place by place, also where the positions went along with a flip
        return stack.copy(data=changed.transpose(*stack.dims).data)
    flips = {"flip": over} | {f"flip_{d}": (d,) for d in over}
    if transform not in flips:
        raise LabelError(f"transform is a function or one of {tuple(flips)}, got {transform!r}")
    dims = flips[transform]
    kernel = partial(np.flip, axis=stack.get_axis_num(dims))
    return blockwise(kernel, stack, core=dims, title=transform)


def _noisy(stack: xr.DataArray, noise: float, seed: int) -> xr.DataArray:
    """The stack plus noise that hangs on the position, whatever the order of the dims."""
    spatial = spatial_dims(stack)
    lead = sorted((d for d in stack.dims if d not in spatial), key=lambda d: (d != STACK, str(d)))
    turned = stack.transpose(*lead, *spatial)
    dtype: np.dtype[Any] = float_of(stack.dtype)
    kernel = partial(
        particles.with_noise, shape=turned.shape, seed=seed, stream=NOISE, scale=noise, dtype=dtype
    )
    return stencil(
        kernel, turned, depth={}, needs_region=True, dtype=dtype, scratch=8.0, title="noise"
    )

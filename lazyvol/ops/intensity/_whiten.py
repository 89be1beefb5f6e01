"""Whitening: a linear map to uncorrelated features of variance 1."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Literal, get_args

import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.linalg import eigenbasis
from lazyvol.ops._checks import require_new_dim
from lazyvol.ops._covariance import (
    apply_to_table,
    feature_eigenbasis,
    sample_eigenbasis,
    weighted_sums,
)
from lazyvol.plan.verbs import blockwise, computed_once
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import Dims, dataset_of, dims_of, float_of, with_units

Kind = Literal["zca", "pca"]


@operation
def whiten(
    stack: xr.DataArray,
    *,
    kind: Kind = "zca",
    over: Dims = "k",
    epsilon: float = 0.0,
    keep: int | None = None,
    fitted: xr.Dataset | None = None,
) -> xr.DataArray:
    """Samples mapped linearly to uncorrelated features of variance 1.

    Of the centred samples x with the sample covariance V L V' (by n - 1), ZCA gives
    ``V (L + epsilon)^(-1/2) V' x``, the whitened samples nearest to x, PCA
    ``(L + epsilon)^(-1/2) V' x``. Directions without variance become 0.

    With no more samples than features (volumes) the basis comes from the distances of the samples,
    without a matrix of features; otherwise (patches, channels) from the covariance of the features.
    One read computes the basis, another applies it.

    Parameters
    ----------
    stack
        Samples along ``over``, real numbers; all other dims together are the features.
    kind
        ``"zca"`` keeps the dims; ``"pca"`` replaces those of the features by ``component``.
    over
        Dim or dims of the samples. Several need more samples than features, e.g.
        ``("z", "y", "x")`` to whiten channels.
    epsilon
        Added to every variance, in the stack's unit squared: directions of smaller variance,
        mostly noise, are not amplified to variance 1.
    keep
        Number of components to keep, those of largest variance; all by default.
    fitted
        Result of ``whitening`` for another stack, applied to this one. It determines ``kind``,
        ``epsilon`` and ``keep``; samples run along all dims that it does not have.

    Returns
    -------
    xarray.DataArray
        Without a unit, with the dims and coordinates of the stack for ``"zca"``, and with
        ``component`` as the last dim for ``"pca"``. A NaN anywhere makes the whole result NaN.

    Raises
    ------
    LabelError
        If there are fewer than two samples or no features, ``epsilon`` is negative, there are
        fewer components than ``keep``, or the features differ from those of ``fitted``.

    References
    ----------
    Krizhevsky, A. (2009), Learning multiple layers of features from tiny images, appendix A.
    Kessy, A., Lewin, A. and Strimmer, K. (2018), Optimal whitening and decorrelation, The
    American Statistician 72, 309-314.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> samples = np.random.default_rng(0).normal(size=(50, 2)) @ [[2.0, 1.0], [0.0, 0.5]]
    >>> white = lv.intensity.whiten(lv.as_stack(samples, dims=("k", "channel")))
    >>> np.cov(white.values.T).round(6) + 0.0
    array([[1., 0.],
           [0., 1.]])
    """
    if fitted is None:
        samples, _, count = _checked_sizes("whiten", stack, over, epsilon, keep)
        if _has_few_samples(stack, samples):
            return _without_unit(_by_own_samples(stack, samples[0], kind, epsilon, count), stack)
        fitted = whitening(stack, kind=kind, over=over, epsilon=epsilon, keep=keep)
    return _without_unit(_fitted_to(stack, fitted), stack)


@operation
def whitening(
    stack: xr.DataArray,
    *,
    kind: Kind = "zca",
    over: Dims = "k",
    epsilon: float = 0.0,
    keep: int | None = None,
) -> xr.Dataset:
    """Mean, components and scale of a whitening, to store or to apply to other stacks.

    Parameters
    ----------
    stack, kind, over, epsilon, keep
        As for ``whiten``.

    Returns
    -------
    xarray.Dataset
        float64: ``average`` of every feature; ``components`` (component, ...) of norm 1 by
        decreasing variance; ``scale`` (component), ``(variance + epsilon)^(-1/2)`` or 0 without
        variance, with the attributes ``whitening`` (the kind) and ``epsilon``. From a store, open
        its three variables and join them in a Dataset.

    Raises
    ------
    LabelError
        If there are fewer than two samples or no features, ``epsilon`` is negative, or there are
        fewer components than ``keep``.

    References
    ----------
    As for ``whiten``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> samples = np.random.default_rng(0).normal(size=(50, 2)) @ [[2.0, 1.0], [0.0, 0.5]]
    >>> stack = lv.as_stack(samples, dims=("k", "channel"))
    >>> fitted = lv.intensity.whitening(stack.isel(k=slice(0, 40)))
    >>> lv.intensity.whiten(stack.isel(k=slice(40, 50)), fitted=fitted).sizes
    Frozen({'k': 10, 'channel': 2})
    """
    samples, features, count = _checked_sizes("whitening", stack, over, epsilon, keep)
    n = prod(stack.sizes[d] for d in samples)
    if _has_few_samples(stack, samples):
        basis = sample_eigenbasis(stack, samples[0], count)
        weights = apply_to_table(
            eigenbasis.direction_weights, basis, (samples[0], "component"),
            {samples[0]: n, "component": count + 1},
        )  # fmt: skip
        sums = weighted_sums(stack, computed_once(weights), samples[0]).transpose("component", ...)
        mean, components = sums.isel(component=count), sums.isel(component=slice(0, count))
    else:
        basis, mean = feature_eigenbasis(stack, samples, count)
        sizes = {d: stack.sizes[d] for d in features}
        volumes = partial(eigenbasis.eigenvolumes, shape=tuple(sizes.values()))
        components = apply_to_table(volumes, basis, ("component", *features), sizes)
    scale = apply_to_table(
        partial(eigenbasis.whitening_scales, n=n, epsilon=epsilon), basis, ("component",), {}
    )
    parts = {"average": computed_once(mean), "components": components, "scale": scale}
    fitted = dataset_of(parts)
    for name, power in (("average", 1), ("components", 0), ("scale", -1)):
        fitted[name].attrs = with_units(stack, power)
    own = stack.drop_vars((*fitted, "component"), errors="ignore").coords
    coords = {c: v for c, v in own.items() if set(v.dims) <= set(features)}
    fitted["scale"].attrs |= {"whitening": kind, "epsilon": float(epsilon)}
    return fitted.assign_coords(coords)


def _checked_sizes(
    op: str, stack: xr.DataArray, over: Dims, epsilon: float, keep: int | None
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the dims of the samples, those of the features, and the number of components."""
    samples = dims_of(stack, over, subject=f"{op}: over")
    require_new_dim(stack, "component", op)
    features = tuple(str(d) for d in stack.dims if d not in samples)
    n, p = (prod(stack.sizes[d] for d in dims) for dims in (samples, features))
    if epsilon < 0:
        raise LabelError(f"{op}: epsilon must be a variance of 0 or more, got {epsilon}; pass 0")
    if n < 2 or not p or not features:
        raise LabelError(
            f"{op}: stack must have two samples or more, with features, got {n} samples along "
            f"{samples} of {p} features along {features}; name other dims with over="
        )
    if len(samples) > 1 and n <= p:
        raise LabelError(
            f"{op}: over must be one dim unless samples outnumber features, got {samples} with "
            f"{n} samples of {p} features; name one dim"
        )
    most = min(n - 1, p)
    if keep is not None and not 1 <= keep <= most:
        raise LabelError(
            f"{op}: keep must be from 1 to {most} for {n} samples of {p} features, got {keep}; "
            f"leave keep out for all"
        )
    return samples, features, keep or most


def _has_few_samples(stack: xr.DataArray, samples: Sequence[str]) -> bool:
    """Return True if there are no more samples than features."""
    n = prod(stack.sizes[d] for d in samples)
    return n * n <= stack.size


def _by_own_samples(
    stack: xr.DataArray, dim: str, kind: Kind, epsilon: float, count: int
) -> xr.DataArray:
    """Return samples whitened as weighted sums of each other."""
    n, dtype = stack.sizes[dim], float_of(stack.dtype)
    basis = sample_eigenbasis(stack, dim, count)
    if kind == "pca":
        white = partial(eigenbasis.whitened_scores, n=n, epsilon=epsilon)
        scores = apply_to_table(white, basis, (dim, "component"), {dim: n}).astype(dtype)
        coords = {c: v for c, v in stack.coords.items() if set(v.dims) <= {dim}}
        return scores.assign_coords(coords).rename(stack.name)
    matrix = apply_to_table(
        partial(eigenbasis.sample_whitening, n=n, epsilon=epsilon), basis, (dim, f"{dim}_other"),
        {dim: n, f"{dim}_other": n},
    )  # fmt: skip
    dims = tuple(str(d) for d in stack.dims)
    return blockwise(
        partial(eigenbasis.mix_samples, axis=dims.index(dim), dtype=dtype), stack,
        tables=(computed_once(matrix),), core=(dim,), out=dims, dtype=dtype,
        scratch=2.0 + stack.dtype.itemsize, title="whiten",
    )  # fmt: skip


def _fitted_to(stack: xr.DataArray, fitted: xr.Dataset) -> xr.DataArray:
    """Return samples whitened by the result of ``whitening``."""
    mean, components, kind = _parts(fitted)
    features = tuple(str(d) for d in stack.dims if d in mean.dims)
    missing = [d for d in mean.dims if d not in features]
    if missing or len(features) == stack.ndim:
        raise LabelError(
            f"whiten: stack must have the dims {tuple(mean.dims)} of the fitted features and one "
            f"dim or more of samples, got {stack.dims}; rename or select dims"
        )
    require_same_grid(mean, stack.isel({d: 0 for d in stack.dims if d not in features}, drop=True))
    mean, components = mean.transpose(*features), components.transpose("component", *features)
    count, p = components.sizes["component"], mean.size
    tables = _tables(components, fitted["scale"], kind, p)
    lead = tuple(str(d) for d in stack.dims if d not in features)
    axes = tuple(stack.dims.index(d) for d in features)
    trailing = tuple(range(stack.ndim - len(axes), stack.ndim))
    out = tuple(str(d) for d in stack.dims) if kind == "zca" else (*lead, "component")
    dtype = float_of(stack.dtype)
    return blockwise(
        partial(eigenbasis.project, axes=axes, replace=kind == "zca", dtype=dtype), stack,
        tables=(mean, fitted["scale"], *tables), core=features, out=out,
        sizes=None if kind == "zca" else {"component": count}, dtype=dtype,
        scratch=4.0 if axes == trailing else 4.0 + 2 * stack.dtype.itemsize, title="whiten",
    )  # fmt: skip


def _tables(components: xr.DataArray, scale: xr.DataArray, kind: str, p: int) -> list[xr.DataArray]:
    """Return the matrices that samples of ``p`` features are multiplied by, in their order.

    For more than half of the components one square matrix is less work than two oblong ones.
    """
    count = components.sizes["component"]
    square = kind == "zca" and 2 * count > p
    first = apply_to_table(
        partial(eigenbasis.feature_whitening, back=square), components, ("_feature", "_column"),
        {"_feature": p, "_column": p if square else count}, scale,
    )  # fmt: skip
    if kind == "pca" or square:
        return [computed_once(first)]
    return [
        computed_once(first),
        computed_once(
            apply_to_table(
                eigenbasis.flattened, components, ("_row", "_column"), {"_row": count, "_column": p}
            )
        ),
    ]


def _parts(fitted: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, str]:
    """Return mean, components and kind of a whitening; raise LabelError if it is none."""
    missing = {"average", "components", "scale"} - set(map(str, fitted))
    kind = None if missing else fitted["scale"].attrs.get("whitening")
    if missing or kind not in get_args(Kind):
        raise LabelError(
            f"whiten: fitted must be a result of intensity.whitening, got a Dataset that lacks "
            f"{sorted(missing)}, with whitening={kind!r}"
        )
    return fitted["average"], fitted["components"], str(kind)


def _without_unit(white: xr.DataArray, stack: xr.DataArray) -> xr.DataArray:
    white.attrs = with_units(stack, 0)
    return white

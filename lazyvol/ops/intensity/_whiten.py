"""How stacks are whitened: decorrelated, every direction with variance 1."""

from collections.abc import Sequence
from functools import partial
from math import inf, prod
from typing import Literal, get_args

import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.linalg import eigenbasis
from lazyvol.ops._covariance import (
    apply_to_table,
    feature_eigenbasis,
    require_new_dim,
    sample_eigenbasis,
    weighted_sums,
)
from lazyvol.plan.verbs import blockwise, computed_once
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import Dims, dims_of, float_of, require_stack, with_units

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
    """Samples without correlations between their features, each direction with variance 1.

    Of the centred samples x with the sample covariance V L V' (by n - 1), ZCA gives
    ``V (L + epsilon)^(-1/2) V' x``, which stays as near to x as whitening can, PCA
    ``(L + epsilon)^(-1/2) V' x``. Directions without variance (n or fewer of n samples leave
    some) become 0.

    With no more samples than features (volumes) it goes through the distances of the samples and
    never makes a matrix of features; else (patches, channels) through the covariance of the
    features: one read to find it, one to apply it.

    Parameters
    ----------
    stack
        Samples along ``over``; all other dims together are their features.
    kind
        ``"zca"`` keeps the dims; ``"pca"`` has ``component`` instead of the features.
    over
        Dim or dims of the samples; several where there are more samples than features, e.g.
        ``("z", "y", "x")`` to whiten channels.
    epsilon
        Added to every variance, in the stack's unit squared, so that directions of little
        variance, mostly noise, are not blown up: those far below it fade out.
    keep
        Number of components to keep, the largest; all by default.
    fitted
        What ``whitening`` found in another stack, to be applied to this one; then ``kind``,
        ``epsilon`` and ``keep`` are its own, and samples run along all dims that it has not.

    Returns
    -------
    xarray.DataArray
        Without a unit; ``zca`` with the dims and coordinates of the stack, ``pca`` with
        ``component`` as the last dim. A NaN makes all of it NaN.

    Raises
    ------
    LabelError
        If there are fewer than two samples, not as many components as asked for, or the features
        are not those that were fitted.

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
        own, features, count = _sized(stack, kind, over, epsilon, keep)
        if _by_samples(stack, own):
            return _unitless(_own(stack, own[0], features, kind, epsilon, count), stack)
        fitted = whitening(stack, kind=kind, over=over, epsilon=epsilon, keep=keep)
    return _unitless(_applied(stack, fitted), stack)


@operation
def whitening(
    stack: xr.DataArray,
    *,
    kind: Kind = "zca",
    over: Dims = "k",
    epsilon: float = 0.0,
    keep: int | None = None,
) -> xr.Dataset:
    """What ``whiten`` finds in a stack, to be looked at, stored and applied to others.

    Parameters
    ----------
    stack, kind, over, epsilon, keep
        As for ``whiten``.

    Returns
    -------
    xarray.Dataset
        ``average`` of every feature, ``components`` (component, ...) of norm 1 by decreasing
        variance, ``scale`` (component), one over the deviation with ``epsilon`` along each (0
        where there is none) and with the attributes ``whitening`` (the kind) and ``epsilon``;
        float64. A stored one is put together again of what ``open`` gives of its three parts.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> samples = np.random.default_rng(0).normal(size=(50, 2)) @ [[2.0, 1.0], [0.0, 0.5]]
    >>> stack = lv.as_stack(samples, dims=("k", "channel"))
    >>> found = lv.intensity.whitening(stack.isel(k=slice(0, 40)))
    >>> lv.intensity.whiten(stack.isel(k=slice(40, 50)), fitted=found).sizes
    Frozen({'k': 10, 'channel': 2})
    """
    own, features, count = _sized(stack, kind, over, epsilon, keep)
    n = prod(stack.sizes[d] for d in own)
    if _by_samples(stack, own):
        basis = sample_eigenbasis(stack, own[0], count)
        weights = apply_to_table(
            eigenbasis.direction_weights, basis, (own[0], "component"),
            {own[0]: n, "component": count + 1},
        )  # fmt: skip
        sums = weighted_sums(stack, computed_once(weights), own[0]).transpose("component", ...)
        mean, components = sums.isel(component=count), sums.isel(component=slice(0, count))
    else:
        basis, mean = feature_eigenbasis(stack, own, count)
        sizes = {d: stack.sizes[d] for d in features}
        volumes = partial(eigenbasis.eigenvolumes, shape=tuple(sizes.values()))
        components = apply_to_table(volumes, basis, ("component", *features), sizes)
    scale = apply_to_table(
        partial(eigenbasis.whitening_scales, n=n, epsilon=epsilon), basis, ("component",), {}
    )
    made = xr.Dataset({"average": computed_once(mean), "components": components, "scale": scale})
    for name, power in (("average", 1), ("components", 0), ("scale", -1)):
        made[name].attrs = {str(a): v for a, v in with_units(stack, power).items()}
    facts = {c: v for c, v in stack.coords.items() if set(v.dims) <= set(features)}
    made["scale"].attrs |= {"whitening": kind, "epsilon": float(epsilon)}
    return made.assign_coords(facts)


def _sized(
    stack: xr.DataArray, kind: Kind, over: Dims, epsilon: float, keep: int | None
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Dims of the samples, dims of the features, and the number of components."""
    own = dims_of(stack, over, what="over")
    require_new_dim(stack, "component", "whitening")
    features = tuple(str(d) for d in stack.dims if d not in own)
    n, p = (prod(stack.sizes[d] for d in dims) for dims in (own, features))
    if kind not in get_args(Kind):
        raise LabelError(f"kind is one of {get_args(Kind)}, got {kind!r}")
    if not 0 <= epsilon < inf:
        raise LabelError(f"epsilon is a variance, 0 or more, got {epsilon=}")
    if n < 2 or not p or not features:
        raise LabelError(
            f"whitening needs two samples or more with features, got {n} of {p}, features along "
            f"{features}"
        )
    if len(own) > 1 and n <= p:
        raise LabelError(
            f"samples over several dims, {own}, are more than their features, got {n} of {p}; "
            f"whiten over one dim"
        )
    most = min(n - 1, p)
    if keep is not None and not 1 <= keep <= most:
        raise LabelError(f"{n} samples of {p} features have 1 to {most} components, got {keep=}")
    return own, features, keep or most


def _by_samples(stack: xr.DataArray, own: Sequence[str]) -> bool:
    """Whether there are no more samples than features."""
    n = prod(stack.sizes[d] for d in own)
    return n * n <= stack.size


def _own(
    stack: xr.DataArray, dim: str, features: Sequence[str], kind: Kind, epsilon: float, count: int
) -> xr.DataArray:
    """Samples whitened by their own basis: sums of each other."""
    n, dtype = stack.sizes[dim], float_of(stack.dtype)
    basis = sample_eigenbasis(stack, dim, count)
    if kind == "pca":
        white = partial(eigenbasis.whitened_scores, n=n, epsilon=epsilon)
        found = apply_to_table(white, basis, (dim, "component"), {dim: n}).astype(dtype)
        facts = {c: v for c, v in stack.coords.items() if set(v.dims) <= {dim}}
        return found.assign_coords(facts).rename(stack.name)
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


def _applied(stack: xr.DataArray, fitted: xr.Dataset) -> xr.DataArray:
    """Samples whitened by what was found before."""
    mean, components, kind = _fitted(fitted)
    features = tuple(str(d) for d in stack.dims if d in mean.dims)
    missing = [d for d in mean.dims if d not in features]
    if missing or len(features) == stack.ndim:
        raise LabelError(
            f"samples have the features {tuple(mean.dims)} that were fitted and one dim or more "
            f"of their own, got {stack.dims}"
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
    """Matrices to multiply samples of ``p`` features by, the first first.

    Of most components one of features by features is less work than there and back.
    """
    count = components.sizes["component"]
    back = kind == "zca" and 2 * count > p
    one = apply_to_table(
        partial(eigenbasis.feature_whitening, back=back), components, ("_feature", "_column"),
        {"_feature": p, "_column": p if back else count}, scale,
    )  # fmt: skip
    if kind == "pca" or back:
        return [computed_once(one)]
    return [
        computed_once(one),
        computed_once(
            apply_to_table(
                eigenbasis.flattened, components, ("_row", "_column"), {"_row": count, "_column": p}
            )
        ),
    ]


def _fitted(fitted: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, str]:
    """Mean, components and kind of a fit."""
    if not isinstance(fitted, xr.Dataset):
        raise LabelError(f"fitted is a Dataset of intensity.whitening, got {fitted!r}")
    missing = {"average", "components", "scale"} - set(map(str, fitted))
    kind = None if missing else fitted["scale"].attrs.get("whitening")
    if missing or kind not in get_args(Kind):
        raise LabelError(
            f"fitted is what intensity.whitening gives, got a dataset without {sorted(missing)} "
            f"and with whitening={kind!r}"
        )
    return require_stack(fitted["average"]), require_stack(fitted["components"]), str(kind)


def _unitless(found: xr.DataArray, stack: xr.DataArray) -> xr.DataArray:
    found.attrs = {str(a): v for a, v in with_units(stack, 0).items()}
    return found

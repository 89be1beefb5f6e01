"""Principal components of a stack, from distances between volumes or from products of voxels."""

from functools import partial
from math import prod

import numpy as np
import xarray as xr

from lazyvol.kernels.linalg import eigenbasis
from lazyvol.ops._covariance import (
    FLOAT64,
    apply_to_table,
    feature_eigenbasis,
    sample_eigenbasis,
    weighted_sums,
)
from lazyvol.plan.verbs import blockwise, computed_once
from lazyvol.stack import STACK


def principal_components(
    stack: xr.DataArray, n: int, mask: xr.DataArray | None
) -> dict[str, xr.DataArray]:
    """Return scores, volumes, average, variance and ratio of ``n`` components, in float64."""
    count = stack.sizes[STACK]
    method = _from_distances if count * count <= stack.size else _from_products
    return method(stack, n, mask)


def _from_distances(
    stack: xr.DataArray, n: int, mask: xr.DataArray | None
) -> dict[str, xr.DataArray]:
    """Compute the components from the squared distances between volumes."""
    basis = sample_eigenbasis(stack, STACK, n, mask)
    count = stack.sizes[STACK]
    weights = apply_to_table(
        eigenbasis.direction_weights, basis, (STACK, "component"),
        {STACK: count, "component": n + 1},
    )  # fmt: skip
    sums = weighted_sums(stack, computed_once(weights), STACK, mask).transpose("component", ...)
    scores = apply_to_table(eigenbasis.sample_scores, basis, (STACK, "component"), {STACK: count})
    return _variances(basis, count) | {
        "scores": scores,
        "volumes": sums.isel(component=slice(0, n)),
        "average": sums.isel(component=n),
    }


def _from_products(
    stack: xr.DataArray, n: int, mask: xr.DataArray | None
) -> dict[str, xr.DataArray]:
    """Compute the components from the products between voxels."""
    dims = tuple(str(d) for d in stack.dims if d != STACK)
    sizes = {d: stack.sizes[d] for d in dims}
    basis, mean = feature_eigenbasis(stack, (STACK,), n, mask)
    mean = computed_once(mean if mask is None else mean.where(mask, 0.0))
    scores = _projected(stack, dims, basis, mean, n)
    signs = apply_to_table(eigenbasis.peak_signs, scores, ("component",), {})
    volumes = apply_to_table(
        partial(eigenbasis.eigenvolumes, shape=tuple(sizes.values())), basis,
        ("component", *dims), sizes,
    )  # fmt: skip
    return _variances(basis, stack.sizes[STACK]) | {
        "scores": scores * signs, "volumes": volumes * signs, "average": mean
    }  # fmt: skip


def _projected(
    stack: xr.DataArray, dims: tuple[str, ...], basis: xr.DataArray, mean: xr.DataArray, n: int
) -> xr.DataArray:
    """Return the coordinates (k, component) of every volume in an eigenbasis of its voxels."""
    features = {"_feature": prod(stack.sizes[d] for d in dims)}
    vectors = apply_to_table(eigenbasis.eigenvectors, basis, ("_feature", "component"), features)
    scales = xr.DataArray(np.ones(n), dims="component")
    axes = tuple(stack.dims.index(d) for d in dims)
    scores = blockwise(
        partial(eigenbasis.project, axes=axes, replace=False, dtype=FLOAT64), stack,
        tables=(mean, scales, computed_once(vectors)), core=dims, out=(STACK, "component"),
        sizes={"component": n}, dtype=FLOAT64, scratch=8, title="scores",
    )  # fmt: skip
    return computed_once(scores)


def _variances(basis: xr.DataArray, count: int) -> dict[str, xr.DataArray]:
    """Return the variance of each component, and its share of the total."""
    variance = partial(eigenbasis.explained_variance, n=count)
    return {
        "variance": apply_to_table(variance, basis, ("component",), {}),
        "ratio": apply_to_table(eigenbasis.explained_ratio, basis, ("component",), {}),
    }

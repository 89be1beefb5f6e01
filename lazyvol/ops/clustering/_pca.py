"""How principal components of a stack are found."""

from functools import partial
from math import prod

import xarray as xr

from lazyvol.kernels.linalg import eigenbasis
from lazyvol.ops._covariance import (
    DOUBLE,
    features_spectrum,
    samples_spectrum,
    small,
    weighted_sums,
)
from lazyvol.plan.tables import settled, with_tables
from lazyvol.stack import STACK


def decomposed(stack: xr.DataArray, n: int, mask: xr.DataArray | None) -> dict[str, xr.DataArray]:
    """Scores, volumes, average, variance and ratio of ``n`` components, in float64."""
    count = stack.sizes[STACK]
    form = _of_samples if count * count <= stack.size else _of_features
    return form(stack, n, mask)


def _of_samples(stack: xr.DataArray, n: int, mask: xr.DataArray | None) -> dict[str, xr.DataArray]:
    """Components from the distances between volumes."""
    spectrum = samples_spectrum(stack, STACK, n, mask)
    count = stack.sizes[STACK]
    weights = small(
        eigenbasis.unit_weights, spectrum, (STACK, "component"), {STACK: count, "component": n + 1}
    )
    sums = weighted_sums(stack, settled(weights), STACK, mask)
    volumes = sums.transpose("component", ...)
    return _facts(spectrum, count, n) | {
        "scores": small(eigenbasis.scores, spectrum, (STACK, "component"), {STACK: count}),
        "volumes": volumes.isel(component=slice(0, n)),
        "average": volumes.isel(component=n),
    }


def _of_features(stack: xr.DataArray, n: int, mask: xr.DataArray | None) -> dict[str, xr.DataArray]:
    """Components from the products of voxels."""
    dims = tuple(str(d) for d in stack.dims if d != STACK)
    spectrum, mean = features_spectrum(stack, (STACK,), n, mask)
    mean = settled(mean if mask is None else mean.where(mask, 0.0))
    sizes = {d: stack.sizes[d] for d in dims}
    weights = small(
        eigenbasis.weights, spectrum, ("_feature", "component"), {"_feature": prod(sizes.values())}
    )
    axes = tuple(stack.dims.index(d) for d in dims)
    ones = small(eigenbasis.ones, spectrum, ("component",), {})
    scores = with_tables(
        partial(eigenbasis.mapped, axes=axes, replace=False, dtype=DOUBLE), stack, mean, ones,
        settled(weights), core=dims, out=(STACK, "component"), sizes={"component": n},
        dtype=DOUBLE, scratch=8, title="scores",
    )  # fmt: skip
    scores = settled(scores)
    signs = small(eigenbasis.upright, scores, ("component",), {})
    volumes = small(
        partial(eigenbasis.volumes, shape=tuple(sizes.values())),
        spectrum,
        ("component", *dims),
        sizes,
    )
    return _facts(spectrum, stack.sizes[STACK], n) | {
        "scores": scores * signs, "volumes": volumes * signs, "average": mean
    }  # fmt: skip


def _facts(spectrum: xr.DataArray, count: int, n: int) -> dict[str, xr.DataArray]:
    """Variances, and their share of the total."""
    return {
        "variance": small(partial(eigenbasis.variance, n=count), spectrum, ("component",), {}),
        "ratio": small(eigenbasis.ratio, spectrum, ("component",), {}),
    }

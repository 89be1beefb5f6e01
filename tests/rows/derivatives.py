"""Rows of the derivatives topic, with oracles by numpy and scipy."""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import factorial
from typing import Any

import numpy as np
from scipy import ndimage as ndi

import lazyvol as lv
from tests.cases import STACKED, VOXEL, Array, Case, wide

#: axes z, y, x of a stack, and the last two of them
SOLID, PLANE = (1, 2, 3), (2, 3)


def spacings(axes: Sequence[int]) -> list[float]:
    return [VOXEL[a - 1] for a in axes]


def slopes(a: Array, axes: Sequence[int] = SOLID) -> Array:
    """Return first differences, components last."""
    result = [np.gradient(wide(a), h, axis=n) for n, h in zip(axes, spacings(axes), strict=True)]
    return np.stack(result, -1)


def curvatures(a: Array, axes: Sequence[int] = SOLID) -> Array:
    """Return differences of differences, matrices last."""
    first = slopes(a, axes)
    return np.stack([slopes(first[..., n], axes) for n in range(len(axes))], -2)


def smooth(a: Array, sigma: Any, along: Sequence[int], axes: Sequence[int], **border: Any) -> Array:
    """Return the derivative of a Gaussian along some of ``axes`` (twice along one named twice)."""
    widths = sigma if isinstance(sigma, Sequence) else [sigma] * len(axes)
    steps = dict(zip(axes, spacings(axes), strict=True))
    scale = [0.0] * a.ndim
    for n, s in zip(axes, widths, strict=True):
        scale[n] = s / steps[n]
    order = [list(along).count(n) for n in range(a.ndim)]
    return derived(a, scale, order, **border) / np.prod([steps[n] for n in along])


def derived(
    a: Array, scale: Sequence[float], order: Sequence[int], truncate: float = 4.0, **border: Any
) -> Array:
    """Return derivatives of a Gaussian of ``scale`` in voxels, of an order along each axis."""
    result = wide(a)
    for axis, (sigma, times) in enumerate(zip(scale, order, strict=True)):
        if sigma:
            weights = moment_weights(sigma, truncate, times)
            result = ndi.correlate1d(result, weights, axis, **border)
    return result


def moment_weights(sigma: float, truncate: float, order: int) -> Array:
    """Return a sampled Gaussian times the polynomial whose moments are those of the derivative.

    The sum of weights times x**k is k! for k equal to the order, else 0, for k up to the order.
    """
    radius = max(1, int(truncate * sigma + 0.5))
    x = np.arange(-radius, radius + 1.0)
    gauss = np.exp(-(x**2) / (2 * sigma**2))
    if order == 0:
        return gauss / gauss.sum()
    highest = max(2, order)
    powers = (x / sigma) ** np.arange(highest + 1)[:, None]
    wanted = np.eye(highest + 1)[order] * factorial(order) / sigma**order
    return gauss * (np.linalg.solve(powers * gauss @ powers.T, wanted) @ powers)


def smooth_slopes(a: Array, sigma: Any, axes: Sequence[int] = SOLID, **border: Any) -> Array:
    return np.stack([smooth(a, sigma, (n,), axes, **border) for n in axes], -1)


def smooth_curvatures(a: Array, sigma: Any, axes: Sequence[int] = SOLID, **border: Any) -> Array:
    size = len(axes)
    result = np.empty((*a.shape, size, size))
    for i, j in combinations_with_replacement(range(size), 2):
        result[..., i, j] = smooth(a, sigma, (axes[i], axes[j]), axes, **border)
        result[..., j, i] = result[..., i, j]
    return result


def surrounded(a: Array, fill: float, far: int = 8) -> Array:
    """Return a stack padded by a constant, by more than its filters reach.

    ``cval`` of scipy would pad the derivatives of the first axis, too.
    """
    around = [(0, 0), *[(far, far)] * 3]
    return np.pad(wide(a), around, constant_values=fill)


def middle(a: Array, far: int = 8) -> Array:
    return a[:, far:-far, far:-far, far:-far]


def eigenvalues(matrices: Array) -> Array:
    return np.linalg.eigvalsh(matrices)[..., ::-1]


def tensors(gradient: Array, sigma: float, mode: str) -> Array:
    """Return Gaussian means of products of first derivatives, continued by ``mode``."""
    scale = (0.0, *(sigma / h for h in VOXEL))
    size = gradient.shape[-1]
    result = np.empty((*gradient.shape, size))
    for i, j in np.ndindex(size, size):
        product = gradient[..., i] * gradient[..., j]
        result[..., i, j] = ndi.gaussian_filter(product, scale, mode=mode)
    return result


def frangi(
    matrices: Array, alpha: float, beta: float, c: float | None, dark: bool = False
) -> Array:
    """Return vesselness by the published formula, with eigenvalues ordered by magnitude."""
    values = np.linalg.eigvalsh(matrices)
    values = np.take_along_axis(values, np.argsort(np.abs(values), -1), -1)
    values = values if dark else -values
    l1, l2, l3 = values[..., 0], values[..., -2], values[..., -1]
    norm = np.sqrt((values**2).sum(-1))
    half = norm.max(tuple(range(1, norm.ndim)), keepdims=True) / 2 if c is None else c
    with np.errstate(all="ignore"):
        if values.shape[-1] == 2:
            shape = np.exp(-((l1 / l3) ** 2) / (2 * beta**2))
            ridge = l3 > 0
        else:
            plate = 1 - np.exp(-((l2 / l3) ** 2) / (2 * alpha**2))
            shape = plate * np.exp(-(l1**2 / (l2 * l3)) / (2 * beta**2))
            ridge = (l2 > 0) & (l3 > 0)
        return np.where(ridge, shape * (1 - np.exp(-(norm**2) / (2 * half**2))), 0.0)


def best_of_two(a: Array) -> Array:
    """Return the maximum of two scales, each relative to its own largest norm."""
    return np.maximum(*(frangi(smooth_curvatures(a, s), 0.5, 0.5, None) for s in (2.0, 3.0)))


#: ulps of a Gaussian's derivatives: rounding is relative to the voxels, which are larger
WEIGHED = 8.0
#: ulps of vesselness: ratios of eigenvalues, in which the rounding of the smaller one counts
RATIO = 64.0
PER, PER_SQUARE = "e/angstrom", "e/angstrom^2"
MATRIX = (*STACKED, "axis", "axis_other")

DERIVATIVES = {
    "derivatives.gradient": Case(lv.derivatives.gradient, slopes, (*STACKED, "axis"), power=PER),
    "derivatives.gradient/sigma": Case(
        lambda s: lv.derivatives.gradient(s, sigma=3.0), lambda a: smooth_slopes(a, 3.0),
        (*STACKED, "axis"), power=PER, ulps=WEIGHED,
    ),
    "derivatives.gradient_magnitude": Case(
        lambda s: lv.derivatives.gradient_magnitude(s, dim=("y", "x")),
        lambda a: np.linalg.norm(slopes(a, PLANE), axis=-1), power=PER,
    ),
    "derivatives.gradient_magnitude/constant": Case(
        lambda s: lv.derivatives.gradient_magnitude(s, sigma=2.5, mode="constant", fill=7.0),
        lambda a: middle(np.linalg.norm(smooth_slopes(surrounded(a, 7.0), 2.5), axis=-1)),
        power=PER, ulps=WEIGHED,
    ),
    "derivatives.hessian": Case(lv.derivatives.hessian, curvatures, MATRIX, power=PER_SQUARE),
    "derivatives.hessian/sigma": Case(
        lambda s: lv.derivatives.hessian(
            s, sigma={"y": 2.0, "x": 1.5}, dim=("y", "x"), mode="wrap", truncate=3.0
        ),
        lambda a: smooth_curvatures(a, (2.0, 1.5), PLANE, mode="wrap", truncate=3.0), MATRIX,
        power=PER_SQUARE, ulps=WEIGHED,
    ),
    "derivatives.laplacian": Case(
        lv.derivatives.laplacian, lambda a: np.trace(curvatures(a), axis1=-2, axis2=-1),
        power=PER_SQUARE,
    ),
    "derivatives.laplacian/mirror": Case(
        lambda s: lv.derivatives.laplacian(s, sigma=3.0, mode="mirror"),
        lambda a: sum(smooth(a, 3.0, (n, n), SOLID, mode="mirror") for n in SOLID),
        power=PER_SQUARE, ulps=WEIGHED,
    ),
    "derivatives.hessian_eigenvalues": Case(
        lv.derivatives.hessian_eigenvalues, lambda a: eigenvalues(curvatures(a)),
        (*STACKED, "eigen"), power=PER_SQUARE, ulps=8.0,  # 5 of ours, some of LAPACK's
    ),
    "derivatives.hessian_eigenvalues/sigma": Case(
        lambda s: lv.derivatives.hessian_eigenvalues(s, sigma=3.0, mode="nearest"),
        lambda a: eigenvalues(smooth_curvatures(a, 3.0, mode="nearest")), (*STACKED, "eigen"),
        power=PER_SQUARE, ulps=WEIGHED,
    ),
    "derivatives.hessian_eigenvalues/plane": Case(
        lambda s: lv.derivatives.hessian_eigenvalues(s, dim=("y", "x")),
        lambda a: eigenvalues(curvatures(a, PLANE)), (*STACKED, "eigen"), power=PER_SQUARE,
    ),
    "derivatives.structure_tensor": Case(
        lambda s: lv.derivatives.structure_tensor(s, sigma=2.0),
        lambda a: tensors(slopes(a), 2.0, "reflect"), MATRIX, power="e^2/angstrom^2",
    ),
    "derivatives.structure_tensor_eigenvalues": Case(
        lambda s: lv.derivatives.structure_tensor_eigenvalues(
            s, sigma=3.0, inner=2.0, mode="mirror"
        ),
        lambda a: eigenvalues(tensors(smooth_slopes(a, 2.0, mode="mirror"), 3.0, "mirror")),
        (*STACKED, "eigen"), power="e^2/angstrom^2", ulps=WEIGHED,
    ),
    "derivatives.vesselness": Case(
        lambda s: lv.derivatives.vesselness(s, sigma=3.0, alpha=0.4, beta=0.7, c=2.0),
        lambda a: frangi(9.0 * smooth_curvatures(a, 3.0), 0.4, 0.7, 2.0), power=None, ulps=RATIO,
    ),
    "derivatives.vesselness/scales": Case(
        lambda s: lv.derivatives.vesselness(s, sigma=(2.0, 3.0)), best_of_two, power=None,
        ulps=RATIO,
    ),
    "derivatives.vesselness/dark": Case(
        lambda s: lv.derivatives.vesselness(s, bright=False, dim=("y", "x"), c=0.5),
        lambda a: frangi(curvatures(a, PLANE), 0.5, 0.5, 0.5, dark=True), power=None, ulps=RATIO,
    ),
}  # fmt: skip

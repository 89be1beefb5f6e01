"""Rows of the filters topic, with scipy as the oracle."""

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import xarray as xr
from scipy import ndimage as ndi
from skimage.filters import threshold_local
from skimage.morphology import reconstruction

import lazyvol as lv
from tests.cases import VOXEL, Array, Case, each, wide
from tests.rows.derivatives import derived

#: 5 by 4 by 3 weights that are not separable
KERNEL = np.random.default_rng(3).normal(1.0, 1.0, (5, 4, 3))
ROWS = np.multiply.outer(np.multiply.outer([1.0, 2.0, 1.0], [3.0, -1.0]), [0.5, 2.0, 0.25, 1.0])
#: enough for transforms; longer than the volume along z
LARGE = np.random.default_rng(4).normal(1.0, 1.0, (9, 11, 10))
#: roundings of the sum of hundreds of products in float64
SUMMED = 30.0


def close(result: Array, expected: Array, roundings: float = 100.0) -> None:
    """Assert equality to some float64 roundings of the largest value."""
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    np.testing.assert_allclose(result, expected, rtol=0, atol=roundings * 2.3e-16 * largest)


def volumes(function: Callable[..., Array], *args: Any, **options: Any) -> Callable[[Array], Array]:
    """Return a filter of scipy in float64, volume by volume."""
    return lambda a: np.stack([function(v, *args, **options) for v in wide(a)])


def valid(whole: Array, lost: Sequence[tuple[int, int]]) -> Array:
    """Return ``whole`` without ``lost`` voxels at both ends of each axis."""
    ends = zip(lost, whole.shape, strict=True)
    return whole[tuple(slice(low, n - high) for (low, high), n in ends)]


def in_band(shortest: float | None, longest: float | None, edge: float) -> Callable[..., Array]:
    """Return a band-pass filter from full spectra, with its own formula of the edges."""

    def filtered(v: Array) -> Array:
        grids = np.meshgrid(*map(np.fft.fftfreq, v.shape, VOXEL), indexing="ij")
        radius = np.sqrt(sum(g**2 for g in grids))
        width = edge * max(1 / (n * d) for n, d in zip(v.shape, VOXEL, strict=True))
        transfer = np.ones(v.shape)
        if shortest is not None:
            transfer *= 1 - smoothstep(radius, 1 / shortest, width)
        if longest is not None:
            transfer *= smoothstep(radius, 1 / longest, min(width, 2 / longest))
        return np.fft.ifftn(np.fft.fftn(v) * transfer).real

    return filtered


def smoothstep(f: Array, middle: float, width: float) -> Array:
    """Return a step from 0 to 1 along half a cosine."""
    step = np.where(f < middle, 0.0, 1.0)
    inside = abs(f - middle) < width / 2
    step[inside] = (1 + np.sin(np.pi * (f[inside] - middle) / width)) / 2
    return step


@numba.njit
def spread(values: Array) -> float:
    """Return the largest minus the smallest value."""
    return values.max() - values.min()


def gaussian_parts(a: Array, sigma: Any, order: int, **border: Any) -> list[Array]:
    """Return the derivative of an order along each axis of a Gaussian that smooths all of them."""
    scale = (0.0, *(np.broadcast_to(sigma, 3) / VOXEL))
    orders = [[order if n == axis else 0 for n in range(4)] for axis in range(4) if scale[axis]]
    return [derived(a, scale, one, **border) for one in orders]


def over_channels(stack: xr.DataArray) -> xr.DataArray:
    """Correlate with a kernel that reaches along k, with its dims in another order."""
    return lv.filters.correlate(stack, xr.DataArray(KERNEL, dims=("x", "k", "z")), mode="mirror")


GAUSSIAN = {
    "filters.gaussian": Case(
        lambda s: lv.filters.gaussian(s, 3.0),
        volumes(ndi.gaussian_filter, [3.0 / d for d in VOXEL]),
    ),
    "filters.gaussian/wide": Case(
        lambda s: lv.filters.gaussian(s, {"z": 12.0, "x": 1.5}, mode="mirror"),
        volumes(ndi.gaussian_filter, (4.0, 0.0, 1.0), mode="mirror"),
    ),
    "filters.gaussian/slices": Case(
        lambda s: lv.filters.gaussian(s, {"y": 3.0, "x": 3.0}, mode="wrap", truncate=3.0),
        volumes(ndi.gaussian_filter, (0.0, 1.5, 2.0), mode="wrap", truncate=3.0),
    ),
    "filters.gaussian/k": Case(
        lambda s: lv.filters.gaussian(s, {"k": 0.8}, mode="constant", fill=2.0),
        lambda a: ndi.gaussian_filter1d(wide(a), 0.8, 0, mode="constant", cval=2.0),
    ),
    "filters.gaussian/valid": Case(
        lambda s: lv.filters.gaussian(s, {"y": 2.0, "x": 1.0}, mode="valid"),
        lambda a: valid(
            ndi.gaussian_filter(wide(a), (0, 0, 1.0, 2 / 3)), ((0, 0), (0, 0), (4, 4), (3, 3))
        ),
        moved=("y", "x"),
    ),
}

WINDOWS = {
    "filters.uniform": Case(lambda s: lv.filters.uniform(s, 3), volumes(ndi.uniform_filter, 3)),
    "filters.uniform/even": Case(
        lambda s: lv.filters.uniform(s, {"z": 2, "y": 9, "x": 4}, mode="nearest"),
        volumes(ndi.uniform_filter, (2, 9, 4), mode="nearest"),
    ),
    "filters.minimum": Case(
        lambda s: lv.filters.minimum(s, {"z": 2, "x": 5}, mode="wrap"),
        volumes(ndi.minimum_filter, (2, 1, 5), mode="wrap"), dtype="same", ulps=0,
    ),
    "filters.maximum": Case(
        lambda s: lv.filters.maximum(s, 7, mode="constant", fill=1.0),
        volumes(ndi.maximum_filter, 7, mode="constant", cval=1.0), dtype="same", ulps=0,
    ),
    "filters.median": Case(
        lambda s: lv.filters.median(s, 3),
        lambda a: ndi.median_filter(wide(a), (1, 3, 3, 3)), dtype="same", ulps=0,
    ),
    "filters.percentile": Case(
        lambda s: lv.filters.percentile(s, 80.0, {"y": 4, "x": 3}, mode="mirror"),
        lambda a: ndi.percentile_filter(wide(a), 80.0, (1, 1, 4, 3), mode="mirror"),
        dtype="same", ulps=0,
    ),
    "filters.rank": Case(
        lambda s: lv.filters.rank(s, -2, {"z": 3, "y": 2}, mode="wrap"),
        lambda a: ndi.rank_filter(wide(a), -2, (1, 3, 2, 1), mode="wrap"), dtype="same", ulps=0,
    ),
}  # fmt: skip

KERNELS = {
    "filters.correlate": Case(
        lambda s: lv.filters.correlate(s, KERNEL), volumes(ndi.correlate, KERNEL)
    ),
    "filters.correlate/channels": Case(
        over_channels,
        lambda a: ndi.correlate(
            wide(a), KERNEL.transpose(1, 2, 0)[:, :, None], mode="mirror"
        ),
    ),
    "filters.convolve": Case(
        lambda s: lv.filters.convolve(s, KERNEL, mode="constant", fill=3.0),
        volumes(ndi.convolve, KERNEL, mode="constant", cval=3.0),
    ),
    "filters.convolve/rows": Case(
        lambda s: lv.filters.convolve(s, ROWS, mode="wrap"),
        volumes(ndi.convolve, ROWS, mode="wrap"), ulps=8.0,
    ),
    "filters.convolve/large": Case(
        lambda s: lv.filters.convolve(s, LARGE, mode="mirror"),
        volumes(ndi.convolve, LARGE, mode="mirror"), ulps=SUMMED,
    ),
    "filters.convolve/valid": Case(
        lambda s: lv.filters.convolve(s, KERNEL[1:, :, 0], mode="valid"),
        lambda a: valid(
            ndi.convolve(wide(a), KERNEL[None, None, 1:, :, 0]), ((0, 0), (0, 0), (1, 2), (1, 2))
        ),
        moved=("y", "x"),
    ),
    "filters.laplace": Case(lv.filters.laplace, volumes(ndi.laplace)),
    "filters.laplace/slices": Case(
        lambda s: lv.filters.laplace(s, dim=("y", "x"), mode="nearest"),
        lambda a: ndi.laplace(wide(a), mode="nearest", axes=(2, 3)),
    ),
}  # fmt: skip

EDGES = {
    "filters.sobel": Case(
        lambda s: lv.filters.sobel(s, "y", mode="wrap"), volumes(ndi.sobel, 1, mode="wrap"),
        also={"dim": "y"},
    ),
    "filters.prewitt": Case(
        lambda s: lv.filters.prewitt(s, ("y", "x"), smooth=()),
        each(lambda v: np.stack(
            [ndi.generic_gradient_magnitude(plane, ndi.prewitt) for plane in v]
        )),
        also={"dim": "x"},
    ),
    "filters.gaussian_derivative": Case(
        lambda s: lv.filters.gaussian_derivative(s, 3.0, {"y": 1, "x": 2}, mode="mirror"),
        lambda a: derived(a, (0, *(3 / d for d in VOXEL)), (0, 0, 1, 2), mode="mirror"),
        also={"sigma": 2.0, "order": 1},
    ),
    "filters.gaussian_laplace": Case(
        lambda s: lv.filters.gaussian_laplace(s, 3.0), lambda a: sum(gaussian_parts(a, 3.0, 2)),
        also={"sigma": 2.0},
    ),
    "filters.gaussian_gradient_magnitude": Case(
        lambda s: lv.filters.gaussian_gradient_magnitude(s, {"z": 3.0, "x": 2.0}, mode="nearest"),
        lambda a: np.sqrt(sum(
            p**2 for p in gaussian_parts(a, (3.0, 0.0, 2.0), 1, mode="nearest")
        )),
        also={"sigma": 2.0},
    ),
}  # fmt: skip

OWN = {
    "filters.generic": Case(
        lambda s: lv.filters.generic(s, spread, {"z": 2, "y": 3}, mode="mirror"),
        volumes(ndi.generic_filter, np.ptp, (2, 3, 1), mode="mirror"),
        also={"function": "numpy:ptp", "size": 3},
    ),
    "filters.threshold_local": Case(
        lambda s: lv.filters.threshold_local(s, (5, 3, 7), offset=0.25, mode="nearest"),
        volumes(threshold_local, (5, 3, 7), offset=0.25, mode="nearest"), also={"size": 3},
    ),
    "filters.threshold_local/median": Case(
        lambda s: lv.filters.threshold_local(s, 3, method="median", mode="wrap"),
        volumes(threshold_local, 3, method="median", mode="wrap"), ulps=0,
    ),
}  # fmt: skip

BANDS = {
    "filters.bandpass": Case(
        lambda s: lv.filters.bandpass(s, 7.0, 15.0), volumes(in_band(7.0, 15.0, 2.0))
    ),
    "filters.bandpass/low": Case(
        lambda s: lv.filters.bandpass(s, 9.0, edge=0.5), volumes(in_band(9.0, None, 0.5))
    ),
    "filters.bandpass/high": Case(
        lambda s: lv.filters.bandpass(s, longest=12.0, edge=1.0),
        volumes(in_band(None, 12.0, 1.0)),
    ),
}

#: an element by scipy of voxels along y and x
FLAT = {"size": (1, 3, 5), "mode": "mirror"}


def grey(name: str, dtype: str = "same") -> Case:
    """Return the row of an operation of grey morphology."""
    return Case(
        lambda s: getattr(lv.filters, name)(s, {"y": 3, "x": 5}, mode="mirror"),
        volumes(getattr(ndi, name), **FLAT), dtype=dtype, ulps=0 if dtype == "same" else 4,
    )  # fmt: skip


def lowered(s: xr.DataArray) -> xr.DataArray:
    """Return a stack with its mean planes subtracted from it, in its own dtype."""
    return (s // 2).astype(s.dtype) if s.dtype.kind in "ui" else s - abs(s) / 2


GREY = {
    "filters.reconstruct": Case(
        lambda s: lv.filters.reconstruct(lowered(s), s, connectivity=2),
        lambda a: np.stack([
            reconstruction(v - (abs(v) / 2 if a.dtype.kind == "f" else v - v // 2), v,
                           footprint=ndi.generate_binary_structure(3, 2)) for v in wide(a)
        ]), dtype="same",
    ),
    **{f"filters.{n}": grey(n)
       for n in ("grey_erosion", "grey_dilation", "grey_opening", "grey_closing")},
    **{f"filters.{n}": grey(n, "float")
       for n in ("white_tophat", "black_tophat", "morphological_gradient",
                 "morphological_laplace")},
}  # fmt: skip

FILTERS = {**GREY, **GAUSSIAN, **WINDOWS, **KERNELS, **EDGES, **OWN, **BANDS}

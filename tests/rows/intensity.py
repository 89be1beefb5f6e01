"""Rows of operations by distribution, with oracles of scipy and scikit-image."""

from typing import Any

import numpy as np
import xarray as xr
from scipy.special import ndtr
from skimage.exposure import equalize_hist

import lazyvol as lv
from tests.cases import Array, Case, mask_of, masked, wide

#: excluded values: the limits of integer types
ENDS = (0, 255, -32768)


def normal(v: Array, inside: Array, n: float = 1.0) -> Array:
    """Return a Gaussian stretch of the values inside; others stay."""
    counted = v[inside]
    return np.where(inside, ndtr((v - counted.mean()) / (n * counted.std())), v)


def stretched(a: Array) -> Array:
    return np.stack([normal(v, np.ones(v.shape, bool)) for v in wide(a)])


def stretched_inside(a: Array) -> Array:
    """Stretch all particles together to the range from 5 to -3, without the excluded values."""
    inside = np.broadcast_to(mask_of(a.shape), a.shape) & ~np.isin(a, ENDS)
    return np.where(inside, 5 - 8 * normal(wide(a), inside, 2.5), wide(a))


def levels(a: Array) -> Array:
    """Equalize by scikit-image: integers by their values, others in 256 bins."""
    return equalize_hist(a if a.dtype.itemsize == 1 else wide(a))


def levels_inside(a: Array) -> Array:
    """Equalize each particle in 20 bins to the range from 10 to 20, without excluded values."""
    equalized = []
    for v in wide(a):
        inside = mask_of(v.shape) & ~np.isin(v, ENDS)
        equalized.append(np.where(inside, 10 + 10 * equalize_hist(v, 20, inside), v))
    return np.stack(equalized)


def levels_between(a: Array) -> Array:
    """Equalize all values in 7 bins from -2 to 4."""
    counts, edges = np.histogram(wide(a), 7, (-2, 4))
    return np.interp(wide(a), (edges[1:] + edges[:-1]) / 2, counts.cumsum() / counts.sum())


def shown(a: Array, low: Any, high: Any) -> Array:
    """Return grey levels between limits in the precision of the data."""
    dtype = a.dtype if a.dtype.kind == "f" else np.float64
    low, high = (np.asarray(e).astype(dtype).astype(np.float64) for e in (low, high))
    return np.rint(np.clip((wide(a) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def shown_inside(a: Array) -> Array:
    """Every particle between percentiles of its values inside."""
    ends = [np.quantile(v[mask_of(v.shape)], (0.25, 0.75)) for v in wide(a)]
    low, high = np.array(ends).T[:, :, None, None, None]
    return shown(a, low, high)


def inside(stack: xr.DataArray) -> dict[str, Any]:
    return {"mask": masked(stack)}


LEVELS = {
    "intensity.gaussian_stretch": Case(lv.intensity.gaussian_stretch, stretched, power=None),
    "intensity.gaussian_stretch/inside": Case(
        lambda s: lv.intensity.gaussian_stretch(
            s, 5.0, -3.0, n=2.5, exclude=ENDS, per="stack", **inside(s)
        ),
        stretched_inside, power=None,
    ),
    "intensity.equalise": Case(lv.intensity.equalise, levels, power=None),
    "intensity.equalise/particle": Case(
        lambda s: lv.intensity.equalise(
            s, 10.0, 20.0, bins=20, exclude=ENDS, per="particle", **inside(s)
        ),
        levels_inside, power=None,
    ),
    "intensity.equalise/range": Case(
        lambda s: lv.intensity.equalise(s, bins=7, range=(-2.0, 4.0)), levels_between, power=None
    ),
    "intensity.display": Case(
        lv.intensity.display, lambda a: shown(a, *np.quantile(wide(a), (0.01, 0.99))),
        power=None, dtype="uint8",
    ),
    "intensity.display/limits": Case(
        lambda s: lv.intensity.display(s, limits=(-1.0, 3.0)), lambda a: shown(a, -1.0, 3.0),
        power=None, dtype="uint8",
    ),
    "intensity.display/particle": Case(
        lambda s: lv.intensity.display(s, percentiles=(25, 75), per="particle", **inside(s)),
        shown_inside, power=None, dtype="uint8",
    ),
}  # fmt: skip

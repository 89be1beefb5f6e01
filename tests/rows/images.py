"""Rows of images: a call of every public operation that accepts (k, y, x) and (y, x).

An operation on images must equal that on volumes of one slice, (k, 1, y, x), which the table of
oracles compares with numpy and scipy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

import lazyvol as lv

IMAGE = ("y", "x")
Op = Callable[[xr.DataArray], Any]


def inside(s: xr.DataArray) -> xr.DataArray:
    """Return a mask over one image or slice."""
    one = s.isel({d: 0 for d in s.dims if d not in ("z", "y", "x")}, drop=True)
    flags = np.random.default_rng(5).random((one.sizes["y"], one.sizes["x"])) > 0.4
    return one.astype(bool).copy(data=flags.reshape(one.shape))


def first(s: xr.DataArray) -> xr.DataArray:
    return s.isel({d: 0 for d in s.dims if d == "k"}, drop=True).compute() + 1


#: calls that must agree on images and on volumes of one slice
ALIKE: dict[str, Op] = {
    "stats.mean": lambda s: lv.stats.mean(s, "spatial"),
    "stats.sum": lambda s: lv.stats.sum(s, "spatial"),
    "stats.var": lambda s: lv.stats.var(s, "spatial"),
    "stats.std": lambda s: lv.stats.std(s, "spatial"),
    "stats.min": lambda s: lv.stats.min(s, "spatial"),
    "stats.max": lambda s: lv.stats.max(s, "spatial"),
    "stats.count": lambda s: lv.stats.count(s, "spatial"),
    "stats.norm": lv.stats.norm,
    "stats.quantile": lambda s: lv.stats.quantile(s, 0.3, "spatial"),
    "stats.histogram": lambda s: lv.stats.histogram(s, bins=9, dim="spatial")[["counts"]],
    "stats.describe": lambda s: lv.stats.describe(s, "spatial"),
    "projections.sum": lambda s: lv.projections.sum(s, "y"),
    "projections.mean": lambda s: lv.projections.mean(s, "x"),
    "projections.max": lambda s: lv.projections.max(s, "x"),
    "projections.min": lambda s: lv.projections.min(s, "y"),
    "projections.std": lambda s: lv.projections.std(s, "y"),
    "projections.slab": lambda s: lv.projections.slab(s, "y", 2.0, 6.0),
    "intensity.rescale": lv.intensity.rescale,
    "intensity.center": lambda s: lv.intensity.center(s, mask=inside(s)),
    "intensity.unit_norm": lv.intensity.unit_norm,
    "intensity.standardize": lv.intensity.standardize,
    "intensity.contrast_normalise": lambda s: lv.intensity.contrast_normalise(s, scale=2.0),
    "intensity.gaussian_stretch": lv.intensity.gaussian_stretch,
    "intensity.equalise": lambda s: lv.intensity.equalise(s, per="particle"),
    "intensity.display": lambda s: lv.intensity.display(s, per="particle"),
    "filters.gaussian": lambda s: lv.filters.gaussian(s, {"y": 3.0, "x": 2.0}),
    "filters.uniform": lambda s: lv.filters.uniform(s, {"y": 3, "x": 5}),
    "filters.median": lambda s: lv.filters.median(s, {"y": 3, "x": 5}),
    "filters.minimum": lambda s: lv.filters.minimum(s, {"y": 3, "x": 5}),
    "filters.maximum": lambda s: lv.filters.maximum(s, {"y": 3, "x": 5}),
    "filters.percentile": lambda s: lv.filters.percentile(s, 30, {"y": 3, "x": 5}),
    "filters.rank": lambda s: lv.filters.rank(s, 2, {"y": 3, "x": 5}),
    "filters.convolve": lambda s: lv.filters.convolve(s, np.arange(6.0).reshape(2, 3)),
    "filters.correlate": lambda s: lv.filters.correlate(s, np.arange(6.0).reshape(2, 3)),
    "filters.laplace": lambda s: lv.filters.laplace(s, dim=IMAGE),
    "density.blocks": lambda s: lv.density.blocks(s > 0, {"y": 3, "x": 4}, partial="trim"),
    "density.block_mean": lambda s: lv.density.block_mean(s, {"y": 3, "x": 4}, partial="keep"),
    "density.local": lambda s: lv.density.local(s > 0, {"y": 3, "x": 4}),
    "masks.threshold": lambda s: lv.masks.threshold(s, "otsu"),
    "masks.dilate": lambda s: lv.masks.dilate(s > 1, radius=2.5),
    "masks.erode": lambda s: lv.masks.erode(s > -1, size={"y": 3, "x": 3}),
    "masks.open": lambda s: lv.masks.open(s > 0, size={"y": 3, "x": 3}),
    "masks.close": lambda s: lv.masks.close(s > 0, size={"y": 3, "x": 3}),
    "masks.label": lambda s: lv.masks.label(s > 0),
    "scores.mse": lambda s: lv.scores.mse(s, first(s)),
    "scores.rmse": lambda s: lv.scores.rmse(s, first(s)),
    "scores.ncc": lambda s: lv.scores.ncc(s, first(s), mask=inside(s)),
    "scores.cosine": lambda s: lv.scores.cosine(s, first(s)),
    "scores.compare": lambda s: lv.scores.compare(s, first(s)),
    "scores.correlation": lambda s: lv.scores.correlation(s, first(s)),
    "filters.bandpass": lambda s: lv.filters.bandpass(s, 4.0, dim=IMAGE),
    "derivatives.gradient": lambda s: lv.derivatives.gradient(s, dim=IMAGE),
    "derivatives.hessian": lambda s: lv.derivatives.hessian(s, sigma=2.0, dim=IMAGE),
    "masks.apply": lambda s: lv.masks.apply(s, inside(s)),
    "masks.mean": lambda s: lv.masks.mean(s, inside(s), "spatial"),
    "masks.sum": lambda s: lv.masks.sum(s, inside(s), "spatial"),
    "masks.var": lambda s: lv.masks.var(s, inside(s), "spatial"),
    "synthetic.sphere": lambda s: lv.synthetic.sphere(s, radius=5.0, soft=2.0),
    "synthetic.grid_lines": lambda s: lv.synthetic.grid_lines(s, 6.0, 2.0),
    "registration.shift": lambda s: lv.registration.shift(s, {"y": 1.3, "x": -2.0}),
    "registration.rotate": lambda s: lv.registration.rotate(s, 25.0),
    "registration.shifts": lambda s: lv.registration.shifts(s, first(s)).sel(axis=["y", "x"]),
}

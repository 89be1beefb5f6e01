"""Rows of the transform topic, with scipy and scikit-image as oracles."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import skimage.transform
import xarray as xr

import lazyvol as lv
from tests.cases import VOLUME, VOXEL, Array, Case, each

#: ulps of interpolated values: both implementations round the positions
ROUNDED = 64.0
MATRIX = np.array([[0.9, 0.2, 0.0], [-0.1, 1.1, 0.05], [0.02, 0.0, 1.2]])
OFFSET = np.array([-1.5, 2.0, 0.75])
STEP = np.array(VOXEL)


def mapped(v: Array, matrix: Array = MATRIX, **options: Any) -> Array:
    """Return a particle under a map of positions."""
    return ndi.affine_transform(v, matrix * STEP / STEP[:, None], OFFSET / STEP, **options)


def matrices(k: int) -> Array:
    """Return a matrix for each particle."""
    return MATRIX + np.random.default_rng(4).uniform(-0.1, 0.1, (k, 3, 3))


def each_mapped(a: Array) -> Array:
    pairs = zip(a.astype(np.float64), matrices(len(a)), strict=True)
    return np.stack(
        [mapped(v, m, order=1, mode="nearest", output_shape=(4, 9, 6)) for v, m in pairs]
    )


def points() -> xr.DataArray:
    """Return positions in and around a volume, with their axes in another order."""
    values = np.random.default_rng(6).uniform(-2, 18, (3, 4, 2))
    return xr.DataArray(values, dims=("axis", "ring", "point"), coords={"axis": ["x", "z", "y"]})


def sampled(v: Array) -> Array:
    positions = points().sel(axis=list(VOLUME)).values / STEP.reshape(3, 1, 1)
    return ndi.map_coordinates(v, positions, order=1, mode="reflect")


def rescaled(scale: tuple[float, ...], **options: Any) -> Callable[[Array], Array]:
    return each(lambda v: skimage.transform.rescale(v, scale, clip=False, **options))


def zoomed(v: Array) -> Array:
    return ndi.zoom(v, (0.8, 0.4, 0.6), order=2, mode="mirror")


TRANSFORM = {
    "transform.affine": Case(
        lambda s: lv.transform.affine(s, MATRIX, OFFSET, fill=-2.0),
        each(lambda v: mapped(v, order=1, cval=-2.0)), ulps=ROUNDED, also={"matrix": np.eye(3)},
    ),
    "transform.affine/nearest": Case(
        lambda s: lv.transform.affine(s, MATRIX, OFFSET, order=0, mode="mirror", like=(6, 7, 8)),
        each(lambda v: mapped(v, order=0, mode="mirror", output_shape=(6, 7, 8))), dtype="same",
        ulps=0, moved=VOLUME,
    ),
    "transform.affine/each": Case(
        lambda s: lv.transform.affine(
            s, matrices(s.sizes["k"]), OFFSET, mode="nearest", like=(4, 9, 6)
        ),
        each_mapped, ulps=ROUNDED, moved=VOLUME,
    ),
    "transform.map_coordinates": Case(
        lambda s: lv.transform.map_coordinates(s, points(), mode="reflect"),
        each(sampled), ("k", "ring", "point"), ulps=ROUNDED,
    ),
    "transform.zoom": Case(
        lambda s: lv.transform.zoom(s, (0.8, 0.4, 0.6), order=2, mode="mirror"),
        each(zoomed), ulps=ROUNDED, moved=VOLUME, also={"factor": 2.0},
    ),
    "transform.rescale": Case(
        lambda s: lv.transform.rescale(s, (1, 0.5, 0.6), mode="mirror"),
        rescaled((1, 0.5, 0.6), mode="reflect", anti_aliasing=True), ulps=ROUNDED,
        moved=("y", "x"), also={"scale": 0.5},
    ),
}  # fmt: skip

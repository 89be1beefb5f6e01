"""Rows of the masks topic, with oracles by numpy, scipy and scikit-image."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import xarray as xr
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_objects

import lazyvol as lv
from tests import formulas as by_numpy
from tests.cases import STACKED, UNIT, VOLUME, VOXEL, Array, Case, mask_of, masked, omitted, wide

#: threshold of the masks that morphology is tested on
LEVEL = 1.5


def above(s: xr.DataArray) -> xr.DataArray:
    return lv.masks.threshold(s, LEVEL)


def flags(a: Array) -> Array:
    return wide(a) > LEVEL


def mask_per_particle(s: xr.DataArray) -> xr.DataArray:
    """Return a mask in memory with flags for each particle, some of which have none set."""
    return lv.as_stack(flags_per_particle(s.transpose(*STACKED).shape), voxel_size=VOXEL, unit=UNIT)


def flags_per_particle(shape: tuple[int, ...]) -> Array:
    result = np.random.default_rng(6).random(shape) > 0.7
    result[1::3] = False
    return result


def rows(a: Array) -> Array:
    """Return the masked values of each particle as rows padded with -1."""
    selected = [v[m] for v, m in zip(a, flags_per_particle(a.shape), strict=True)]
    out = np.full((len(a), max(map(len, selected))), -1, a.dtype)
    for row, values in zip(out, selected, strict=True):
        row[: len(values)] = values
    return out


def each(function: Callable[[Array], Any]) -> Callable[[Array], Array]:
    return lambda a: np.stack([function(v) for v in a])


def otsu(a: Array) -> Array:
    return a > threshold_otsu(wide(a) if a.dtype.kind == "f" else a)


def otsu_inside(a: Array) -> Array:
    inside = a[:, mask_of(a.shape)]
    return a > threshold_otsu(wide(inside) if a.dtype.kind == "f" else inside)


def ellipsoid(radius: float) -> Array:
    """Return the voxels of a ball of ``radius`` in the unit of the stack."""
    reach = [int(radius / step) for step in VOXEL]
    grids = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    return np.sqrt(sum((g * s) ** 2 for g, s in zip(grids, VOXEL, strict=True))) <= radius


def filled(a: Array, fill: Any) -> Array:
    return np.where(mask_of(a.shape), a, fill)


def weights_of(shape: tuple[int, ...]) -> Array:
    """Return weights of one volume, some of which are 0 or 1."""
    return np.clip(np.random.default_rng(8).normal(0.5, 0.5, shape[-3:]), 0, 1)


def weights(s: xr.DataArray) -> xr.DataArray:
    return lv.as_stack(weights_of(s.transpose(*STACKED).shape), voxel_size=VOXEL, unit=UNIT)


def mixed(a: Array) -> Array:
    return wide(a) * weights_of(a.shape) + 2.0 * (1 - weights_of(a.shape))


def counted(a: Array) -> Array:
    return np.nanmean(omitted(a), (1, 2, 3), keepdims=True)


def shape(op: Any, oracle: Any, dtype: str = "bool", ulps: float = 0.0) -> Case:
    return Case(op, oracle, VOLUME, None, dtype, ulps, ("uint8",), generated=True)


def of_flags(op: Any, oracle: Callable[[Array], Any], dtype: str = "bool") -> Case:
    return Case(lambda s: op(above(s)), lambda a: each(oracle)(flags(a)), power=None, dtype=dtype)


SELECTIONS = {
    "masks.select": Case(
        lambda s: lv.masks.select(s, masked(s))[["values"]],
        lambda a: {"values": a[:, mask_of(a.shape)].ravel()}, ("obs",), dtype="same", ulps=0,
    ),
    "masks.select/own": Case(
        lambda s: lv.masks.select(s, mask_per_particle(s))[["values"]],
        lambda a: {"values": a[flags_per_particle(a.shape)]}, ("obs",), dtype="same", ulps=0,
    ),
    "masks.select/rows": Case(
        lambda s: lv.masks.select(s, masked(s).isel(x=0, drop=True))[["values"]],
        lambda a: {"values": a[:, mask_of(a.shape)[..., 0]].reshape(-1, a.shape[-1])},
        ("obs", "x"), dtype="same", ulps=0,
    ),
    "masks.frame": Case(
        lambda s: lv.masks.frame(lv.masks.select(s, mask_per_particle(s)), -1).drop_vars(
            "score", errors="ignore"
        ),
        lambda a: a[-1][flags_per_particle(a.shape)[-1]], ("obs",), dtype="same", ulps=0,
    ),
    "masks.pad": Case(
        lambda s: lv.masks.pad(lv.masks.select(s, mask_per_particle(s)), 255),
        lambda a: np.where(rows(a) == -1, 255, rows(a)) if a.dtype != np.uint8 else padded(a),
        ("k", "point"), dtype="same", ulps=0,
    ),
}  # fmt: skip


def padded(a: Array) -> Array:
    """Return padded rows of unsigned values, which have no -1."""
    return np.where(rows(a.astype(np.int16)) == -1, 255, rows(a.astype(np.int16))).astype(a.dtype)


STATISTICS = {
    "masks.mean": Case(
        lambda s: lv.masks.mean(s, masked(s)), lambda a: counted(a)[:, 0, 0, 0], ("k",)
    ),
    "masks.mean/channels": Case(
        lambda s: lv.masks.mean(s, masked(s).isel(x=0, drop=True)),
        lambda a: wide(a)[:, mask_of(a.shape)[..., 0]].mean(1), ("k", "x"),
    ),
    "masks.mean/dim": Case(
        lambda s: lv.masks.mean(s, masked(s), dim=("k", "y", "x")),
        lambda a: np.nanmean(omitted(a), (0, 2, 3)), ("z",),
    ),
    "masks.sum": Case(
        lambda s: lv.masks.sum(s, masked(s)), lambda a: np.nansum(omitted(a), (1, 2, 3)), ("k",)
    ),
    "masks.var": Case(
        lambda s: lv.masks.var(s, masked(s).isel(x=0, drop=True), ddof=1),
        lambda a: wide(a)[:, mask_of(a.shape)[..., 0]].var(1, ddof=1), ("k", "x"), power=2,
    ),
}  # fmt: skip

FLAGS = {
    "masks.threshold": Case(lv.masks.threshold, otsu, power=None, dtype="bool"),
    "masks.threshold/number": Case(above, flags, power=None, dtype="bool"),
    "masks.threshold/mask": Case(
        lambda s: lv.masks.threshold(s, mask=masked(s)), otsu_inside, power=None, dtype="bool"
    ),
    "masks.threshold/particle": Case(
        lambda s: lv.masks.threshold(s, per="particle"), each(otsu), power=None, dtype="bool"
    ),
    "masks.label": of_flags(lv.masks.label, lambda v: ndi.label(v)[0], "int32"),
    "masks.label/corners": of_flags(
        lambda m: lv.masks.label(m, connectivity=3),
        lambda v: ndi.label(v, np.ones((3, 3, 3)))[0], "int32",
    ),
    "masks.fill_holes": of_flags(
        lambda m: lv.masks.fill_holes(~m), lambda v: ndi.binary_fill_holes(~v)
    ),
    "masks.remove_small_objects": replace(
        of_flags(
            lambda m: lv.masks.remove_small_objects(m, 4, connectivity=2),
            lambda v: remove_small_objects(v, max_size=3, connectivity=2),
        ),
        also={"min_size": 4},
    ),
    "masks.propagate": Case(
        lambda s: lv.masks.propagate(lv.masks.threshold(s, 2 * LEVEL), above(s)),
        lambda a: np.stack([
            ndi.binary_propagation(v > 2 * LEVEL, mask=v > LEVEL) for v in wide(a)
        ]), power=None, dtype="bool",
    ),
    "masks.distance_transform": replace(
        of_flags(
            lambda m: lv.masks.distance_transform(m),
            lambda v: ndi.distance_transform_edt(v, VOXEL), "float64",
        ),
        power=UNIT, ulps=4,
    ),
    "masks.distance_transform/limit": replace(
        of_flags(
            lambda m: lv.masks.distance_transform(m, limit=4.0),
            lambda v: np.minimum(ndi.distance_transform_edt(v, VOXEL), 4.0), "float64",
        ),
        power=UNIT, ulps=4,
    ),
    "masks.dilate": of_flags(lv.masks.dilate, ndi.binary_dilation),
    "masks.dilate/radius": of_flags(
        lambda m: lv.masks.dilate(m, radius=4.6),
        lambda v: ndi.binary_dilation(v, ellipsoid(4.6)),
    ),
    "masks.dilate/border": of_flags(
        lambda m: lv.masks.dilate(m, connectivity=2, iterations=2, border=True),
        lambda v: ndi.binary_dilation(
            v, ndi.generate_binary_structure(3, 2), iterations=2, border_value=1
        ),
    ),
    "masks.erode": of_flags(lv.masks.erode, ndi.binary_erosion),
    "masks.erode/size": of_flags(
        lambda m: lv.masks.erode(m, size={"y": 3, "x": 1}, border=True),
        lambda v: ndi.binary_erosion(v, np.ones((1, 3, 1)), border_value=1),
    ),
    "masks.open": of_flags(
        lambda m: lv.masks.open(m, size={"x": 3}),
        lambda v: ndi.binary_opening(v, np.ones((1, 1, 3))),
    ),
    "masks.close": of_flags(
        lambda m: lv.masks.close(m, iterations=2), lambda v: ndi.binary_closing(v, iterations=2)
    ),
}  # fmt: skip

APPLIED = {
    "masks.apply": Case(
        lambda s: lv.masks.apply(s, masked(s)), lambda a: filled(a, 0), dtype="same", ulps=0
    ),
    "masks.apply/nan": Case(
        lambda s: lv.masks.apply(s, masked(s), np.nan), lambda a: filled(wide(a), np.nan)
    ),
    "masks.apply/mean": Case(
        lambda s: lv.masks.apply(s, masked(s), "mean"), lambda a: filled(wide(a), counted(a))
    ),
    "masks.apply/soft": Case(lambda s: lv.masks.apply(s, weights(s), 2.0), mixed),
}

SHAPES = {
    "masks.sphere": shape(
        lambda s: lv.masks.sphere(s, radius=4.4),
        lambda a: by_numpy.ball(a.shape[1:], VOXEL, radius=4.4) > 0,
    ),
    "masks.sphere/soft": shape(
        lambda s: lv.masks.sphere(s, radius=4.4, soft=3.0),
        lambda a: by_numpy.ball(a.shape[1:], VOXEL, radius=4.4, soft=3.0), "float32", 4.0,
    ),
    "masks.cylinder": shape(
        lambda s: lv.masks.cylinder(s, radius=3.3, length=9.1, axis={"z": 1.0, "x": 0.5}),
        lambda a: by_numpy.cylinder(
            a.shape[1:], VOXEL, radius=3.3, length=9.1, axis={"z": 1.0, "x": 0.5}
        ) > 0,
    ),
    "masks.box": shape(
        lambda s: lv.masks.box(s, size={"z": 4.0, "x": 7.0}),
        lambda a: by_numpy.box(a.shape[1:], VOXEL, size=(4.0, np.inf, 7.0)) > 0,
    ),
}  # fmt: skip

MASKS = {**SELECTIONS, **STATISTICS, **FLAGS, **APPLIED, **SHAPES}

"""The table of all public operations, each with an oracle that computes its result differently.

A row gives an operation its tests (``tests/ops/test_every_op.py``) and its benchmark. The part of
a name after ``/`` names the variant. Oracles use numpy and scipy on plain arrays (k, z, y, x), in
float64.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

import lazyvol as lv
from tests import formulas as by_numpy
from tests.cases import (
    DTYPES,
    STACKED,
    UNIT,
    VOLUME,
    VOXEL,
    Array,
    Case,
    each,
    mask_of,
    masked,
    omitted,
    wide,
)
from tests.rows.clustering import CLUSTERING
from tests.rows.density import DENSITY
from tests.rows.derivatives import DERIVATIVES
from tests.rows.filters import FILTERS
from tests.rows.fourier import FOURIER
from tests.rows.intensity import LEVELS
from tests.rows.masks import MASKS
from tests.rows.measure import MEASURE
from tests.rows.registration import REGISTRATION
from tests.rows.scores import SCORES
from tests.rows.synthetic import TEXTURES
from tests.rows.transform import TRANSFORM
from tests.rows.unmixing import UNMIXING, WHITENING

__all__ = ["DTYPES", "ORACLES", "UNIT", "VOLUME", "VOXEL", "Case", "function_of", "required"]


def described(a: Array) -> dict[str, Array]:
    norm = np.sqrt((a.astype(np.float64) ** 2).sum(0))
    return {
        "mean": a.mean(0, np.float64), "var": a.var(0, np.float64), "min": a.min(0),
        "max": a.max(0), "norm": norm,
    }  # fmt: skip


def quantiles(a: Array, q: Any, axis: Any) -> Array:
    """Return quantiles, several of them along the last axis."""
    return (
        np.moveaxis(np.quantile(wide(a), q, axis), 0, -1)
        if np.ndim(q)
        else (np.quantile(wide(a), q, axis))
    )


def histograms(a: Array) -> dict[str, Array]:
    """Return counts of every particle in common bins."""
    ends = (float(a.min()), float(a.max()))
    return {"counts": np.stack([np.histogram(v, 12, ends)[0] for v in wide(a)])}


STATS = {
    "stats.mean": Case(lv.stats.mean, lambda a: wide(a).mean(0), VOLUME),
    "stats.mean/all": Case(lambda s: lv.stats.mean(s, None), lambda a: wide(a).mean(), ()),
    "stats.mean/apart": Case(
        lambda s: lv.stats.mean(s, ("x", "k")), lambda a: wide(a).mean((0, 3)), ("z", "y")
    ),
    "stats.mean/mask": Case(
        lambda s: lv.stats.mean(s, VOLUME, mask=masked(s)),
        lambda a: np.nanmean(omitted(a), (1, 2, 3)), ("k",),
    ),
    "stats.sum": Case(lv.stats.sum, lambda a: wide(a).sum(0), VOLUME),
    "stats.sum/volumes": Case(
        lambda s: lv.stats.sum(s, VOLUME), lambda a: wide(a).sum((1, 2, 3)), ("k",)
    ),
    "stats.var": Case(lv.stats.var, lambda a: wide(a).var(0), VOLUME, power=2),
    "stats.var/ddof": Case(
        lambda s: lv.stats.var(s, "y", ddof=1), lambda a: wide(a).var(2, ddof=1),
        ("k", "z", "x"), power=2,
    ),
    "stats.std": Case(lv.stats.std, lambda a: wide(a).std(0), VOLUME),
    "stats.std/mask": Case(
        lambda s: lv.stats.std(s, VOLUME, mask=masked(s)),
        lambda a: np.nanstd(omitted(a), (1, 2, 3)), ("k",),
    ),
    "stats.min": Case(lv.stats.min, lambda a: a.min(0), VOLUME, dtype="same", ulps=0),
    "stats.max": Case(lv.stats.max, lambda a: a.max(0), VOLUME, dtype="same", ulps=0),
    "stats.max/volumes": Case(
        lambda s: lv.stats.max(s, VOLUME), lambda a: a.max((1, 2, 3)), ("k",), dtype="same", ulps=0
    ),
    "stats.count": Case(
        lv.stats.count, lambda a: np.full(a.shape[1:], len(a)), VOLUME, power=None, dtype="int64"
    ),
    "stats.count/mask": Case(
        lambda s: lv.stats.count(s, VOLUME, mask=masked(s)),
        lambda a: np.full(len(a), mask_of(a.shape).sum()), ("k",), power=None, dtype="int64",
    ),
    "stats.norm": Case(
        lv.stats.norm, lambda a: np.linalg.norm(wide(a).reshape(len(a), -1), axis=1), ("k",)
    ),
    "stats.norm/1": Case(
        lambda s: lv.stats.norm(s, ord=1), lambda a: abs(wide(a)).sum((1, 2, 3)), ("k",)
    ),
    "stats.norm/inf": Case(
        lambda s: lv.stats.norm(s, "k", ord=np.inf), lambda a: abs(wide(a)).max(0), VOLUME
    ),
    "stats.describe": Case(
        lv.stats.describe, described, VOLUME,
        power={"mean": 1, "var": 2, "min": 1, "max": 1, "norm": 1},
        dtype={"mean": "float", "var": "float", "min": "same", "max": "same", "norm": "float"},
    ),
    "stats.quantile": Case(
        lambda s: lv.stats.quantile(s, 0.5), lambda a: np.median(wide(a), 0), VOLUME
    ),
    "stats.quantile/several": Case(
        lambda s: lv.stats.quantile(s, (0.1, 0.75)), lambda a: quantiles(a, (0.1, 0.75), 0),
        (*VOLUME, "quantile"),
    ),
    "stats.quantile/volumes": Case(
        lambda s: lv.stats.quantile(s, 0.9, VOLUME), lambda a: quantiles(a, 0.9, (1, 2, 3)), ("k",)
    ),
    "stats.quantile/method": Case(
        lambda s: lv.stats.quantile(s, 0.3, method="averaged_inverted_cdf"),
        lambda a: np.quantile(wide(a), 0.3, 0, method="averaged_inverted_cdf"), VOLUME,
    ),
    "stats.quantile/mask": Case(
        lambda s: lv.stats.quantile(s, 0.25, None, mask=masked(s)),
        lambda a: np.nanquantile(omitted(a), 0.25), (),
    ),
    "stats.histogram": Case(
        lambda s: lv.stats.histogram(s, bins=20)[["counts"]],
        lambda a: {"counts": np.histogram(wide(a), 20)[0]}, ("bin",), power=None, dtype="int64",
    ),
    "stats.histogram/range": Case(
        lambda s: lv.stats.histogram(s, bins=9, range=(-2.0, 4.0))[["counts"]],
        lambda a: {"counts": np.histogram(wide(a), 9, (-2, 4))[0]}, ("bin",), power=None,
        dtype="int64",
    ),
    "stats.histogram/weights": Case(
        lambda s: lv.stats.histogram(s, bins=6, range=(-2, 4), weights=s)[["counts"]],
        lambda a: {"counts": np.histogram(wide(a), 6, (-2, 4), weights=wide(a))[0]}, ("bin",),
    ),
    "stats.histogram/volumes": Case(
        lambda s: lv.stats.histogram(s, bins=12, dim=VOLUME)[["counts"]], histograms, ("k", "bin"),
        power=None, dtype="int64",
    ),
}  # fmt: skip

PROJECTIONS = {
    "projections.sum": Case(lv.projections.sum, lambda a: wide(a).sum(1), ("k", "y", "x")),
    "projections.mean": Case(
        lambda s: lv.projections.mean(s, "y"), lambda a: wide(a).mean(2), ("k", "z", "x")
    ),
    "projections.max": Case(
        lambda s: lv.projections.max(s, "x"), lambda a: a.max(3), ("k", "z", "y"),
        dtype="same", ulps=0,
    ),
    "projections.min": Case(
        lv.projections.min, lambda a: a.min(1), ("k", "y", "x"), dtype="same", ulps=0
    ),
    "projections.std": Case(
        lambda s: lv.projections.std(s, "y"), lambda a: wide(a).std(2), ("k", "z", "x")
    ),
    # voxels 2 to 5 along y have the positions 4, 6, 8 and 10
    "projections.slab": Case(
        lambda s: lv.projections.slab(s, "y", 3.5, 10.0), lambda a: wide(a)[:, :, 2:6].mean(2),
        ("k", "z", "x"),
    ),
    "projections.slab/max": Case(
        lambda s: lv.projections.slab(s, "z", 3.0, 3.0, "max"), lambda a: a[:, 1],
        ("k", "y", "x"), dtype="same", ulps=0,
    ),
    "projections.slab/mask": Case(
        lambda s: lv.projections.slab(s, "x", 4.5, 18.0, "sum", mask=masked(s)),
        lambda a: np.nansum(omitted(a)[..., 3:], 3), ("k", "z", "y"),
    ),
}  # fmt: skip


def ranged(v: Array) -> Array:
    return (v - v.min()) / (v.max() - v.min())


def ranged_inside(v: Array) -> Array:
    inside = v[mask_of(v.shape)]
    return 3 - 5 * (v - inside.min()) / (inside.max() - inside.min())


INTENSITY = {
    "intensity.rescale": Case(lv.intensity.rescale, each(ranged), power=None),
    "intensity.rescale/mask": Case(
        lambda s: lv.intensity.rescale(s, 3.0, -2.0, mask=masked(s)), each(ranged_inside),
        power=None,
    ),
    "intensity.rescale/apart": Case(
        lambda s: lv.intensity.rescale(s, dim=("k", "y")),
        lambda a: (wide(a) - a.min((0, 2), keepdims=True))
        / np.subtract(a.max((0, 2), keepdims=True), a.min((0, 2), keepdims=True), dtype="f8"),
        power=None,
    ),
    "intensity.unit_norm": Case(
        lv.intensity.unit_norm, each(lambda v: v / np.linalg.norm(v.ravel())), power=None
    ),
    "intensity.unit_norm/k": Case(
        lambda s: lv.intensity.unit_norm(s, dim="k"),
        lambda a: wide(a) / np.maximum(np.sqrt((wide(a) ** 2).sum(0)), 1e-300), power=None,
    ),
    "intensity.center": Case(lv.intensity.center, each(lambda v: v - v.mean())),
    "intensity.standardize": Case(
        lv.intensity.standardize,
        each(lambda v: (v - v.mean()) / max(v.std(), v.size**-0.5)), power=None,
    ),
    "intensity.standardize/slices": Case(
        lambda s: lv.intensity.standardize(s, dim=("y", "x")),
        lambda a: (wide(a) - wide(a).mean((2, 3), keepdims=True))
        / np.maximum(wide(a).std((2, 3), keepdims=True), (a.shape[2] * a.shape[3]) ** -0.5),
        power=None,
    ),
    "intensity.contrast_normalise": Case(
        lambda s: lv.intensity.contrast_normalise(s, scale=2.0, bias=0.5),
        each(lambda v: 2 * (v - v.mean()) / np.sqrt(0.5 + v.var())), power=None,
    ),
}  # fmt: skip


def generated(op: Any, oracle: Any, dims: tuple[str, ...] = VOLUME, ulps: float = 4.0) -> Case:
    return Case(op, oracle, dims, None, "float32", ulps, ("uint8",), generated=True)


TILTED = {"axis": {"z": 1.0, "y": -2.0, "x": 0.5}, "radius": 3.3, "length": 9.1, "soft": 2.0}

SYNTHETIC = {
    "synthetic.noise": generated(
        lambda s: lv.synthetic.noise(s, seed=11, scale=2.0),
        lambda a: 2 * by_numpy.normal(a.shape, seed=11), STACKED,
    ),
    "synthetic.noise/uniform": generated(
        lambda s: lv.synthetic.noise(s, seed=12, kind="uniform", scale=3.0),
        lambda a: 3 * by_numpy.uniform(a.shape, seed=12), STACKED,
    ),
    "synthetic.cylinder": generated(
        lambda s: lv.synthetic.cylinder(s, **TILTED, centre={"y": 11.0}),
        lambda a: by_numpy.cylinder(a.shape[1:], VOXEL, **TILTED, centre=(2, 5.5, 6)),
    ),
    "synthetic.cylinder/tilt": generated(
        lambda s: lv.synthetic.cylinder(s, radius=2.2, length=8.3, axis="y", tilt=30.0),
        lambda a: by_numpy.cylinder(
            a.shape[1:], VOXEL, radius=2.2, length=8.3, axis={"y": np.sqrt(3.0), "x": 1.0}
        ),
    ),
    "synthetic.sphere": generated(
        lambda s: lv.synthetic.sphere(s, radius=4.4, soft=3.0),
        lambda a: by_numpy.ball(a.shape[1:], VOXEL, radius=4.4, soft=3.0),
    ),
    "synthetic.circle": generated(
        lambda s: lv.synthetic.circle(s, radius=4.4, axis="y"),
        lambda a: by_numpy.ball(a.shape[1:], (3.0, 0.0, 1.5), radius=4.4),
    ),
    "synthetic.box": generated(
        lambda s: lv.synthetic.box(s, size={"z": 4.0, "x": 7.0}, soft=2.5),
        lambda a: by_numpy.box(a.shape[1:], VOXEL, size=(4.0, np.inf, 7.0), soft=2.5),
    ),
    "synthetic.particles": generated(
        lambda s: lv.synthetic.particles(
            s.shape[1:], s.sizes["k"], alpha=0.3, tilted=0.4, seed=3, radius=4.1, length=13.0,
            voxel_size=VOXEL, unit=UNIT,
        ),
        lambda a: by_numpy.particles(
            a.shape, VOXEL, alpha=0.3, tilted=0.4, seed=3, radius=4.1, length=13.0
        ),
        STACKED,
    ),
    "synthetic.particles/template": generated(
        lambda s: lv.synthetic.particles(
            lv.synthetic.sphere(s, radius=4.4), s.sizes["k"], sigma=0.5, tilted=0.0, seed=4
        ),
        lambda a: by_numpy.ball(a.shape[1:], VOXEL, radius=4.4)
        + 0.5 * by_numpy.normal(a.shape, seed=4, stream=2),
        STACKED,
    ),
}  # fmt: skip

#: row by name; the part of a name before ``/`` is its topic and function
ORACLES: dict[str, Case] = {
    **STATS, **PROJECTIONS, **INTENSITY, **SYNTHETIC, **TEXTURES, **SCORES, **DERIVATIVES,
    **DENSITY, **TRANSFORM, **FOURIER, **LEVELS, **FILTERS, **MASKS, **MEASURE,
    **CLUSTERING, **UNMIXING, **WHITENING,
    **REGISTRATION,
}  # fmt: skip


def function_of(name: str) -> str:
    """Return ``topic.function`` of a row."""
    return name.partition("/")[0]


def required(name: str) -> Mapping[str, Any]:
    """Return valid values of the arguments that an operation requires besides its stack."""
    rows = (case.also for row, case in ORACLES.items() if function_of(row) == name)
    return next((also for also in rows if also), {})

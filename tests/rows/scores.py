"""Rows of the scores topic, with oracles in numpy and scipy."""

from collections.abc import Mapping

import numpy as np
import scipy.stats
import xarray as xr

import lazyvol as lv
from tests import formulas as by_numpy
from tests.cases import VOLUME, Array, Case, mask_of, masked, omitted, wide


def others(a: Array) -> Array:
    """Return for each particle the average of all others."""
    return np.stack([np.delete(wide(a), k, axis=0).mean(0) for k in range(len(a))])


def flat(a: Array) -> Array:
    return wide(a).reshape(len(a), -1)


def unmasked(a: Array) -> Array:
    """Return the voxels in the mask, one row per particle."""
    return wide(a)[:, mask_of(a.shape)]


def mse(a: Array, b: Array) -> Array:
    return ((flat(a) - flat(b)) ** 2).mean(1)


def pearson(a: Array, b: Array) -> Array:
    return np.array([scipy.stats.pearsonr(p, q)[0] for p, q in zip(flat(a), flat(b), strict=True)])


def cosine(a: Array, b: Array) -> Array:
    a, b = flat(a), flat(b)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def bce(a: Array, b: Array) -> Array:
    p, t = np.clip(flat(a), 1e-7, 1 - 1e-7), np.clip(flat(b), 0, 1)
    return -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(1)


def compared(a: Array) -> dict[str, Array]:
    b = others(a)
    return {
        "mse": mse(a, b), "rmse": np.sqrt(mse(a, b)), "cosine": cosine(a, b), "ncc": pearson(a, b)
    }  # fmt: skip


def fisher(a: Array, b: Array) -> dict[str, Array]:
    """Return correlations with the confidence interval of scipy."""
    results = [scipy.stats.pearsonr(p, q) for p, q in zip(flat(a), flat(b), strict=True)]
    bounds = [r.confidence_interval(0.9) for r in results]
    return {
        "correlation": np.array([r.statistic for r in results]),
        "lower": np.array([b.low for b in bounds]),
        "upper": np.array([b.high for b in bounds]),
    }


def slices_against_the_bottom_one(s: xr.DataArray) -> xr.Dataset:
    """Return the correlation of every slice of a stack with its first one."""
    return lv.scores.correlation(s, s.isel(z=0), ("y", "x"), confidence=0.9)


def slices(a: Array, changed: Array | None = None) -> dict[str, Array]:
    """Correlate every slice, or its transform, with the first slice."""
    k, z, *_ = a.shape
    changed = a if changed is None else changed
    bottom = np.repeat(a[:, :1], z, axis=1)
    correlations = fisher(changed.reshape(k * z, -1), bottom.reshape(k * z, -1))
    return {name: values.reshape(k, z) for name, values in correlations.items()}


def shells(a: Array, b: Array, voxel: tuple[float, ...]) -> Array:
    """Return the Fourier shell correlation from full spectra and a loop over shells."""
    first, second = np.fft.fftn(wide(a)), np.fft.fftn(wide(b))
    grids = np.meshgrid(
        *(np.fft.fftfreq(n, d) for n, d in zip(a.shape, voxel, strict=True)), indexing="ij"
    )
    radius = np.sqrt(sum(g**2 for g in grids))
    width = max(1 / (n * d) for n, d in zip(a.shape, voxel, strict=True))
    curve = []
    for shell in range(int(min(1 / (2 * d) for d in voxel) / width + 1e-9) + 1):
        inside = np.rint(radius / width) == shell
        cross = (first[inside] * second[inside].conj()).sum().real
        power = (abs(first[inside]) ** 2).sum() * (abs(second[inside]) ** 2).sum()
        curve.append(cross / np.sqrt(power))
    return np.array(curve)


def half_sets(a: Array) -> Mapping[str, Array]:
    return {
        "first": wide(a)[::2].mean(0), "second": wide(a)[1::2].mean(0),
        "average": wide(a).mean(0), "variance": wide(a).var(0),
    }  # fmt: skip


#: a correlation near 0 is exact relative to 1, not to itself
UNIT_SCALE = 250.0

SCORES = {
    "scores.mse": Case(lv.scores.mse, lambda a: mse(a, others(a)), ("k",), power=2),
    "scores.rmse": Case(lv.scores.rmse, lambda a: np.sqrt(mse(a, others(a))), ("k",)),
    "scores.cosine": Case(
        lv.scores.cosine, lambda a: cosine(a, others(a)), ("k",), power=None, ulps=UNIT_SCALE
    ),
    "scores.ncc": Case(
        lv.scores.ncc, lambda a: pearson(a, others(a)), ("k",), power=None, ulps=UNIT_SCALE
    ),
    "scores.bce": Case(
        lv.scores.bce, lambda a: bce(a, others(a)), ("k",), power=None, ulps=UNIT_SCALE
    ),
    "scores.ncc/volume": Case(
        lambda s: lv.scores.ncc(s, s.isel(k=2)), lambda a: pearson(a, a[[2] * len(a)]), ("k",),
        power=None, ulps=UNIT_SCALE,
    ),
    "scores.mse/stack": Case(
        lambda s: lv.scores.mse(s, s * 0 + 1), lambda a: mse(a, np.ones_like(a)), ("k",), power=2
    ),
    "scores.ncc/mask": Case(
        lambda s: lv.scores.ncc(s, mask=masked(s)),
        lambda a: pearson(unmasked(a), unmasked(others(a))), ("k",), power=None,
        ulps=UNIT_SCALE,
    ),
    "scores.mse/mask": Case(
        lambda s: lv.scores.mse(s, mask=masked(s)),
        lambda a: np.nanmean((omitted(a) - others(a)) ** 2, (1, 2, 3)), ("k",), power=2,
    ),
    "scores.mse/along": Case(
        lambda s: lv.scores.mse(s, s.isel(k=0), dim="k"),
        lambda a: ((wide(a) - wide(a)[:1]) ** 2).mean(0), VOLUME, power=2,
    ),
    "scores.compare": Case(
        lv.scores.compare, compared, ("k",), ulps=UNIT_SCALE,
        power={"mse": 2, "rmse": 1, "cosine": None, "ncc": None},
    ),
    "scores.screen": Case(
        lambda s: lv.scores.screen(s)[["mse", "rmse", "cosine", "ncc"]], compared, ("k",),
        ulps=UNIT_SCALE, power={"mse": 2, "rmse": 1, "cosine": None, "ncc": None},
    ),
    "scores.correlation": Case(
        slices_against_the_bottom_one, slices, ("k", "z"),
        power={"correlation": None, "lower": None, "upper": None},
    ),
    "scores.profile": Case(
        lambda s: lv.scores.profile(s, transform="flip_x", confidence=0.9),
        lambda a: slices(a, a[..., ::-1]), ("k", "z"), ulps=UNIT_SCALE,
        power={"correlation": None, "lower": None, "upper": None},
    ),
    "scores.profile/noise": Case(
        lambda s: lv.scores.profile(
            s, s.isel(z=0), transform=lambda t: t * 2.0, noise=3.0, seed=5, confidence=0.9
        ),
        lambda a: slices(a, 2 * wide(a) + 3 * by_numpy.normal(a.shape, seed=5, stream=7)),
        ("k", "z"), ulps=UNIT_SCALE, power={"correlation": None, "lower": None, "upper": None},
    ),
    "scores.fsc": Case(
        lambda s: lv.scores.fsc(s.isel(k=0, drop=True), s.isel(k=1)),
        lambda a: shells(a[0], a[1], (3.0, 2.0, 1.5)), ("frequency",), power=None,
    ),
    "scores.halves": Case(
        lv.scores.halves, half_sets, VOLUME,
        power={"first": 1, "second": 1, "average": 1, "variance": 2},
    ),
}  # fmt: skip

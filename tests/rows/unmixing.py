"""Rows of unmixing and whitening, with oracles of numpy."""

import numpy as np
import xarray as xr

import lazyvol as lv
from tests.cases import VOLUME, Array, Case, wide

#: float64 through a matrix of condition 20, and through eigenvalues a factor of 50 apart
CONDITION, SPREAD = 100.0, 2000.0
CHANNELS = 3


def table(rows: int, columns: int) -> Array:
    """Return a well-conditioned matrix close to the unit matrix."""
    return np.eye(rows, columns) + 0.1 * np.random.default_rng(2).random((rows, columns))


def labelled_table(rows: int, columns: int) -> xr.DataArray:
    names = {"channel": [f"c{n}" for n in range(columns)]}
    return xr.DataArray(table(rows, columns), names, ("k", "channel"))


def along_first(a: Array, matrix: Array) -> Array:
    return np.moveaxis(np.tensordot(wide(a), matrix, (0, 0)), -1, 0)


def whitened(x: Array) -> Array:
    """Return ZCA of samples in rows by numpy's SVD of the centred samples."""
    u, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return np.sqrt(len(x) - 1) * (u * (s > 1e-9 * s[0])) @ v


def scored(x: Array, n: int) -> Array:
    """Return PCA-whitened samples, whose largest score of each component is positive."""
    u = np.linalg.svd(x - x.mean(0), full_matrices=False)[0][:, :n]
    sign = np.sign(np.take_along_axis(u, abs(u).argmax(0)[None], 0)[0])
    return np.sqrt(len(x) - 1) * u * sign


def voxels(a: Array) -> Array:
    """Return a row for each voxel with the values of all particles."""
    return wide(a).reshape(len(a), -1).T


def softened(x: Array, epsilon: float) -> Array:
    """Return ZCA with ``epsilon`` by numpy's eigenvectors of the covariance."""
    values, vectors = np.linalg.eigh(np.cov(x.T))
    return (x - x.mean(0)) @ (vectors / np.sqrt(values + epsilon)) @ vectors.T


UNMIXING = {
    "unmixing.mix": Case(
        lambda s: lv.unmixing.mix(s, table(s.sizes["x"], s.sizes["x"]), dim="x"),
        lambda a: wide(a) @ table(a.shape[-1], a.shape[-1]),
    ),
    "unmixing.mix/channels": Case(
        lambda s: lv.unmixing.mix(s, labelled_table(s.sizes["k"], CHANNELS)),
        lambda a: along_first(a, table(len(a), CHANNELS)), ("channel", *VOLUME),
    ),
    "unmixing.unmix": Case(
        lambda s: lv.unmixing.unmix(s, table(s.sizes["k"], s.sizes["k"]), dim="k"),
        lambda a: along_first(a, np.linalg.inv(table(len(a), len(a)))), ulps=CONDITION,
    ),
    "unmixing.unmix/few": Case(
        lambda s: lv.unmixing.unmix(s, table(2, s.sizes["x"]), dim="x", rcond=1e-9),
        lambda a: wide(a) @ np.linalg.pinv(table(2, a.shape[-1])), ulps=CONDITION,
        moved=("x",),
    ),
}  # fmt: skip

WHITENING = {
    "intensity.whiten": Case(
        lv.intensity.whiten,
        lambda a: whitened(wide(a).reshape(len(a), -1)).reshape(a.shape), power=None, ulps=SPREAD,
    ),
    "intensity.whiten/pca": Case(
        lambda s: lv.intensity.whiten(s, kind="pca", keep=2),
        lambda a: scored(wide(a).reshape(len(a), -1), 2), ("k", "component"), power=None,
        ulps=SPREAD,
    ),
    "intensity.whiten/channels": Case(
        lambda s: lv.intensity.whiten(s, over=VOLUME),
        lambda a: whitened(voxels(a)).T.reshape(a.shape), power=None, ulps=SPREAD,
    ),
    "intensity.whiten/epsilon": Case(
        lambda s: lv.intensity.whiten(s, over=VOLUME, epsilon=2.0),
        lambda a: softened(voxels(a), 2.0).T.reshape(a.shape), power=None, ulps=SPREAD,
    ),
    "intensity.whitening": Case(
        lambda s: lv.intensity.whitening(s, over=VOLUME)[["average"]],
        lambda a: {"average": wide(a).mean((1, 2, 3))}, ("k",), dtype="float64", ulps=CONDITION,
    ),
}  # fmt: skip

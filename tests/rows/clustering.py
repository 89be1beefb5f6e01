"""Rows of the clustering topic, with oracles by scipy and numpy."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.cluster import hierarchy
from scipy.spatial.distance import cdist, pdist

import lazyvol as lv
from tests.cases import Array, Case, mask_of, masked, wide

PAIR = ("k", "k_other")
#: scipy sums 715 squares in order
ORDER = 16.0
#: eigenvalues of noise are close, so that rounding rotates their components
GAP = 2000.0


def flat(a: Array) -> Array:
    return wide(a).reshape(len(a), -1)


def between(a: Array, b: Array, metric: str) -> Array:
    return cdist(flat(a), flat(b), metric)


def itself(metric: str) -> Callable[[Array], Array]:
    """Return the oracle of distances within a stack, with a zero diagonal."""

    def oracle(a: Array) -> Array:
        distances = between(a, a, metric)
        np.fill_diagonal(distances, 0.0)
        return distances

    return oracle


def tanimoto(a: Array) -> Array:
    x = flat(a)
    dot, norm = x @ x.T, (x * x).sum(1)
    result = 1 - dot / (norm[:, None] + norm - dot)
    np.fill_diagonal(result, 0.0)
    return result


def jaccard(a: Array) -> Array:
    flags = a.reshape(len(a), -1) > 1
    return cdist(flags, flags, "jaccard")


def inside(a: Array) -> Array:
    """Return the voxels in the mask, one row per particle."""
    return wide(a)[:, mask_of(a.shape)]


def tree(a: Array) -> dict[str, Array]:
    return {"tree": hierarchy.linkage(pdist(flat(a)), "average")}


def grouped(a: Array) -> dict[str, Array]:
    """Return clusters by scipy, numbered in order of appearance."""
    result = hierarchy.fcluster(hierarchy.linkage(pdist(flat(a)), "complete"), 3, "maxclust")
    _, first = np.unique(result, return_index=True)
    order = {result[i]: n for n, i in enumerate(sorted(first))}
    return {"cluster": np.array([order[c] for c in result])}


def clusters_of(s: xr.DataArray) -> xr.Dataset:
    tree = lv.clustering.linkage(lv.clustering.distances(s), "complete")
    return lv.clustering.clusters(tree, n=3).to_dataset()


def decomposition(x: Array, n: int) -> dict[str, Array]:
    """Return principal components by numpy's SVD, with the largest score positive."""
    u, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    scores, volumes = (u * s)[:, :n], v[:n]
    sign = np.sign(np.take_along_axis(scores, abs(scores).argmax(0)[None], 0)[0])
    return {
        "scores": scores * sign, "volumes": volumes * sign[:, None], "average": x.mean(0),
        "variance": s[:n] ** 2 / (len(x) - 1), "ratio": s[:n] ** 2 / (s**2).sum(),
    }  # fmt: skip


def component_row(name: str, dims: tuple[str, ...], power: int | None) -> Case:
    def oracle(a: Array) -> dict[str, Array]:
        pca = decomposition(flat(a), 2)[name]
        return {name: pca.reshape(2, *a.shape[1:]) if name == "volumes" else pca}

    return Case(
        lambda s: lv.clustering.components(s, 2)[[name]], oracle, dims, power=power, ulps=GAP
    )


CLUSTERING = {
    "clustering.distances": Case(
        lv.clustering.distances, itself("euclidean"), PAIR, ulps=ORDER
    ),
    "clustering.distances/cosine": Case(
        lambda s: lv.clustering.distances(s, metric="cosine"), itself("cosine"), PAIR, power=None,
        ulps=ORDER,
    ),
    "clustering.distances/ncc": Case(
        lambda s: lv.clustering.distances(s, metric="ncc"), itself("correlation"), PAIR,
        power=None, ulps=ORDER,
    ),
    "clustering.distances/jaccard": Case(
        lambda s: lv.clustering.distances(s > 1, metric="jaccard"), jaccard, PAIR, power=None,
        dtype="float64",
    ),
    "clustering.distances/tanimoto": Case(
        lambda s: lv.clustering.distances(s, metric="tanimoto"), tanimoto, PAIR, power=None,
        ulps=ORDER,
    ),
    "clustering.distances/other": Case(
        lambda s: lv.clustering.distances(s, s.isel(k=slice(1, 3))),
        lambda a: between(a, a[1:3], "euclidean"), PAIR, ulps=ORDER,
    ),
    "clustering.distances/mask": Case(
        lambda s: lv.clustering.distances(s, metric="ncc", mask=masked(s)),
        lambda a: np.where(np.eye(len(a)), 0, cdist(inside(a), inside(a), "correlation")), PAIR,
        power=None, ulps=ORDER,
    ),
    "clustering.condensed": Case(
        lambda s: lv.clustering.condensed(lv.clustering.distances(s)), lambda a: pdist(flat(a)),
        ("pair",), ulps=ORDER,
    ),
    "clustering.linkage": Case(
        lambda s: lv.clustering.linkage(lv.clustering.distances(s.astype("float64"))), tree,
        ("merge", "column"), power=None, dtype="float64", ulps=ORDER,
    ),
    "clustering.clusters": Case(
        clusters_of, grouped, ("k",), power=None, dtype="int64", ulps=0
    ),
    "clustering.components": component_row("scores", ("k", "component"), 1),
    "clustering.components/volumes": component_row("volumes", ("component", "z", "y", "x"), None),
    "clustering.components/variance": component_row("variance", ("component",), 2),
    "clustering.components/ratio": component_row("ratio", ("component",), None),
}  # fmt: skip

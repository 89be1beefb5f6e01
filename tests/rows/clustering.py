"""Rows of the clustering topic, and the same by scipy and numpy."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.cluster import hierarchy
from scipy.spatial.distance import cdist, pdist

import lazyvol as lv
from tests.cases import Array, Case, mask_of, masked, wide

PAIR = ("k", "k_other")
#: scipy adds 715 squares one after the other
ORDER = 16.0
#: components of noise have neighbours nearly as strong, which turns them by rounding over the gap
GAP = 2000.0


def flat(a: Array) -> Array:
    return wide(a).reshape(len(a), -1)


def between(a: Array, b: Array, metric: str) -> Array:
    return cdist(flat(a), flat(b), metric)


def itself(metric: str) -> Callable[[Array], Array]:
    """Distances of a stack from itself, the diagonal as it should be."""

    def oracle(a: Array) -> Array:
        found = between(a, a, metric)
        np.fill_diagonal(found, 0.0)
        return found

    return oracle


def tanimoto(a: Array) -> Array:
    x = flat(a)
    dot, norm = x @ x.T, (x * x).sum(1)
    found = 1 - dot / (norm[:, None] + norm - dot)
    np.fill_diagonal(found, 0.0)
    return found


def jaccard(a: Array) -> Array:
    flags = a.reshape(len(a), -1) > 1
    return cdist(flags, flags, "jaccard")


def inside(a: Array) -> Array:
    """Voxels in the mask, a row per particle."""
    return wide(a)[:, mask_of(a.shape)]


def tree(a: Array) -> dict[str, Array]:
    return {"tree": hierarchy.linkage(pdist(flat(a)), "average")}


def grouped(a: Array) -> dict[str, Array]:
    """Clusters by scipy, numbered as they appear."""
    found = hierarchy.fcluster(hierarchy.linkage(pdist(flat(a)), "complete"), 3, "maxclust")
    _, first = np.unique(found, return_index=True)
    order = {found[i]: n for n, i in enumerate(sorted(first))}
    return {"cluster": np.array([order[c] for c in found])}


def clusters_of(s: xr.DataArray) -> xr.Dataset:
    tree = lv.clustering.linkage(lv.clustering.distances(s), "complete")
    return lv.clustering.clusters(tree, n=3).to_dataset()


def decomposition(x: Array, n: int) -> dict[str, Array]:
    """Principal components by numpy's SVD, the largest score positive."""
    u, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    scores, volumes = (u * s)[:, :n], v[:n]
    sign = np.sign(np.take_along_axis(scores, abs(scores).argmax(0)[None], 0)[0])
    return {
        "scores": scores * sign, "volumes": volumes * sign[:, None], "average": x.mean(0),
        "variance": s[:n] ** 2 / (len(x) - 1), "ratio": s[:n] ** 2 / (s**2).sum(),
    }  # fmt: skip


def component_row(name: str, dims: tuple[str, ...], power: int | None) -> Case:
    def oracle(a: Array) -> dict[str, Array]:
        found = decomposition(flat(a), 2)[name]
        return {name: found.reshape(2, *a.shape[1:]) if name == "volumes" else found}

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

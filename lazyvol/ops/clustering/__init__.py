"""Distances between particles, trees, clusters and principal components.

The dims of a volume are all but ``k``, so channels belong to it; ``mask`` selects the voxels that
count. Only a part of the stack is in memory at any time; ``explain`` counts the reads of a volume.
A NaN makes all distances of its volume NaN, and all components.
"""

import warnings
from functools import partial
from math import comb, isqrt
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.linalg import linkage as linkage_kernels
from lazyvol.ops._checks import require_new_dim
from lazyvol.ops._covariance import pairwise_metric
from lazyvol.ops.clustering._pca import principal_components
from lazyvol.plan.pairwise import pairs
from lazyvol.plan.verbs import blockwise
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import STACK, float_of, require_mask, with_units

__all__ = ["clusters", "components", "condensed", "distances", "linkage"]

Metric = Literal["euclidean", "cosine", "ncc", "jaccard", "tanimoto"]
Method = Literal["single", "complete", "average", "weighted", "centroid", "median", "ward"]
OTHER = f"{STACK}_other"
#: methods that are defined by the centres of clusters, so only for Euclidean distances
CENTRE_METHODS = ("centroid", "median", "ward")
COLUMNS = ("left", "right", "distance", "size")


@operation(siblings=("b",))
def distances(
    a: xr.DataArray,
    b: xr.DataArray | None = None,
    *,
    metric: Metric = "euclidean",
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Distance between every pair of volumes, of one stack or of two: (k, k_other).

    A strip of b rows stays in memory while all other volumes are read, so that a stack of n volumes
    is read (n / b + 1) / 2 times, and once where all fit. Sums are in float64. Nearly equal volumes
    are compared by their differences, so that small distances keep their digits, and equal volumes
    have distance 0.

    Parameters
    ----------
    a
        Stack with dim k and any other dims.
    b
        Another stack, of any number of volumes with equal dims, lengths and positions; by default
        ``a`` itself.
    metric
        ``"euclidean"``, in the unit of the stack; ``"cosine"``, 1 - cosine of the angle; ``"ncc"``,
        1 - Pearson's correlation; ``"jaccard"`` of boolean volumes, the share of the voxels set in
        either one that are set in one alone; ``"tanimoto"``, its generalization to numbers:
        1 - x.y / (x.x + y.y - x.y).
    mask
        Boolean, over any dims of a volume: only voxels where it is True count.

    Returns
    -------
    xarray.DataArray
        (k, k_other), float; of one stack symmetric with a zero diagonal. ``attrs["metric"]`` names
        the metric, and is kept by ``condensed``, by files and for ``linkage``. A cosine distance
        from a volume of zeros, and a correlation with a constant one, are NaN.

    Raises
    ------
    LabelError
        If a stack has no dim k, if the volumes of both differ in their dims or positions, or if
        the metric does not suit the values.

    References
    ----------
    Rogers, D. J. and Tanimoto, T. T. (1960), Science 132, 1115-1118;
    ``scipy.spatial.distance.cdist``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([[0.0, 0], [3, 4], [0, 2]]).reshape(3, 1, 1, 2))
    >>> lv.clustering.distances(stack).values.round(3)
    array([[0.   , 5.   , 2.   ],
           [5.   , 0.   , 3.606],
           [2.   , 3.606, 0.   ]])
    """
    stacks = (a,) if b is None else (a, b)
    for stack in stacks:
        _require_volumes(stack, metric)
    if b is not None:
        _require_same_volumes(a, b)
    dtype = np.result_type(*(float_of(stack.dtype) for stack in stacks))
    matrix = pairs(
        pairwise_metric(metric, dtype), a, b, dim=STACK,
        mask=_over_volume(mask, a, "distances"), title=f"{metric} distances",
    )  # fmt: skip
    if metric != "euclidean":
        matrix.attrs = with_units(a, 0)
    matrix.attrs["metric"] = metric
    return matrix


def _require_volumes(stack: xr.DataArray, metric: str) -> None:
    """Raise LabelError if there are no volumes along k, or the metric is not defined for them."""
    if STACK not in stack.dims:
        raise LabelError(
            f"distances: stack must have volumes along {STACK!r}, got the dims {stack.dims}; "
            f"rename a dim, or use expand_dims"
        )
    require_new_dim(stack, OTHER, "distances")
    if metric == "jaccard" and stack.dtype != bool:
        raise LabelError(
            f"distances: stack must have boolean volumes for metric='jaccard', got "
            f"dtype={stack.dtype}; compare first, e.g. stack > 0, or use metric='tanimoto'"
        )
    if metric == "ncc" and stack.size == stack.sizes[STACK]:
        raise LabelError(
            f"distances: volumes must have two voxels or more for metric='ncc', got "
            f"{dict(stack.sizes)}; use metric='euclidean'"
        )


def _require_same_volumes(a: xr.DataArray, b: xr.DataArray) -> None:
    """Raise LabelError if the volumes of two stacks differ in dims or positions."""
    if set(a.dims) != set(b.dims):
        raise LabelError(
            f"distances: both stacks must have equal dims, got {a.dims} and {b.dims}; rename "
            f"or select dims"
        )
    require_same_grid(a.isel({STACK: 0}, drop=True), b.isel({STACK: 0}, drop=True))


def _over_volume(mask: xr.DataArray | None, stack: xr.DataArray, op: str) -> xr.DataArray | None:
    """Return a mask with all dims of a volume, as the matrix product needs it."""
    if mask is None:
        return None
    volume = stack.isel({STACK: 0}, drop=True)
    extra = [d for d in require_mask(f"{op}: mask", mask).dims if d not in volume.dims]
    if extra:
        raise LabelError(
            f"{op}: mask must have dims of a volume, among {volume.dims}, got {extra=}; select "
            f"one volume's mask, e.g. with .isel"
        )
    require_same_grid(volume, mask)
    missing = {d: n for d, n in volume.sizes.items() if d not in mask.dims}
    return mask.drop_vars(list(mask.coords)).expand_dims(missing)


@operation(dims={"matrix": (("k", "k_other"),)})
def condensed(matrix: xr.DataArray) -> xr.DataArray:
    """Distances above the diagonal of a distance matrix, row after row: (pair,).

    Parameters
    ----------
    matrix
        (k, k_other), square, symmetric, finite, with a zero diagonal, as ``distances`` returns it.
        It is held in memory, and checked when it is computed.

    Returns
    -------
    xarray.DataArray
        (pair,), the n (n - 1) / 2 distances in the order of ``scipy.spatial.distance.squareform``.

    Raises
    ------
    LabelError
        If the matrix is not square; when it is computed, if it is no distance matrix.

    References
    ----------
    ``scipy.spatial.distance.squareform``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([0.0, 1.0, 5.0]).reshape(3, 1, 1, 1))
    >>> lv.clustering.condensed(lv.clustering.distances(stack)).values
    array([1., 5., 4.])
    """
    n = _side(matrix, "condensed")
    return blockwise(
        partial(_condensed, op="condensed"), matrix, core=tuple(str(d) for d in matrix.dims),
        out=("pair",), sizes={"pair": comb(n, 2)}, dtype=matrix.dtype, scratch=40,
        title="condensed",
    )  # fmt: skip


def _side(matrix: xr.DataArray, op: str) -> int:
    """Return the length of a square matrix; raise LabelError for other shapes."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise LabelError(
            f"{op}: matrix must be a square distance matrix, got {dict(matrix.sizes)}; make one "
            f"with clustering.distances"
        )
    return int(matrix.shape[0])


def _condensed(matrix: Any, *, op: str) -> Any:
    fault = linkage_kernels.distance_matrix_fault(matrix)
    if fault:
        raise LabelError(
            f"{op}: matrix must be finite, symmetric and 0 on its diagonal, got {fault}; make "
            f"one with clustering.distances"
        )
    return linkage_kernels.condensed(matrix)


@operation(dims={"matrix": (("pair",), ("k", "k_other"))})
def linkage(matrix: xr.DataArray, method: Method = "average") -> xr.Dataset:
    """Tree of clusters, merged pair by pair, from distances.

    A square matrix is read as distances; scipy would read it as observations.

    Parameters
    ----------
    matrix
        (k, k_other), square, as ``distances`` returns it, or (pair,), condensed.
    method
        How the distance between clusters is defined: ``"single"``, ``"complete"``, ``"average"``,
        ``"weighted"``, or, for Euclidean distances alone, ``"centroid"``, ``"median"``, ``"ward"``.
        With another metric these three give a UserWarning.

    Returns
    -------
    xarray.Dataset
        ``tree`` (merge, column), float64: the clusters ``left`` and ``right`` that merge, the
        ``distance`` between them, and the ``size`` of the new cluster. Its values are scipy's
        linkage matrix. Coordinates along k are kept.

    Raises
    ------
    LabelError
        If the matrix is neither square nor condensed or has fewer than two volumes; when it is
        computed, if it is no distance matrix.

    References
    ----------
    Müllner, D. (2011), Modern hierarchical, agglomerative clustering algorithms, arXiv:1109.2378;
    ``scipy.cluster.hierarchy.linkage``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([0.0, 1.0, 5.0]).reshape(3, 1, 1, 1))
    >>> lv.clustering.linkage(lv.clustering.distances(stack)).tree.values
    array([[0. , 1. , 1. , 2. ],
           [2. , 3. , 4.5, 3. ]])
    """
    metric = matrix.attrs.get("metric", "euclidean")
    if method in CENTRE_METHODS and metric != "euclidean":
        warnings.warn(
            f"linkage: method={method!r} must have Euclidean distances, got those of "
            f"{metric=}; pass method='average', or distances(metric='euclidean')",
            UserWarning,
            stacklevel=2,
        )
    n = _volumes_of_condensed(matrix) if matrix.ndim == 1 else _side(matrix, "linkage")
    if n < 2:
        raise LabelError(
            f"linkage: matrix must be of two volumes or more, got {n}; add volumes to the stack"
        )
    tree = blockwise(
        partial(_linked, method=method), matrix, core=tuple(str(d) for d in matrix.dims),
        out=("merge", "column"), sizes={"merge": n - 1, "column": 4}, dtype=np.dtype(np.float64),
        scratch=40, title="linkage",
    )  # fmt: skip
    tree.attrs = with_units(matrix, 0)
    unclashing = matrix.drop_vars(("tree", "merge", "column"), errors="ignore")
    coords = _coords_along_k(unclashing) | {"column": list(COLUMNS)}
    return xr.Dataset({"tree": tree.rename("tree")}).assign_coords(coords)


def _volumes_of_condensed(matrix: xr.DataArray) -> int:
    """Return the number of volumes of a condensed matrix."""
    size = matrix.sizes[matrix.dims[0]]
    n = (1 + isqrt(1 + 8 * size)) // 2
    if comb(n, 2) != size:
        raise LabelError(
            f"linkage: matrix must have n (n - 1) / 2 distances if it is condensed, got {size}; "
            f"pass the square matrix"
        )
    return n


def _linked(matrix: Any, *, method: str) -> Any:
    square = linkage_kernels.square(matrix) if matrix.ndim == 1 else matrix
    return linkage_kernels.linkage(_condensed(square, op="linkage"), method=method)


@operation(dims={"tree": (("merge", "column"),)}, unbounded=("distance",))
def clusters(
    tree: xr.Dataset | xr.DataArray, *, n: int | None = None, distance: float | None = None
) -> xr.DataArray:
    """Cluster of every particle, numbered from 0 in the order of their first particles: (k,).

    Parameters
    ----------
    tree
        A tree as ``linkage`` returns it, or its array (merge, column).
    n
        Number of clusters, 1 to k; fewer result where distances of merges are equal.
    distance
        Instead of ``n``, the largest distance of merges within a cluster, in the unit of the
        distances, 0 or more.

    Returns
    -------
    xarray.DataArray
        (k,), int64, with the coordinates along k of the tree.

    Raises
    ------
    LabelError
        If ``tree`` is no tree, if not exactly one of ``n`` and ``distance`` is given, or if one
        of them is out of its range.

    References
    ----------
    ``scipy.cluster.hierarchy.fcluster``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([0.0, 9.0, 1.0, 8.0]).reshape(4, 1, 1, 1))
    >>> tree = lv.clustering.linkage(lv.clustering.distances(stack))
    >>> lv.clustering.clusters(tree, n=2).values
    array([0, 1, 0, 1])
    """
    rows = _tree_rows(tree)
    leaves = rows.shape[0] + 1
    threshold, criterion = _cut(n, distance, leaves)
    numbers = blockwise(
        partial(linkage_kernels.cluster_labels, criterion=criterion, threshold=threshold), rows,
        core=tuple(str(d) for d in rows.dims), out=(STACK,), sizes={STACK: leaves},
        dtype=np.dtype(np.int64), scratch=64, title="clusters",
    )  # fmt: skip
    return numbers.assign_coords(_coords_along_k(tree)).rename("cluster")


def _tree_rows(tree: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return the array (merge, column) of a tree."""
    if isinstance(tree, xr.Dataset) and "tree" not in tree:
        raise LabelError(
            f"clusters: tree must be a Dataset with 'tree', got one of {list(tree)}; make one "
            f"with clustering.linkage"
        )
    rows = tree["tree"] if isinstance(tree, xr.Dataset) else tree
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise LabelError(
            f"clusters: tree must be (merge, 4), got {dict(rows.sizes)}; make one with "
            f"clustering.linkage"
        )
    return rows


def _cut(n: int | None, distance: float | None, leaves: int) -> tuple[float, str]:
    """Return where a tree is cut, as scipy's threshold and criterion."""
    if n is not None and distance is None:
        if not 1 <= n <= leaves:
            raise LabelError(
                f"clusters: n must be 1 to {leaves} for {leaves} particles, got {n}; choose fewer"
            )
        return float(n), "maxclust"
    if distance is None or n is not None:
        raise LabelError(
            f"clusters: n or distance must be given, one of the two, got {n=} and {distance=}; "
            f"pass either"
        )
    if not distance >= 0:
        raise LabelError(
            f"clusters: distance must be 0 or more, got {distance}; use the unit of the distances"
        )
    return float(distance), "distance"


@operation
def components(stack: xr.DataArray, n: int = 8, *, mask: xr.DataArray | None = None) -> xr.Dataset:
    """Principal components of the volumes along k, with the variance that each explains.

    The result is exact, in float64. If there are no more volumes than voxels, it is computed from
    the distances between volumes (read as ``distances`` reads them) and one more read; otherwise
    from the products between voxels, in two reads.

    Parameters
    ----------
    stack
        Stack with dim k, of two volumes or more.
    n
        Number of components, at most the number of volumes less one, and that of voxels.
    mask
        Boolean, over any dims of a volume: only voxels where it is True count.

    Returns
    -------
    xarray.Dataset
        ``scores`` (k, component), in the unit of the stack; ``volumes`` (component, ...), of norm
        1, 0 outside the mask; ``average`` (...); ``variance`` (component) of the scores, divided
        by k - 1; ``ratio`` (component), its share of the variance of all voxels together.
        ``average + scores @ volumes`` is the best approximation of the stack by n components. The
        largest score of every component is positive; components beyond the rank of the stack are 0.

    Raises
    ------
    LabelError
        If there is no dim k, if ``n`` is out of its range, or if more than 8192 voxels are
        outnumbered by volumes.

    References
    ----------
    Jolliffe, I. T. (2002), Principal Component Analysis, 2nd ed., Springer, section 3.5.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([[1.0, 1], [3, 1], [5, 1]]).reshape(3, 1, 1, 2))
    >>> pca = lv.clustering.components(stack, 1)
    >>> pca.scores.values.ravel().round(3) + 0.0, pca.variance.item(), pca.ratio.item()
    (array([ 2.,  0., -2.]), 4.0, 1.0)
    """
    if STACK not in stack.dims:
        raise LabelError(
            f"components: stack must have volumes along {STACK!r}, got the dims {stack.dims}; "
            f"rename a dim"
        )
    require_new_dim(stack, "component", "components")
    count = stack.sizes[STACK]
    voxels = stack.size // max(1, count)
    max_components = min(count - 1, voxels)
    if not 1 <= n <= max_components:
        raise LabelError(
            f"components: n must be 1 to {max_components} for {count} volumes of {voxels} voxels, "
            f"got {n}; choose another n, or add volumes"
        )
    arrays = principal_components(stack, n, _over_volume(mask, stack, "components"))
    powers = {"scores": 1, "volumes": 0, "average": 1, "variance": 2, "ratio": 0}
    dtype = float_of(stack.dtype)
    pca = xr.Dataset({name: arrays[name].astype(dtype) for name in powers})
    for name, power in powers.items():
        pca[name].attrs = with_units(stack, power)
    return pca.assign_coords(stack.drop_vars((*powers, "component"), errors="ignore").coords)


def _coords_along_k(array: xr.DataArray | xr.Dataset) -> dict[Any, Any]:
    """Return the coordinates that describe particles."""
    return {name: c for name, c in array.coords.items() if c.dims == (STACK,)}

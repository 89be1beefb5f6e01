"""Particles grouped by how alike they are: distances, trees, clusters, principal components.

A volume is everything beside ``k``: its channels count together, and ``mask`` says which voxels
count. Nothing here holds more than a share of the stack; ``explain`` tells how often each volume
is read. A NaN makes every distance of its volume NaN, and all components.
"""

import warnings
from functools import partial
from math import comb, isqrt
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.linalg import linkage as linkage_kernels
from lazyvol.kernels.linalg import pairwise_distances
from lazyvol.ops._covariance import paired, require_free, require_mask, require_real
from lazyvol.ops.clustering._pca import decomposed
from lazyvol.plan.pairwise import pairs
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import STACK, float_of, require_same_grid, require_stack, with_units

__all__ = ["clusters", "components", "condensed", "distances", "linkage"]

Metric = Literal["euclidean", "cosine", "ncc", "jaccard", "tanimoto"]
Method = Literal["single", "complete", "average", "weighted", "centroid", "median", "ward"]
OTHER = f"{STACK}_other"
#: methods that are about centres of clusters, which only Euclidean distances tell of
EUCLIDEAN = ("centroid", "median", "ward")
COLUMNS = ("left", "right", "distance", "size")


@operation(siblings=("b",))
def distances(
    a: xr.DataArray,
    b: xr.DataArray | None = None,
    *,
    metric: Metric = "euclidean",
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Distance of every volume from every other, of its own stack or of ``b``: (k, k_other).

    Volumes meet in strips of rows that stay in memory while all others pass: n volumes in strips
    of b are read (n / b + 1) / 2 times, once where all fit. Sums are in float64. What is nearly
    alike is taken by its differences, so that small distances keep their digits, and equal
    volumes are 0 apart.

    Parameters
    ----------
    a
        Stack with dim k.
    b
        Another one of the same volumes (dims, lengths, positions); ``a`` itself by default.
    metric
        ``"euclidean"``, in the stack's unit; ``"cosine"``, 1 - cosine of the angle; ``"ncc"``,
        1 - Pearson's correlation; ``"jaccard"`` of boolean volumes, the share of voxels set in
        one alone among those set in either; ``"tanimoto"``, the same for numbers:
        1 - x.y / (x.x + y.y - x.y).
    mask
        Boolean, over any dims of a volume: only voxels where it is True count.

    Returns
    -------
    xarray.DataArray
        (k, k_other), float; symmetric with zeros on its diagonal for a stack against itself.
        ``attrs["metric"]`` names the metric, through ``condensed``, files and ``linkage``.
        An angle with an empty volume, or a correlation with a constant one, is NaN.

    Raises
    ------
    LabelError
        If a stack has no k, volumes differ, or the metric does not suit the values.

    References
    ----------
    Rogers, D. J. and Tanimoto, T. T. (1960), Science 132, 1115-1118.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([[0.0, 0], [3, 4], [0, 2]]).reshape(3, 1, 1, 2))
    >>> lv.clustering.distances(stack).values.round(3)
    array([[0.   , 5.   , 2.   ],
           [5.   , 0.   , 3.606],
           [2.   , 3.606, 0.   ]])
    """
    _require_metric(metric)
    for stack in (a,) if b is None else (a, b):
        _require_volumes(stack, metric)
    dims = tuple(str(d) for d in a.dims if d != STACK)
    if b is not None:
        b = _same_volumes(a, b)
    kinds = [float_of(s.dtype) for s in ((a,) if b is None else (a, b))]
    found = pairs(
        paired(metric, np.result_type(*kinds)), a, b, dim=STACK, mask=_spread(mask, a, dims),
        title=f"{metric} distances",
    )  # fmt: skip
    if metric != "euclidean":
        found.attrs = {str(n): v for n, v in with_units(a, 0).items()}
    found.attrs["metric"] = metric
    return found


def _require_metric(metric: str) -> None:
    if metric not in pairwise_distances.METRICS:
        raise LabelError(f"metric is one of {pairwise_distances.METRICS}, got {metric!r}")


def _require_volumes(stack: xr.DataArray, metric: str) -> None:
    if STACK not in require_real(stack).dims:
        raise LabelError(f"distances are between volumes along {STACK!r}, got dims {stack.dims}")
    require_free(stack, OTHER)
    if metric == "jaccard" and stack.dtype != bool:
        raise LabelError(
            f"jaccard compares boolean volumes, got dtype={stack.dtype}; compare first, e.g. "
            f"stack > 0, or take 'tanimoto'"
        )
    if metric == "ncc" and stack.size == stack.sizes[STACK]:
        raise LabelError(
            f"distances: volumes must have two voxels or more for metric='ncc', got "
            f"{dict(stack.sizes)}; take metric='euclidean'"
        )


def _same_volumes(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """``b`` where its volumes are those of ``a``; their number may differ."""
    if set(a.dims) != set(b.dims):
        raise LabelError(f"both stacks have the same dims, got {a.dims} and {b.dims}")
    require_same_grid(a.isel({STACK: 0}, drop=True), b.isel({STACK: 0}, drop=True))
    return b


def _spread(
    mask: xr.DataArray | None, stack: xr.DataArray, dims: tuple[str, ...]
) -> xr.DataArray | None:
    """A mask with all dims of a volume, as the matrix product needs it."""
    if mask is None:
        return None
    volume = stack.isel({STACK: 0}, drop=True)
    require_same_grid(volume, require_mask(mask, dims))
    missing = {d: stack.sizes[d] for d in dims if d not in mask.dims}
    return mask.drop_vars(list(mask.coords)).expand_dims(missing)


@operation(dims={"matrix": (("k", "k_other"),)})
def condensed(matrix: xr.DataArray) -> xr.DataArray:
    """Half of a distance matrix, above its diagonal, row after row: (pair,).

    Parameters
    ----------
    matrix
        Square, symmetric, finite, with a zero diagonal; what ``distances`` gives. It is held
        whole, and checked when it is made.

    Returns
    -------
    xarray.DataArray
        n (n - 1) / 2 distances, as ``scipy.spatial.distance.squareform`` orders them.

    Raises
    ------
    LabelError
        If the matrix is not one of distances.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([0.0, 1.0, 5.0]).reshape(3, 1, 1, 1))
    >>> lv.clustering.condensed(lv.clustering.distances(stack)).values
    array([1., 5., 4.])
    """
    n = _side(matrix)
    return blockwise(
        _condensed, matrix, core=tuple(str(d) for d in matrix.dims), out=("pair",),
        sizes={"pair": comb(n, 2)}, dtype=matrix.dtype, scratch=40, title="condensed",
    )  # fmt: skip


def _side(matrix: xr.DataArray) -> int:
    if require_real(matrix).ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise LabelError(
            f"a distance matrix is square, got {dict(matrix.sizes)}; make one with "
            f"clustering.distances"
        )
    return int(matrix.shape[0])


def _condensed(matrix: Any) -> Any:
    fault = linkage_kernels.faults(matrix)
    if fault:
        raise LabelError(
            f"a distance matrix is finite, symmetric and 0 on its diagonal; {fault}; make one "
            f"with clustering.distances"
        )
    return linkage_kernels.condensed(matrix)


@operation(dims={"matrix": (("pair",), ("k", "k_other"))})
def linkage(matrix: xr.DataArray, method: Method = "average") -> xr.Dataset:
    """Tree of clusters, merged pair by pair, out of distances.

    A square matrix is taken as distances, never as a table of observations, which is what scipy
    makes of it.

    Parameters
    ----------
    matrix
        Square (k, k_other) as ``distances`` gives it, or condensed (pair,).
    method
        ``"single"``, ``"complete"``, ``"average"``, ``"weighted"``, or, of Euclidean distances
        alone, ``"centroid"``, ``"median"``, ``"ward"``: of others they mean nothing, and a
        UserWarning names the metric.

    Returns
    -------
    xarray.Dataset
        ``tree`` (merge, column), float64: the two clusters ``left`` and ``right`` that meet, at
        which ``distance``, and the ``size`` of what they make; its values are scipy's linkage
        matrix. What is known of each particle along k stays beside it.

    Raises
    ------
    LabelError
        If the matrix is not one of distances, or its length not one of a condensed matrix.

    References
    ----------
    Müllner, D. (2011), Modern hierarchical, agglomerative clustering algorithms, arXiv:1109.2378.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([0.0, 1.0, 5.0]).reshape(3, 1, 1, 1))
    >>> lv.clustering.linkage(lv.clustering.distances(stack)).tree.values
    array([[0. , 1. , 1. , 2. ],
           [2. , 3. , 4.5, 3. ]])
    """
    if method not in get_args(Method):
        raise LabelError(f"method is one of {get_args(Method)}, got {method!r}")
    require_real(matrix)
    metric = matrix.attrs.get("metric", "euclidean")
    if method in EUCLIDEAN and metric != "euclidean":
        warnings.warn(
            f"linkage: method={method!r} must have Euclidean distances, got those of "
            f"{metric=}; pass method='average', or distances(metric='euclidean')",
            UserWarning,
            stacklevel=2,
        )
    n = _leaves(matrix) if matrix.ndim == 1 else _side(matrix)
    if n < 2:
        raise LabelError(f"a tree has two leaves or more, got {n} volumes")
    found = blockwise(
        partial(_linked, method=method), matrix, core=tuple(str(d) for d in matrix.dims),
        out=("merge", "column"), sizes={"merge": n - 1, "column": 4}, dtype=np.dtype(np.float64),
        scratch=40, title="linkage",
    )  # fmt: skip
    found.attrs = {str(name): v for name, v in with_units(matrix, 0).items()}
    facts: dict[Any, Any] = {c: v for c, v in matrix.coords.items() if v.dims == (STACK,)}
    return xr.Dataset({"tree": found.rename("tree")}).assign_coords(
        facts | {"column": list(COLUMNS)}
    )


def _leaves(values: xr.DataArray) -> int:
    """Number of volumes behind a condensed matrix."""
    size = values.sizes[values.dims[0]]
    n = (1 + isqrt(1 + 8 * size)) // 2
    if comb(n, 2) != size:
        raise LabelError(
            f"a condensed matrix of n volumes has n (n - 1) / 2 distances, got {size}; "
            f"give the square matrix"
        )
    return n


def _linked(matrix: Any, *, method: str) -> Any:
    values = _condensed(linkage_kernels.square(matrix) if matrix.ndim == 1 else matrix)
    return linkage_kernels.linkage(values, method=method)


@operation(dims={"tree": (("merge", "column"),)}, unbounded=("distance",))
def clusters(
    tree: xr.Dataset | xr.DataArray, *, n: int | None = None, distance: float | None = None
) -> xr.DataArray:
    """Cluster of every particle, numbered from 0 in the order of their first particles: (k,).

    Parameters
    ----------
    tree
        What ``linkage`` gives, or its array (merge, column).
    n
        Number of clusters; fewer where merges at the same distance cannot be told apart.
    distance
        Instead of ``n``: clusters whose merges lie no higher.

    Returns
    -------
    xarray.DataArray
        int64, with the coordinates along k that the tree has.

    Raises
    ------
    LabelError
        If not exactly one of ``n`` and ``distance`` is given, or ``n`` is not among 1 ... k.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([0.0, 9.0, 1.0, 8.0]).reshape(4, 1, 1, 1))
    >>> tree = lv.clustering.linkage(lv.clustering.distances(stack))
    >>> lv.clustering.clusters(tree, n=2).values
    array([0, 1, 0, 1])
    """
    if isinstance(tree, xr.Dataset) and "tree" not in tree:
        raise LabelError(f"a Dataset with a tree is what linkage gives, got {list(tree)}")
    array = tree["tree"] if isinstance(tree, xr.Dataset) else require_stack(tree)
    if array.ndim != 2 or array.shape[1] != 4:
        raise LabelError(f"a tree is (merge, 4), got {dict(array.sizes)}; make one with linkage")
    leaves = array.shape[0] + 1
    if (n is None) == (distance is None):
        raise LabelError(f"clusters are cut by n or by distance, got {n=} and {distance=}")
    if n is not None and n % 1:
        raise OptionError(f"clusters: n must be a whole number, got {n!r}; round it")
    if n is not None and not 1 <= n <= leaves:
        raise LabelError(f"{leaves} particles make 1 to {leaves} clusters, got {n=}")
    if distance is not None and not distance >= 0:
        raise LabelError(f"a distance is 0 or more, got {distance=}")
    amount, criterion = (n, "maxclust") if n is not None else (distance, "distance")
    found = blockwise(
        partial(linkage_kernels.labels, criterion=criterion, amount=float(amount or 0)), array,
        core=tuple(str(d) for d in array.dims), out=(STACK,), sizes={STACK: leaves},
        dtype=np.dtype(np.int64), scratch=64, title="clusters",
    )  # fmt: skip
    facts = {c: v for c, v in tree.coords.items() if v.dims == (STACK,)}
    return found.assign_coords(facts).rename("cluster")


@operation
def components(stack: xr.DataArray, n: int = 8, *, mask: xr.DataArray | None = None) -> xr.Dataset:
    """Principal components along k: what the volumes differ by, and how much of it each has.

    Exact, in float64. Where there are no more volumes than voxels it goes through the distances
    between them (whose reading see there) and one read more; otherwise through the products of
    the voxels, in two reads.

    Parameters
    ----------
    stack
        Stack with dim k, of two volumes or more.
    n
        Number of components, at most one less than the volumes and as many as voxels.
    mask
        Boolean, over any dims of a volume: only voxels where it is True count.

    Returns
    -------
    xarray.Dataset
        ``scores`` (k, component), in the stack's unit; ``volumes`` (component, ...), of norm 1,
        0 outside the mask; ``average`` (...); ``variance`` (component) of the scores (by k - 1),
        and ``ratio`` of it to that of all voxels together. ``average + scores @ volumes`` is the
        nearest to the stack that n components come. The largest score of every component is
        positive; components beyond the rank of the stack are 0.

    Raises
    ------
    LabelError
        If there is no k, or not as many components as asked for.

    References
    ----------
    Jolliffe, I. T. (2002), Principal Component Analysis, 2nd ed., Springer, section 3.5.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([[1.0, 1], [3, 1], [5, 1]]).reshape(3, 1, 1, 2))
    >>> found = lv.clustering.components(stack, 1)
    >>> found.scores.values.ravel().round(3) + 0.0, found.variance.item(), found.ratio.item()
    (array([ 2.,  0., -2.]), 4.0, 1.0)
    """
    if STACK not in require_real(stack).dims:
        raise LabelError(f"components are along {STACK!r}, got dims {stack.dims}")
    require_free(stack, "component")
    dims = tuple(str(d) for d in stack.dims if d != STACK)
    count, voxels = stack.sizes[STACK], stack.size // max(1, stack.sizes[STACK])
    most = min(count - 1, voxels)
    if n % 1:
        raise OptionError(f"components: n must be a whole number, got {n!r}; round it")
    n = int(n) if 1 <= n <= most else n
    if not 1 <= n <= most:
        raise LabelError(
            f"{count} volumes of {voxels} voxels have 1 to {most} components, got {n=}"
        )
    flags = _spread(mask, stack, dims)
    found = decomposed(stack, n, flags)
    powers = {"scores": 1, "volumes": 0, "average": 1, "variance": 2, "ratio": 0}
    made = xr.Dataset({name: found[name].astype(float_of(stack.dtype)) for name in powers})
    for name, power in powers.items():
        made[name].attrs = {str(a): v for a, v in with_units(stack, power).items()}
    facts = {c: v for c, v in stack.coords.items() if set(v.dims) <= set(stack.dims)}
    return made.assign_coords(facts)

"""Hierarchical clustering of distance matrices by scipy, with checks of the matrix."""

from typing import Any

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

Array = np.ndarray[Any, np.dtype[Any]]

#: asymmetry, or deviation of the diagonal from 0, that counts as rounding: this many units in the
#: last place of the matrix's type, relative to its largest value
ROUNDING = 64


def distance_matrix_fault(matrix: Array) -> str | None:
    """Return the reason, as text, why a square matrix is no distance matrix; None if it is one."""
    wide = matrix.astype(np.float64)
    if not np.isfinite(wide).all():
        row, column = np.argwhere(~np.isfinite(wide))[0]
        return f"{wide[row, column]} at ({row}, {column})"
    if wide.size and wide.min() < 0:
        row, column = np.unravel_index(wide.argmin(), wide.shape)
        return f"{wide[row, column]:g} at ({row}, {column})"
    dtype = matrix.dtype if matrix.dtype.kind == "f" else np.float64
    tolerance = ROUNDING * float(np.finfo(dtype).eps) * float(wide.max(initial=0.0))
    diagonal = np.abs(np.diagonal(wide))
    if diagonal.max(initial=0.0) > tolerance:
        return f"{diagonal.max():g} at {diagonal.argmax()} on the diagonal"
    asymmetry = np.abs(wide - wide.T)
    if asymmetry.max(initial=0.0) > tolerance:
        row, column = np.unravel_index(asymmetry.argmax(), asymmetry.shape)
        upper, lower = wide[row, column], wide[column, row]
        return f"{upper:g} at ({row}, {column}) but {lower:g} at ({column}, {row})"
    return None


def condensed(matrix: Array) -> Array:
    """Return the part of a square matrix above its diagonal, row after row."""
    return np.asarray(matrix[np.triu_indices(len(matrix), 1)])


def square(distances: Array) -> Array:
    """Return condensed distances as a square matrix with a zero diagonal."""
    return np.asarray(squareform(distances, checks=False))


def linkage(distances: Array, *, method: str) -> Array:
    """Return the linkage matrix of condensed distances, as ``scipy.cluster.hierarchy`` does."""
    return np.asarray(hierarchy.linkage(distances.astype(np.float64), method))


def cluster_labels(tree: Array, *, threshold: float, criterion: str) -> Array:
    """Return the cluster of every leaf, numbered from 0 in the order of their first leaves."""
    clusters = hierarchy.fcluster(tree, threshold, criterion)
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)
